"""Mooncake's traces: JSONL with prefix hashes, their sessions, and their arrival batches.

Source: https://github.com/kvcache-ai/Mooncake, FAST25-release/traces (Apache-2.0), described in Qin
et al., "Mooncake" (FAST 2025). A row holds `timestamp` (ms), `input_length` and `output_length`
(tokens) and `hash_ids`: one chained prefix hash per 512 tokens, the last, partial block included.
Dynamo's replay adds `session_id` and `delay` (ms after the answer before it), reads other names for
some fields, and has a variant, mooncake-delta, whose rows hold only what is new in a session.

The conversation trace stamps its requests in batches three seconds apart. That is how it was
recorded, not how people arrive, so by default the requests of a batch are spread over the time to
the next one: as many seeded uniform times as the batch has requests, sorted, given out in the order
of the file. A file without such batches, or with sessions, is left as it is stamped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from traces.errors import RowError
from traces.readers.conversations import Conversations, Turn
from traces.readers.fields import (
    Clock,
    Row,
    first_of,
    integers,
    json_row,
    length,
    name_of,
    required,
    row_keys,
    time_ns,
)
from traces.readers.formats import Facts, ReadOptions, TraceContent, request_ids
from traces.tokens import BlockTokens, SyntheticTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from traces.readers.lines import Place, TraceLines

BLOCK_SIZE = 512
STAMP = ("timestamp", "created_time")
INPUT = ("input_length", "input_tokens")
OUTPUT = ("output_length", "output_tokens")
DELAY = ("delay", "delay_ms")
_FIELDS = frozenset({"timestamp", "input_length", "output_length", "hash_ids"})
_READ = frozenset({*STAMP, *INPUT, *OUTPUT, *DELAY, "hash_ids", "session_id"})
# When stamps count as batches: requests share them, and they stand at one interval from each other.
_MIN_ROWS_PER_STAMP = 2
_MIN_REGULAR = 0.9
_TOLERANCE = 0.01


class _Row(NamedTuple):
    place: Place
    stamp_ns: int | None
    delay_ns: int | None
    prompt: BlockTokens
    output_length: int
    session: str | None


class MooncakeFormat:
    """Reads `timestamp`, `input_length`, `output_length`, `hash_ids`, also in sessions."""

    name = "mooncake"
    described = "JSONL with timestamp (ms), input_length, output_length and hash_ids a row"
    facts = Facts("ms", "512, a hash for the last, partial one too", "turns, each the whole prompt")
    deltas = False

    def recognises(self, line: str) -> bool:
        """Whether a line is a JSON object with hashes and another of the fields."""
        keys = row_keys(line)
        return "hash_ids" in keys and len(keys & {*_FIELDS, *STAMP, *INPUT, *OUTPUT}) >= 2

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit`.

        The file is read whole all the same: whether its arrivals are batches, and where the last
        one ends, shows only then.
        """
        clock = Clock("timestamp")
        unused: dict[str, int] = {}
        seen: set[str] = set()

        def parse(line: str) -> _Row:
            fields = json_row(line)
            row = _parse(fields, options, source.here, seen)
            if row.session is None and row.stamp_ns is not None:
                clock.check(row.stamp_ns, first_of(fields, STAMP)[1])
            for extra in fields.keys() - _READ:
                unused[extra] = unused.get(extra, 0) + 1
            return row

        rows = list(source.rows(lines, parse))
        meta: dict[str, object]
        if seen:
            requests = _in_sessions(source, rows, options, deltas=self.deltas)
            turns = "each row holds what is new" if self.deltas else "each row holds all of it"
            meta = {"arrivals": "as stamped", "prompts": turns}
        else:
            requests, meta = _open_loop(rows, options)
        if unused:
            meta["unused_fields"] = dict(sorted(unused.items()))
        return TraceContent(requests, meta)


class MooncakeDeltaFormat(MooncakeFormat):
    """Reads sessions whose rows hold only what is new, as Dynamo's `mooncake-delta`."""

    name = "mooncake-delta"
    described = "mooncake with session_id, where a row holds only what its turn adds"
    facts = Facts("ms", MooncakeFormat.facts.blocks, "turns, each only what is new")
    deltas = True

    def claims(self, head: list[str]) -> bool:
        """Whether there are follow-ups, and none holds what was said before it.

        A whole prompt is longer than the prompt and the answer before it, or begins with the same
        hash; of one cut short so far that neither holds, there should be others that are not.
        """
        last: dict[str, Row] = {}
        follow_ups = 0
        for line in head:
            if not self.recognises(line) or "session_id" not in row_keys(line):
                return False
            row = json_row(line)
            session = str(row["session_id"])
            if session in last:
                follow_ups += 1
                if _holds(row, last[session]):
                    return False
            last[session] = row
        return follow_ups > 0


def _holds(row: Row, before: Row) -> bool:
    ids, ids_before = row["hash_ids"], before["hash_ids"]
    if isinstance(ids, list) and isinstance(ids_before, list) and ids[:1] == ids_before[:1]:
        return True
    lengths = [first_of(r, names)[1] for r, names in ((row, INPUT), (before, INPUT))]
    answer = first_of(before, OUTPUT)[1]
    new, old = lengths
    if type(new) is int and type(old) is int and type(answer) is int:
        return new >= old + answer
    return False


def _open_loop(
    rows: list[tuple[int, _Row]], options: ReadOptions
) -> tuple[list[TraceRequest], dict[str, object]]:
    ids = request_ids([ordinal for ordinal, _ in rows])
    stamps = np.array([row.stamp_ns for _, row in rows], dtype=np.int64)
    interval = _batch_interval_ns(stamps) if options.mooncake_arrivals == "spread" else None
    arrivals = stamps if interval is None else _spread(stamps, interval, options.seed)
    requests = [
        TraceRequest(
            id=name,
            arrival_ns=arrival,
            prompt=row.prompt,
            output=SyntheticTokens(ordinal, row.output_length, options.vocab_size),
        )
        for name, arrival, (ordinal, row) in zip(
            ids[: options.limit], arrivals.tolist(), rows, strict=False
        )
    ]
    if interval is None:
        return requests, {"arrivals": "as stamped"}
    return requests, {
        "arrivals": "spread uniformly over each batch",
        "batch_interval_ns": interval,
        "seed": options.seed,
    }


def _in_sessions(
    source: TraceLines, rows: list[tuple[int, _Row]], options: ReadOptions, *, deltas: bool
) -> list[TraceRequest]:
    conversations = Conversations("timestamp", deltas=deltas)
    ids = request_ids([ordinal for ordinal, _ in rows])
    requests: list[TraceRequest] = []
    for name, (ordinal, row) in zip(ids, rows, strict=True):
        output = SyntheticTokens(ordinal, row.output_length, options.vocab_size)
        turn = Turn(name, row.session, row.prompt, output, row.stamp_ns, row.delay_ns)
        try:
            requests.append(conversations.add(turn))
        except RowError as error:
            source.reject(row.place, error)
        if len(requests) == options.limit:
            break
    return sorted(requests, key=lambda request: request.arrival_ns)


def _parse(row: Row, options: ReadOptions, place: Place, seen: set[str]) -> _Row:
    session = row.get("session_id")
    name = None if session is None else name_of(session, "session_id")
    field, stamp = first_of(row, STAMP)
    if stamp is None and name not in seen:
        required(row, "timestamp", "milliseconds from the start of the trace")
        time_ns(stamp, field, "ms")  # there, but null: says what was expected
    later, delay = first_of(row, DELAY)
    parsed = _Row(
        place=place,
        stamp_ns=None if stamp is None else time_ns(stamp, field, "ms"),
        delay_ns=None if delay is None else time_ns(delay, later, "ms"),
        prompt=hashed_prompt(row, options),
        output_length=tokens_of(row, OUTPUT, "the answer's tokens"),
        session=name,
    )
    if name is not None:
        seen.add(name)
    return parsed


def tokens_of(row: Row, names: tuple[str, ...], expected: str) -> int:
    """A number of tokens that must be there under one of the names."""
    field, _ = first_of(row, names)
    return length(required(row, field, expected), field)


def hashed_prompt(row: Row, options: ReadOptions) -> BlockTokens:
    """The prompt of a row with `input_length` and a hash for each block, the last one included."""
    size = options.block_size or BLOCK_SIZE
    tokens = tokens_of(row, INPUT, "the prompt's tokens")
    hashes = integers(required(row, "hash_ids", "a list of prefix hashes"), "hash_ids")
    blocks = -(-tokens // size)
    if len(hashes) != blocks:
        raise RowError(
            f"{len(hashes)} hashes for {tokens} tokens",
            f"{blocks}: one per {size} tokens, the last, partial block included",
            field="hash_ids",
        )
    hashes.flags.writeable = False
    return BlockTokens(hashes, size, tokens, options.vocab_size)


def _batch_interval_ns(stamps: NDArray[np.int64]) -> int | None:
    """The interval between batches of equally stamped requests, or None where there are none."""
    distinct = np.unique(stamps)
    if len(distinct) < 2 or len(stamps) < _MIN_ROWS_PER_STAMP * len(distinct):
        return None
    gaps = np.diff(distinct)
    interval = int(np.sort(gaps)[len(gaps) // 2])
    # an empty batch leaves a gap of two intervals
    off = np.abs(gaps - np.rint(gaps / interval) * interval)
    regular = (off <= _TOLERANCE * interval) & (gaps > interval / 2)
    return interval if regular.mean() >= _MIN_REGULAR else None


def _spread(stamps: NDArray[np.int64], interval: int, seed: int) -> NDArray[np.int64]:
    """Arrival times, in order: each batch uniformly over the time until the next may begin."""
    distinct, batch = np.unique(stamps, return_inverse=True)
    gaps = np.append(np.diff(distinct), interval)
    width = np.where(gaps > interval * 3 // 2, interval, gaps)  # not over an empty batch
    uniform = np.random.default_rng(seed).random(len(stamps))
    order = np.lexsort((uniform, batch))  # sorts within each batch; batches stand in order already
    return stamps + np.floor(uniform[order] * width[batch]).astype(np.int64)
