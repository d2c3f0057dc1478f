"""Strategies by name: from a config, from a notebook cell, or from another package.

A strategy is a class. Its options are the keyword parameters of its constructor, and are checked
against their annotations. Three ways lead in:

- `@ORDERS.register("mine")` above a class, in a notebook or a module;
- an entry point `mine = "my_package.module:MyOrder"` in the group `schedtwin.orders` (and so on) of
  another distribution, found when a name is not known;
- the members that ship, imported when the registry is first asked.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


class UnknownStrategyError(ValueError):
    """A name that no strategy has."""


class StrategyOptionError(ValueError):
    """An option that a strategy does not take, or a value that it cannot have."""


class StrategyError(RuntimeError):
    """A strategy did what none may do; the message names it."""


class Registry(Generic[T]):
    """The strategies of one kind.

    Args:
        kind: what they are, in the singular, for messages.
        group: entry point group of other distributions' members.
        modules: modules whose import registers the members that ship.
    """

    def __init__(self, kind: str, group: str, modules: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._group = group
        self._modules = modules
        self._classes: dict[str, type] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[type], type]:
        """Class decorator: know the class by `name`, in place of any class known by it before."""

        def add(cls: type) -> type:
            self._classes[name] = cls
            return cls

        return add

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            before = dict(self._classes)  # a name registered already is not taken by one that ships
            for module in self._modules:
                importlib.import_module(module)
            self._classes.update(before)

    def names(self) -> list[str]:
        """The names known, sorted; entry points of installed packages included."""
        from importlib.metadata import entry_points

        self._load()
        return sorted({*self._classes, *(ep.name for ep in entry_points(group=self._group))})

    def get(self, name: str) -> type:
        """The class of that name.

        Raises:
            UnknownStrategyError: lists the names known.
        """
        self._load()
        if name not in self._classes:
            from importlib.metadata import entry_points

            for entry in entry_points(group=self._group, name=name):
                self._classes[name] = entry.load()
        if name not in self._classes:
            msg = f"unknown {self.kind} {name!r}; known are {', '.join(self.names())}"
            raise UnknownStrategyError(msg)
        return self._classes[name]

    def create(self, name: str, options: Mapping[str, Any] | None = None) -> T:
        """A new strategy.

        Args:
            name: as registered.
            options: keyword arguments of its constructor.

        Raises:
            UnknownStrategyError: for an unknown name.
            StrategyOptionError: for an option that it does not take, or an impossible value.
        """
        cls = self.get(name)
        strategy: T = cls(**self._checked(name, cls, options or {}))
        return strategy

    def _checked(self, name: str, cls: type, options: Mapping[str, Any]) -> Mapping[str, Any]:
        parameters = {
            key: parameter
            for key, parameter in inspect.signature(cls).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        for key in options:
            if key not in parameters:
                takes = f"it takes {', '.join(parameters)}" if parameters else "it takes none"
                msg = f"{self.kind} {name!r} has no option {key!r}; {takes}"
                raise StrategyOptionError(msg)
        if not options:
            return options
        from pydantic import TypeAdapter, ValidationError

        hints = get_type_hints(getattr(cls, "__init__"))  # noqa: B009
        checked = {}
        for key, value in options.items():
            try:
                checked[key] = TypeAdapter(hints.get(key, Any)).validate_python(value)
            except ValidationError as error:
                why = error.errors()[0]["msg"]
                msg = f"option {key!r} of {self.kind} {name!r} cannot be {value!r}: {why}"
                raise StrategyOptionError(msg) from None
        try:
            cls(**checked)
        except ValueError as error:
            msg = f"{self.kind} {name!r} with {dict(checked)}: {error}"
            raise StrategyOptionError(msg) from None
        return checked


ORDERS: Registry[Any] = Registry(
    "queue order",
    "schedtwin.orders",
    tuple(
        f"policies.orders.{module}"
        for module in (
            "dfs_weight",
            "fair",
            "fcfs",
            "hrrn",
            "lof",
            "lpm",
            "random_order",
            "routing_key",
            "shortest_prefill_first",
        )
    ),
)
BATCHINGS: Registry[Any] = Registry(
    "batching",
    "schedtwin.batching",
    tuple(
        f"policies.batching.{module}"
        for module in ("prefill_first", "mixed", "static", "decode_first")
    ),
)
EVICTIONS: Registry[Any] = Registry("eviction", "schedtwin.eviction", ("policies.cache.eviction",))
RETRACTIONS: Registry[Any] = Registry(
    "retraction", "schedtwin.retraction", ("policies.retraction",)
)
