"""The decision log: what came in round by round, what each batch held, and what was sampled for it.

The one place that knows how the log's rows are laid out. The recorders of both worlds make their rows
here, and what takes the decisions once more reads them back here, as entries in the order in which
things happened; together with what each request asked for, they are all that a scheduler was told. It
does not know what a scheduler makes of them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from traces.records.errors import RecordError
from traces.timeline.rows import row_tuples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from traces.records.run import Run

    Int32 = npt.NDArray[np.int32]
    Row = tuple[object, ...]

_COLUMNS = (
    *("iteration", "kind", "time_ns", "request_id", "event"),
    *("item_kind", "row", "start", "length", "sampled_token", "stop"),
)
_NO_ITEM = (None,) * 6
_NOTHING = (None,) * 8


class Item(NamedTuple):
    """One request's share of a batch.

    Attributes:
        request_id: whose.
        kind: `prefill` or `decode`.
        row: its row in the future-token table.
        start: position of its first new token.
        length: number of new tokens.
        token: the id that was sampled; None where none was, or none came back.
        stop: whether that token ends the sequence by itself; None where none was sampled.
    """

    request_id: str
    kind: str
    row: int
    start: int
    length: int
    token: int | None = None
    stop: bool | None = None

    @property
    def place(self) -> tuple[str, str, int, int, int]:
        """What the scheduler decided of it: all but what was sampled."""
        return self[:5]


@dataclass(frozen=True, slots=True)
class Received:
    """An answer to `Receive`: ids of what came in, each kind in its order."""

    iteration: int
    time_ns: int
    arrivals: tuple[str, ...] = ()
    aborts: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Launched:
    """A batch: its items in order; none where it was an empty one."""

    iteration: int
    time_ns: int
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Restarted:
    """A step failed: what was in flight was given up, and the scheduler began anew."""

    iteration: int
    time_ns: int


Entry = Received | Launched | Restarted


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asked for, and how the run ended it.

    Attributes:
        id: its name.
        prompt: int32, shape (prompt tokens,).
        output: int32, shape (output tokens,).
        max_new_tokens: output tokens asked for.
        extra_key: namespace of the prefix cache, as the cache knows it: its adapter's name included.
        finish_reason: None where the run ended first.
        others: as in the tables `requests` and `tokens`.
    """

    id: str
    prompt: Int32
    output: Int32
    max_new_tokens: int
    arrival_ns: int
    ignore_eos: bool
    priority: int | None
    tenant: str | None
    session: str | None
    extra_key: str | None
    routing_key: str | None
    lora_id: str | None
    finish_reason: str | None
    cached_tokens: int
    retractions: int


# -- making rows ----------------------------------------------------------------------------------


def inbox_rows(
    iteration: int,
    time_ns: int,
    arrivals: Iterable[str],
    aborts: Iterable[str] = (),
    ready: Iterable[str] = (),
) -> list[Row]:
    """The rows of an answer to `Receive`: one that opens it, and one for each thing that came in.

    Args:
        iteration: the round it opens.
        time_ns: when it was asked for.
        arrivals: ids, in order; so are the others.
        aborts: ids that clients gave up.
        ready: ids for which something waited for is there.
    """
    head = (iteration, "receive", time_ns)
    rows: list[Row] = [(*head, None, None, *_NO_ITEM)]
    for event, ids in (("arrival", arrivals), ("abort", aborts), ("ready", ready)):
        rows += [(*head, name, event, *_NO_ITEM) for name in ids]
    return rows


def batch_rows(iteration: int, time_ns: int, items: Iterable[tuple[Any, ...]]) -> list[Row]:
    """The rows of a batch: one that opens it, and one for each item.

    Args:
        iteration: the round that launched it.
        time_ns: when.
        items: in batch order, the fields of `Item`; token and stop are None where nothing was
            sampled, or where it never came back.
    """
    head = (iteration, "item", time_ns)
    rows: list[Row] = [(iteration, "batch", time_ns, *_NOTHING)]
    rows += [(*head, name, None, *rest) for name, *rest in items]
    return rows


def restart_row(iteration: int, time_ns: int) -> Row:
    """The row of a scheduler that begins anew after a step failed in that round."""
    return (iteration, "restart", time_ns, *_NOTHING)


# -- reading them ---------------------------------------------------------------------------------


def read_decisions(run: Run) -> Iterator[Entry]:
    """The log's entries in order; a few thousand rows are in memory at a time.

    Raises:
        RecordError: where the run has no decision log, or a row stands where none can.
    """
    opened: tuple[str, int, int] | None = None
    came: dict[str, list[str]] = {"arrival": [], "abort": [], "ready": []}
    items: list[Item] = []

    def close() -> Iterator[Entry]:
        if opened is None:
            return
        kind, iteration, time_ns = opened
        if kind == "receive":
            yield Received(iteration, time_ns, *(tuple(ids) for ids in came.values()))
            for ids in came.values():
                ids.clear()
        elif kind == "batch":
            yield Launched(iteration, time_ns, tuple(items))
            items.clear()
        else:
            yield Restarted(iteration, time_ns)

    row: Any  # what each column holds, the schema says
    for rows in row_tuples(run, "decisions", _COLUMNS):
        for row in rows:
            iteration, kind, time_ns, name, event, *item = row
            if name is None:  # it opens an entry
                yield from close()
                opened = kind, iteration, time_ns
            elif opened is None or opened[:2] != (_OPENED_BY.get(kind), iteration):
                raise RecordError(
                    f"run {run.name}: its decision log has the row {row} where nothing was opened "
                    f"that it belongs to; was it written by another version, or changed?"
                )
            elif kind == "item":
                items.append(Item(name, *item))
            else:
                came[event].append(name)
    yield from close()


_OPENED_BY = {"item": "batch", "receive": "receive"}


def read_asked(run: Run) -> dict[str, deque[Asked]]:
    """What the requests asked for, by id, each id's in the order in which they ended.

    An id is of one request at a time, but may come again when that has ended.

    Raises:
        RecordError: where the run has no decision log, or its tables do not belong together.
    """
    tokens = run.arrow("tokens")
    requests = run.arrow("requests").slice(0, tokens.num_rows).select(_OF_REQUESTS)
    if requests["id"].to_pylist() != tokens["request_id"].to_pylist():
        raise RecordError(f"run {run.name}: its tables requests and tokens name different requests")
    found: dict[str, deque[Asked]] = defaultdict(deque)
    prompts, outputs = _lists(tokens, "prompt"), _lists(tokens, "output")
    keys = tokens.select(_OF_TOKENS).to_pylist()
    for row, mine, prompt, output in zip(requests.to_pylist(), keys, prompts, outputs, strict=True):
        row["max_new_tokens"] = row.pop("requested_max_new_tokens")
        found[row["id"]].append(Asked(prompt=prompt, output=output, **row, **mine))
    return found


_OF_REQUESTS = [
    *("id", "session", "tenant", "priority", "arrival_ns", "requested_max_new_tokens"),
    *("finish_reason", "cached_tokens", "retractions"),
]
_OF_TOKENS = ["ignore_eos", "extra_key", "routing_key", "lora_id"]


def _lists(table: pa.Table, column: str) -> Iterator[Int32]:
    """The lists of a column, each a view of what Arrow holds."""
    for chunk in table[column].chunks:
        flat = chunk.values.to_numpy()
        offsets = chunk.offsets.to_numpy().tolist()
        for begin, end in pairwise(offsets):
            yield flat[begin:end]
