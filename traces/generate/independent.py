"""Requests that have nothing to do with each other: lengths drawn apart, no prefix shared.

The model of a trace that records lengths only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traces.generate.knots import Knots


@dataclass(frozen=True, slots=True)
class IndependentModel:
    """Prompt and answer lengths in tokens, each by its own distribution."""

    input: Knots
    output: Knots

    def requests(
        self, rng: np.random.Generator, arrivals_ns: NDArray[np.int64], vocab_size: int
    ) -> list[TraceRequest]:
        """One request per arrival; the first of more are those of fewer."""
        uniform = rng.random((len(arrivals_ns), 2))
        inputs = np.rint(self.input.at(uniform[:, 0])).astype(np.int64).tolist()
        outputs = np.rint(self.output.at(uniform[:, 1])).astype(np.int64).tolist()
        width = max(6, len(str(len(arrivals_ns))))
        return [
            TraceRequest(
                id=f"r{row:0{width}d}",
                arrival_ns=arrival,
                prompt=SyntheticTokens(2 * row, prompt, vocab_size),
                output=SyntheticTokens(2 * row + 1, output, vocab_size),
            )
            for row, (arrival, prompt, output) in enumerate(
                zip(arrivals_ns.tolist(), inputs, outputs, strict=True)
            )
        ]
