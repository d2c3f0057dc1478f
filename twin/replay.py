"""`twin replay`: a trace played in real time through the runtime, and the table of its metrics.

The twin of `twin simulate`: the same trace, config and records, on a real model.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twin.failures import BadInput, Interrupted, RunFailed, bad_input
from twin.options import Given, note_departures, note_unread, options, takes_given

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.config import RuntimeConfig
    from runtime.weights.load import LoadedModel
    from traces.records.run import Run
    from traces.workload import Workload

NEEDED = ("torch", "safetensors", "tokenizers", "gguf", "jinja2")
"""Packages of the extra `runtime`."""

EXAMPLES = (
    "\b\nExamples:"
    "\n  twin replay --trace my-trace.jsonl.gz --model SmolLM2-135M-Instruct.gguf --limit 50 --out a"
    "\n  twin replay --workload mooncake-conversation --model qwen3-0.6b --load-format dummy \\"
    "\n    --limit 20 --set runtime.device=cuda --set policy.order=lpm"
)


@click.command(epilog=EXAMPLES)
@takes_given
@options(
    click.option(
        "--model", metavar="PATH", help="HuggingFace folder or GGUF file [config: model.path]."
    ),
    click.option(
        "--load-format",
        type=click.Choice(["auto", "safetensors", "gguf", "dummy"]),
        help="What weights are read from; dummy draws them [config: runtime.load_format].",
    ),
    click.option(
        "--mem-fraction",
        type=float,
        metavar="X",
        help="Share of the device's memory for weights and KV [config: kv.mem_fraction].",
    ),
    click.option(
        "--attention",
        metavar="NAME",
        help="auto, flashinfer, triton or torch [config: runtime.attention].",
    ),
    click.option(
        "--text", is_flag=True, help="Take the trace's texts, by the model's own tokenizer."
    ),
    click.option("--out", metavar="DIR", help="Run folder [runs/WORKLOAD-ORDER]."),
    click.option(
        "--records",
        default="requests,steps,decisions",
        show_default=True,
        metavar="NAMES",
        help="Comma-separated: requests, steps, tokens (each token's time), decisions.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace the run that the folder holds."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and only that."),
)
def replay(
    given: Given,
    model: str | None,
    load_format: str | None,
    mem_fraction: float | None,
    attention: str | None,
    out: str | None,
    records: str,
    *,
    text: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Play a trace, or a generated workload, in real time on a real model.

    Requests are sent when the trace says, or in closed loop; prompts are the trace's token ids, folded
    into the model's vocabulary, or its texts (--text), and answers have the trace's lengths. The run
    folder is like one of `twin simulate`: `twin compare` lays the two side by side, `twin verify` takes
    its decisions again. Ctrl-C keeps what was recorded.
    """
    from twin import show
    from twin.folders import new_folder
    from twin.simulate import record_names

    _check_installed()
    said = {
        "runtime.load_format": load_format,
        "runtime.attention": attention,
        "kv.mem_fraction": mem_fraction,
    }
    config = _config(given, model, said)
    wanted = record_names(records)
    if text:
        loaded = _load_model(config)
        workload = _read_text(given, config.seed, loaded)
    else:
        loaded, workload = None, given.load_workload(config.seed)
    name = f"{workload.name}-{config.policy.order}"
    folder = new_folder(name) if out is None else Path(out)
    _check_free(folder, overwrite=overwrite)
    quiet = as_json or not sys.stderr.isatty()
    run = _play(workload, config, loaded, folder, wanted, overwrite=overwrite, progress=not quiet)
    if as_json:
        show.show_json(show.as_json(run))
    else:
        from traces.records.tables import summary_table

        show.show(summary_table(run))
        chosen = run.manifest["resolved"]["attention"]
        click.echo(f"attention: {chosen['name']}, {chosen['reason']}", err=True)
    click.echo(f"run: {folder}", err=True)


def _play(
    workload: Workload,
    config: RuntimeConfig,
    loaded: LoadedModel | None,
    folder: Path,
    records: list[str],
    *,
    overwrite: bool,
    progress: bool,
) -> Run:
    from policies.stuck import StuckError
    from runtime.executor import StepError
    from runtime.requests import InvalidRequestError
    from runtime.trace_replay import replay as play
    from twin.simulate import kept

    try:
        return play(
            workload,
            config,
            loaded=loaded,
            out=folder,
            overwrite=overwrite,
            records=records,
            progress=progress,
        )
    except KeyboardInterrupt:
        raise Interrupted(kept(folder)) from None
    except InvalidRequestError as error:
        raise BadInput(f"{workload.name}: a request cannot be served: {error}") from error
    except (StepError, StuckError) as error:
        raise RunFailed(f"{error}; {kept(folder)}") from error


def _load_model(config: RuntimeConfig) -> LoadedModel:
    from policies.config import ConfigError
    from runtime.stack import find_device
    from runtime.weights.load import load_model

    try:
        return load_model(
            config.model.path,
            dtype=config.model.weight_dtype,
            device=find_device(config.runtime.device),
            load_format=config.runtime.load_format,
            seed=config.seed,
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"model.path: {error}") from error


def _read_text(given: Given, seed: int, loaded: LoadedModel) -> Workload:
    """A trace's texts as the model's tokens; pieces of a chat are put together as tokens."""
    from traces.readers.read import read_trace

    tokenizer = loaded.tokenizer
    if given.trace is None:
        raise click.UsageError("--text is for a trace that holds text: give --trace PATH")
    if tokenizer is None:
        raise BadInput(f"--text: {loaded.source} has no tokenizer; leave --text out")
    with bad_input():
        work = read_trace(
            given.trace,
            skip_bad_rows=given.skip_bad_rows,
            limit=given.limit,
            seed=seed,
            encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
        )
        if "tokens" not in work.meta:
            raise BadInput(
                f"--text: {given.trace} (format {work.meta['format']}) holds no text; leave --text out"
            )
        return work if given.speedup == 1.0 else work.speedup(given.speedup)


def _config(given: Given, model: str | None, options: Mapping[str, object]) -> RuntimeConfig:
    """The config as the runtime reads it, with what the options say over it, by key."""
    from policies.config import load_config
    from runtime.config import RuntimeConfig
    from twin.plugins import load_plugins

    load_plugins(given.policy_files, given.modules)
    said = {
        "preset": given.preset,
        "workload.concurrency": given.concurrency,
        "workload.loop": given.loop,
        "seed": given.seed,
        **options,
    }
    settings = [f"{key}={value}" for key, value in said.items() if value is not None]
    if model is not None:
        settings.append(f"model.path={_yaml_text(model)}")
    config = load_config(RuntimeConfig, given.config, [*settings, *given.settings])
    _check_simulator_sections(config, given.config)
    note_departures(config)
    note_unread(config)
    return config


def _check_simulator_sections(config: RuntimeConfig, file: str | None) -> None:
    """What the runtime does not read may still be wrong; files that it names need not be here."""
    from policies.config import make_config
    from simulator.config import SimulatorConfig

    host = config.host
    if isinstance(host, dict):
        host = {key: value for key, value in host.items() if key != "profile"}
    make_config(SimulatorConfig, {"latency": config.latency, "host": host}, source=file)


def _check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds a run before the model is loaded, which can take minutes."""
    from traces.records.manifest import is_run

    if not overwrite and is_run(folder):
        raise BadInput(f"{folder} already holds a run: name another folder, or give --overwrite")


def _yaml_text(text: str) -> str:
    """The text as YAML that reads back as that text, whatever it looks like."""
    import json

    return json.dumps(text, ensure_ascii=False)


def _check_installed() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise BadInput(
            f"the runtime needs {', '.join(missing)}: install it with pip install 'schedtwin[runtime]'"
        )
