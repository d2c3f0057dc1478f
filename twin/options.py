"""What a run is made from, as options that commands share, and the config and workload behind them.

The options are declared here once; reading them imports what they need. A command takes them as one
value, `Given`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from policies.engines import NAMES
from twin.failures import BadInput, bad_input

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from policies.config import Config
    from simulator.config import SimulatorConfig
    from traces.workload import Workload

Command = TypeVar("Command", bound="Callable[..., Any]")

CONFIG_OPTIONS = (
    click.option("--config", metavar="FILE", help="YAML config; see `twin config` for its keys."),
    click.option(
        "--preset",
        type=click.Choice(NAMES),
        help="Start from an engine's defaults, below the config [config: preset].",
    ),
    click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a key of the config, as policy.order=lpm; repeatable.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), help="Seed of all that is drawn [config: seed]."
    ),
)
PLUGIN_OPTIONS = (
    click.option(
        "--policy",
        "policy_files",
        metavar="FILE.py",
        multiple=True,
        help="Import a Python file that registers policies; repeatable.",
    ),
    click.option(
        "--import",
        "modules",
        metavar="MODULE",
        multiple=True,
        help="Import a module that registers policies; repeatable.",
    ),
)
READING_OPTIONS = (
    click.option(
        "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N requests."
    ),
    click.option("--skip-bad-rows", is_flag=True, help="Leave bad rows out, and count them."),
    click.option(
        "--mooncake-arrivals",
        type=click.Choice(["spread", "keep"]),
        default="spread",
        show_default=True,
        help="Spread a Mooncake file's 3 s arrival batches over their interval, or keep them.",
    ),
)
WORKLOAD_OPTIONS = (
    click.option(
        "--trace", metavar="PATH", help="Trace, or a fetched one by name; see `twin trace formats`."
    ),
    click.option(
        "--workload", metavar="PRESET", help="Generated workload; see `twin trace presets`."
    ),
    *READING_OPTIONS,
    click.option(
        "--speedup", type=float, default=1.0, metavar="X", help="Arrivals X times faster."
    ),
    click.option(
        "--rate",
        type=float,
        metavar="R",
        help="Requests per second of a generated workload [the preset's own].",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        metavar="N",
        help="Closed loop: N clients or sessions at once, each sending when it has its answer.",
    ),
    click.option(
        "--loop",
        type=click.Choice(["auto", "open", "closed"]),
        help="Requests at the trace's times, or when what they wait for is there [config: auto].",
    ),
)


@dataclass(frozen=True, slots=True)
class Given:
    """What was said on the command line about config, policies and workload, as it was said."""

    config: str | None
    preset: str | None
    settings: tuple[str, ...]
    seed: int | None
    policy_files: tuple[str, ...]
    modules: tuple[str, ...]
    trace: str | None
    workload: str | None
    limit: int | None
    skip_bad_rows: bool
    mooncake_arrivals: Literal["spread", "keep"]
    speedup: float
    rate: float | None
    concurrency: int | None
    loop: str | None

    def load_config(self, more: Sequence[str] = ()) -> SimulatorConfig:
        """The config, with the settings and `more` settings over it; policies are imported first."""
        sent = {"concurrency": self.concurrency, "loop": self.loop}
        said = [f"workload.{key}={value}" for key, value in sent.items() if value is not None]
        settings = [*said, *self.settings, *more]
        config = read_config(
            self.config, self.preset, settings, self.seed, self.policy_files, self.modules
        )
        note_departures(config)
        note_fallback(config)
        note_unread(config)
        return config

    def load_workload(self, seed: int) -> Workload:
        """The workload; bad rows that were left out are counted on stderr.

        Raises:
            BadInput: for a value that cannot be used.
            TraceError: for a trace that cannot be read.
        """
        from traces.generate import presets

        if (self.trace is None) == (self.workload is None):
            known = ", ".join(presets())
            raise click.UsageError(
                f"give either --trace PATH or --workload PRESET; presets are {known}"
            )
        if self.trace is not None and self.rate is not None:
            raise click.UsageError(
                "--rate is for a generated workload; --speedup makes a trace's arrivals faster"
            )
        with bad_input():
            if self.trace is not None:
                work = read_workload(
                    self.trace, self.limit, self.skip_bad_rows, self.mooncake_arrivals, seed
                )
            else:
                assert self.workload is not None
                work = generated(self.workload, n=self.limit, rate=self.rate, seed=seed)
            return work if self.speedup == 1.0 else work.speedup(self.speedup)


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in their order."""

    def add(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return add


def takes_given(command: Callable[..., None]) -> Callable[..., None]:
    """Declare all shared options on a command, which gets them as its first argument, a `Given`."""

    @functools.wraps(command)
    def packed(**values: Any) -> None:
        given = Given(**{field.name: values.pop(field.name) for field in fields(Given)})
        command(given, **values)

    return options(*WORKLOAD_OPTIONS, *CONFIG_OPTIONS, *PLUGIN_OPTIONS)(packed)


def read_config(
    file: str | None,
    preset: str | None,
    settings: Sequence[str],
    seed: int | None,
    policy_files: Sequence[str],
    modules: Sequence[str],
) -> SimulatorConfig:
    """A config from the options that speak of it.

    Raises:
        ConfigError: for a config that cannot be used.
        BadInput: for a policy that cannot be imported.
    """
    from policies.config import load_config
    from simulator.config import SimulatorConfig
    from twin.plugins import load_plugins

    load_plugins(policy_files, modules)
    if preset is not None:
        settings = [f"preset={preset}", *settings]
    if seed is not None:
        settings = [*settings, f"seed={seed}"]
    config = load_config(SimulatorConfig, file, settings)
    check_runtime_section(config, file)
    return config


def check_runtime_section(config: Config, file: str | None) -> None:
    """What the simulator does not read may still be wrong: the runtime says so, as it would itself.

    Raises:
        ConfigError: for an unknown key or an impossible value in the section `runtime`.
    """
    from policies.config import make_config
    from runtime.config import RuntimeConfig

    make_config(RuntimeConfig, {"runtime": config.runtime}, source=file)


def note_departures(config: Config) -> None:
    """Say on stderr what the preset's engine could not do of a config."""
    from policies.engines.base import departures

    for departure in departures(config):
        _say_once(f"beyond {config.preset}: {departure}")


def note_fallback(config: SimulatorConfig) -> None:
    """Say on stderr where an order has nothing to look at and the queue stays first come."""
    from policies.registry import ORDERS

    policy = config.policy
    if policy.cache == "none" and ORDERS.create(policy.order, policy.order_options).cache_aware:
        _say_once(
            f"note: order {policy.order} goes by the prefix cache; with policy.cache none the queue "
            "stays in fcfs order, as in SGLang"
        )


def note_unread(config: Config) -> None:
    """Say on stderr where one key of KV memory hides the other; a preset's own is nobody's wish."""
    from policies.engines import engine

    preset = {} if config.preset is None else engine(config.preset).preset.get("kv", {})
    wanted = config.kv.mem_fraction
    if config.kv.capacity_tokens is None or wanted in (None, preset.get("mem_fraction")):
        return
    _say_once(
        f"note: kv.mem_fraction {wanted} is not read: kv.capacity_tokens "
        f"{config.kv.capacity_tokens} says how much KV there is; leave one out"
    )


def _say_once(line: str) -> None:
    """On stderr, once in a call of `twin`, which may read several configs."""
    said: set[str] = click.get_current_context().meta.setdefault(f"{__name__}.said", set())
    if line not in said:
        said.add(line)
        click.echo(line, err=True)


def read_workload(
    path: str,
    limit: int | None,
    skip_bad_rows: bool,
    mooncake_arrivals: Literal["spread", "keep"],
    seed: int,
) -> Workload:
    """A trace; bad rows that were left out are counted on stderr."""
    from pathlib import Path

    from traces.generate import presets
    from traces.readers.read import read_trace

    if path in presets() and not Path(path).exists():
        raise BadInput(f"{path} is a generated workload, not a trace: use --workload {path}")
    work = read_trace(
        path,
        skip_bad_rows=skip_bad_rows,
        limit=limit,
        mooncake_arrivals=mooncake_arrivals,
        seed=seed,
    )
    skipped, messages = work.meta["skipped_rows"], work.meta["skipped_messages"]
    if skipped:
        assert isinstance(messages, list)
        lines = "".join(f"\n  {message}" for message in messages)
        click.echo(f"{path}: {skipped} bad rows left out; the first:{lines}", err=True)
    return work


def generated(
    preset: str,
    *,
    n: int | None = None,
    duration_s: float | None = None,
    rate: float | None = None,
    seed: int = 0,
) -> Workload:
    """A generated workload.

    Raises:
        ValueError: for an unknown preset (a trace's path, perhaps) or an impossible value.
    """
    from pathlib import Path

    from traces.generate import generate, presets

    if preset not in presets() and Path(preset).exists():
        raise ValueError(f"{preset} is a file, not a preset: use --trace {preset}")
    return generate(preset, n=n, duration_s=duration_s, rate=rate, seed=seed)
