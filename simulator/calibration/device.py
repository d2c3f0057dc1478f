"""The device's cost of a step, fitted to recorded steps in two rounds.

First a physical form of few coefficients: a fixed cost, more with prefill rows; weights read at least
once, so that tokens cost little below a knee and their arithmetic beyond it (a sum of hinges, of which
the fit chooses), or, with experts, more weights the more tokens there are (a sum that saturates); KV
read; pairs attended to; rows. It says how cost goes on beyond what was measured.

Then a correction where there are enough steps: three curves (over tokens, KV read, pairs) are fitted
piece by piece; each piece keeps its physical shape, and its rise is drawn towards the physical one. No
rise is ever below 0, so more work never costs less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from simulator.calibration.profile import Curve, StepCost
from simulator.calibration.robust import Prior, fit_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from simulator.calibration.steps import Steps

    Floats = NDArray[np.float64]
    Basis = Callable[[NDArray[np.int64]], Floats]

SATURATING: Final = (4.0, 16.0, 64.0)
"""Tokens after which 63 % of what can be touched is, of each saturating term."""
SMALLEST_KNEE: Final = 16
GROWTH: Final = 2**0.5
"""A piece of a curve is so many times as far from 0 as the piece before."""
LAUNCH: Final = 2
"""Of the linear costs, the first so many are of a launch."""
LEAST_IN_PIECE: Final = 15
"""Steps; pieces with fewer are joined."""
DRAWN: Final = 3.0
"""A piece is drawn to its physical rise as by so many steps."""


@dataclass(frozen=True, slots=True)
class DeviceFit:
    """What was fitted.

    Attributes:
        cost: of a step.
        kept: bool, shape (steps,): false for outliers.
    """

    cost: StepCost
    kept: NDArray[np.bool_]


def fit_device(steps: Steps) -> DeviceFit:
    """Fit the cost of a step to steps, none of them empty."""
    times = steps.duration_ns.astype(np.float64)
    weights = _weights(steps.mode)
    linear = _linear(steps)
    drivers = (steps.decode_kv_tokens, steps.prefill_pairs, steps.tokens)
    most_kv, most_tokens = (max(int(x.max()), 1) for x in (drivers[0], drivers[2]))
    knees = 2.0 ** np.arange(np.log2(SMALLEST_KNEE), max(np.log2(most_tokens / 2), 0))
    bases: tuple[Basis, ...] = (
        lambda x: _hinges(x, (0, most_kv / 16, most_kv / 4)),
        lambda x: _hinges(x, (0,)),
        lambda x: np.concatenate([_hinges(x, (0, *knees)), _saturating(x)], axis=1),
    )
    physical = [linear, *(basis(x) for basis, x in zip(bases, drivers, strict=True))]
    columns = np.concatenate(physical, axis=1)
    # of one size only, what grows with it cannot be told from what every launch costs: it is the latter
    once = np.array([np.ptp(c[c > 0]) == 0 if (c > 0).any() else True for c in columns.T])
    once[:LAUNCH] = False
    doubt = np.where(once, _usual(columns) * np.sqrt(DRAWN) / float(np.median(times)), 0.0)
    # nothing saturates unless the steps say so: a model without experts reads all of its weights
    doubt[-len(SATURATING) :] = np.sqrt(DRAWN) / float(np.median(times))
    first = fit_mean(
        columns, times, steps.mode, weights=weights, prior=Prior(np.zeros(len(doubt)), doubt)
    )
    base, *thetas = _split(first.theta, physical)
    kept = first.kept
    curves = [
        _Pieces(x, times, kept, basis, theta)
        for x, basis, theta in zip(drivers, bases, thetas, strict=True)
    ]
    pieces = [curve.columns(x) for curve, x in zip(curves, drivers, strict=True)]
    strength = _usual(linear[kept]) * np.sqrt(DRAWN) / float(np.median(times[kept]))
    prior = Prior(
        np.concatenate([base, *(curve.rises for curve in curves)]),
        np.concatenate([strength, *(curve.strength for curve in curves)]),
    )
    second = fit_mean(
        np.concatenate([linear, *pieces], axis=1),
        times,
        steps.mode,
        weights=weights,
        prior=prior,
        kept=kept,
    )
    base, *rises = _split(second.theta, [linear, *pieces])
    fixed, prefill, decode_request, prefill_request, sampled, cached = base.tolist()
    kv, pairs, tokens = (c.curve(r) for c, r in zip(curves, rises, strict=True))
    cost = StepCost(
        fixed_ns=fixed,
        prefill_fixed_ns=prefill,
        tokens=tokens,
        decode_kv_tokens=kv,
        prefill_pairs=pairs,
        cached_token_ns=cached,
        decode_request_ns=decode_request,
        prefill_request_ns=prefill_request,
        sampled_ns=sampled,
    )
    return DeviceFit(cost, kept)


def _usual(columns: Floats) -> Floats:
    """The median of what is not 0 in each column; 0 where all of it is."""
    return np.array([float(np.median(c[c > 0])) if (c > 0).any() else 0.0 for c in columns.T])


def _weights(mode: NDArray[np.int64]) -> Floats:
    """Rare kinds of step count for more each, and still for less in all."""
    counts = np.bincount(mode)
    return np.asarray(np.sqrt(len(mode) / counts[mode]))


def _linear(steps: Steps) -> Floats:
    """Float64, shape (steps, 6): what costs the same for each."""
    columns = (
        np.ones(len(steps)),
        steps.prefill_requests > 0,
        steps.decode_requests,
        steps.prefill_requests,
        steps.sampled,
        steps.cached_tokens,
    )
    return np.stack(columns, axis=1).astype(np.float64)


def _hinges(x: NDArray[np.int64], knees: tuple[float, ...]) -> Floats:
    return np.asarray(np.maximum(x[:, None] - np.array(knees), 0.0))


def _saturating(x: NDArray[np.int64]) -> Floats:
    return np.asarray(1.0 - np.exp(-x[:, None] / np.array(SATURATING)))


def _split(theta: Floats, columns: list[Floats]) -> list[Floats]:
    return np.split(theta, np.cumsum([c.shape[1] for c in columns])[:-1])


class _Pieces:
    """A curve over one driver, cut where there are steps enough; in each piece its physical shape.

    Attributes:
        rises: float64, shape (pieces,): nanoseconds by which the physical curve rises in each.
        strength: float64, shape (pieces,): see `Prior`.
    """

    def __init__(
        self,
        x: NDArray[np.int64],
        times: Floats,
        kept: NDArray[np.bool_],
        basis: Basis,
        theta: Floats,
    ) -> None:
        used, mine = x[kept & (x > 0)], times[kept & (x > 0)]
        self._basis, self._theta = basis, theta
        self._knots = _cut(used)
        self._at_knots = self._physical(self._knots)
        self.rises = np.diff(self._at_knots)
        # a rise counts by its share of the time of the steps that end in its piece
        of_piece = np.searchsorted(self._knots, used, "left") - 1
        usual = np.array([np.median(mine[of_piece == i]) for i in range(len(self.rises))])
        self.strength = np.sqrt(DRAWN) / usual
        # nothing lies between 0 and the least there is: a rise there would only mark who has any
        self.strength[:1] *= 100.0

    def columns(self, x: NDArray[np.int64] | Floats) -> Floats:
        """float64, shape (len(x), pieces): which share of each piece's rise x has behind it."""
        starts, ends = self._knots[:-1], self._knots[1:]
        inside = np.clip(x[:, None].astype(np.float64), starts, ends)
        straight = (inside - starts) / (ends - starts)
        shaped = (self._physical(inside.ravel()).reshape(inside.shape) - self._at_knots[:-1]) / (
            np.where(self.rises > 0, self.rises, 1.0)
        )
        # a rise of a billionth is none: what remains of its shape is rounding
        real = self.rises > 1e-9 * self._at_knots[-1:]
        return np.asarray(np.clip(np.where(real, shaped, straight), 0.0, 1.0))

    def curve(self, rises: Floats) -> Curve:
        """The curve with other rises, going on by the physical slope."""
        last = float(self._knots[-1])
        if not last:
            return Curve()
        grid = GROWTH ** np.arange(np.ceil(np.log(last) / np.log(GROWTH)))
        knots = np.unique([*self._knots, *np.round(grid[grid < last])])
        ns = np.maximum.accumulate(self.columns(knots) @ rises)
        ns[0] = 0.0  # but for rounding
        beyond = (self._physical(2.0 * self._knots[-1:]) - self._at_knots[-1])[0] / last
        slopes = np.diff(ns) / np.diff(knots)
        bends = np.abs(np.diff(slopes)) > 1e-6 * np.maximum(slopes[1:], slopes[:-1])
        some = np.concatenate([[True], bends, [True]])
        return Curve(
            knots=tuple(knots[some].tolist()), ns=tuple(ns[some].tolist()), slope_ns=float(beyond)
        )

    def _physical(self, at: Floats) -> Floats:
        return np.asarray(self._basis(np.rint(at).astype(np.int64)) @ self._theta)


def _cut(used: NDArray[np.int64]) -> Floats:
    """Knots from 0 to the largest value, with enough values between any two."""
    if not len(used):
        return np.zeros(1)
    low, high = int(used.min()), int(used.max())
    grid = low * GROWTH ** np.arange(max(1, np.ceil(np.log(high / low) / np.log(GROWTH))))
    wanted = np.unique(np.round(grid))
    knots = [0.0]
    below = 0
    for knot in wanted[wanted < high].tolist():
        upto = int((used <= knot).sum())
        if upto - below >= LEAST_IN_PIECE and len(used) - upto >= LEAST_IN_PIECE:
            knots.append(knot)
            below = upto
    return np.array([*knots, float(high)])
