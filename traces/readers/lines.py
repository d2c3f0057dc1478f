"""The numbered text lines of a trace, or its whole documents, and the rows parsed from them.

Knows nothing of any format. What cannot be read as text is a `TraceError`; a row its parser rejects
is one too, or is left out and counted.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from traces.errors import RowError, TraceError, shown
from traces.readers.files import ArchiveError, folder_files, members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

HEAD_LINES = 20
_HEAD_BYTES = 1 << 18  # enough lines to tell a format; the first may be longer
_LONGEST_HEAD_LINE = 1 << 25
_KEPT_MESSAGES = 5
_TEXT = "plain, gzipped or zstd-compressed UTF-8 text"


class Place(NamedTuple):
    """Where a row stands: its file within a folder or tar (or ""), and its line there."""

    member: str
    line: int | None


_NOWHERE = Place("", None)


@dataclass(slots=True)
class TraceLines:
    """The non-blank lines of a trace, front to back, once; one file after the other.

    Attributes:
        path: the file, the tar or the folder.
        skip_bad_rows: whether rows that do not parse are left out and counted.
        hint: called with a line that did not parse; says what else it looks like, or nothing.
        here: where the line given last stands.
        sha256: of the uncompressed content, hexadecimal; None until all of it has been read.
        skipped: rows left out.
        messages: what was wrong with the first few of them.
    """

    path: Path
    skip_bad_rows: bool = False
    hint: Callable[[str], str] = lambda _line: ""
    here: Place = _NOWHERE
    sha256: str | None = None
    skipped: int = 0
    messages: list[str] = field(default_factory=list)

    def head(self) -> list[tuple[int, str]]:
        """The first lines of the first file that has any, for a look at the format.

        Raises:
            TraceError: as in reading them.
        """
        with self._clear_errors():
            for name, stream in members(self.path, hashlib.sha256(), self._opening):
                self.here = Place(name, None)
                lines: list[tuple[int, str]] = []
                left = _HEAD_BYTES
                for number in range(1, 2 * HEAD_LINES):
                    raw = stream.readline(_LONGEST_HEAD_LINE)
                    left -= len(raw)
                    self.here = Place(name, number)
                    line = self._text(raw)
                    if line:
                        lines.append((number, line))
                    if not raw or left < 0 or len(lines) == HEAD_LINES:
                        break
                if lines:
                    return lines
        return []

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Line numbers from 1, and lines without their ends.

        Raises:
            TraceError: the file is missing, unreadable, binary, or cut short.
        """
        digest = hashlib.sha256()
        with self._clear_errors():
            for name, stream in members(self.path, digest, self._opening):
                for number, raw in enumerate(stream, start=1):
                    self.here = Place(name, number)
                    line = self._text(raw)
                    if line:
                        yield number, line
        self.sha256 = digest.hexdigest()

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the files, for formats whose unit is the file, not the line.

        Raises:
            TraceError: as in reading lines.
        """
        digest = hashlib.sha256()
        with self._clear_errors():
            for name, stream in members(self.path, digest, self._opening):
                self.here = Place(name, None)
                content = stream.read()
                if content.strip():
                    yield name, content
        self.sha256 = digest.hexdigest()

    def rows(
        self,
        lines: Iterator[tuple[int, str]],
        parse: Callable[[str], T],
        limit: int | None = None,
    ) -> Iterator[tuple[int, T]]:
        """Ordinals from 0, counting bad rows too, and rows parsed: the first `limit` of them.

        Raises:
            TraceError: `parse` rejects a row, and bad rows are not left out.
        """
        yield from islice(self._rows(lines, parse), limit)

    def _rows(
        self, lines: Iterator[tuple[int, str]], parse: Callable[[str], T]
    ) -> Iterator[tuple[int, T]]:
        for ordinal, (number, line) in enumerate(lines):
            try:
                row = parse(line)
            except RowError as error:
                self._reject(self.at(number, line, error))
            else:
                yield ordinal, row

    def at(self, number: int, line: str, error: RowError) -> TraceError:
        """The error of the row last read, with file and line."""
        return self._error(Place(self.here.member, number), error, self.hint(line))

    def reject(self, place: Place, error: RowError) -> None:
        """A row that parsed turned out to be wrong: an error, or left out and counted.

        Raises:
            TraceError: bad rows are not left out.
        """
        self._reject(self._error(place, error))

    def _error(self, place: Place, error: RowError, hint: str = "") -> TraceError:
        return TraceError(
            self._named(place.member),
            error.found,
            error.expected + hint,
            line=place.line,
            field=error.field,
        )

    def _reject(self, located: TraceError) -> None:
        if not self.skip_bad_rows:
            raise located from None
        self.skipped += 1
        if len(self.messages) < _KEPT_MESSAGES:
            self.messages.append(str(located))

    def _opening(self, member: str) -> None:
        self.here = Place(member, None)

    def _named(self, member: str) -> Path:
        return self.path / member if member else self.path

    def _text(self, raw: bytes) -> str:
        number = self.here.line
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise TraceError(
                self._named(self.here.member),
                f"binary data ({shown(raw[:8])})",
                _TEXT,
                line=number,
            ) from None
        if "\0" in text:
            raise TraceError(self._named(self.here.member), "a NUL character", _TEXT, line=number)
        return text.strip()

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """What goes wrong in the files becomes a `TraceError`."""
        if self.path.is_dir() and not folder_files(self.path):
            expected = "a trace file, or a folder with .json, .jsonl or .csv files"
            raise TraceError(self.path, "a folder", expected)
        try:
            yield
        except EOFError as error:
            kind = "zstd" if "zstd" in str(error) else "gzip"
            found = f"the end of the file in the middle of its {kind} data"
            raise self._unreadable(found, "a complete archive") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self._unreadable(f"damaged gzip data ({error})", "a sound archive") from None
        except ArchiveError as error:
            found = f"damaged {error.kind} data ({error.reason})"
            raise self._unreadable(found, "a sound archive") from None
        except FileNotFoundError:
            raise TraceError(self._failed(), "no such file", "a trace file") from None
        except OSError as error:
            reason = error.strerror or str(error)
            found = f"an unreadable file ({reason})"
            raise TraceError(self._failed(), found, "a trace file") from error

    def _unreadable(self, found: str, expected: str) -> TraceError:
        file, member = self._failed(), self.here.member
        where = f", after line {self.here.line}" if self.here.line else ""
        if member and file == self.path:
            where += f" of {member}"
        return TraceError(file, f"{found}{where}", expected)

    def _failed(self) -> Path:
        """The file that was being read: one of the folder's, or the tar whatever stands in it."""
        return self._named(self.here.member) if self.path.is_dir() else self.path
