"""The pipeline for any training loop: `for images, labels in loader` is an epoch."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from alexnet_dali.pipeline.augmentations import Augmentation
from alexnet_dali.pipeline.crops import CentreCrop, Crops, RandomResizedCrop
from alexnet_dali.pipeline.dataset import Dataset, ImageList
from alexnet_dali.pipeline.feeder import Batch, Feeder
from alexnet_dali.pipeline.graph import check_names
from alexnet_dali.pipeline.plan import EpochPlan, Order, in_order, shuffled
from alexnet_dali.pipeline.reading.replacements import OnBadImage, stop, warn
from alexnet_dali.pipeline.system.cores import threads_of_a_rank
from alexnet_dali.pipeline.torch_names import translated
from alexnet_dali.pipeline.transform import Pixels


class DataLoader:
    """Batches of a prepared folder, epoch after epoch, prepared ahead of time.

    `for images, labels in loader` is one epoch; the next loop is the next epoch. Batches are a
    function of (seed, step) alone, so a run resumes exactly, in the middle of an epoch and on any
    number of ranks: see `state_dict`. Iterators do not disturb each other: one that is left behind
    or used beside another keeps images and labels together, and frees its threads and memory as
    soon as it is let go of.
    """

    @translated
    def __init__(
        self,
        folder: str | Path | Dataset,
        split: str = "train",
        *,
        global_batch_size: int,
        crops: Crops | None = None,
        pixels: Pixels | None = None,
        lighting_epochs: int | None = None,
        augmentations: Sequence[Augmentation] = (),
        order: Order | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        decoder: str = "gpu",
        num_threads: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        on_bad_image: OnBadImage | None = None,
        pad: bool = False,
    ) -> None:
        """`split` is "train" or "val" of the prepared `folder`.

        By default training images are shuffled and shown by RandomResizedCrop, and an epoch drops
        its last partial batch; validation images are shown in order by CentreCrop, each once.
        `pixels` are mean and deviation, type and layout; the lighting in them ends after
        `lighting_epochs`. `augmentations` are applied to training crops, one after the other: see
        pipeline/augmentations.py. `global_batch_size` counts the images of all ranks; each gets its
        share. Rank and world size are by default those of torch.distributed. On a GPU, `decoder`
        "cpu" has the CPU decode, to the pixels of every other machine. `num_threads` decode; by
        default this rank's share of the cores. `on_bad_image` is called for an image that can't be
        used any more: `warn`, the default of "train", goes on with another of its class; `stop`,
        that of "val", raises DatasetError. With `pad`, validation batches are all of one size:
        rows that do not count have the label IGNORE_INDEX. ValueError where arguments do not fit.
        """
        dataset = folder if isinstance(folder, Dataset) else Dataset.open(Path(folder))
        if split not in ("train", "val"):
            raise ValueError(f'split is {split!r}; expected "train" or "val"')
        training = split == "train"
        self.dataset: ImageList = dataset.train if training else dataset.val
        self.classes, self.class_names = dataset.classes, dataset.names
        rank, world_size = _ranks(rank, world_size)
        _check_batch(global_batch_size, world_size)
        if augmentations and not training:
            raise ValueError('augmentations are for split "train"; expected none with "val"')
        check_names(augmentations)
        crops = crops or (RandomResizedCrop() if training else CentreCrop())
        pixels = pixels or Pixels()
        lit = training and pixels.lighting_std > 0
        self.plan = EpochPlan(
            self.dataset,
            global_batch_size,
            crops,
            order or (shuffled if training else in_order),
            seed,
            lighting_epochs=lighting_epochs if lit else 0,
            augmentations=augmentations,
            drop_last=training,
        )
        self.transform = pixels.transform(dataset.stats, crops)
        where = _device(device)
        self._options: dict[str, Any] = {
            "device": where,
            "decoder": _decoder(decoder),
            "num_threads": num_threads
            or threads_of_a_rank(where.type == "cuda", _ranks_here(world_size)),
            "shard": rank,
            "num_shards": world_size,
            "on_bad_image": on_bad_image or (warn if training else stop),
            "count_replaced": training,
            "pad": pad,
            "augmentations": augmentations,
            "seed": seed,
        }
        self._identity = {
            "fingerprint": dataset.fingerprint,
            "split": split,
            "global_batch_size": global_batch_size,
            "seed": seed,
            "crops": _spelt(crops),
            "augmentations": _spelt(tuple(augmentations)),
            "order": getattr(order, "__qualname__", _spelt(order)),
        }
        self._next_step = 0
        self._resuming = False
        self._newest: object = None
        self._idle: Feeder | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.plan.steps_per_epoch

    @property
    def step(self) -> int:
        """Batches handed out so far, over all epochs."""
        return self._next_step

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0."""
        return self._next_step // len(self)

    def __iter__(self) -> Iterator[Batch]:
        """An epoch: the next one, or after `load_state_dict` what is left of the one begun.

        It begins with the first batch that is asked for.
        """
        if not self._resuming:
            self._next_step = -(-self._next_step // len(self)) * len(self)
        first, newest = self._next_step, object()
        self._newest = newest
        end = (first // len(self) + 1) * len(self)
        feeder: Feeder | None = self._feeder_from(first)
        try:
            for step in range(first, end):
                assert feeder is not None
                batch = feeder.next()
                if self._newest is newest:
                    self._next_step = step + 1  # a state taken now goes on behind this batch
                    self._resuming = False
                yield batch
            self.close()
            self._idle, feeder = feeder, None
        finally:
            if feeder is not None:
                feeder.close()

    def close(self) -> None:
        """Free what is read ahead; the next loop begins anew."""
        if self._idle is not None:
            self._idle.close()
        self._idle = None

    def state_dict(self) -> dict[str, Any]:
        """Where the newest iterator is; small, and the same on all ranks."""
        return {"step": self._next_step, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader was; ValueError unless it had the same images and options."""
        differing = [
            f"{name} was {state.get(name)!r}, is {value!r}"
            for name, value in self._identity.items()
            if state.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"this loader is not as the one that was saved: {'; '.join(differing)}"
            )
        step = state.get("step")
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"the state's step is {step!r}; expected a number from 0")
        self._next_step, self._resuming = step, True
        self._newest = None  # iterators that still run no longer count

    def _feeder_from(self, step: int) -> Feeder:
        """Batches from `step` on: prepared ahead already if the epoch before has just ended."""
        idle, self._idle = self._idle, None
        if idle is not None:
            if idle.step == step:
                return idle
            idle.close()
        return Feeder(self.dataset, self.plan, self.transform, first_step=step, **self._options)


def _spelt(option: object) -> str:
    """Its `repr`, without places in memory: they are others in the process that resumes."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(option))


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This rank and the number of all."""
    if (rank is None) != (world_size is None):
        raise ValueError("expected rank and world_size together, or neither")
    if rank is None or world_size is None:
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        if dist.is_torchelastic_launched():
            raise ValueError(
                "torchrun has started this process, but the ranks have not joined: call "
                "torch.distributed.init_process_group first, or give rank and world_size"
            )
        return 0, 1
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank} of {world_size}; expected 0 to {world_size - 1}")
    return rank, world_size


def _ranks_here(world_size: int) -> int:
    """How many of the ranks are on this machine; all of them where nothing says so."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size))


def _check_batch(global_batch_size: int, world_size: int) -> None:
    if not isinstance(global_batch_size, int) or global_batch_size < 1:
        raise ValueError(f"global_batch_size is {global_batch_size!r}; expected 1 or more")
    if global_batch_size % world_size:
        raise ValueError(
            f"global_batch_size is {global_batch_size}; it counts the images of all {world_size} "
            "ranks together, so expected a multiple of that"
        )


def _decoder(decoder: str) -> str:
    if decoder not in ("gpu", "cpu"):
        raise ValueError(f'decoder is {decoder!r}; expected "gpu" or "cpu"')
    return decoder


def _device(device: str | torch.device) -> torch.device:
    """With the number of the GPU, which may be left out."""
    expected = f'device is {str(device)!r}; expected "cpu", "cuda" or "cuda:N"'
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(expected) from None
    if chosen.type == "cpu":
        return chosen
    if chosen.type != "cuda":
        raise ValueError(expected)
    if not torch.cuda.is_available():
        raise ValueError(f"device is {str(device)!r}, but torch finds no GPU here")
    if chosen.index is not None:
        return chosen
    return torch.device("cuda", torch.cuda.current_device())
