"""Who gives its memory back when the next decode step does not fit.

A retraction order sorts the running batch; requests are retracted from its end. The last one left is
never retracted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from policies.registry import RETRACTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.priority import Priorities
    from policies.request import Request


class Retraction(Protocol):
    """Chooses who gives memory back."""

    def arrange(self, running: Sequence[Request], priorities: Priorities) -> list[Request]:
        """The running batch, those to keep first."""
        ...


def _progress(request: Request) -> tuple[int, int]:
    return -request.output_len, request.prompt_len


@RETRACTIONS.register("fewest-outputs")
class FewestOutputsFirst:
    """Least work lost: fewest outputs first, then the longest prompt, then the last in the batch."""

    def arrange(self, running: Sequence[Request], priorities: Priorities) -> list[Request]:  # noqa: ARG002
        """See `Retraction.arrange`."""
        return sorted(running, key=_progress)


@RETRACTIONS.register("priority")
class WorstPriorityFirst:
    """The worst priority first, then as `fewest-outputs`."""

    def arrange(self, running: Sequence[Request], priorities: Priorities) -> list[Request]:
        """See `Retraction.arrange`."""
        return sorted(running, key=lambda r: (priorities.rank(r), *_progress(r)))


@RETRACTIONS.register("last-in")
class LastIn:
    """Whoever joined the running batch last (decode-first has this built in, as vLLM)."""

    def arrange(self, running: Sequence[Request], priorities: Priorities) -> list[Request]:  # noqa: ARG002
        """See `Retraction.arrange`."""
        return list(running)
