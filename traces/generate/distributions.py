"""Distributions of lengths, times and ratios, each given by its quantile function.

A value is made from one uniform number, so that a request's lengths depend on its own numbers only:
fewer requests are the first of more, and correlated lengths come from correlated uniforms. The unit
(tokens, seconds, a ratio) is the user's. Knows nothing of requests.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from traces.generate.knots import Knots
from traces.generate.options import NonNegative, Number, Options, Positive

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GRID = 8_193  # points at which a lognormal mixture is inverted
_TAIL = 9.0  # standard deviations beyond which a double holds no probability
_MEAN_POINTS = 10_000
_SMALLEST = 2.0**-54  # a uniform of 0 has no place on the normal scale


class Quantiles(Protocol):
    """A distribution as this package uses one."""

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values at `uniform`, of any shape, in 0..1: the inverse of the distribution."""
        ...


class Fixed(Options):
    """Always the same value. A bare number in a spec is one."""

    kind: Literal["fixed"] = "fixed"
    value: NonNegative

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Quantiles.at`."""
        return np.full_like(uniform, self.value)


class Uniform(Options):
    """Whole numbers from `low` to `high`, both included, each as likely.

    SGLang's and vLLM's random datasets draw lengths so: a range ratio r of theirs is `low` = r * L
    and `high` = L (SGLang), or (1 - r) * L to (1 + r) * L (vLLM).
    """

    kind: Literal["uniform"] = "uniform"
    low: Annotated[int, Field(ge=0)]
    high: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, above high, {self.high}")
        return self

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Quantiles.at`."""
        drawn: NDArray[np.float64] = self.low + np.floor(uniform * (self.high - self.low + 1))
        return np.minimum(drawn, self.high)


class Exponential(Options):
    """The time to the next event of a Poisson process."""

    kind: Literal["exponential"] = "exponential"
    mean: Positive

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Quantiles.at`."""
        drawn: NDArray[np.float64] = -self.mean * np.log1p(-uniform)
        return drawn


class Weibull(Options):
    """P(X > x) = exp(-(x / scale) ** shape); a shape below 1 has the heavier tail."""

    kind: Literal["weibull"] = "weibull"
    shape: Positive
    scale: Positive

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Quantiles.at`."""
        drawn: NDArray[np.float64] = self.scale * (-np.log1p(-uniform)) ** (1 / self.shape)
        return drawn


class Component(Options):
    """One of a mixture's lognormals: the logarithm is normal with these parameters."""

    weight: Positive = 1.0
    mu: Number
    sigma: Positive


class Lognormal(Options):
    """A mixture of lognormals, cut off outside `low`..`high`.

    The inverse has no closed form: it is read off a table of the distribution function at evenly
    spaced logarithms, where the error is far below a token.
    """

    kind: Literal["lognormal"] = "lognormal"
    mixture: tuple[Component, ...]
    low: NonNegative = 0.0
    high: Positive | None = None

    @classmethod
    def of(
        cls, mu: float, sigma: float, *, low: float = 0.0, high: float | None = None
    ) -> Lognormal:
        """A single lognormal."""
        return cls(mixture=(Component(mu=mu, sigma=sigma),), low=low, high=high)

    @model_validator(mode="before")
    @classmethod
    def _single(cls, given: Any) -> Any:
        """`{mu, sigma}` instead of a mixture of one."""
        if isinstance(given, dict) and given.keys() & {"mu", "sigma"}:
            rest = {key: value for key, value in given.items() if key not in {"mu", "sigma"}}
            if "mixture" in given:
                raise ValueError("give mu and sigma, or a mixture of them, not both")
            one = {key: given[key] for key in ("mu", "sigma") if key in given}
            return {**rest, "mixture": [one]}
        return given

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.mixture:
            raise ValueError("mixture is empty; expected at least one component")
        if self.high is not None and self.low >= self.high:
            raise ValueError(f"low is {self.low}, not below high, {self.high}")
        cumulative, _ = _lognormal_table(self.mixture, self.low, self.high)
        if not cumulative[-1] > cumulative[0]:
            raise ValueError(f"the mixture has no probability within {self.low}..{self.high}")
        return self

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Quantiles.at`."""
        cumulative, logs = _lognormal_table(self.mixture, self.low, self.high)
        within = cumulative[0] + uniform * (cumulative[-1] - cumulative[0])
        drawn: NDArray[np.float64] = np.exp(np.interp(within, cumulative, logs))
        return drawn


@cache
def _lognormal_table(
    parts: tuple[Component, ...], low: float, high: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The distribution function of a mixture, and the logarithms it is at."""
    from scipy.special import ndtr

    first = min(part.mu - _TAIL * part.sigma for part in parts)
    last = max(part.mu + _TAIL * part.sigma for part in parts)
    if low > 0:
        first = max(first, float(np.log(low)))
    if high is not None:
        last = min(last, float(np.log(high)))
    logs = np.linspace(first, last, _GRID)
    total = sum(part.weight for part in parts)
    shares = [part.weight / total * ndtr((logs - part.mu) / part.sigma) for part in parts]
    return np.sum(shares, axis=0), logs


class Empirical(Options):
    """The lengths that a trace has, drawn with replacement.

    Attributes:
        trace: path of a trace of any known format.
        of: which of its lengths.
    """

    kind: Literal["empirical"] = "empirical"
    trace: str
    of: Literal["input", "output"]

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Quantiles.at`.

        Raises:
            TraceError: the trace cannot be read.
        """
        values = _lengths_of(self.trace, self.of)
        drawn: NDArray[np.float64] = values[
            np.minimum((uniform * len(values)).astype(np.int64), len(values) - 1)
        ]
        return drawn


@cache
def _lengths_of(path: str, of: Literal["input", "output"]) -> NDArray[np.float64]:
    from traces.readers.read import read_trace

    requests = read_trace(path)
    found = [len(one.prompt if of == "input" else one.output) for one in requests]
    return np.sort(np.array(found, dtype=np.float64))


def _number_is_fixed(given: Any) -> Any:
    if isinstance(given, int | float) and not isinstance(given, bool):
        return {"kind": "fixed", "value": given}
    return given


Distribution = Annotated[
    Annotated[
        Fixed | Uniform | Exponential | Weibull | Lognormal | Knots | Empirical,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_number_is_fixed),
]
"""Any of them, told apart by `kind`; a bare number is `Fixed`."""


def tokens(
    distribution: Quantiles, uniform: NDArray[np.float64], least: int = 1
) -> NDArray[np.int64]:
    """Lengths: values rounded to whole tokens, none below `least`."""
    lengths: NDArray[np.int64] = np.rint(distribution.at(uniform)).astype(np.int64)
    return np.maximum(lengths, least)


def nanoseconds(seconds: Quantiles, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Durations in whole microseconds, so that every platform rounds them alike, as nanoseconds."""
    drawn: NDArray[np.int64] = np.rint(seconds.at(uniform) * 1e6).astype(np.int64) * 1_000
    return drawn


def mean(distribution: Quantiles) -> float:
    """The mean, from ten thousand evenly spaced quantiles."""
    uniform = (np.arange(_MEAN_POINTS) + 0.5) / _MEAN_POINTS
    return float(distribution.at(uniform).mean())


def tied(
    first: NDArray[np.float64], second: NDArray[np.float64], spearman: float
) -> NDArray[np.float64]:
    """`second` made to have this rank correlation with `first`, uniform as before.

    A Gaussian copula: it leaves either distribution as it is.
    """
    if spearman == 0:
        return second
    from scipy.special import ndtr, ndtri

    # Pearson's correlation of two normals that have this rank correlation
    rho = 2 * np.sin(np.pi / 6 * spearman)
    one, other = (ndtri(np.maximum(uniform, _SMALLEST)) for uniform in (first, second))
    drawn: NDArray[np.float64] = ndtr(rho * one + np.sqrt(1 - rho**2) * other)
    return drawn


class Popularity(Options):
    """How often each of `count` things is chosen: the k-th in proportion to 1 / k ** zipf_alpha."""

    count: Annotated[int, Field(ge=1)] = 1
    zipf_alpha: NonNegative = 0.0

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which one, from 0, for each of `uniform`."""
        chosen: NDArray[np.int64] = np.searchsorted(
            _cumulative_zipf(self.count, self.zipf_alpha), uniform, side="right"
        )
        return np.minimum(chosen, self.count - 1)


@cache
def _cumulative_zipf(count: int, alpha: float) -> NDArray[np.float64]:
    weights = np.arange(1, count + 1, dtype=np.float64) ** -alpha
    return np.cumsum(weights / weights.sum())
