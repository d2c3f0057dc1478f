"""Token sources give out what is known, and no more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import KnownTokens, TokenLog


class Sized:
    """A sequence that counts how often it is made."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self.made = 0

    def __len__(self) -> int:
        return len(self.ids)

    def array(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        self.made += 1
        return np.array(self.ids, dtype=np.int32)


IDS = st.lists(st.integers(1, 99), max_size=50)


@given(IDS, IDS, st.integers(0, 120))
def test_known_tokens_are_prompt_then_output_then_zeros(
    prompt: list[int], output: list[int], stop: int
) -> None:
    read = KnownTokens(Sized(prompt), Sized(output)).read(stop)
    assert read.dtype == np.int32
    assert read.tolist() == [*prompt, *output, *[0] * stop][: min(stop, len(read))]
    assert len(read) == stop or stop <= len(prompt)


def test_a_prompt_is_made_when_it_is_read_and_once() -> None:
    prompt = Sized([1, 2, 3])
    tokens = KnownTokens(prompt, Sized([4]))
    assert prompt.made == 0
    assert tokens.read(4).tolist() == [1, 2, 3, 4]
    assert tokens.read(2).tolist() == [1, 2]
    assert prompt.made == 1
    tokens.forget()
    assert tokens.read(3).tolist() == [1, 2, 3]
    assert prompt.made == 2


@given(IDS, IDS)
def test_a_log_holds_what_was_written(prompt: list[int], output: list[int]) -> None:
    log = TokenLog(prompt)
    for i, token in enumerate(output):
        log.write(i, token)
    assert log.prompt_len == len(prompt)
    assert log.read(len(prompt) + len(output)).tolist() == prompt + output


def test_a_token_sampled_again_lands_where_the_first_one_was() -> None:
    log = TokenLog([1, 2])
    for index in (0, 1, 0, 1, 2):
        log.write(index, 10 + index)
    assert log.read(5).tolist() == [1, 2, 10, 11, 12]


def test_reading_past_what_was_written_is_an_error() -> None:
    with pytest.raises(IndexError, match=r"read\(3\) past the 2 tokens written"):
        TokenLog([1, 2]).read(3)
