"""Public traces: where each is published, under what licence, and how to have it here.

`fetch` downloads one, checks it and puts it into the user's cache folder, whole or not at all;
`find` says where it then lies. Checksums are of the uncompressed upstream file: taken of the file, or
told by its publisher (git-LFS pointers of Bailian's coder and thinking), or, for Azure 2024, BurstGPT,
Mooncake's toolagent and Bailian's chat and api, what at least two independent users of that address have
published. Where none is known, the download is checked by its size, or only by having come whole;
`Entry.verified` says so.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import zlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from traces.readers.files import members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PIECE = 1 << 18
_TIMEOUT_S = 60
_LFS_POINTER = b"version https://git-lfs"


class FetchError(Exception):
    """A trace could not be had; nothing half-written is left behind."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A public trace.

    Attributes:
        name: what to call it on the command line.
        what: it is.
        format: it is written in, as the readers call it.
        url: of one file.
        licence: as its publisher states it.
        bytes: of the uncompressed file; None if not known.
        sha256: of the uncompressed file, hexadecimal; None if not known.
    """

    name: str
    what: str
    format: str
    url: str
    licence: str
    bytes: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"trace {self.name!r}: url is {self.url!r}; expected http or https")

    @property
    def verified(self) -> str:
        """By what a download is checked: "sha256", "size" or "none"."""
        return "sha256" if self.sha256 else "size" if self.bytes is not None else "none"


@cache
def catalogue() -> Mapping[str, Entry]:
    """The known traces by name."""
    text = resources.files("traces").joinpath("catalogue.json").read_text(encoding="utf-8")
    return {name: Entry(name=name, **fields) for name, fields in json.loads(text).items()}


def cache_folder() -> Path:
    """Where fetched traces are kept: the cache folder that the user's system has for programs."""
    from platformdirs import user_cache_path

    return user_cache_path("schedtwin", appauthor=False) / "traces"


def entry_of(name: str, entries: Mapping[str, Entry] | None = None) -> Entry:
    """The trace of that name.

    Raises:
        FetchError: there is none; the known are named.
    """
    known = catalogue() if entries is None else entries
    if name not in known:
        raise FetchError(f"no trace {name!r} in the catalogue; known: {', '.join(known)}")
    return known[name]


def find(name: str, folder: Path | None = None) -> Path | None:
    """Where a fetched trace lies; None if it is not in the catalogue, or not fetched."""
    entry = catalogue().get(name)
    if entry is None:
        return None
    path = _place(entry, cache_folder() if folder is None else folder)
    return path if path.is_file() else None


def fetch(
    name: str,
    *,
    folder: Path | None = None,
    entries: Mapping[str, Entry] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Has a trace here: from the cache, or downloaded, checked and put there.

    Args:
        name: of the trace.
        folder: the cache folder, by default the user's.
        entries: the catalogue, by default the one that is shipped.
        progress: told the bytes so far, and of how many, if that is known.

    Returns:
        The file, as it was published.

    Raises:
        FetchError: an unknown name, no connection, a download cut short or damaged, or a file that
            is not the one expected.
        OSError: the cache folder cannot be written.
    """
    entry = entry_of(name, entries)
    path = _place(entry, cache_folder() if folder is None else folder)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _download(entry, partial, progress)
        _check(entry, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _place(entry: Entry, folder: Path) -> Path:
    file = Path(urlsplit(entry.url).path).name or entry.name
    return folder / entry.name / file


def _download(
    entry: Entry, partial: Path, progress: Callable[[int, int | None], None] | None
) -> None:
    from urllib.request import build_opener

    done, total = 0, None
    try:
        with (
            build_opener().open(entry.url, timeout=_TIMEOUT_S) as answer,
            partial.open("wb") as file,
        ):
            length = answer.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            while piece := answer.read(_PIECE):
                file.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, total)
    except (URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is an answer too, with a connection
        reason = getattr(error, "reason", None) or error
        raise FetchError(f"{entry.name}: {entry.url} cannot be had: {reason}") from error
    if total is not None and done != total:
        raise FetchError(
            f"{entry.name}: the download from {entry.url} ended after {done:,} of {total:,} bytes; "
            "fetch it again"
        )


def _check(entry: Entry, partial: Path) -> None:
    """Holds a download to what the catalogue says of it."""
    with partial.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise FetchError(
                f"{entry.name}: {entry.url} gives a git-LFS pointer, not the file; its publisher has "
                "moved it"
            )
    digest, size = hashlib.sha256(), 0
    try:
        for member in members(partial, digest):
            while piece := member.stream.read(_PIECE):
                size += len(piece)
    except (EOFError, OSError, zlib.error) as error:
        raise FetchError(f"{entry.name}: what {entry.url} gives is damaged: {error}") from error
    if entry.sha256 is not None and digest.hexdigest() != entry.sha256:
        raise FetchError(
            f"{entry.name}: {entry.url} gives another file: sha256 {digest.hexdigest()} of "
            f"{size:,} bytes; expected {entry.sha256}"
        )
    if entry.bytes is not None and size != entry.bytes:
        raise FetchError(
            f"{entry.name}: {entry.url} gives another file: {size:,} bytes uncompressed; expected "
            f"{entry.bytes:,}"
        )
