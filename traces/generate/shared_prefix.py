"""Prompts in groups that begin with the same text: system prompts, documents, few-shot examples.

After SGLang's `bench_serving --dataset-name generated-shared-prefix`: a number of groups, each with
a system prompt of its own, and prompts that are the group's system prompt and a question. Its
`range-ratio` is a `uniform` length, its `group-distribution zipf` a `zipf_alpha` above 0.
`lengths.input` is the question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from traces.generate.distributions import Distribution, Fixed, Popularity, tokens
from traces.generate.options import Count, NonNegative, Options
from traces.tokens import JoinedTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from traces.generate.lengths import Lengths
    from traces.generate.naming import Naming


class SharedPrefix(Options):
    """Groups of prompts with one beginning.

    Attributes:
        groups: how many.
        prompts_per_group: prompts of each group in a round of all; rounds follow each other.
        zipf_alpha: 0 gives each group exactly its prompts; above, the k-th group is drawn in
            proportion to 1 / k ** alpha.
        ordered: group by group instead of shuffled.
        system_tokens: length of a group's beginning.
    """

    kind: Literal["groups"] = "groups"
    groups: Count = 64
    prompts_per_group: Count = 16
    zipf_alpha: NonNegative = 0.0
    ordered: bool = False
    system_tokens: Distribution = Fixed(value=2048)

    def requests(
        self,
        arrivals_ns: Iterable[NDArray[np.int64]],
        lengths: Lengths,
        rng: np.random.Generator,
        names: Naming,
    ) -> Iterator[TraceRequest]:
        """See `PrefixModel.requests`."""
        sizes = tokens(self.system_tokens, rng.random(self.groups)).tolist()
        systems = [names.shared(group, size) for group, size in enumerate(sizes)]
        turns = self._groups(np.random.default_rng(rng.integers(2**63)))
        row = 0
        for block in arrivals_ns:
            uniform = rng.random((len(block), 2))
            inputs, outputs = lengths.draw(uniform[:, 0], uniform[:, 1])
            for arrival, question, output in zip(
                block.tolist(), inputs.tolist(), outputs.tolist(), strict=True
            ):
                group = next(turns)
                yield TraceRequest(
                    id=names.request(row),
                    arrival_ns=arrival,
                    prompt=JoinedTokens((systems[group], names.text(2 * row, question))),
                    output=names.text(2 * row + 1, output),
                    tenant=names.tenant,
                    routing_key=f"g{group:04d}",
                )
                row += 1

    def _groups(self, rng: np.random.Generator) -> Iterator[int]:
        """Which group each request is of, without end."""
        popularity = Popularity(count=self.groups, zipf_alpha=self.zipf_alpha)
        even = np.repeat(np.arange(self.groups), self.prompts_per_group)
        while True:
            if self.zipf_alpha:
                chosen = popularity.at(rng.random(len(even)))
                chosen = np.sort(chosen) if self.ordered else chosen
            else:
                chosen = even if self.ordered else rng.permutation(even)
            yield from chosen.tolist()
