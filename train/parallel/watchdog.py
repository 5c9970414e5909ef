"""Every rank tells the others that it lives and what it does, so that one that hangs is named."""

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.parallel.heartbeats import Heartbeat, Heartbeats
from alexnet_dali.train.parallel.ranks import Ranks

_SILENT = 3.0
"""Seconds without a sign of life after which a rank counts as gone, beside the time between two."""

_ENDS_AFTER = 3
"""A run that stands still is told of once, and ended after so many times as long."""

_LOST_AFTER = 10.0
"""Seconds of silence and standstill after which a run on GPUs ends.

Its main threads wait in NCCL, which never tells them that a rank is gone.
"""

_SLOW = ("starting", "first step", "saving")
"""What may take ten times as long: files are opened, kernels compiled, disks written."""

_BROKEN = re.compile(
    r"gloo|NCCL|connection (closed|reset|refused)|socket|broken pipe", re.IGNORECASE
)
"""What the exchange between ranks says when one of them is gone."""


class Progress:
    """What this rank is doing, and how often that has changed.

    It is what the host does: a GPU may be some steps behind, at most those since the last log line,
    for which the host waits. Of a replayed step the host sees nothing but its launch: "captured
    step" stands for all that a GPU may be doing then, from the forward pass to the update.
    """

    def __init__(self) -> None:
        self.doing, self.count, self.step = "starting", 0, 0
        self._since, self._slowest = time.monotonic(), 0.0

    def at(self, doing: str, step: int) -> None:
        """Note what begins now, in `step`."""
        now = time.monotonic()
        if self.doing not in _SLOW:
            self._slowest = max(self._slowest, now - self._since)
        self.doing, self.step, self._since = doing, step, now
        self.count += 1

    def patience(self, seconds: float) -> float:
        """How long to wait for the next change: `seconds`, or ten times the longest so far."""
        return max(seconds * (10 if self.doing in _SLOW else 1), 10 * self._slowest)


@dataclass
class _Seen:
    """A rank as this one sees it, with the times of its last sign of life and of progress."""

    rank: int
    host: str = "?"
    doing: str = "starting"
    step: int = 0
    patience: float = 0.0
    beat: int = -1
    count: int = -1
    beat_at: float = 0.0
    count_at: float = 0.0

    def update(self, told: Heartbeat, now: float) -> None:
        if told["beat"] != self.beat:
            self.beat_at = now
        if told["count"] != self.count:
            self.count_at = now
        self.__dict__.update(told)

    def __str__(self) -> str:
        return f"rank {self.rank} on machine {self.host}"

    def last_words(self) -> str:
        """What it was doing when it was last heard."""
        return f"{self} (last heard: {self.doing}, step {self.step})"


class Watch:
    """A thread that tells the others of this rank, and watches them.

    One rank, the leader, knows of all. It judges and speaks, and the others follow its word.
    """

    def __init__(self, ranks: Ranks, folder: Path, progress: Progress, seconds: float) -> None:
        """After `seconds` without progress, and no sooner, it speaks; 0 means never."""
        self._rank, self._folder = ranks.rank, folder
        self._on_gpu = ranks.device.type == "cuda"
        self._progress, self._seconds = progress, seconds
        self._signs, self._pause = None, 1.0
        if ranks.store is not None:
            # A connection of its own: the main thread may be waiting in its.
            store = ranks.store.clone()  # type: ignore[attr-defined]
            self._signs = Heartbeats(store, ranks.rank, ranks.world_size)
        self._store_is_gone = False
        self._heard_at = now = time.monotonic()
        self._seen = [_Seen(rank, beat_at=now, count_at=now) for rank in range(ranks.world_size)]
        self._gone: list[int] = []
        self._ends = False
        self._beat = 0
        self._told = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, before the ranks leave."""
        self._end.set()
        self._thread.join()

    def gone(self) -> list[_Seen]:
        """The ranks that give no sign of life any more."""
        return [self._seen[rank] for rank in self._gone]

    def speaks(self) -> bool:
        """Whether this rank speaks for all, or for itself where ranks can't tell each other."""
        return self._signs is None or self._signs.is_leader

    def _run(self) -> None:
        launcher = os.getppid() if dist.is_torchelastic_launched() else None
        while not self._end.wait(self._pause):
            if launcher not in (None, os.getppid()):  # torchrun was killed: save, and end as well
                os.kill(os.getpid(), signal.SIGTERM)
                return
            try:
                self._look_around()
            except dist.DistError:  # the store is gone, and with it whoever ended the job
                self._signs, self._store_is_gone = None, True
            if self._store_is_gone:
                self._judge_alone()
            if self._ends:
                os._exit(1)

    def _look_around(self) -> None:
        """A round: tell and hear, and judge where it is this rank's task."""
        own, signs = self._own_sign(), self._signs
        self._seen[self._rank].update(own, time.monotonic())
        if signs is None:
            if not self._store_is_gone:  # there are no others
                self._judge()
            return
        signs.leave(own)
        if signs.is_leader and signs.step_down():
            self._heard_at = time.monotonic()
        if not signs.is_leader:
            self._follow(signs)
            return
        for one, sign in zip(self._seen, signs.all(), strict=True):
            if sign is not None:
                one.update(sign, time.monotonic())
        self._heard_at = time.monotonic()
        self._gone = [one.rank for one in self._seen if self._silence(one) > self._pause + _SILENT]
        self._judge()
        signs.tell({"rank": self._rank, "own": own, "gone": self._gone, "ends": self._ends})

    def _own_sign(self) -> Heartbeat:
        self._beat += 1
        progress = self._progress
        return {
            "host": socket.gethostname(),
            "doing": progress.doing,
            "step": progress.step,
            "patience": progress.patience(self._seconds),
            "beat": self._beat,
            "count": progress.count,
        }

    def _follow(self, signs: Heartbeats) -> None:
        """Take the leader at its word; where no new one comes, take over."""
        word, now = signs.word(), time.monotonic()
        if word is not None and word["own"]["beat"] != self._seen[word["rank"]].beat:
            self._seen[word["rank"]].update(word["own"], now)
            self._gone, self._ends, self._heard_at = word["gone"], word["ends"], now
        elif now - self._heard_at > self._pause + _SILENT / 2:
            signs.take_over()
            self._heard_at = now

    def _silence(self, one: _Seen) -> float:
        """Seconds without a sign of life, up to when all signs were read last."""
        return self._heard_at - one.beat_at

    def _judge(self) -> None:
        """Speak where no rank gets on, and end the run where that goes on."""
        still = time.monotonic() - max(one.count_at for one in self._seen)
        gone = self.gone()  # what they were last heard to do says nothing of now
        patience = max((one.patience for one in self._seen if one not in gone), default=0.0)
        if not self._seconds:
            return
        if still > _ENDS_AFTER * patience or self._is_lost(gone, still):
            self._give_up(self._diagnosis(still))
        elif still < patience:
            self._told = False
        elif not self._told:
            ends = f"if that goes on, the run ends at {_ENDS_AFTER * patience:.0f} s"
            print(f"warning: {self._diagnosis(still)}; {ends}", file=sys.stderr, flush=True)
            self._told = True

    def _is_lost(self, gone: list[_Seen], still: float) -> bool:
        """Whether ranks are gone for good, and the others wait in NCCL."""
        return self._on_gpu and any(
            min(still, self._silence(one)) > _lost_after(one.doing) for one in gone
        )

    def _judge_alone(self) -> None:
        """End this rank where it waits in NCCL, and can't hear why."""
        own = self._seen[self._rank]
        still = time.monotonic() - own.count_at
        if self._on_gpu and self._seconds and still > _lost_after(own.doing):
            self._give_up(
                f"no progress for {still:.0f} s on {own}, and torchrun's store is gone: it has "
                "ended on the machine that kept it, or that machine is lost"
            )

    def _diagnosis(self, still: float) -> str:
        gone = self.gone()
        told = [one.last_words() for one in gone or self._seen]
        if gone:
            blamed = f"{_some(told)} {_are(gone)} silent, and the others wait; look at that machine"
        else:
            blamed = f"all ranks live: {_some(told)}"
        return f"no progress for {still:.0f} s: {blamed}"

    def _give_up(self, why: str) -> None:
        """Say so; this round is the last one."""
        end = f"the run is ended; {_resume(self._folder)}"
        print(f"error: {why}; {end}", file=sys.stderr, flush=True)
        self._ends = True


def _lost_after(doing: str) -> float:
    """Seconds after which a rank that was last heard `doing` something is lost for certain."""
    return _LOST_AFTER * (10 if doing in _SLOW else 1)


@contextmanager
def watching(ranks: Ranks, folder: Path, seconds: float) -> Iterator[Progress]:
    """Watch over what happens inside; a lost partner is one line, and exit status 1."""
    progress = Progress()
    watch = Watch(ranks, folder, progress, seconds)
    watch.start()
    try:
        yield progress
    except RuntimeError as error:
        if ranks.world_size == 1 or not _BROKEN.search(str(error)):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, who has noticed, too
        _report_lost_partner(watch, folder, error)
        raise SystemExit(1) from error
    finally:
        watch.stop()


def _report_lost_partner(watch: Watch, folder: Path, error: RuntimeError) -> None:
    """Say which rank is gone, once its silence is certain."""
    until = time.monotonic() + 15  # the one that would notice may be the one that is gone
    while not watch.gone() and time.monotonic() < until:
        time.sleep(0.2)
    gone = watch.gone()
    if not watch.speaks():
        return
    who = (
        f"{_some(list(map(str, gone)))} {_are(gone)} gone (killed, or out of memory?)"
        if gone
        else f"the connection to another rank broke ({_first(error)})"
    )
    print(f"error: {who}; {_resume(folder)}", file=sys.stderr, flush=True)


def _resume(folder: Path) -> str:
    newest = checkpoint.newest(folder / "checkpoints")
    if newest is None:
        return "rerun the same command; there is no checkpoint yet, so it begins afresh"
    return f"rerun the same command to resume from step {checkpoint.step_of(newest)}"


def _some(ranks: list[str]) -> str:
    listed = ", ".join(ranks[:8])
    return listed + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


def _are(ranks: list[_Seen]) -> str:
    return "are" if len(ranks) > 1 else "is"


def _first(error: RuntimeError) -> str:
    return str(error).splitlines()[0][:200]
