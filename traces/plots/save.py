"""All plots of some runs into a folder: the same records give the same files, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from traces.plots.kv import kv_use
from traces.plots.latency import latency_ecdf
from traces.plots.output_rate import throughput
from traces.plots.timeline import batch_size, queue_length
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    from traces.records.run import Run

DPI = 150


def save_plots(
    runs: Run | Sequence[Run], folder: Path | str, names: Sequence[str] | None = None
) -> list[Path]:
    """Write every plot that the runs' records allow as PNG, and return the files.

    Plots over steps are left out where a run has none; KV use where a run has no capacity.

    Raises:
        ValueError: where names are not one for each run, all different.
    """
    by_name = named(runs, names)
    stepped = all(run.has("steps") for run in by_name.values())
    sized = all(run.manifest.get("kv_capacity_tokens") for run in by_name.values())
    plots: dict[str, Callable[[Sequence[Run], Sequence[str]], Figure]] = {
        "latency": latency_ecdf,
        "throughput": throughput,
    }
    if stepped:
        plots |= {"queue_length": queue_length, "batch_size": batch_size}
    if stepped and sized:
        plots["kv_use"] = kv_use
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for name, plot in plots.items():
        file = target / f"{name}.png"
        figure = plot(list(by_name.values()), list(by_name))
        # No version or date in the file, so that it depends on the picture alone.
        figure.savefig(file, dpi=DPI, metadata={"Software": None})
        files.append(file)
    return files
