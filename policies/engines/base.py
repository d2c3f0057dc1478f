"""What an engine is to a policy: defaults to start from, and words to say the policy in.

A policy is said to an engine by its differences: every key of the config whose value is not the
engine's default becomes an option of its command line, or a *departure*, a sentence that says which
key the engine has no word for and what it would do instead. So one walk over the config is both the
launch command and the list of what a simulation does that the engine could not.

It knows keys and words. What the keys do is the strategies' matter, and it starts nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policies.config import Config

    Say = Callable[[Any, Config], str | None]
    """A value in the engine's words; an empty string where the option takes none (a switch), and
    None where the engine has no word for it."""


@dataclass(frozen=True, slots=True)
class Option:
    """How one key of the config is said.

    Attributes:
        flag: the command's option, or an environment variable if it does not begin with `--`; empty
            where there is none.
        say: the value in the engine's words.
        otherwise: what the engine does where it has no word for the value.
    """

    flag: str
    say: Say
    otherwise: str = ""


@dataclass(frozen=True, slots=True)
class Translation:
    """A config in an engine's words.

    Attributes:
        environment: variables to set, as `NAME=value`.
        arguments: the launch command, an option with its value in each.
        departures: what the engine could not do, a sentence each.
    """

    environment: tuple[str, ...]
    arguments: tuple[tuple[str, ...], ...]
    departures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Engine:
    """See the module.

    Attributes:
        name: as `preset` and `twin export --to` name it.
        product: its name and the version followed.
        command: what launches it; the model's path comes next.
        preset: its defaults, sections of a config. A key left out has the config's own default.
        options: how each key of the config is said, by dotted key.
        clashes: combinations that it refuses to start with.
    """

    name: str
    product: str
    command: tuple[str, ...]
    preset: Mapping[str, Any]
    options: Mapping[str, Option]
    clashes: Callable[[Config], list[str]] = lambda _: []

    def translate(self, config: Config) -> Translation:
        """Say a config in this engine's words."""
        from policies.config import Config

        defaults = spelled_out(Config.model_validate({"preset": self.name}))
        environment: list[str] = []
        arguments: list[tuple[str, ...]] = []
        departures = self.clashes(config)
        unsaid: set[str] = set()
        for key, value in spelled_out(config).items():
            if key.startswith("policy.priority.") and not config.policy.priority.enabled:
                continue  # nothing reads them
            strategy, nested, _ = key.rpartition("_options.")
            if nested and strategy in unsaid:
                continue  # options of a strategy that the engine does not have
            if key in defaults and value == defaults[key]:
                continue
            option = self.options.get(key)
            if option is None and key.startswith("policy.accidents."):
                continue  # another engine's
            said = None if option is None else option.say(value, config)
            if option is None or said is None:
                unsaid.add(key)
                otherwise = option.otherwise if option else f"{self.product} has nothing like it"
                departures.append(f"{key} is {json.dumps(value)}: {otherwise}")
            elif option.flag.startswith("--"):
                arguments.append((option.flag, said) if said else (option.flag,))
            else:
                environment.append(f"{option.flag}={said}")
        return Translation(tuple(environment), tuple(arguments), tuple(departures))


def departures(config: Config) -> tuple[str, ...]:
    """What the engine that a config starts from could not do of it; nothing without a preset."""
    if config.preset is None:
        return ()
    from policies.engines import engine

    return engine(config.preset).translate(config).departures


def spelled_out(config: Config) -> dict[str, Any]:
    """The keys that an engine is told, dotted, with their values."""
    found: dict[str, Any] = {}
    for section in ("policy", "model", "kv"):
        _spell(getattr(config, section).model_dump(mode="json"), section, found)
    del found["model.path"]  # it comes first in every command
    return found


def _spell(section: Mapping[str, Any], prefix: str, found: dict[str, Any]) -> None:
    for key, value in section.items():
        if isinstance(value, dict):
            _spell(value, f"{prefix}.{key}", found)
        else:
            found[f"{prefix}.{key}"] = value


def laid_under(preset: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with a preset's values where it has none of its own.

    The preset's options of a strategy go with that strategy: where another is chosen, they do not
    count.
    """
    merged = {**preset, **over}
    for key, below in preset.items():
        above = over.get(key)
        strategy = key.removesuffix("_options")
        if strategy != key and over.get(strategy, preset.get(strategy)) != preset.get(strategy):
            merged[key] = above if above is not None else {}
        elif isinstance(below, dict) and isinstance(above, dict):
            merged[key] = laid_under(below, above)
    return merged


# -- how values are said ------------------------------------------------------------------------


def value_of(value: Any, _: Config) -> str:
    """As it is."""
    return str(value)


def if_on(value: Any, _: Config) -> str | None:
    """A switch for true; there is no word for false."""
    return "" if value is True else None


def if_off(value: Any, _: Config) -> str | None:
    """A switch for false; there is no word for true."""
    return "" if value is False else None


def named(words: Mapping[Any, str]) -> Say:
    """The word for each value that has one."""
    return lambda value, _: words.get(value)


def unless_auto(value: Any, _: Config) -> str | None:
    """A number; there is no word for auto or null."""
    return str(value) if isinstance(value, int | float) else None


def never(_value: Any, _: Config) -> None:
    """No word for any value."""
