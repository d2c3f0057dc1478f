"""A calibrated profile: what was fitted to recorded steps, how far it was off, and where it is from.

A JSON file of a few kilobytes with `kind: calibrated`. `latency` is the device's cost of a step, as
`simulator.latency.calibrated` computes it; `host` the coefficients of `simulator.host`. The rest is for
whoever has to trust it: the measured range of every driver, the errors on steps held out, what was left
out and why, what could not be told from the records, and what was said of the machine and the software.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

DRIVERS = {
    "tokens": "tokens computed in a step",
    "decode_requests": "decode rows of a step",
    "decode_kv_tokens": "KV entries that a step's decode rows read",
    "prefill_requests": "prefill rows of a step",
    "cached_tokens": "tokens whose KV is there already, of a step's prefill rows",
    "prefill_pairs": "pairs of a new token and a token it attends to, of a step's prefill rows",
}
"""What a step's cost depends on, and what its range is kept of."""


class Part(BaseModel):
    """A part of a profile: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Curve(Part):
    """A cost that never falls: straight between knots, and beyond the last with a slope.

    Attributes:
        knots: ascending, the first 0.
        ns: nanoseconds at each, the first 0.
        slope_ns: nanoseconds per unit beyond the last.
    """

    knots: tuple[NonNegativeFloat, ...] = (0.0,)
    ns: tuple[NonNegativeFloat, ...] = (0.0,)
    slope_ns: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if len(self.knots) != len(self.ns) or not self.knots or self.knots[0] or self.ns[0]:
            raise ValueError("a curve has as many knots as values, and begins at 0, 0")
        rising = all(a < b for a, b in pairwise(self.knots))
        if not rising or any(a > b for a, b in pairwise(self.ns)):
            raise ValueError("a curve's knots have to ascend, and its values not to fall")
        return self


class StepCost(Part):
    """The device's cost of a step, a sum of parts none of which falls with more work.

    Attributes:
        fixed_ns: of every launch.
        prefill_fixed_ns: more, where there is any prefill row.
        tokens: of the tokens computed: weights read at least once, arithmetic beyond the knee.
        decode_kv_tokens: of the KV that decode rows read.
        prefill_pairs: of prefill attention.
        cached_token_ns: per cached token of prefill rows.
        decode_request_ns, prefill_request_ns: per row.
        sampled_ns: per row that samples.
    """

    fixed_ns: NonNegativeFloat = 0.0
    prefill_fixed_ns: NonNegativeFloat = 0.0
    tokens: Curve = Curve()
    decode_kv_tokens: Curve = Curve()
    prefill_pairs: Curve = Curve()
    cached_token_ns: NonNegativeFloat = 0.0
    decode_request_ns: NonNegativeFloat = 0.0
    prefill_request_ns: NonNegativeFloat = 0.0
    sampled_ns: NonNegativeFloat = 0.0


class Errors(Part):
    """How far predictions were from steps that the fit had not seen, as shares.

    Attributes:
        steps: how many.
        median, mean, p95: of the absolute relative error of a step, outliers apart.
        total: signed, of the time all of them took together, outliers included.
    """

    steps: NonNegativeInt
    median: float
    mean: float
    p95: float
    total: float


class LeftOut(Part):
    """Steps that the fit left out.

    Attributes:
        steps: how many.
        time_share: of the device time of all steps.
        slowest: the first few by duration, in words.
        why: the rule they broke.
    """

    steps: NonNegativeInt = 0
    time_share: float = 0.0
    slowest: tuple[str, ...] = ()
    why: str = ""


class CalibratedProfile(Part):
    """See the module.

    Attributes:
        model: as the runs name it.
        device: as the runs name it.
        latency: of the device.
        ranges: least and most of each driver in the steps that have any of it.
        modes: kinds of step that were measured.
        host: coefficients of `simulator.host.HostOptions`.
        steps: that were used.
        errors: on steps held out, by how they were chosen.
        left_out: outliers.
        approximations: what the records could not tell, and that it is far off where it is.
        provenance: what the runs' manifests say of machine and software.
    """

    kind: Literal["calibrated"] = "calibrated"
    format: Literal[1] = 1
    model: str
    device: str
    latency: StepCost
    ranges: dict[str, tuple[int, int]]
    modes: tuple[Literal["decode", "extend", "mixed"], ...] = Field(min_length=1)
    host: dict[str, int]
    steps: int = Field(ge=1)
    errors: dict[str, Errors] = {}
    left_out: LeftOut = LeftOut()
    approximations: tuple[str, ...] = ()
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _known_drivers(self) -> Self:
        if set(self.ranges) != set(DRIVERS):
            raise ValueError(f"ranges have to be of {', '.join(DRIVERS)}")
        for name, (low, high) in self.ranges.items():
            if not 0 <= low <= high:
                raise ValueError(
                    f"the range of {name} is from {low} to {high}: 0 or more, and ascending"
                )
        return self

    def save(self, path: str | Path) -> None:
        """Write as JSON, to be read and compared by people too."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read one.

        Raises:
            ValueError: names the file and what is wrong with it.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(
                f"{path} is no calibrated profile: {where + ': ' if where else ''}{first['msg']}; "
                "`twin calibrate RUN --out FILE` writes one"
            ) from error
