"""What looks like an accident of the reference engine, reproduced, each behind a switch.

Decisions are to equal SGLang 0.5.23's and vLLM 0.32's step for step, so these are on by default, but for
three that do harm. With a switch off the scheduler does what was probably meant. In the config they are
`policy: {accidents: {...}}`, or `accidents: none` for all off.
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

    abort_by_prefix: bool = False
    """An abort ends every request whose id begins with the id given. Where ids are not random, as in
    traces, it would end other clients' requests, so it is off."""

    planned_blocks_are_hits: bool = False
    """Batching decode-first, priorities: blocks of a request that was preempted in the very step it was
    planned in can still be found, although they were never computed. It breaks outputs, so it is off."""

    context_beyond_pool: bool = False
    """Batching decode-first: a context limit above what the pool holds is taken, and a request that grows
    beyond the pool preempts itself for ever. Off: such a limit is an error at start."""

    @classmethod
    def none(cls) -> Accidents:
        """All switched off."""
        return cls(**dict.fromkeys(cls.model_fields, False))
