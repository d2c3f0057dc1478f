"""The simulated model: which token each row samples, and whether it ends there.

A replayed request's output is known to the workload, not to the scheduler. Row `i` of a batch samples
the output token whose place its sequence length gives; if that is the request's last, and it does not
ignore EOS, the sequence stops by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.batch import StepResult
from policies.tokens import KnownTokens

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.batch import Batch, Cohort, DecodeRows
    from policies.request import Request
    from policies.tokens import SizedTokens

NEVER = np.iinfo(np.int64).max
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
        self._stop_rounds: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._first_stop = int(NEVER)

    def result(self, batch: Batch) -> StepResult:
        """What the device makes of a batch."""
        stops: list[int] = []
        sampling = 0
        for item in batch.prefill:
            if item.samples:
                request = item.request
                last = item.seq_len - request.prompt_len == _output_len(request) - 1
                if last and not request.ignore_eos:
                    stops.append(sampling)
                sampling += 1
        if batch.decode is not None:
            stops += (self._stopping(batch.decode) + sampling).tolist()
        if self._sample:
            return StepResult(stops, self._tokens(batch))
        return StepResult(stops) if stops else NO_STOPS

    def rounds_to_stop(self, batch: Batch) -> int:
        """Decode rounds after this batch's before the one in which a member stops by itself."""
        assert batch.decode is not None
        self._stopping(batch.decode)
        return self._first_stop - batch.decode.round - 1

    def _stopping(self, rows: DecodeRows) -> npt.NDArray[np.int64]:
        """Indices of the decode rows whose request stops by itself in this round."""
        cohort = rows.cohort
        if cohort is not self._cohort:
            self._cohort = cohort
            last = [
                NEVER if r.ignore_eos else r.prompt_len + _output_len(r) - 1
                for r in cohort.requests
            ]
            lengths = np.array(last, dtype=np.int64)
            finite = lengths != NEVER
            self._stop_rounds = np.where(finite, lengths - cohort.offsets, NEVER)
            self._first_stop = int(self._stop_rounds.min(initial=NEVER))
        if rows.round < self._first_stop:
            return _NONE
        stopping = np.flatnonzero(self._stop_rounds == rows.round)
        later = self._stop_rounds[self._stop_rounds > rows.round]
        self._first_stop = int(later.min(initial=NEVER))
        return stopping

    def _tokens(self, batch: Batch) -> npt.NDArray[np.int32]:
        rows = [(item.request, item.seq_len) for item in batch.prefill if item.samples]
        if batch.decode is not None:
            rows += zip(batch.decode.requests, batch.decode.seq_lens().tolist(), strict=True)
        # the token after a sequence of seq_len tokens stands at that place in prompt and output
        ids = [int(request.tokens.read(seq_len + 1)[seq_len]) for request, seq_len in rows]
        return np.array(ids, dtype=np.int32)


_NONE = np.zeros(0, dtype=np.int64)
