"""Tables on disk that survive the process: whole part files while running, one file at the end.

Each flush writes a complete Arrow file under `parts/`, by way of a temporary name, so whatever ends
the process, all that was flushed can be read. Parts are as plain as memory, for they live only until
the end; then those of a table are streamed into `<table>.parquet`, one row group at a time, and
removed. The result depends on the rows alone: row groups have a fixed length, enumerations a fixed
dictionary, and every row group is contiguous when it is written. Knows no table by name.
"""

from __future__ import annotations

import struct
from itertools import chain, compress
from typing import TYPE_CHECKING, Any

import numpy as np

from traces.records.blocks import Places, numbers
from traces.records.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from traces.records.blocks import Block, Cells
    from traces.records.schema import Column, Table

PARTS = "parts"
_NULL = -1  # the code of an enumeration's missing value


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
    alone = [isinstance(row, tuple) for row in rows]
    single = list(compress(rows, alone))
    if not set(map(len, single)) <= {width}:
        bad = next(row for row in single if len(row) != width)
        raise RecordError(
            f"table {table.name}: a row has {len(bad)} values, it needs {width} "
            f"({', '.join(table.names)}): {bad!r}"
        )
    ones = zip(*single, strict=True) if single else [()] * width
    many: Sequence[Cells | None] = [None] * width
    places = None
    if len(single) < len(rows):
        blocks = [row for row in rows if not isinstance(row, tuple)]
        many, places = type(blocks[0]).columns(blocks), Places.of(alone, list(map(len, blocks)))
    arrays = [
        _array(f"table {table.name}, column {column.name}", column, cells, of_blocks, places)
        for column, cells, of_blocks in zip(table.columns, ones, many, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(
    where: str,
    column: Column,
    cells: tuple[Any, ...],
    of_blocks: Cells | None,
    places: Places | None,
) -> pa.Array:
    """A column of rows and, where there are any, of blocks."""
    import pyarrow as pa

    try:
        if isinstance(column.kind, tuple):
            codes: dict[object, int] = {value: i for i, value in enumerate(column.kind)}
            if column.nullable:
                codes[None] = _NULL
            coded = numbers([codes[cell] for cell in cells], "int8")
            if places is not None:
                coded = places.together(coded, codes[of_blocks])
            nulls = coded == _NULL if column.nullable else None
            return pa.DictionaryArray.from_arrays(
                pa.array(coded, mask=nulls), pa.array(column.kind)
            )
        if column.kind in {"int64", "float64"} and not column.nullable:
            array = numbers(cells, "int64" if column.kind == "int64" else "float64")
            if places is not None:
                assert of_blocks is not None
                assert not isinstance(of_blocks, str)
                array = places.together(array, of_blocks)
            return pa.array(array)
        assert places is None, f"{where}: blocks have no {column.kind}"
        if column.is_list:
            return _lists(column, [() if cell is None else cell for cell in cells])
        array = pa.array(cells, column.arrow_type())
    except KeyError as error:
        raise RecordError(
            f"{where}: {error.args[0]!r} is none of {', '.join(column.kind)}"
        ) from None
    except (
        TypeError,
        ValueError,
        OverflowError,
        struct.error,
    ) as error:  # Arrow's own derive from these
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
    return sorted((folder / PARTS).glob(f"{name}-*.arrow"))


def write_part(folder: Path, name: str, number: int, table: pa.Table) -> None:
    """Write one part file; it is there whole, or not at all.

    Raises:
        OSError: where it cannot be written.
    """
    import pyarrow as pa

    (folder / PARTS).mkdir(exist_ok=True)
    file = folder / PARTS / f"{name}-{number:06d}.arrow"
    temporary = file.with_suffix(".tmp")
    try:
        with pa.ipc.new_file(str(temporary), table.schema) as writer:
            writer.write_table(table)
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
        with pq.ParquetWriter(temporary, schema, **_encoding(table)) as writer:
            for group in _row_groups(table, chunks):
                writer.write_table(group, row_group_size=table.row_group)
                rows += len(group)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return rows


def _encoding(table: Table) -> dict[str, Any]:
    """How the columns of a table are written.

    A column of whole numbers is mostly times, which grow, or counts, which stay or change by little:
    their differences are short, quick to write, and leave a compressor little to do. Names and
    enumerations repeat, so each is written once and pointed at. Tables are read whole: no statistics
    say which parts to skip.
    """
    whole = [c.name for c in table.columns if c.kind == "int64"]
    others = [_leaf(c) for c in table.columns if c.kind != "int64"]
    return {
        "column_encoding": dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
        "use_dictionary": [
            c.name for c in table.columns if c.kind == "str" or isinstance(c.kind, tuple)
        ],
        "compression": dict.fromkeys(whole, "lz4") | dict.fromkeys(others, "zstd"),
        "compression_level": dict.fromkeys(others, 1),
        "write_statistics": False,
    }


def _leaf(column: Column) -> str:
    """The path by which Parquet knows a column's values."""
    return f"{column.name}.list.element" if column.is_list else column.name


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
            yield joined.slice(0, table.row_group).combine_chunks()
            held = [joined.slice(table.row_group)]
            length -= table.row_group
    if length:
        yield pa.concat_tables(held).combine_chunks()


def read_parts(files: Sequence[Path]) -> Iterator[pa.Table]:
    """The tables in these part files, one at a time; their rows are read when they are looked at."""
    import pyarrow as pa

    for file in files:
        with pa.memory_map(str(file)) as mapped:
            yield pa.ipc.open_file(mapped).read_all()
