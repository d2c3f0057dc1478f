"""Writing a run: rows come in as tuples, whole tables come out, nothing flushed is ever lost.

The hot path is `writer.steps.append(row)` on a plain list; every so often (say each 65,536 rows)
the world calls `maybe_flush`, which turns full lists into part files. `close` merges the parts
into the run's tables and rewrites the manifest. Without a folder the same rows become the tables
of a run in memory. The writer knows neither the world that calls it nor what the rows mean.
"""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from traces.records.errors import RecordError
from traces.records.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    RESERVED,
    is_run,
    plain,
    write_manifest,
)
from traces.records.parts import PARTS, part_files, read_parts, to_arrow, write_part, write_table
from traces.records.run import Run
from traces.records.schema import RECORDS, TABLES, check_records, tables_for

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from traces.records.blocks import Block

    TokenIds = Sequence[int] | npt.NDArray[np.int32]

#: Rows of one table held before they are flushed, and tokens held in lists (prompts, times).
FLUSH_ROWS = 32_768
FLUSH_TOKENS = 4_000_000


class RunWriter:
    """Writes one run; a context manager that closes it whatever happens.

    Left normally, it closes as `complete`; by Ctrl-C, as `interrupted`; by another exception, as
    `failed: <the exception>`. A world that ends early by itself calls `close` with its own status.

    Args:
        out: the folder, made if needed; None keeps the run in memory.
        manifest: what the run is (config, workload, seed, versions, hardware,
            kv_capacity_tokens ...); no times of day.
        records: which of `RECORDS` are wanted; `requests` always is.
        overwrite: replace the run that `out` holds.

    Attributes:
        steps, decisions: rows not flushed yet, tuples in the order of the table's columns. They
            stay the same lists for the writer's whole life, so `append` can be kept at hand. Rows
            of a table that was not asked for are dropped at the next flush.
        records: what is recorded, so that a world can save itself making other rows.

    Raises:
        RecordError: where `out` holds a run (and `overwrite` is not set) or something else, where
            a record is unknown, or where a file cannot be written.
    """

    def __init__(
        self,
        out: Path | str | None,
        manifest: Mapping[str, object],
        records: Collection[str] = ("requests", "steps"),
        *,
        overwrite: bool = False,
    ) -> None:
        self._tables = tables_for(records)
        self.records = check_records(records)
        self._manifest = _given(manifest) | {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "records": [r for r in RECORDS if r in self.records],
            "status": "running",
            "tables": {},
        }
        self._rows: dict[str, list[tuple[Any, ...] | Block]] = {name: [] for name in TABLES}
        self._in_blocks = 0  # rows held in blocks
        self.steps = self._rows["steps"]
        self.decisions = self._rows["decisions"]
        self._requests = self._rows["requests"]
        self._held_tokens = 0
        self._kept = dict.fromkeys(self._tables, 0)  # rows flushed
        self._parts = dict.fromkeys(self._tables, 0)
        self._memory: dict[str, list[pa.Table]] = {name: [] for name in self._tables}
        self._has_times = "tokens" in self.records
        self._run: Run | None = None
        self.folder = None if out is None else Path(out)
        if self.folder is not None:
            _take(self.folder, overwrite=overwrite)
            with self._writing(self.folder / MANIFEST):
                write_manifest(self.folder, self._manifest)

    def request(self, row: tuple[Any, ...]) -> None:
        """Record one request that has ended (or that the run's end left behind)."""
        if self._has_times and row[-1] is not None:
            self._held_tokens += len(row[-1])
        self._requests.append(row)

    def many_steps(self, block: Block) -> None:
        """Record many steps at once; they stand after those already in `steps`."""
        self._in_blocks += len(block)
        self.steps.append(block)

    def decision(self, row: tuple[Any, ...]) -> None:
        """Record one event of the decision log; the plain form of `decisions.append`."""
        self.decisions.append(row)

    def tokens(
        self,
        request_id: str,
        prompt: TokenIds,
        output: TokenIds,
        *,
        ignore_eos: bool = False,
        extra_key: str | None = None,
        routing_key: str | None = None,
        lora_id: str | None = None,
    ) -> None:
        """Record a request's token ids (lists, or int32 arrays), and what else scheduling goes by."""
        self._held_tokens += len(prompt) + len(output)
        keys = ignore_eos, extra_key, routing_key, lora_id
        self._rows["tokens"].append((request_id, prompt, output, *keys))

    def maybe_flush(self) -> None:
        """Flush everything where enough is held; call it now and then, not for every row.

        Raises:
            RecordError: as `flush` does.
        """
        most = max(self._in_blocks, *map(len, self._rows.values()))
        if most >= FLUSH_ROWS or self._held_tokens >= FLUSH_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Put all rows held where they survive the process.

        Raises:
            RecordError: where a row does not fit its table, or the disk is full. What was flushed
                before stays readable, and rows not flushed stay held.
        """
        for name, rows in self._rows.items():
            table = self._tables.get(name)
            if rows and table is not None:
                part = to_arrow(table, rows)
                if self.folder is None:
                    self._memory[name].append(part)
                else:
                    with self._writing(self.folder / PARTS / name):
                        write_part(self.folder, name, self._parts[name], part)
                self._parts[name] += 1
                self._kept[name] += len(part)
            rows.clear()
        self._held_tokens = self._in_blocks = 0

    def close(self, status: str = "complete", **manifest_updates: object) -> Run:
        """End the run: merge its tables, rewrite its manifest, and return it.

        Closing twice changes nothing and returns the same run.

        Args:
            status: `complete`, `interrupted` or `failed: <why>`.
            **manifest_updates: what is known only now (`itl`, `counts` ...).

        Raises:
            RecordError: where a file cannot be written. All that was flushed stays readable.
        """
        if self._run is not None:
            return self._run
        if status not in {"complete", "interrupted"} and not status.startswith("failed: "):
            raise RecordError(f"status {status!r}: has to be complete, interrupted or failed: why")
        self._manifest |= _given(manifest_updates)
        if self.folder is None:
            self.flush()
            self._run = Run(self._final(status), tables=self._joined())
            return self._run
        try:
            self._merge(self.folder)
            with self._writing(self.folder / MANIFEST):
                write_manifest(self.folder, self._final(status))
        except RecordError as error:
            with suppress(OSError):  # a manifest is small: it may still fit
                write_manifest(self.folder, self._final(f"failed: {error}"))
            raise
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        self._run = Run(self._final(status), path=self.folder)
        return self._run

    def _final(self, status: str) -> dict[str, Any]:
        return self._manifest | {"status": status, "tables": dict(self._kept)}

    def _joined(self) -> dict[str, pa.Table]:
        import pyarrow as pa

        return {
            name: pa.concat_tables([table.arrow_schema().empty_table(), *self._memory[name]])
            for name, table in self._tables.items()
        }

    def _merge(self, folder: Path) -> None:
        """Write every table's one file from its parts and the rows still held."""
        if any(self._parts.values()):
            self.flush()  # first make sure of the rows: a merge can fail
        for name, table in self._tables.items():
            with self._writing(folder / f"{name}.parquet"):
                rows = write_table(folder, table, self._chunks(folder, name))
            self._kept[name] = rows
            self._rows[name].clear()

    def _chunks(self, folder: Path, name: str) -> Iterator[pa.Table]:
        table = self._tables[name]
        yield from read_parts(part_files(folder, name))
        if self._rows[name]:
            yield to_arrow(table, self._rows[name])

    @contextmanager
    def _writing(self, file: Path) -> Iterator[None]:
        """Turn an `OSError` while a file is written into one that says what is left and to do."""
        try:
            yield
        except OSError as error:
            kept = ", ".join(f"{rows:,} of {name}" for name, rows in self._kept.items())
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise RecordError(
                f"cannot write {file}: {error}. Rows kept, readable with load_run: {kept}. "
                f"{'Free some space' if full else 'See to the folder'} or write elsewhere, "
                f"and run again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        interrupted = issubclass(kind, KeyboardInterrupt)
        try:
            self.close("interrupted" if interrupted else f"failed: {kind.__name__}: {error}")
        except RecordError as second:
            # The first error is on its way up; what was flushed can be read as it is.
            if error is not None:
                error.add_note(f"Closing the records failed as well: {second}")


def _given(manifest: Mapping[str, object]) -> dict[str, Any]:
    taken = [key for key in RESERVED if key in manifest]
    if taken:
        raise RecordError(f"manifest key {taken[0]!r} is kept by the writer itself: leave it out")
    given: dict[str, Any] = plain(manifest)
    return given


def _take(folder: Path, *, overwrite: bool) -> None:
    """Make the folder ready for a new run; never touch what is no run's.

    Raises:
        RecordError: where the folder holds something else, or a run that is to be kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        filled = any(folder.iterdir())
    except OSError as error:
        raise RecordError(f"cannot make the run folder {folder}: {error}") from error
    if not filled:
        return
    if not is_run(folder):
        raise RecordError(
            f"{folder} is not empty and holds no run, so it is left alone: "
            f"name a new or an empty folder"
        )
    if not overwrite:
        raise RecordError(
            f"{folder} already holds a run: name another folder, or overwrite it on purpose "
            f"(--overwrite, overwrite=True)"
        )
    for name in TABLES:
        (folder / f"{name}.parquet").unlink(missing_ok=True)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
