"""Strategies by name: from a config, a notebook cell, another package; and what is said of mistakes."""

from __future__ import annotations

import importlib.metadata
import sys
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest

from policies import BATCHINGS, EVICTIONS, ORDERS, RETRACTIONS, PolicyConfig, QueueView, Request
from policies.orders.base import KeyOrder, QueueOrder
from policies.registry import Registry, StrategyOptionError, UnknownStrategyError
from tests.policies.world import Client, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class ShortestPromptFirst(KeyOrder):
    """What someone writes in a notebook.

    Args:
        weight: how much an output token counts beside a prompt token.
    """

    def __init__(self, *, weight: float = 0.0) -> None:
        if weight < 0:
            raise ValueError("weight must not be negative")
        self.weight = weight

    def key(self, request: Request, view: QueueView) -> float:
        return request.prompt_len + self.weight * request.max_new_tokens


@pytest.fixture
def orders() -> Iterator[None]:
    """Forget what a test adds to the queue orders."""
    ORDERS.names()
    known = dict(ORDERS._classes)
    yield
    ORDERS._classes.clear()
    ORDERS._classes.update(known)


@pytest.mark.parametrize(
    ("registry", "members"),
    [
        (ORDERS, {"fcfs", "lpm", "dfs-weight", "lof", "random", "hrrn", "routing-key"}),
        (ORDERS, {"shortest-prefill-first"}),
        (BATCHINGS, {"prefill-first", "mixed", "static"}),
        (EVICTIONS, {"lru", "lfu", "fifo", "filo", "mru", "priority", "slru"}),
        (RETRACTIONS, {"fewest-outputs", "priority", "last-in"}),
    ],
)
def test_what_ships_is_known(registry: Registry[Any], members: set[str]) -> None:
    assert members <= set(registry.names())
    for name in members:
        registry.create(name)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownStrategyError, match=r"unknown queue order 'sjf'; known are .*fcfs.*lpm"
    ):
        ORDERS.create("sjf")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fcfs", {"seed": 1}, "queue order 'fcfs' has no option 'seed'; it takes none"),
        ("random", {"sed": 1}, "'random' has no option 'sed'; it takes seed"),
        ("random", {"seed": "x"}, "option 'seed' of queue order 'random' cannot be 'x': .*integer"),
        ("lpm", {"fallback_queue": None}, "'fallback_queue' of .* cannot be None"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyOptionError, match=message):
        ORDERS.create(name, options)


@pytest.mark.usefixtures("orders")
def test_a_class_from_a_notebook_runs() -> None:
    ORDERS.register("shortest-prompt")(ShortestPromptFirst)
    policy = PolicyConfig(
        order="shortest-prompt",
        order_options={"weight": 0.5},
        max_running_requests=1,
        chunked_prefill_size=None,
    )
    clients = [Client("long", (5,) * 9, (), 3), Client("short", (6,), (), 3)]
    run = World(policy, 100, clients).run()
    assert [prefill[0][0] for _, _, prefill, *_ in run.batches if prefill] == ["short", "long"]


@pytest.mark.usefixtures("orders")
def test_the_options_of_a_class_from_a_notebook_are_checked() -> None:
    ORDERS.register("shortest-prompt")(ShortestPromptFirst)
    with pytest.raises(StrategyOptionError, match=r"'weight' .* cannot be 'much'"):
        ORDERS.create("shortest-prompt", {"weight": "much"})
    with pytest.raises(StrategyOptionError, match="weight must not be negative"):
        ORDERS.create("shortest-prompt", {"weight": -1})


@pytest.mark.usefixtures("orders")
def test_registering_a_name_again_takes_its_place() -> None:
    ORDERS.register("lof")(ShortestPromptFirst)
    assert ORDERS.get("lof") is ShortestPromptFirst


def test_a_class_registered_first_stays_in_place_of_one_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry: Registry[Any] = Registry("thing", "nobody.offers", ("things_that_ship",))
    (tmp_path / "things_that_ship.py").write_text(
        "import things\n\n@things.registry.register('mine')\nclass Shipped: ...\n"
    )
    (tmp_path / "things.py").write_text("registry = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    import things  # type: ignore[import-not-found]

    things.registry = registry
    registry.register("mine")(ShortestPromptFirst)
    try:
        assert registry.get("mine") is ShortestPromptFirst
    finally:
        for module in ("things", "things_that_ship"):
            sys.modules.pop(module, None)


class Offered(QueueOrder):
    """What another distribution brings."""

    def arrange(self, waiting: Sequence[Request], view: QueueView) -> list[Request]:
        return list(reversed(waiting))


@pytest.mark.usefixtures("orders")
def test_another_package_brings_a_strategy_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = EntryPoint("last-come", f"{__name__}:Offered", "schedtwin.orders")

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [offered] if group == offered.group and name in (None, offered.name) else []

    monkeypatch.setitem(sys.modules, __name__, sys.modules[Offered.__module__])
    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert "last-come" in ORDERS.names()
    assert isinstance(ORDERS.create("last-come"), Offered)
    with pytest.raises(UnknownStrategyError, match=r"known are .*last-come"):
        ORDERS.create("first-come")


def test_an_order_that_loses_requests_is_named() -> None:
    known = dict(ORDERS._classes)
    try:
        ORDERS.register("lossy")(type("Lossy", (QueueOrder,), {"arrange": lambda *_: []}))
        policy = PolicyConfig(order="lossy", max_running_requests=2, chunked_prefill_size=None)
        with pytest.raises(RuntimeError, match=r"queue order 'lossy' .*left out 'a'"):
            World(policy, 100, [Client("a", (5,), (), 3)]).run()
    finally:
        ORDERS._classes.clear()
        ORDERS._classes.update(known)
