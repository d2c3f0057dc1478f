"""Inter-token latencies gathered while a run goes on: millions of gaps in bounded memory.

A decode step gives every running request one gap, and most have the same one, so a gap comes with
the number of requests that saw it. Equal gaps are counted together; statistics are exact up to a
million different ones, beyond that gaps are rounded to 11 significant bits (a relative error
below 1e-3) and the summary says so. Does not know requests: what one request saw is in the token
times, where they are recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.records.distribution import describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Different gaps kept before they are rounded, gaps held before they are sorted in, bits kept.
MOST_EXACT = 1_000_000
CHUNK = 65_536
BITS = 11


class ItlAccumulator:
    """Gathers gaps between consecutive tokens, in nanoseconds.

    Args:
        most_exact: how many different gaps are told apart before they are rounded.
    """

    def __init__(self, most_exact: int = MOST_EXACT) -> None:
        self._most_exact = most_exact
        self._gaps: list[int] = []
        self._weights: list[int] = []
        # Sorted runs of different gaps with their counts, each shorter than the one before: so
        # every gap is merged a logarithmic number of times.
        self._runs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._extremes: tuple[int, int] | None = None
        self.exact = True
        self._many: list[tuple[NDArray[np.int64], NDArray[np.int64] | int]] = []  # not folded yet
        self._held = 0  # gaps in them

    def add(self, gap_ns: int, weight: int = 1) -> None:
        """Count a gap that `weight` requests saw."""
        self._gaps.append(gap_ns)
        self._weights.append(weight)
        if len(self._gaps) == CHUNK:
            self._fold_lists()

    def add_many(self, gaps_ns: NDArray[np.int64], weights: NDArray[np.int64] | int = 1) -> None:
        """Count many gaps at once, each with its weight or all with one.

        Raises:
            ValueError: where there are not as many weights as gaps.
        """
        if not isinstance(weights, int) and len(weights) != len(gaps_ns):
            raise ValueError(f"{len(weights)} weights given for {len(gaps_ns)} gaps")
        self._many.append((gaps_ns.copy(), weights))  # it is folded later
        self._held += len(gaps_ns)
        if self._held >= CHUNK:
            self._fold_many()

    def summary(self) -> dict[str, float | int | bool]:
        """The statistics in nanoseconds, for the manifest's `itl`.

        Keys: `count`, `exact` and, where any gap was counted, `mean_ns`, `std_ns`, `min_ns`,
        `p50_ns`, `p90_ns`, `p95_ns`, `p99_ns`, `max_ns`: as numpy would compute them over each
        gap repeated by its weight. Where `exact` is false, gaps were rounded to a relative 1e-3.
        """
        self._fold_lists()
        self._fold_many()
        self._merge(all_runs=True)
        gaps, counts = self._runs[0] if self._runs else (np.zeros(0, np.int64),) * 2
        stats = describe(gaps, counts)
        if stats is None or self._extremes is None:
            return {"count": 0, "exact": self.exact}
        named = {f"{name}_ns": value for name, value in stats.to_dict().items() if name != "count"}
        low, high = self._extremes  # rounding does not move these
        named |= {"min_ns": float(low), "max_ns": float(high)}
        return {"count": stats.count, "exact": self.exact, **named}

    def _fold_many(self) -> None:
        if self._many:
            gaps = [held for held, _ in self._many]
            each = [w if isinstance(w, np.ndarray) else np.full(len(g), w) for g, w in self._many]
            self._many, self._held = [], 0
            self._fold(np.concatenate(gaps), np.concatenate(each))

    def _fold_lists(self) -> None:
        if self._gaps:
            self._fold(np.array(self._gaps, np.int64), np.array(self._weights, np.int64))
            self._gaps.clear()
            self._weights.clear()

    def _fold(self, gaps: NDArray[np.int64], weights: NDArray[np.int64]) -> None:
        if (weights <= 0).any():
            gaps, weights = gaps[weights > 0], weights[weights > 0]
        if len(gaps) == 0:
            return
        low, high = int(gaps.min()), int(gaps.max())
        if self._extremes is not None:
            low, high = min(low, self._extremes[0]), max(high, self._extremes[1])
        self._extremes = (low, high)
        self._runs.append(_unique(gaps if self.exact else rounded(gaps), weights))
        self._merge(all_runs=False)

    def _merge(self, *, all_runs: bool) -> None:
        """Merge the last runs while one is not shorter than the run before it (or all of them)."""
        runs = self._runs
        while len(runs) > 1 and (all_runs or len(runs[-1][0]) >= len(runs[-2][0])):
            last, before = runs.pop(), runs.pop()
            runs.append(
                _unique(np.concatenate([before[0], last[0]]), np.concatenate([before[1], last[1]]))
            )
        if self.exact and sum(len(run[0]) for run in runs) > self._most_exact:
            if len(runs) > 1:  # they may share gaps: only then are there surely too many
                self._merge(all_runs=True)
                return
            self.exact = False
            self._runs = [_unique(rounded(runs[0][0]), runs[0][1])]


def rounded(gaps: NDArray[np.int64]) -> NDArray[np.int64]:
    """The gaps to `BITS` significant bits, halves away from zero; twice is the same as once."""
    _, exponents = np.frexp(gaps.astype(np.float64))
    quantum = np.left_shift(np.int64(1), np.maximum(exponents.astype(np.int64) - BITS, 0))
    result: NDArray[np.int64] = np.sign(gaps) * ((np.abs(gaps) + quantum // 2) // quantum * quantum)
    return result


def _unique(
    gaps: NDArray[np.int64], weights: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different gaps, sorted, and the sum of the weights of each; at least one gap."""
    order = np.argsort(gaps)  # not stable, which is faster: the weights of equal gaps are summed
    gaps, weights = gaps[order], weights[order]
    first = np.flatnonzero(np.concatenate([[True], gaps[1:] != gaps[:-1]]))
    return gaps[first], np.add.reduceat(weights, first)
