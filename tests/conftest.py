"""Hypothesis profiles: `ci` is repeatable and short; `HYPOTHESIS_PROFILE=thorough` searches on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from policies import BATCHINGS, EVICTIONS, ORDERS, RETRACTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=100, suppress_health_check=SLOW
)
settings.register_profile(
    "thorough", deadline=None, max_examples=3000, suppress_health_check=SLOW, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _ctrl_c_can_be_sent() -> Iterator[None]:
    """A runner in the background may ignore SIGINT, and children would inherit that."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def _no_strategy_outlives_its_test() -> Iterator[None]:
    """What a test registers is known to it alone."""
    registries = (ORDERS, BATCHINGS, EVICTIONS, RETRACTIONS)
    for registry in registries:
        registry._load()  # so that those that ship are there
    known = [dict(registry._classes) for registry in registries]
    yield
    for registry, classes in zip(registries, known, strict=True):
        registry._classes.clear()
        registry._classes.update(classes)
