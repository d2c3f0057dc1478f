"""Which requests of a trace follow which, found by their prefixes, and the parameters that follow.

A trace with prefix hashes names no conversations. Here a request that shares more than the first
block, which all share, with an earlier one follows the latest request that holds the deepest block
shared. This is where the bundled parameters of `conversation` come from, and how a generated
workload is held against its trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traces.generate.knots import Knots
from traces.prefixes import prompt_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traces.workload import Workload

_NS_PER_S = 1_000_000_000
# Follow-ups of requests from later than this may lie beyond the end of the trace: chances and gaps
# are taken from requests before it.
_OBSERVED = 0.56
_TURNS = 5
_USER_TURNS = 3
# The lengths at which chances change in the Mooncake conversation trace: prompts of a system prompt
# and a sentence have no follow-up; windows are cut between 10,000 and 40,000 tokens mostly.
_OPENER_TOKENS = (0, 1_000, 40_000)
_CUT_TOKENS = (0, 2_000, 5_000, 10_000, 40_000)


@dataclass(frozen=True, slots=True)
class FollowUps:
    """Requests that go on with an earlier one. All arrays int64 or bool, shape (follow-ups,).

    Attributes:
        request: index of the request.
        parent: index of the request it follows.
        kept: leading blocks it shares with it.
        gap_ns: time between the two.
        repeats: whether it has the parent's prompt, word for word.
        extends: whether it keeps all full blocks of the parent's prompt; the others are cut.
        turn: int64, shape (requests,): 0 where a conversation begins, of every request.
    """

    request: NDArray[np.int64]
    parent: NDArray[np.int64]
    kept: NDArray[np.int64]
    gap_ns: NDArray[np.int64]
    repeats: NDArray[np.bool_]
    extends: NDArray[np.bool_]
    turn: NDArray[np.int64]


def find_follow_ups(workload: Workload, *, block_size: int = 512) -> FollowUps:
    """The follow-ups of a workload, in order of arrival."""
    latest: dict[int, int] = {}
    request, parent, kept = [], [], []
    turn = np.zeros(len(workload), dtype=np.int64)
    prompts = prompt_blocks(workload.requests, block_size)
    for row, numbers in enumerate(prompts):
        blocks = numbers.tolist()
        known = (depth for depth, block in enumerate(blocks) if block not in latest)
        hits = next(known, len(blocks))
        if hits > 1:
            request.append(row)
            parent.append(latest[blocks[hits - 1]])
            kept.append(hits)
            turn[row] = turn[parent[-1]] + 1
        latest.update(dict.fromkeys(blocks, row))
    follow, before, hit = (np.array(one, dtype=np.int64) for one in (request, parent, kept))
    length, arrival = _lengths(workload), _arrivals(workload)
    return FollowUps(
        request=follow,
        parent=before,
        kept=hit,
        gap_ns=arrival[follow] - arrival[before],
        repeats=(length[follow] == length[before]) & (hit == -(-length[before] // block_size)),
        extends=hit >= length[before] // block_size,
        turn=turn,
    )


def fit_conversation(workload: Workload, *, block_size: int = 512) -> dict[str, object]:
    """`lengths` and `prefix` of a description that generates a trace like this one."""
    found = find_follow_ups(workload, block_size=block_size)
    length, arrival = _lengths(workload), _arrivals(workload)
    output = np.array([len(request.output) for request in workload], dtype=np.int64)
    full = length // block_size
    goes_on = np.zeros(len(workload), dtype=bool)
    goes_on[found.parent] = True
    observed = arrival < arrival[-1] * _OBSERVED
    opens = found.turn == 0
    late_turn = np.minimum(found.turn, _TURNS)

    def chance_of(what: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
        return round(float(what[among].mean()), 4)

    def by_length(
        what: NDArray[np.bool_], lengths: NDArray[np.int64], tokens: tuple[int, ...]
    ) -> dict[str, object]:
        band = np.searchsorted(tokens, lengths, side="right") - 1
        return {
            "tokens": list(tokens),
            "chances": [chance_of(what, band == k) for k in range(len(tokens))],
        }

    def knots(sample: NDArray[np.float64] | NDArray[np.int64], digits: int) -> dict[str, object]:
        return {"kind": "knots", "values": list(Knots.of(sample, digits).values)}

    grows = found.extends & ~found.repeats
    said = length[found.request] - length[found.parent] - output[found.parent]
    said_turn = np.minimum(found.turn[found.request], _USER_TURNS)
    cut, cut_from = found.request[~found.extends], found.parent[~found.extends]
    first = opens & observed
    return {
        "lengths": {"input": knots(length[opens], 1), "output": knots(output, 1)},
        "prefix": {
            "kind": "conversation",
            "block_size": block_size,
            "opener_continues": by_length(goes_on[first], length[first], _OPENER_TOKENS),
            "continues": [
                chance_of(goes_on, observed & (late_turn == k + 1)) for k in range(_TURNS)
            ],
            "repeats": round(float(found.repeats.mean()), 4),
            "cuts": by_length(~found.extends, length[found.parent], _CUT_TOKENS),
            "longest": int(length.max()),
            "user_tokens": [
                knots(said[grows & (said_turn == k + 1)], 1) for k in range(_USER_TURNS)
            ],
            "gap_s": knots(found.gap_ns[observed[found.parent]] / _NS_PER_S, 2),
            "cut_keep": knots(found.kept[~found.extends] / full[cut_from], 4),
            "cut_length": knots(length[cut] / length[cut_from], 4),
        },
    }


def _lengths(workload: Workload) -> NDArray[np.int64]:
    return np.array([len(request.prompt) for request in workload], dtype=np.int64)


def _arrivals(workload: Workload) -> NDArray[np.int64]:
    return np.array([request.arrival_ns for request in workload], dtype=np.int64)
