"""Multi-turn chat with shared prefixes, as a trace of prompt hashes shows it.

Every prompt may begin with one block that all share, a system prompt. A request may be followed by
another of its conversation after a while; that one either extends it (the prompt, the answer, and
what the user says next), or repeats it word for word (an answer asked for again), or cuts it (an
edited message, a window that moved: only the beginning stays). Requests arrive when they are told
to: an arrival takes the follow-up that has waited longest for its time, or opens a conversation. So
they wait for no answer, as in the trace. `lengths.input` is a prompt that opens a conversation.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from traces.generate.distributions import Distribution, nanoseconds, tokens
from traces.generate.options import Count, Options, Share
from traces.tokens import BlockTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from traces.generate.lengths import Lengths
    from traces.generate.naming import Naming

_COLUMNS = 7  # uniform numbers a request is made from


class ByLength(Options):
    """A chance that depends on a prompt's length: `chances[i]` from `tokens[i]` tokens on."""

    tokens: tuple[int, ...]
    chances: tuple[Share, ...]

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.tokens[:1] != (0,) or list(self.tokens) != sorted(set(self.tokens)):
            raise ValueError(f"tokens must ascend from 0, got {self.tokens}")
        if len(self.chances) != len(self.tokens):
            raise ValueError(f"expected {len(self.tokens)} chances, got {len(self.chances)}")
        return self

    def at(self, length: int) -> float:
        """The chance for a prompt of `length` tokens."""
        return self.chances[bisect_right(self.tokens, length) - 1]


class Conversation(Options):
    """The fitted parameters of a conversation trace; lengths in tokens.

    Attributes:
        block_size: tokens per prefix hash.
        system_share: share of conversations that begin with the block that all share.
        strata: opening prompts are drawn in rounds of so many, one from each part of their
            distribution, as in a trace put together from data sets in fixed proportions; 1 draws
            each on its own.
        opener_continues: chance that a request which opens a conversation has a follow-up, by the
            length of its prompt.
        continues: chance that a later one has, by turn from 1; the last goes for all turns after.
        repeats: share of follow-ups that repeat the prompt before.
        cuts: share of follow-ups that keep only its beginning, by its length: a window moves when
            it is full.
        longest: a follow-up that would be longer ends its conversation instead.
        user_tokens: how much longer than prompt and answer before an extending prompt is, by turn
            from 1, the last for all turns after; below zero where the answer was dropped.
        gap_s: seconds from a request to its follow-up.
        cut_keep: share of the full blocks before that a cut prompt keeps.
        cut_length: length of a cut prompt over the length before.
    """

    kind: Literal["conversation"] = "conversation"
    block_size: Count = 512
    system_share: Share = 1.0
    strata: Count = 1
    opener_continues: ByLength
    continues: Annotated[tuple[Share, ...], Field(min_length=1)]
    repeats: Share = 0.0
    cuts: ByLength = ByLength(tokens=(0,), chances=(0.0,))
    longest: Count
    user_tokens: Annotated[tuple[Distribution, ...], Field(min_length=1)]
    gap_s: Distribution
    cut_keep: Distribution | None = None
    cut_length: Distribution | None = None

    @model_validator(mode="after")
    def _cuts_described(self) -> Self:
        if any(self.cuts.chances) and (self.cut_keep is None or self.cut_length is None):
            raise ValueError("cuts above 0 need cut_keep and cut_length")
        return self

    def requests(
        self,
        arrivals_ns: Iterable[NDArray[np.int64]],
        lengths: Lengths,
        rng: np.random.Generator,
        names: Naming,
    ) -> Iterator[TraceRequest]:
        """See `PrefixModel.requests`."""
        waiting: list[
            tuple[int, int, _Prompt]
        ] = []  # when a follow-up is due, row, what it follows
        row = conversations = 0
        blocks = 1
        openers = self._openers(rng, lengths) if self.strata > 1 else None
        for times in arrivals_ns:
            for arrival, drawn in zip(
                times.tolist(), self._draw(rng, len(times), lengths), strict=True
            ):
                before = heappop(waiting)[2] if waiting and waiting[0][0] <= arrival else None
                kept, length = (0, 0) if before is None else self._follow(before, drawn)
                if before is None or length > self.longest:
                    before, length = None, drawn.first if openers is None else next(openers)
                    kept = int(drawn.cut_place < self.system_share)
                new = -(-length // self.block_size) - kept
                prompt = _Prompt(
                    [
                        *(before.blocks[:kept] if before else (0,) * kept),
                        *range(blocks, blocks + new),
                    ],
                    length,
                    drawn.output,
                    before.turn + 1 if before else 0,
                    before.conversation if before else conversations,
                )
                blocks += new
                conversations += before is None
                if drawn.continues < self._chance(prompt):
                    heappush(waiting, (arrival + drawn.gap_ns, row, prompt))
                yield TraceRequest(
                    id=names.request(row),
                    arrival_ns=arrival,
                    prompt=BlockTokens(
                        names.blocks(prompt.blocks), self.block_size, length, names.vocab_size
                    ),
                    output=names.text(row, drawn.output),
                    tenant=names.tenant,
                    session=names.session(prompt.conversation),
                )
                row += 1

    def _openers(self, rng: np.random.Generator, lengths: Lengths) -> Iterator[int]:
        own = np.random.default_rng(rng.integers(2**63))
        while True:
            uniform = (own.permutation(self.strata) + own.random(self.strata)) / self.strata
            yield from tokens(lengths.input, uniform).tolist()

    def _draw(self, rng: np.random.Generator, rows: int, lengths: Lengths) -> Iterator[_Drawn]:
        uniform = rng.random((rows, _COLUMNS))
        first, output = lengths.draw(uniform[:, 0], uniform[:, 1])
        user = [np.rint(one.at(uniform[:, 5])).astype(np.int64) for one in self.user_tokens]
        nothing = np.zeros(rows)
        columns = (
            first,
            output,
            uniform[:, 2],
            nanoseconds(self.gap_s, uniform[:, 3]),
            uniform[:, 4],
            np.stack(user, axis=1),
            nothing if self.cut_keep is None else self.cut_keep.at(uniform[:, 5]),
            nothing if self.cut_length is None else self.cut_length.at(uniform[:, 6]),
            uniform[:, 6],
        )
        return map(_Drawn._make, zip(*(column.tolist() for column in columns), strict=True))

    def _chance(self, prompt: _Prompt) -> float:
        if prompt.turn == 0:
            return self.opener_continues.at(prompt.length)
        return self.continues[min(prompt.turn, len(self.continues)) - 1]

    def _follow(self, before: _Prompt, drawn: _Drawn) -> tuple[int, int]:
        """Blocks kept of the prompt before, and the length of the one that follows it."""
        full = before.length // self.block_size
        if drawn.kind < self.repeats:
            return len(before.blocks), before.length
        if drawn.kind < self.repeats + self.cuts.at(before.length) and full > 1:
            # two blocks at least: with the system prompt alone it would be a new conversation
            kept = min(max(2, int(drawn.keep * full)), full)
            return kept, max(int(drawn.cut * before.length), kept * self.block_size + 1)
        said = drawn.user[min(before.turn, len(drawn.user) - 1)]
        return full, before.length + max(1, before.output + said)


class _Drawn(NamedTuple):
    """What chance says about a request, whether it comes to be needed or not."""

    first: int
    output: int
    continues: float
    gap_ns: int
    kind: float
    user: list[int]
    keep: float
    cut: float
    cut_place: float


class _Prompt(NamedTuple):
    """A request as its follow-up sees it; block 0 is the system prompt."""

    blocks: list[int]
    length: int
    output: int
    turn: int
    conversation: int
