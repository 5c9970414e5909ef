"""Contenders of `tools.bench pipeline`: feed a network, each in a process of its own.

    python -m alexnet_dali.tools.bench.feeding alexnet ours cpu 64 30 prepared/imagenet /tmp

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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import torch

from alexnet_dali.pipeline import DataLoader, Pixels, RandomCrop, RandomResizedCrop, graph
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.prepare.preparation import Preparation
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.prepare.store import StoreFormat
from alexnet_dali.pipeline.system.cores import MOST_THREADS_A_GPU
from alexnet_dali.pipeline.system.files import resumable_folder
from alexnet_dali.pipeline.system.memory import keep_freed_memory
from alexnet_dali.tools.bench import baselines as others
from alexnet_dali.tools.bench.baselines import CROP, RESIZE, Feeding

WARM_UP = 10
"""Batches that are not timed."""


def ours(work: Feeding, decoder: str = "gpu") -> Iterator[object]:
    """The paper's recipe, as training has it."""
    loader = DataLoader(
        work.dataset,
        global_batch_size=work.batch_size,
        crops=RandomCrop(CROP, RESIZE),
        pixels=Pixels(mean="image", std=(1.0, 1.0, 1.0), lighting_std=0.1),
        device=work.device,
        decoder=decoder,
        num_threads=work.num_threads,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


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


def ours_with_cpu_decoder(work: Feeding) -> Iterator[object]:
    """Ours, decoded by the CPU's threads; all that follows is done on the GPU."""
    return ours(work, decoder="cpu")


Baseline = Callable[[Feeding], Iterator[object]]


def baselines(device: str, recipe: str = "alexnet") -> dict[str, Baseline]:
    """The baselines on this device, cpu or cuda."""
    if recipe == "resnet":
        return {
            "decode": others.decode,
            "dali-example": others.dali_example,
            "ours": ours_resnet,
            "ours-store": ours_resnet,
            "ours-shards": ours_resnet,
            "torchvision-pil": others.torchvision_pil,
            "torchvision-tensor": others.torchvision_tensor,
            "spdl": others.spdl,
            "spdl-store": others.spdl,
            "ffcv": others.ffcv,
            "ffcv-store": others.ffcv,
        }
    alternatives = {
        **{f"ours-engine-{share}": ours_with_jpeg_engine(share / 100) for share in (65, 100)},
        "ours-cpu-decoder": ours_with_cpu_decoder,
        "ours-cpu-decoder-store": ours_with_cpu_decoder,
        "ours-cpu-decoder-shards": ours_with_cpu_decoder,
    }
    return {
        "decode": others.decode,
        "naive": others.naive,
        "ours": ours,
        **(alternatives if device == "cuda" else {}),
        "ours-store": ours,
        "ours-shards": ours,
        "torchvision-pil": others.torchvision_pil,
        "torchvision-tensor": others.torchvision_tensor,
        "opencv": others.opencv,
    }


NEEDS = {
    "torchvision-pil": "torchvision",
    "torchvision-tensor": "torchvision",
    "opencv": "cv2",
    "spdl": "spdl",
    "spdl-store": "spdl",
    "ffcv": "ffcv",
    "ffcv-store": "ffcv",
}
"""What some baselines need, which may not be installed."""


def stores(data: Path, folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Make the stores that some baselines read; returns the folder that each reads."""
    dataset = Dataset.open(data)
    shorter = dataset.train.sizes.min(axis=1)
    if dataset.train.spans is not None or (shorter == RESIZE).all():
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
        name: str(
            folder / f"ours-{kind}"
            if (kind := name.rpartition("-")[2]) in ("store", "shards")
            else data
        )
        for name in names
    }


def _source(images: ImageList) -> Source:
    names = [images.name(index) for index in range(len(images))]
    return Source.of(Path(images.root), names, images.labels)


def _processes() -> list[psutil.Process]:
    this = psutil.Process()
    children = this.children(recursive=True)
    return [this, *(child for child in children if child.status() != psutil.STATUS_ZOMBIE)]


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


def main(
    recipe: str, name: str, device: str, batch_size: str, num_batches: str, data: str, scratch: str
) -> None:
    """Measure one baseline."""
    where = torch.device(device, 0) if device == "cuda" else torch.device("cpu")
    num_threads = len(os.sched_getaffinity(0))
    if device == "cpu":
        keep_freed_memory()  # as training does; the same for all baselines
    else:
        num_threads = min(num_threads, MOST_THREADS_A_GPU)
    torch.set_num_threads(1)
    count = int(batch_size)
    work = Feeding(Dataset.open(data), where, count, num_threads, recipe, Path(scratch))
    batches = baselines(device, recipe)[name](work)
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
