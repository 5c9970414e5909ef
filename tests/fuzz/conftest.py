"""Profiles: a short form for every run of the tests, and a long one (CONTRIBUTING.md)."""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.processes import Started

_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    # To make a failing archive smaller takes minutes, and tells little.
    "phases": (Phase.explicit, Phase.generate),
    "report_multiple_bugs": False,
}

settings.register_profile("short", max_examples=24, derandomize=True, **_COMMON)
settings.register_profile("long", max_examples=20_000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    """Runs before a parser needs it: one that harness.bounded starts would hand the limit of memory
    on to the processes of all later tests, and its imports would count as the parser's time.
    """
    Started(os.getpid).wait()
