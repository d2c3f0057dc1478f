"""The table of sampling parameters by row: kept by the host, mirrored on the device.

Setting a row touches host memory only. What changed goes over in two copies, for all rows together,
when the next step is prepared. The host's copy also says what a step needs at all, so that a batch
without penalties spends nothing on them, and nothing has to be read back from the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag, auto
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from runtime.sampling.filters import LONGEST_LIST
from runtime.sampling.slots import upload

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from runtime.sampling.params import SamplingParams


class Need(IntFlag):
    """What a row, or a batch of them, asks of the sampler."""

    GREEDY = auto()
    RANDOM = auto()
    LISTED_K = auto()  # a top_k small enough to list the tokens
    LONGER_K = auto()
    OPEN_P = auto()  # a top_p that is not among so few
    MIN_P = auto()
    PENALTIES = auto()
    BIAS = auto()
    BANS = auto()
    LOGPROBS = auto()

    @classmethod
    def of(cls, params: SamplingParams) -> Need:
        """What one request needs; min_new_tokens is not looked at: it takes ids to ban."""
        need = cls.GREEDY if params.greedy else cls.RANDOM
        if not params.greedy:
            listed = params.top_k is not None and params.top_k <= LONGEST_LIST
            if params.top_k is not None:
                need |= cls.LISTED_K if listed else cls.LONGER_K
            if params.top_p < 1 and not listed:
                need |= cls.OPEN_P
            if params.min_p > 0:
                need |= cls.MIN_P
        if params.penalises:
            need |= cls.PENALTIES
        if params.logit_bias:
            need |= cls.BIAS
        if params.logprobs is not None:
            need |= cls.LOGPROBS
        return need


class Numbers(NamedTuple):
    """The float columns: float64 (n,) each."""

    temperature: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor


class Integers(NamedTuple):
    """The integer columns: int64 (n,) each."""

    random: Tensor  # 0 where the row is greedy
    top_k: Tensor
    seed: Tensor
    counts_slot: Tensor
    bias_slot: Tensor
    bans_slot: Tensor
    banned_until: Tensor  # position of the first token that may end the sequence


_SLOTS = [i for i, name in enumerate(Integers._fields) if name.endswith("_slot")]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a batch needs, known to the host."""

    need: Need
    listed_k: int  # the largest top_k among those small enough to be listed
    logprobs: int  # the largest number of likely tokens asked for


class RowTable:
    """Parameters of rows 0 to `rows`; a row that was never set is greedy and needs nothing else."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._device = device
        self._numbers = np.tile(np.array([1, 1, 0, 1, 0, 0], dtype=np.float64), (rows + 1, 1))
        self._integers = np.zeros((rows + 1, len(Integers._fields)), dtype=np.int64)
        self._needs = np.full(rows + 1, Need.GREEDY, dtype=np.int64)
        self._listed_k = np.zeros(rows + 1, dtype=np.int64)
        self._logprobs = np.zeros(rows + 1, dtype=np.int64)
        self._numbers_dev = upload(self._numbers, device)
        self._integers_dev = upload(self._integers, device)
        self._changed: set[int] = set()

    def __len__(self) -> int:
        return len(self._needs)

    def set(
        self,
        row: int,
        params: SamplingParams,
        need: Need,
        *,
        seed: int,
        counts_slot: int,
        bias_slot: int,
        bans_slot: int,
        banned_until: int,
    ) -> None:
        """Give a row its parameters."""
        random = not params.greedy
        self._numbers[row] = (
            params.temperature if random else 1.0,
            params.top_p if random else 1.0,
            params.min_p if random else 0.0,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        )
        top_k = params.top_k if random and params.top_k is not None else 0
        top_k = min(top_k, 2**31)  # beyond any vocabulary
        self._integers[row] = (
            *(random, top_k, seed),
            *(counts_slot, bias_slot, bans_slot, banned_until),
        )
        self._needs[row] = need
        self._listed_k[row] = top_k if top_k <= LONGEST_LIST else 0
        self._logprobs[row] = params.logprobs or 0
        self._changed.add(row)

    def clear(self, row: int) -> None:
        """The row's request is gone: it needs nothing any more, and points to no slot."""
        self._needs[row] = Need.GREEDY
        self._listed_k[row] = self._logprobs[row] = 0
        if self._integers[row, _SLOTS].any():
            self._integers[row, _SLOTS] = 0
            self._changed.add(row)

    def wanted(self, rows: npt.NDArray[np.integer] | None) -> Wanted:
        """What these rows need; None for all that are set."""
        at = slice(None) if rows is None else rows
        return Wanted(
            Need(int(np.bitwise_or.reduce(self._needs[at]))),
            int(self._listed_k[at].max(initial=0)),
            int(self._logprobs[at].max(initial=0)),
        )

    def prepare(self) -> None:
        """Bring what changed to the device."""
        if not self._changed:
            return
        rows = np.array(sorted(self._changed), dtype=np.int64)
        at = upload(rows, self._device)
        self._numbers_dev.index_copy_(0, at, upload(self._numbers[rows], self._device))
        self._integers_dev.index_copy_(0, at, upload(self._integers[rows], self._device))
        self._changed.clear()

    def of(self, rows: Tensor) -> tuple[Numbers, Integers]:
        """The parameters of these rows, int64 (n,) on the device."""
        numbers, integers = self._numbers_dev[rows], self._integers_dev[rows]
        return Numbers(*numbers.unbind(1)), Integers(*integers.unbind(1))
