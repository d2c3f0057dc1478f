"""What a trace format is to the reader: a name, how its lines are recognised, how rows are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.lines import TraceLines
    from traces.workload import TraceRequest

MooncakeArrivals = Literal["spread", "keep"]
_MIN_DIGITS = 6


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The choices made in reading, as `read_trace` takes them."""

    limit: int | None
    mooncake_arrivals: MooncakeArrivals
    seed: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class TraceContent:
    """What a file holds: requests in arrival order, and what to say about how they were read."""

    requests: list[TraceRequest]
    meta: dict[str, object]
    name: str | None = None


class TraceFormat(Protocol):
    """One way of writing a trace down."""

    name: str
    described: str

    def recognises(self, line: str) -> bool:
        """Whether a line (not blank) is written as this format writes one."""
        ...

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests on `lines`, or the first `options.limit`.

        Raises:
            TraceError: a row is wrong and `source` does not leave bad rows out.
        """
        ...


def request_ids(ordinals: list[int]) -> list[str]:
    """Names for rows, of one width, so that none is a prefix of another: r000000, r000001, ..."""
    width = max(_MIN_DIGITS, len(str(max(ordinals, default=0))))
    return [f"r{ordinal:0{width}d}" for ordinal in ordinals]
