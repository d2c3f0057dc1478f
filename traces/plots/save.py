"""Plots into files: the same records give the same files, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.plots.batches import batch_size
from traces.plots.hits import cache_hits
from traces.plots.kv import kv_use
from traces.plots.latency import latency_ecdf
from traces.plots.output_rate import throughput
from traces.plots.queues import queue_length
from traces.plots.style import theme_named
from traces.plots.tenants import by_tenant, tenant_names
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    from traces.records.run import Run

DPI = 150

#: What would say when, or with which version, a file was made; it is to depend on the picture alone.
_UNSAID: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None},
}


def save_plots(
    runs: Run | Sequence[Run],
    folder: Path | str,
    names: Sequence[str] | None = None,
    *,
    theme: str = "light",
    kind: str = "png",
) -> list[Path]:
    """Write every plot that the runs' records allow, and return the files.

    Plots over steps are left out where a run has none; KV use where a run has no capacity; tenants
    where there are not several.

    Args:
        runs: one or several, each a line (or a panel) of every plot.
        folder: where to, made if needed; files of the same names are replaced.
        names: what to call the runs; by default as they are called themselves.
        theme: `light` or `dark`.
        kind: `png` or `svg`.

    Raises:
        ValueError: where names are not one for each run, all different; for an unknown theme or
            kind of file.
    """
    by_name = named(runs, names)
    theme_named(theme)
    _check_kind(kind, f"kind {kind!r}")
    several = list(by_name.values())
    stepped = all(run.has("steps") for run in several)
    sized = all(run.manifest.get("kv_capacity_tokens") for run in several)
    plots: dict[str, Callable[..., Figure]] = {"latency": latency_ecdf, "throughput": throughput}
    if stepped:
        plots |= {"queue_length": queue_length, "batch_size": batch_size}
    if stepped and sized:
        plots["kv_use"] = kv_use
    plots["cache_hits"] = cache_hits
    if len(tenant_names(several)) > 1:
        plots["tenants"] = by_tenant
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for name, plot in plots.items():
        files.append(target / f"{name}.{kind}")
        save_figure(plot(several, list(by_name), theme=theme), files[-1])
    return files


def save_figure(figure: Figure, file: Path | str) -> None:
    """Write a figure as PNG or SVG, by the file's extension.

    Raises:
        ValueError: for another extension.
    """
    import matplotlib as mpl

    path = Path(file)
    kind = path.suffix.removeprefix(".")
    _check_kind(kind, str(path))
    # Ids in an SVG are hashes with a random salt unless it is given.
    with mpl.rc_context({"svg.hashsalt": "schedtwin"}):
        figure.savefig(path, dpi=DPI, format=kind, metadata=_UNSAID[kind])


def _check_kind(kind: str, what: str) -> None:
    if kind not in _UNSAID:
        raise ValueError(f"{what}: a plot is written as {' or '.join(_UNSAID)}")
