"""Paged attention by FlashInfer's kernels, on CUDA.

Steps that only decode go through its decode wrapper, all others through its prefill wrapper, which
takes chunks and single tokens in one ragged batch. Written against flashinfer-python 0.6.8.

What a wrapper's `plan` reads on the host is given to it on the CPU, so that planning never waits for
the device; the page indices, which it does not read, are brought over from pinned memory, because a
copy from pageable memory would wait for the kernels before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from runtime.attention.base import AttentionBackend, Sequences, check_heads
from runtime.attention.graph_buffers import DecodeBuffers

if TYPE_CHECKING:
    from runtime.kv_cache import KVCache

WORKSPACE_BYTES = 256 << 20  # partial results of split KV; 128 MiB falls short of 64 query heads
TENSOR_CORES_FROM = 4  # query heads a KV head from which tensor cores decode faster


@dataclass(frozen=True, slots=True)
class PageIndices:
    """A page table as compressed sparse rows, int32, on the CPU.

    Attributes:
        indptr: (n + 1,): where each sequence's pages start among all.
        indices: (pages,): the pages of all sequences.
        last_page_len: (n,): tokens in each one's last page, 1 to page_size.
    """

    indptr: torch.Tensor
    indices: torch.Tensor
    last_page_len: torch.Tensor


def page_indices(page_table: torch.Tensor, kv_lens: torch.Tensor, page_size: int) -> PageIndices:
    """The pages that hold so many tokens of each sequence. Both arguments as in `Sequences`."""
    used = (kv_lens + (page_size - 1)) // page_size
    indptr = torch.zeros(len(kv_lens) + 1, dtype=torch.int32)
    torch.cumsum(used, 0, out=indptr[1:])
    indices = page_table[torch.arange(page_table.shape[1]) < used[:, None]]
    return PageIndices(indptr, indices, kv_lens - (used - 1) * page_size)


class FlashInferAttention:
    """See `AttentionBackend`; CUDA, bfloat16 and float16, head_dim 64, 128 or 256."""

    name = "flashinfer"

    def __init__(self, cache: KVCache, q_heads: int, *, scale: float | None = None) -> None:
        from flashinfer import (
            BatchDecodeWithPagedKVCacheWrapper,
            BatchPrefillWithPagedKVCacheWrapper,
        )

        self._cache = cache
        self._q_heads = q_heads
        self._tensor_cores = check_heads(cache, q_heads) >= TENSOR_CORES_FROM
        self._scale = cache.head_dim**-0.5 if scale is None else scale
        # The decode kernels want it zeroed. All wrappers may share it: a stream runs one at a time.
        self._workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=cache.device)
        self._prefill = _Planned(BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD"))
        self._decode = _Planned(
            BatchDecodeWithPagedKVCacheWrapper(
                self._workspace, "NHD", use_tensor_cores=self._tensor_cores
            )
        )
        self._wrapper: Any = None
        self._slots: torch.Tensor | None = None

    def plan(self, seqs: Sequences) -> None:
        """See `AttentionBackend`."""
        pages = page_indices(seqs.page_table, seqs.kv_lens, self._cache.page_size)
        table = (pages.indptr, _to_device(pages.indices, self._cache.device), pages.last_page_len)
        sizes = (self._q_heads, self._cache.kv_heads, self._cache.head_dim, self._cache.page_size)
        dtypes = {"q_data_type": self._cache.dtype, "kv_data_type": self._cache.dtype}
        if seqs.decode_only:
            self._decode.plan(*table, *sizes, sm_scale=self._scale, **dtypes)
            self._wrapper = self._decode.wrapper
        else:
            self._prefill.plan(
                seqs.qo_indptr, *table, *sizes, causal=True, sm_scale=self._scale, **dtypes
            )
            self._wrapper = self._prefill.wrapper
        self._slots = seqs.slots

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See `AttentionBackend`."""
        assert self._slots is not None, "attend before plan"
        self._cache.write(layer, self._slots, k, v)
        return _run(self._wrapper, q, self._cache, layer)

    def for_graph(self, batch_size: int, max_pages: int) -> AttentionBackend:
        """See `AttentionBackend`."""
        return _GraphFlashInferAttention(
            self._cache,
            self._q_heads,
            DecodeBuffers(batch_size, max_pages, self._cache.device),
            self._workspace,
            tensor_cores=self._tensor_cores,
            scale=self._scale,
        )


class _GraphFlashInferAttention:
    """A decode wrapper of one batch size, whose index arrays lie in fixed buffers."""

    name = "flashinfer"

    def __init__(
        self,
        cache: KVCache,
        q_heads: int,
        buffers: DecodeBuffers,
        workspace: torch.Tensor,
        *,
        tensor_cores: bool,
        scale: float,
    ) -> None:
        from flashinfer import BatchDecodeWithPagedKVCacheWrapper

        self._cache = cache
        self._q_heads = q_heads
        self._buffers = buffers
        self._workspace = workspace
        self._tensor_cores = tensor_cores
        self._scale = scale
        batch_size, max_pages = buffers.page_table.shape
        room = buffers.kv_lens.new_zeros
        self._decode = _Planned(
            BatchDecodeWithPagedKVCacheWrapper(
                workspace,
                "NHD",
                use_cuda_graph=True,
                use_tensor_cores=tensor_cores,
                paged_kv_indptr_buffer=room(batch_size + 1),
                paged_kv_indices_buffer=room(batch_size * max_pages),
                paged_kv_last_page_len_buffer=room(batch_size),
            )
        )

    def plan(self, seqs: Sequences) -> None:
        self._buffers.fill(seqs)
        cache = self._cache
        pages = page_indices(seqs.page_table, seqs.kv_lens, cache.page_size)
        self._decode.plan(
            pages.indptr,
            _to_device(pages.indices, cache.device),
            pages.last_page_len,
            self._q_heads,
            cache.kv_heads,
            cache.head_dim,
            cache.page_size,
            q_data_type=cache.dtype,
            kv_data_type=cache.dtype,
            sm_scale=self._scale,
        )

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self._cache.write(layer, self._buffers.slots, k, v)
        return _run(self._decode.wrapper, q, self._cache, layer)

    def for_graph(self, batch_size: int, max_pages: int) -> AttentionBackend:
        return _GraphFlashInferAttention(
            self._cache,
            self._q_heads,
            DecodeBuffers(batch_size, max_pages, self._cache.device),
            self._workspace,
            tensor_cores=self._tensor_cores,
            scale=self._scale,
        )


class _Planned:
    """A wrapper whose plans do not overtake one another.

    `plan` fills a pinned buffer and only starts its copy to the device. Were the next plan to fill it
    before that copy has run, the step before would read the wrong work list. So each plan leaves an
    event behind, and the next waits for it; with one step in flight it has long passed.
    """

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper
        self._copied: torch.cuda.Event | None = None

    def plan(self, *arguments: Any, **named: Any) -> None:
        if self._copied is not None:
            self._copied.synchronize()
        self.wrapper.plan(*arguments, **named)
        if self._copied is None:
            self._copied = torch.cuda.Event()
        self._copied.record()


def _run(wrapper: Any, q: torch.Tensor, cache: KVCache, layer: int) -> torch.Tensor:
    q = q.contiguous()
    out = torch.empty_like(q)  # left to itself, the prefill wrapper would fill one with zeros
    wrapper.run(q, (cache.k[layer], cache.v[layer]), out=out)
    return out


def _to_device(indices: torch.Tensor, device: torch.device) -> torch.Tensor:
    return indices.pin_memory().to(device, non_blocking=True)
