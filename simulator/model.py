"""The simulated model: which token each row samples, and whether it ends there.

A replayed request's output is known to the workload, not to the scheduler. Row `i` of a batch samples
the output token whose place its sequence length gives; if that is the request's last, and it does not
ignore EOS, the sequence stops by itself.
"""

from __future__ import annotations

import heapq
import sys
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from policies.batch import StepResult
from policies.tokens import KnownTokens

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.batch import Batch, Cohort, DecodeRows
    from policies.request import Request
    from policies.tokens import SizedTokens

NEVER = sys.maxsize
NO_STOPS = StepResult()


class ReplayTokens(KnownTokens):
    """A replayed request's tokens; its output length is the world's to know."""

    __slots__ = ("output_len",)

    def __init__(self, prompt: SizedTokens, output: SizedTokens) -> None:
        super().__init__(prompt, output)
        self.output_len = len(output)


def _output_len(request: Request) -> int:
    tokens = request.tokens
    assert isinstance(tokens, ReplayTokens)
    return tokens.output_len


class ReplayedModel:
    """See the module.

    Args:
        sample: also give the sampled ids, for the decision log.
    """

    def __init__(self, *, sample: bool = False) -> None:
        self._sample = sample
        self._cohort: Cohort | None = None
        self._stops: list[tuple[int, int, Request]] = []  # heap: decode round in which one stops
        self._serial = count()

    def result(self, batch: Batch) -> StepResult:
        """What the device makes of a batch."""
        stops: list[int] = []
        sampling = 0
        for item in batch.prefill:
            if item.samples:
                request = item.request
                if not request.ignore_eos:
                    last = item.start + item.length - request.prompt_len
                    if last == _output_len(request) - 1:
                        stops.append(sampling)
                sampling += 1
        if batch.decode is not None:
            stops += [sampling + index for index in self.stopping(batch.decode)]
        if self._sample:
            return StepResult(stops, self._tokens(batch))
        return StepResult(stops) if stops else NO_STOPS

    def rounds_to_stop(self, rows: DecodeRows) -> int:
        """In how many decode rounds from these a member stops by itself.

        At least so many: a member that has left in the meantime may have been the one.
        """
        self._expect(rows)
        return self._stops[0][0] - rows.round if self._stops else NEVER

    def _expect(self, rows: DecodeRows) -> None:
        """Note in which round those who have joined will stop."""
        cohort = rows.cohort
        if cohort is self._cohort:
            return
        self._cohort = cohort
        for request in cohort.joined:
            if not request.ignore_eos:
                left = request.prompt_len + _output_len(request) - 1 - rows.kv_len(request)
                heapq.heappush(self._stops, (rows.round + left, next(self._serial), request))

    def stopping(self, rows: DecodeRows) -> list[int]:
        """Indices of the decode rows whose request stops by itself in this round, ascending."""
        self._expect(rows)
        if not self._stops or self._stops[0][0] > rows.round:
            return []
        stopping = set()  # one that joined again may have been expected twice
        while self._stops and self._stops[0][0] <= rows.round:
            request = heapq.heappop(self._stops)[2]
            # one that has left since was expected in vain
            last = request.prompt_len + _output_len(request) - 1
            if rows.kv_len(request) == last and request in rows.requests:
                stopping.add(rows.requests.index(request))
        return sorted(stopping)

    def _tokens(self, batch: Batch) -> npt.NDArray[np.int32]:
        rows = [(item.request, item.seq_len) for item in batch.prefill if item.samples]
        if batch.decode is not None:
            rows += zip(batch.decode.requests, batch.decode.seq_lens().tolist(), strict=True)
        # the token after a sequence of seq_len tokens stands at that place in prompt and output
        ids = [int(request.tokens.read(seq_len + 1)[seq_len]) for request, seq_len in rows]
        return np.array(ids, dtype=np.int32)
