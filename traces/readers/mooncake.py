"""Mooncake's traces: JSONL with prefix hashes, and the arrival batches of its conversation trace.

Source: https://github.com/kvcache-ai/Mooncake, FAST25-release/traces (Apache-2.0), described in Qin
et al., "Mooncake" (FAST 2025). A row holds `timestamp` (ms), `input_length` and `output_length`
(tokens) and `hash_ids`: one chained prefix hash per 512 tokens, the last, partial block included.

The conversation trace stamps its requests in batches three seconds apart. That is how it was
recorded, not how people arrive, so by default the requests of a batch are spread over the time to
the next one: as many seeded uniform times as the batch has requests, sorted, given out in the order
of the file. A file without such batches is left as it is stamped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from traces.errors import RowError, shown
from traces.readers.fields import MAX_INT64, Clock, integers, json_row, length, required
from traces.readers.formats import ReadOptions, TraceContent, request_ids
from traces.tokens import BlockTokens, SyntheticTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from traces.readers.lines import TraceLines

BLOCK_SIZE = 512
_NS_PER_MS = 1_000_000
_FIELDS = frozenset({"timestamp", "input_length", "output_length", "hash_ids"})
# When stamps count as batches: requests share them, and they stand at one interval from each other.
_MIN_ROWS_PER_STAMP = 2
_MIN_REGULAR = 0.9
_TOLERANCE = 0.01


class _Row(NamedTuple):
    stamp_ns: int
    prompt: BlockTokens
    output_length: int
    session: str | None


class MooncakeFormat:
    """Reads `timestamp`, `input_length`, `output_length`, `hash_ids`."""

    name = "mooncake"
    described = "JSONL with timestamp (ms), input_length, output_length and hash_ids a row"

    def recognises(self, line: str) -> bool:
        """Whether a line is a JSON object with at least two of the fields."""
        try:
            return len(_FIELDS & json_row(line).keys()) >= 2
        except RowError:
            return False

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit`.

        The file is read whole all the same: whether its arrivals are batches, and where the last
        one ends, shows only then.
        """
        clock = Clock("timestamp")
        unused: dict[str, int] = {}

        def parse(line: str) -> _Row:
            fields = json_row(line)
            row = _parse(fields, clock, options.vocab_size)
            for extra in fields.keys() - _FIELDS - {"session_id"}:
                unused[extra] = unused.get(extra, 0) + 1
            return row

        rows = list(source.rows(lines, parse))
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
                session=row.session,
            )
            for name, arrival, (ordinal, row) in zip(
                ids[: options.limit], arrivals.tolist(), rows, strict=False
            )
        ]
        meta: dict[str, object] = {"arrivals": "as stamped"}
        if interval is not None:
            meta = {
                "arrivals": "spread uniformly over each batch",
                "batch_interval_ns": interval,
                "seed": options.seed,
            }
        if unused:
            meta["unused_fields"] = dict(sorted(unused.items()))
        return TraceContent(requests, meta)


def _parse(row: dict[str, object], clock: Clock, vocab_size: int) -> _Row:
    stamp = required(row, "timestamp", "milliseconds from the start of the trace")
    tokens = length(required(row, "input_length", "the prompt's tokens"), "input_length")
    output = length(required(row, "output_length", "the answer's tokens"), "output_length")
    hashes = integers(required(row, "hash_ids", "a list of prefix hashes"), "hash_ids")
    blocks = -(-tokens // BLOCK_SIZE)
    if len(hashes) != blocks:
        raise RowError(
            f"{len(hashes)} hashes for {tokens} tokens",
            f"{blocks}: one per {BLOCK_SIZE} tokens, the last, partial block included",
            field="hash_ids",
        )
    session = row.get("session_id")
    if session is not None and type(session) not in {int, str}:
        raise RowError(shown(session), "a string or an integer", field="session_id")
    return _Row(
        stamp_ns=clock.check(_stamp_ns(stamp), stamp),
        prompt=BlockTokens(hashes, BLOCK_SIZE, tokens, vocab_size),
        output_length=output,
        session=None if session is None else str(session),
    )


def _stamp_ns(stamp: object) -> int:
    if type(stamp) is int and 0 <= stamp <= MAX_INT64 // _NS_PER_MS:
        return stamp * _NS_PER_MS
    if type(stamp) is float and math.isfinite(stamp) and 0 <= stamp <= MAX_INT64 / _NS_PER_MS / 2:
        return round(stamp * _NS_PER_MS)
    raise RowError(shown(stamp), "milliseconds, a number of 0 or more", field="timestamp")


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
