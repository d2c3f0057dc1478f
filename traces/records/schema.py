"""What a run's tables hold: every column with its type, unit and meaning.

Rows travel as plain tuples in the order of these columns; Arrow types are made only when a table
is written. Times are nanoseconds since the start of the run's clock, virtual or real: the schema
does not know which world writes, and no column says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from traces.records.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa

#: What `--records` may name. `requests` is always written; `tokens` adds `token_times_ns` to it;
#: `decisions` brings the table `tokens` (prompts and outputs, and what scheduling goes by) with it.
RECORDS = ("requests", "steps", "tokens", "decisions")

#: Kinds of column. An enumeration is written as that: a tuple of its values.
_SCALARS = ("str", "int64", "int32", "float64", "bool")
_LISTS = ("list<int64>", "list<int32>")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its kind (a scalar, a list, or the values of an enumeration) and meaning."""

    name: str
    kind: str | tuple[str, ...]
    doc: str
    nullable: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.kind, str) and self.kind not in _SCALARS + _LISTS:
            raise ValueError(f"column {self.name}: kind {self.kind!r} is none of {_SCALARS}")

    @property
    def is_list(self) -> bool:
        """Whether a cell holds many values."""
        return self.kind in _LISTS

    def arrow_type(self) -> pa.DataType:
        """The Arrow type; an enumeration is dictionary encoded."""
        import pyarrow as pa

        if isinstance(self.kind, tuple):
            return pa.dictionary(pa.int8(), pa.string())
        return {
            "str": pa.string(),
            "int64": pa.int64(),
            "int32": pa.int32(),
            "float64": pa.float64(),
            "bool": pa.bool_(),
            "list<int64>": pa.list_(pa.int64()),
            "list<int32>": pa.list_(pa.int32()),
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its columns in order, and how many rows a row group of its file has.

    The row group is fixed so that the file depends on the rows alone, not on when they were
    flushed; it is small where a row holds lists, so that one fits in memory.
    """

    name: str
    columns: tuple[Column, ...]
    row_group: int

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in the order of a row."""
        return tuple(column.name for column in self.columns)

    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of the file."""
        import pyarrow as pa

        return pa.schema(
            [pa.field(c.name, c.arrow_type(), nullable=c.nullable) for c in self.columns]
        )


_REQUESTS = (
    Column("id", "str", "the request's name, unique in the run"),
    Column("session", "str", "the conversation it belongs to", nullable=True),
    Column("tenant", "str", "who sent it", nullable=True),
    Column("priority", "int64", "its scheduling priority", nullable=True),
    Column("arrival_ns", "int64", "when it arrived (was sent)"),
    Column("first_scheduled_ns", "int64", "when it first entered a batch", nullable=True),
    Column("first_token_ns", "int64", "when its first output token was reported", nullable=True),
    Column("finish_ns", "int64", "when its last token, abort or refusal was", nullable=True),
    Column("prompt_tokens", "int64", "length of the prompt"),
    Column("cached_tokens", "int64", "prompt tokens found cached at first admission"),
    Column("output_tokens", "int64", "tokens it was given"),
    Column("max_new_tokens", "int64", "its output limit after the intake cut", nullable=True),
    Column("requested_max_new_tokens", "int64", "the limit it asked for", nullable=True),
    Column("retractions", "int64", "how often it was retracted (preempted)"),
    Column(
        "finish_reason",
        ("stop", "length", "abort", "refused"),
        "how it ended; null where the run ended first",
        nullable=True,
    ),
    Column("reason", "str", "a refusal's or abort's text", nullable=True),
)
_TOKEN_TIMES = Column(
    "token_times_ns", "list<int64>", "when each output token was reported; may be empty"
)

_STEPS = (
    Column("iteration", "int64", "number of the loop's round that launched it, from 1"),
    Column("mode", ("extend", "decode", "mixed", "empty"), "what kind of batch it ran"),
    Column("launch_ns", "int64", "when the host launched it"),
    Column("start_ns", "int64", "when the device began it"),
    Column("end_ns", "int64", "when the device ended it"),
    Column("commit_ns", "int64", "when its results were committed"),
    Column("host_receive_ns", "int64", "host time receiving requests"),
    Column("host_schedule_ns", "int64", "host time choosing the batch"),
    Column("host_prepare_ns", "int64", "host time preparing its inputs"),
    Column("host_launch_ns", "int64", "host time launching it"),
    Column("host_collect_ns", "int64", "host time fetching its results, the wait apart"),
    Column("host_commit_ns", "int64", "host time applying its results"),
    Column("prefill_requests", "int64", "rows that extend a prompt"),
    Column("prefill_tokens", "int64", "new prompt tokens computed"),
    Column("cached_tokens", "int64", "prompt tokens taken from the prefix cache"),
    Column("decode_requests", "int64", "rows that decode one token"),
    Column("kv_tokens_read", "int64", "sum over rows of their KV length"),
    Column("query_kv_product", "int64", "sum over rows of query tokens times KV length"),
    Column("new_token_ratio", "float64", "share of unproduced output reserved at admission"),
    Column("waiting", "int64", "requests in the waiting queue"),
    Column("running", "int64", "requests that decode"),
    Column("free_tokens", "int64", "KV slots free"),
    Column("evictable_tokens", "int64", "KV slots cached and held by no request"),
    Column("protected_tokens", "int64", "KV slots cached and locked by a request"),
    Column("evicted_tokens", "int64", "KV slots evicted to make room for this step"),
)

_DECISIONS = (
    Column("iteration", "int64", "number of the loop's round, from 1"),
    Column(
        "kind",
        ("receive", "batch", "item", "restart"),
        "what came in, a batch or what it held, or that the scheduler began anew",
    ),
    Column("time_ns", "int64", "when it was received, or its batch launched"),
    Column("request_id", "str", "whom it is about; null opens an inbox or a batch", nullable=True),
    Column("event", ("arrival", "abort", "ready"), "what came in", nullable=True),
    Column("item_kind", ("prefill", "decode"), "what the batch did for it", nullable=True),
    Column("row", "int64", "its row in the future-token table", nullable=True),
    Column("start", "int64", "position of its first new token", nullable=True),
    Column("length", "int64", "number of new tokens", nullable=True),
    Column("sampled_token", "int32", "the token sampled, where one was", nullable=True),
    Column("stop", "bool", "whether that token ends the output", nullable=True),
)

_TOKENS = (
    Column("request_id", "str", "whose tokens these are"),
    Column("prompt", "list<int32>", "token ids of the prompt"),
    Column("output", "list<int32>", "token ids of the output"),
    Column("ignore_eos", "bool", "whether the model's own stop does not end it"),
    Column(
        "extra_key", "str", "its namespace in the prefix cache, adapter included", nullable=True
    ),
    Column("routing_key", "str", "what key-aware orders group it by", nullable=True),
    Column("lora_id", "str", "the adapter it runs with", nullable=True),
)


def check_records(records: Collection[str]) -> frozenset[str]:
    """The record names as a set, with `requests`, which is always written.

    Raises:
        RecordError: where one is unknown; the message lists the known.
    """
    unknown = sorted(set(records) - set(RECORDS))
    if unknown:
        raise RecordError(f"unknown records {', '.join(unknown)}: known are {', '.join(RECORDS)}")
    return frozenset(records) | {"requests"}


def tables_for(records: Collection[str]) -> dict[str, Table]:
    """The tables that these records need, by name, in the order they are written.

    Raises:
        RecordError: where a record is unknown.
    """
    wanted = check_records(records)
    requests = (*_REQUESTS, _TOKEN_TIMES) if "tokens" in wanted else _REQUESTS
    tables = [Table("requests", requests, 8_192)]
    if "steps" in wanted:
        tables.append(Table("steps", _STEPS, 65_536))
    if "decisions" in wanted:
        tables.append(Table("decisions", _DECISIONS, 65_536))
        tables.append(Table("tokens", _TOKENS, 512))
    return {table.name: table for table in tables}


#: Every table with every column, for documentation and for readers.
TABLES = tables_for(RECORDS)

#: Which record has to be asked for to get a table.
WRITTEN_BY = {
    "requests": "requests",
    "steps": "steps",
    "decisions": "decisions",
    "tokens": "decisions",
}
