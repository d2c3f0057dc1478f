"""From a batch to what the device reads: one packed host buffer, one copy, views into it.

Every array of a step lies in one buffer of bytes, so that one copy brings all of it to the device (the
buffer is pinned where there is one to copy to). A token whose id the host does not know, because the
step that samples it may still run, is given as minus its row: the device looks it up in its table of
last sampled tokens. Lengths, rows and pages are read when the batch is launched: the scheduler goes on
changing them afterwards.

It knows neither the model nor how anything is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from runtime.attention.base import Sequences

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from policies.batch import Batch, PrefillItem
    from runtime.answers import Answers
    from runtime.pages import Pages

    Int32 = npt.NDArray[np.int32]
    Int64 = npt.NDArray[np.int64]

ALIGN = 16
"""Bytes that every array begins at a multiple of: kernels are specialised for such addresses."""


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What one step computes, on the device but for the parts that `Sequences` has on the CPU.

    Sequences may be filled up with padding, in row 0 on page 0, which does not sample.

    Attributes:
        tokens: int64 (T,): ids, or minus the row whose last sampled token is meant.
        positions: int64 (T,): each token's place in its sequence.
        seqs: the sequences, for attention.
        sample_at: int64 (S,): which of the T tokens' logits are sampled from.
        sample_rows: int64 (S,): the rows that the samples are for.
        sample_positions: int64 (S,): places of the sampled tokens in their sequences.
        host_rows: int64 (S,): `sample_rows` on the host.
        forced: int64 (S,): ids that take the place of the sampled ones, -1 for none; None for none at all.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    seqs: Sequences
    sample_at: torch.Tensor
    sample_rows: torch.Tensor
    sample_positions: torch.Tensor
    host_rows: Int64
    forced: torch.Tensor | None = None


class HostStep:
    """A step's inputs on the host: arrays that share one buffer, to be filled.

    Args:
        n: sequences, padding included.
        tokens: new tokens of all, padding included.
        samples: sequences that sample.
        width: pages of the longest.
        allocate: gives a uint8 CPU tensor of so many bytes.
        forced: whether there is room for `forced`.

    Attributes:
        buffer: uint8, all of them.
        rows: int64, each sequence's row, padding left out.
        starts: int64, position of each one's first new token, padding left out.
        others: as in `StepInputs` and `Sequences`.
    """

    __slots__ = (
        *("buffer", "decode_only", "kv_lens", "page_table", "positions", "qo_indptr", "rows"),
        *("forced", "sample_at", "sample_positions", "sample_rows", "slots", "starts", "tokens"),
        *("_at32", "_at64", "_width"),
    )

    rows: Int64
    starts: Int64

    def __init__(
        self,
        n: int,
        tokens: int,
        samples: int,
        width: int,
        allocate: Callable[[int], torch.Tensor],
        *,
        forced: bool = False,
    ) -> None:
        self.decode_only = tokens == n
        self._width = width
        at = 0  # in bytes

        def room(sizes: tuple[int, ...], itemsize: int) -> list[tuple[int, int]]:
            """Where arrays of so many elements lie: first element and number, in their own size."""
            nonlocal at
            spans = []
            for size in sizes:
                spans.append((at // itemsize, size))
                at += -(-size * itemsize // ALIGN) * ALIGN
            return spans

        sampled = (samples, samples, samples, samples if forced else 0)
        self._at64 = room((tokens, tokens, tokens, *sampled), 8)
        self._at32 = room((n + 1, n, n * width), 4)
        self.buffer = allocate(at)
        words = self.buffer.numpy()
        longs, ints = words.view(np.int64), words.view(np.int32)
        (
            self.tokens,
            self.positions,
            self.slots,
            self.sample_at,
            self.sample_rows,
            self.sample_positions,
            self.forced,
        ) = (longs[start : start + size] for start, size in self._at64)
        self.qo_indptr, self.kv_lens, table = (
            ints[start : start + size] for start, size in self._at32
        )
        self.page_table: Int32 = table.reshape(n, width)

    def on(self, device_buffer: torch.Tensor) -> StepInputs:
        """The step as views of a buffer that holds, or will hold, the same bytes on the device."""
        longs = device_buffer.view(torch.int64)
        tokens, positions, slots, sample_at, sample_rows, sample_positions, forced = (
            longs.as_strided((size,), (1,), start) for start, size in self._at64
        )
        host = self._sequence_views(self.buffer)
        there = host if device_buffer is self.buffer else self._sequence_views(device_buffer)
        return StepInputs(
            tokens=tokens,
            positions=positions,
            seqs=Sequences(*host, *there, slots, self.decode_only),
            sample_at=sample_at,
            sample_rows=sample_rows,
            sample_positions=sample_positions,
            host_rows=self.sample_rows,
            forced=forced if len(self.forced) else None,
        )

    def _sequence_views(
        self, buffer: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`qo_indptr`, `kv_lens` and `page_table` in a buffer."""
        ints = buffer.view(torch.int32)
        (indptr_at, bounds), (lens_at, n), (table_at, _) = self._at32
        return (
            ints.as_strided((bounds,), (1,), indptr_at),
            ints.as_strided((n,), (1,), lens_at),
            ints.as_strided((n, self._width), (self._width, 1), table_at),
        )


class InputBuilder:
    """Builds the inputs of batches.

    Args:
        pages: where pages are looked up.
        page_size: tokens a page.
        allocate: gives a uint8 CPU tensor of so many bytes, pinned if it is to be copied.
        padded: the number of sequences that a batch of so many, each with one token, is filled up to.
        answers: what takes the place of samples, if anything does.
    """

    def __init__(
        self,
        pages: Pages,
        page_size: int,
        allocate: Callable[[int], torch.Tensor],
        padded: Callable[[int], int] | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._pages = pages
        self._page_size = page_size
        self._allocate = allocate
        self._padded = padded
        self._answers = answers

    def build(self, batch: Batch) -> HostStep:
        """The inputs of a batch that has items. Call it when the batch is launched."""
        if batch.prefill:
            step = self._build_with_prompts(batch)
        else:
            assert batch.decode is not None, "a batch without items has no inputs"
            rows, kv_lens = batch.decode.cohort.rows, batch.decode.seq_lens()
            step = self._build_decode(batch, rows, kv_lens)
        if self._answers is not None:
            for item in batch.prefill:
                if item.samples:
                    self._answers.admit(item.row, item.request.tokens)
            step.forced[:] = self._answers.at(step.sample_rows, step.sample_positions)
        return step

    def _build_with_prompts(self, batch: Batch) -> HostStep:
        """The general case: prompts or chunks of them, and perhaps decode rows."""
        items, decode = batch.prefill, batch.decode
        rows = np.array([item.row for item in items], dtype=np.int64)
        new = np.array([item.length for item in items], dtype=np.int64)
        kv_lens = np.array([item.seq_len for item in items], dtype=np.int64)
        samples = np.array([item.samples for item in items], dtype=bool)
        ones = batch.decode_requests
        if decode is not None:
            rows = np.concatenate([rows, decode.cohort.rows])
            new = np.concatenate([new, np.ones(ones, dtype=np.int64)])
            kv_lens = np.concatenate([kv_lens, decode.seq_lens()])
            samples = np.concatenate([samples, np.ones(ones, dtype=bool)])
        sampling = np.flatnonzero(samples)
        ends = np.cumsum(new)
        n, total = len(rows), int(ends[-1])
        step = self._lay_out(batch, rows, kv_lens, total, len(sampling), n)
        step.starts = kv_lens - new
        step.qo_indptr[0] = 0
        step.qo_indptr[1:] = ends
        _write_prompts(step.tokens, items)
        np.negative(rows[len(items) :], out=step.tokens[total - ones :])
        of = np.repeat(np.arange(n), new)  # whose each token is
        step.positions[:] = np.arange(total) + (step.starts - ends + new)[of]
        page, offset = np.divmod(step.positions, self._page_size)
        step.slots[:] = step.page_table[of, page]
        step.slots *= self._page_size
        step.slots += offset
        step.sample_at[:] = ends[sampling] - 1
        step.sample_rows[:] = rows[sampling]
        step.sample_positions[:] = kv_lens[sampling]
        return step

    def _build_decode(self, batch: Batch, rows: Int64, kv_lens: Int64) -> HostStep:
        """The common case: everyone has one new token, and samples. It may be filled up."""
        n = len(rows)
        filled = n if self._padded is None else self._padded(n)
        step = self._lay_out(batch, rows, kv_lens, filled, n, filled)
        step.starts = kv_lens - 1
        step.qo_indptr[:] = np.arange(filled + 1)
        np.negative(rows, out=step.tokens[:n])
        step.positions[:n] = step.starts
        page, offset = np.divmod(step.starts, self._page_size)
        step.slots[:n] = step.page_table[np.arange(n), page]
        step.slots[:n] *= self._page_size
        step.slots[:n] += offset
        step.sample_at[:] = np.arange(n)
        step.sample_rows[:] = rows
        step.sample_positions[:] = kv_lens
        if filled > n:
            step.kv_lens[n:] = 1
            for array in (step.page_table, step.tokens, step.positions, step.slots):
                array[n:] = 0
        return step

    def _lay_out(
        self, batch: Batch, rows: Int64, kv_lens: Int64, tokens: int, samples: int, n: int
    ) -> HostStep:
        """Room for a step, with rows, KV lengths and pages written."""
        width = -(-int(kv_lens.max()) // self._page_size)
        step = HostStep(n, tokens, samples, width, self._allocate, forced=self._answers is not None)
        own = len(rows)
        step.rows = rows
        step.kv_lens[:own] = kv_lens
        self._pages.fill(step.page_table[:own], batch, rows, kv_lens)
        return step


def _write_prompts(tokens: Int64, items: tuple[PrefillItem, ...]) -> None:
    at = 0
    for item in items:
        request, end = item.request, item.seq_len
        assert end <= request.seq_len, f"{request}: tokens that are not known are prefilled"
        tokens[at : at + item.length] = request.tokens.read(end)[item.start :]
        at += item.length
