"""A folder to run in, a small trace, and `twin` as a function."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from policies.registry import ORDERS
from traces.generate import generate
from traces.native import write_native
from twin.cli import main

if TYPE_CHECKING:
    from pathlib import Path

Twin = Callable[..., Result]


@pytest.fixture
def twin(tmp_path, monkeypatch) -> Twin:
    """Call the command in an empty folder; an exception that it lets through fails the test."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture(scope="session")
def trace(tmp_path_factory):
    """Twelve requests as a native trace."""
    path = tmp_path_factory.mktemp("trace") / "small.jsonl"
    write_native(generate("mooncake-conversation", n=12, rate=2.0), path)
    return path


@pytest.fixture
def own_orders(monkeypatch):
    """Orders that the test registers are forgotten after it."""
    ORDERS.names()
    monkeypatch.setattr(ORDERS, "_classes", dict(ORDERS._classes))


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Wait until files exist."""
    return _wait_for


def _wait_for(*paths: Path) -> None:
    until = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < until, f"{paths} did not appear"
        time.sleep(0.02)
