"""The ways of feeding the network that tools/bench.py compares, each in a process of its own: one line of JSON.

python -m tools.bench_pipeline ours 64 30 prepared/imagenet

All show the same files, resized to a shorter side of 256, cropped to 224 and flipped at random, as float32
[n, 3, 224, 224]; `decode` stops at the pixels. Ours also has the mean image and lighting; the others subtract a mean.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from pipeline.dataset import Dataset, ImageList
from pipeline.files import resumable_folder
from pipeline.geometry import on_the_grid
from pipeline.loader import Appearance, Loader
from pipeline.memory import keep_freed_memory
from pipeline.plan import TrainingPlan
from pipeline.prepare import Preparation
from pipeline.sources import Source
from pipeline.store import StoreFormat

RESIZE, CROP = 256, 224
DEVICE_ID = 0 if torch.cuda.is_available() else None
"""The GPU that DALI's ways use where there is one; the peers stay on the CPU."""
WARM_UP = 10
"""Batches that are not timed."""


def decode(dataset: Dataset, batch_size: int, num_threads: int) -> Iterator[object]:
    """Read and decode whole images, and nothing else: the limit for everything that starts from JPEG files."""
    return _dali(dataset, batch_size, num_threads, lambda pixels: pixels)


def naive(dataset: Dataset, batch_size: int, num_threads: int) -> Iterator[object]:
    """The graph that one would write first, of DALI's own operators and random numbers."""

    def graph(pixels: DataNode) -> DataNode:
        return fn.crop_mirror_normalize(
            fn.resize(pixels, resize_shorter=float(RESIZE), interp_type=types.INTERP_LINEAR, antialias=True),
            crop=(CROP, CROP),
            crop_pos_x=fn.random.uniform(range=(0.0, 1.0)),
            crop_pos_y=fn.random.uniform(range=(0.0, 1.0)),
            mirror=fn.random.coin_flip(),
            mean=dataset.stats.channel_mean.tolist(),
            dtype=types.FLOAT,
            output_layout="CHW",
        )

    return (torch.from_dlpack(output.as_tensor()) for output in _dali(dataset, batch_size, num_threads, graph))


def ours(dataset: Dataset, batch_size: int, num_threads: int) -> Iterator[object]:
    """The loader that training uses."""
    plan = TrainingPlan(len(dataset.train), batch_size, RESIZE - CROP, seed=0, num_steps=sys.maxsize)
    appearance = Appearance.of(dataset.stats, RESIZE, CROP, "image", lighting_std=0.1)
    loader = Loader(
        *(dataset.train, plan, appearance),
        part=0,
        num_parts=1,
        batch_size=batch_size,
        device=torch.device("cpu") if DEVICE_ID is None else torch.device("cuda", DEVICE_ID),
        num_threads=num_threads,
    )
    return iter(loader)


def torchvision_pil(dataset: Dataset, batch_size: int, num_threads: int) -> Iterator[object]:
    """torchvision's transforms on Pillow images, in a DataLoader's worker processes."""
    from PIL import Image
    from torchvision.transforms import v2  # type: ignore[import-not-found,unused-ignore]

    transform = v2.Compose([
        *(v2.Resize(RESIZE), v2.RandomCrop(CROP), v2.RandomHorizontalFlip(), v2.PILToTensor()),
        *(v2.ToDtype(torch.float32), v2.Normalize(dataset.stats.channel_mean.tolist(), [1.0] * 3)),
    ])  # fmt: skip
    return _data_loader(dataset, batch_size, num_threads, lambda path: transform(Image.open(path).convert("RGB")))


def torchvision_tensor(dataset: Dataset, batch_size: int, num_threads: int) -> Iterator[object]:
    """torchvision's transforms on tensors, with antialiasing, in a DataLoader's worker processes."""
    from torchvision.io import ImageReadMode, decode_image  # type: ignore[import-not-found,unused-ignore]
    from torchvision.transforms import v2  # type: ignore[import-not-found,unused-ignore]

    transform = v2.Compose([
        *(v2.Resize(RESIZE, antialias=True), v2.RandomCrop(CROP), v2.RandomHorizontalFlip()),
        *(v2.ToDtype(torch.float32), v2.Normalize(dataset.stats.channel_mean.tolist(), [1.0] * 3)),
    ])  # fmt: skip
    return _data_loader(
        dataset, batch_size, num_threads, lambda path: transform(decode_image(path, mode=ImageReadMode.RGB))
    )


def opencv(dataset: Dataset, batch_size: int, num_threads: int) -> Iterator[object]:
    """OpenCV, whose linear resize has no antialiasing, in a DataLoader's worker processes."""
    import cv2  # type: ignore[import-not-found,unused-ignore]

    cv2.setNumThreads(1)
    mean = dataset.stats.channel_mean.astype(np.float32)

    def load(path: str) -> torch.Tensor:
        pixels = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        scale = RESIZE / min(pixels.shape[:2])
        height, width = (max(RESIZE, round(side * scale)) for side in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        top, left = (int(torch.randint(side - CROP + 1, ())) for side in (height, width))
        pixels = pixels[top : top + CROP, left : left + CROP]
        if torch.rand(()) < 0.5:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray((pixels - mean).transpose(2, 0, 1)))

    return _data_loader(dataset, batch_size, num_threads, load)


WAYS: dict[str, Callable[[Dataset, int, int], Iterator[object]]] = {
    "decode": decode,
    "naive": naive,
    "ours": ours,
    "ours-store": ours,
    "ours-shards": ours,
    "torchvision-pil": torchvision_pil,
    "torchvision-tensor": torchvision_tensor,
    "opencv": opencv,
}
NEEDS = {"torchvision-pil": "torchvision", "torchvision-tensor": "torchvision", "opencv": "cv2"}


def stores(data: Path, folder: Path) -> dict[str, str]:
    """Make the stores that some ways read, and say which prepared folder each way reads."""
    dataset = Dataset.open(data)
    if dataset.train.spans is not None or on_the_grid(dataset.train.sizes, RESIZE):
        raise ValueError(f"{data} holds archives or resized images; expected one prepared from loose originals")
    for name, shards in (("ours-store", False), ("ours-shards", True)):
        train, val = _source(dataset.train), _source(dataset.val)
        preparation = Preparation(train, val, dataset.classes, StoreFormat(RESIZE, 90, shards))
        with resumable_folder(folder / name, preparation.identity()) as (out, notes):
            preparation.run(out, notes).write(out)
    return {name: str(folder / name if name in ("ours-store", "ours-shards") else data) for name in WAYS}


def _source(images: ImageList) -> Source:
    spans = None if images.spans is None else [(s[0], s[1], s[2]) for s in images.spans.tolist()]
    return Source(
        Path(images.root), [images.name(index) for index in range(len(images))], images.labels.tolist(), spans
    )


def _dali(dataset: Dataset, batch_size: int, num_threads: int, graph: Callable[[DataNode], DataNode]) -> Iterator[Any]:
    files = itertools.cycle(np.frombuffer(os.fsencode(path), np.uint8) for path in _shuffled(dataset))
    pipeline = Pipeline(batch_size=batch_size, num_threads=num_threads, device_id=DEVICE_ID, exec_dynamic=True, seed=0)
    with pipeline:
        encoded = fn.io.file.read(fn.external_source(lambda: [next(files) for _ in range(batch_size)]))
        device = "cpu" if DEVICE_ID is None else "mixed"
        pipeline.set_outputs(graph(fn.decoders.image(encoded, device=device, output_type=types.RGB)))
    while True:
        yield pipeline.run()[0]


class _Files(torch.utils.data.Dataset):
    """Files in an order, over and over."""

    def __init__(self, paths: Sequence[str], load: Callable[[str], torch.Tensor]) -> None:
        self._paths, self._load = paths, load

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._load(self._paths[index % len(self._paths)])


def _data_loader(
    dataset: Dataset, batch_size: int, num_threads: int, load: Callable[[str], torch.Tensor]
) -> Iterator[object]:
    files = _Files(_shuffled(dataset), load)
    return iter(torch.utils.data.DataLoader(files, batch_size, num_workers=num_threads))


def _shuffled(dataset: Dataset) -> list[str]:
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(len(dataset.train))
    return [dataset.train.path(index) for index in order]


def _processes() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _cpu_seconds() -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _processes())


def _peak_mb() -> float:
    """The most that this process and its workers have held, counting what they share once for each."""
    lines = [Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1] for process in _processes()]
    return sum(int(line.split()[0]) for line in lines) / 1024


def main(name: str, batch_size: str, num_batches: str, data: str) -> None:
    """Measure one way."""
    keep_freed_memory()  # as training does, and for all alike
    torch.set_num_threads(1)
    count, num_threads = int(batch_size), len(os.sched_getaffinity(0))
    batches = WAYS[name](Dataset.open(Path(data)), count, num_threads)
    for _ in range(WARM_UP):
        next(batches)
    start, cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(int(num_batches)):
        next(batches)
    if DEVICE_ID is not None:
        torch.cuda.synchronize()
    seconds, images = time.perf_counter() - start, count * int(num_batches)
    measured = {
        "images_per_second": images / seconds,
        "cpu_ms_per_image": 1000 * (_cpu_seconds() - cpu) / images,
        "peak_rss_mb": _peak_mb(),
    }
    print(json.dumps(measured), flush=True)
    os._exit(0)  # DataLoader's workers would first finish what nobody wants


if __name__ == "__main__":
    main(*sys.argv[1:])
