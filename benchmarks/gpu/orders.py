"""A trace in real time under each of a few queue orders: a generated one, with Mooncake's statistics.

Requests that share long prefixes arrive faster than they could be served without the cache. The runs'
folders stay beside the result, so that they can be simulated, compared and verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.generate import generate
from traces.workload import Workload

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place

ORDERS = ("fcfs", "lpm", "dfs-weight")


def run(place: Place) -> None:
    """See the module."""
    work = trace(place)
    place.note("requests", len(work))
    for order in ORDERS:
        config = place.config(kv=None, policy={"order": order})
        done = place.recorded(order, work, config, decisions=order == "lpm")
        place.note(order, done.summary().to_dict())


def trace(place: Place) -> Workload:
    """The workload, without requests longer than the model takes."""
    longest = min(place.loaded.config.max_position_embeddings, place.size(32_768, 700))
    # most of Mooncake's requests are longer than the tiny model takes
    name, rate, count = "mooncake-conversation", 4.0, 160
    if place.tiny:
        name, rate, count = "azure-conversation", 200.0, 8
    work = generate(name, n=count, rate=rate, seed=0)
    fitting = [r for r in work if len(r.prompt) + min(r.max_new_tokens, 10**6) < longest]
    return Workload(name, fitting, work.meta)
