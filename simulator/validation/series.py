"""What two runs did over time: output tokens, requests in decode, KV in use.

What an engine watched itself is compared as it is. What it did not watch follows from the requests' own
times, in the same way for both runs: a request decodes from its first token to its last, and its tokens
come evenly between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.validation.figures import instants

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traces.real_runs.base import RealRun

    Floats = NDArray[np.float64]

BINS = 120


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity over time, of both runs.

    Attributes:
        name: of the quantity.
        unit: of its values.
        time_s: middle of each interval, (n,).
        real: mean over each interval.
        simulated: the same.
        watched: whether the real engine watched it, rather than that it follows from its requests.
    """

    name: str
    unit: str
    time_s: Floats
    real: Floats
    simulated: Floats
    watched: bool

    @property
    def error(self) -> float:
        """Mean absolute difference, as a share of the real run's mean; NaN where that is 0."""
        mean = float(np.nanmean(self.real))
        apart = float(np.nanmean(np.abs(self.simulated - self.real)))
        return apart / mean if mean else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "watched": self.watched,
            "error": self.error,
            "time_s": [round(t, 3) for t in self.time_s.tolist()],
            "real": [round(v, 4) for v in self.real.tolist()],
            "simulated": [round(v, 4) for v in self.simulated.tolist()],
        }


def series(real: RealRun, simulated: RealRun) -> list[Series]:
    """All that both runs tell; none where the real one's instants are not known."""
    ends = np.concatenate([instants(real)[2], instants(simulated)[2]])
    if np.isnan(instants(real)[2]).all():
        return []
    edges = np.linspace(0.0, float(np.nanmax(ends)), BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    found = [
        Series(name, unit, middle, made(real, edges), made(simulated, edges), watched=False)
        for name, unit, made in (
            ("output tokens", "tokens/s", _tokens),
            ("requests in decode", "requests", _decoding),
            ("requests not yet answered", "requests", _waiting),
        )
    ]
    for name, unit, attribute in (
        ("running", "requests", "running"),
        ("waiting", "requests", "waiting"),
        ("KV in use", "share", "kv_share"),
    ):
        seen, made = _watched(real, attribute, middle), _watched(simulated, attribute, middle)
        if seen is not None and made is not None:
            found.append(Series(name, unit, middle, seen, made, watched=True))
    return found


def _tokens(run: RealRun, edges: Floats) -> Floats:
    _, first, end = instants(run)
    per_s = np.zeros(len(edges) - 1)
    for request, begun, ended in zip(run.requests, first, end, strict=True):
        after = request.output_tokens - 1
        if ended > begun and after:
            per_s += _inside(edges, begun, ended) * (after / (ended - begun))
    at_first: Floats = np.histogram(first[~np.isnan(first)], edges)[0].astype(np.float64)
    widths = np.diff(edges)
    found: Floats = (per_s + at_first) / widths
    return found


def _decoding(run: RealRun, edges: Floats) -> Floats:
    _, first, end = instants(run)
    return _mean_between(edges, first, end)


def _waiting(run: RealRun, edges: Floats) -> Floats:
    arrival, first, _ = instants(run)
    return _mean_between(edges, arrival, first)


def _mean_between(edges: Floats, begin: Floats, end: Floats) -> Floats:
    """How many are between their begin and their end, on average over each interval."""
    total = np.zeros(len(edges) - 1)
    for b, e in zip(begin, end, strict=True):
        if not np.isnan(b) and not np.isnan(e):
            total += _inside(edges, b, e)
    mean: Floats = total / np.diff(edges)
    return mean


def _inside(edges: Floats, begin: float, end: float) -> Floats:
    """Seconds of each interval that lie between two instants."""
    found: Floats = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0, None)
    return found


def _watched(run: RealRun, attribute: str, at_s: Floats) -> Floats | None:
    seen = run.series
    values = None if seen is None else getattr(seen, attribute)
    if seen is None or values is None:
        return None
    found: Floats = np.interp(at_s, seen.time_s, values, left=0.0, right=0.0)
    return found
