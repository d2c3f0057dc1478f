"""What a trace format is to the reader: a name, how it is recognised, how its rows are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
    block_size: int | None = None
    encode: Callable[[str], Sequence[int]] | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What one should know of a format before trusting figures made from it.

    Attributes:
        unit: what its times are written in; "" where it has none.
        blocks: tokens per prefix hash and what becomes of the last, partial block; "" where prompts
            are not named by hashes.
        sessions: what it says of requests that wait for others; "" if nothing.
    """

    unit: str
    blocks: str = ""
    sessions: str = ""


@dataclass(frozen=True, slots=True)
class TraceContent:
    """What a trace holds: requests in arrival order, and what to say about how they were read."""

    requests: list[TraceRequest]
    meta: dict[str, object]
    name: str | None = None


class TraceFormat(Protocol):
    """One way of writing a trace down."""

    name: str
    described: str
    facts: Facts

    def recognises(self, line: str) -> bool:
        """Whether a line (not blank) is written as this format writes one."""
        ...

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests on `lines`, or the first `options.limit`.

        A format whose unit is the document takes `source.documents()` instead.

        Raises:
            TraceError: a row is wrong and `source` does not leave bad rows out.
        """
        ...


class HeadFormat(TraceFormat, Protocol):
    """A format that no single line gives away, but the first few do."""

    def claims(self, head: list[str]) -> bool:
        """Whether the first lines (not blank) are those of a file of this format."""
        ...


def request_ids(ordinals: list[int]) -> list[str]:
    """Names for rows, of one width, so that none is a prefix of another: r000000, r000001, ..."""
    width = max(_MIN_DIGITS, len(str(max(ordinals, default=0))))
    return [f"r{ordinal:0{width}d}" for ordinal in ordinals]
