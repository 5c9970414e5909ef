"""The watchdog: each rank sends heartbeats with its progress; a stuck or lost rank is reported."""

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch.distributed as dist

from alexnet_dali.pipeline.system import pauses
from alexnet_dali.train.parallel.heartbeats import Finding, Heartbeat, Heartbeats
from alexnet_dali.train.parallel.ranks import Ranks

_SILENT = 3.0
"""Seconds without a heartbeat after which a rank counts as gone, beside the time between two."""

_ENDS_AFTER = 3
"""A stalled run is reported once, and ended after so many times as long."""

_LOST_AFTER = 10.0
"""Seconds of silence and stall after which a run on GPUs ends.

Its main threads wait in NCCL, which never says that a rank is gone.
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
        self._since, self._slowest = pauses.clock(), 0.0

    def at(self, doing: str, step: int) -> None:
        """Note what begins now, in `step`."""
        now = pauses.clock()
        if self.doing not in _SLOW:
            self._slowest = max(self._slowest, now - self._since)
        self.doing, self.step, self._since = doing, step, now
        self.count += 1

    def patience(self, seconds: float) -> float:
        """How long to wait for the next change: `seconds`, or ten times the longest so far."""
        return max(seconds * (10 if self.doing in _SLOW else 1), 10 * self._slowest)


@dataclass
class _Rank:
    """A rank as this one knows it, with the times of its last heartbeat and of its progress."""

    rank: int
    host: str = "?"
    doing: str = "starting"
    step: int = 0
    patience: float = 0.0
    beat: int = -1
    count: int = -1
    beat_at: float = 0.0
    count_at: float = 0.0

    def update(self, heartbeat: Heartbeat, now: float) -> None:
        if heartbeat["beat"] != self.beat:
            self.beat_at = now
        if heartbeat["count"] != self.count:
            self.count_at = now
        self.__dict__.update(heartbeat)

    def __str__(self) -> str:
        return f"rank {self.rank} on machine {self.host}"

    def last_heard(self) -> str:
        """What it was doing at its last heartbeat."""
        return f"{self} (last heard: {self.doing}, step {self.step})"


class Watch:
    """A thread that sends this rank's heartbeats, and watches the others'.

    One rank, the leader, reads all of them. It judges and reports, and the others follow it.
    """

    def __init__(
        self, ranks: Ranks, how_to_resume: Callable[[], str], progress: Progress, seconds: float
    ) -> None:
        """`how_to_resume` says, at the end of an error, what to do next.

        A run is reported once it has stalled for `seconds`, or longer; 0 means never.
        """
        self._rank, self._launcher = ranks.rank, ranks.launcher
        self._how_to_resume = how_to_resume
        self._on_gpu = ranks.device.type == "cuda"
        self._progress, self._seconds = progress, seconds
        self._heartbeats, self._pause = None, 1.0
        if ranks.store is not None:
            # A connection of its own: the main thread may be waiting in its.
            store = ranks.store.clone()  # type: ignore[attr-defined]
            self._heartbeats = Heartbeats(store, ranks.rank, ranks.world_size)
        self._store_is_gone = False
        self._heard_at = now = pauses.clock()
        self._ranks = [_Rank(rank, beat_at=now, count_at=now) for rank in range(ranks.world_size)]
        self._gone: list[int] = []
        self._ends = False
        self._beat = 0
        self._has_warned = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, before the ranks leave."""
        self._end.set()
        self._thread.join()

    def gone(self) -> list[_Rank]:
        """The ranks that send no heartbeats any more."""
        return [self._ranks[rank] for rank in self._gone]

    def is_leader(self) -> bool:
        """Whether this rank reports for all, or for itself where ranks can't reach each other."""
        return self._heartbeats is None or self._heartbeats.is_leader

    def _run(self) -> None:
        while not self._sleep():
            if self._launcher not in (None, os.getppid()):  # torchrun was killed: save, and end
                os.kill(os.getpid(), signal.SIGTERM)
                return
            try:
                self._round()
            except dist.DistError:  # the store is gone, and with it whoever ended the job
                self._heartbeats, self._store_is_gone = None, True
            if self._store_is_gone:
                self._judge_alone()
            if self._ends:
                os._exit(1)

    def _sleep(self) -> bool:
        """Whether the watch has ended. It wakes up late where the process was stopped."""
        pauses.sleeps(self._pause)
        has_ended = self._end.wait(self._pause)
        pauses.woke()
        return has_ended

    def _round(self) -> None:
        """Send and receive, and judge where it is this rank's task."""
        own, heartbeats = self._own_heartbeat(), self._heartbeats
        self._ranks[self._rank].update(own, pauses.clock())
        if heartbeats is None:
            if not self._store_is_gone:  # there are no others
                self._judge()
            return
        heartbeats.send(own)
        if heartbeats.is_leader and heartbeats.step_down():
            self._heard_at = pauses.clock()
        if not heartbeats.is_leader:
            self._follow(heartbeats)
            return
        for one, heartbeat in zip(self._ranks, heartbeats.receive(), strict=True):
            if heartbeat is not None:
                one.update(heartbeat, pauses.clock())
        self._heard_at = pauses.clock()
        self._gone = [one.rank for one in self._ranks if self._silence(one) > self._pause + _SILENT]
        self._judge()
        found: Finding = {"leader": own | {"rank": self._rank}, "gone": self._gone}
        heartbeats.publish(found | {"ends": self._ends})

    def _own_heartbeat(self) -> Heartbeat:
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

    def _follow(self, heartbeats: Heartbeats) -> None:
        """Adopt the leader's finding; where no new one comes, take over."""
        finding, now = heartbeats.finding(), pauses.clock()
        if finding is not None:
            leader = finding["leader"]
            known = self._ranks[leader["rank"]]
            if leader["beat"] != known.beat:
                known.update(leader, now)
                self._gone, self._ends, self._heard_at = finding["gone"], finding["ends"], now
                return
        if now - self._heard_at > self._pause + _SILENT / 2:
            heartbeats.take_over()
            self._heard_at = now

    def _silence(self, one: _Rank) -> float:
        """Seconds without a heartbeat, up to when all were read last."""
        return self._heard_at - one.beat_at

    def _judge(self) -> None:
        """Warn where all ranks have stalled, and end the run where that goes on."""
        stalled = pauses.clock() - max(one.count_at for one in self._ranks)
        gone = self.gone()  # their last heartbeat says nothing of now
        patience = max((one.patience for one in self._ranks if one not in gone), default=0.0)
        if not self._seconds:
            return
        if stalled > _ENDS_AFTER * patience or self._is_lost(gone, stalled):
            self._give_up(self._diagnosis(stalled))
        elif stalled < patience:
            self._has_warned = False
        elif not self._has_warned:
            ends = f"if that goes on, the run ends at {_ENDS_AFTER * patience:.0f} s"
            self._has_warned = True
            with suppress(OSError):
                print(f"warning: {self._diagnosis(stalled)}; {ends}", file=sys.stderr, flush=True)

    def _is_lost(self, gone: list[_Rank], stalled: float) -> bool:
        """Whether ranks are gone for good, and the others wait in NCCL."""
        return self._on_gpu and any(
            min(stalled, self._silence(one)) > _lost_after(one.doing) for one in gone
        )

    def _judge_alone(self) -> None:
        """End this rank where it waits in NCCL, and can't hear why."""
        own = self._ranks[self._rank]
        stalled = pauses.clock() - own.count_at
        if self._on_gpu and self._seconds and stalled > _lost_after(own.doing):
            self._give_up(
                f"no progress for {stalled:.0f} s on {own}, and torchrun's store is gone: it has "
                "ended on the machine that kept it, or that machine is lost"
            )

    def _diagnosis(self, stalled: float) -> str:
        gone = self.gone()
        heard = [one.last_heard() for one in gone or self._ranks]
        if gone:
            blamed = (
                f"{_some(heard)} {_are(gone)} silent, and the others wait; look at that machine"
            )
        else:
            blamed = f"all ranks live: {_some(heard)}"
        return f"no progress for {stalled:.0f} s: {blamed}"

    def _give_up(self, why: str) -> None:
        """Report it; this round is the last one, even where nothing can be printed or looked up."""
        self._ends = True
        with suppress(OSError):
            end = f"the run is ended; {self._how_to_resume()}"
            print(f"error: {why}; {end}", file=sys.stderr, flush=True)


def _lost_after(doing: str) -> float:
    """Seconds after which a rank that was last heard `doing` something is lost for certain."""
    return _LOST_AFTER * (10 if doing in _SLOW else 1)


@contextmanager
def watching(ranks: Ranks, how_to_resume: Callable[[], str], seconds: float) -> Iterator[Progress]:
    """Watch over what happens inside; a lost partner is one line, and exit status 1.

    `how_to_resume` and `seconds` are Watch's.
    """
    progress = Progress()
    watch = Watch(ranks, how_to_resume, progress, seconds)
    watch.start()
    try:
        yield progress
    except RuntimeError as error:
        if ranks.world_size == 1 or not _BROKEN.search(str(error)):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, who has noticed, too
        lost = _lost_partner(watch, error)
        if watch.is_leader():
            print(f"error: {lost}; {how_to_resume()}", file=sys.stderr, flush=True)
        raise SystemExit(1) from error
    finally:
        watch.stop()


def _lost_partner(watch: Watch, error: RuntimeError) -> str:
    """Which rank is gone, once its silence is certain."""
    until = time.monotonic() + 15  # the one that would notice may be the one that is gone
    while not watch.gone() and time.monotonic() < until:
        time.sleep(0.2)
    gone = watch.gone()
    if gone:
        return f"{_some(list(map(str, gone)))} {_are(gone)} gone (killed, or out of memory?)"
    return f"the connection to another rank broke ({_first(error)})"


def _some(ranks: list[str]) -> str:
    listed = ", ".join(ranks[:8])
    return listed + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


def _are(ranks: list[_Rank]) -> str:
    return "are" if len(ranks) > 1 else "is"


def _first(error: RuntimeError) -> str:
    return str(error).splitlines()[0][:200]
