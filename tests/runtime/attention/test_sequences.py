"""A step from plain lists, and the cache it is written to."""

from __future__ import annotations

import pytest
import torch

from runtime.attention.base import sequences
from runtime.kv_cache import KVCache


def test_a_step_is_packed_in_batch_order() -> None:
    seqs = sequences([2, 1, 3], [5, 1, 3], [[7, 2, 9], [4], [1, 3]], 2)
    assert seqs.count == 3
    assert seqs.qo_indptr.tolist() == [0, 2, 3, 6]
    assert seqs.page_table.tolist() == [[7, 2, 9], [4, 0, 0], [1, 3, 0]]
    assert seqs.slots.tolist() == [2 * 2 + 1, 9 * 2, 4 * 2, 1 * 2, 1 * 2 + 1, 3 * 2]
    assert not seqs.decode_only
    assert sequences([1, 1], [5, 1], [[7, 2, 9], [4]], 2).decode_only


@pytest.mark.parametrize(
    ("query_lens", "kv_lens", "pages", "message"),
    [
        ([], [], [], "at least one sequence"),
        ([1], [1, 2], [[1], [2]], "got 1, 2 and 2"),
        ([0], [4], [[1]], "sequence 0 has 0 new tokens of 4"),
        ([1, 5], [1, 4], [[1], [2]], "sequence 1 has 5 new tokens of 4"),
        ([1], [5], [[1]], "sequence 0 has 1 pages of 4 tokens, too few for 5"),
    ],
)
def test_a_step_that_contradicts_itself_is_refused(
    query_lens: list[int], kv_lens: list[int], pages: list[list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sequences(query_lens, kv_lens, pages, 4)


def test_what_is_written_is_read_at_its_slots_and_nowhere_else() -> None:
    cache = KVCache(2, 5, 4, 2, 8, torch.float32)
    k, v = torch.randn(2, 3, 2, 8)
    cache.write(1, torch.tensor([4 * 4 + 3, 1 * 4, 2 * 4 + 1]), k, v)
    assert torch.equal(cache.k[1][[4, 1, 2], [3, 0, 1]], k)
    assert torch.equal(cache.v[1][[4, 1, 2], [3, 0, 1]], v)
    assert not cache.k[0].any()
    assert int(cache.k[1].count_nonzero()) == k.numel()


def test_sizes_are_told_in_bytes_and_tokens() -> None:
    cache = KVCache(3, 11, 16, 2, 64, torch.bfloat16)
    assert KVCache.bytes_per_token(3, 2, 64, torch.bfloat16) == 2 * 3 * 2 * 64 * 2
    assert cache.capacity_tokens == 160
    assert cache.nbytes == 11 * 16 * 1536
    assert cache.nbytes == sum(t.nbytes for t in (*cache.k, *cache.v))


def test_sizes_that_no_cache_can_have_are_refused() -> None:
    with pytest.raises(ValueError, match="needs pages >= 2, got 1"):
        KVCache(1, 1, 16, 2, 64, torch.float32)
    with pytest.raises(ValueError, match="needs page_size >= 1, got 0"):
        KVCache(1, 4, 0, 2, 64, torch.float32)
