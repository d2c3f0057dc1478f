"""The public traces, where they are at hand, are read as they were measured; other files refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from traces import TraceError, Workload, read_trace
from traces.readers.registry import FORMATS
from traces.sessions import by_session
from traces.tokens import JoinedTokens

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="the public traces are not here")

#: file -> its format, requests, and whether they wait for each other
READ = {
    "azure2023/AzureLLMInferenceTrace_conv.csv.gz": ("azure", 19_366, False),
    "mooncake/conversation_trace.jsonl.gz": ("mooncake", 12_031, False),
    "sharegpt/llmservingsim_sharegpt-llama-3.1-8b-300-sps10.jsonl.zst": (
        "llmservingsim",
        300,
        False,
    ),
    "sharegpt/llmservingsim_sharegpt-qwen3-32b-300-sps10.jsonl.zst": ("llmservingsim", 300, False),
    "sharegpt/lmbenchmark_sharegpt_run.json.gz": ("lmbenchmark", 252, False),
    "sharegpt/nanoflow_lmsys_lengths.csv.gz": ("nanoflow", 100_000, False),
    "sharegpt/nanoflow_sharegpt_lengths.csv.gz": ("nanoflow", 58_787, False),
    "lmcache_agent/lmcache_agent_traces.tar.zst": ("lmcache", 402 + 746 + 471, True),
    "mtbench/question.jsonl": ("mt-bench", 160, True),
    "format_samples/aiperf/production_trace.jsonl": ("aiperf", 10, False),
    "format_samples/dynamo/mooncake_tiny.jsonl": ("mooncake", 16, False),
    "format_samples/dynamo/traces/agentic-mooncake.jsonl": ("agentic-mooncake", 3, True),
    "format_samples/dynamo/traces/applied-compute-agentic.jsonl": ("applied-compute", 3, True),
    "format_samples/dynamo/traces/dynamo-agentic.jsonl": ("dynamo", 4, True),
    "format_samples/dynamo/traces/dynamo-standard.jsonl": ("dynamo", 2, False),
    "format_samples/dynamo/traces/mooncake-delta.jsonl": ("mooncake-delta", 2, True),
    "format_samples/dynamo/traces/mooncake.jsonl": ("mooncake", 2, False),
}
ELSEWHERE = {"weka/weka_0001-0600.tar.zst"}


@pytest.mark.parametrize("file", READ)
def test_a_file_of_a_known_format_is_read(file):
    workload = read_trace(SHARED / file)
    found = (workload.meta["format"], len(workload), workload.closed)
    assert found == READ[file]
    assert workload.meta["skipped_rows"] == 0


@pytest.mark.parametrize(
    "file",
    sorted(
        str(path.relative_to(SHARED))
        for path in (SHARED.rglob("*") if SHARED.exists() else ())
        if path.is_file() and str(path.relative_to(SHARED)) not in READ.keys() | ELSEWHERE
    ),
)
def test_any_other_file_is_refused_and_the_known_formats_are_named(file):
    with pytest.raises(TraceError) as caught:
        read_trace(SHARED / file)
    said = str(caught.value)
    assert "no known trace format" in said
    assert f"expected one of {', '.join(FORMATS)}; `twin trace formats`" in said
    assert len(said) < 600  # short enough to read: how each is recognised is for the command


def lengths(workload: Workload) -> tuple[list[int], list[int]]:
    """p50, p90, p99 and the largest, of prompts and of outputs."""
    columns = ([len(r.prompt) for r in workload], [len(r.output) for r in workload])
    prompts, outputs = (
        np.floor(np.percentile(column, [50, 90, 99, 100]) + 0.5).astype(int).tolist()
        for column in columns
    )
    return prompts, outputs


def span_s(workload: Workload) -> float:
    return workload.duration_ns / 1e9


def test_azure_conversation_is_as_measured():
    workload = read_trace(SHARED / "azure2023/AzureLLMInferenceTrace_conv.csv.gz")
    assert lengths(workload) == ([1020, 2735, 4142, 14050], [129, 424, 601, 1000])
    assert span_s(workload) == pytest.approx(3_501.7, abs=0.05)


def test_mooncake_conversation_is_as_measured():
    workload = read_trace(SHARED / "mooncake/conversation_trace.jsonl.gz", mooncake_arrivals="keep")
    assert lengths(workload) == ([6909, 27367, 85400, 126195], [350, 597, 1119, 2000])
    assert span_s(workload) == pytest.approx(3_537, abs=0.5)


def test_nanoflow_lengths_are_as_measured():
    sharegpt = lengths(read_trace(SHARED / "sharegpt/nanoflow_sharegpt_lengths.csv.gz"))
    assert sharegpt[0] == [36, 829, 3473, 241_402]
    assert sharegpt[1][:3] == [280, 683, 999]
    lmsys = lengths(read_trace(SHARED / "sharegpt/nanoflow_lmsys_lengths.csv.gz"))
    assert (lmsys[0][:3], lmsys[1][:3]) == ([28, 302, 750], [140, 512, 850])


def test_llmservingsim_is_as_measured():
    name = "sharegpt/llmservingsim_sharegpt-llama-3.1-8b-300-sps10.jsonl.zst"
    workload = read_trace(SHARED / name)
    prompts, outputs = lengths(workload)
    assert prompts[:3] == [732, 1460, 2765]
    assert outputs[0] == 632
    assert min(len(r.output) for r in workload) == 512
    assert len(workload) / span_s(workload) == pytest.approx(10.26, abs=0.1)


def test_lmcache_agents_are_as_measured():
    workload = read_trace(SHARED / "lmcache_agent/lmcache_agent_traces.tar.zst")
    sessions = by_session(workload)
    assert len(sessions) == 20 + 25 + 24  # one of 25 files is empty
    assert all(r.delay_ns >= 0 for r in workload)
    assert workload.meta["empty_texts_read_as_one_token"] == 283 + 53


def test_mt_bench_second_questions_hold_the_first():
    workload = read_trace(SHARED / "mtbench/question.jsonl")
    for first, second in by_session(workload).values():
        assert isinstance(second.prompt, JoinedTokens)
        assert second.prompt.parts[:2] == (first.prompt, first.output)


def test_dynamos_agents_spawn_and_join():
    folder = SHARED / "format_samples/dynamo/traces"
    calls = {r.id: r for r in read_trace(folder / "agentic-mooncake.jsonl")}
    assert calls["agent-child"].spawned_by == "agent-root"
    assert calls["agent-child"].delay_ns == 5_000_000
    assert calls["agent-join"].depends_on == ("agent-root", "agent-child")
    calls = {r.id: r for r in read_trace(folder / "dynamo-agentic.jsonl")}
    assert calls["child-first"].depends_on == ("parent-source",)
    assert calls["parent-consumer"].depends_on == ("parent-source", "child-last")
