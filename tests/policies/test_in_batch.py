"""Who is held back for sharing a prefix with a request before it: what a radix tree of those would say."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from policies.cache.base import Match
from policies.cache.eviction import LRU
from policies.cache.radix import RadixCache
from policies.orders.in_batch import held_back
from policies.request import Request
from policies.tokens import KnownTokens, TokenLog
from traces.tokens import ExplicitTokens, JoinedTokens, SyntheticTokens

VOCAB = 50
begins = [SyntheticTokens(length, key, VOCAB) for key in (1, 2) for length in (3, 8)]
prompts = st.builds(
    lambda begin, more: JoinedTokens([*begin, ExplicitTokens(more)]),
    st.lists(st.sampled_from(begins), max_size=2),
    st.lists(st.integers(0, 1), min_size=1, max_size=6),
)


@given(
    st.lists(st.tuples(prompts, st.sampled_from([None, "a"]), st.integers(0, 4)), max_size=12),
    st.integers(0, 4),
    st.integers(1, 10),
    st.booleans(),
)
def test_held_back_as_a_tree_of_those_ahead_says(
    queue: list[tuple[JoinedTokens, str | None, int]], check: int, share: int, written: bool
) -> None:
    waiting, matches = [], []
    for i, (prompt, extra_key, cached) in enumerate(queue):
        ids = prompt.array()
        tokens = TokenLog(ids) if written else KnownTokens(prompt, ExplicitTokens([1]))
        waiting.append(Request(str(i), tokens, 4, extra_key=extra_key))
        matches.append(Match(min(cached, len(ids)), None))
    held = held_back(waiting, matches, check=check, share=share)
    tree, expected = RadixCache(1, LRU(), lambda *_: None), []
    for request, match in zip(waiting, matches, strict=True):
        if match.length > check:
            continue
        ids = np.array(request.tokens.read(request.seq_len))
        if tree.match(ids, request.extra_key).length >= share:
            expected.append(request)
        else:
            tree.insert(ids, None, request.extra_key)
    assert [r for r in waiting if r in held] == expected
