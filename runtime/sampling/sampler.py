"""The batched sampler: logits of many rows in, one token of each out, all on the device.

No step waits for the device and none goes row by row; `runtime.sampling.reference` says the same for
one row, readably, and tests hold the two equal. In order: penalties, logit bias and bans,
temperature, top-k, top-p, min-p (as HuggingFace and SGLang), then the token at which the cumulated
probability, in the order of ids, exceeds the row's random number for this position. The sampler does
not know requests, only rows, and sees no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from runtime.sampling.bias import BiasLists
from runtime.sampling.draw import Weights
from runtime.sampling.filters import Filters, lowest_kept
from runtime.sampling.noise import as_int64, uniform
from runtime.sampling.penalties import TokenCounts
from runtime.sampling.rows import Need, RowTable

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from runtime.sampling.params import SamplingParams
    from runtime.sampling.rows import Integers, Numbers, Wanted

    IntArray = npt.NDArray[np.integer]

_FILTERS = Need.LISTED_K | Need.LONGER_K | Need.OPEN_P | Need.MIN_P


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was sampled, on the device.

    Attributes:
        tokens: int64 (n,).
        logprobs: float32 (n,), of the tokens; None where no row wants any. Of the model's own
            distribution, as are the next.
        top_ids: int64 (n, N), the most likely ids first, N the most that a row wants; None for N = 0.
        top_logprobs: float32 (n, N).
    """

    tokens: Tensor
    logprobs: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None


class Sampler:
    """Samples for rows of a table.

    `admit` and `release` write to host memory only; what they say reaches the device within the next
    `sample`, on its stream. The calls are made one at a time, in the order of launches: where a
    thread runs the steps, it also admits.

    Args:
        rows: rows are numbered 1 to `rows`; row 0 is padding, sampled greedily.
        vocab_size: width of the logits.
        device: where the logits are.
        eos_ids: the model's own ends, which min_new_tokens holds off.
    """

    def __init__(
        self,
        rows: int,
        vocab_size: int,
        device: torch.device | str,
        *,
        eos_ids: Collection[int] = (),
    ) -> None:
        self._device = torch.device(device)
        self._vocab_size = vocab_size
        self._eos_ids = tuple(eos_ids)
        self._rows = RowTable(rows, self._device)
        self._counts = TokenCounts(vocab_size, self._device)
        self._bias = BiasLists(self._device)
        self._bans = BiasLists(self._device)
        self._weights = Weights(vocab_size, self._device)

    def admit(
        self,
        row: int,
        params: SamplingParams,
        prompt_ids: IntArray,
        output_ids: IntArray,
        *,
        seed: int = 0,
    ) -> None:
        """Start a row, or start it again after a retraction.

        Args:
            row: 1 to `rows`; whose it was before does not matter.
            params: checked against the vocabulary already.
            prompt_ids: the request's prompt.
            output_ids: its outputs so far.
            seed: taken where the request gives none; see `default_seed`.

        Raises:
            ValueError: there is no such row.
        """
        if not 1 <= row < len(self._rows):
            raise ValueError(
                f"row {row} is not in the table; its rows are 1 to {len(self._rows) - 1}"
            )
        need = Need.of(params)
        counts_slot = bias_slot = bans_slot = 0
        if params.penalises:
            counts_slot = self._counts.start(row, prompt_ids, output_ids)
        else:
            self._counts.release(row)
        if params.logit_bias:
            bias_slot = self._bias.start(row, params.logit_bias)
        else:
            self._bias.release(row)
        ends = params.end_ids(self._eos_ids)
        if ends and params.min_new_tokens > len(output_ids):
            need |= Need.BANS
            bans_slot = self._bans.start(row, dict.fromkeys(ends, -float("inf")))
        else:
            self._bans.release(row)
        self._rows.set(
            row,
            params,
            need,
            seed=as_int64(seed if params.seed is None else params.seed),
            counts_slot=counts_slot,
            bias_slot=bias_slot,
            bans_slot=bans_slot,
            banned_until=len(prompt_ids) + params.min_new_tokens,
        )

    def release(self, row: int) -> None:
        """A row's request has left: later steps need not provide for it, nor keep its counts.

        The memory of counts and lists goes when no row has any.
        """
        self._rows.clear(row)
        for held in (self._counts, self._bias, self._bans):
            held.release(row)

    @property
    def nbytes(self) -> int:
        """Bytes on the device that grow with what requests ask for: counts, biases and bans."""
        return self._counts.nbytes + self._bias.nbytes + self._bans.nbytes

    def sample(
        self, logits: Tensor, rows: Tensor, positions: Tensor, *, host_rows: IntArray | None = None
    ) -> Sampled:
        """Choose a token for each row, and count it for the row's penalties.

        Args:
            logits: float32 (n, vocab), left as they are; each row has a finite one, none is NaN.
            rows: int64 (n,), on the device; none but row 0 twice.
            positions: int64 (n,), on the device: the place in its sequence that each token will
                have, which is the number of prompt and output tokens before it.
            host_rows: the same as `rows`, on the host, to know what this step needs without asking
                the device; without them (on a GPU) all rows that are admitted are provided for.

        Returns:
            tokens of the n rows, and log-probabilities where wanted.
        """
        self._prepare()
        if host_rows is None and self._device.type == "cpu":
            host_rows = rows.numpy()
        wanted = self._rows.wanted(host_rows)
        need = wanted.need
        if not need & ~Need.GREEDY:
            return Sampled(logits.argmax(-1))
        numbers, integers = self._rows.of(rows)
        shaped = self._shaped(logits, need, numbers, integers, positions)
        if not need & Need.RANDOM:
            tokens = shaped.argmax(-1)
        else:
            tokens = self._drawn(shaped, wanted, numbers, integers, positions)
            if need & Need.GREEDY:
                tokens = torch.where(integers.random > 0, tokens, shaped.argmax(-1))
        if need & Need.PENALTIES:
            self._counts.count(integers.counts_slot, tokens)
        if not need & Need.LOGPROBS:
            return Sampled(tokens)
        return _with_logprobs(tokens, logits, wanted.logprobs)

    def _prepare(self) -> None:
        self._rows.prepare()
        self._counts.prepare()
        self._bias.prepare()
        self._bans.prepare()

    def _drawn(
        self,
        logits: Tensor,
        wanted: Wanted,
        numbers: Numbers,
        integers: Integers,
        positions: Tensor,
    ) -> Tensor:
        """A random token for each row: int64 (n,)."""
        weights = self._weights.of(logits, numbers.temperature)
        need = wanted.need
        if need & _FILTERS:
            filters = Filters(
                integers.top_k,
                numbers.top_p,
                numbers.min_p,
                listed_k=wanted.listed_k,
                longer_k=bool(need & Need.LONGER_K),
                open_p=bool(need & Need.OPEN_P),
            )
            weights.masked_fill_(weights < lowest_kept(weights, filters), 0.0)
        return self._weights.draw(uniform(integers.seed, positions))

    def _shaped(
        self, logits: Tensor, need: Need, numbers: Numbers, integers: Integers, positions: Tensor
    ) -> Tensor:
        """The logits with penalties, bias and bans; the same tensor where there are none."""
        if not need & (Need.PENALTIES | Need.BIAS | Need.BANS):
            return logits
        shaped = logits.clone()
        if need & Need.PENALTIES:
            self._counts.penalise(
                shaped,
                integers.counts_slot,
                numbers.repetition.float(),
                numbers.presence.float(),
                numbers.frequency.float(),
            )
        if need & Need.BIAS:
            self._bias.add(shaped, integers.bias_slot)
        if need & Need.BANS:
            self._bans.add(shaped, integers.bans_slot, positions < integers.banned_until)
        return shaped


def _with_logprobs(tokens: Tensor, logits: Tensor, top: int) -> Sampled:
    """The tokens with their log-probabilities in the model's own distribution."""
    total = logits.logsumexp(-1)
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - total
    if not top:
        return Sampled(tokens, logprobs)
    best = logits.topk(min(top, logits.shape[1]))
    return Sampled(tokens, logprobs, best.indices, best.values - total[:, None])
