"""The pipeline for any training loop: `for images, labels in loader` is an epoch."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from alexnet_dali.pipeline import ranks
from alexnet_dali.pipeline.augmentations import Augmentation
from alexnet_dali.pipeline.crops import CentreCrop, Crops, RandomResizedCrop
from alexnet_dali.pipeline.dataset import SPLITS, TARGETS, Dataset
from alexnet_dali.pipeline.feeder import Feeder
from alexnet_dali.pipeline.graph import check_names
from alexnet_dali.pipeline.identity import identity
from alexnet_dali.pipeline.image_list import ImageList
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

    batch_sampler: None = None
    """Frameworks that find a `sampler` look for it, too."""

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
        pad: bool | Literal["evenly"] = False,
        with_index: bool = False,
    ) -> None:
        """`split` is "train", "val" or "test" of the prepared `folder`; "test" is shown like "val".

        By default training images are shuffled and shown by RandomResizedCrop, and an epoch drops
        its last partial batch; validation images are shown in order by CentreCrop, each once.
        `pixels` are mean and deviation, type and layout; the lighting in them ends after
        `lighting_epochs`. `augmentations` are applied to training crops, one after the other: see
        pipeline/augmentations.py. `global_batch_size` counts the images of all ranks; each gets its
        share. Rank and world size are by default torch.distributed's when a loop begins. On a GPU,
        `decoder` "cpu" has the CPU decode, to the pixels of every other machine. `num_threads`
        decode; by default this rank's share of the cores. `on_bad_image` is called for an image
        that can't be used any more: `warn`, the default of "train", goes on with another of its
        class; `stop`, that of "val", raises DatasetError. With `pad`, validation batches are all of
        one size: rows that do not count have the label IGNORE_INDEX. With "evenly", the last batch
        has as many rows on each rank; the first images fill it up, with their labels. With
        `with_index`, batches have a third part, the place of each image in `dataset`, or
        IGNORE_INDEX. ValueError where arguments do not fit.

        Labels [n] are int64 classes. In a folder with other targets, they are [n, classes] bool or
        [n, numbers] float32, and in rows that do not count False or nan; without targets,
        IGNORE_INDEX.
        """
        dataset = folder if isinstance(folder, Dataset) else Dataset.open(Path(folder), TARGETS)
        if split not in SPLITS:
            raise ValueError(f'split is {split!r}; expected "train", "val" or "test"')
        training = split == "train"
        self.dataset: ImageList = dataset.images(split)
        self.dataset.check_is_there()
        self.classes, self.class_names = dataset.classes, dataset.names
        ranks.check(rank, world_size)
        self._given_ranks, self._ranks = (rank, world_size), (0, 0)
        self.global_batch_size = global_batch_size
        _check_batch(global_batch_size, world_size or 1)
        if augmentations and not training:
            raise ValueError(f'augmentations are for split "train"; expected none with "{split}"')
        check_names(augmentations)
        crops = crops or (RandomResizedCrop() if training else CentreCrop())
        pixels = pixels or Pixels()
        if not training or not pixels.lighting_std:
            lighting_epochs = 0
        self.plan = EpochPlan(
            self.dataset,
            global_batch_size,
            crops,
            order or (shuffled if training else in_order),
            seed,
            lighting_epochs=lighting_epochs,
            augmentations=augmentations,
            drop_last=training,
            evenly=_pad(pad) == "evenly",
        )
        self.transform = pixels.transform(dataset.stats, crops)
        self._device, self._num_threads = _device(device), num_threads
        self._options: dict[str, Any] = {
            "decoder": _decoder(decoder),
            "on_bad_image": on_bad_image or (warn if training else stop),
            "count_replaced": training,
            "pad": pad,
            "with_index": with_index,
            "augmentations": augmentations,
            "seed": seed,
        }
        self._identity = {
            "fingerprint": dataset.fingerprint,
            "split": split,
            "global_batch_size": global_batch_size,
            "seed": seed,
            "lighting_epochs": lighting_epochs,
        }
        self._not_comparable = ""
        self._identify(crops=crops, pixels=pixels, order=order, augmentations=tuple(augmentations))
        self._next_step = 0
        self._resuming = False
        self._newest: object = None  # the iterator whose batches are counted
        self._waiting: object = None  # that iterator, before it is asked for a batch
        self._idle: Feeder | None = None

    def _identify(self, **options: object) -> None:
        """Note what a state says of `options`; only who asks for a state needs them comparable."""
        try:
            self._identity |= {name: identity(name, option) for name, option in options.items()}
        except ValueError as error:
            self._not_comparable = str(error)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.plan.steps_per_epoch

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._identity.items())
        return f"DataLoader({len(self.dataset)} images, step={self._next_step}, {options})"

    def __getstate__(self) -> dict[str, Any]:
        """For another process: what is read ahead stays here, and ranks are found there."""
        return self.__dict__ | {"_idle": None, "_newest": None, "_waiting": None, "_ranks": (0, 0)}

    @property
    def step(self) -> int:
        """The next batch's, counted over all epochs from 0; where it is set, the next loop begins.

        An iterator that has handed out a batch goes on as it is, and counts no longer.
        """
        return self._next_step

    @step.setter
    def step(self, step: int) -> None:
        _check_number("step", step)
        self._next_step, self._resuming = step, True
        self._newest = self._waiting

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0; where it is set, it begins anew."""
        return self._next_step // len(self)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        _check_number("epoch", epoch)
        self.step = epoch * len(self)

    @property
    def sampler(self) -> "Sampler":
        """What frameworks tell their epochs."""
        return Sampler(self)

    @property
    def rank(self) -> int:
        """This process's; ValueError where ranks have not joined yet."""
        return ranks.find(*self._given_ranks)[0]

    @property
    def batch_size(self) -> int:
        """Images in a full batch of this rank; ValueError where ranks have not joined yet."""
        return self.global_batch_size // ranks.find(*self._given_ranks)[1]

    @property
    def drop_last(self) -> bool:
        """Whether an epoch's last batch is left out where it is not full."""
        return self._options["count_replaced"]

    def path(self, index: int | Tensor) -> str:
        """The file of an image; IndexError for IGNORE_INDEX and others that are none's."""
        if not 0 <= int(index) < len(self.dataset):
            raise IndexError(f"index is {int(index)}; expected 0 to {len(self.dataset) - 1}")
        return self.dataset.path(int(index))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """An epoch: the next one, or after `load_state_dict` what is left of the one begun.

        The state is from now on that of this iterator. Reading begins with the first batch that is
        asked for: until then, the iterator follows `step` and `epoch`. ValueError where ranks have
        not joined, or are others than in the loop before.
        """
        self._join()
        if not self._resuming:
            self._next_step = -(-self._next_step // len(self)) * len(self)
        self._newest = self._waiting = newest = object()
        return self._epoch_from(self._next_step, newest)

    def _epoch_from(self, first: int, newest: object) -> Iterator[tuple[Tensor, ...]]:
        if self._waiting is newest:
            first, self._waiting = self._next_step, None
        end = (first // len(self) + 1) * len(self)
        feeder: Feeder | None = self._feeder_from(first)
        try:
            for step in range(first, end):
                assert feeder is not None
                batch = feeder.next()
                if self._newest is newest:
                    self._next_step = step + 1  # a state taken now goes on behind this batch
                    self._resuming = False
                yield tuple(batch)  # frameworks rebuild batches, and can't a NamedTuple
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
        """Where the newest iterator is; small, and the same on all ranks.

        ValueError where an option of one's own can't be compared with that of a resume.
        """
        self._check_comparable()
        return {"step": self._next_step, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader was; ValueError unless it had the same images and options."""
        self._check_comparable()
        differing = [
            f"{name} was {state.get(name)!r}, is {value!r}"
            for name, value in self._identity.items()
            if state.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"this loader is not as the one that was saved: {'; '.join(differing)}"
            )
        _check_number("the state's step", state.get("step"))
        self.step = state["step"]

    def _join(self) -> None:
        """Find this rank, and what follows from it; ValueError where it has become another."""
        found = ranks.find(*self._given_ranks)
        if self._ranks not in (found, (0, 0)):
            raise ValueError(
                f"this loader has read as rank {self._ranks[0]} of {self._ranks[1]}, but this "
                f"process is now rank {found[0]} of {found[1]}; join the ranks before the first "
                "loop, or make another loader"
            )
        if self._ranks == found:
            return
        rank, world_size = found
        _check_batch(self.global_batch_size, world_size)
        device = self._device
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        on_gpu, here = device.type == "cuda", ranks.on_this_machine(world_size)
        self._options |= {
            "device": device,
            "num_threads": self._num_threads or threads_of_a_rank(on_gpu, here),
            "shard": rank,
            "num_shards": world_size,
        }
        self._ranks = found

    def _check_comparable(self) -> None:
        if self._not_comparable:
            raise ValueError(self._not_comparable)

    def _feeder_from(self, step: int) -> Feeder:
        """Batches from `step` on: prepared ahead already if the epoch before has just ended."""
        idle, self._idle = self._idle, None
        if idle is not None:
            if idle.step == step:
                return idle
            idle.close()
        return Feeder(self.dataset, self.plan, self.transform, first_step=step, **self._options)


class Sampler:
    """What frameworks expect of a loader's sampler."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`, unless the loader is in it; warns where it is beyond it.

        It never goes back: that would show the same batches again. `loader.epoch = 0` does.
        """
        if epoch > self._loader.epoch:
            self._loader.epoch = epoch
        elif epoch < self._loader.epoch and self._loader.drop_last:
            warnings.warn(
                f"set_epoch({epoch}): this loader goes on in epoch {self._loader.epoch}; to go "
                f"back, set loader.epoch = {epoch}",
                stacklevel=2,
            )


def _check_number(name: str, number: object) -> None:
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"{name} is {number!r}; expected a number from 0")


def _pad(pad: bool | str) -> bool | str:
    if pad != "evenly" and not isinstance(pad, bool):
        raise ValueError(f'pad is {pad!r}; expected False, True or "evenly"')
    return pad


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
    """ValueError where there is none such. A GPU without a number is chosen by the first loop."""
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
    return chosen
