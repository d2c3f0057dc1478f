"""Reading traces: found by content, times exact, prefixes shared, arrivals spread or kept."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import BlockTokens, read_trace
from traces.errors import RowError
from traces.readers.azure import _time_ns
from traces.readers.fields import json_row

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
MOONCAKE = SHARED / "mooncake" / "conversation_trace.jsonl.gz"
AZURE = SHARED / "azure2023" / "AzureLLMInferenceTrace_conv.csv.gz"
needs_mooncake = pytest.mark.skipif(not MOONCAKE.exists(), reason="the Mooncake trace is not here")
needs_azure = pytest.mark.skipif(not AZURE.exists(), reason="the Azure trace is not here")

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 23:59:59.9799600,374,44\r
2023-11-17 00:00:00.9799601,396,109\r
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,10,1
2024-05-10 02:00:00.009931+02:00,20,2
"""


def mooncake_rows(stamps: list[float]) -> str:
    return "".join(
        json.dumps(
            {
                "timestamp": stamp,
                "input_length": 600,
                "output_length": 3,
                "hash_ids": [0, index + 1],
            }
        )
        + "\n"
        for index, stamp in enumerate(stamps)
    )


def write(folder: Path, text: str, name: str = "trace.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_azure_times_are_exact_and_count_from_the_first(tmp_path):
    workload = read_trace(write(tmp_path, AZURE_2023))
    assert workload.meta["format"] == "azure"
    assert [r.arrival_ns for r in workload] == [0, 1_000_000_100]
    assert [(len(r.prompt), len(r.output)) for r in workload] == [(374, 44), (396, 109)]
    assert [r.id for r in workload] == ["r000000", "r000001"]


def test_azure_offsets_and_six_digits(tmp_path):
    assert [r.arrival_ns for r in read_trace(write(tmp_path, AZURE_2024))] == [0, 1_000]


def test_azure_prompts_share_nothing(tmp_path):
    first, second = (r.prompt.array() for r in read_trace(write(tmp_path, AZURE_2023)))
    assert first[0] != second[0]


def test_mooncake_hashes_become_shared_prefixes(tmp_path):
    first, second = read_trace(write(tmp_path, mooncake_rows([0, 10])))
    assert isinstance(first.prompt, BlockTokens)
    same = first.prompt.array() == second.prompt.array()
    assert same[:512].all()
    assert not same[512:].all()
    assert (first.max_new_tokens, len(first.output), first.ignore_eos) == (3, 3, True)


def test_format_is_found_in_the_content_not_the_name(tmp_path):
    text = mooncake_rows([0, 10])
    (tmp_path / "a.csv").write_bytes(gzip.compress(text.encode()))
    workload = read_trace(tmp_path / "a.csv")
    assert workload.meta["format"] == "mooncake"
    assert workload.meta["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert read_trace(write(tmp_path, text, "b.gz")).requests == workload.requests


def test_byte_order_mark_blank_lines_and_line_ends_do_not_matter(tmp_path):
    plain = read_trace(write(tmp_path, AZURE_2023))
    odd = "\ufeff" + AZURE_2023.replace("\r\n", "\n\n") + "\n"
    assert read_trace(write(tmp_path, odd)).requests == plain.requests


def test_kept_arrivals_are_as_stamped(tmp_path):
    path = write(tmp_path, mooncake_rows([0, 0, 0.5, 3_000]))
    arrivals = [r.arrival_ns for r in read_trace(path, mooncake_arrivals="keep")]
    assert arrivals == [0, 0, 500_000, 3_000_000_000]


def test_spread_fills_each_batch_and_nothing_else(tmp_path):
    # batches of 200 at 0, 3, 6 and 12 s: the one at 9 s is empty
    stamps = [stamp for stamp in (0, 3_000, 6_000, 12_000) for _ in range(200)]
    workload = read_trace(write(tmp_path, mooncake_rows(stamps)), seed=3)
    arrivals = np.array([r.arrival_ns for r in workload])
    offsets = (arrivals - np.array(stamps) * 1_000_000).reshape(4, 200)
    assert (offsets >= 0).all()
    assert (offsets < 3_000_000_000).all()
    assert (np.diff(offsets, axis=1) >= 0).all()
    # uniform over the batch: mean in the middle, within four standard errors
    assert np.abs(offsets.mean(axis=1) / 3e9 - 0.5).max() < 4 / np.sqrt(12 * 200)
    assert workload.meta["arrivals"] == "spread uniformly over each batch"
    again = read_trace(write(tmp_path, mooncake_rows(stamps)), seed=3)
    other = read_trace(write(tmp_path, mooncake_rows(stamps)), seed=4)
    assert again.requests == workload.requests
    assert [r.arrival_ns for r in other] != arrivals.tolist()


def test_spread_leaves_true_times_alone(tmp_path):
    stamps = sorted(np.random.default_rng(0).integers(0, 1_000_000, 500).tolist())
    workload = read_trace(write(tmp_path, mooncake_rows(stamps)))
    assert [r.arrival_ns for r in workload] == [stamp * 1_000_000 for stamp in stamps]
    assert workload.meta["arrivals"] == "as stamped"


@pytest.mark.parametrize("text", [AZURE_2023, mooncake_rows([0, 0, 0, 0, 3_000, 3_000, 6_000])])
def test_limit_reads_the_same_first_requests(tmp_path, text):
    path = write(tmp_path, text)
    assert read_trace(path, limit=1).requests == read_trace(path).requests[:1]


def test_vocabulary_is_the_callers(tmp_path):
    request = read_trace(write(tmp_path, mooncake_rows([0])), vocab_size=64).requests[0]
    assert request.prompt.array().max() < 64
    assert request.output.array().max() < 64


def test_unknown_choices_name_the_known_ones(tmp_path):
    path = write(tmp_path, AZURE_2023)
    with pytest.raises(ValueError, match="unknown trace format 'csv'; known: azure, mooncake"):
        read_trace(path, format="csv")
    with pytest.raises(ValueError, match="known: spread, keep"):
        read_trace(path, mooncake_arrivals="burst")
    with pytest.raises(ValueError, match="at least 1"):
        read_trace(path, limit=0)


def test_importing_the_package_pulls_in_nothing_heavy():
    code = (
        "import sys, traces.readers.read, traces.generate, traces.inspect;"
        "print({'scipy', 'pandas', 'pyarrow', 'matplotlib', 'pydantic'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert found.stdout.strip() == "set()"


@needs_azure
def test_all_of_azure_conversation():
    workload = read_trace(AZURE)
    assert len(workload) == 19_366
    assert round(workload.duration_ns / 1e9, 1) == 3_501.7
    assert workload.meta["sha256"] == (
        "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8"
    )


@needs_mooncake
def test_all_of_mooncake_conversation():
    workload = read_trace(MOONCAKE)
    assert len(workload) == 12_031
    assert sum(len(r.prompt) for r in workload) == 144_793_823
    assert workload.meta["sha256"] == (
        "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df"
    )
    gaps = np.diff([r.arrival_ns for r in workload])
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)  # spread: nearly Poisson


@given(
    st.integers(86_400, 10**10),
    st.one_of(st.just(""), st.from_regex(r"\.[0-9]{1,9}", fullmatch=True)),
    st.one_of(st.sampled_from(["", "Z"]), st.integers(-600, 840)),
)
def test_an_azure_time_is_what_the_calendar_says(seconds, fraction, offset):
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    zone = offset
    if isinstance(offset, int):
        hours, minutes = divmod(abs(offset), 60)
        zone = f"{'-' if offset < 0 else '+'}{hours:02}:{minutes:02}"
    seconds -= 60 * offset if isinstance(offset, int) else 0
    expected = seconds * 10**9 + int(fraction[1:].ljust(9, "0"))
    assert _time_ns(f"{moment:%Y-%m-%d %H:%M:%S}{fraction}{zone}") == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2023-11-16 18:17:60",
            "2023-11-16 18:60:00",
            "2023-11-16 24:00:00",
            "2023-02-29 00:00:00",
        ),
        *("2023-11-16 18:17", "2023-11-16 18:17:", "2023-11-16 18:17:03.", "1969-12-31 23:59:59"),
        *("2023-11-16 18:17:03 ", "2023-11-16 18:17:03+1:00", "2023-11-16 18:17:0\u0663", ""),
    ],
)
def test_no_time_is_made_of_what_is_none(text):
    for _ in range(2):  # a minute is remembered
        with pytest.raises(RowError) as raised:
            _time_ns(text)
        assert raised.value.found == repr(text)


@pytest.mark.parametrize("text", ['{"a": 1}', ' {"a": 1}', '{"a": 1} ', '\n\t{"a": 1}\r\n'])
def test_white_space_around_a_json_row_is_none_of_its_business(text):
    assert json_row(text) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [('{"a": 1} x', "Extra data"), ("", "Expecting value"), ('{"a": NaN}', "NaN is not JSON")],
)
def test_a_row_of_json_is_one_object_and_nothing_else(text, why):
    with pytest.raises(RowError, match=why):
        json_row(text)
