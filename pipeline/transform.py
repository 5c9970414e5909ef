"""What numbers a network gets: mean and deviation, lighting, type and layout."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.crops import Crops
from alexnet_dali.pipeline.stats import PixelStats

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Transform:
    """What happens to the pixels of every crop, `size` pixels square.

    `mean_image` [size, size, 3] and `mean` [3] are subtracted. Lighting adds `directions` [3, 3]
    times three normal draws to every pixel (section 4.1). Images that get lighting are then
    multiplied by `lit_gain` (2012 code). The rest is divided by `std` [3]. `dtype` is "float32",
    "float16" or "uint8"; `channels_last` is torch's memory format.
    """

    size: int
    mean_image: NDArray[np.float32] | None
    directions: NDArray[np.float64]
    lit_gain: float = 1.0
    mean: Colour = (0.0, 0.0, 0.0)
    std: Colour = (1.0, 1.0, 1.0)
    dtype: str = "float32"
    channels_last: bool = False


@dataclass(frozen=True)
class Pixels:
    """RGB pixels 0..255, less `mean`, divided by `std`.

    `mean` is "channel" or "image" of the training images, or three numbers; `std` is "channel" or
    three numbers. Both are in grey levels. `dtype` is "float32", "float16" or "uint8", which keeps
    pixels as they are, without mean and deviation. `channels_last` is torch's memory format.
    `lighting_std` adds the paper's PCA noise in training (section 4.1; the paper's is 0.1), after
    which pixels are multiplied by `lit_gain` (2012 code).
    """

    mean: str | Colour = "channel"
    std: str | Colour = "channel"
    dtype: str = "float32"
    channels_last: bool = False
    lighting_std: float = 0.0
    lit_gain: float = 1.0

    def __post_init__(self) -> None:
        """ValueError where the options do not go together."""
        for name, words in (("mean", ("channel", "image")), ("std", ("channel",))):
            value = getattr(self, name)
            if isinstance(value, str) and value in words:
                continue
            numbers = np.asarray(value) if not isinstance(value, str) else np.zeros(0)
            if numbers.shape != (3,) or not np.isfinite(numbers).all():
                expected = " or ".join(f'"{word}"' for word in words)
                raise ValueError(f"{name} is {value!r}; expected {expected} or three numbers")
            if name == "std" and not (numbers > 0).all():
                raise ValueError(f"std is {value!r}; expected three numbers above 0")
            if numbers.any() and (numbers != 1).any() and np.abs(numbers).max() <= 1:
                raise ValueError(
                    f"{name} is {value!r}; expected grey levels of 0 to 255: torchvision's numbers "
                    f"times 255, {tuple(np.round(255 * numbers, 3).tolist())}"
                )
        if self.dtype not in ("float32", "float16", "uint8"):
            raise ValueError(f'dtype is {self.dtype!r}; expected "float32", "float16" or "uint8"')
        if (
            isinstance(self.mean, str)
            and self.mean == "image"
            and (self.channels_last or self.dtype != "float32")
        ):
            raise ValueError(
                "a mean image is subtracted in float32, with the channels first; "
                'take mean="channel", or leave dtype and channels_last out'
            )
        if not self.lighting_std >= 0:
            raise ValueError(
                f"lighting_std is {self.lighting_std}; expected 0 or more, such as 0.1"
            )
        if self.dtype == "uint8" and self.lighting_std:
            raise ValueError('lighting goes with dtype "float32" or "float16", not "uint8"')

    def _has_image(self) -> bool:
        return isinstance(self.mean, str) and self.mean == "image"

    def transform(self, stats: PixelStats, crops: Crops) -> Transform:
        """For images with these statistics, shown by `crops`."""
        if self._has_image():
            image = stats.mean_at(crops.resize)
            edge = (crops.resize - crops.size) // 2
            mean_image = image[edge : edge + crops.size, edge : edge + crops.size]
        else:
            mean_image = None
        nothing, whole = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        plain = self.dtype == "uint8"
        mean = nothing if plain or self._has_image() else _colour(self.mean, stats.channel_mean)
        std = whole if plain else _colour(self.std, stats.channel_std())
        return Transform(
            crops.size,
            mean_image,
            self.lighting_std * stats.lighting_directions(),
            self.lit_gain,
            mean,
            std,
            self.dtype,
            self.channels_last,
        )


def _colour(given: str | Colour, measured: np.ndarray) -> Colour:
    red, green, blue = measured.tolist() if isinstance(given, str) else given
    return float(red), float(green), float(blue)
