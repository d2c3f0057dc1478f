"""Reading a run: its manifest and its tables, whoever wrote it and however it ended.

A run that was cut off (killed, disk full) is read from the part files that were flushed before.
Tables are read when first asked for. A run shows itself as the table of its metrics.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.records.errors import RecordError
from traces.records.manifest import read_manifest
from traces.records.parts import part_files, read_parts
from traces.records.schema import RECORDS, TABLES, WRITTEN_BY, tables_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import pyarrow as pa

    from traces.records.metrics import Summary


class Run:
    """One run, in a folder or in memory.

    Attributes:
        path: its folder, or None for a run in memory.
        manifest: what it was and how it ended (see `traces.records.manifest`).
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        *,
        path: Path | None = None,
        tables: Mapping[str, pa.Table] | None = None,
    ) -> None:
        self.manifest = dict(manifest)
        self.path = path
        self._tables = None if tables is None else dict(tables)

    @property
    def name(self) -> str:
        """What to call it beside others: its folder's name, or its manifest's `name`."""
        return str(self.manifest.get("name") or (self.path.name if self.path else "run"))

    @property
    def status(self) -> str:
        """How it ended; `running` where it has not, or was killed."""
        return str(self.manifest["status"])

    def has(self, table: str) -> bool:
        """Whether the run has this table."""
        return table in tables_for(self.manifest["records"])

    def arrow(self, table: str) -> pa.Table:
        """A table as Arrow holds it.

        Raises:
            RecordError: where the run has no such table (with what writes it), or its file is
                missing or damaged.
        """
        if table not in TABLES:
            raise RecordError(f"unknown table {table!r}: known are {', '.join(TABLES)}")
        if not self.has(table):
            record = WRITTEN_BY[table]
            raise RecordError(
                f"run {self.name} has no table {table}: it was written with --records "
                f"{','.join(self.manifest['records'])}; `{record}` among them writes it"
            )
        if self._tables is not None:
            return self._tables[table]
        return self._read(table)

    def _read(self, name: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.path is None:
            raise RecordError(f"run {self.name} has neither a folder nor tables")
        schema = tables_for(self.manifest["records"])[name].arrow_schema()
        file = self.path / f"{name}.parquet"
        try:
            if file.exists():
                return pq.read_table(file).cast(schema)
            parts = part_files(self.path, name)
            if not parts and self.manifest.get("tables", {}).get(name):
                raise RecordError(f"{file} is missing, though the manifest says it was written")
            return pa.concat_tables([schema.empty_table(), *read_parts(parts)])
        except (OSError, ValueError) as error:  # Arrow's errors derive from these
            said = " ".join(str(error).split())  # Arrow's run over several lines
            raise RecordError(f"{file} (or its parts) cannot be read: {said}") from error

    @cached_property
    def requests(self) -> pd.DataFrame:
        """A row per request that ended; columns as in `schema.TABLES["requests"]`."""
        return self._frame("requests")

    @cached_property
    def steps(self) -> pd.DataFrame:
        """A row per step; columns as in `schema.TABLES["steps"]`."""
        return self._frame("steps")

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """Prompts and outputs by request; columns as in `schema.TABLES["tokens"]`."""
        return self._frame("tokens")

    @cached_property
    def decisions(self) -> pd.DataFrame:
        """The decision log; columns as in `schema.TABLES["decisions"]`."""
        return self._frame("decisions")

    def _frame(self, name: str) -> pd.DataFrame:
        """The table in pandas. Nullable integers become `Int64`, never floats: times stay exact."""
        import pandas as pd
        import pyarrow as pa

        nullable = {
            pa.int64(): pd.Int64Dtype(),
            pa.int32(): pd.Int32Dtype(),
            pa.bool_(): pd.BooleanDtype(),
        }
        table = self.arrow(name)
        series = {}
        for column in TABLES[name].columns:
            if column.name not in table.column_names:
                continue
            kwargs = {"types_mapper": nullable.get} if column.nullable else {}
            frame = table.select([column.name]).to_pandas(**kwargs)[column.name]
            if isinstance(column.kind, tuple):
                frame = frame.cat.set_categories(list(column.kind))
            series[column.name] = frame
        return pd.DataFrame(series)

    def summary(self) -> Summary:
        """The run's metrics; see `traces.records.definitions.METRICS` for what each means."""
        return self._summary

    @cached_property
    def _summary(self) -> Summary:
        from traces.records.metrics import summarize

        return summarize(self)

    def __str__(self) -> str:
        from traces.records.tables import summary_table, to_text

        return to_text(summary_table(self))

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else str(self.path)
        return f"<Run {self.name} ({where}): {self.status}>"

    def _repr_html_(self) -> str:
        from traces.records.tables import summary_html

        return summary_html(self)


def load_run(path: Path | str) -> Run:
    """The run in a folder.

    Raises:
        RecordError: where there is no such folder, or it holds no run that can be read.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    unknown = sorted(set(manifest.get("records", ())) - set(RECORDS))
    if "records" not in manifest or "status" not in manifest or unknown:
        raise RecordError(
            f"{folder}: its manifest lacks `records` or `status`, or has unknown records {unknown}"
        )
    return Run(manifest, path=folder)
