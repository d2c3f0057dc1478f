"""Presets lie below everything that is said; combinations that make no sense say why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from policies import Config, ConfigError, PolicyConfig, load_config, make_config
from policies.engines import NAMES, engine
from policies.engines.base import departures, spelled_out

if TYPE_CHECKING:
    from pathlib import Path


def said(*settings: str, **sections: Any) -> Config:
    return make_config(Config, sections, settings)


# -- presets --------------------------------------------------------------------------------------


def test_sglangs_defaults_are_the_configs_own_but_for_adapters() -> None:
    preset = said("preset=sglang", "policy.max_loras_per_batch=null")
    assert preset.model_dump(exclude={"preset"}) == Config().model_dump(exclude={"preset"})
    assert said("preset=sglang").policy.max_loras_per_batch == 8


def test_sglangs_preset_names_every_option_of_the_policy() -> None:
    """But for the context limit, which is the world's, and the accidents."""
    named = set(engine("sglang").preset["policy"])
    assert set(PolicyConfig.model_fields) - named == {"context_limit", "accidents"}


def test_vllms_defaults() -> None:
    policy = said("preset=vllm").policy
    assert (policy.batching, policy.cache, policy.page_size) == ("decode-first", "blocks", 16)
    assert policy.overlap == "overlapped"
    assert policy.max_running_requests == "auto"
    assert policy.context_limit is None
    assert policy.batching_options == {
        "max_num_batched_tokens": "auto",
        "max_num_active_seqs": None,
        "long_prefill_token_threshold": 0,
        "long_prefill_token_threshold_adaptive": False,
        "enable_chunked_prefill": True,
        "scheduler_reserve_full_isl": True,
        "watermark": 0.0,
        "reuse_unhashed_first": True,
    }
    assert said("preset=vllm").kv.mem_fraction == 0.92


def test_whatever_is_said_goes_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("preset: vllm\npolicy: {page_size: 32, batching_options: {watermark: 0.1}}\n")
    config = load_config(Config, path, ["policy.batching_options.max_num_active_seqs=7"])
    assert config.policy.page_size == 32
    assert config.policy.cache == "blocks"
    options = config.policy.batching_options
    assert (options["watermark"], options["max_num_active_seqs"]) == (0.1, 7)
    assert options["max_num_batched_tokens"] == "auto"
    assert load_config(Config, path, ["preset=sglang", "policy.batching_options={}"]).policy == (
        said("preset=sglang", "policy.page_size=32").policy
    )


def test_it_is_the_same_however_it_is_said() -> None:
    whole = said("preset=vllm", "policy.order=lpm")
    assert said(preset="vllm", policy={"order": "lpm"}) == whole
    assert Config.model_validate({"preset": "vllm", "policy": {"order": "lpm"}}) == whole


@pytest.mark.parametrize("preset", [*NAMES, None])
@pytest.mark.parametrize(
    "settings", [[], ["policy.order=lpm"], ["policy.overlap=serial", "kv.capacity_tokens=1600"]]
)
def test_a_config_written_out_reads_back_the_same(preset: str | None, settings: list[str]) -> None:
    config = said(f"preset={preset or 'null'}", *settings)
    text = config.to_yaml()
    assert make_config(Config, yaml.safe_load(text)) == config
    if preset is not None:
        assert text.startswith(f"# defaults of {engine(preset).product}\n")


def test_options_of_a_strategy_go_with_it() -> None:
    """Another batching than the preset's is not given the preset's batching options."""
    config = said("preset=vllm", "policy.batching=mixed", "policy.cache=radix")
    assert config.policy.batching_options == {}
    assert make_config(Config, yaml.safe_load(config.to_yaml())) == config


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"preset: .*'sglang' or 'vllm', not 'orca'"):
        said("preset=orca")
    with pytest.raises(ValueError, match="unknown engine 'orca'; known are sglang, vllm"):
        engine("orca")


# -- what a preset's engine could not do -----------------------------------------------------------


@pytest.mark.parametrize("preset", NAMES)
def test_an_engines_defaults_depart_in_nothing(preset: str) -> None:
    assert departures(said(f"preset={preset}")) == ()
    assert departures(said(f"preset={preset}", "seed=4", "device.name=h100")) == ()


def test_without_a_preset_nothing_departs() -> None:
    assert departures(said("policy.order=hrrn", "policy.batching=static")) == ()


@pytest.mark.parametrize(
    ("preset", "setting", "says"),
    [
        ("vllm", "policy.order=lpm", r'order is "lpm": vLLM takes requests first come first'),
        ("vllm", "policy.page_size=24", r"page_size is 24: .* blocks of 16, 32"),
        ("vllm", "policy.max_queued_requests=9", r"max_queued_requests is 9: .*max-num-queued"),
        ("sglang", "policy.batching=static", r'batching is "static": SGLang plans prefill first'),
        ("sglang", "policy.eviction=filo", r'eviction is "filo": .* lru, lfu, slru, priority'),
        ("sglang", "policy.retraction=last-in", r'retraction is "last-in": SGLang knows "length"'),
        ("sglang", "policy.waiting_refresh_interval=1", r"is 1: SGLang's interval is fixed at 32"),
    ],
)
def test_what_the_engine_could_not_do_is_said(preset: str, setting: str, says: str) -> None:
    import re

    (departure,) = departures(said(f"preset={preset}", setting))
    assert re.search(says, departure), departure


@pytest.mark.parametrize(
    ("preset", "setting"),
    [
        ("vllm", "policy.priority.enabled=true"),
        ("vllm", "policy.batching_options.watermark=0.2"),
        ("vllm", "policy.accidents.planned_blocks_are_hits=true"),
        ("vllm", "policy.cache=none"),
        ("sglang", "policy.order=lpm"),
        ("sglang", "policy.batching=mixed"),
        ("sglang", "policy.cache=none"),
        ("sglang", "policy.new_token_ratio.conservativeness=0.5"),
        ("sglang", "policy.priority.preemption_threshold=2"),  # priorities are off
    ],
)
def test_what_the_engine_has_an_option_for_departs_in_nothing(preset: str, setting: str) -> None:
    assert departures(said(f"preset={preset}", setting)) == ()


def test_sglang_takes_priorities_only_under_some_orders() -> None:
    (departure,) = departures(
        said("preset=sglang", "policy.priority.enabled=true", "policy.order=lpm")
    )
    assert departure.endswith("SGLang starts with priorities only under fcfs and lof")


@pytest.mark.parametrize("name", NAMES)
def test_an_engines_table_names_keys_that_there_are(name: str) -> None:
    options = {"max_num_batched_tokens", "watermark", "seed", "in_batch_check", "fallback_queue"}
    keys = {*spelled_out(said("preset=vllm")), *spelled_out(said("preset=sglang"))}
    keys |= {f"policy.order_options.{option}" for option in (*options, "in_batch_share")}
    assert set(engine(name).options) <= keys


# -- combinations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["preset=vllm", "policy.cache=radix"], "decode-first plans with cache blocks or none"),
        (["policy.cache=blocks"], "prefill-first plans with cache radix or none, not blocks"),
        (["preset=vllm", "policy.batching=mixed"], "mixed plans with cache radix or none"),
        (["preset=vllm", "policy.order=dfs-weight"], "needs cache radix: .* no tree"),
        (
            ["preset=vllm", "policy.order=shortest-prefill-first", "policy.cache=none"],
            "needs a prefix cache: set cache to blocks",
        ),
        (
            ["preset=vllm", "policy.chunked_prefill_size=512"],
            "decode-first does not read chunked_prefill_size, which is for mixed and prefill-first",
        ),
        (["preset=vllm", "policy.new_token_ratio.init=0.5"], "does not read new_token_ratio"),
        (["preset=vllm", "policy.retraction=last-in"], "does not read retraction"),
        (["preset=vllm", "policy.eviction=lfu"], "does not read eviction"),
        (["preset=vllm", "policy.prefill_max_requests=1"], "does not read prefill_max_requests"),
        (
            ["preset=vllm", "policy.prefill_decode_interval=2", "policy.priority.preemption=false"],
            "does not read prefill_decode_interval, priority.preemption, which",
        ),
        (
            ["policy.batching_options.watermark=0.1"],
            "'prefill-first' has no option 'watermark'; it takes none; decode-first has it",
        ),
        (
            ["preset=vllm", "policy.batching_options.water=0.1"],
            "'decode-first' has no option 'water'; it takes max_num_batched_tokens, .*_unhashed_first$",
        ),
        (
            [
                "preset=vllm",
                "policy.max_running_requests=65",
                "policy.batching_options.max_num_batched_tokens=64",
            ],
            "max_running_requests 65 is above max_num_batched_tokens 64",
        ),
        (
            ["preset=vllm", "policy.batching_options.max_num_batched_tokens=much"],
            "'max_num_batched_tokens' of batching 'decode-first' cannot be 'much'",
        ),
    ],
)
def test_what_makes_no_sense_together_says_why(settings: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        said(*settings)


def test_keys_that_are_not_read_may_stand_at_their_defaults() -> None:
    policy = {
        "chunked_prefill_size": None,
        "retraction": "fewest-outputs",
        "max_prefill_tokens": 16384,
    }
    assert said(preset="vllm", policy=policy).policy.chunked_prefill_size is None


@pytest.mark.parametrize("order", ["fcfs", "lpm", "lof", "hrrn", "random", "routing-key"])
@pytest.mark.parametrize("cache", ["blocks", "none"])
def test_queue_orders_may_be_tried_with_decode_first(order: str, cache: str) -> None:
    assert said("preset=vllm", f"policy.order={order}", f"policy.cache={cache}")
