"""Other ways to feed a network, and decoding alone: what ours is measured against.

All take the files of a prepared folder and give float32 [n, 3, 224, 224]; `decode` stops at the
pixels. Libraries that may not be installed are imported where they are used.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from alexnet_dali.pipeline.crops import RandomResizedCrop
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.draws import Draws

RESIZE, CROP = 256, 224


@dataclass(frozen=True)
class Feeding:
    """What to feed, and with what.

    DALI's baselines decode on a GPU where `device` is cuda, the others always on the CPU.
    `scratch` is a folder for files that a baseline makes of the images before it is timed.
    """

    dataset: Dataset
    device: torch.device
    batch_size: int
    num_threads: int
    recipe: str = "alexnet"
    scratch: Path | None = None


def decode(work: Feeding) -> Iterator[object]:
    """Read and decode whole images, and nothing else: the limit for all that read JPEG files."""
    return _dali(work, lambda pixels: pixels)


def naive(work: Feeding) -> Iterator[object]:
    """The graph that one would write first, of DALI's own operators and random numbers."""

    def define(pixels: DataNode) -> DataNode:
        return fn.crop_mirror_normalize(
            fn.resize(
                pixels,
                resize_shorter=float(RESIZE),
                interp_type=types.INTERP_LINEAR,
                antialias=True,
            ),
            crop=(CROP, CROP),
            crop_pos_x=fn.random.uniform(range=(0.0, 1.0)),
            crop_pos_y=fn.random.uniform(range=(0.0, 1.0)),
            mirror=fn.random.coin_flip(),
            mean=work.dataset.stats.channel_mean.tolist(),
            dtype=types.FLOAT,
            output_layout="CHW",
        )

    return (torch.from_dlpack(output.as_tensor()) for output in _dali(work, define))


def dali_example(work: Feeding) -> Iterator[object]:
    """The graph of DALI's own examples for ResNet-50."""
    stats = work.dataset.stats

    def define(encoded: DataNode) -> DataNode:
        pixels = fn.decoders.image_random_crop(
            encoded,
            device="mixed" if work.device.type == "cuda" else "cpu",
            output_type=types.RGB,
            random_aspect_ratio=[3 / 4, 4 / 3],
            random_area=[0.08, 1.0],
            num_attempts=100,
        )
        pixels = fn.resize(
            pixels, size=[CROP, CROP], interp_type=types.INTERP_LINEAR, antialias=True
        )
        return fn.crop_mirror_normalize(
            pixels,
            mean=stats.channel_mean.tolist(),
            std=stats.channel_std().tolist(),
            mirror=fn.random.coin_flip(),
            dtype=types.FLOAT,
            output_layout="CHW",
        )

    return (torch.from_dlpack(output.as_tensor()) for output in _dali_files(work, define))


def torchvision_pil(work: Feeding) -> Iterator[object]:
    """torchvision's transforms on Pillow images, in a DataLoader's worker processes."""
    from torchvision.transforms import v2

    transform = v2.Compose([*_geometry(work), v2.PILToTensor(), *_numbers(work)])
    return _data_loader(work, lambda path: transform(Image.open(path).convert("RGB")))


def torchvision_tensor(work: Feeding) -> Iterator[object]:
    """torchvision's transforms on tensors, with antialiasing, in a DataLoader's workers."""
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    transform = v2.Compose([*_geometry(work), *_numbers(work)])
    return _data_loader(work, lambda path: transform(decode_image(path, mode=ImageReadMode.RGB)))


def _geometry(work: Feeding) -> list[Any]:
    """torchvision's crop and flip of the recipe."""
    from torchvision.transforms import v2

    if work.recipe == "resnet":
        return [v2.RandomResizedCrop(CROP, antialias=True), v2.RandomHorizontalFlip()]
    return [v2.Resize(RESIZE, antialias=True), v2.RandomCrop(CROP), v2.RandomHorizontalFlip()]


def _numbers(work: Feeding) -> list[Any]:
    """torchvision's normalisation of the recipe."""
    from torchvision.transforms import v2

    stats = work.dataset.stats
    std = stats.channel_std().tolist() if work.recipe == "resnet" else [1.0] * 3
    return [v2.ToDtype(torch.float32), v2.Normalize(stats.channel_mean.tolist(), std)]


def opencv(work: Feeding) -> Iterator[object]:
    """OpenCV, whose linear resize has no antialiasing, in a DataLoader's worker processes."""
    import cv2

    cv2.setNumThreads(1)
    mean = work.dataset.stats.channel_mean.astype(np.float32)

    def load(path: str) -> torch.Tensor:
        read: Any = cv2.imread(path)
        pixels = cv2.cvtColor(read, cv2.COLOR_BGR2RGB)
        scale = RESIZE / min(pixels.shape[:2])
        height, width = (max(RESIZE, round(side * scale)) for side in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        top, left = (int(torch.randint(side - CROP + 1, ())) for side in (height, width))
        pixels = pixels[top : top + CROP, left : left + CROP]
        if torch.rand(()) < 0.5:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray((pixels - mean).transpose(2, 0, 1)))

    return _data_loader(work, load)


def ffcv(work: Feeding) -> Iterator[object]:
    """FFCV, from a file of its own with the images as JPEG of quality 90, through numba."""
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage

    mean, std = work.dataset.stats.channel_mean, work.dataset.stats.channel_std()
    steps = [
        RandomResizedCropRGBImageDecoder((CROP, CROP)),
        RandomHorizontalFlip(),
        NormalizeImage(mean.astype(np.float32), std.astype(np.float32), np.dtype(np.float32)),
        ToTensor(),
        ToTorchImage(),
    ]
    loader = Loader(
        str(_ffcv_file(work)),
        work.batch_size,
        num_workers=work.num_threads,
        order=OrderOption.RANDOM,
        pipelines={"image": steps, "label": None},
        drop_last=True,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def _ffcv_file(work: Feeding) -> Path:
    """The images as FFCV keeps them; made in the first round."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    assert work.scratch is not None
    images = work.dataset.train
    path = work.scratch / f"{work.dataset.fingerprint}.beton"
    if not path.exists():
        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90), "label": IntField()}
        pairs = _Files(
            [images.path(index) for index in range(len(images))],
            lambda name: (Image.open(name).convert("RGB"), 0),
            len(images),
        )
        DatasetWriter(str(path), fields, num_workers=work.num_threads).from_indexed_dataset(pairs)
    return path


def spdl(work: Feeding) -> Iterator[object]:
    """SPDL, whose threads decode, crop and resize with FFmpeg."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    stats, places = work.dataset.stats, itertools.count()
    mean = torch.from_numpy(stats.channel_mean.astype(np.float32))[:, None, None]
    std = torch.from_numpy(stats.channel_std().astype(np.float32))[:, None, None]
    crops = RandomResizedCrop(CROP)

    def load(path: str) -> Any:
        packets = spdl.io.demux_image(path)
        draws = Draws(0, 0, np.array([next(places)]))
        boxes, mirrored = crops.draw(draws, np.array([[packets.height, packets.width]], np.int32))
        top, left, bottom, right = boxes[0].astype(int).tolist()
        steps = [
            f"crop={right - left}:{bottom - top}:{left}:{top}",
            f"scale={CROP}:{CROP}:flags=bilinear",
            *(["hflip"] if mirrored[0] else []),
            "format=rgb24",
        ]
        return spdl.io.decode_packets(packets, filter_desc=",".join(steps))

    def batch(frames: list[Any]) -> torch.Tensor:
        pixels = spdl.io.to_torch(spdl.io.convert_frames(frames)).permute(0, 3, 1, 2)
        return (pixels.to(torch.float32, memory_format=torch.contiguous_format) - mean) / std

    pipeline = (
        PipelineBuilder()
        .add_source(itertools.cycle(_shuffled(work.dataset)))
        .pipe(load, concurrency=work.num_threads)
        .aggregate(work.batch_size)
        .pipe(batch)
        .add_sink(2)
        .build(num_threads=work.num_threads)
    )
    pipeline.start()
    return iter(pipeline)


def _dali(work: Feeding, define: Callable[[DataNode], DataNode]) -> Iterator[Any]:
    """A graph of whole images."""
    device = "mixed" if work.device.type == "cuda" else "cpu"
    return _dali_files(
        work,
        lambda encoded: define(fn.decoders.image(encoded, device=device, output_type=types.RGB)),
    )


def _dali_files(work: Feeding, define: Callable[[DataNode], DataNode]) -> Iterator[Any]:
    """A graph of encoded files."""
    files = itertools.cycle(
        np.frombuffer(os.fsencode(path), np.uint8) for path in _shuffled(work.dataset)
    )
    on_gpu, count = work.device.type == "cuda", work.batch_size
    pipeline = Pipeline(
        batch_size=count,
        num_threads=work.num_threads,
        device_id=0 if on_gpu else None,
        exec_dynamic=True,
        seed=0,
    )
    with pipeline:
        encoded = fn.io.file.read(fn.external_source(lambda: [next(files) for _ in range(count)]))
        pipeline.set_outputs(define(encoded))
    while True:
        yield pipeline.run()[0]


class _Files(torch.utils.data.Dataset):
    """Files in an order, over and over."""

    def __init__(
        self, paths: Sequence[str], load: Callable[[str], Any], length: int = 1_000_000
    ) -> None:
        self._paths, self._load, self._length = paths, load, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return self._load(self._paths[index % len(self._paths)])


def _data_loader(work: Feeding, load: Callable[[str], torch.Tensor]) -> Iterator[object]:
    files = _Files(_shuffled(work.dataset), load)
    return iter(torch.utils.data.DataLoader(files, work.batch_size, num_workers=work.num_threads))


def _shuffled(dataset: Dataset) -> list[str]:
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(len(dataset.train))
    return [dataset.train.path(index) for index in order]
