"""Who crosses the border of a block, and when: counted at once, and round by round."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from policies.kv.rounds import Borders


@given(
    st.lists(st.integers(-30, 60), min_size=1, max_size=9),
    st.integers(1, 9),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_crossings_are_those_that_walking_meets(
    offsets: list[int], size: int, first: int, rounds: int
) -> None:
    walked = [
        (i, member)
        for i in range(rounds)
        for member, offset in enumerate(offsets)
        if (offset + first + i) % size == 0
    ]
    found = Borders(np.array(offsets, dtype=np.int64), size).crossings(first, rounds)
    assert found.total == len(walked)
    stride = len(found.members)
    assert [found.members[i % stride] for i in range(found.total)] == [m for _, m in walked]
    for which in (range(found.total), range(0, found.total, 3)):
        counts = [0] * rounds
        for i in which:
            counts[walked[i][0]] += 1
        assert found.by_round(np.array(which, dtype=np.int64)).tolist() == counts
