"""Multi-turn chat with shared prefixes: which request goes on with which, and what it shares.

Every prompt begins with one block that all share, a system prompt. A request may be followed by
another of its conversation after a while; that one either extends it (the prompt, the answer, and
what the user says next), or repeats it word for word (an answer asked for again), or cuts it (an
edited message, a window that moved: only the beginning stays). Requests arrive when they are told
to: an arrival takes the follow-up that has waited longest for its time, or opens a conversation.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from traces.tokens import BlockTokens, SyntheticTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traces.generate.knots import Knots

_COLUMNS = 7  # uniform numbers a request is made from


@dataclass(frozen=True, slots=True)
class ByLength:
    """A chance that depends on a prompt's length: `chances[i]` from `tokens[i]` tokens on."""

    tokens: tuple[int, ...]
    chances: tuple[float, ...]

    def at(self, length: int) -> float:
        """The chance for a prompt of `length` tokens."""
        return self.chances[bisect_right(self.tokens, length) - 1]


@dataclass(frozen=True, slots=True)
class ConversationModel:
    """The fitted parameters of a conversation trace; lengths in tokens.

    Attributes:
        block_size: tokens per prefix hash.
        opener_continues: chance that a request which opens a conversation has a follow-up, by the
            length of its prompt.
        continues: chance that a later one has, by turn from 1; the last goes for all turns after.
        repeats: share of follow-ups that repeat the prompt before.
        cuts: share of follow-ups that keep only its beginning, by its length: a window moves when
            it is full.
        longest: a follow-up that would be longer ends its conversation instead.
        first_input: prompts that open a conversation.
        output: answers.
        user_tokens: how much longer than prompt and answer before an extending prompt is, by turn
            from 1, the last for all turns after; below zero where the answer was dropped.
        gap_s: seconds from a request to its follow-up.
        cut_keep: share of the full blocks before that a cut prompt keeps.
        cut_length: length of a cut prompt over the length before.
    """

    block_size: int
    opener_continues: ByLength
    continues: tuple[float, ...]
    repeats: float
    cuts: ByLength
    longest: int
    first_input: Knots
    output: Knots
    user_tokens: tuple[Knots, ...]
    gap_s: Knots
    cut_keep: Knots
    cut_length: Knots

    def requests(
        self, rng: np.random.Generator, arrivals_ns: NDArray[np.int64], vocab_size: int
    ) -> list[TraceRequest]:
        """One request per arrival; the first of more are those of fewer."""
        uniform = rng.random((len(arrivals_ns), _COLUMNS))
        drawn = _Draws(
            first=_tokens(self.first_input, uniform[:, 0]),
            output=_tokens(self.output, uniform[:, 1]),
            continues=uniform[:, 2].tolist(),
            gap_ns=np.rint(self.gap_s.at(uniform[:, 3]) * 1e6).astype(np.int64) * 1_000,
            kind=uniform[:, 4].tolist(),
            user=[_tokens(knots, uniform[:, 5]) for knots in self.user_tokens],
            keep=self.cut_keep.at(uniform[:, 5]).tolist(),
            cut=self.cut_length.at(uniform[:, 6]).tolist(),
        )
        waiting: list[tuple[int, int]] = []  # (when the follow-up is due, the request before it)
        chats = _Chats(self.block_size)
        made: list[TraceRequest] = []
        width = max(6, len(str(len(arrivals_ns))))
        for row, arrival in enumerate(arrivals_ns.tolist()):
            parent = heappop(waiting)[1] if waiting and waiting[0][0] <= arrival else None
            kept, length = (0, 0) if parent is None else self._follow(chats, parent, drawn, row)
            if parent is None or length > self.longest:
                parent, kept, length = None, 1, drawn.first[row]
            chats.add(parent, kept, length, drawn.output[row])
            if drawn.continues[row] < self._chance(chats, row):
                heappush(waiting, (arrival + int(drawn.gap_ns[row]), row))
            made.append(
                TraceRequest(
                    id=f"r{row:0{width}d}",
                    arrival_ns=arrival,
                    prompt=BlockTokens(
                        np.array(chats.hash_ids[row], dtype=np.int64),
                        self.block_size,
                        length,
                        vocab_size,
                    ),
                    output=SyntheticTokens(row, drawn.output[row], vocab_size),
                    session=f"s{chats.session[row]:0{width}d}",
                )
            )
        return made

    def _chance(self, chats: _Chats, row: int) -> float:
        turn = chats.turn[row]
        if turn == 0:
            return self.opener_continues.at(chats.input[row])
        return self.continues[min(turn, len(self.continues)) - 1]

    def _follow(self, chats: _Chats, parent: int, drawn: _Draws, row: int) -> tuple[int, int]:
        """Blocks kept of the prompt before, and the length of the one that follows it."""
        before = chats.input[parent]
        full = before // self.block_size
        kind = drawn.kind[row]
        if kind < self.repeats:
            return len(chats.hash_ids[parent]), before
        if kind < self.repeats + self.cuts.at(before) and full > 1:
            # two blocks at least: with the system prompt alone it would be a new conversation
            kept = min(max(2, int(drawn.keep[row] * full)), full)
            return kept, max(int(drawn.cut[row] * before), kept * self.block_size + 1)
        user = drawn.user[min(chats.turn[parent], len(drawn.user) - 1)][row]
        return full, before + max(1, chats.output[parent] + user)


@dataclass(frozen=True, slots=True)
class _Draws:
    """What chance says about each request, whether it comes to be needed or not."""

    first: list[int]
    output: list[int]
    continues: list[float]
    gap_ns: NDArray[np.int64]
    kind: list[float]
    user: list[list[int]]
    keep: list[float]
    cut: list[float]


@dataclass(slots=True)
class _Chats:
    """The requests made so far, as their follow-ups see them; block 0 is the system prompt."""

    block_size: int
    blocks: int = 1
    sessions: int = 0
    hash_ids: list[list[int]] = field(default_factory=list)
    input: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    session: list[int] = field(default_factory=list)

    def add(self, parent: int | None, kept: int, length: int, output: int) -> None:
        """A request that keeps `kept` blocks of its parent's prompt and has new ones after."""
        new = -(-length // self.block_size) - kept
        beginning = [0] if parent is None else self.hash_ids[parent][:kept]
        self.hash_ids.append([*beginning, *range(self.blocks, self.blocks + new)])
        self.blocks += new
        self.input.append(length)
        self.output.append(output)
        self.turn.append(0 if parent is None else self.turn[parent] + 1)
        self.session.append(self.sessions if parent is None else self.session[parent])
        self.sessions += parent is None


def _tokens(knots: Knots, uniform: NDArray[np.float64]) -> list[int]:
    tokens: list[int] = np.rint(knots.at(uniform)).astype(np.int64).tolist()
    return tokens
