"""The decision log is read back as it was written, whatever came in and whatever batches held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from traces.records import RunWriter
from traces.records.decisions import (
    Item,
    Launched,
    Received,
    Restarted,
    batch_rows,
    inbox_rows,
    read_asked,
    read_decisions,
    restart_row,
)

if TYPE_CHECKING:
    from traces.records.decisions import Entry

NAMES = st.sampled_from(["a", "b", "arrival", "", "c" * 40])
IDS = st.lists(NAMES, max_size=3).map(tuple)
# few numbers: rounds and times that stand still must not run together
NUMBERS = st.integers(0, 2)
OUTCOMES = st.one_of(
    st.just((None, None)), st.tuples(st.integers(0, 2**31 - 1), st.booleans()).map(tuple)
)
ITEMS = st.builds(
    lambda name, kind, place, outcome: Item(name, kind, *place, *outcome),
    NAMES,
    st.sampled_from(["prefill", "decode"]),
    st.tuples(NUMBERS, NUMBERS, NUMBERS),
    OUTCOMES,
)
ENTRIES = st.one_of(
    st.builds(Received, NUMBERS, NUMBERS, IDS, IDS, IDS),
    st.builds(Launched, NUMBERS, NUMBERS, st.lists(ITEMS, max_size=3).map(tuple)),
    st.builds(Restarted, NUMBERS, NUMBERS),
)


def rows(entry: Entry) -> list[tuple[object, ...]]:
    at = entry.iteration, entry.time_ns
    if isinstance(entry, Received):
        return inbox_rows(*at, entry.arrivals, entry.aborts, entry.ready)
    return batch_rows(*at, entry.items) if isinstance(entry, Launched) else [restart_row(*at)]


@given(st.lists(ENTRIES, max_size=12), st.booleans())
def test_what_is_written_is_read_back(entries: list[Entry], flush: bool) -> None:
    writer = RunWriter(None, {"kv_capacity_tokens": 1}, ("decisions",))
    for entry in entries:
        writer.decisions.extend(rows(entry))
        if flush:
            writer.flush()
    assert list(read_decisions(writer.close())) == entries


def test_what_was_asked_for_is_read_back_also_where_an_id_comes_again(request_of) -> None:
    writer = RunWriter(None, {"kv_capacity_tokens": 1}, ("decisions",))
    for i, key in enumerate([None, "space"]):
        writer.request(request_of(id="a", priority=i, requested_max_new_tokens=7 + i))
        writer.tokens("a", [1, 2], [3] * i, ignore_eos=bool(i), extra_key=key, lora_id=key)
        writer.flush()
    first, second = read_asked(writer.close())["a"]
    assert (first.priority, first.max_new_tokens, first.ignore_eos) == (0, 7, False)
    assert (second.priority, second.max_new_tokens, second.ignore_eos) == (1, 8, True)
    assert (first.extra_key, second.extra_key, second.lora_id) == (None, "space", "space")
    assert [first.output.tolist(), second.output.tolist()] == [[], [3]]
    assert second.prompt.tolist() == [1, 2]
