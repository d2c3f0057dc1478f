"""A sequence ends with EOS, a stop id or a stop string, and its text ends where it should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime.sampling.params import SamplingParams
from runtime.sampling.stops import Stops

if TYPE_CHECKING:
    from collections.abc import Sequence

EOS = 0


class Letters:
    """Token 0 is EOS and has no text, 1 to 26 are letters."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(96 + i) for i in ids if i)


def ids(text: str) -> np.ndarray:
    return np.array([0 if c == "$" else ord(c) - 96 for c in text], dtype=np.int32)


def ends_at(stops: Stops, text: str) -> int | None:
    """How many tokens there are when it ends."""
    output = ids(text)
    for n in range(1, len(output) + 1):
        if stops.ends(output[:n]):
            return n
    return None


def stops(*, text: bool = True, **options: Any) -> Stops:
    return Stops(SamplingParams(**options), [EOS], Letters(), text=text)


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(
    ("options", "output", "end", "reason"),
    [
        ({}, "abc$d", 4, EOS),
        ({"ignore_eos": True}, "abc$d", None, None),
        ({"stop_token_ids": [2]}, "abc$", 2, 2),
        ({"stop_token_ids": [2], "ignore_eos": True}, "a$b", 3, 2),
        ({"stop_token_ids": [2], "min_new_tokens": 2}, "abcb", 4, 2),
        ({"min_new_tokens": 2}, "$$$", 3, EOS),
        ({"stop": ["bc"]}, "abcd", 3, "bc"),
        ({"stop": ["bc", "x"]}, "abx", 3, "x"),
        ({"stop": ["bc"], "min_new_tokens": 3}, "abcdbc", 6, "bc"),
        ({"stop": ["bc"], "min_new_tokens": 2}, "abcd", 3, "bc"),
        ({"stop": ["bc"]}, "ab$", 3, EOS),
    ],
)
def test_what_ends_a_sequence(
    text: bool, options: dict[str, Any], output: str, end: int | None, reason: object
) -> None:
    rule = stops(text=text, **options)
    assert ends_at(rule, output) == end
    assert rule.reason == reason


@pytest.mark.parametrize(
    ("options", "output", "text"),
    [
        ({"stop": "cd"}, "abcde", "ab"),
        ({"stop": "cd", "include_stop_str_in_output": True}, "abcde", "abcd"),
        ({"stop_token_ids": [3]}, "abcd", "ab"),
        ({"stop_token_ids": [3], "include_stop_str_in_output": True}, "abcd", "abc"),
        ({"stop": "bcx"}, "abc$", "abc"),  # held back, and then it was none
        ({"stop": "bcx"}, "abc", "abc"),
        ({"include_stop_str_in_output": True}, "abc$", "abc"),
    ],
)
def test_where_the_text_ends(options: dict[str, Any], output: str, text: str) -> None:
    rule = stops(**options)
    end = ends_at(rule, output)
    rule.finish(ids(output)[:end])
    assert rule.text == text


def test_deltas_are_the_text_in_pieces() -> None:
    rule = stops(stop="bcx")
    deltas = []
    for n in range(1, 6):
        rule.ends(ids("abcyz")[:n])
        deltas.append(rule.take())
    assert deltas == ["a", "", "", "bcy", "z"]
    rule.finish(ids("abcyz"))
    assert rule.take() == ""


def test_a_token_that_is_sampled_again_counts_once() -> None:
    rule = stops(stop="bcd")
    ends_at(rule, "abc")
    assert rule.take() == "a"
    rule.restart()  # the last token was dropped, and comes differently
    assert not rule.ends(ids("aby"))
    assert rule.take() == "by"
    assert not rule.ends(ids("abyb"))
    assert not rule.ends(ids("abyb"))  # again without having been told
    assert not rule.ends(ids("abybc"))
    assert rule.ends(ids("abybcd"))
    assert (rule.text, rule.take(), rule.reason) == ("aby", "", "bcd")


def test_an_output_cut_short_has_the_text_of_its_tokens() -> None:
    rule = stops()
    ends_at(rule, "abcdef")
    rule.finish(ids("abcd"))
    assert rule.text == "abcd"
    rule = stops()
    ends_at(rule, "abc")
    rule.restart()
    rule.finish(ids("ab"))  # aborted while it waited to go on
    assert rule.text == "ab"


def test_stop_strings_without_a_tokenizer_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"no tokenizer was loaded.*\['x'\].*stop_token_ids"):
        Stops(SamplingParams(stop="x"), [EOS])
    with pytest.raises(ValueError, match="text"):
        Stops(SamplingParams(), [EOS], text=True)


def test_ids_alone_need_no_tokenizer_and_decode_nothing() -> None:
    class Never:
        def decode(self, ids: Sequence[int]) -> str:
            raise AssertionError

    rule = Stops(SamplingParams(stop_token_ids=[3]), [EOS], Never())  # type: ignore[arg-type]
    assert ends_at(rule, "abc") == 3
    assert rule.text == rule.take() == ""
