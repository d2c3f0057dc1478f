"""A profile: all that is known of one model's operators on one GPU, in a few kilobytes.

Condensed from tables (`simulator.operators.from_tables`, `simulator.operators.llmservingsim`), saved
as JSON, and enough to build an `OperatorLatency` where the tables are not at hand. It says where its
figures come from, under which licence, how far they were from measurements left out, and what in it
is not measured but approximated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simulator.operators.curve import Curve  # noqa: TC001 - a field of a model
from simulator.operators.mixed_attention import MixedAttention  # noqa: TC001 - a field of a model
from simulator.operators.shards import Parallel  # noqa: TC001 - a field of a model
from simulator.operators.uniform_attention import UniformAttention  # noqa: TC001 - a field of a model

Per = Literal["token", "expert_token", "sampled"]
Phase = Literal["any", "decode", "extend"]


class Operator(BaseModel):
    """An operator that depends on one size of a step.

    Attributes:
        name: what it is.
        per: what its size counts: the step's tokens, the tokens all ranks send to the experts, or
            the rows that sample.
        phase: in which steps it runs: all, those of decode rows only, or those with prefill rows.
        unit: elements of its curve's size per token or row.
        count: calls in a forward pass.
        curve: nanoseconds of a call.
        measured: false where the curve is an approximation; its range then means nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    per: Per = "token"
    phase: Phase = "any"
    unit: int = Field(1, ge=1)
    count: int = Field(ge=1)
    curve: Curve
    measured: bool = True


class OperatorProfile(BaseModel):
    """A model's operators on one GPU.

    Attributes:
        format: of this file.
        model: name of the shape.
        gpu: as the source calls it.
        weight_dtype: as the source calls the precision of matrix products.
        kv_dtype: of keys and values.
        parallel: how the model is split; operators are one GPU's.
        layers: that attend, over all pipeline stages.
        source: where the measurements are from.
        licence: of the source.
        operators: all but attention.
        attention: of one layer.
        errors: mean absolute error against measurements left out, as a share, by operator.
        approximations: what is not measured, and what stands in for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    model: str
    gpu: str
    weight_dtype: str
    kv_dtype: str
    parallel: Parallel
    layers: int = Field(ge=1)
    source: str
    licence: str
    operators: tuple[Operator, ...]
    attention: Annotated[UniformAttention | MixedAttention, Field(discriminator="kind")]
    errors: dict[str, float] = {}
    approximations: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write as JSON, one operator a line, whole numbers without a point."""
        plain = _whole(
            self.model_dump(mode="json", exclude_defaults=True) | {"format": self.format}
        )
        lines = []
        for key, value in plain.items():
            if key == "operators":
                inside = ",\n".join(f"  {_json(operator)}" for operator in value)
                lines.append(f'"operators": [\n{inside}\n ]')
            else:
                lines.append(f"{_json(key)}: {_json(value)}")
        Path(path).write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> OperatorProfile:
        """Read one.

        Raises:
            ValueError: if the file is not such a profile; names the file and what is wrong.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ValueError(f"{path}: not a readable operator profile: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{path}: not an operator profile: {where}: {first['msg']}") from error


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _whole(value: Any) -> Any:
    """The same with floats that are whole numbers as integers, which are shorter."""
    match value:
        case dict():
            return {k: _whole(v) for k, v in value.items()}
        case list():
            return [_whole(v) for v in value]
        case float() if value.is_integer():
            return int(value)
    return value
