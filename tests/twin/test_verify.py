"""`twin verify`: runs of either world decide the same again, and a difference ends with exit code 1."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from runtime import Engine, SamplingParams, load_model
from runtime import replay as play
from simulator.verify import verify
from traces.native import write_native
from traces.records import load_run
from traces.tokens import ExplicitTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runtime import LoadedModel
    from traces import Run

MS = 1_000_000
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
LITTLE_RESERVE = {"init": 0.01, "min_factor": 0.01}
FAMILIES: dict[str, dict[str, Any]] = {
    "prefill-first": {"chunked_prefill_size": 16, "new_token_ratio": LITTLE_RESERVE},
    "mixed": {
        "batching": "mixed",
        "chunked_prefill_size": 16,
        "new_token_ratio": LITTLE_RESERVE,
        "order": "lpm",
    },
    "preempting": {
        "chunked_prefill_size": 16,
        "new_token_ratio": LITTLE_RESERVE,
        "priority": {"enabled": True, "preemption_threshold": 5},
    },
    "decode-first": {
        "batching": "decode-first",
        "cache": "blocks",
        "batching_options": {"max_num_batched_tokens": 16},
    },
    "decode-first, priorities": {
        "batching": "decode-first",
        "cache": "blocks",
        "batching_options": {"max_num_batched_tokens": 16},
        "priority": {"enabled": True, "low_values_first": True},
    },
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    return load_model(folder, dtype="float32", load_format="dummy")


def crowd() -> Workload:
    """Prompts that share a beginning, in namespaces; some give up, one asks for more than there is."""
    rng = np.random.default_rng(3)
    shared = rng.integers(10, 90, 24)
    requests = []
    for i in range(16):
        ids = [*shared[: rng.integers(0, 24)], *rng.integers(10, 90, rng.integers(1, 9))]
        output = int(rng.integers(1, 60))
        requests.append(
            TraceRequest(
                f"r{i:02}",
                i // 8 * 20 * MS,
                ExplicitTokens([int(x) for x in ids]),
                ExplicitTokens(np.zeros(output, dtype=np.int32)),
                max_new_tokens=output if i % 3 == 0 else output + 5,
                ignore_eos=i % 3 == 0,
                priority=i % 3 * 10,
                extra_key="mine" if i % 5 == 0 else None,
                lora_id="adapter" if i % 4 == 0 else None,
                tenant=f"t{i % 2}",
                abort_ns=25 * MS if i in {6, 7, 11} else None,
            )
        )
    long = ExplicitTokens(np.full(400, 7))
    requests.append(TraceRequest("long", 20 * MS, long, ExplicitTokens([1])))
    return Workload("crowd", requests)


def played(loaded: LoadedModel, out: Path | None = None, **policy: Any) -> Run:
    config = {
        "policy": {"page_size": 4, "max_running_requests": 8, **policy},
        "kv": {"capacity_tokens": 112},
    }
    return play(crowd(), config, loaded=loaded, out=out, records=("steps", "decisions"))


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_runtime_decides_what_the_simulator_decides(
    loaded: LoadedModel, family: str, overlap: str
) -> None:
    run = played(loaded, overlap=overlap, **FAMILIES[family])
    verdict = verify(run)
    assert verdict.identical, str(verdict)
    assert verdict.note is None
    assert verdict.steps == run.manifest["counts"]["steps"] > 50
    assert verdict.requests == 17


def test_those_runs_hold_what_they_are_to_hold(loaded: LoadedModel) -> None:
    seen = [played(loaded, **FAMILIES[family]) for family in FAMILIES]
    assert sum(run.requests.retractions.sum() for run in seen[:3]) > 0
    assert all(run.requests.retractions.sum() > 0 for run in seen[3:])
    assert all((run.requests.finish_reason == "refused").sum() == 1 for run in seen)
    assert any((run.requests.finish_reason == "abort").any() for run in seen)
    assert any((run.steps["mode"] == "empty").any() for run in seen)
    assert any((run.steps["mode"] == "mixed").any() for run in seen)


def test_a_live_engine_with_requests_given_up(loaded: LoadedModel, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    config = {"kv": {"capacity_tokens": 96}, "policy": {"new_token_ratio": LITTLE_RESERVE}}
    with Engine(config, loaded=loaded, out=tmp_path / "run", records=("decisions",)) as engine:
        answers = [
            engine.submit(
                rng.integers(3, 90, int(rng.integers(1, 30))).tolist(),
                SamplingParams(max_new_tokens=int(rng.integers(1, 30)), seed=i),
                session="again",
            )
            for i in range(20)
        ]
        for answer in answers[5::4]:
            engine.abort(answer.job.request.id)
        for answer in answers:
            answer.result(60)
        # an id may come again
        for _ in range(2):
            engine.submit([3, 4, 5], SamplingParams(max_new_tokens=3), id="twice").result(60)
    verdict = verify(tmp_path / "run")
    assert verdict.identical, str(verdict)
    assert verdict.requests == 22


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_begins_anew_after_a_step_failed_is_the_same_too(
    loaded: LoadedModel, family: str, overlap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.forward import Forward

    call, seen = Forward.__call__, 0

    def failing(self: Forward, *given: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen in {20, 60}:
            raise RuntimeError("the device is tired")
        return call(self, *given)

    monkeypatch.setattr(Forward, "__call__", failing)
    run = played(loaded, overlap=overlap, **FAMILIES[family])
    assert run.manifest["counts"]["failed_steps"] == 2
    assert (run.decisions["kind"] == "restart").sum() == 2
    verdict = verify(run)
    assert verdict.identical, str(verdict)
    assert verdict.steps > run.manifest["counts"]["steps"], "those that failed were planned too"
    assert verdict.requests == 17


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_a_run_that_was_interrupted_is_gone_through_as_far_as_it_goes(
    loaded: LoadedModel, overlap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.recorder import Recorder

    before = Recorder.committed

    def interrupted(self: Recorder, *given: Any) -> None:
        before(self, *given)
        if self.steps == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "committed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        played(loaded, tmp_path / "run", overlap=overlap, **FAMILIES["mixed"])
    verdict = verify(tmp_path / "run")
    assert verdict.identical, str(verdict)
    assert verdict.steps == 30 + (overlap == "overlapped")
    assert verdict.note == "as far as it was recorded: the run was interrupted"


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def run(twin, trace) -> str:
    twin("simulate", "--trace", trace, "--out", "a", "--records", "decisions")
    return "a"


def tamper(run: str) -> None:
    """Add one to the first position that is decoded."""
    file = load_run(run).path / "decisions.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    next(row for row in rows if row["item_kind"] == "decode")["start"] += 1
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


def test_an_identical_run_is_said_in_a_line(twin, run):
    result = twin("verify", run)
    steps = load_run(run).manifest["counts"]["steps"]
    assert result.exit_code == 0
    assert result.stdout == f"identical: {steps:,} steps, 12 requests\n"


def test_a_difference_is_said_with_exit_code_1(twin, trace, run):
    twin("simulate", "--trace", trace, "--out", "b", "--records", "decisions")
    tamper("b")
    result = twin("verify", "a", "b")
    assert result.exit_code == 1
    first, second, *rest = result.stdout.splitlines()
    assert first.startswith("a: identical: ")
    assert second.startswith("b: different after ")
    assert "item 1 of 1 in the batch is another" in second
    assert [line.split()[0] for line in rest] == ["planned:", "recorded:", "state:"]
    planned, recorded = (int(line.split("[")[1].split(",")[0]) for line in rest[:2])
    assert recorded == planned + 1
    said = json.loads(twin("verify", "a", "b", "--json").stdout)
    assert [verdict["identical"] for verdict in said] == [True, False]
    assert said[1]["difference"]["iteration"] > 0


def test_what_cannot_be_verified_is_an_error(twin, trace):
    twin("simulate", "--trace", trace, "--out", "a")
    result = twin("verify", "a")
    assert result.exit_code == 2
    assert "record one with --records decisions" in result.stderr
    assert twin("verify", "nowhere").exit_code == 2


def test_a_policy_of_ones_own_is_loaded_as_for_the_run(twin, trace, tmp_path, own_orders):
    (tmp_path / "mine.py").write_text(
        "from policies import ORDERS\n"
        "from policies.orders.base import QueueOrder\n"
        "@ORDERS.register('mine')\n"
        "class Mine(QueueOrder):\n"
        "    def arrange(self, waiting, view):\n"
        "        return sorted(waiting, key=lambda r: -r.prompt_len)\n",
        encoding="utf-8",
    )
    from policies.registry import ORDERS

    options = ("--policy", "mine.py", "--set", "policy.order=mine", "--records", "decisions")
    assert twin("simulate", "--trace", trace, "--out", "a", *options).exit_code == 0
    assert twin("verify", "a", "--policy", "mine.py").stdout.startswith("identical: ")
    del ORDERS._classes["mine"]
    result = twin("verify", "a")
    assert result.exit_code == 2
    assert "unknown queue order 'mine'" in result.stderr


def test_a_run_that_was_leapt_through_otherwise_is_walked_for_its_decisions(twin, tmp_path):
    """Decisions switch leaping off, so that there is a row for every step."""
    prompt, output = ExplicitTokens(range(10, 40)), ExplicitTokens([1] * 300)
    requests = [TraceRequest(f"r{i}", i, prompt, output) for i in range(3)]
    write_native(Workload("steady", requests), tmp_path / "steady.jsonl")
    twin("simulate", "--trace", "steady.jsonl", "--out", "a", "--records", "steps,decisions")
    said = twin("verify", "a").stdout
    assert said == f"identical: {len(load_run('a').steps):,} steps, 3 requests\n"
    numbers = load_run("a").steps.iteration
    assert all(two == one + 1 for one, two in pairwise(numbers))
