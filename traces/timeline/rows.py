"""Rows of a run's tables in the order they were written, a few thousand at a time.

For what looks at every row once and must not hold a long run in memory. A run that was cut off, or
is in memory, is read as a whole: it was never long on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.records.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from traces.records.run import Run

BATCH_ROWS = 8_192


def batches(run: Run, table: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a table, in that order; at most `BATCH_ROWS` rows are held at a time.

    Raises:
        RecordError: where the run has no such table, or its file is damaged.
    """
    import pyarrow.parquet as pq

    file = None if run.path is None else run.path / f"{table}.parquet"
    if file is None or not file.exists() or not run.has(table):
        yield from run.arrow(table).select(list(columns)).to_batches(BATCH_ROWS)
        return
    try:
        with pq.ParquetFile(file) as stored:
            yield from stored.iter_batches(BATCH_ROWS, columns=list(columns))
    except (OSError, ValueError) as error:  # Arrow's errors derive from these
        said = " ".join(str(error).split())  # Arrow's run over several lines
        raise RecordError(f"{file} cannot be read: {said}") from error


def row_tuples(run: Run, table: str, columns: Sequence[str]) -> Iterator[list[tuple[object, ...]]]:
    """The same as lists of rows, each a tuple of Python values in the order of `columns`."""
    for batch in batches(run, table, columns):
        by_name = {name: batch.column(name).to_pylist() for name in columns}
        yield list(zip(*(by_name[name] for name in columns), strict=True))
