"""What a step is to attention, and what an attention backend does with it.

A step is a ragged batch: each sequence brings some new tokens (one when it decodes, a chunk when it
prefills) and attends, causally, to its whole KV in the paged cache, the new tokens included. Extend,
decode and mixed batches are the same thing with other lengths. Backends know nothing of requests,
of the scheduler, or of the model around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class Sequences:
    """The sequences of one step, in batch order: n of them, with T new tokens in all.

    Every sequence has at least one new token. What the host needs to plan lies on the CPU, and the
    same on the device for kernels; on the CPU these are the same objects.

    Attributes:
        qo_indptr: int32 (n + 1,): where each one's new tokens start among the T.
        kv_lens: int32 (n,): KV length after this step, new tokens included.
        page_table: int32 (n, width): the pages of each, in order, padded with page 0.
        qo_indptr_dev: `qo_indptr` on the device.
        kv_lens_dev: `kv_lens` on the device.
        page_table_dev: `page_table` on the device.
        slots: int64 (T,), on the device: `page * page_size + offset` of each new token.
        decode_only: every sequence has exactly one new token.
    """

    qo_indptr: torch.Tensor
    kv_lens: torch.Tensor
    page_table: torch.Tensor
    qo_indptr_dev: torch.Tensor
    kv_lens_dev: torch.Tensor
    page_table_dev: torch.Tensor
    slots: torch.Tensor
    decode_only: bool

    @property
    def count(self) -> int:
        """How many sequences: n."""
        return self.kv_lens.shape[0]


class AttentionBackend(Protocol):
    """Attention over a paged KV cache: `plan` once per step, then `attend` once per layer."""

    name: str

    def plan(self, seqs: Sequences) -> None:
        """Prepare for the layers of one step. Host work; does not wait for the device."""
        ...

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Write the new keys and values into their slots, then attend causally.

        Args:
            layer: which layer's cache.
            q: (T, q_heads, head_dim), rope applied.
            k: (T, kv_heads, head_dim), rope applied.
            v: (T, kv_heads, head_dim).

        Returns:
            (T, q_heads, head_dim), in q's dtype.
        """
        ...

    def for_graph(self, batch_size: int, max_pages: int) -> AttentionBackend:
        """A backend of the same kind whose `attend` may be captured in a CUDA graph.

        It decodes exactly `batch_size` sequences. All that `attend` reads lies in buffers of its own
        whose addresses do not change: call `plan` before the capture and before every replay,
        outside the graph, on the stream that captures and replays. Fill up a smaller batch with
        sequences of KV length 1 on page 0.

        Args:
            batch_size: sequences of every step.
            max_pages: pages that the longest sequence may have.
        """
        ...


class BackendFactory(Protocol):
    """Makes a backend for a cache."""

    def __call__(
        self, cache: KVCache, q_heads: int, *, scale: float | None = None
    ) -> AttentionBackend:
        """A backend.

        Args:
            cache: where keys and values lie.
            q_heads: query heads, a multiple of the cache's KV heads.
            scale: factor on the scores before the softmax; `head_dim ** -0.5` by default.
        """
        ...


def sequences(
    query_lens: Sequence[int],
    kv_lens: Sequence[int],
    pages: Sequence[Sequence[int]],
    page_size: int,
    device: torch.device | str = "cpu",
) -> Sequences:
    """A step from plain lists, checked. For captures, tests and benchmarks: it takes its time.

    Args:
        query_lens: new tokens of each sequence.
        kv_lens: KV length of each after the step.
        pages: the pages of each, at least `ceil(kv_len / page_size)`.
        page_size: tokens a page.
        device: where the device's part lies.

    Raises:
        ValueError: lengths that contradict each other, or too few pages.
    """
    if not len(query_lens) == len(kv_lens) == len(pages) > 0:
        msg = (
            "a step needs one query length, one KV length and one list of pages per sequence, and at "
            f"least one sequence; got {len(query_lens)}, {len(kv_lens)} and {len(pages)}"
        )
        raise ValueError(msg)
    for i, (new, total, own) in enumerate(zip(query_lens, kv_lens, pages, strict=True)):
        if not 1 <= new <= total:
            msg = f"sequence {i} has {new} new tokens of {total}; expected 1 to its KV length"
            raise ValueError(msg)
        if len(own) * page_size < total:
            msg = f"sequence {i} has {len(own)} pages of {page_size} tokens, too few for {total}"
            raise ValueError(msg)
    table = torch.zeros((len(pages), max(len(own) for own in pages)), dtype=torch.int32)
    for row, own in zip(table, pages, strict=True):
        row[: len(own)] = torch.tensor(own, dtype=torch.int32)
    new_lens = torch.tensor(query_lens, dtype=torch.int32)
    kv = torch.tensor(kv_lens, dtype=torch.int32)
    indptr = torch.zeros(len(query_lens) + 1, dtype=torch.int32)
    torch.cumsum(new_lens, 0, out=indptr[1:])
    slots = torch.cat(
        [
            row[at // page_size].long() * page_size + at % page_size
            for row, new, total in zip(table, query_lens, kv_lens, strict=True)
            for at in (torch.arange(total - new, total),)
        ]
    )
    return Sequences(
        qo_indptr=indptr,
        kv_lens=kv,
        page_table=table,
        qo_indptr_dev=indptr.to(device),
        kv_lens_dev=kv.to(device),
        page_table_dev=table.to(device),
        slots=slots.to(device),
        decode_only=max(query_lens) == 1,
    )


def check_heads(cache: KVCache, q_heads: int) -> int:
    """Query heads that share one KV head.

    Raises:
        ValueError: the query heads cannot be shared out evenly.
    """
    if q_heads < 1 or q_heads % cache.kv_heads:
        msg = f"{q_heads} query heads cannot share {cache.kv_heads} KV heads evenly"
        raise ValueError(msg)
    return q_heads // cache.kv_heads
