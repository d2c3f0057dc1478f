"""The numbered text lines of a trace file, plain or gzipped, and the rows parsed from them.

Knows nothing of any format. What cannot be read as text is a `TraceError`; a row its parser rejects
is one too, or is left out and counted.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from traces.errors import RowError, TraceError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

_GZIP_MAGIC = b"\x1f\x8b"
_KEPT_MESSAGES = 5
_TEXT = "plain or gzipped UTF-8 text"


@dataclass(slots=True)
class TraceLines:
    """The non-blank lines of one file, front to back, once.

    Attributes:
        path: the file.
        skip_bad_rows: whether rows that do not parse are left out and counted.
        hint: called with a line that did not parse; says what else it looks like, or nothing.
        sha256: of the uncompressed content, hexadecimal; None until all of it has been read.
        skipped: rows left out.
        messages: what was wrong with the first few of them.
    """

    path: Path
    skip_bad_rows: bool = False
    hint: Callable[[str], str] = lambda _line: ""
    sha256: str | None = None
    skipped: int = 0
    messages: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Line numbers from 1, and lines without their ends.

        Raises:
            TraceError: the file is missing, a folder, unreadable, binary, or cut short.
        """
        digest = hashlib.sha256()
        number = 0
        try:
            with self.path.open("rb") as probe:
                zipped = probe.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            with gzip.open(self.path) if zipped else self.path.open("rb") as stream:
                for number, raw in enumerate(stream, start=1):
                    digest.update(raw)
                    line = self._text(number, raw)
                    if line:
                        yield number, line
        except EOFError:
            raise self._unreadable(
                number, "the end of the file in the middle of its gzip data", "a complete archive"
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self._unreadable(
                number, f"damaged gzip data ({error})", "a sound archive"
            ) from None
        except FileNotFoundError:
            raise TraceError(self.path, "no such file", "a trace file") from None
        except IsADirectoryError:
            raise TraceError(self.path, "a folder", "a trace file") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise TraceError(self.path, f"an unreadable file ({reason})", "a trace file") from error
        self.sha256 = digest.hexdigest()

    def rows(
        self, lines: Iterator[tuple[int, str]], parse: Callable[[str], T]
    ) -> Iterator[tuple[int, T]]:
        """Ordinals from 0, counting bad rows too, and rows parsed.

        Raises:
            TraceError: `parse` rejects a row, and bad rows are not left out.
        """
        for ordinal, (number, line) in enumerate(lines):
            try:
                row = parse(line)
            except RowError as error:
                self._bad_row(number, line, error)
            else:
                yield ordinal, row

    def at(self, number: int, line: str, error: RowError) -> TraceError:
        """The error of a row, with file and line."""
        return TraceError(
            self.path,
            error.found,
            error.expected + self.hint(line),
            line=number,
            field=error.field,
        )

    def _bad_row(self, number: int, line: str, error: RowError) -> None:
        located = self.at(number, line, error)
        if not self.skip_bad_rows:
            raise located from None
        self.skipped += 1
        if len(self.messages) < _KEPT_MESSAGES:
            self.messages.append(str(located))

    def _text(self, number: int, raw: bytes) -> str:
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise TraceError(
                self.path, f"binary data ({shown(raw[:8])})", _TEXT, line=number
            ) from None
        if "\0" in text:
            raise TraceError(self.path, "a NUL character", _TEXT, line=number)
        return text.strip()

    def _unreadable(self, number: int, found: str, expected: str) -> TraceError:
        return TraceError(self.path, f"{found}, after line {number}", expected)
