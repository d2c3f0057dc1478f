"""A file that appears whole or not at all, compressed as its name says."""

from __future__ import annotations

import gzip
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once it is whole.

    It is compressed if the name ends in `.gz` or `.zst`; the same content gives the same bytes.

    Raises:
        OSError: the file cannot be written; what stood there still does.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            if path.suffix == ".gz":
                # no name and no time in the archive: the same content, the same bytes
                with gzip.GzipFile("", "wb", 3, file, mtime=0) as zipped:  # 9 takes twice as long
                    yield cast("BinaryIO", zipped)
            elif path.suffix == ".zst":
                import zstandard

                with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
                    yield cast("BinaryIO", packed)
            else:
                yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
