"""Incremental detokenisation: never half a character, nothing lost, and constant work per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.text.detokenize import UNFINISHED, Detokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TEXTS = [
    "naïve café",
    "你好 世界",
    "👨‍👩‍👧 and 🇩🇪",
    "a b  c\n\n\td",
    "العربية",
    "\U0010ffff\x00",
    "e\u0301",
]
SPECIAL = 0


class ByteLevel:
    """Tokens are runs of bytes, as of byte-level BPE; token 0 is special and has no text."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = [b"", *pieces]
        self.decoded = 0

    def decode(self, ids: Sequence[int]) -> str:
        self.decoded += len(ids)
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", errors="replace")


class SentencePiece:
    """Tokens are words with their leading space, or single bytes.

    As HuggingFace decodes these: the text's first space is dropped, and a run of bytes that is not
    UTF-8 as a whole shows as one U+FFFD for each byte.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def decode(self, ids: Sequence[int]) -> str:
        text, run = "", b""
        for i in [*ids, -1]:
            if 0 <= i < 256:
                run += bytes([i])
                continue
            try:
                text += run.decode()
            except UnicodeDecodeError:
                text += UNFINISHED * len(run)
            run = b""
            text += "" if i < 0 else self.words[i - 256].replace("▁", " ")
        return text.removeprefix(" ")


def spoken(tokenizer: ByteLevel | SentencePiece, ids: Sequence[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [detokenizer.push(i) for i in ids] + [detokenizer.finish()]


ALL_BYTES = ByteLevel([bytes([b]) for b in range(256)])
BYTE_IDS = st.integers(1, 256)
UTF8 = st.one_of(st.sampled_from(TEXTS), st.text()).map(str.encode)


@st.composite
def cut_up(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> tuple[ByteLevel, list[int]]:
    """Bytes cut anywhere into tokens, special ones between them."""
    whole = draw(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=2 * len(whole))))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    ids: list[int] = []
    for at in range(len(pieces)):
        ids += [SPECIAL] * draw(st.sampled_from([0, 0, 0, 1, 12])) + [at + 1]
    return ByteLevel(pieces), ids


@given(cut_up(UTF8))
def test_text_comes_whole_and_in_whole_characters(case: tuple[ByteLevel, list[int]]) -> None:
    tokenizer, ids = case
    deltas = spoken(tokenizer, ids)
    whole = tokenizer.decode(ids)
    assert "".join(deltas) == whole
    assert whole.count(UNFINISHED) == sum(d.count(UNFINISHED) for d in deltas)


BROKEN = st.one_of(
    st.binary(max_size=80),
    st.lists(
        st.sampled_from([b"\xf0\x9f", b"\xe4", b"\xbd", b"\xff", b"a", "好".encode(), b"\xed\xa0"]),
        max_size=60,
    ).map(b"".join),
)


@given(cut_up(BROKEN))
def test_bytes_that_are_no_text_come_as_they_are_decoded_together(
    case: tuple[ByteLevel, list[int]],
) -> None:
    tokenizer, ids = case
    assert "".join(spoken(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_is_given_out_with_its_last_byte_and_not_before() -> None:
    smile = [b + 1 for b in "😀".encode()]
    assert spoken(ALL_BYTES, [*smile, ord("x") + 1]) == ["", "", "", "😀", "x", ""]
    assert spoken(ALL_BYTES, smile[:3]) == ["", "", "", UNFINISHED]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["▁Hello", "▁", ",", "▁world", "ing", "▁▁"]),
            st.sampled_from(["👨", "‍", "你", "好", "é", "\U0010ffff"]).map(str.encode),
        )
    )
)
def test_words_with_spaces_and_characters_in_single_bytes(pieces: list[str | bytes]) -> None:
    words = sorted({p for p in pieces if isinstance(p, str)})
    ids: list[int] = []
    for piece in pieces:
        ids += list(piece) if isinstance(piece, bytes) else [256 + words.index(piece)]
    tokenizer = SentencePiece(words)
    deltas = spoken(tokenizer, ids)
    assert "".join(deltas) == tokenizer.decode(ids)
    assert UNFINISHED not in "".join(deltas)


def test_byte_tokens_that_are_no_text_do_not_hold_up_what_follows() -> None:
    tokenizer = SentencePiece(["▁word"])
    deltas = spoken(tokenizer, [256] * 3 + [0xE4] * 30 + [256] * 3)
    assert "".join(deltas[:3]) == "word word word"
    assert "".join(deltas[-3:]).endswith(" word word")
    assert max(map(len, deltas)) < 20


@pytest.mark.parametrize(
    "ids",
    [
        [ord("x") + 1] * 2000,
        [b + 1 for b in "好".encode()] * 700,
        [0xE5 + 1] * 2000,  # never a whole character
        [0xBD + 1] * 2000,
        [b + 1 for b in b"\xf0\x9f"] * 1000,
        [ord("x") + 1, *[SPECIAL] * 2000],
        [0xE5 + 1, *[SPECIAL] * 2000],
        [SPECIAL] * 2000,
    ],
    ids=[
        "letters",
        "characters",
        "first bytes",
        "later bytes",
        "halves",
        "special",
        "held",
        "nothing",
    ],
)
def test_work_per_token_does_not_grow_with_the_text(ids: list[int]) -> None:
    tokenizer = ByteLevel([bytes([b]) for b in range(256)])
    assert "".join(spoken(tokenizer, ids)) == ByteLevel(tokenizer.pieces[1:]).decode(ids)
    assert tokenizer.decoded < 20 * len(ids)


def test_a_detokenizer_can_be_used_again_after_the_end() -> None:
    detokenizer = Detokenizer(ALL_BYTES)
    for _ in range(2):
        assert detokenizer.push(0xE4 + 1) == ""
        assert detokenizer.finish() == UNFINISHED
        assert detokenizer.finish() == ""


@pytest.mark.weights
def test_a_real_tokenizer(smollm2: Path) -> None:
    from runtime.weights.gguf import GGUFFile
    from runtime.weights.gguf_config import gguf_config
    from runtime.weights.gguf_tokenizer import gguf_tokenizer

    file = GGUFFile(smollm2)
    tokenizer = gguf_tokenizer(file, gguf_config(file))
    assert tokenizer is not None

    @given(
        st.one_of(st.sampled_from(TEXTS), st.text()), st.lists(st.integers(0, 49_151), max_size=40)
    )
    def holds(text: str, tail: list[int]) -> None:
        ids = [*tokenizer.encode(text), *tail]
        detokenizer = Detokenizer(tokenizer)
        deltas = [detokenizer.push(i) for i in ids] + [detokenizer.finish()]
        assert "".join(deltas) == tokenizer.decode(ids)

    holds()
