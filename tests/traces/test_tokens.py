"""Compact token sequences: the same ids everywhere, sharing exactly what they say they share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.splitmix import RESERVED_IDS
from traces.tokens import (
    VOCAB_SIZE,
    BlockTokens,
    ExplicitTokens,
    SyntheticTokens,
    Tokens,
)

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix_finalizer(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def plain_ids(key: int, salt: int, count: int, vocab: int, *, block: bool) -> list[int]:
    """The rule in plain Python, one token at a time."""
    seed = ((key ^ salt) * GOLDEN) & MASK if block else ((key * GOLDEN) & MASK) ^ salt
    state = splitmix_finalizer(seed)
    ids = []
    for _ in range(count):
        state = (state + GOLDEN) & MASK
        high = splitmix_finalizer(state) >> 32
        ids.append(RESERVED_IDS + (high * (vocab - RESERVED_IDS) >> 32))
    return ids


def common_prefix(first: np.ndarray, second: np.ndarray) -> int:
    shorter = min(len(first), len(second))
    differ = np.nonzero(first[:shorter] != second[:shorter])[0]
    return int(differ[0]) if len(differ) else shorter


hash_ids = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5)


@settings(deadline=None)
@given(hash_ids, st.integers(1, 40), st.integers(11, 2**31 - 1), st.data())
def test_block_ids_follow_the_plain_rule(ids, block_size, vocab, data):
    length = (len(ids) - 1) * block_size + data.draw(st.integers(1, block_size))
    tokens = BlockTokens(np.array(ids), block_size, length, vocab)
    plain = [t for i in ids for t in plain_ids(i, 0x626C6F636B, block_size, vocab, block=True)]
    assert tokens.array().tolist() == plain[:length]


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 100), st.integers(11, 2**31 - 1))
def test_synthetic_ids_follow_the_plain_rule(key, length, vocab):
    tokens = SyntheticTokens(key, length, vocab)
    assert tokens.array().tolist() == plain_ids(key, 0x74657874, length, vocab, block=False)


def test_ids_are_the_same_on_every_platform():
    assert BlockTokens(np.array([0, 7]), 2, 3).array().tolist() == [85636, 35574, 51602]
    assert SyntheticTokens(7, 3).array().tolist() == [32344, 93063, 90140]


def test_equal_hashes_share_exactly_their_blocks():
    first = BlockTokens(np.array([0, 1, 2]), 512, 1_400).array()
    second = BlockTokens(np.array([0, 1, 9]), 512, 1_536).array()
    assert common_prefix(first, second) == 1_024


def test_a_partial_block_takes_the_first_tokens_of_its_block():
    whole = BlockTokens(np.array([4, 5]), 512, 1_024).array()
    partial = BlockTokens(np.array([4, 5]), 512, 700).array()
    assert np.array_equal(partial, whole[:700])


def test_a_block_a_text_and_neighbouring_keys_have_nothing_in_common():
    kinds = [
        BlockTokens(np.array([1]), 512, 512).array(),
        BlockTokens(np.array([2]), 512, 512).array(),
        SyntheticTokens(1, 512).array(),
        SyntheticTokens(2, 512).array(),
    ]
    for index, first in enumerate(kinds):
        for second in kinds[:index]:
            assert (first == second).mean() < 0.02
            assert common_prefix(first, second) < 3


@pytest.mark.parametrize(
    "tokens",
    [
        ExplicitTokens([1, 2, 3]),
        BlockTokens(np.array([1]), 512, 3),
        SyntheticTokens(1, 3),
    ],
)
def test_every_kind_keeps_the_contract(tokens):
    assert isinstance(tokens, Tokens)
    ids = tokens.array()
    assert ids.dtype == np.int32
    assert ids.shape == (len(tokens),) == (3,)
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 0


def test_ids_fill_the_vocabulary_and_spare_the_reserved_ones():
    ids = SyntheticTokens(0, 1_000_000, 50).array()
    assert np.unique(ids).tolist() == list(range(RESERVED_IDS, 50))
    assert np.bincount(ids)[RESERVED_IDS:].min() > 24_000
    assert SyntheticTokens(0, 1_000_000).array().max() < VOCAB_SIZE


def test_what_is_held_does_not_change_when_its_source_does():
    source = np.array([3, 4])
    blocks, explicit = BlockTokens(source, 8, 16), ExplicitTokens(source)
    source[:] = 0
    assert blocks == BlockTokens(np.array([3, 4]), 8, 16)
    assert explicit == ExplicitTokens([3, 4])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockTokens(np.array([1]), 512, 513), "need 2 hash ids"),
        (lambda: BlockTokens(np.array([-1]), 512, 5), "must not be negative"),
        (lambda: BlockTokens(np.array([1]), 0, 5), "block_size must be at least 1"),
        (lambda: SyntheticTokens(-1, 5), "key must lie in"),
        (lambda: SyntheticTokens(1, -5), "length in tokens must lie in"),
        (lambda: SyntheticTokens(1, 5, 10), "vocab_size must lie in 11"),
        (lambda: ExplicitTokens([-1]), "token ids must lie in"),
        (lambda: ExplicitTokens([2**31]), "token ids must lie in"),
        (lambda: ExplicitTokens(np.array([0.5])), "flat sequence of integers"),
    ],
)
def test_impossible_tokens_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@given(
    common=st.lists(st.integers(0, 3), max_size=80),
    mine=st.lists(st.sampled_from([0, 1, 2**62]), max_size=40),
    theirs=st.lists(st.sampled_from([0, 1, 2**62]), max_size=40),
    cut=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_block_prompts_share_what_their_first_hashes_say(common, mine, theirs, cut) -> None:
    """However many hashes are compared at once, and also where those beyond the end are zero."""
    hashes = [common + own for own in (mine, theirs)]
    one, other = (
        BlockTokens(np.array(ids, dtype=np.int64), 4, max(4 * len(ids) - less, 0))
        if ids
        else BlockTokens(np.zeros(0, dtype=np.int64), 4, 0)
        for ids, less in zip(hashes, cut, strict=True)
    )
    same = 0
    for a, b in zip(*hashes, strict=False):
        if a != b:
            break
        same += 1
    assert one.shared(other) == other.shared(one) == min(4 * same, len(one), len(other))
