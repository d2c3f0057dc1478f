"""Requests that have nothing to do with each other: no prefix is shared.

The model of a trace that records lengths only. `lengths.input` is a whole prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from traces.generate.options import Options
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from traces.generate.lengths import Lengths
    from traces.generate.naming import Naming


class Independent(Options):
    """Nothing is shared."""

    kind: Literal["none"] = "none"

    def requests(
        self,
        arrivals_ns: Iterable[NDArray[np.int64]],
        lengths: Lengths,
        rng: np.random.Generator,
        names: Naming,
    ) -> Iterator[TraceRequest]:
        """See `PrefixModel.requests`."""
        row = 0
        for block in arrivals_ns:
            uniform = rng.random((len(block), 2))
            inputs, outputs = lengths.draw(uniform[:, 0], uniform[:, 1])
            for arrival, prompt, output in zip(
                block.tolist(), inputs.tolist(), outputs.tolist(), strict=True
            ):
                yield TraceRequest(
                    id=names.request(row),
                    arrival_ns=arrival,
                    prompt=names.text(2 * row, prompt),
                    output=names.text(2 * row + 1, output),
                    tenant=names.tenant,
                )
                row += 1
