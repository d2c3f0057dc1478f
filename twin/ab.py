"""`twin ab`: one workload under several configs, which differ in what is varied, and the comparison.

Every variant serves the very same requests, so differences are taken request by request.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from twin.failures import BadInput
from twin.options import Given, options, takes_given
from twin.simulate import RECORDING_OPTIONS, record_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from simulator.config import SimulatorConfig


class Variant(NamedTuple):
    """A config with its name in the table."""

    name: str
    config: SimulatorConfig


EXAMPLES = (
    "\b\nExamples:"
    "\n  twin ab --workload mooncake-conversation --limit 500 --order fcfs --order lpm"
    "\n  twin ab --trace my.jsonl.gz --vary policy.batching=prefill-first,mixed"
)


@click.command(epilog=EXAMPLES)
@takes_given
@click.option(
    "--order",
    "orders",
    multiple=True,
    metavar="NAME",
    help="A queue order to compare; repeatable. The first is the baseline.",
)
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=V1,V2",
    help="A key of the config and the values to compare; several keys: every combination.",
)
@click.option("--out", metavar="DIR", help="Folder for runs and plots [runs/ab-WORKLOAD].")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=min(2, os.cpu_count() or 1),
    help="Simulations at a time, each in its own process [2].",
)
@options(*RECORDING_OPTIONS)
def ab(
    given: Given,
    orders: tuple[str, ...],
    vary: tuple[str, ...],
    out: str | None,
    jobs: int,
    records: str,
    *,
    overwrite: bool,
    strict: bool,
    leap: bool,
    as_json: bool,
) -> None:
    """Simulate one workload under several policies, and compare.

    A run folder per variant, the comparison (also as comparison.txt) and plots go to --out.
    """
    from traces.records.comparison import compare
    from traces.records.run import load_run
    from twin import show
    from twin.parallel import Task, run_all

    chosen = variants(given, orders, vary)
    wanted = record_names(records)
    workload = given.load_workload(chosen[0].config.seed)
    if out is None:
        from twin.folders import new_folder

        folder = new_folder(f"ab-{workload.name}")
    else:
        folder = Path(out)
    tasks = [
        Task(
            name,
            folder / name,
            workload,
            config.model_dump(mode="json"),
            wanted,
            overwrite,
            strict,
            leap,
            given.policy_files,
            given.modules,
        )
        for name, config in chosen
    ]
    with progress_bars(
        [task.name for task in tasks], len(workload), shown=sys.stderr.isatty() and not as_json
    ) as on_progress:
        run_all(tasks, jobs, on_progress)
    runs = [load_run(task.folder) for task in tasks]
    comparison = compare(runs)
    (folder / "comparison.txt").write_text(f"{comparison}\n", encoding="utf-8")
    if as_json:
        show.show_json(comparison.to_dict())
    else:
        show.show(comparison.table())
    click.echo(f"runs: {', '.join(str(task.folder) for task in tasks)}", err=True)
    show.save_and_name_plots(runs, folder / "plots", [run.name for run in runs])


def variants(given: Given, orders: Sequence[str], vary: Sequence[str]) -> list[Variant]:
    """The configs to compare, every combination of what is varied; each is checked.

    Raises:
        BadInput: where fewer than two are left, or a key or a variant is there twice.
        ConfigError: for a config that cannot be used.
    """
    keys = ["policy.order"] * bool(orders) + [setting.partition("=")[0].strip() for setting in vary]
    varied_twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    if varied_twice is not None:
        raise BadInput(
            f"{varied_twice} is varied twice (--order varies policy.order): give all its values at once"
        )
    axes = [_axis(setting) for setting in vary]
    if orders:
        axes.insert(0, [(order, f"policy.order={json.dumps(order)}") for order in orders])
    combinations = [list(zip(*chosen, strict=True)) for chosen in product(*axes)] if axes else []
    if len(combinations) < 2:
        raise BadInput("nothing to compare: give --order twice or more, or --vary KEY=V1,V2")
    found = [
        Variant(_folder_name(names), given.load_config(settings))
        for names, settings in combinations
    ]
    names = [variant.name for variant in found]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise BadInput(f"the variant {twice} is there twice; give each value once")
    return found


def _axis(vary: str) -> list[tuple[str, str]]:
    """Each value of `KEY=V1,V2` as a name and a setting; values are YAML."""
    import yaml

    key, equals, text = vary.partition("=")
    try:
        values: Any = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        values = []
    if not equals or not key or not values:
        raise BadInput(f"--vary {vary!r} is not of the form section.key=value,value")
    last = key.strip().rpartition(".")[2]
    return [
        (
            str(value) if key.strip() == "policy.order" else f"{last}={_plain(value)}",
            f"{key}={json.dumps(value)}",
        )
        for value in values
    ]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _folder_name(names: Sequence[str]) -> str:
    from twin.folders import file_name

    return file_name(",".join(names))


@contextmanager
def progress_bars(
    names: Sequence[str], total: int, *, shown: bool
) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar a run, on stderr; what to call with a run's name, ended requests and total."""
    if not shown:
        yield lambda _name, _ended, _total: None
        return
    from traces.progress import request_bars

    with request_bars() as bars:
        tasks = {name: bars.add_task(name, total=total, start=False) for name in names}

        def advance(name: str, ended: int, _total: int) -> None:
            bars.start_task(tasks[name])
            bars.update(tasks[name], completed=ended)

        yield advance
