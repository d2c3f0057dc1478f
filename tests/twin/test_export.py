"""`twin export`: the engine's own command on stdout, what it has no word for on stderr; and `--preset`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml


def words(stdout: str) -> list[str]:
    return shlex.split(stdout.replace("\\\n", " "))


def test_an_engines_own_defaults_need_no_option(twin):
    for name, command in (
        ("vllm", ["vllm", "serve", "Qwen/Qwen3-8B"]),
        ("sglang", ["python", "-m", "sglang.launch_server", "--model-path", "Qwen/Qwen3-8B"]),
    ):
        result = twin("export", "--to", name, "--preset", name)
        assert words(result.stdout) == command
        assert "no counterpart" not in result.stderr
        assert "the engine takes the model's own limit" in result.stderr


def test_every_option_of_vllm(twin):
    policy = {
        "preset": "vllm",
        "policy": {
            "priority": {"enabled": True},
            "batching_options": {
                "max_num_batched_tokens": 4096,
                "max_num_active_seqs": 64,
                "long_prefill_token_threshold": 512,
                "long_prefill_token_threshold_adaptive": True,
                "enable_chunked_prefill": False,
                "scheduler_reserve_full_isl": False,
                "watermark": 0.05,
            },
            "overlap": "serial",
            "page_size": 32,
            "cache": "none",
            "max_running_requests": 128,
            "max_loras_per_batch": 2,
            "context_limit": 4096,
        },
        "model": {"path": "my models/qwen", "kv_dtype": "fp8", "weight_dtype": "fp16"},
        "kv": {"capacity_tokens": 64_000, "mem_fraction": 0.8},
    }
    Path("policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    result = twin("export", "--to", "vllm", "policy.yaml")
    assert result.exit_code == 0
    assert result.stderr == "# vLLM 0.32.0\n"
    assert result.stdout.splitlines() == [
        "vllm serve 'my models/qwen' \\",
        "  --scheduling-policy priority \\",
        "  --max-num-batched-tokens 4096 \\",
        "  --max-num-active-seqs 64 \\",
        "  --long-prefill-token-threshold 512 \\",
        "  --long-prefill-token-threshold-adaptive \\",
        "  --no-enable-chunked-prefill \\",
        "  --no-scheduler-reserve-full-isl \\",
        "  --watermark 0.05 \\",
        "  --no-async-scheduling \\",
        "  --block-size 32 \\",
        "  --no-enable-prefix-caching \\",
        "  --max-num-seqs 128 \\",
        "  --max-loras 2 \\",
        "  --max-model-len 4096 \\",
        "  --dtype float16 \\",
        "  --kv-cache-dtype fp8 \\",
        "  --num-gpu-blocks-override 2001 \\",
        "  --gpu-memory-utilization 0.8",
    ]


def test_every_option_of_sglang(twin):
    policy = {
        "preset": "sglang",
        "policy": {
            "order": "lof",
            "priority": {
                "enabled": True,
                "low_values_first": True,
                "preemption": False,
                "preemption_threshold": 3,
            },
            "batching": "mixed",
            "overlap": "serial",
            "page_size": 16,
            "eviction": "slru",
            "retraction": "priority",
            "chunked_prefill_size": None,
            "max_prefill_tokens": 8192,
            "prefill_max_requests": 4,
            "prefill_decode_interval": 2,
            "max_running_requests": 100,
            "max_queued_requests": 50,
            "max_loras_per_batch": 4,
            "context_limit": 4096,
            "new_token_ratio": {"conservativeness": 0.5, "init": 0.6, "decay_steps": 100},
        },
        "model": {"kv_dtype": "fp8"},
        "kv": {"capacity_tokens": 64_000, "mem_fraction": 0.8},
    }
    Path("policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    result = twin("export", "--to", "sglang", "policy.yaml", "--set", "policy.cache=none")
    assert result.exit_code == 0
    assert result.stderr == "# SGLang 0.5.23\n"
    first, *rest = result.stdout.splitlines()
    assert first == (
        "SGLANG_INIT_NEW_TOKEN_RATIO=0.6 SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS=100 "
        "python -m sglang.launch_server --model-path Qwen/Qwen3-8B \\"
    )
    assert [line.strip(" \\") for line in rest] == [
        "--schedule-policy lof",
        "--enable-priority-scheduling",
        "--schedule-low-priority-values-first",
        "--disable-priority-preemption",
        "--priority-scheduling-preemption-threshold 3",
        "--enable-mixed-chunk",
        "--disable-overlap-schedule",
        "--page-size 16",
        "--disable-radix-cache",
        "--radix-eviction-policy slru",
        "--retraction-policy priority",
        "--chunked-prefill-size -1",
        "--max-prefill-tokens 8192",
        "--prefill-max-requests 4",
        "--prefill-decode-interval 2",
        "--max-running-requests 100",
        "--max-queued-requests 50",
        "--max-loras-per-batch 4",
        "--context-length 4096",
        "--schedule-conservativeness 0.5",
        "--kv-cache-dtype fp8_e4m3",
        "--max-total-tokens 64000",
        "--mem-fraction-static 0.8",
    ]


def test_one_engines_policy_on_the_other_says_what_is_lost(twin):
    result = twin("export", "--to", "vllm", "--preset", "sglang", "--set", "policy.order=lpm")
    assert words(result.stdout) == ["vllm", "serve", "Qwen/Qwen3-8B", "--max-loras", "8"]
    lost = [line for line in result.stderr.splitlines() if line.startswith("no counterpart: ")]
    keys = [line.split()[2] for line in lost]
    assert keys == [
        "policy.order", "policy.batching", "policy.page_size", "policy.cache", "kv.mem_fraction"
    ]  # fmt: skip
    result = twin("export", "--to", "sglang", "--preset", "vllm")
    assert "--page-size 16" in result.stdout
    assert 'policy.batching is "decode-first": SGLang plans prefill first' in result.stderr
    assert "batching_options" not in result.stderr  # they go with the batching


def test_a_policy_of_ones_own_has_no_counterpart(twin, own_orders):
    Path("mine.py").write_text(
        "from policies import ORDERS, KeyOrder\n"
        "@ORDERS.register('mine')\n"
        "class Mine(KeyOrder):\n"
        "    def __init__(self, *, pace: int = 3) -> None: ...\n"
        "    def key(self, request, view): return 0\n",
        encoding="utf-8",
    )
    settings = ("--set", "policy.order=mine", "--set", "policy.order_options.pace=4")
    result = twin("export", "--to", "sglang", "--policy", "mine.py", *settings)
    assert result.exit_code == 0
    assert 'policy.order is "mine": SGLang knows fcfs, lpm' in result.stderr
    assert "pace" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--to", "orca"), "'orca' is not one of 'sglang', 'vllm'"),
        ((), "Missing option '--to'"),
        (("--to", "vllm", "absent.yaml"), "absent.yaml: cannot be read"),
        (("--to", "vllm", "--set", "policy.order=x"), "unknown queue order 'x'"),
    ],
)
def test_bad_input(twin, arguments, says):
    result = twin("export", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not result.stdout


# -- --preset on the other commands -----------------------------------------------------------------


def test_config_prints_a_preset_that_reads_back(twin):
    result = twin("config", "--preset", "vllm")
    assert result.stdout.startswith("# defaults of vLLM 0.32.0\n")
    Path("vllm.yaml").write_text(result.stdout, encoding="utf-8")
    assert twin("config", "--config", "vllm.yaml").stdout == result.stdout
    assert twin("config", "--set", "preset=vllm").stdout == result.stdout


def test_a_preset_lies_below_the_config_and_settings(twin):
    Path("run.yaml").write_text("policy: {page_size: 32}\n", encoding="utf-8")
    result = twin(
        "config", "--config", "run.yaml", "--preset", "vllm", "--set", "kv.mem_fraction=0.5"
    )
    config = yaml.safe_load(result.stdout)
    assert config["policy"]["page_size"] == 32
    assert config["policy"]["batching"] == "decode-first"
    assert config["kv"]["mem_fraction"] == 0.5


def test_what_goes_beyond_the_engine_is_noted_once_and_kept(twin, trace):
    arguments = ("--trace", trace, "--preset", "vllm", "--limit", 4)
    result = twin("simulate", *arguments, "--set", "policy.order=lpm", "--out", "run", "--json")
    assert result.exit_code == 0
    assert result.stderr.count("beyond vllm: ") == 1
    assert json.loads(result.stdout)["status"] == "complete"
    (departure,) = json.loads(Path("run/manifest.json").read_text())["departures"]
    assert f"beyond vllm: {departure}\n" in result.stderr


def test_ab_lays_two_presets_side_by_side(twin, trace):
    result = twin(
        "ab", "--trace", trace, "--limit", 4, "--vary", "preset=sglang,vllm", "--out", "ab"
    )
    assert result.exit_code == 0, result.output
    assert "preset=sglang" in result.stdout
    assert "beyond" not in result.stderr
    batchings = {
        path.name: json.loads((path / "manifest.json").read_text())["config"]["policy"]["batching"]
        for path in Path("ab").glob("preset=*")
    }
    assert batchings == {"preset=sglang": "prefill-first", "preset=vllm": "decode-first"}


def test_an_order_beyond_vllm_is_noted_once_among_many_variants(twin, trace):
    result = twin(
        "ab", "--trace", trace, "--limit", 4, "--preset", "vllm", "--order", "fcfs",
        "--order", "lpm", "--vary", "policy.page_size=16,32", "--out", "ab",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stderr.count("beyond vllm: ") == 1


def test_a_context_limit_above_the_pool_is_bad_input(twin, trace):
    result = twin(
        "simulate", "--trace", trace, "--preset", "vllm", "--set", "kv.capacity_tokens=1600",
        "--set", "policy.context_limit=1700", "--out", "run",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "context_limit 1700 is above the 1600 tokens that the KV pool holds" in result.stderr
    assert not Path("run").exists()
