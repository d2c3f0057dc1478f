"""Real runs: result files of engines and load generators become per-request times, or clear errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.simulation import simulate
from traces.errors import TraceError
from traces.generate import generate
from traces.real_runs import read_real_run

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "gpu" / "llmservingsim"
EXAMPLES = SHARED / "bench" / "examples"
needs_examples = pytest.mark.skipif(not EXAMPLES.exists(), reason="the benchmark runs are not here")

META = {
    "model": "meta-llama/Llama-3.1-8B",
    "vllm_version": "0.19.0",
    "engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 64, "max_model_len": None},
    "dataset_path": "workloads/two.jsonl",
    "kv_cache": {"num_gpu_blocks": 101, "block_size": 16, "gpu_memory_utilization": 0.9},
    "resolved_config": {"scheduler_config": {"async_scheduling": True}},
}
SENT = [
    {"input_toks": 5, "output_toks": 3, "arrival_time_ns": 0},
    {"input_toks": 7, "output_toks": 2, "arrival_time_ns": 500_000_000},
]


def served(
    index: int, queued: float, first: float, last: float, arrival: float
) -> dict[str, object]:
    return {
        "request_id": f"bench-{index}",
        "input_toks": SENT[index]["input_toks"],
        "output_toks": SENT[index]["output_toks"],
        "arrival_time": arrival,
        "queued_ts": queued,
        "scheduled_ts": queued,
        "first_token_ts": first,
        "last_token_ts": last,
    }


SERVED = [
    served(0, 10.0, 10.2, 10.4, arrival=1_000.0),
    served(1, 10.6, 10.7, 10.8, arrival=1_000.5),
]


def bench_folder(tmp_path: Path, rows: list[dict[str, object]] = SERVED, **meta: object) -> Path:
    folder = tmp_path / "RTX4090" / "Llama" / "vllm"
    folder.mkdir(parents=True)
    (tmp_path / "workloads").mkdir()
    (tmp_path / "workloads" / "two.jsonl").write_text("\n".join(map(json.dumps, SENT)) + "\n")
    (folder / "requests.jsonl.gz").write_bytes(
        gzip.compress("\n".join(map(json.dumps, rows)).encode())
    )
    (folder / "meta.json").write_text(json.dumps(META | meta))
    (folder / "timeseries.csv").write_text(
        "t,prompt_throughput,gen_throughput,running,waiting,kv_cache_pct\n1.0,12,5,2,0,50.0\n"
    )
    return folder.parent


def test_the_clocks_of_a_benchmark_are_joined_where_a_request_was_queued_soonest(tmp_path):
    run = read_real_run(bench_folder(tmp_path))
    # the first was queued at once, the second 100 ms after it came
    assert [r.arrival_ns for r in run.requests] == [0, 500_000_000]
    assert [round(r.ttft_ns / 1e6) for r in run.requests] == [200, 200]
    assert [round(r.e2e_ns / 1e6) for r in run.requests] == [400, 300]
    assert run.latency("tpot") == pytest.approx([1e8, 1e8])
    assert run.ids == tuple(r.id for r in run.workload)


def test_a_benchmark_says_how_the_engine_was_run(tmp_path):
    run = read_real_run(bench_folder(tmp_path))
    engine = run.engine
    assert (engine.engine, engine.version, engine.device) == ("vllm", "0.19.0", "RTX4090")
    assert (engine.tensor_parallel, engine.max_running_requests) == (2, 64)
    assert engine.kv_tokens == 100 * 16  # the null block holds nothing
    assert (engine.context_limit, engine.overlapped) == (None, True)
    assert run.series.kv_share.tolist() == [0.5]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (SERVED[0] | {"first_token_ts": None}, "first_token_ts"),
        (SERVED[0] | {"last_token_ts": 1.0}, "in this order"),
        (SERVED[0] | {"arrival_time": float("nan")}, "NaN is not JSON"),
        (SERVED[0] | {"last_token_ts": float("inf")}, "Infinity is not JSON"),
        ({k: v for k, v in SERVED[0].items() if k != "queued_ts"}, "queued_ts"),
        (SERVED[0] | {"input_toks": 6}, "6 prompt and 3 output tokens"),
    ],
)
def test_a_bad_row_is_an_error_with_file_and_line(tmp_path, row, field):
    with pytest.raises(TraceError, match=field) as caught:
        read_real_run(bench_folder(tmp_path, [row, SERVED[1]]))
    assert caught.value.line == 1
    assert "requests.jsonl.gz" in str(caught.value)


def test_an_instant_beyond_all_numbers_is_an_error(tmp_path):
    folder = bench_folder(tmp_path)
    file = folder / "vllm" / "requests.jsonl.gz"
    text = gzip.decompress(file.read_bytes()).decode().replace("1000.5", "1e999")
    file.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(TraceError, match=r"line 2: field 'arrival_time': found Infinity"):
        read_real_run(folder)


def test_a_request_that_is_there_twice_is_an_error_with_its_line(tmp_path):
    twice = [SERVED[0], SERVED[1] | {"request_id": "bench-0"}]
    with pytest.raises(TraceError, match=r"request_id.*'bench-0', as row 1 has it") as caught:
        read_real_run(bench_folder(tmp_path, twice))
    assert caught.value.line == 2


def test_a_workload_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(TraceError, match=r"dataset_path.*--trace"):
        read_real_run(bench_folder(tmp_path, dataset_path="elsewhere/none.jsonl"))


def test_a_benchmark_is_the_same_run_wherever_it_is_named_from(tmp_path, monkeypatch):
    folder = bench_folder(tmp_path)
    for place, name in (
        (tmp_path, "RTX4090/Llama"),
        (folder.parent, "Llama"),
        (folder, "."),
        (folder, "vllm"),
        (folder / "vllm", "requests.jsonl.gz"),
    ):
        monkeypatch.chdir(place)
        run = read_real_run(name)
        assert (run.name, run.engine.device, len(run.workload)) == ("RTX4090-Llama", "RTX4090", 2)


def test_a_folder_of_another_layout_knows_its_gpu_from_the_config_beside_it(tmp_path):
    folder = bench_folder(tmp_path)
    (folder / "config.json").write_text(
        json.dumps({"link_bw": 16, "nodes": [{"instances": [{"hardware": "RTXPRO6000"}] * 2}]})
    )
    engine = read_real_run(folder).engine
    assert (engine.device, engine.link_gigabytes_per_s) == ("RTXPRO6000", 16)


def test_a_request_without_any_instant_was_not_answered(tmp_path):
    nothing = dict.fromkeys(("arrival_time", "queued_ts", "first_token_ts", "last_token_ts"))
    run = read_real_run(bench_folder(tmp_path, [SERVED[0], SERVED[1] | nothing]))
    assert (len(run.requests), run.failed, len(run.workload)) == (1, 1, 2)


def test_a_run_of_the_first_requests_replays_those(tmp_path):
    run = read_real_run(bench_folder(tmp_path, SERVED[:1], num_requests=1))
    assert (len(run.requests), len(run.workload)) == (1, 1)


def test_a_run_that_was_not_watched_has_no_series(tmp_path):
    folder = bench_folder(tmp_path)
    file = folder / "vllm" / "timeseries.csv"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    assert read_real_run(folder).series is None


def test_settings_without_requests_are_no_run_yet(tmp_path):
    folder = bench_folder(tmp_path)
    (folder / "vllm" / "requests.jsonl.gz").unlink()
    with pytest.raises(TraceError, match=r"no requests\.jsonl"):
        read_real_run(folder)


def test_a_file_that_was_cut_off_is_named(tmp_path):
    folder = bench_folder(tmp_path)
    (folder / "vllm" / "meta.json").unlink()
    (folder / "vllm" / "meta.json.gz").write_bytes(gzip.compress(b"{}" * 100)[:20])
    with pytest.raises(TraceError, match=r"meta\.json\.gz"):
        read_real_run(folder)


@needs_examples
@pytest.mark.parametrize(
    ("gpu", "tpot_ms", "e2e_ms"), [("RTXPRO6000", 32.458, 28_200.7), ("RTX4090", 32.447, 86_578.3)]
)
def test_the_published_runs_have_their_published_means(gpu, tpot_ms, e2e_ms):
    run = read_real_run(EXAMPLES / gpu / "Llama-3.1-8B")
    assert len(run.requests) == 300
    assert run.latency("tpot").mean() / 1e6 == pytest.approx(tpot_ms, abs=1e-3)
    # theirs counts from when a request was queued, this from when it came: tens of milliseconds
    assert 0 < run.latency("e2e").mean() / 1e6 - e2e_ms < 50


BENCH = {
    "model_id": "Qwen/Qwen3-8B",
    "request_rate": "inf",
    "max_concurrency": 2,
    "duration": 3.0,
    "completed": 2,
    "input_lens": [10, 20, 30],
    "output_lens": [3, 0, 2],
    "ttfts": [0.5, 0.0, 0.25],
    "itls": [[0.1, 0.2], [], [0.05]],
    "start_times": [100.0, 100.0, 101.0],
    "errors": ["", "refused", ""],
}


def write(tmp_path: Path, text: str, name: str = "result.json") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_result_of_vllm_bench_serve_is_read_request_by_request(tmp_path):
    run = read_real_run(write(tmp_path, json.dumps(BENCH, indent=2)))
    assert run.source == "vllm bench serve"
    assert (len(run.requests), run.failed, run.concurrency) == (2, 1, 2)
    assert [r.arrival_ns for r in run.requests] == [0, 1_000_000_000]
    assert [r.e2e_ns for r in run.requests] == [800_000_000, 300_000_000]
    assert sorted(run.latency("itl")) == [50e6, 100e6, 200e6]
    assert run.ids == ("r000000", "r000002")
    assert any("share no prefix" in note for note in run.notes)


def test_results_without_times_of_requests_say_how_to_get_them(tmp_path):
    bare = {k: v for k, v in BENCH.items() if k != "itls"}
    with pytest.raises(TraceError, match=r"itls.*--save-detailed.*--output-details"):
        read_real_run(write(tmp_path, json.dumps(bare)))


def test_answers_of_several_tokens_and_no_time_between_have_no_known_end(tmp_path):
    bare = BENCH | {"output_lens": [3, 0, 1], "itls": [[], [], []]}
    run = read_real_run(write(tmp_path, json.dumps(bare)))
    assert [r.e2e_ns for r in run.requests] == [None, 250_000_000]
    assert np.isnan(run.latency("tpot")).all()
    assert any("1 requests with several tokens and no time between" in note for note in run.notes)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"ttfts": [float("nan"), 0.0, 0.25]}, r"ttfts\[0\].*nan"),
        ({"ttfts": [-0.5, 0.0, 0.25]}, r"ttfts\[0\].*-0.5"),
        ({"itls": [[0.1, -0.2], [], [0.05]]}, r"itls\[0\].*-0.2"),
        ({"start_times": [100.0, 100.0, float("inf")]}, "start_times.*inf"),
    ],
)
def test_times_of_a_result_that_are_none_are_named(tmp_path, wrong, field):
    with pytest.raises(TraceError, match=field):
        read_real_run(write(tmp_path, json.dumps(BENCH | wrong)))


def test_a_request_that_failed_does_not_set_the_first_arrival(tmp_path):
    failed = BENCH | {"start_times": [100.0, 0.0, 101.0]}  # it begins at 0, by no clock
    run = read_real_run(write(tmp_path, json.dumps(failed)))
    assert [r.arrival_ns for r in run.requests] == [0, 1_000_000_000]


def test_a_client_with_a_rate_and_a_limit_is_no_closed_loop(tmp_path):
    both = BENCH | {"request_rate": 1.0, "max_concurrency": 64}
    run = read_real_run(write(tmp_path, json.dumps(both)))
    assert run.concurrency is None
    assert [r.arrival_ns for r in run.workload] == [0, 1_000_000_000]
    older = read_real_run(write(tmp_path, json.dumps(both | {"start_times": None})))
    assert older.concurrency is None
    assert any("limit of 64 under way at once is not kept" in note for note in older.notes)


def test_a_newer_client_says_when_an_answer_ended(tmp_path):
    newer = BENCH | {"itls": [[], [], []], "latencies": [0.8, 0.0, 0.3]}
    run = read_real_run(write(tmp_path, json.dumps(newer)))
    assert [r.e2e_ns for r in run.requests] == [800_000_000, 300_000_000]


def test_sglang_writes_a_rate_without_limit_as_infinity_and_asks_its_server(tmp_path):
    sglang = {k: v for k, v in BENCH.items() if k not in ("model_id", "start_times")}
    sglang |= {
        "backend": "sglang",
        "request_rate": float("inf"),
        "max_concurrency": None,
        "mean_itl_ms": float("nan"),
        "server_info": {
            "model_path": "Qwen/Qwen3-8B",
            "version": "0.5.6",
            "tp_size": 2,
            "dp_size": 1,
            "ep_size": 1,
            "page_size": 64,
            "chunked_prefill_size": -1,
            "schedule_policy": "lpm",
            "disable_radix_cache": True,
            "disable_overlap_schedule": False,
            "internal_states": [
                {
                    "memory_usage": {"token_capacity": 9000},
                    "effective_max_running_requests_per_dp": 128,
                }
            ],
        },
    }
    run = read_real_run(write(tmp_path, json.dumps(sglang) + "\n", "result.jsonl"))
    assert [r.arrival_ns for r in run.requests] == [0, 0]
    engine = run.engine
    assert (engine.engine, engine.model, engine.version) == ("sglang", "Qwen/Qwen3-8B", "0.5.6")
    assert (engine.tensor_parallel, engine.data_parallel, engine.expert_parallel) == (2, 1, False)
    assert (engine.page_size, engine.max_batched_tokens, engine.order) == (64, None, "lpm")
    assert (engine.prefix_caching, engine.overlapped) == (False, True)
    assert (engine.kv_tokens, engine.max_running_requests) == (9000, 128)


def test_one_of_several_results_of_a_file_is_chosen_by_its_line(tmp_path):
    sglang = {k: v for k, v in BENCH.items() if k not in ("model_id", "start_times")}
    path = write(tmp_path, "\n".join(json.dumps(sglang | {"backend": "sglang"}) for _ in "ab"))
    with pytest.raises(TraceError, match="which line of 1, 2"):
        read_real_run(path)
    run = read_real_run(path, line=2)
    assert run.source == "sglang.bench_serving"
    assert [r.arrival_ns for r in run.requests] == [None, None]
    assert np.isfinite(run.latency("tpot")).all()


def test_arrivals_that_were_not_recorded_are_drawn_at_the_client_s_rate(tmp_path):
    n = 400
    many = BENCH | {
        "request_rate": 10.0,
        "max_concurrency": None,
        "start_times": None,
        "input_lens": [10] * n,
        "output_lens": [2] * n,
        "ttfts": [0.1] * n,
        "itls": [[0.1]] * n,
        "errors": [""] * n,
    }
    run = read_real_run(write(tmp_path, json.dumps(many)))
    last = run.workload.requests[-1].arrival_ns / 1e9
    assert last == pytest.approx(n / 10, rel=0.2)
    assert any("drawn anew at 10" in note for note in run.notes)
    assert {r.arrival_ns for r in run.requests} == {None}  # drawn is not measured


def aiperf_line(number: int, start: int, **more: object) -> str:
    row = {
        "metadata": {
            "session_num": number,
            "x_request_id": f"id-{number}",
            "request_start_ns": start,
            "request_end_ns": start + 400_000_000,
            "benchmark_phase": "profiling",
            "was_cancelled": False,
        },
        "metrics": {
            "input_sequence_length": {"value": 550, "unit": "tokens"},
            "output_sequence_length": {"value": 3, "unit": "tokens"},
            "time_to_first_token": {"value": 100.0, "unit": "ms"},
            "request_latency": {"value": 0.3, "unit": "s"},
            "inter_chunk_latency": {"value": [50.0, 150.0], "unit": "ms"},
        },
        "error": None,
    }
    return json.dumps(row | more)


def test_aiperf_s_export_is_read_with_its_units(tmp_path):
    lines = [
        aiperf_line(1, 2_000_000_000),
        aiperf_line(0, 1_000_000_000),
        aiperf_line(2, 3_000_000_000, error={"code": 499, "type": "Cancelled"}, metrics=None),
    ]
    run = read_real_run(write(tmp_path, "\n".join(lines), "profile_export.jsonl"))
    assert run.ids == ("id-0", "id-1")
    assert run.failed == 1
    assert [r.arrival_ns for r in run.requests] == [0, 1_000_000_000]
    assert {(r.ttft_ns, r.e2e_ns) for r in run.requests} == {(100_000_000, 300_000_000)}
    assert run.requests[0].itl_ns == (50_000_000, 150_000_000)


def test_a_wrong_unit_is_named_with_its_line(tmp_path):
    bad = json.loads(aiperf_line(1, 5))
    bad["metrics"]["time_to_first_token"]["unit"] = "parsecs"
    path = write(tmp_path, aiperf_line(0, 1) + "\n" + json.dumps(bad), "profile_export.jsonl")
    with pytest.raises(TraceError, match=r"time_to_first_token.unit.*parsecs.*ms") as caught:
        read_real_run(path)
    assert caught.value.line == 2


def test_a_first_token_after_the_last_is_named_with_its_request(tmp_path):
    bad = json.loads(aiperf_line(1, 5))
    bad["metrics"]["time_to_first_token"]["value"] = 400.0
    path = write(tmp_path, json.dumps(bad), "profile_export.jsonl")
    with pytest.raises(TraceError, match="request 'id-1' with its last token after 300000000 ns"):
        read_real_run(path)


def test_a_finished_request_without_its_times_is_named(tmp_path):
    work = generate("mooncake-conversation", n=5, seed=3)
    simulate(work, out=tmp_path / "run")
    file = tmp_path / "run" / "requests.parquet"
    table = pq.read_table(file)
    first = table.column_names.index("first_token_ns")
    values = [None, *table["first_token_ns"].to_pylist()[1:]]
    pq.write_table(table.set_column(first, "first_token_ns", pa.array(values, pa.int64())), file)
    with pytest.raises(TraceError, match="that ended without first_token_ns"):
        read_real_run(tmp_path / "run")


def test_a_run_folder_gives_back_what_was_served(tmp_path):
    work = generate("mooncake-conversation", n=30, seed=3)
    records = ("requests", "steps", "tokens", "decisions")
    made = simulate(work, {"preset": "vllm"}, out=tmp_path / "run", records=records)
    run = read_real_run(tmp_path / "run")
    assert len(run.requests) == 30
    assert run.latency("ttft").mean() / 1e6 == pytest.approx(made.summary().ttft_ms.mean)
    assert run.latency("itl").sum() == pytest.approx(
        (run.latency("e2e") - run.latency("ttft")).sum()
    )
    by_id = {r.id: r for r in work}
    for request in run.workload:
        assert np.array_equal(request.prompt.array(), by_id[request.id].prompt.array())
        assert request.arrival_ns == by_id[request.id].arrival_ns - work.requests[0].arrival_ns


def test_an_unknown_file_lists_what_is_known(tmp_path):
    with pytest.raises(TraceError, match=r"bench_serving.*AIPerf"):
        read_real_run(write(tmp_path, '{"a": 1}'))
    with pytest.raises(TraceError, match="no such file"):
        read_real_run(tmp_path / "nowhere")


def test_a_workload_beside_a_result_has_to_be_that_of_the_result(tmp_path):
    sent = write(tmp_path, json.dumps(SENT[0]) + "\n" + json.dumps(SENT[1]) + "\n", "sent.jsonl")
    with pytest.raises(TraceError, match=r"5 prompt tokens.*10"):
        read_real_run(write(tmp_path, json.dumps(BENCH)), workload=sent)


def test_a_workload_of_all_that_was_sent_stands_for_those_that_were_answered(tmp_path):
    lengths = zip(BENCH["input_lens"], (3, 9, 2), strict=True)
    rows = [{"input_toks": a, "output_toks": b, "arrival_time_ns": 0} for a, b in lengths]
    sent = write(tmp_path, "\n".join(map(json.dumps, rows)) + "\n", "sent.jsonl")
    run = read_real_run(write(tmp_path, json.dumps(BENCH)), workload=sent)
    assert run.failed == 1
    assert [(len(r.prompt), len(r.output)) for r in run.workload] == [(10, 3), (30, 2)]
    assert not any("share no prefix" in note for note in run.notes)
