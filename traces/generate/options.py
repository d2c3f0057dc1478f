"""What every piece of a generated workload is: options that are checked once and never change.

A piece (arrivals, a distribution, a way prompts share prefixes) is a pydantic model that reads from
YAML, says what it was given wrongly, and has the method that draws. Knows no piece.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Spearman = Annotated[float, Field(gt=-1, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Options(BaseModel):
    """Options of a piece: an unknown key is an error that lists the known ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, dict):
            unknown = [key for key in given if key not in cls.model_fields]
            if unknown:
                known = ", ".join(cls.model_fields)
                raise ValueError(f"unknown key {unknown[0]!r}; known here are {known}")
        return given
