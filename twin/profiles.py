"""`twin profiles`: the operator profiles that ship, each with its source and how far it was off."""

from __future__ import annotations

import click

# of a profile's errors, in the order of a layer
SHOWN = {"gemm": "products", "prefill": "prefill", "decode": "decode", "moe": "experts"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and only that.")
def profiles(*, as_json: bool) -> None:
    """List the operator profiles that come with it, for latency.profile and --profile.

    Errors are mean absolute ones on sizes that were held out of the tables: matrix products, attention
    of prefill and of decode, experts.
    """
    from simulator.profile import load_operators, shipped_profiles
    from twin import show

    found = {name: load_operators(name) for name in shipped_profiles()}
    if as_json:
        fields = ("model", "gpu", "source", "licence", "errors", "approximations")
        show.show_json({name: one.model_dump(include=set(fields)) for name, one in found.items()})
        return
    rows = [
        (
            name,
            *(show.percent(one.errors[key]) if key in one.errors else "-" for key in SHOWN),
            one.source,
        )
        for name, one in found.items()
    ]
    show.show_rows(("latency.profile", *SHOWN.values(), "measured by"), rows)
