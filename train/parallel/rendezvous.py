"""How ranks meet: each comes to a store, which torchrun or rank 0 keeps, and waits for the others.

They wait in Python: signals would have to wait, too, while C++ does.
"""

import os
import socket
import sys
import time
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist

from alexnet_dali.pipeline.system.faults import ResourceError, gist

_MEETS_WITHIN = timedelta(minutes=15)
"""How long ranks wait for each other: nodes of a cluster start minutes apart."""

_TOLD_AFTER = 10.0
"""Seconds after which a rank says for whom it waits."""


class Place(NamedTuple):
    """Where ranks meet, as the environment has it."""

    host: str
    port: int
    is_torchruns: bool  # who keeps the store; otherwise rank 0
    attempt: str  # torchrun keeps it when it starts ranks again: what dead ones said is in it
    launcher: int | None  # torchrun's process
    said_by: str  # variables, and how to do without


def meet(place: Place, rank: int, world_size: int) -> dist.Store:
    """The store, once all ranks have come to it.

    ResourceError where torchrun is gone, or they do not come. ValueError where rank 0 can't listen.
    """
    meeting, began, has_told = _Meeting(place, rank, world_size), time.monotonic(), False
    while missing := meeting.missing():
        waited = time.monotonic() - began
        about = f"{missing} at {place.host}:{place.port}, as the environment says: {place.said_by}"
        if place.launcher not in (None, os.getppid()) or (meeting.is_lost and waited > _TOLD_AFTER):
            raise ResourceError("torchrun is gone (killed, or out of memory?); rerun the command")
        if waited > _MEETS_WITHIN.total_seconds():
            raise ResourceError(f"rank {rank} has waited {_MEETS_WITHIN} in vain for {about}")
        if waited > _TOLD_AFTER and not has_told:
            print(f"rank {rank} waits for {about}", file=sys.stderr, flush=True)
            has_told = True
        time.sleep(min(0.02 + waited / 10, 1.0))
    assert meeting.store is not None
    return meeting.store


class _Meeting:
    """Whom a rank waits for, as far as it knows."""

    store: dist.Store | None = None
    is_lost = False
    """Whether torchrun no longer keeps the store: it did when it started this rank."""

    def __init__(self, place: Place, rank: int, world_size: int) -> None:
        self._place, self._rank, self._world_size = place, rank, world_size

    def missing(self) -> str:
        """Whom it waits for, in words; empty once all are here."""
        place, world_size = self._place, self._world_size
        if self.store is None:
            try:
                found = self._open()
            except (OSError, dist.DistNetworkError) as error:
                self.is_lost = place.is_torchruns and isinstance(error, ConnectionRefusedError)
                keeper = "torchrun's store" if place.is_torchruns else "rank 0"
                return f"{keeper} ({gist(error)})"
            self.store = dist.PrefixStore(f"attempt {place.attempt} of {world_size}", found)
            self.store.append("here", f"{self._rank} ")  # type: ignore[attr-defined]
        missing = set(range(world_size)) - set(map(int, self.store.get("here").split()))
        listed = ", ".join(map(str, sorted(missing)[:8])) + ", ..." * (len(missing) > 8)
        return f"{len(missing)} of {world_size} ranks ({listed})" if missing else ""

    def _open(self) -> dist.TCPStore:
        """The store; OSError where nobody keeps it, or not yet."""
        host, port, is_torchruns, *_ = self._place
        if self._rank > 0 or is_torchruns:
            socket.create_connection((host, port), timeout=5).close()
            return dist.TCPStore(host, port, self._world_size, False, _MEETS_WITHIN)
        try:
            return dist.TCPStore(
                host, port, self._world_size, True, _MEETS_WITHIN, False, multi_tenant=True
            )
        except dist.DistNetworkError as error:
            raise ValueError(
                f"rank 0 can't listen at {host}:{port} ({gist(error)}); if another run does, give "
                "this one a port of its own (MASTER_PORT, or torchrun --standalone)"
            ) from error
