"""What the device does in a step: look tokens up, run the model, sample, remember.

The table of last sampled tokens, one a row, stays on the device: a decode step reads from it what the
step before wrote, so it can be launched before the host has seen that token. Everything runs in the
order of launches, whoever calls it (a worker thread on the CPU, a stream on CUDA); nothing here waits.

It knows neither the scheduler nor when results are fetched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from runtime.attention.base import AttentionBackend
    from runtime.graphs import DecodeGraphs
    from runtime.inputs import StepInputs
    from runtime.sampling.params import SamplingParams
    from runtime.sampling.sampler import Sampled

    Int32 = npt.NDArray[np.int32]
    Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Model(Protocol):
    """What is asked of a model; `runtime.models.decoder.Decoder` is one."""

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """Hidden states (T, hidden_size) of tokens at positions, both int64 (T,)."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores float32 (n, vocab_size) of rows of hidden states."""
        ...


class Admission(NamedTuple):
    """A request whose first sample in a row is due: what the sampler has to know of it."""

    row: int
    params: SamplingParams
    prompt: Int32
    output: Int32
    seed: int


class RowSampler(Protocol):
    """What is asked of a sampler; `runtime.sampling.sampler.Sampler` is one."""

    def admit(
        self,
        row: int,
        params: SamplingParams,
        prompt_ids: Int32,
        output_ids: Int32,
        *,
        seed: int = 0,
    ) -> None:
        """Start a row, or start it again after a retraction."""
        ...

    def release(self, row: int) -> None:
        """A row's request has left; it may be admitted again."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes on the device that grow with what requests ask for."""
        ...

    def sample(
        self,
        logits: torch.Tensor,
        rows: torch.Tensor,
        positions: torch.Tensor,
        *,
        host_rows: npt.NDArray[np.int64] | None = None,
    ) -> Sampled:
        """Sample for rows int64 (n,) from logits (n, vocab_size)."""
        ...


class Forward:
    """See the module.

    Args:
        model: the model.
        attention: over the KV cache.
        sampler: samples, and keeps what it needs by row.
        rows: rows that requests may have, from 1; row 0 is padding.
        device: where everything lies.
        graphs: captured decode steps, if there are any.

    Attributes:
        stream: the one that steps run on, on CUDA.
    """

    def __init__(
        self,
        model: Model,
        attention: AttentionBackend,
        sampler: RowSampler,
        rows: int,
        device: torch.device,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self.model = model
        self.attention = attention
        self.sampler = sampler
        self.device = device
        self.graphs = graphs
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            make: Any = torch.cuda.Stream  # typed in some versions of torch only
            self.stream = make(device)
        self._last = torch.zeros(rows + 1, dtype=torch.int64, device=device)

    def __call__(self, step: StepInputs, admissions: Sequence[Admission]) -> Sampled | None:
        """Run a step; None where nothing is sampled in it."""
        for new in admissions:
            self.sampler.admit(new.row, new.params, new.prompt, new.output, seed=new.seed)
        known = step.tokens >= 0
        tokens = torch.where(known, step.tokens, self._last[step.tokens.neg().clamp_min_(0)])
        hidden = self._hidden(step, tokens)
        if step.sample_at.shape[0] == 0:
            return None
        if step.sample_at.shape[0] < tokens.shape[0]:  # else every token samples, in order
            hidden = hidden[step.sample_at]
        logits = self.model.logits(hidden)
        sampled = self.sampler.sample(
            logits, step.sample_rows, step.sample_positions, host_rows=step.host_rows
        )
        if step.forced is not None:
            tokens = torch.where(step.forced < 0, sampled.tokens, step.forced)
            sampled = replace(sampled, tokens=tokens)
        self._last[step.sample_rows] = sampled.tokens
        return sampled

    def release(self, row: int) -> None:
        """The request in a row has left. Called in the order of launches, as steps are."""
        self.sampler.release(row)

    def _hidden(self, step: StepInputs, tokens: torch.Tensor) -> torch.Tensor:
        if self.graphs is not None and self.graphs.covers(step.seqs):
            return self.graphs.replay(tokens, step.positions, step.seqs)
        self.attention.plan(step.seqs)
        return self.model(tokens, step.positions, self.attention.attend)
