"""Contenders of `tools.bench pipeline`: feed a network, each in a process of its own.

    python -m tools.bench.feeding alexnet ours cpu 64 30 prepared/imagenet

All read the same files and give float32 [n, 3, 224, 224]. `decode` stops at the pixels. Recipe
alexnet resizes the shorter side to 256, crops to 224 and flips at random. Ours also subtracts the
mean image and adds lighting; the others subtract a mean colour. Recipe resnet shows a random share
of the image in a random shape (RandomResizedCrop), flips, subtracts a mean colour and divides by a
deviation. The result is one line of JSON.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from pipeline import DataLoader, RandomResizedCrop, graph
from pipeline.dataset import Dataset, ImageList
from pipeline.files import resumable_folder
from pipeline.geometry import on_the_grid
from pipeline.loader import Loader
from pipeline.memory import keep_freed_memory
from pipeline.plan import TrainingPlan
from pipeline.prepare.preparation import Preparation
from pipeline.prepare.sources import Source
from pipeline.prepare.store import StoreFormat
from pipeline.preprocessing import Preprocessing
from train.data import MOST_THREADS_A_GPU

RESIZE, CROP = 256, 224
WARM_UP = 10
"""Batches that are not timed."""


@dataclass(frozen=True)
class Feeding:
    """What to feed, and with what.

    DALI's contenders decode on a GPU where `device` is cuda, the others always on the CPU.
    """

    dataset: Dataset
    device: torch.device
    batch_size: int
    num_threads: int
    recipe: str = "alexnet"


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


def ours(work: Feeding) -> Iterator[object]:
    """The loader that training uses."""
    images = work.dataset.train
    plan = TrainingPlan(len(images), work.batch_size, RESIZE - CROP, seed=0, num_steps=sys.maxsize)
    preprocessing = Preprocessing.of(work.dataset.stats, RESIZE, CROP, "image", lighting_std=0.1)
    threads = work.num_threads
    return iter(Loader(images, plan, preprocessing, device=work.device, num_threads=threads))


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


def ours_resnet(work: Feeding) -> Iterator[object]:
    """The loader for other training loops: docs/pipeline.md."""
    loader = DataLoader(
        work.dataset,
        global_batch_size=work.batch_size,
        crops=RandomResizedCrop(CROP),
        device=work.device,
        num_threads=work.num_threads,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def ours_with_jpeg_engine(share: float) -> Callable[[Feeding], Iterator[object]]:
    """Ours, with this share of a batch decoded by the JPEG engine of an A100 or H100."""

    def feed(work: Feeding) -> Iterator[object]:
        graph.HW_DECODER_LOAD = share
        return ours(work)

    return feed


def torchvision_pil(work: Feeding) -> Iterator[object]:
    """torchvision's transforms on Pillow images, in a DataLoader's worker processes."""
    from PIL import Image
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


Contender = Callable[[Feeding], Iterator[object]]


def contenders(device: str, recipe: str = "alexnet") -> dict[str, Contender]:
    """The contenders on this device, cpu or cuda."""
    if recipe == "resnet":
        return {
            "decode": decode,
            "dali-example": dali_example,
            "ours": ours_resnet,
            "ours-store": ours_resnet,
            "ours-shards": ours_resnet,
            "torchvision-pil": torchvision_pil,
            "torchvision-tensor": torchvision_tensor,
        }
    engine = {f"ours-engine-{share}": ours_with_jpeg_engine(share / 100) for share in (65, 100)}
    return {
        "decode": decode,
        "naive": naive,
        "ours": ours,
        **(engine if device == "cuda" else {}),
        "ours-store": ours,
        "ours-shards": ours,
        "torchvision-pil": torchvision_pil,
        "torchvision-tensor": torchvision_tensor,
        "opencv": opencv,
    }


NEEDS = {"torchvision-pil": "torchvision", "torchvision-tensor": "torchvision", "opencv": "cv2"}


def stores(data: Path, folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Make the stores that some contenders read; returns the folder that each reads."""
    dataset = Dataset.open(data)
    if dataset.train.spans is not None or on_the_grid(dataset.train.sizes, RESIZE):
        raise ValueError(
            f"{data} holds archives or resized images; expected one prepared from loose originals"
        )
    for name, shards in (("ours-store", False), ("ours-shards", True)):
        train, val = _source(dataset.train), _source(dataset.val)
        store = StoreFormat(RESIZE, 90, shards)
        preparation = Preparation(train, val, dataset.classes, dataset.names, store)
        with resumable_folder(folder / name, preparation.identity()) as (out, notes):
            preparation.run(out, notes).write(out, about={})
    return {
        name: str(folder / name if name in ("ours-store", "ours-shards") else data)
        for name in names
    }


def _source(images: ImageList) -> Source:
    names = [images.name(index) for index in range(len(images))]
    return Source(Path(images.root), names, images.labels.tolist())


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

    def __init__(self, paths: Sequence[str], load: Callable[[str], torch.Tensor]) -> None:
        self._paths, self._load = paths, load

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._load(self._paths[index % len(self._paths)])


def _data_loader(work: Feeding, load: Callable[[str], torch.Tensor]) -> Iterator[object]:
    files = _Files(_shuffled(work.dataset), load)
    return iter(torch.utils.data.DataLoader(files, work.batch_size, num_workers=work.num_threads))


def _shuffled(dataset: Dataset) -> list[str]:
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(len(dataset.train))
    return [dataset.train.path(index) for index in order]


def _processes() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _cpu_seconds() -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _processes())


def _peak_mb() -> float:
    """The most memory that this process and its workers have held.

    Memory that they share is counted once for each.
    """
    lines = [
        Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1]
        for process in _processes()
    ]
    return sum(int(line.split()[0]) for line in lines) / 1024


def main(recipe: str, name: str, device: str, batch_size: str, num_batches: str, data: str) -> None:
    """Measure one contender."""
    where = torch.device(device, 0) if device == "cuda" else torch.device("cpu")
    num_threads = len(os.sched_getaffinity(0))
    if device == "cpu":
        keep_freed_memory()  # as training does; the same for all contenders
    else:
        num_threads = min(num_threads, MOST_THREADS_A_GPU)
    torch.set_num_threads(1)
    count = int(batch_size)
    work = Feeding(Dataset.open(data), where, count, num_threads, recipe)
    batches = contenders(device, recipe)[name](work)
    for _ in range(WARM_UP):
        next(batches)
    start, cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(int(num_batches)):
        next(batches)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds, images = time.perf_counter() - start, count * int(num_batches)
    measured = {
        "images_per_second": images / seconds,
        "cpu_ms_per_image": 1000 * (_cpu_seconds() - cpu) / images,
        "peak_rss_mb": _peak_mb(),
    }
    print(json.dumps(measured), flush=True)
    os._exit(0)  # DataLoader's workers would first finish batches that nobody needs


if __name__ == "__main__":
    main(*sys.argv[1:])
