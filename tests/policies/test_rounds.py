"""Who crosses the border of a page, and when: counted at once, and round by round."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from policies import Request, TokenLog
from policies.running import RunningBatch


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=9),
    st.integers(1, 9),
    st.integers(0, 40),
    st.integers(1, 40),
    st.integers(0, 1),
)
def test_crossings_are_those_that_walking_meets(
    prompts: list[int], size: int, before: int, rounds: int, ahead: int
) -> None:
    running = RunningBatch(size)
    members = [Request(f"r{i}", TokenLog([1] * n), 1000) for i, n in enumerate(prompts)]
    for request, prompt in zip(members, prompts, strict=True):
        request._kv_len = prompt
    running.join(members)
    running.repeat(before)
    walked = [
        (i, request)
        for i in range(rounds)
        for request, prompt in zip(members, prompts, strict=True)
        if (prompt + before + i + ahead) % size == 0
    ]
    found = running.crossings(rounds, ahead=ahead)
    assert found.total == len(walked)
    stride = len(found.members)
    assert [found.members[i % stride] for i in range(found.total)] == [m for _, m in walked]
    for which in (range(found.total), range(0, found.total, 3)):
        counts = [0] * rounds
        for i in which:
            counts[walked[i][0]] += 1
        assert found.by_round(np.array(which, dtype=np.int64)).tolist() == counts
