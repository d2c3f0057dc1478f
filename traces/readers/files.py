"""The bytes of a trace: one file, or the files of a folder or a tar, each plain, gzipped or zstd.

Knows nothing of text or formats. What is read is told by its first bytes, never by its name, but
of a folder or a tar only the files with a trace's suffix count, so that a LICENSE can lie beside.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from hashlib import _Hash
    from pathlib import Path

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SUFFIXES = (".json", ".jsonl", ".csv")
COMPRESSED = (".gz", ".zst")
_TAR_MAGIC = slice(257, 262)
_WINDOW = 2**31  # as `zstd --long=31` may ask for; archives here were made with --long=27
_PIECE = 1 << 20
_ZSTD_PIECE = 1 << 14  # sessions of agents shrink to a three-hundredth


class Member(NamedTuple):
    """One file of a trace; `name` is its place in the folder or tar, empty for the file itself."""

    name: str
    stream: BinaryIO


class ArchiveError(OSError):
    """Compressed data that cannot be read; `kind` is what it is compressed with."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def plain_or_gzipped(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder, or with `.gz` behind it; None where there is neither."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def text_of(path: Path) -> str:
    """The text of a file, gzipped if its name says so.

    Raises:
        OSError, EOFError, ValueError: where it cannot be read.
    """
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def members(
    path: Path, digest: _Hash, opening: Callable[[str], object] = lambda _name: None
) -> Iterator[Member]:
    """The files of a trace: a folder's in the order of their names, a tar's as they stand in it.

    Args:
        path: the file, the tar or the folder.
        digest: is fed with all that lies there, uncompressed: a tar as a tar.
        opening: called with the name of each file of a folder before it is opened.

    Raises:
        EOFError: compressed data ends too early.
        ArchiveError: it is damaged.
        OSError: it cannot be read otherwise.
    """
    if not path.is_dir():
        yield from _opened(path, "", digest)
        return
    for file in folder_files(path):
        name = file.relative_to(path).as_posix()
        opening(name)
        yield from _opened(file, name, digest)


def folder_files(folder: Path) -> list[Path]:
    """Files of a folder and those below it that may hold a trace, by name; else its archives."""
    files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.as_posix())
    return [p for p in files if _is_trace(p.name)] or [p for p in files if ".tar" in p.suffixes]


def _is_trace(name: str) -> bool:
    base = name.rpartition("/")[2].lower()
    for suffix in COMPRESSED:
        base = base.removesuffix(suffix)
    return base.endswith(SUFFIXES) and not base.startswith(".")


def _opened(path: Path, name: str, digest: _Hash) -> Iterator[Member]:
    with path.open("rb") as file:
        stream = _tapped(_decompressed(file), digest)
        if stream.peek(512)[_TAR_MAGIC] != b"ustar":
            yield Member(name, stream)
            return
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for info in tar:
                    content = tar.extractfile(info) if _is_trace(info.name) else None
                    if content is not None:
                        inside = _decompressed(cast("io.BufferedReader", content))
                        yield Member(f"{name}/{info.name}".lstrip("/"), inside)
        except tarfile.ReadError as error:
            raise ArchiveError("tar", str(error)) from None
        while stream.read(_PIECE):  # what fills the tar's last block belongs to its digest
            pass


def _decompressed(stream: io.BufferedReader) -> io.BufferedReader:
    magic = stream.peek(4)[:4]
    if magic.startswith(GZIP_MAGIC):
        return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=stream)), _PIECE)
    if magic == ZSTD_MAGIC:
        return io.BufferedReader(_Zstd(stream), _PIECE)
    return stream


def _tapped(stream: io.BufferedReader, digest: _Hash) -> io.BufferedReader:
    return io.BufferedReader(_Tap(stream, digest), _PIECE)


class _Tap(io.RawIOBase):
    """Passes bytes through, and shows them to a digest."""

    def __init__(self, stream: BinaryIO, digest: _Hash) -> None:
        self._stream = stream
        self._digest = digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        content = self._stream.read(len(view))
        view[: len(content)] = content
        self._digest.update(content)
        return len(content)


class _Zstd(io.RawIOBase):
    """Decompresses zstd frames; unlike the library's own reader it notices a missing end."""

    def __init__(self, stream: BinaryIO) -> None:
        import zstandard

        self._stream = stream
        self._errors = zstandard.ZstdError
        self._library = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._frame = self._library.decompressobj()
        self._ready = memoryview(b"")
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        while not self._ready:
            if not self._more():
                return 0
        taken = self._ready[: len(view)]
        self._ready = self._ready[len(taken) :]
        view[: len(taken)] = taken
        return len(taken)

    def _more(self) -> bool:
        """Decompress another piece; False at the end of the last frame."""
        piece = b""
        if self._frame.eof:
            piece = self._frame.unused_data
            self._frame = self._library.decompressobj()
            self._begun = False
        piece = piece or self._stream.read(_ZSTD_PIECE)
        if not piece:
            if self._begun:
                raise EOFError("zstd")
            return False
        self._begun = True
        try:
            self._ready = memoryview(self._frame.decompress(piece))
        except self._errors as error:
            raise ArchiveError("zstd", str(error)) from None
        return True
