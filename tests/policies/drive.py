"""The shortest world there is: one step a round, no stops; for tests that only watch the batches."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from policies import (
    LOOPS,
    Batch,
    Collect,
    Events,
    Inbox,
    KnownTokens,
    Launch,
    PolicyConfig,
    Receive,
    Report,
    Request,
    Scheduler,
    Sleep,
    StepResult,
)
from policies.effects import NOT_REPEATED, Repeat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt


class Tokens:
    """A fixed sequence of ids."""

    def __init__(self, seed: int, length: int) -> None:
        self._ids = np.random.default_rng(seed).integers(0, 4, length, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    def array(self) -> npt.NDArray[np.int32]:
        """See `SizedTokens.array`."""
        return self._ids


def ask(name: str, prompt: int, output: int, *, seed: int = 0, **fields: Any) -> Request:
    """A request for so many tokens."""
    tokens = KnownTokens(Tokens(seed, prompt), Tokens(seed + 1, output))
    return Request(name, tokens, output, **fields)


def policy(batching: str, **keys: Any) -> PolicyConfig:
    """A policy of a batching, its numbers resolved for a small pool."""
    if batching == "decode-first":
        options = {"max_num_batched_tokens": 64}
        keys = {"cache": "blocks", "page_size": 4, "batching_options": options, **keys}
    keys = {"chunked_prefill_size": None if batching == "decode-first" else 32, **keys}
    return PolicyConfig(batching=batching, **{"max_running_requests": 8, **keys})


def drive(
    config: PolicyConfig, capacity: int, arrivals: Iterable[tuple[int, Request]], steps: int = 10**6
) -> Iterator[tuple[Scheduler, Batch | Events]]:
    """Yields every batch as it is launched and every report, until all is done.

    Args:
        config: of the scheduler.
        capacity: tokens of KV.
        arrivals: rounds and who comes in then.
        steps: rounds, at most.
    """
    due = defaultdict(list)
    for at, request in arrivals:
        due[at].append(request)
    s = Scheduler(config, capacity)
    loop = LOOPS[config.overlap](s)
    answer: Any = None
    now = -1
    while now < steps:
        effect = loop.send(answer)
        answer = None
        match effect:
            case Receive():
                now += 1
                answer = Inbox(now, due.pop(now, []))
            case Launch(batch):
                yield s, batch
                answer = batch
            case Collect():
                answer = StepResult()
            case Report(events):
                yield s, events
            case Repeat():
                answer = NOT_REPEATED
            case Sleep():
                if not due:
                    return
                now = min(due) - 1
