"""From decoded pixels to network input: sizes, mean and lighting."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.stats import PixelStats


@dataclass(frozen=True)
class Preprocessing:
    """What happens to every image.

    The shorter side is resized to `resize`, and the crop is `crop` pixels square. `mean_image`
    [crop, crop, 3] is subtracted. Lighting adds `directions` [3, 3] times three normal draws to
    every pixel (section 4.1). Images that get lighting are then multiplied by `lit_gain` (2012
    code). Other networks subtract a `mean_colour` [3] in place of an image, divide by `std` [3],
    and take `dtype` "float32", "float16" or "uint8", in torch's memory format `channels_last` if
    wanted.
    """

    resize: int
    crop: int
    mean_image: NDArray[np.float32] | None
    directions: NDArray[np.float64]
    lit_gain: float = 1.0
    mean_colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    dtype: str = "float32"
    channels_last: bool = False

    @classmethod
    def of(
        cls,
        stats: PixelStats,
        resize: int,
        crop: int,
        mean: str = "image",
        lighting_std: float = 0.1,
        lit_gain: float = 1.0,
    ) -> "Preprocessing":
        """For images with these statistics; the defaults are the paper's.

        `mean` is "image", for each pixel, or "channel"; `lighting_std` 0 turns lighting off.
        """
        square = stats.mean_at(resize)
        if mean == "channel":
            square = np.broadcast_to(stats.channel_mean.astype(np.float32), square.shape)
        edge = (resize - crop) // 2
        centre = square[edge : edge + crop, edge : edge + crop]
        return cls(resize, crop, centre, lighting_std * stats.lighting_directions(), lit_gain)

    @classmethod
    def nothing(cls, size: int, crop: int | None = None) -> "Preprocessing":
        """Sizes alone: neither mean nor lighting."""
        crop = crop or size
        return cls(size, crop, np.zeros((crop, crop, 3), np.float32), np.zeros((3, 3)))
