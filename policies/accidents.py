"""What looks like an accident of the reference engine, reproduced, each behind a switch.

Decisions are to equal SGLang 0.5.23's step for step, so these are on by default. With a switch off the
scheduler does what was probably meant. Config: `policy: {accidents: {...}}`, or `accidents: none`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Accidents(BaseModel):
    """One switch an accident; true reproduces it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    charge_forgets_outputs: bool = True
    """A re-admitted retracted request is charged its whole `max_new_tokens`, although the outputs it
    has already made count when its need is checked."""

    hrrn_counts_decode: bool = True
    """The counter of processed prefill tokens (order hrrn) grows in decode steps too: a decode batch
    adds again what the prefill batch that it once was had added."""

    preempt_by_stale_prefix: bool = True
    """Whether preempting for a request frees enough is judged by the prefix it matched in some
    earlier round."""

    unsorted_last_reserve: bool = True
    """Without a prefix cache, among requests that ignore EOS, a candidate that outlasts all those
    listed by remaining tokens is listed before the last of them instead of behind it."""

    abort_by_prefix: bool = True
    """An abort ends every request whose id begins with the id given."""

    @classmethod
    def none(cls) -> Accidents:
        """All switched off."""
        return cls(**dict.fromkeys(cls.model_fields, False))
