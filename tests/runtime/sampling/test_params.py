"""Sampling options: the usual names, the usual ranges, and errors that say what would be right."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields
from typing import Any

import pytest

from runtime.sampling.params import SamplingError, SamplingParams


def test_the_defaults_sample_from_the_models_own_distribution() -> None:
    params = SamplingParams()
    assert not params.greedy
    assert not params.penalises
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (1, None, 1, 0)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1e-6}, {"top_k": 1}])
def test_some_options_mean_greedy(options: dict[str, Any]) -> None:
    assert SamplingParams(**options).greedy


def test_temperature_0_with_filters_and_a_seed_is_greedy_and_no_error() -> None:
    assert SamplingParams(temperature=0, top_k=50, top_p=0.9, min_p=0.1, seed=1).greedy


@pytest.mark.parametrize("all_tokens", [0, -1, None])
def test_clients_ways_to_say_all_tokens(all_tokens: int | None) -> None:
    assert SamplingParams(top_k=all_tokens).top_k is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("max_new_tokens", v) for v in (-1, 1.5, "7", True, None)],
        *[("min_new_tokens", v) for v in (-1, 129)],
        *[("temperature", v) for v in (-0.1, float("nan"), float("inf"), "hot", None, True)],
        *[("top_k", v) for v in (-2, 2.0, True, [3], "all")],
        *[("top_p", v) for v in (0, 1.01, -1, None)],
        *[("min_p", v) for v in (-0.1, 1.1)],
        *[("repetition_penalty", v) for v in (0, -1, float("inf"))],
        *[(f"{kind}_penalty", v) for kind in ("presence", "frequency") for v in (-2.1, 2.1)],
        *[("logit_bias", v) for v in ({1: 101.0}, {-1: 0.0}, {"a": 1.0}, {1: None}, [1], 3)],
        *[("seed", v) for v in (1.0, "x", 2**64, -(2**63) - 1)],
        *[("stop", v) for v in ("", ["a", ""], [3], 3)],
        *[("stop_token_ids", v) for v in ([-1], ["2"], 2, [True])],
        *[("include_stop_str_in_output", v) for v in (1, "yes", None)],
        ("ignore_eos", 1),
        *[("logprobs", v) for v in (-1, 21, 1.0)],
    ],
)
def test_what_cannot_be_is_an_error_with_field_value_and_range(field: str, value: object) -> None:
    with pytest.raises(SamplingError, match=rf"^{field} is .*; accepted: .+") as caught:
        SamplingParams(**{field: value})
    inner = next(iter(value.values())) if isinstance(value, dict) else value
    inner = next((v for v in value if v != "a"), inner) if isinstance(value, list) else inner
    assert (
        repr(inner) in str(caught.value)
        or repr(value) in str(caught.value)
        or field == "logit_bias"
    )


def test_every_field_is_checked() -> None:
    for field in fields(SamplingParams):
        with pytest.raises(SamplingError, match=field.name):
            SamplingParams(**{field.name: object()})


def test_one_stop_string_may_be_given_alone() -> None:
    assert SamplingParams(stop="\n").stop == ("\n",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")


def test_parameters_are_values() -> None:
    params = SamplingParams(logit_bias={"5": 1}, stop_token_ids=[3], seed=2**64 - 1)  # type: ignore[dict-item, arg-type]
    assert params.logit_bias == {5: 1.0}
    assert pickle.loads(pickle.dumps(params)) == params  # noqa: S301 - our own
    assert hash(params) == hash(SamplingParams(stop_token_ids=(3,), seed=2**64 - 1))


def test_ids_are_looked_up_in_the_vocabulary() -> None:
    SamplingParams(stop_token_ids=(9,), logit_bias={9: 1.0}).check_vocabulary(10)
    with pytest.raises(SamplingError, match=r"stop_token_ids is 10; accepted: ids below 10"):
        SamplingParams(stop_token_ids=(9, 10)).check_vocabulary(10)
    with pytest.raises(SamplingError, match=r"logit_bias is 11; accepted: ids below 10"):
        SamplingParams(logit_bias={11: 1.0}).check_vocabulary(10)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_new_tokens"])
def test_every_spelling_of_the_length_is_read(name: str) -> None:
    assert SamplingParams.from_mapping({name: 0}).max_new_tokens == 0


def test_spellings_may_agree_but_not_differ() -> None:
    both = {"max_tokens": 5, "max_completion_tokens": 5}
    assert SamplingParams.from_mapping(both).max_new_tokens == 5
    with pytest.raises(SamplingError, match=r"max_completion_tokens is 6.*max_tokens says 5"):
        SamplingParams.from_mapping({"max_tokens": 5, "max_completion_tokens": 6})


def test_null_means_the_default() -> None:
    nulls = {field.name: None for field in fields(SamplingParams)} | {"n": None}
    assert SamplingParams.from_mapping(nulls) == SamplingParams()


def test_unknown_fields_are_errors_that_list_the_known_ones_unless_they_are_to_be_ignored() -> None:
    body = json.loads('{"model": "m", "temperature": 0.5, "logit_bias": {"7": -100}}')
    with pytest.raises(SamplingError, match=r"unknown sampling field 'model'; known are .*top_p"):
        SamplingParams.from_mapping(body)
    params = SamplingParams.from_mapping(body, ignore_unknown=True)
    assert (params.temperature, params.logit_bias) == (0.5, {7: -100.0})


@pytest.mark.parametrize("n", [0, 2, "1", True, [1]])
def test_more_than_one_output_is_refused(n: object) -> None:
    with pytest.raises(SamplingError, match=r"^n is .*accepted: 1"):
        SamplingParams.from_mapping({"n": n})


@pytest.mark.parametrize(
    ("options", "logprobs"),
    [
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 3}, 3),
        ({"logprobs": False}, None),
        ({"logprobs": 4}, 4),
        ({"logprobs": None, "top_logprobs": None}, None),
    ],
)
def test_both_ways_to_ask_for_logprobs(options: dict[str, Any], logprobs: int | None) -> None:
    assert SamplingParams.from_mapping(options).logprobs == logprobs


@pytest.mark.parametrize("options", [{"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 21}])
def test_top_logprobs_need_the_switch_and_a_number_in_range(options: dict[str, Any]) -> None:
    with pytest.raises(SamplingError, match="top_logprobs is"):
        SamplingParams.from_mapping(options)


def test_ignoring_eos_leaves_the_clients_own_ends() -> None:
    assert SamplingParams(stop_token_ids=(5,)).end_ids([2]) == {2, 5}
    assert SamplingParams(stop_token_ids=(5,), ignore_eos=True).end_ids([2]) == {5}
