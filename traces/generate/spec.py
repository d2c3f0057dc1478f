"""A workload to generate, written down: when requests come, how long they are, what they share.

The same description in a YAML file, in a bundled preset and in Python. It says what is drawn, not
the numbers that come out: a seed does, with `traces.generate.stream`.

    n: 1000
    arrivals: {kind: gamma, shape: 0.5, rate: 4}
    lengths:
      input: {kind: lognormal, mu: 6.2, sigma: 1.0, high: 8192}
      output: 256
    prefix: {kind: groups, groups: 8, system_tokens: 1024}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol, Self

from pydantic import Field, model_validator

from traces.generate.agents import Agents
from traces.generate.arrivals import Arrivals
from traces.generate.chat import Chat
from traces.generate.conversation import Conversation
from traces.generate.independent import Independent
from traces.generate.lengths import Lengths
from traces.generate.naming import MAX_TENANTS
from traces.generate.options import Count, Options
from traces.generate.shared_prefix import SharedPrefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from traces.generate.naming import Naming
    from traces.workload import TraceRequest

__all__ = ["Arrivals", "Lengths", "Prefix", "PrefixModel", "TenantSpec", "WorkloadSpec"]


class PrefixModel(Protocol):
    """What makes requests for given arrival times, and says what their prompts share."""

    def requests(
        self,
        arrivals_ns: Iterable[NDArray[np.int64]],
        lengths: Lengths,
        rng: np.random.Generator,
        names: Naming,
    ) -> Iterator[TraceRequest]:
        """Requests in order of arrival, made as they are asked for; fewer are the first of more.

        Args:
            arrivals_ns: ascending, in blocks; of requests, or of sessions where the model has them.
            lengths: what each request brings.
            rng: what everything is drawn from.
            names: ids and keys.
        """
        ...


Prefix = Annotated[
    Independent | SharedPrefix | Chat | Agents | Conversation, Field(discriminator="kind")
]
"""Any of them, told apart by `kind`."""


class TenantSpec(Options):
    """What one tenant sends.

    Attributes:
        arrivals: when requests come; sessions, with prefix kinds chat and agents.
        lengths: what each request brings.
        prefix: what prompts share.
    """

    arrivals: Arrivals
    lengths: Lengths
    prefix: Prefix = Independent()

    @property
    def of_sessions(self) -> bool:
        """Whether arrivals are of sessions, each of several requests."""
        return isinstance(self.prefix, Chat | Agents)


class WorkloadSpec(Options):
    """A workload: of one kind, or of several tenants side by side.

    Attributes:
        name: what to call it.
        description: one line.
        source: where its parameters come from.
        licence: of the source.
        n: requests, where nobody says how many.
        sessions: or sessions, with all their requests.
        concurrency: sessions under way at once, in a closed loop.
        arrivals: see `TenantSpec`.
        lengths: see `TenantSpec`.
        prefix: see `TenantSpec`.
        tenants: several of these by name, instead of one.
    """

    name: str = "generated"
    description: str = ""
    source: str = ""
    licence: str = ""
    n: Count | None = None
    sessions: Count | None = None
    concurrency: Count | None = None
    arrivals: Arrivals | None = None
    lengths: Lengths | None = None
    prefix: Prefix = Independent()
    tenants: Annotated[dict[str, TenantSpec], Field(max_length=MAX_TENANTS, default_factory=dict)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.tenants:
            given = self.model_fields_set & {"arrivals", "lengths", "prefix"}
            if given:
                raise ValueError(f"with tenants, {min(given)} is each tenant's own: give it there")
        elif self.arrivals is None or self.lengths is None:
            missing = "arrivals" if self.arrivals is None else "lengths"
            raise ValueError(f"{missing} is missing; expected arrivals and lengths, or tenants")
        if self.sessions is not None:
            if self.n is not None:
                raise ValueError("give n, or sessions, not both")
            if not all(part.of_sessions for _, part in self.parts):
                raise ValueError("sessions are of prefix kinds chat and agents; give n")
        return self

    @property
    def parts(self) -> list[tuple[str | None, TenantSpec]]:
        """What each tenant sends, by name; the only one has none."""
        if self.tenants:
            return [*self.tenants.items()]
        assert self.arrivals is not None
        assert self.lengths is not None
        return [
            (None, TenantSpec(arrivals=self.arrivals, lengths=self.lengths, prefix=self.prefix))
        ]
