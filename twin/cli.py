"""The command `twin`: its subcommands by name, each imported when it is called.

Asking for help must cost nothing, so this module imports click alone and keeps one line about each
command; what a command does, and what that needs, lives in the command's own module. Errors and
Ctrl-C of all commands end here, as one message and an exit code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from twin.failures import clear_failures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Entry(NamedTuple):
    """Where a command is defined (`module:name`), and what it does, in a line."""

    target: str
    help: str


COMMANDS: Mapping[str, Entry] = {
    "simulate": Entry(
        "twin.simulate:simulate", "Replay a trace or a generated workload in virtual time."
    ),
    "compare": Entry("twin.compare:compare", "Lay runs side by side: table, intervals, plots."),
    "plot": Entry("twin.plot:plot", "Draw runs: latency, throughput, queues, KV, tenants."),
    "timeline": Entry("twin.timeline:timeline", "Draw a run as a timeline for ui.perfetto.dev."),
    "replay": Entry("twin.replay:replay", "Play a trace in real time on a real model."),
    "verify": Entry("twin.verify:verify", "Take the decisions of runs again, and compare."),
    "ab": Entry("twin.ab:ab", "Simulate one workload under several policies, and compare."),
    "calibrate": Entry("twin.calibrate:calibrate", "Fit the simulator's clock to recorded runs."),
    "validate": Entry(
        "twin.validate:validate", "Simulate the requests of a real run: how far off?"
    ),
    "trace": Entry("twin.trace:trace", "Fetch, read, convert, inspect and generate workloads."),
    "policies": Entry("twin.listing:policies", "List the policies that a config may name."),
    "config": Entry("twin.listing:config", "Print the whole config, every key explained."),
    "export": Entry(
        "twin.export:export", "Print the command that serves with a policy on SGLang or vLLM."
    ),
    "models": Entry("twin.listing:models", "List the model shapes that are bundled."),
    "devices": Entry(
        "twin.listing:devices", "List the GPU datasheets that are bundled, or print one."
    ),
    "profiles": Entry(
        "twin.profiles:profiles", "List the operator profiles that ship, with their errors."
    ),
    "metrics": Entry("twin.listing:metrics", "List the metrics with their definitions."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The commands, in the order one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name, imported now."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """An unknown command is an error that lists the known."""
        ctx.meta[__name__] = args
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            known = ", ".join(COMMANDS)
            raise click.UsageError(f"no command {args[0]!r}; known are {known}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The commands with their lines, none of them imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong is said clearly."""
        with clear_failures():
            try:
                return super().invoke(ctx)
            except click.NoSuchOption as error:
                raise _as_setting(error, ctx.meta[__name__]) or error from None


def _as_setting(error: click.NoSuchOption, arguments: Sequence[str]) -> click.UsageError | None:
    """What to give in place of an option that a command has not, if the config has a key of that name."""
    if error.ctx is None or all(p.name != "settings" for p in error.ctx.command.params):
        return None
    from policies.config_errors import key_in_a_section
    from simulator.config import SimulatorConfig

    key = key_in_a_section(SimulatorConfig, error.option_name.lstrip("-").replace("-", "_"))
    if key is None:
        return None
    value = "VALUE"
    for given, after in zip(arguments, (*arguments[1:], ""), strict=True):
        name, equals, text = given.partition("=")
        if name == error.option_name:
            value = text if equals else value if after.startswith("-") else after or value
    said = (
        f"No such option {error.option_name!r}: it is a key of the config, so --set {key}={value}"
    )
    return click.UsageError(said, error.ctx)


EXAMPLES = (
    "\b\nExamples:"
    "\n  twin ab --workload mooncake-conversation --limit 500 --order fcfs --order lpm"
    "\n  twin simulate --trace my-trace.jsonl.gz --set policy.order=lpm"
)


@click.group(
    cls=LazyGroup, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="schedtwin", prog_name="twin")
def main() -> None:
    """One scheduler for LLM serving, its policies tried in a simulator.

    `twin COMMAND --help` says what a command takes.
    """
