"""The batched sampler: equal to the row-by-row reference, and a row's token is its own affair."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from runtime.sampling import reference
from runtime.sampling.draw import Weights
from runtime.sampling.filters import LONGEST_LIST, halved_floor, listed_floor, sorted_down
from runtime.sampling.noise import as_int64, default_seed, uniform
from runtime.sampling.params import SamplingParams
from runtime.sampling.sampler import Sampler

VOCAB = 300  # not a multiple of the block that sums are taken of
EOS = 2
NOTHING = np.zeros(0, dtype=np.int32)
NEAR = 1e-5  # float32 weights may fall on the other side of a threshold so near


@st.composite
def some_params(draw: st.DrawFn) -> SamplingParams:
    """Each option is as often left alone as it is used."""

    def maybe(strategy: st.SearchStrategy[Any], otherwise: Any) -> Any:
        return draw(st.one_of(st.just(otherwise), strategy))

    ids = st.integers(0, VOCAB - 1)
    return SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.6])),
        top_k=maybe(st.sampled_from([1, 2, 5, 40, 299, 300, 10**12]), None),
        top_p=maybe(st.sampled_from([0.05, 0.5, 0.9, 0.999]), 1.0),
        min_p=maybe(st.sampled_from([0.02, 0.3, 1.0]), 0.0),
        repetition_penalty=maybe(st.sampled_from([0.5, 1.3]), 1.0),
        presence_penalty=maybe(st.sampled_from([-1.0, 0.7]), 0.0),
        frequency_penalty=maybe(st.sampled_from([-0.5, 0.4]), 0.0),
        logit_bias=maybe(
            st.dictionaries(ids, st.sampled_from([-100.0, -1.0, 2.5]), max_size=4), {}
        ),
        seed=maybe(st.integers(-(2**63), 2**64 - 1), None),
        stop_token_ids=maybe(st.just((7, 0)), ()),
        min_new_tokens=draw(st.sampled_from([0, 0, 3])),
        ignore_eos=draw(st.booleans()),
        logprobs=maybe(st.integers(0, 5), None),
    )


def on_the_edge(logits: np.ndarray, params: SamplingParams, number: float) -> bool:
    """Rounding decides: thresholds slightly off keep other tokens, or the number is at a boundary."""
    for nudge in (1 - NEAR, 1 + NEAR):
        nudged = replace(params, top_p=min(1.0, params.top_p * nudge) if params.top_p < 1 else 1.0)
        nudged = replace(nudged, min_p=min(1.0, params.min_p * nudge))
        nudged_logits = logits * nudge if params.top_k is None else logits
        one = reference.distribution(logits, params) > 0
        if ((reference.distribution(nudged_logits, nudged) > 0) != one).any():
            return True
    cumulated = np.cumsum(reference.distribution(logits, params))
    return bool(np.abs(cumulated - number).min() < NEAR)


@given(st.lists(some_params(), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_a_batch_gets_what_the_reference_gives_each_row(
    all_params: list[SamplingParams], s: int
) -> None:
    rng = np.random.default_rng(s)
    n = len(all_params)
    sampler = Sampler(2 * n, VOCAB, "cpu", eos_ids=[EOS])
    rows = rng.permutation(2 * n)[:n] + 1
    # a coarse grid of logits ties often
    logits = rng.integers(-24, 25, (n, VOCAB)) / 4 if s % 2 else 3 * rng.standard_normal((n, VOCAB))
    logits = logits.astype(np.float32)
    prompts = [rng.integers(0, VOCAB, rng.integers(1, 30)).astype(np.int32) for _ in rows]
    outputs = [rng.integers(0, VOCAB, rng.integers(0, 9)).astype(np.int32) for _ in rows]
    for row, params, prompt, output in zip(rows, all_params, prompts, outputs, strict=True):
        sampler.admit(int(row), params, prompt, output, seed=int(row))
    for _ in range(3):  # later steps' penalties count the tokens of those before
        given_logits = torch.from_numpy(logits.copy())
        positions = torch.tensor([len(p) + len(o) for p, o in zip(prompts, outputs, strict=True)])
        sampled = sampler.sample(given_logits, torch.from_numpy(rows), positions)
        assert (given_logits.numpy() == logits).all()
        for i, params in enumerate(all_params):
            context = (prompts[i], outputs[i])
            ids = tuple(x.tolist() for x in context)
            expected = reference.sample_row(
                logits[i].astype(np.float64), params, *ids, eos_ids=[EOS], seed=int(rows[i])
            )
            token = int(sampled.tokens[i])
            shaped = reference.shape(logits[i].astype(np.float64), params, *ids, eos_ids=[EOS])
            if token != expected:
                if params.greedy:
                    assert shaped[token] == pytest.approx(shaped[expected], rel=1e-5)
                else:
                    seed = int(rows[i]) if params.seed is None else params.seed
                    number = reference.uniform(seed, int(positions[i]))
                    assert on_the_edge(shaped, params, number)
            if params.logprobs is not None:
                assert sampled.logprobs is not None
                own = reference.log_probabilities(logits[i].astype(np.float64))
                assert float(sampled.logprobs[i]) == pytest.approx(own[token], abs=1e-4)
                if params.logprobs:
                    assert sampled.top_logprobs is not None
                    assert sampled.top_ids is not None
                    best = sampled.top_logprobs[i, : params.logprobs].numpy()
                    np.testing.assert_allclose(best, np.sort(own)[::-1][: len(best)], atol=1e-4)
                    np.testing.assert_allclose(
                        own[sampled.top_ids[i, : len(best)]], best, atol=1e-4
                    )
            outputs[i] = np.append(outputs[i], np.int32(token))
    for slots in (sampler._counts.slots, sampler._bias.slots, sampler._bans.slots):
        slots.check_integrity()


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_both_ways_to_a_threshold_find_the_same_weight(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    n, vocab = 4, 64
    logits = -rng.integers(0, 9, (n, vocab)) / 2 if ties else -rng.exponential(3.0, (n, vocab))
    logits[:, rng.integers(vocab)] = 0
    weights = torch.from_numpy(logits.astype(np.float32)).exp_()
    top_k = torch.from_numpy(rng.integers(1, vocab + 1, n))
    top_p = torch.from_numpy(rng.choice([1.0, 0.3, 0.95, 0.999], n))
    whole = listed_floor(sorted_down(weights), top_k, top_p)
    assert torch.equal(halved_floor(weights, top_k, top_p, longer_k=True), whole)
    top_k[0] = 3
    short = listed_floor(weights.topk(8).values, top_k, top_p)
    whole = listed_floor(sorted_down(weights), top_k, top_p)
    assert torch.equal(short[top_k <= 8], whole[top_k <= 8])
    assert not short[top_k > 8].any()


@given(st.integers(0, 2**32 - 1))
def test_a_draw_is_the_first_token_beyond_the_number_and_never_one_without_weight(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    n, memory = 40, Weights(VOCAB, torch.device("cpu"))
    logits = torch.from_numpy(rng.standard_normal((n, VOCAB)).astype(np.float32) * 4)
    weights = memory.of(logits, torch.ones(n))
    weights[torch.from_numpy(rng.random((n, VOCAB)) < rng.choice([0.1, 0.9, 0.99]))] = 0
    weights[torch.arange(n), torch.from_numpy(rng.integers(0, VOCAB, n))] = 1
    if seed % 2:
        weights.copy_(weights > 0)  # boundaries are exact
    cumulated = np.cumsum(weights.numpy(), axis=1, dtype=np.float64)
    total = cumulated[:, -1]
    for numbers in (rng.random(n), np.zeros(n), np.full(n, 1 - 2.0**-53), (total // 2) / total):
        tokens = memory.draw(torch.from_numpy(numbers)).numpy()
        assert (weights.numpy()[np.arange(n), tokens] > 0).all()
        after = cumulated[np.arange(n), tokens] / total
        before = np.where(tokens > 0, cumulated[np.arange(n), tokens - 1] / total, 0)
        rounding = 0 if seed % 2 else 1e-12
        assert (before <= numbers + rounding).all()
        assert (numbers - rounding < after).all()


def chances(counts: np.ndarray, exact: np.ndarray) -> float:
    """p-value of these counts under these probabilities; tokens of probability 0 must not occur."""
    assert not counts[exact == 0].any()
    often = exact * counts.sum() >= 5
    rest = ~often & (exact > 0)
    observed = np.append(counts[often], counts[rest].sum())
    expected = np.append(exact[often], exact[rest].sum()) * counts.sum()
    return float(chisquare(observed[expected > 0], expected[expected > 0]).pvalue)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 12},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"temperature": 1.5, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "logit_bias": {5: 2.0}},
    ],
    ids=str,
)
@pytest.mark.parametrize("over", ["seeds", "positions"])
def test_tokens_are_as_frequent_as_they_are_likely(options: dict[str, Any], over: str) -> None:
    n, vocab = 20_000, 50
    logits = np.random.default_rng(3).standard_normal(vocab)
    params = SamplingParams(**options)
    sampler = Sampler(n, vocab, "cpu")
    for row in range(1, n + 1):
        seed = default_seed(0, row) if over == "seeds" else 11
        sampler.admit(row, params, NOTHING, NOTHING, seed=seed)
    rows = torch.arange(1, n + 1)
    positions = torch.full((n,), 5) if over == "seeds" else rows
    tokens = sampler.sample(torch.tensor(logits).float().expand(n, -1), rows, positions).tokens
    shaped = reference.shape(logits, params, [], [])
    exact = reference.distribution(shaped, params)
    assert chances(np.bincount(tokens.numpy(), minlength=vocab), exact) > 1e-3
    tempered = reference.distribution(shaped, replace(params, temperature=3.0))
    if (tempered > 0).sum() >= (exact > 0).sum():  # the test would notice another distribution
        assert chances(np.bincount(tokens.numpy(), minlength=vocab), tempered) < 1e-9


def test_a_token_does_not_depend_on_the_batch_or_the_row() -> None:
    rng = np.random.default_rng(0)
    others = [{"temperature": 0}, {"top_p": 0.7}, {"top_k": 3}, {"repetition_penalty": 1.4}, {}]
    for options in ({}, {"top_p": 0.9}, {"top_k": 20, "top_p": 0.8}, {"presence_penalty": 1.0}):
        params = SamplingParams(seed=42, **options)
        logits = torch.from_numpy(rng.standard_normal(VOCAB).astype(np.float32))
        seen = set()
        for size in (1, 2, 5, 16):
            sampler = Sampler(16, VOCAB, "cpu")
            mine = int(rng.integers(1, size + 1))
            for row in range(1, size + 1):
                theirs = SamplingParams(**others[row % len(others)])
                sampler.admit(row, params if row == mine else theirs, NOTHING, NOTHING, seed=row)
            batch = torch.from_numpy(rng.standard_normal((size, VOCAB)).astype(np.float32))
            rows = torch.from_numpy(rng.permutation(size) + 1)
            at = int((rows == mine).nonzero())
            batch[at] = logits
            seen.add(int(sampler.sample(batch, rows, torch.full((size,), 17)).tokens[at]))
        assert len(seen) == 1


@pytest.mark.parametrize("options", [{}, {"frequency_penalty": 1.5, "repetition_penalty": 1.2}])
def test_a_retracted_request_goes_on_as_if_nothing_had_happened(options: dict[str, Any]) -> None:
    params = SamplingParams(seed=5, **options)
    prompt = np.arange(4, dtype=np.int32)
    logits = torch.randn(30, VOCAB, generator=torch.Generator().manual_seed(1)) * 2

    def run(sampler: Sampler, row: int, output: list[int], until: int) -> list[int]:
        for i in range(len(output), until):
            at = torch.tensor([len(prompt) + i])
            step = sampler.sample(logits[i : i + 1], torch.tensor([row]), at)
            output.append(int(step.tokens[0]))
        return output

    sampler = Sampler(8, VOCAB, "cpu")
    sampler.admit(3, params, prompt, NOTHING)
    straight = run(sampler, 3, [], 30)
    sampler.admit(1, SamplingParams(presence_penalty=1.0), prompt, prompt)  # has a slot of its own
    sampler.admit(3, params, prompt, NOTHING)
    run(sampler, 3, [], 13)  # its last two tokens never get back to the host
    sampler.release(3)
    sampler.admit(5, params, prompt, np.array(straight[:11], dtype=np.int32))
    assert run(sampler, 5, straight[:11], 30) == straight
    assert len(set(straight)) > 5


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[0, [40, 9, 200]] = 3.0
    sampler = Sampler(2, VOCAB, "cpu")
    sampler.admit(1, SamplingParams(temperature=0), NOTHING, NOTHING)
    sampler.admit(2, SamplingParams(top_k=1, seed=3, logprobs=2), NOTHING, NOTHING)
    at = torch.zeros(1, dtype=torch.int64)
    assert sampler.sample(logits[:1], torch.tensor([1]), at).tokens.tolist() == [9]
    assert sampler.sample(logits, torch.tensor([1, 2]), at.expand(2)).tokens.tolist() == [9, 0]


def test_an_end_that_would_come_too_early_is_never_sampled() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, EOS] = 50.0
    logits[0, 7] = 40.0
    params = SamplingParams(min_new_tokens=3, stop_token_ids=(7,))
    prompt = np.arange(10, dtype=np.int32)
    sampler = Sampler(1, VOCAB, "cpu", eos_ids=[EOS])
    sampler.admit(1, params, prompt, NOTHING)
    row = torch.tensor([1])
    tokens = [int(sampler.sample(logits, row, torch.tensor([10 + i])).tokens[0]) for i in range(5)]
    assert not {EOS, 7} & set(tokens[:3])
    assert tokens[3:] == [EOS, EOS]


def test_what_a_row_asked_for_before_leaves_nothing_behind() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 4] = 1.0
    sampler = Sampler(1, VOCAB, "cpu", eos_ids=[4])
    row, at = torch.tensor([1]), torch.tensor([2])
    demanding = SamplingParams(
        temperature=0, logit_bias={4: -100}, presence_penalty=2, min_new_tokens=9, logprobs=3
    )
    for again in range(3):
        sampler.admit(1, demanding, NOTHING, np.array([4, 4], dtype=np.int32))
        step = sampler.sample(logits, row, at)
        assert int(step.tokens[0]) != 4
        assert step.top_ids is not None
        if again == 1:
            sampler.release(1)
        sampler.admit(1, SamplingParams(temperature=0), NOTHING, NOTHING)
        step = sampler.sample(logits, row, at)
        assert (int(step.tokens[0]), step.logprobs) == (4, None)


def test_a_row_forgets_the_prompt_of_the_request_before() -> None:
    logits = torch.ones(1, VOCAB)
    sampler = Sampler(1, VOCAB, "cpu")
    row, at = torch.tensor([1]), torch.tensor([3])
    params = SamplingParams(temperature=0, repetition_penalty=2)
    for prompt, token in (([0, 1], 2), ([2, 0], 1), ([5], 0)):
        sampler.admit(1, params, np.array(prompt, dtype=np.int32), NOTHING)
        assert int(sampler.sample(logits, row, at).tokens[0]) == token


def test_counts_take_memory_only_for_rows_that_penalise() -> None:
    sampler = Sampler(4096, 50_000, "cpu")
    for row in range(1, 101):
        sampler.admit(row, SamplingParams(temperature=0.5), NOTHING, NOTHING)
    logits, rows = torch.zeros(1, 50_000), torch.tensor([50])
    sampler.sample(logits, rows, rows)
    assert sampler._counts.nbytes == 5 * 50_000
    for row in (7, 4000, 50):
        sampler.admit(row, SamplingParams(presence_penalty=1), NOTHING, NOTHING)
    sampler.sample(logits, rows, rows)
    assert sampler._counts.nbytes == 5 * 50_000 * 4


def test_a_long_series_of_requests_with_penalties_leaves_no_memory_behind() -> None:
    sampler = Sampler(16, VOCAB, "cpu", eos_ids=[EOS])
    empty = sampler.nbytes
    params = [
        SamplingParams(seed=1, frequency_penalty=1.5),
        SamplingParams(seed=2, logit_bias={5: 3.0, 9: -2.0}),
        SamplingParams(seed=3, min_new_tokens=4),
        SamplingParams(seed=4),
    ]
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(1))
    prompt = np.arange(3, dtype=np.int32)
    at = torch.tensor([3])
    most = 0
    for i in range(400):
        row = 1 + i % 16
        if i >= 8:
            sampler.release(1 + (i - 8) % 16)  # eight are under way at a time
        sampler.admit(row, params[i % 4], prompt, NOTHING)
        fresh = Sampler(1, VOCAB, "cpu", eos_ids=[EOS])
        fresh.admit(1, params[i % 4], prompt, NOTHING)
        alone = fresh.sample(logits, torch.tensor([1]), at)
        assert torch.equal(sampler.sample(logits, torch.tensor([row]), at).tokens, alone.tokens)
        most = max(most, sampler.nbytes)
        if i == 100:
            early = most
    assert most == early > empty  # what grows goes with those under way, not with those served
    for row in range(1, 17):
        sampler.release(row)
    assert sampler.nbytes == empty
    sampler.admit(2, params[0], prompt, NOTHING)
    assert torch.isfinite(sampler.sample(logits, torch.tensor([2]), at).tokens).all()


def test_a_request_that_leaves_before_its_first_step_leaves_nothing() -> None:
    sampler = Sampler(4, VOCAB, "cpu")
    empty = sampler.nbytes
    for row in (1, 2, 3):
        sampler.admit(row, SamplingParams(presence_penalty=1, logit_bias={1: 1}), NOTHING, NOTHING)
    for row in (1, 2, 3):
        sampler.release(row)
    sampler.sample(torch.zeros(1, VOCAB), torch.tensor([0]), torch.tensor([0]))
    assert sampler.nbytes == empty


@pytest.mark.parametrize("temperature", [2e-5, 1e-3, 1e6])
def test_extreme_temperatures_neither_overflow_nor_fail(temperature: float) -> None:
    logits = torch.full((1, VOCAB), -1e4)
    logits[0, 30], logits[0, 31] = 1e4, 1e4 - 1
    sampler = Sampler(1, VOCAB, "cpu")
    sampler.admit(1, SamplingParams(temperature=temperature, top_p=0.99), NOTHING, NOTHING)
    seen = {
        int(sampler.sample(logits, torch.tensor([1]), torch.tensor([i])).tokens[0])
        for i in range(50)
    }
    assert seen == {30} if temperature < 1 else len(seen) > 40


def test_broken_logits_make_a_wrong_token_but_never_one_outside_the_vocabulary() -> None:
    for broken in (math.nan, -math.inf, math.inf):
        sampler = Sampler(1, VOCAB, "cpu")
        sampler.admit(1, SamplingParams(top_p=0.9, top_k=4), NOTHING, NOTHING)
        logits = torch.full((1, VOCAB), broken)
        token = int(sampler.sample(logits, torch.tensor([1]), torch.tensor([0])).tokens[0])
        assert 0 <= token < VOCAB


def test_long_top_k_and_top_p_go_through_the_vocabulary() -> None:
    vocab = 4 * LONGEST_LIST
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((3, vocab)).astype(np.float32)
    options = [{"top_k": LONGEST_LIST + 5}, {"top_p": 0.95}, {"top_k": 5, "top_p": 0.5}]
    sampler = Sampler(3, vocab, "cpu")
    for row, of_row in enumerate(options, 1):
        sampler.admit(row, SamplingParams(**of_row), NOTHING, NOTHING, seed=row)
    for at in range(20):
        rows = torch.arange(1, 4)
        tokens = sampler.sample(torch.from_numpy(logits), rows, torch.full((3,), at)).tokens
        for i, of_row in enumerate(options):
            params = SamplingParams(**of_row, seed=i + 1)
            own = logits[i].astype(np.float64)
            expected = reference.sample_row(own, params, [0] * at, [])
            if expected != int(tokens[i]):
                assert on_the_edge(own, params, reference.uniform(i + 1, at))


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**31))
def test_the_devices_hash_is_the_references(seed: int, position: int) -> None:
    number = uniform(torch.tensor([as_int64(seed)]), torch.tensor([position]))
    assert float(number) == reference.uniform(seed, position)
    assert 0 <= float(number) < 1


def test_requests_without_a_seed_differ_from_each_other_and_between_engines() -> None:
    seeds = {default_seed(e, r) for e in (0, 1) for r in (0, 1, 2, "0", "1", "a")}
    assert len(seeds) == 12
    assert default_seed(3, "x") == default_seed(3, "x")
    assert all(-(2**63) <= s < 2**63 for s in seeds)


def test_neighbouring_seeds_and_positions_are_not_alike() -> None:
    grid = torch.arange(200)
    seeds, positions = (x.reshape(-1) for x in torch.meshgrid(grid, grid, indexing="ij"))
    numbers = uniform(seeds, positions).view(200, 200).numpy()
    assert chisquare(np.histogram(numbers, bins=100, range=(0, 1))[0]).pvalue > 1e-3
    for one, next_ in ((numbers[:-1], numbers[1:]), (numbers[:, :-1], numbers[:, 1:])):
        assert abs(np.corrcoef(one.ravel(), next_.ravel())[0, 1]) < 0.02
    diagonal = np.corrcoef(numbers[:-1, 1:].ravel(), numbers[1:, :-1].ravel())[0, 1]
    assert abs(diagonal) < 0.02  # seed + position alone would make these equal


def test_a_row_outside_the_table_is_an_error() -> None:
    assume_rows = 3
    sampler = Sampler(assume_rows, VOCAB, "cpu")
    for row in (0, -1, 4):
        with pytest.raises(ValueError, match=rf"row {row}.*1 to 3"):
            sampler.admit(row, SamplingParams(), NOTHING, NOTHING)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_gpu_samples_what_the_cpu_does_and_never_waits() -> None:
    rng = np.random.default_rng(5)
    vocab, n = 5000, 12
    options: list[dict[str, Any]] = [
        {"temperature": 0},
        {},
        {"top_p": 0.9},
        {"top_k": 20, "top_p": 0.8},
        {"top_k": 2000, "top_p": 0.7},
        {"min_p": 0.1, "logprobs": 4},
        {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.1},
        {"logit_bias": {3: 5.0}, "min_new_tokens": 4},
    ]
    samplers = [Sampler(n, vocab, device, eos_ids=[EOS]) for device in ("cpu", "cuda")]
    prompt = rng.integers(0, vocab, 40).astype(np.int32)
    for sampler in samplers:
        for row in range(1, n + 1):
            sampler.admit(
                row, SamplingParams(**options[row % len(options)]), prompt, NOTHING, seed=row
            )
    rows = torch.arange(1, n + 1)
    on_gpu = rows.cuda()
    samplers[1].sample(torch.randn(n, vocab, device="cuda"), on_gpu, on_gpu)  # compiles, allocates
    for row in range(1, n + 1):
        samplers[1].admit(
            row, SamplingParams(**options[row % len(options)]), prompt, NOTHING, seed=row
        )
    different = 0
    for step in range(20):
        logits = torch.from_numpy(2 * rng.standard_normal((n, vocab)).astype(np.float32))
        positions = torch.full((n,), 40 + step)
        there = (logits.cuda(), on_gpu, positions.cuda())
        torch.cuda.set_sync_debug_mode("error")
        try:
            sampled = samplers[1].sample(*there, host_rows=rows.numpy())
        finally:
            torch.cuda.set_sync_debug_mode("default")
        expected = samplers[0].sample(logits, rows, positions)
        different += int((sampled.tokens.cpu() != expected.tokens).sum())
        assert sampled.logprobs is not None
        assert expected.logprobs is not None
        same = sampled.tokens.cpu() == expected.tokens
        torch.testing.assert_close(
            sampled.logprobs.cpu()[same], expected.logprobs[same], atol=1e-4, rtol=1e-4
        )
    assert different <= 1  # of 240, where exp rounds differently at a threshold


def test_the_arithmetic_of_float_bits_holds() -> None:
    assert np.float32(1).view(np.int32) + 1 == 0x3F800001
