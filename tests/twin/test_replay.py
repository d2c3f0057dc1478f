"""`twin replay`: a trace in real time on a small random model, from the command line."""

from __future__ import annotations

import json
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

from tests.twin.test_verify import MODEL
from traces.native import write_native
from traces.records import load_run
from traces.tokens import ExplicitTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MS = 1_000_000


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    return folder


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """Three users with two turns each; all prompts begin alike, with ids beyond the vocabulary."""
    begin = [100_000 + i for i in range(20)]
    requests = []
    for user in range(3):
        for turn in range(2):
            ids = [*begin, *range(50 + user, 60 + user + 4 * turn)]
            requests.append(
                TraceRequest(
                    f"u{user}t{turn}",
                    (user + 3 * turn) * 40 * MS,
                    ExplicitTokens(ids),
                    ExplicitTokens([7] * (4 + user)),
                    session=f"u{user}",
                    depends_on=(f"u{user}t0",) if turn else (),
                    delay_ns=MS,
                )
            )
    requests.sort(key=lambda r: r.arrival_ns)
    path = tmp_path / "chat.jsonl"
    write_native(Workload("chat", requests), path)
    return path


def options(model: Path, *more: Any) -> tuple[Any, ...]:
    small = ("--set", "kv.capacity_tokens=256", "--set", "model.weight_dtype=fp32")
    return ("--model", model, "--load-format", "dummy", *small, *more)


def test_a_trace_is_played_and_its_decisions_can_be_taken_again(twin, chat, model):
    result = twin("replay", "--trace", chat, "--out", "run", *options(model))
    assert result.exit_code == 0, result.output
    assert "TTFT (ms)" in result.stdout
    assert "attention: torch, " in result.stderr
    run = load_run("run")
    assert run.manifest["world"] == "runtime"
    rows = run.requests.set_index("id")
    assert {name: row.output_tokens for name, row in rows.iterrows()} == {
        f"u{user}t{turn}": 4 + user for user in range(3) for turn in range(2)
    }
    assert (rows.cached_tokens >= 20).sum() >= 3, "what prompts share is still shared"
    assert twin("verify", "run").stdout.startswith("identical: ")
    assert twin("compare", "run").exit_code == 0


def test_ids_are_folded_into_the_vocabulary_alike(twin, chat, model):
    twin("replay", "--trace", chat, "--out", "run", *options(model))
    prompts = load_run("run").tokens.set_index("request_id")["prompt"]
    for ids in prompts:
        assert ids.max() < MODEL["vocab_size"]
        assert np.array_equal(ids[:20], prompts["u0t0"][:20])


@pytest.mark.parametrize(("loop", "waits"), [("closed", True), ("open", False)])
def test_the_loop_is_the_configs(twin, chat, model, loop, waits):
    speed = ("--speedup", 1000, "--loop", loop)
    twin("replay", "--trace", chat, "--out", "run", *options(model, *speed))
    rows = load_run("run").requests.set_index("id")
    gaps = [rows.arrival_ns[f"u{u}t1"] - rows.finish_ns[f"u{u}t0"] for u in range(3)]
    assert all(gap == MS for gap in gaps) == waits


def test_the_same_options_as_of_simulate_reach_the_run(twin, chat, model, tmp_path):
    config = {"policy": {"page_size": 4}, "workload": {"max_new_tokens": 2}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    more = ("--config", "c.yaml", "--limit", 2, "--records", "tokens", "--seed", 3)
    policy = ("--preset", "vllm", "--set", "policy.order=lpm")
    result = twin("replay", "--trace", chat, "--out", "run", *options(model, *more), *policy)
    assert result.exit_code == 0, result.output
    assert "beyond vllm: " in result.stderr
    run = load_run("run")
    assert run.manifest["records"] == ["requests", "tokens"]
    assert run.manifest["seed"] == 3
    assert len(run.requests) == 2
    assert set(run.requests.output_tokens) == {2}
    policy = run.manifest["config"]["policy"]
    assert (policy["page_size"], policy["order"]) == (4, "lpm")
    assert policy["batching"] == "decode-first"


def test_json_is_all_that_stdout_gets(twin, chat, model):
    result = twin("replay", "--trace", chat, "--out", "run", "--json", *options(model))
    values = json.loads(result.stdout)
    assert values["finished"] == 6
    assert values["status"] == "complete"


def test_ctrl_c_keeps_what_was_recorded(twin, chat, model, monkeypatch):
    from runtime.recorder import Recorder

    before = Recorder.committed

    def interrupted(self: Recorder, *given: Any) -> None:
        before(self, *given)
        if self.steps == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "committed", interrupted)
    result = twin("replay", "--trace", chat, "--out", "run", *options(model))
    assert result.exit_code == 130
    assert "unfinished ones and 8 steps are kept in run" in result.stderr
    assert load_run("run").status == "interrupted"


def test_what_is_asked_wrongly_is_said_before_anything_is_played(twin, chat, model, tmp_path):
    for wrong, message in (
        (("--trace", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--trace", chat, "--model", tmp_path / "none"), "model.path: .*none"),
        (("--trace", chat, "--set", "runtime.attention=fast"), "runtime.attention"),
        (("--trace", chat, "--set", "latency.modle=roofline"), "unknown key 'latency.modle'"),
        (("--trace", chat, "--set", "latency.model=replayed"), "latency.run: Field required"),
        (("--trace", chat, "--set", "host.foo=1"), "unknown key 'host.foo'"),
        (("--trace", chat, "--records", "everything"), "unknown records everything"),
        (("--trace", chat, "--loop", "open", "--concurrency", 2), "kept in a closed loop only"),
    ):
        result = twin("replay", *options(model), *wrong, "--out", "run")
        assert result.exit_code == 2, wrong
        assert re.search(message, result.stderr), (wrong, result.stderr)
        assert not (tmp_path / "run").exists()


def test_what_only_the_simulator_reads_need_not_be_here(twin, chat, model, tmp_path):
    config = "latency: {model: calibrated, profile: gone.json}\nhost: {profile: gone.json}\n"
    (tmp_path / "shared.yaml").write_text(config)
    given = ("--config", "shared.yaml", "--set", "kv.mem_fraction=0.5")
    result = twin("replay", "--trace", chat, "--out", "run", *given, *options(model))
    assert result.exit_code == 0
    assert "note: kv.mem_fraction 0.5 is not read: kv.capacity_tokens 256" in result.stderr


def test_a_run_that_is_there_is_kept(twin, chat, model):
    twin("replay", "--trace", chat, "--out", "run", "--limit", 1, *options(model))
    result = twin("replay", "--trace", chat, "--out", "run", *options(model))
    assert result.exit_code == 2
    assert "already holds a run" in result.stderr
    again = twin("replay", "--trace", chat, "--out", "run", "--overwrite", *options(model))
    assert again.exit_code == 0
    assert len(load_run("run").requests) == 6


def test_a_missing_extra_says_how_to_install_it(twin, chat, model, monkeypatch):
    module = import_module("twin.replay")
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "torch" else object())
    result = twin("replay", "--trace", chat, *options(model))
    assert result.exit_code == 2
    assert "needs torch: install it with pip install 'schedtwin[runtime]'" in result.stderr


def test_texts_become_the_models_tokens(twin, model, tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["<unk>", "<s>", "</s>", "what", "is", "it", "all", "about", "this"]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    backend.pre_tokenizer = Whitespace()
    backend.save(str(model / "tokenizer.json"))
    short = ("--set", "workload.max_new_tokens=5")
    says = [("human", "what is it"), ("gpt", "all about this"), ("human", "this is what")]
    row = {"id": "a", "conversations": [{"from": who, "value": what} for who, what in says]}
    (tmp_path / "chat.json").write_text(json.dumps([row]), encoding="utf-8")
    result = twin(
        "replay", "--trace", "chat.json", "--text", "--out", "run", *options(model, *short)
    )
    assert result.exit_code == 0, result.output
    run = load_run("run")
    prompts = [ids.tolist() for ids in run.tokens["prompt"]]
    assert prompts == [[3, 4, 5], [3, 4, 5, 6, 7, 8, 8, 4, 3]]
    assert run.requests.output_tokens.tolist() == [5, 5]
    assert run.manifest["workload"]["tokens"] == "by a tokenizer"


def test_text_is_refused_where_there_is_none(twin, chat, model):
    result = twin("replay", "--trace", chat, "--text", *options(model))
    assert result.exit_code == 2
    assert "has no tokenizer; leave --text out" in result.stderr
    result = twin("replay", "--workload", "mooncake-conversation", "--text", *options(model))
    assert "give --trace PATH" in result.stderr
