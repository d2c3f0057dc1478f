"""Numbers for what blocks hold: alike where all tokens from the beginning on are, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from policies.cache.prefix import KnownPrefix, TokenPrefix, WrittenPrefix, known_tokens
from policies.kv.contents import SHORT, Chain, Contents
from policies.tokens import KnownTokens, TokenLog
from traces import BlockTokens, SyntheticTokens

# few different tokens, so that sequences part in the middle of a block and begin alike by chance
TOKENS = st.lists(st.sampled_from((1, 1, 1, 2)), max_size=24).map(tuple)


def written(tokens: tuple[int, ...]) -> WrittenPrefix:
    return WrittenPrefix(np.array(tokens, dtype=np.int32))


class ContentsMachine(RuleBasedStateMachine):
    """Sequences that come, grow and go, and what each number was given for."""

    @initialize(size=st.sampled_from((1, 2, 4)))
    def begin(self, size: int) -> None:
        self.contents = Contents(size)
        self.chains: list[tuple[str | None, tuple[int, ...], Chain]] = []
        self.meaning: dict[int, tuple[str | None, tuple[int, ...]]] = {}
        self.kept: set[int] = set()  # numbers of blocks that can still be found

    def prefixes(self, key: str | None, tokens: tuple[int, ...]) -> list[Any]:
        """What stands for each full block: all tokens up to its end."""
        size = self.contents.block_size
        return [(key, tokens[:end]) for end in range(size, len(tokens) + 1, size)]

    def note(self, key: str | None, tokens: tuple[int, ...], chain: Chain) -> None:
        numbers = chain.numbers.tolist()
        prefixes = self.prefixes(key, tokens)
        assert len(numbers) == len(prefixes)
        known = {prefix: number for number, prefix in self.meaning.items()}
        for number, prefix in zip(numbers, prefixes, strict=True):
            assert number == known.get(prefix, number), "another number for the same tokens"
            assert self.meaning.setdefault(number, prefix) == prefix, "a number for two things"
        self.chains.append((key, tokens, chain))
        self.contents.check()

    @rule(key=st.sampled_from((None, None, "a")), tokens=TOKENS)
    def come(self, key: str | None, tokens: tuple[int, ...]) -> None:
        chain = self.contents.begin(key)
        self.contents.extend(chain, written(tokens))
        self.note(key, tokens, chain)

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), more=TOKENS)
    def grow(self, data: st.DataObject, more: tuple[int, ...]) -> None:
        at = data.draw(st.integers(0, len(self.chains) - 1))
        key, tokens, chain = self.chains.pop(at)
        self.contents.extend(chain, written(tokens + more))
        self.note(key, tokens + more, chain)

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), keep=st.integers(0, 24))
    def go(self, data: st.DataObject, keep: int) -> None:
        at = data.draw(st.integers(0, len(self.chains) - 1))
        _, _, chain = self.chains.pop(at)
        self.kept.update(chain.numbers.tolist()[:keep])
        self.contents.drop(chain)

    @rule(lost=st.sets(st.integers(1, 60)))
    def sweep(self, lost: set[int]) -> None:
        self.kept -= lost
        findable = np.zeros(self.contents.top, dtype=np.int64)
        findable[list(self.kept)] = 7
        self.contents.sweep(findable)
        self.contents.check()
        held = {number for _, _, chain in self.chains for number in chain.numbers.tolist()}
        needed = {
            number
            for number, (key, tokens) in self.meaning.items()
            if any(
                key == other and tokens == more[: len(tokens)]
                for other, more in (self.meaning[n] for n in held | self.kept)
            )
        }
        assert len(self.contents) == len(needed)
        self.meaning = {n: what for n, what in self.meaning.items() if n in needed}


TestNumbersStandForContents: Any = ContentsMachine.TestCase


def test_a_run_that_grows_block_by_block_is_cut_into_few() -> None:
    contents = Contents(2)
    chain = contents.begin(None)
    tokens = tuple(range(1, 8 * SHORT))
    for end in range(2, len(tokens), 2):
        contents.extend(chain, written(tokens[:end]))
    runs, run = 0, chain.end
    while run.parent is not None:
        runs, run = runs + 1, run.parent
    assert runs <= 8
    other = contents.begin(None)
    contents.extend(other, written(tokens))
    assert other.numbers.tolist() == list(range(1, len(tokens) // 2 + 1))
    contents.check()


PARTS = st.lists(st.integers(0, 2), min_size=1, max_size=5)


@given(
    st.lists(
        st.tuples(PARTS, st.integers(1, 8), st.integers(0, 3), st.integers(0, 20)), max_size=6
    ),
    st.integers(1, 6),
)
def test_tokens_known_by_name_are_numbered_as_if_they_were_written(
    given_: list[tuple[list[int], int, int, int]], size: int
) -> None:
    by_name, by_ids = Contents(size), Contents(size)
    for hashes, cut, key, outputs in given_:
        prompt = BlockTokens(np.array(hashes), 8, 8 * len(hashes) - cut + 1)
        tokens = KnownTokens(prompt, SyntheticTokens(key, outputs))
        prefix: TokenPrefix = KnownPrefix(tokens, len(prompt) + outputs + 3)  # and unknown ones
        ids = prefix.ids(0, len(prefix))
        one, other = by_name.begin(None), by_ids.begin(None)
        by_name.extend(one, prefix)
        by_ids.extend(other, WrittenPrefix(ids))
        assert one.numbers.tolist() == other.numbers.tolist()
    by_name.check()


def test_what_is_known_beforehand_is_numbered_at_once_and_what_is_written_as_far_as_asked() -> None:
    known = KnownTokens(SyntheticTokens(1, 10), SyntheticTokens(2, 6))
    assert len(known_tokens(known, 4)) == 16
    assert len(known_tokens(known, 40)) == 40
    assert len(known_tokens(TokenLog(list(range(10))), 4)) == 4


def test_swept_numbers_are_given_again() -> None:
    contents = Contents(2)
    for start in (10, 20, 30):
        chain = contents.begin(None)
        contents.extend(chain, written(tuple(range(start, start + 8))))
        assert chain.numbers.tolist() == [1, 2, 3, 4]
        contents.drop(chain)
        contents.sweep(np.zeros(contents.top, dtype=np.int64))
    assert contents.top == 5


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_of_a_sequence_that_is_gone_stays_what_can_be_found(kept: int) -> None:
    contents = Contents(2)
    chain = contents.begin(None)
    contents.extend(chain, written(tuple(range(8))))
    contents.drop(chain)
    findable = np.zeros(contents.top, dtype=np.int64)
    findable[chain.numbers[:kept]] = 1
    contents.sweep(findable)
    assert len(contents) == kept
