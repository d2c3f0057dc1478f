"""`twin validate`: a real run, or several, beside the simulation of the same requests."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policies.engines import NAMES
from twin.failures import BadInput, bad_input
from twin.options import PLUGIN_OPTIONS, options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulator.operators.llmservingsim import Link
    from simulator.validation.compare import Compared, Question
    from simulator.validation.figures import Figures
    from simulator.validation.validate import Validation

EXAMPLES = (
    "\b\nExamples:"
    "\n  twin validate bench/examples/RTX4090/Llama-3.1-8B \\"
    "\n      --profile profiler/perf/RTX4090/meta-llama/Llama-3.1-8B/bf16"
    "\n  twin validate runs/a runs/b runs/c --profile profile.json"
    "\n  twin validate runs/fcfs --other runs/lpm --profile profile.json"
    "\n  twin validate result.json --device h200 --set policy.max_running_requests=256"
)


@click.command(epilog=EXAMPLES)
@click.argument("real", nargs=-1, required=True, metavar="REAL [REAL ...]")
@click.option(
    "--profile",
    metavar="PATH",
    help="How long steps take: a profile's file or name, or a folder of LLMServingSim's profiler.",
)
@click.option("--config", metavar="FILE", help="YAML config, instead of what the run's files say.")
@click.option("--preset", type=click.Choice(NAMES), help="Whose defaults, where no file says.")
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Override a key; repeatable."
)
@click.option("--model", metavar="NAME", help="Instead of what the run's files or --config say.")
@click.option("--device", metavar="NAME", help="Instead of what the run's files or --config say.")
@click.option("--like", metavar="REAL", help="A run whose settings stand in for unknown ones.")
@click.option("--trace", metavar="PATH", help="What was sent, where the results do not hold it.")
@click.option("--line", type=int, metavar="N", help="Which of several results of a file.")
@click.option(
    "--link", metavar="US,GB/S", help="Latency and bandwidth between GPUs, for a profile without."
)
@click.option(
    "--arrivals",
    type=click.Choice(["planned", "measured"]),
    default="planned",
    show_default=True,
    help="Send requests when they were to come, or when they came.",
)
@click.option("--other", metavar="REAL", help="The same requests under another policy.")
@click.option(
    "--other-set", "other_settings", metavar="KEY=VALUE", multiple=True, help="As --set, for it."
)
@click.option("--budget/--no-budget", "causes", default=True, help="The error by its cause.")
@options(*PLUGIN_OPTIONS)
@click.option("--out", metavar="DIR", help="Folder of table, plots and JSON [runs/validate-NAME].")
@click.option("--overwrite", is_flag=True, help="Use a folder that is there already.")
@click.option("--plot/--no-plot", default=True, help="Draw it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and only that.")
def validate(
    real: tuple[str, ...],
    profile: str | None,
    config: str | None,
    preset: str | None,
    settings: tuple[str, ...],
    model: str | None,
    device: str | None,
    like: str | None,
    trace: str | None,
    line: int | None,
    link: str | None,
    arrivals: str,
    other: str | None,
    other_settings: tuple[str, ...],
    policy_files: tuple[str, ...],
    modules: tuple[str, ...],
    out: str | None,
    *,
    causes: bool,
    overwrite: bool,
    plot: bool,
    as_json: bool,
) -> None:
    """Simulate the requests of a real run and say how far the simulation is off, and why.

    REAL is a run folder, a benchmark folder of LLMServingSim, a result of vllm bench serve
    (--save-detailed) or sglang.bench_serving (--output-details), or AIPerf's profile_export.jsonl.
    Several are taken as repeats, which tell what the real system differs from itself. Settings come
    from the run's files; what they do not say is told.
    """
    from simulator.validation.compare import Question
    from simulator.validation.validate import validate as run_validation
    from traces.real_runs.read import read_real_run
    from twin.plugins import load_plugins

    load_plugins(policy_files, modules)
    with bad_input():
        runs = [read_real_run(path, workload=trace, line=line) for path in real]
    with _folder(out, runs[0].name, overwrite=overwrite) as folder, bad_input():
        asked = Question(
            config=_sections(config),
            settings=(*([f"preset={preset}"] if preset else ()), *settings),
            profile=profile,
            like=None if like is None else read_real_run(like),
            model=model,
            device=device,
            link=_link(link),
            arrivals_as_measured=arrivals == "measured",
        )
        second = None
        if other is not None:
            second = read_real_run(other, workload=trace), _with(asked, other_settings)
        made = run_validation(runs, asked, folder, other=second, causes=causes)
    (folder / "validation.json").write_text(
        json.dumps(_finite(made.to_dict()), indent=1) + "\n", encoding="utf-8"
    )
    if plot:
        from simulator.validation.plots import save_validation_plots

        save_validation_plots(made, folder)
    if as_json:
        from twin import show

        show.show_json(_finite(made.to_dict()))
    else:
        _show(made)
    click.echo(f"validation: {folder}", err=True)


def _with(asked: Question, settings: tuple[str, ...]) -> Question:
    from dataclasses import replace

    return replace(asked, settings=(*asked.settings, *settings))


@contextmanager
def _folder(out: str | None, name: str, *, overwrite: bool) -> Iterator[Path]:
    """The folder to write to; where nothing comes of it, one that was not there before goes again."""
    from twin.folders import new_folder

    folder = new_folder(f"validate-{name}") if out is None else Path(out)
    if (folder / "validation.json").exists() and not overwrite:
        raise BadInput(f"{folder} holds a validation: name another folder, or --overwrite it")
    there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        if not there:
            shutil.rmtree(folder)
        raise


def _sections(file: str | None) -> dict[str, Any] | None:
    if file is None:
        return None
    from policies.config import load_config
    from simulator.config import SimulatorConfig

    return load_config(SimulatorConfig, file).model_dump(mode="json")


def _link(text: str | None) -> Link | None:
    from simulator.operators.llmservingsim import Link

    if text is None:
        return None
    try:
        us, gigabytes = (float(part) for part in text.split(","))
        return Link(latency_ns=us * 1e3, bytes_per_s=gigabytes * 1e9)
    except ValueError:
        raise BadInput(
            f"--link {text}: expected microseconds and gigabytes per second above 0, as 20,16"
        ) from None


def _finite(value: Any) -> Any:
    """The same with null for what is no number, which JSON has no word for."""
    match value:
        case dict():
            return {key: _finite(v) for key, v in value.items()}
        case list() | tuple():
            return [_finite(v) for v in value]
        case float() if not math.isfinite(value):
            return None
    return value


def _show(made: Validation) -> None:
    from simulator.validation.figures import label
    from twin import show

    first = made.repeats[0]
    click.echo(f"{first.real.name}: {first.figures.requests:,} requests, {first.real.source}\n")
    _show_figures(first.figures)
    _show_series(first)
    if made.spreads:
        click.echo(f"\nOver {len(made.repeats)} repeats of the real run\n")
        show.show_rows(
            ("", "real from", "to", "simulated", "error", "real +/-", "within"),
            [
                (
                    label(s.metric, s.statistic),
                    f"{s.lowest:,.2f}",
                    f"{s.highest:,.2f}",
                    f"{s.simulated:,.2f}",
                    show.percent(s.error, "+.1f"),
                    show.percent(s.spread),
                    "yes" if s.within else "no",
                )
                for s in made.spreads
            ],
        )
    if made.budget is not None:
        _show_budget(made)
    if made.answers:
        _show_answers(made)
    told = _told(first)
    click.echo("\n".join(told))
    if made.other is not None:
        more = [line for line in _told(made.other) if line not in told]
        if more:
            click.echo("\n".join([f"\nBeside that, of {made.other.real.path}", *more]))


def _show_figures(found: Figures) -> None:
    from twin import show

    show.show_rows(
        ("", "real", "simulated", "error"),
        [
            (
                row.label,
                f"{row.real:,.2f}",
                f"{row.simulated:,.2f}",
                show.percent(row.error, "+.2f"),
            )
            for row in found.rows
        ],
    )


def _show_series(one: Compared) -> None:
    from twin import show

    if one.series:
        click.echo("\nOver time: mean absolute difference, of the real run's mean\n")
        show.show_rows(
            ("", "difference", "real run"),
            [
                (s.name, show.percent(s.error), "as watched" if s.watched else "from its requests")
                for s in one.series
            ],
        )


def _show_budget(made: Validation) -> None:
    from simulator.validation.figures import LABELS
    from twin import show

    found = made.budget
    assert found is not None
    names = list(found.base)
    click.echo("\nError of the mean with one measured part put in at a time\n")
    rows = [("as simulated", *(show.percent(found.base[name], "+.2f") for name in names), "")]
    rows += [
        (
            part.name,
            *(show.percent(part.errors.get(name, math.nan), "+.2f") for name in names),
            part.note,
        )
        for part in found.parts
    ]
    show.show_rows(("", *(LABELS[name] for name in names), ""), rows)


def _show_answers(made: Validation) -> None:
    from simulator.validation.figures import LABELS
    from twin import show

    assert made.other is not None
    runs = made.other.real, made.repeats[0].real
    alike = runs[0].name == runs[1].name
    names = [str(run.path) if alike else run.name for run in runs]
    click.echo(f"\n{names[0]} less {names[1]}, ms\n")
    rows = []
    for answer in made.answers:
        cells = []
        for d in (answer.real, answer.simulated):
            shown = "" if d.low_ms is None else f" [{d.low_ms:+,.1f}, {d.high_ms:+,.1f}]"
            cells.append(f"{d.mean_ms:+,.1f}{shown}")
        rows.append((LABELS[answer.metric], *cells, answer.verdict))
    show.show_rows(("", "real", "simulated", "the answer"), rows)


def _told(one: Compared) -> list[str]:
    """What was assumed, and what is not known or not measured, a line each."""
    from simulator.validation.figures import LABELS

    told = [f"assumed: {assumption}" for assumption in one.assumptions]
    if one.real.failed:
        told.append(f"{one.real.failed:,} requests were not answered to their end: left out")
    if one.figures.only_real:
        told.append(f"{one.figures.only_real:,} requests were answered by the real engine alone")
    told += [f"not recorded: {LABELS[name]}" for name in one.figures.unknown]
    return told + [f"note: {note}" for note in one.notes]
