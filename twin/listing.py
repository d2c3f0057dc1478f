"""What there is to choose from: policies, config keys, models, devices, metrics."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import click

from twin.failures import bad_input
from twin.options import (
    CONFIG_OPTIONS,
    PLUGIN_OPTIONS,
    note_departures,
    note_unread,
    options,
    read_config,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command()
@options(*PLUGIN_OPTIONS)
def policies(policy_files: tuple[str, ...], modules: tuple[str, ...]) -> None:
    """List the policies that a config may name, with their options.

    Of your own files (--policy, --import) and of other packages' entry points too.
    """
    from twin import show
    from twin.plugins import load_plugins

    load_plugins(policy_files, modules)
    show.show_rows(("name", "config key", "options", "what it does"), list(_policies()))


def _policies() -> Iterator[tuple[str, str, str, str]]:
    from policies.loops import LOOPS
    from policies.registry import BATCHINGS, EVICTIONS, ORDERS, RETRACTIONS

    for key, registry in (
        ("policy.order", ORDERS),
        ("policy.batching", BATCHINGS),
        ("policy.eviction", EVICTIONS),
        ("policy.retraction", RETRACTIONS),
    ):
        for name in registry.names():
            strategy = registry.get(name)
            yield name, key, _options(strategy), _first_line(strategy)
    for name, loop in LOOPS.items():
        yield name, "policy.overlap", "", _first_line(loop)


def _options(strategy: type) -> str:
    """The keyword parameters of a constructor, with their defaults."""
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    shown = []
    for name, parameter in inspect.signature(strategy).parameters.items():
        if parameter.kind in keywords:
            required = parameter.default is parameter.empty
            shown.append(name if required else f"{name}={parameter.default!r}")
    return ", ".join(shown)


def _first_line(member: object) -> str:
    """What a member says of itself in a line; its module's words where it points there."""
    text = inspect.cleandoc(member.__doc__ or "")  # its own: a base class speaks of all orders
    if text.startswith("See the module"):
        text = inspect.getdoc(inspect.getmodule(member)) or ""
    return " ".join(text.split("\n\n")[0].split())


@click.command()
@options(*CONFIG_OPTIONS, *PLUGIN_OPTIONS)
def config(
    config: str | None,
    preset: str | None,
    settings: tuple[str, ...],
    seed: int | None,
    policy_files: tuple[str, ...],
    modules: tuple[str, ...],
) -> None:
    """Print the whole config as YAML, every key with its value and what it means.

    What it prints is what --config takes. Section latency has the keys of the model that is chosen:
    with --set latency.model=operators (calibrated, replayed) it prints that one's.
    """
    from twin.explain import explained

    read = read_config(config, preset, settings, seed, policy_files, modules)
    note_departures(read)
    note_unread(read)
    click.echo(explained(read), nl=False)


@click.command()
def models() -> None:
    """List the model shapes that are bundled.

    model.path also takes a folder with a config.json, or a GGUF file.
    """
    from policies.model_shape import ModelShape, bundled_models
    from twin import show

    rows = []
    for name in bundled_models():
        model = ModelShape.load(name)
        billions, kib = model.parameters / 1e9, model.kv_bytes_per_token() / 1024
        rows.append((name, f"{billions:.2f} B", f"{kib:.0f} KiB", str(model.layers)))
    show.show_rows(("model.path", "parameters", "KV per token", "layers"), rows)


DATASHEET_OF_ONES_OWN = (
    "\b\nAnother GPU is the path of a file with its datasheet:"
    "\n  twin devices h200 > mine.yaml"
    "\n  twin simulate --workload mooncake-conversation --set device.name=mine.yaml"
)


@click.command(epilog=DATASHEET_OF_ONES_OWN)
@click.argument("name", required=False)
def devices(name: str | None) -> None:
    """List the GPU datasheets that are bundled; with NAME, print that one as YAML."""
    if name is not None:
        from twin.explain import datasheet

        with bad_input():
            click.echo(datasheet(name), nl=False)
        return
    from simulator.devices import Device, known_devices
    from twin import show

    rows = []
    for device in map(Device.load, known_devices()):
        fp8 = "-" if device.fp8_flops is None else f"{device.fp8_flops / 1e12:,.0f}"
        rows.append(
            (
                device.name,
                f"{device.memory_bytes / 2**30:.1f} GiB",
                f"{device.memory_bandwidth / 1e9:,.0f} GB/s",
                f"{device.bf16_flops / 1e12:,.0f}",
                fp8,
                device.product,
            )
        )
    headings = ("device.name", "memory", "bandwidth", "bf16 TFLOP/s", "fp8 TFLOP/s", "product")
    show.show_rows(headings, rows)
    click.echo(
        "device.name also takes the path of a JSON or YAML file with the datasheet of another GPU: "
        "`twin devices h200 > mine.yaml` writes one to change."
    )


@click.command()
def metrics() -> None:
    """List the metrics with their definitions, and whose definitions they are."""
    from traces.records.definitions import METRICS
    from twin import show

    rows = [(m.name, m.unit, m.source, m.definition) for m in METRICS.values()]
    show.show_rows(("metric", "unit", "as defined by", "what it is"), rows)
