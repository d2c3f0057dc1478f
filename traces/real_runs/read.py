"""The way in: a result of any known kind, found by what it holds, becomes a `RealRun`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from traces.errors import RowError, TraceError
from traces.readers.fields import row_keys
from traces.readers.lines import TraceLines
from traces.real_runs.aiperf import is_aiperf, read_aiperf
from traces.real_runs.bench_serving import (
    is_bench_serving,
    read_bench_serving,
    result_row,
)
from traces.real_runs.llmservingsim import is_llmservingsim, read_llmservingsim_run
from traces.real_runs.our_run import is_run_folder, read_our_run

if TYPE_CHECKING:
    from traces.real_runs.base import RealRun

KINDS = (
    "a run folder",
    "a benchmark folder of LLMServingSim",
    "a result of `vllm bench serve --save-detailed` or `sglang.bench_serving --output-details`",
    "AIPerf's profile_export.jsonl",
)


def read_real_run(
    path: str | Path, *, workload: str | Path | None = None, line: int | None = None
) -> RealRun:
    """Reads a real run; `KINDS` lists what is known.

    Args:
        path: a folder or a file, plain or gzipped.
        workload: what was sent, where the result does not hold it.
        line: which of several results of a file.

    Raises:
        TraceError: names the file, and where it is known the line and the key.
    """
    path = Path(path)
    if is_run_folder(path):
        return read_our_run(path, workload)
    if is_llmservingsim(path):
        return read_llmservingsim_run(path, workload)
    expected = "; ".join(KINDS)
    if not path.is_file():
        found = "a folder of another kind" if path.is_dir() else "no such file or folder"
        raise TraceError(path, found, expected)
    head = TraceLines(path).head()
    if not head:
        raise TraceError(path, "an empty file", expected)
    number, first = head[0]
    keys = row_keys(first)
    if is_aiperf(keys):
        return read_aiperf(path, workload)
    if is_bench_serving(keys or _keys(path, number, first)):
        return read_bench_serving(path, workload, line)
    raise TraceError(path, "a file of another kind", expected, line=number)


def _keys(path: Path, number: int, first: str) -> frozenset[str]:
    """The keys of a result of a load generator, on one line or spread over all.

    Raises:
        TraceError: where the file begins as one and is none.
    """
    if not first.startswith("{"):
        return frozenset()
    whole = "\n".join(text for _, text in TraceLines(path))
    for text in (first, whole):
        try:
            return frozenset(result_row(text))
        except RowError as error:
            wrong = error
            if first.endswith("}"):
                raise TraceError(path, error.found, error.expected, line=number) from None
    raise TraceError(path, wrong.found, wrong.expected)
