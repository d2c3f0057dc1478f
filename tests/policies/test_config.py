"""The config: YAML in and out, settings over it, and errors that say what would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from policies import Accidents, Config, ConfigError, PolicyConfig, load_config, make_config
from tests.policies.workloads import policies

if TYPE_CHECKING:
    from pathlib import Path


def test_every_key_has_a_default() -> None:
    config = load_config(Config)
    assert config == Config()
    assert config.policy.order == "fcfs"
    assert config.policy.overlap == "overlapped"
    assert config.policy.page_size == 1
    assert config.policy.max_prefill_tokens == 16384
    assert config.model.path == "Qwen/Qwen3-8B"
    assert config.device.name == "h200"


@given(policies())
def test_yaml_loses_nothing(policy: PolicyConfig) -> None:
    import yaml

    config = Config(policy=policy, seed=7, host={"free": "form"})
    assert make_config(Config, yaml.safe_load(config.to_yaml())) == config


def test_a_file_is_read_and_settings_go_over_it(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("policy: {order: lpm, page_size: 16}\nseed: 3\n")
    settings = [
        "policy.order=dfs-weight",
        "policy.priority.enabled=true",
        "policy.chunked_prefill_size=null",
        "kv.capacity_tokens=1000",
        "policy.accidents=none",
    ]
    config = load_config(Config, path, settings)
    assert config.policy.order == "dfs-weight"
    assert config.policy.page_size == 16
    assert config.policy.priority.enabled
    assert config.policy.chunked_prefill_size is None
    assert config.kv.capacity_tokens == 1000
    assert config.policy.accidents == Accidents.none()
    assert config.seed == 3


def test_a_key_merged_in_may_be_given_anew(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "host: &base {order: lpm, page_size: 16}\npolicy:\n  <<: *base\n  page_size: 32\n"
    )
    config = load_config(Config, path)
    assert (config.policy.order, config.policy.page_size) == ("lpm", 32)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load_config(Config, path) == Config()


def test_minus_one_switches_chunking_off_as_in_sglang() -> None:
    assert PolicyConfig(chunked_prefill_size=-1).chunked_prefill_size is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["policy.ordr=lpm"], r"unknown key 'policy.ordr'; known here are order, .*page_size"),
        (["polcy.order=lpm"], r"unknown key 'polcy'; known here are policy, model, device"),
        (
            ["order=lpm"],
            r"^unknown key 'order': that is policy.order; known here are policy, model",
        ),
        (
            ["new_token_ratio.init=1"],
            r"^unknown key 'new_token_ratio': that is policy.new_token_ratio",
        ),
        (["policy.priority.on=true"], r"unknown key 'policy.priority.on'; known here are enabled"),
        (["policy.accidents.typo=true"], r"unknown key 'policy.accidents.typo'"),
        (["policy.order=sjf"], r"^policy.order: unknown queue order 'sjf'; known are .*fcfs"),
        (["policy.batching=orca"], r"^policy.batching: unknown batching 'orca'; known are .*mixed"),
        (["policy.eviction=rand"], r"^policy.eviction: unknown eviction 'rand'; known are .*lru"),
        (
            ["policy.retraction=x"],
            r"^policy.retraction: unknown retraction 'x'; known are .*last-in",
        ),
        (["policy.overlap=maybe"], r"policy.overlap: .*'overlapped' or 'serial', not 'maybe'"),
        (["policy.page_size=0"], r"policy.page_size: .*greater than 0, not 0"),
        (["policy.page_size=many"], r"^policy.page_size: Input should be an integer, not 'many'$"),
        (["policy.page_size=1.5"], r"^policy.page_size: Input should be an integer, not 1.5$"),
        (["policy.priority.enabled=x"], r"enabled: Input should be true or false, not 'x'$"),
        (["kv.mem_fraction=x"], r"^kv.mem_fraction: Input should be a number, not 'x'$"),
        (["policy.max_running_requests=-1"], r"policy.max_running_requests: .*, not -1"),
        (["policy.new_token_ratio.min_factor=2"], r"min_factor: .*less than or equal to 1, not 2"),
        (
            ["policy.order_options={seed: 1}"],
            r"^policy.order_options: queue order 'fcfs' has no option 'seed'",
        ),
        (
            ["policy.batching=decode-first", "policy.batching_options.max_num_batched_tokens=x"],
            r"^policy.batching_options: option 'max_num_batched_tokens' .* cannot be 'x'",
        ),
        (
            ["policy.chunked_prefill_size=some"],
            r"^policy.chunked_prefill_size: Input should be an integer or 'auto', not 'some'$",
        ),
        (["policy.priority=3"], r"^policy.priority: is a section, a mapping of keys, not 3$"),
        (["policy=null"], r"^policy: is a section, a mapping of keys, not None$"),
        (["policy.priority={enabled: 1, enabled: 0}"], r"line 1: key 'enabled' is there already"),
        (["policy.page_size=16", "policy.chunked_prefill_size=8"], r"8 is below page_size 16"),
        (["policy.order=shortest-prefill-first", "policy.cache=none"], r"set cache to radix"),
        (["policy.accidents=all"], r"policy.accidents: expected reference, none or .*, not 'all'"),
        (["kv.mem_fraction=1.5"], r"kv.mem_fraction: .*, not 1.5"),
        (["seed=-1"], r"seed: .*, not -1"),
        (["policy.order"], r"setting 'policy.order' is not of the form section.key=value"),
        (["policy..order=lpm"], r"is not of the form"),
        (["policy.order={"], r"setting 'policy.order=\{': '\{' is not YAML"),
        (["seed=3", "seed.x=4"], r"'seed' is the value 3, not a section"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Config, None, settings)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        make_config(
            Config, {"policy": {"page_size": 0, "ordr": "x"}, "seed": -1}, source="run.yaml"
        )
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("run.yaml: ") for line in lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"missing.yaml: cannot be read \(No such file or directory\)"),
        (b"policy: [", r"is not YAML"),
        (b"\xff\xfe\x00", r"is not YAML"),
        (b"- a\n- b\n", r"holds a list; a config is a mapping of sections"),
        (b"policy: {page_size: no}", r"missing.yaml: policy.page_size"),
        (
            b"policy:\n  order: lpm\n  page_size: 16\n  order: fcfs\n",
            r"missing.yaml: line 4: key 'policy.order' is there already, in line 2; leave one out",
        ),
        (b"seed: 1\npolicy: {order: lpm}\nseed: 1\n", r"line 3: key 'seed' is there already"),
        (b"policy:\n- {a: 1, a: 2}\n", r"line 2: key 'policy.0.a' is there already"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "missing.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(Config, path)


def test_a_config_does_not_change() -> None:
    config: Any = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.policy.order = "lpm"
