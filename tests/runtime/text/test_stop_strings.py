"""Stop strings are found however the text is cut, and nothing of them gets out before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.text.stop_strings import StopStrings

FEW = st.text("ab", min_size=1, max_size=6)


def first_end(text: str, stops: list[str]) -> tuple[int, int] | None:
    """Where the text ends, found by reading it character by character."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return min(starts), end
    return None


@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(FEW, max_size=3), st.booleans())
def test_the_cut_does_not_depend_on_the_pieces(
    pieces: list[str], stops: list[str], include: bool
) -> None:
    text = "".join(pieces)
    looks = StopStrings(stops, include=include)
    out = ""
    ended = first_end(text, stops)
    for piece in pieces:
        out += looks.push(piece)
        if ended is not None:  # what got out is never more than what is to stay
            assert len(out) <= ended[include]
    if ended is None:
        assert looks.found is None
        assert out + looks.finish() == text
    else:
        assert looks.found == text[slice(*ended)]
        assert out + looks.finish() == text[: ended[include]]


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.lists(FEW, min_size=1, max_size=3))
def test_what_is_held_back_could_still_become_a_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    looks = StopStrings(stops)
    text = out = ""
    for piece in pieces:
        text += piece
        out += looks.push(piece)
        if looks.found is not None:
            return
        held = text[len(out) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_string_only_counts_where_it_is_complete_in_time() -> None:
    looks = StopStrings(["abcd", "bc"])
    assert looks.push("xabc", armed=False) == "x"
    assert looks.push("-", armed=True) == "abc-"
    assert looks.push("yab", armed=False) == "y"
    assert looks.push("c.", armed=True) == "a"
    assert looks.found == "bc"
    assert looks.push("more") == looks.finish() == ""


@pytest.mark.parametrize("pieces", [["End", "e\n", "\n"], list("Ende\n\n"), ["Ende\n\n and more"]])
def test_found_across_tokens(pieces: list[str]) -> None:
    looks = StopStrings(["\n\n"])
    assert "".join(map(looks.push, pieces)) == "Ende"
    assert looks.found == "\n\n"
