"""The engine: what clients hand in and get back, and what happens to what cannot be served."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import pytest

from policies.config import ConfigError
from policies.request import FinishReason
from runtime import Engine, EngineError, InvalidRequestError, SamplingParams, load_model
from traces.records.run import load_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runtime import LoadedModel
    from tests.runtime.conftest import TinyModel

GREEDY = SamplingParams(max_new_tokens=6, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def loaded(tiny_model: TinyModel) -> LoadedModel:
    return load_model(tiny_model("llama"), dtype="float32")


@pytest.fixture
def engine(loaded: LoadedModel) -> Iterator[Engine]:
    with Engine(loaded=loaded, kv={"capacity_tokens": 256}) as engine:
        yield engine
    assert not [t for t in threading.enumerate() if t.name.startswith("runtime-")]


def test_answers_come_in_the_order_of_the_prompts(engine: Engine) -> None:
    alone = [engine.generate([[i, i + 1]], GREEDY)[0].output_ids.tolist() for i in range(3, 9)]
    together = engine.generate([[i, i + 1] for i in range(3, 9)], GREEDY)
    assert [output.output_ids.tolist() for output in together] == alone
    assert all(output.finish_reason is FinishReason.LENGTH for output in together)
    assert [output.prompt_ids.tolist() for output in together] == [[i, i + 1] for i in range(3, 9)]


def test_each_prompt_may_have_its_own_params(engine: Engine) -> None:
    params = [SamplingParams(max_new_tokens=n, temperature=0.0, ignore_eos=True) for n in (1, 5)]
    assert [len(o.output_ids) for o in engine.generate([[3], [4]], params)] == [1, 5]
    with pytest.raises(ValueError, match="2 prompts with 1 params"):
        engine.generate([[3], [4]], [GREEDY])
    with pytest.raises(TypeError, match="put a single one into a list"):
        engine.generate("hello", GREEDY)


def test_a_stream_gives_what_generate_gives(engine: Engine) -> None:
    whole = engine.generate([[7, 8, 9]], GREEDY)[0].output_ids.tolist()
    assert [t for delta in engine.stream([7, 8, 9], GREEDY) for t in delta.tokens] == whole


def test_a_stream_given_up_ends_its_request(engine: Engine) -> None:
    long = SamplingParams(max_new_tokens=200, temperature=0.0, ignore_eos=True)
    stream = engine.stream([7, 8, 9], long)
    next(stream)
    stream.close()
    assert engine.generate([[3]], GREEDY)[0].error is None


def test_nothing_asked_for_is_nothing_given(engine: Engine) -> None:
    none = SamplingParams(max_new_tokens=0, temperature=0.0)
    output = engine.generate([[3, 4]], none)[0]
    assert (output.output_ids.tolist(), output.error) == ([], None)
    assert list(engine.stream([3, 4], none)) == []


def test_an_abort_ends_a_request_with_what_it_has(engine: Engine) -> None:
    long = SamplingParams(max_new_tokens=240, temperature=0.0, ignore_eos=True)
    answer = engine.submit([7, 8], long, every_token=True)
    next(answer.deltas())
    assert engine.abort(answer.job.request.id)
    output = answer.result(30)
    assert output.finish_reason is FinishReason.ABORT
    assert 1 <= len(output.output_ids) < 240
    assert not engine.abort(answer.job.request.id), "it has ended"


BAD: list[tuple[Any, SamplingParams, str]] = [
    ([3, 320], GREEDY, "token id 320 at place 1 .* ids are 0 to 319"),
    ([-1], GREEDY, "token id -1 at place 0"),
    ([0.5], GREEDY, "no flat list of token ids"),
    ([[1, 2]], GREEDY, "no flat list of token ids"),
    ("text", GREEDY, "loaded without a tokenizer"),
    ([], GREEDY, "the prompt is empty"),
    (list(range(3, 260)), GREEDY, "the prompt has 257 tokens"),
    ([3], SamplingParams(stop_token_ids=[320]), "stop_token_ids is 320"),
    ([3], SamplingParams(stop=["x"]), "no tokenizer was loaded"),
]


@pytest.mark.parametrize(("prompt", "params", "why"), BAD)
def test_what_cannot_be_served_is_an_error_of_its_own(
    engine: Engine, prompt: Any, params: SamplingParams, why: str
) -> None:
    good, bad = engine.generate([[5, 6], prompt], [GREEDY, params])
    assert good.error is None
    assert len(good.output_ids) == 6
    assert bad.finish_reason is FinishReason.REFUSED
    assert re.search(why, bad.error or "")
    assert len(bad.output_ids) == 0
    with pytest.raises((InvalidRequestError, EngineError), match=why):
        list(engine.stream(prompt, params))


def test_two_requests_cannot_share_an_id(engine: Engine) -> None:
    long = SamplingParams(max_new_tokens=200, temperature=0.0, ignore_eos=True)
    first = engine.submit([3], long, id="same")
    with pytest.raises(InvalidRequestError, match="'same' is in use"):
        engine.submit([4], long, id="same")
    engine.abort("same")
    first.result(30)
    engine.submit([4], GREEDY, id="same").result(30)


def test_requests_from_many_threads(engine: Engine) -> None:
    expected = {i: engine.generate([[i, 5]], GREEDY)[0].output_ids.tolist() for i in range(6)}
    got: dict[int, list[int]] = {}

    def client(i: int) -> None:
        for _ in range(3):
            got[i] = engine.submit([i, 5], GREEDY).result(60).output_ids.tolist()

    threads = [threading.Thread(target=client, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


def test_log_probabilities_come_with_their_tokens(engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=4, temperature=0.0, ignore_eos=True, logprobs=2)
    plain, rich = engine.generate([[3, 4], [3, 4]], [GREEDY, params])
    assert plain.logprobs is None
    assert rich.logprobs is not None
    assert [entry.token for entry in rich.logprobs] == rich.output_ids.tolist()
    for entry in rich.logprobs:
        assert entry.top[0] == (entry.token, entry.logprob), "greedy takes the most likely"
        assert entry.top[1][1] < entry.logprob < 0


def test_a_seed_decides_whatever_else_runs(engine: Engine) -> None:
    seeded = SamplingParams(max_new_tokens=8, seed=7, ignore_eos=True)
    other = SamplingParams(max_new_tokens=8, ignore_eos=True)
    alone = engine.generate([[9, 8]], seeded)[0].output_ids.tolist()
    many = engine.generate([[5, 5], [9, 8], [1, 2, 3]], [other, seeded, other])
    assert many[1].output_ids.tolist() == alone


def test_a_closed_engine_says_so(loaded: LoadedModel) -> None:
    engine = Engine(loaded=loaded, kv={"capacity_tokens": 64})
    answer = engine.submit([3, 4], GREEDY)
    assert engine.close() is None
    assert answer.done, "what came in is finished first"
    engine.close()
    with pytest.raises(EngineError, match="takes no more requests: it was closed"):
        engine.submit([3], GREEDY)


def test_an_engine_that_fails_tells_everybody(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(loaded=loaded, kv={"capacity_tokens": 64}, out=tmp_path / "run")

    def broken(s: Any) -> None:
        raise ZeroDivisionError("a policy's own mistake")

    monkeypatch.setattr(engine._world.scheduler.batching, "next_batch", broken)
    with pytest.raises(EngineError, match="a policy's own mistake"):
        engine.generate([[3, 4], [5]], GREEDY)
    with pytest.raises(EngineError, match="a policy's own mistake"):
        engine.submit([3], GREEDY)
    with pytest.raises(EngineError, match="a policy's own mistake"):
        engine.close()
    run = load_run(tmp_path / "run")
    assert run.status == "failed: ZeroDivisionError: a policy's own mistake"
    assert run.manifest["counts"]["unfinished"] == 2


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        (
            {"runtime": {"atention": "torch"}},
            "unknown key 'runtime.atention'; known here are device",
        ),
        ({"runtime": {"attention": "tensor"}}, "runtime.attention.*'tensor'"),
        ({"runtime": {"device": "cuda:99"}}, "runtime.device: cuda:99 cannot be used"),
        ({"runtime": {"device": "tpu"}}, "runtime.device"),
        ({"runtime": {"kv_gib": 1e6}}, "runtime.kv_gib: 1000000.0 GiB are more than"),
        ({"runtime": {"attention": "flashinfer"}}, "runtime.attention: .*cannot work here"),
        ({"kv": {"capacity_tokens": 1}}, "kv.capacity_tokens: 1 tokens are less than two pages"),
        ({"policy": {"context_limit": 1024}}, "context_limit: 1024 is more than the model's 512"),
        ({"model": {"kv_dtype": "bf16"}}, "kv_dtype: bf16 with weights in float32"),
        ({"model": {"path": "/nowhere"}}, "model.path: /nowhere: no such folder or file"),
    ],
)
def test_a_config_that_cannot_be_used(
    tiny_model: TinyModel, sections: dict[str, Any], why: str
) -> None:
    model = {"path": str(tiny_model("llama")), "weight_dtype": "fp32"}
    given = {**sections, "model": {**model, **sections.get("model", {})}}
    with pytest.raises(ConfigError, match=why):
        Engine(**given)


def test_what_is_auto_is_resolved_and_recorded(tiny_model: TinyModel, tmp_path: Path) -> None:
    config = {
        "model": {"path": str(tiny_model("llama"))},
        "policy": {"page_size": 16},
        "runtime": {"kv_gib": 0.001},
    }
    with Engine(config, out=tmp_path / "run") as engine:
        engine.generate([[3, 4, 5]], GREEDY)
        capacity = engine.stack.capacity
        per_token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, KV heads, head size, bytes
        pages = int(0.001 * 2**30) // (16 * per_token)
        assert capacity == (pages - 1) * 16, "one page is padding"
    manifest = load_run(tmp_path / "run").manifest
    assert manifest["world"] == "runtime"
    assert manifest["status"] == "complete"
    assert manifest["kv_capacity_tokens"] == capacity
    assert manifest["resolved"]["attention"]["name"] == "torch"
    assert manifest["resolved"]["context_limit"] == 512
    assert manifest["resolved"]["chunked_prefill_size"] >= 2048
    assert manifest["resolved"]["dtype"] == "float32"
    assert manifest["versions"]["torch"]
    assert manifest["counts"]["finished"] == 1


def test_text_comes_with_a_tokenizer(tiny_model: TinyModel) -> None:
    import tokenizers

    from runtime.weights.tokenizer import Tokenizer

    words = {f"w{i}": i for i in range(320)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model = load_model(tiny_model("llama"), dtype="float32")
    loaded = type(model)(model.model, model.config, Tokenizer(backend, eos_ids=(2,)), "words")
    with Engine(loaded=loaded, kv={"capacity_tokens": 128}) as engine:
        output = engine.generate(["w7 w8 w9"], GREEDY)[0]
        ids = output.output_ids.tolist()
        assert output.prompt_ids.tolist() == [7, 8, 9]
        assert output.text == " ".join(f"w{i}" for i in ids)
        assert "".join(d.text for d in engine.stream("w7 w8 w9", GREEDY)) == output.text
        stop = SamplingParams(
            max_new_tokens=6, temperature=0.0, stop=[f"w{ids[3]}"], ignore_eos=True
        )
        stopped = engine.generate(["w7 w8 w9"], stop)[0]
        first = ids.index(ids[3])
        assert stopped.finish_reason is FinishReason.STOP
        assert stopped.stop_reason == f"w{ids[3]}"
        assert stopped.output_ids.tolist() == ids[: first + 1]
        assert "".join(d.text for d in engine.stream("w7 w8 w9", stop)) == stopped.text
