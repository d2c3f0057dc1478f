"""`twin export`: the command that serves with a policy on a real engine.

The command goes to stdout, alone, so that it can be run or saved; what the engine has no option for
goes to stderr.
"""

from __future__ import annotations

import shlex

import click

from policies.engines import NAMES
from twin.options import CONFIG_OPTIONS, PLUGIN_OPTIONS, options, read_config

EXAMPLES = (
    "\b\nExamples:"
    "\n  twin export --to vllm --preset vllm --set policy.page_size=32"
    "\n  twin export --to sglang policy.yaml --set policy.order=lpm"
)


@click.command(epilog=EXAMPLES)
@click.argument("policy", required=False, metavar="[POLICY.yaml]")
@click.option("--to", type=click.Choice(NAMES), required=True, help="The engine that is to serve.")
@options(*CONFIG_OPTIONS[1:], *PLUGIN_OPTIONS)  # the argument takes the place of --config
def export(
    policy: str | None,
    to: str,
    preset: str | None,
    settings: tuple[str, ...],
    seed: int | None,
    policy_files: tuple[str, ...],
    modules: tuple[str, ...],
) -> None:
    """Print the command that serves with a policy on SGLang or vLLM.

    Only what differs from the engine's defaults is said. What has no counterpart there is named on
    stderr, with what the engine would do instead.
    """
    from policies.engines import engine

    config = read_config(policy, preset, settings, seed, policy_files, modules)
    target = engine(to)
    translation = target.translate(config)
    click.echo(f"# {target.product}", err=True)
    for departure in translation.departures:
        click.echo(f"no counterpart: {departure}", err=True)
    if config.policy.context_limit is None:
        click.echo(
            "note: policy.context_limit is null, here what the KV pool holds; the engine takes the "
            "model's own limit",
            err=True,
        )
    lines = [
        (*translation.environment, *target.command, config.model.path),
        *translation.arguments,
    ]
    click.echo(" \\\n  ".join(shlex.join(line) for line in lines))
