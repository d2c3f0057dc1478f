"""What the FlashInfer backend tells FlashInfer, held against wrappers that do as they are told.

The stand-ins take the arguments of flashinfer-python 0.6.8's wrappers, insist on what those insist on,
and answer from nothing but what they were given. The real ones are tried by the tests marked gpu.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.attention import flashinfer_backend
from runtime.attention.flashinfer_backend import FlashInferAttention, page_indices
from tests.runtime.attention.ragged import (
    Shape,
    answer,
    assert_right,
    dense,
    make_step,
    shapes,
)


class Paged:
    """Attention over compressed page indices, planned and run as FlashInfer does."""

    use_cuda_graph = False

    def keep(
        self,
        qo_indptr: torch.Tensor,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        last_page_len: torch.Tensor,
        heads: tuple[int, int, int],
        page_size: int,
        dtypes: tuple[torch.dtype, torch.dtype],
    ) -> None:
        index = (qo_indptr, indptr, indices, last_page_len)
        assert {tensor.dtype for tensor in index} == {torch.int32}
        assert len(qo_indptr) == len(indptr) == len(last_page_len) + 1
        assert len(indices) == indptr[-1]
        assert 1 <= int(last_page_len.min()) <= int(last_page_len.max()) <= page_size
        self.planned = [tensor.tolist() for tensor in index]
        self.heads, self.page_size, self.dtypes = heads, page_size, dtypes

    def run(
        self, q: torch.Tensor, kv: tuple[torch.Tensor, torch.Tensor], *, out: torch.Tensor
    ) -> None:
        qo_indptr, indptr, indices, last_page_len = self.planned
        assert (q.shape[1], kv[0].shape[2], q.shape[2]) == self.heads
        assert kv[0].shape[1] == self.page_size
        assert (q.dtype, kv[0].dtype) == self.dtypes
        answers = []
        for i, last in enumerate(last_page_len):
            pages = indices[indptr[i] : indptr[i + 1]]
            length = (len(pages) - 1) * self.page_size + last
            keys, values = (one[pages].flatten(0, 1)[:length] for one in kv)
            answers.append(dense(q[qo_indptr[i] : qo_indptr[i + 1]], keys, values))
        assert (out.shape, out.dtype) == (q.shape, q.dtype)
        out.copy_(torch.cat(answers))


class Prefill(Paged):
    def __init__(self, workspace: torch.Tensor, kv_layout: str) -> None:
        assert workspace.dtype == torch.uint8
        assert kv_layout == "NHD"

    def plan(
        self,
        qo_indptr: torch.Tensor,
        paged_kv_indptr: torch.Tensor,
        paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        causal: bool = False,
        sm_scale: float | None = None,
        q_data_type: torch.dtype = torch.float16,
        kv_data_type: torch.dtype | None = None,
    ) -> None:
        assert causal
        assert sm_scale == head_dim_qk**-0.5
        assert kv_data_type is not None
        table = (paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
        heads = (num_qo_heads, num_kv_heads, head_dim_qk)
        self.keep(qo_indptr, *table, heads, page_size, (q_data_type, kv_data_type))


class Decode(Paged):
    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str,
        *,
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
        paged_kv_indptr_buffer: torch.Tensor | None = None,
        paged_kv_indices_buffer: torch.Tensor | None = None,
        paged_kv_last_page_len_buffer: torch.Tensor | None = None,
    ) -> None:
        assert kv_layout == "NHD"
        assert not float_workspace_buffer.any()
        self.use_cuda_graph = use_cuda_graph
        self.use_tensor_cores = use_tensor_cores
        if use_cuda_graph:
            assert paged_kv_indptr_buffer is not None
            assert paged_kv_indices_buffer is not None
            assert paged_kv_last_page_len_buffer is not None
            assert len(paged_kv_indptr_buffer) == len(paged_kv_last_page_len_buffer) + 1
            self.batch_size = len(paged_kv_last_page_len_buffer)
            self.most_indices = len(paged_kv_indices_buffer)

    def plan(
        self,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        q_data_type: torch.dtype = torch.float16,
        kv_data_type: torch.dtype | None = None,
        sm_scale: float | None = None,
    ) -> None:
        assert sm_scale == head_dim**-0.5
        assert kv_data_type is not None
        # On CUDA cores there are kernels for these groups only.
        assert self.use_tensor_cores or num_qo_heads // num_kv_heads in {1, 2, 3}
        if self.use_cuda_graph:
            assert len(last_page_len) == self.batch_size
            assert len(indices) <= self.most_indices
        one_each = torch.arange(len(indptr), dtype=torch.int32)
        heads = (num_qo_heads, num_kv_heads, head_dim)
        table = (indptr, indices, last_page_len)
        self.keep(one_each, *table, heads, page_size, (q_data_type, kv_data_type))


class Event:
    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.fixture(autouse=True, scope="module")
def _flashinfer() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        module: Any = ModuleType("flashinfer")
        module.BatchPrefillWithPagedKVCacheWrapper = Prefill
        module.BatchDecodeWithPagedKVCacheWrapper = Decode
        patch.setitem(sys.modules, "flashinfer", module)
        patch.setattr(flashinfer_backend, "WORKSPACE_BYTES", 16)
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(flashinfer_backend, "_to_device", lambda indices, _: indices)
        yield


@given(shape=shapes())
@settings(max_examples=30, deadline=None)
def test_extend_decode_and_mixed_batches(shape: Shape) -> None:
    step = make_step(shape)
    assert_right(answer(FlashInferAttention(step.cache, shape.kv_heads * shape.group), step), step)


@given(shape=shapes(decode_only=True), spare=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_decode_for_graphs(shape: Shape, spare: int) -> None:
    step = make_step(shape)
    backend = FlashInferAttention(step.cache, shape.kv_heads * shape.group)
    fixed = backend.for_graph(step.seqs.count, step.seqs.page_table.shape[1] + spare)
    assert_right(answer(fixed, step), step)
    assert_right(answer(fixed.for_graph(step.seqs.count, 64), step), step)


def test_pages_are_told_as_compressed_rows() -> None:
    table = torch.tensor([[7, 2, 9], [4, 0, 0], [1, 3, 0]], dtype=torch.int32)
    pages = page_indices(table, torch.tensor([10, 4, 5], dtype=torch.int32), 4)
    assert pages.indptr.tolist() == [0, 3, 4, 6]
    assert pages.indices.tolist() == [7, 2, 9, 4, 1, 3]
    assert pages.last_page_len.tolist() == [2, 4, 1]
