"""Tables on disk that survive the process: whole part files while running, one file at the end.

Each flush writes a complete Parquet file under `parts/`, by way of a temporary name, so whatever
ends the process, all that was flushed can be read. At the end the parts of a table are streamed
into `<table>.parquet`, one row group at a time, and removed. The result depends on the rows
alone: row groups have a fixed length, enumerations a fixed dictionary, and every row group is
contiguous when it is written. Knows no table by name.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from traces.records.blocks import columns_of
from traces.records.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    import pyarrow as pa

    from traces.records.blocks import Block
    from traces.records.schema import Column, Table

PARTS = "parts"


def to_arrow(table: Table, rows: Sequence[tuple[Any, ...] | Block]) -> pa.Table:
    """Rows (tuples in the order of the table's columns, and blocks of rows) as an Arrow table.

    Raises:
        RecordError: where rows have the wrong number of values, or a value the wrong type.
    """
    import pyarrow as pa

    schema = table.arrow_schema()
    if not rows:
        return schema.empty_table()
    width = len(table.columns)
    values: list[Any]
    bad = next((row for row in rows if isinstance(row, tuple) and len(row) != width), None)
    if bad is not None:
        raise RecordError(
            f"table {table.name}: a row has {len(bad)} values, it needs {width} "
            f"({', '.join(table.names)}): {bad!r}"
        )
    if all(isinstance(row, tuple) for row in rows):
        values = list(zip(*rows, strict=True))
    else:
        values = columns_of(rows)
    arrays = [
        _array(table, column, cells) for column, cells in zip(table.columns, values, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(table: Table, column: Column, cells: tuple[Any, ...] | npt.NDArray[Any]) -> pa.Array:
    import pyarrow as pa

    where = f"table {table.name}, column {column.name}"
    try:
        if isinstance(column.kind, tuple):
            codes: dict[str | None, int | None] = {v: i for i, v in enumerate(column.kind)}
            if column.nullable:
                codes[None] = None
            return pa.DictionaryArray.from_arrays(
                pa.array([codes[cell] for cell in cells], pa.int8()), pa.array(column.kind)
            )
        if column.kind in {"int64", "float64"} and not column.nullable:
            if isinstance(cells, np.ndarray) and cells.dtype == np.dtype(column.kind):
                return pa.array(cells)
            # numpy reads a tuple of numbers faster than Arrow does; it refuses None as well.
            return pa.array(np.fromiter(cells, column.kind, len(cells)))
        if column.is_list:
            return _lists(column, [() if cell is None else cell for cell in cells])
        array = pa.array(cells, column.arrow_type())
    except KeyError as error:
        raise RecordError(
            f"{where}: {error.args[0]!r} is none of {', '.join(column.kind)}"
        ) from None
    except (TypeError, ValueError, OverflowError) as error:  # Arrow's own derive from these
        raise RecordError(f"{where} has to be {column.kind}: {error}") from error
    if array.null_count and not column.nullable:
        raise RecordError(f"{where} has to be {column.kind}: a row has None")
    return array


def _lists(column: Column, cells: list[Sequence[int]]) -> pa.Array:
    import pyarrow as pa

    lengths = np.fromiter(map(len, cells), np.int64, len(cells))
    offsets = np.zeros(len(cells) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    dtype = column.arrow_type().value_type.to_pandas_dtype()
    if all(isinstance(cell, np.ndarray) for cell in cells):
        flat = np.concatenate(cells).astype(dtype, copy=False)
    else:
        flat = np.fromiter(chain.from_iterable(cells), dtype, int(lengths.sum()))
    return pa.ListArray.from_arrays(offsets, flat)


def part_files(folder: Path, name: str) -> list[Path]:
    """The whole part files of a table, oldest first."""
    return sorted((folder / PARTS).glob(f"{name}-*.parquet"))


def write_part(folder: Path, name: str, number: int, table: pa.Table) -> None:
    """Write one part file; it is there whole, or not at all.

    Raises:
        OSError: where it cannot be written.
    """
    import pyarrow.parquet as pq

    (folder / PARTS).mkdir(exist_ok=True)
    file = folder / PARTS / f"{name}-{number:06d}.parquet"
    temporary = file.with_suffix(".tmp")
    try:
        # Plain pages, quick to write: a part lives only until the tables are merged.
        pq.write_table(table, temporary, compression="lz4", use_dictionary=False)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_table(folder: Path, table: Table, chunks: Iterator[pa.Table]) -> int:
    """Stream chunks of rows into the table's one file and return the number of rows.

    At most a row group and a chunk are in memory at a time.

    Raises:
        OSError: where the file cannot be written; there is then no such file.
    """
    import pyarrow.parquet as pq

    file = folder / f"{table.name}.parquet"
    temporary = file.with_suffix(".tmp")
    schema = table.arrow_schema()
    rows = 0
    try:
        with pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=_encoded(table),
        ) as writer:
            for group in _row_groups(table, chunks):
                writer.write_table(group, row_group_size=table.row_group)
                rows += len(group)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return rows


def _encoded(table: Table) -> list[str]:
    """Columns whose values repeat; a dictionary of distinct times would only cost time."""
    return [c.name for c in table.columns if c.kind == "str" or isinstance(c.kind, tuple)]


def _row_groups(table: Table, chunks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The rows again, in contiguous tables of exactly a row group each but for the last."""
    import pyarrow as pa

    held: list[pa.Table] = []
    length = 0
    for chunk in chunks:
        held.append(chunk)
        length += len(chunk)
        while length >= table.row_group:
            joined = pa.concat_tables(held)
            yield _canonical(table, joined.slice(0, table.row_group))
            held = [joined.slice(table.row_group)]
            length -= table.row_group
    if length:
        yield _canonical(table, pa.concat_tables(held))


def _canonical(table: Table, group: pa.Table) -> pa.Table:
    """The same rows, contiguous, with enumerations coded as the schema lists them.

    Parquet writes an enumeration's dictionary as it finds it, and a part read back has the order
    in which values came; coded anew, the file does not show where flushes fell.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for i, column in enumerate(table.columns):
        if isinstance(column.kind, tuple):
            text = group.column(i).cast(pa.string())
            codes = pc.index_in(text, value_set=pa.array(column.kind)).combine_chunks()
            coded = pa.DictionaryArray.from_arrays(codes.cast(pa.int8()), pa.array(column.kind))
            group = group.set_column(i, group.schema.field(i), coded)
    return group.combine_chunks()


def read_parts(files: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """The tables in these part files, one at a time, in the table's own types."""
    import pyarrow.parquet as pq

    for file in files:
        yield pq.read_table(file).cast(schema)
