"""An assumption: a setting that a real run's files do not say, and what stands in for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Assumption(NamedTuple):
    """A setting that the run's files do not say."""

    key: str
    value: object
    why: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}: {self.why}"


def not_given(
    assumptions: Iterable[Assumption], given: Mapping[str, str], keys: Mapping[str, str]
) -> tuple[Assumption, ...]:
    """Those that the config will not be overridden in.

    Args:
        assumptions: of a setup.
        given: settings by their keys, each of a value or a whole section.
        keys: the config's keys, for those that are named as an engine's settings.
    """

    def is_given(key: str) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in given)

    return tuple(one for one in assumptions if not is_given(keys.get(one.key, one.key)))


def resolved(assumptions: Sequence[Assumption], found: Mapping[str, Any]) -> tuple[Assumption, ...]:
    """The same with the numbers that a simulation put in for `auto`.

    Args:
        assumptions: of a setup.
        found: section `resolved` of the simulated run's manifest.
    """
    policy = {f"policy.{key}": value for key, value in found.items()}
    options = found.get("batching_options", {})
    policy |= {f"policy.batching_options.{key}": value for key, value in options.items()}
    return tuple(
        one._replace(value=policy.get(one.key, one.value)) if one.value == "auto" else one
        for one in assumptions
    )
