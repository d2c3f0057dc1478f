"""Agents at work: a large context that grows by what tools return, for many steps.

A step's prompt is the context before it, the answer to that, and what the tools called in that
answer returned; it waits for the answer and the tools. Now and then a context is rewritten (it was
compacted, or an old message was edited): only its beginning stays. A step may hand work to
subagents, which have contexts of their own, and its agent goes on when all have ended. Arrivals are
of sessions. `lengths.input` is what a step adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from traces.generate.agent_sessions import AgentSessions
from traces.generate.distributions import Distribution, Fixed, Popularity
from traces.generate.options import (
    Count,
    NonNegative,
    Options,
    Positive,
    Share,
    Spearman,
)
from traces.generate.sessions import AnswerTime, side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from traces.generate.lengths import Lengths
    from traces.generate.naming import Naming
    from traces.workload import TraceRequest


class Chance(Options):
    """A chance per step that may grow with the context, after AIPerf's agentic generator.

    Attributes:
        base: for an empty context.
        context_scaling: by what the chance has grown when the context is full.
    """

    base: Share
    context_scaling: NonNegative = 1.0

    def at(self, length: int, context: float) -> float:
        """For a context of `length` tokens of `context` at most."""
        grown = 1.0 if context == float("inf") else length / context
        return self.base * (1 + (self.context_scaling - 1) * min(grown, 1.0))


class Rewriting(Options):
    """How a context is rewritten.

    Attributes:
        chance: per step.
        keep_tokens: what stays of it, from the beginning.
        ratio: its length after over its length before.
        full_ratio: the same where it was full.
    """

    chance: Chance
    keep_tokens: Distribution
    ratio: Distribution
    full_ratio: Distribution


class Subagents(Options):
    """Work handed to others.

    Attributes:
        chance: per step.
        at_once: how many are started together.
        steps: of each.
        first_tokens: of each, when it starts.
    """

    chance: Share
    at_once: Distribution = Fixed(value=1)
    steps: Distribution
    first_tokens: Distribution


class Group(Options):
    """What sessions of one project share: repository, instructions."""

    popularity: Popularity
    tokens: Distribution


class Window(Options):
    """A context length, and how many sessions in proportion have it."""

    tokens: Count
    weight: Positive = 1.0


class Agents(Options):
    """Sessions of agents.

    Attributes:
        steps: how many a session has; None if it ends by chance, or when its context is full.
        ends: the chance that it ends after a step.
        shared_tokens: what all sessions begin with: tools and system prompt.
        group: what sessions of one project go on with.
        first_tokens: what a session's own first prompt adds to that.
        wait_s: seconds between an answer and the next step: tools at work, or a person.
        windows: how long contexts may get; a session that begins longer has the next larger window,
            or none.
        rewriting: how a context is rewritten, by chance or when full; None ends the session when it
            is full.
        subagents: None for none.
        answer: how long answers are taken to last where requests are stamped.
    """

    kind: Literal["agents"] = "agents"
    steps: Distribution | None = None
    ends: Chance = Chance(base=0.0)
    shared_tokens: Annotated[int, Field(ge=0)] = 0
    group: Group | None = None
    first_tokens: Distribution
    first_steps_spearman: Spearman = 0.0
    wait_s: Distribution
    windows: tuple[Window, ...] = ()
    rewriting: Rewriting | None = None
    subagents: Subagents | None = None
    answer: AnswerTime = AnswerTime()

    @model_validator(mode="after")
    def _finite(self) -> Self:
        if self.steps is None and self.ends.base == 0:
            raise ValueError("sessions have no end: give steps, or ends.base above 0")
        return self

    def requests(
        self,
        arrivals_ns: Iterable[NDArray[np.int64]],
        lengths: Lengths,
        rng: np.random.Generator,
        names: Naming,
    ) -> Iterator[TraceRequest]:
        """See `PrefixModel.requests`."""
        sessions = AgentSessions(self, lengths, rng, names)
        return side_by_side(arrivals_ns, sessions.begin)
