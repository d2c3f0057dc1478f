"""How long prompts and answers are, drawn apart or with a rank correlation.

In most traces a long prompt says nothing about its answer. What `input` counts is the prefix
model's: a whole prompt, a question after a shared prefix, or what a turn adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.generate.distributions import Distribution, tied, tokens
from traces.generate.options import Options, Spearman

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Lengths(Options):
    """Lengths in tokens.

    Attributes:
        input: what a request brings; see the prefix model for what that is.
        output: answers.
        spearman: rank correlation of the two.
    """

    input: Distribution
    output: Distribution
    spearman: Spearman = 0.0

    def draw(
        self, first: NDArray[np.float64], second: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and outputs, at least a token each, from two arrays of uniforms of one shape."""
        outputs = tokens(self.output, tied(first, second, self.spearman))
        return tokens(self.input, first), outputs
