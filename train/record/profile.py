"""Where the time of a step goes: a Chrome trace of some steps on each rank.

It shows the decoder's threads, too. Look at it in chrome://tracing or ui.perfetto.dev. The ranges
are: waiting for data, exchange, forward, column gathers, backward, gradient averaging, update. A
replayed step is one range of the host, captured step; its kernels are among the GPU's all the same.
"""

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from alexnet_dali.pipeline.system.files import atomic_write

_SAMPLE_EVERY = 0.005  # seconds
_DECODERS = "[DALI][TP"  # how DALI names the threads of its pool


class Profile:
    """Records `num_steps` steps of this process; with 0 steps, nothing."""

    def __init__(self, num_steps: int, warm_up: int, path: Path, device: torch.device) -> None:
        """`path` is the trace to write; on a GPU, it has the kernels, too.

        `warm_up` steps come before: compilation and first use of memory would fill the picture.
        """
        self._done, self._path = 0, path
        self._first, self.takes = warm_up, warm_up + num_steps
        self.is_on = num_steps > 0  # until the trace is written
        self._on_gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []

    def end_step(self) -> None:
        """Called after each step."""
        if not self.is_on:
            return
        self._done += 1
        if self._done == self._first:
            self._decoders = _DecoderThreads()
            self._profiler = profile(activities=[ProfilerActivity.CPU, *self._on_gpu])
            self._profiler.start()
        elif self._done == self.takes:
            self._profiler.stop()
            self.is_on = False
            self._write(self._decoders.stop())

    def close(self) -> str:
        """At a run's end; says so where it was too short for a trace."""
        if not self.is_on:
            return ""
        if self._done >= self._first:
            self._profiler.stop()
            self._decoders.stop()
        self.is_on = False
        return f"run.profile: no trace; it takes {self.takes} steps of one run"

    def _write(self, decoding: list[dict[str, Any]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace.json")
            self._profiler.export_chrome_trace(path)
            trace = json.loads(Path(path).read_text())
        base = trace.get("baseTimeNanoseconds", 0) / 1000
        trace["traceEvents"] += [event | {"ts": event["ts"] - base} for event in decoding]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path) as file:
            file.write(json.dumps(trace).encode())


class _DecoderThreads:
    """When DALI's threads were at work, sampled from /proc.

    torch.profiler does not see them.
    """

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> list[dict[str, Any]]:
        """Trace events, times in microseconds since 1970."""
        self._stopping.set()
        self._thread.join()
        names = {event["tid"]: event["args"]["thread"] for event in self._events}
        about = {"ph": "M", "name": "thread_name", "pid": os.getpid(), "ts": 0}
        return self._events + [
            about | {"tid": tid, "args": {"name": name}} for tid, name in names.items()
        ]

    def _sample(self) -> None:
        threads = {
            tid: name
            for tid in os.listdir("/proc/self/task")
            if (name := _name(tid)).startswith(_DECODERS)
        }
        before, since = {tid: _ran(tid) for tid in threads}, time.time_ns()
        while not self._stopping.wait(_SAMPLE_EVERY):
            now = time.time_ns()
            for tid, name in threads.items():
                ran = _ran(tid) or before[tid]
                busy = (ran - before[tid]) / (now - since)
                before[tid] = ran
                if busy > 0.1:
                    args = {"share of a core": round(busy, 2), "thread": name}
                    event = {
                        "ph": "X",
                        "cat": "dali",
                        "name": "decode and augment",
                        "pid": os.getpid(),
                    }
                    times = {"ts": since / 1000, "dur": (now - since) / 1000}
                    self._events.append(event | times | {"tid": int(tid), "args": args})
            since = now


def _name(tid: str) -> str:
    return Path(f"/proc/self/task/{tid}/comm").read_text().strip()


def _ran(tid: str) -> int:
    """Nanoseconds that a thread has been on a processor; 0 for one that has ended."""
    try:
        return int(Path(f"/proc/self/task/{tid}/schedstat").read_text().split()[0])
    except OSError:
        return 0
