"""When requests arrive: gaps of some shape, at a steady rate or at one that drifts by the minute.

Short-term burstiness comes from the gaps' shape. Slow drift comes from a change of time: gaps are
drawn at a rate of one and stretched by a trace's requests per minute, over and over. A gap is
rounded to a millionth of the mean before gaps are summed, and the stretching is integer arithmetic,
so arrival times are the same on every platform. What arrives, a request or a session, is not known
here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import gamma
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from traces.generate.distributions import Distribution, mean
from traces.generate.options import Options, Positive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK = 4_096
"""Arrivals are drawn so many at a time, whatever number is asked for."""

_UNIT = 1_000_000
_MINUTE_US = 60_000_000
_NS_PER_US = 1_000


class Minutes(Options):
    """A rate that drifts as it did in a trace.

    Attributes:
        counts: requests in each minute of the trace; the last may be a part of one.
        span_s: how long the trace was, seconds; then the minutes begin again.
    """

    counts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    span_s: Positive

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        whole = len(self.counts)
        if not (whole - 1) * 60 < self.span_s <= whole * 60:
            raise ValueError(f"{whole} minutes do not make a span of {self.span_s} s")
        if not any(self.counts):
            raise ValueError("no minute has a request")
        return self

    @property
    def rate_per_s(self) -> float:
        """Mean rate over the whole trace."""
        return sum(self.counts) / self.span_s

    def at(self, work: NDArray[np.int64]) -> NDArray[np.int64]:
        """The microsecond at which the minutes' requests have made up for `work` millionths."""
        bounds = np.concatenate(([0], np.cumsum(self.counts, dtype=np.int64))) * _UNIT
        span_us = round(self.span_s * 1e6)
        starts = np.minimum(np.arange(len(self.counts) + 1) * _MINUTE_US, span_us)
        lap, rest = np.divmod(work, bounds[-1])
        minute = np.searchsorted(bounds, rest, side="right") - 1
        within = (rest - bounds[minute]) * np.diff(starts)[minute] // np.diff(bounds)[minute]
        times_us: NDArray[np.int64] = lap * span_us + starts[minute] + within
        return times_us


class Process(Options, ABC):
    """Independent gaps of one shape.

    Attributes:
        rate: arrivals per second, the same all the time.
        minutes: the rate by the minute instead.
    """

    rate: Positive | None = None
    minutes: Minutes | None = None

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if self.rate is not None and self.minutes is not None:
            raise ValueError("give rate, or minutes, not both")
        if self.rate is None and self.minutes is None and self._own_mean_s is None:
            raise ValueError("give rate (arrivals per second), or minutes")
        return self

    @abstractmethod
    def gaps(self, rng: np.random.Generator, scale: float) -> NDArray[np.float64]:
        """The next `BLOCK` gaps, of mean `scale`."""

    @property
    def _own_mean_s(self) -> float | None:
        """The mean gap in seconds that the shape's own parameters give, if they do."""
        return None

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second."""
        if self.minutes is not None:
            return self.minutes.rate_per_s
        if self.rate is not None:
            return self.rate
        assert self._own_mean_s is not None
        return 1 / self._own_mean_s

    def times_ns(
        self, rng: np.random.Generator, rate: float | None = None
    ) -> Iterator[NDArray[np.int64]]:
        """Arrival times without end, ascending, `BLOCK` at a time.

        Args:
            rng: what gaps are drawn from.
            rate: arrivals per second, the same all the time; by default the process's own.
        """
        done = 0
        minutes = self.minutes if rate is None else None
        steady = self.rate_per_s if rate is None else rate
        while True:
            gaps = np.rint(self.gaps(rng, _UNIT)).astype(np.int64)
            work = done + np.cumsum(gaps)  # time in millionths of the mean gap
            done = int(work[-1])
            times_us = np.rint(work / steady) if minutes is None else minutes.at(work)
            yield times_us.astype(np.int64) * _NS_PER_US


class Deterministic(Process):
    """One arrival after every 1 / rate seconds."""

    kind: Literal["deterministic"] = "deterministic"

    def gaps(self, rng: np.random.Generator, scale: float) -> NDArray[np.float64]:  # noqa: ARG002
        """See `Process.gaps`."""
        return np.full(BLOCK, scale)


class Poisson(Process):
    """Arrivals that know nothing of each other."""

    kind: Literal["poisson"] = "poisson"

    def gaps(self, rng: np.random.Generator, scale: float) -> NDArray[np.float64]:
        """See `Process.gaps`."""
        return rng.standard_exponential(BLOCK) * scale


class Gamma(Process):
    """Gamma gaps: their squared coefficient of variation is 1 / shape; below 1 is burstier.

    vLLM's `--burstiness` is the shape; ServeGen (Xiang et al., 2025) finds shapes of 0.2 to 1.2 in
    clients of a large service.
    """

    kind: Literal["gamma"] = "gamma"
    shape: Positive

    def gaps(self, rng: np.random.Generator, scale: float) -> NDArray[np.float64]:
        """See `Process.gaps`."""
        return rng.standard_gamma(self.shape, BLOCK) * (scale / self.shape)


class Weibull(Process):
    """Weibull gaps; a shape below 1 is burstier than Poisson, above 1 more regular."""

    kind: Literal["weibull"] = "weibull"
    shape: Positive

    def gaps(self, rng: np.random.Generator, scale: float) -> NDArray[np.float64]:
        """See `Process.gaps`."""
        return rng.weibull(self.shape, BLOCK) * (scale / gamma(1 + 1 / self.shape))


class Phase(Options):
    """One of the exponentials a hyperexponential gap is drawn from."""

    weight: Positive
    mean_s: Positive


class Hyperexponential(Process):
    """Each gap is exponential with one of several means, chosen by weight.

    Feldmann and Whitt, "Fitting mixtures of exponentials to long-tail distributions" (1998). Without
    a rate the phases' own means hold.
    """

    kind: Literal["hyperexponential"] = "hyperexponential"
    phases: tuple[Phase, ...]

    @field_validator("phases")
    @classmethod
    def _some(cls, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        if not phases:
            raise ValueError("expected at least one phase")
        return phases

    @property
    def _own_mean_s(self) -> float:
        total = sum(phase.weight for phase in self.phases)
        return sum(phase.weight * phase.mean_s for phase in self.phases) / total

    def gaps(self, rng: np.random.Generator, scale: float) -> NDArray[np.float64]:
        """See `Process.gaps`."""
        weights = np.cumsum([phase.weight for phase in self.phases])
        means = np.array([phase.mean_s for phase in self.phases])
        chosen = np.searchsorted(weights, rng.random(BLOCK) * weights[-1], side="right")
        chosen = np.minimum(chosen, len(means) - 1)
        drawn: NDArray[np.float64] = rng.standard_exponential(BLOCK) * means[chosen]
        return drawn * (scale / self._own_mean_s)


class OnOff(Process):
    """Bursts with silences between them.

    A burst has a geometric number of arrivals; its gaps are those of another process. With
    exponential gaps and silences this is the interrupted Poisson process (Kuczura, 1973). Without a
    rate the burst's own and the silences hold; with one, both are stretched alike.

    Attributes:
        burst: the process within a burst, with a rate of its own.
        arrivals_per_burst: their mean number.
        silence_s: how long nothing comes, seconds.
    """

    kind: Literal["on-off"] = "on-off"
    burst: Annotated[
        Deterministic | Poisson | Gamma | Weibull | Hyperexponential, Field(discriminator="kind")
    ]
    arrivals_per_burst: Annotated[float, Field(ge=1)]
    silence_s: Distribution

    @model_validator(mode="after")
    def _steady_bursts(self) -> Self:
        if self.burst.minutes is not None:
            raise ValueError("a burst has a rate; minutes are for the whole")
        return self

    @property
    def _own_mean_s(self) -> float:
        off = 1 / self.arrivals_per_burst
        return (1 - off) / self.burst.rate_per_s + off * mean(self.silence_s)

    def gaps(self, rng: np.random.Generator, scale: float) -> NDArray[np.float64]:
        """See `Process.gaps`."""
        silent = rng.random(BLOCK) * self.arrivals_per_burst < 1
        off_s = self.silence_s.at(rng.random(BLOCK))
        on_s = self.burst.gaps(rng, 1 / self.burst.rate_per_s)
        drawn: NDArray[np.float64] = np.where(silent, off_s, on_s) * (scale / self._own_mean_s)
        return drawn


Arrivals = Annotated[
    Deterministic | Poisson | Gamma | Weibull | Hyperexponential | OnOff,
    Field(discriminator="kind"),
]
"""Any of them, told apart by `kind`."""
