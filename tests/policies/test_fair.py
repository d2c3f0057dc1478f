"""The virtual token counter keeps backlogged tenants within the paper's bound; fcfs does not."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Batch, PolicyConfig, Request
from policies.orders.fair import FairShare
from policies.registry import ORDERS, StrategyOptionError
from tests.policies.drive import ask, drive, policy

BATCHINGS = ("prefill-first", "mixed", "static", "decode-first")
LONGEST_PROMPT, LONGEST_OUTPUT = 40, 30
CAPACITY, RUNNING = 240, 8


@dataclass
class Ledger:
    """What each tenant was served, at a price of 1 a prompt token and 2 an output token."""

    service: Counter[str] = field(default_factory=Counter)
    prompts: set[str] = field(default_factory=set)
    differences: list[float] = field(default_factory=list)  # while both wait

    def watch(self, config: PolicyConfig, arrivals: list[tuple[int, Request]], a: str, b: str,
              share: float = 1.0) -> Ledger:  # fmt: skip
        """Run, and note b's service less `share` times a's while both have requests waiting."""
        for s, seen in drive(config, CAPACITY, arrivals):
            if isinstance(seen, Batch):
                for item in seen.prefill:
                    if item.request.id not in self.prompts:
                        self.prompts.add(item.request.id)
                        self.service[str(item.request.tenant)] += item.request.prompt_len
            elif seen.batch is not None:
                given = [i.request for i in seen.batch.prefill if i.samples]
                given += seen.batch.decode.requests if seen.batch.decode else ()
                given = Counter(given) - Counter(seen.dropped)
                for request in given.elements():
                    self.service[str(request.tenant)] += 2
            if {a, b} <= {request.tenant for request in s.waiting}:
                self.differences.append(self.service[b] - share * self.service[a])
        return self

    @property
    def spread(self) -> float:
        """The largest service difference over any interval in which both waited."""
        return max(self.differences) - min(self.differences)


def bound() -> float:
    """Twice the larger of a prompt's charge and that of all the tokens in a running batch."""
    batch = min(CAPACITY, RUNNING * (LONGEST_PROMPT + LONGEST_OUTPUT))
    return 2 * max(LONGEST_PROMPT, 2 * batch)


def flood(per_tenant: dict[str, int], first: dict[str, int], seed: int = 0):
    """Tenants that send so many requests every four rounds, from a first round on."""
    draw = random.Random(seed)
    arrivals = []
    for tenant, sent in per_tenant.items():
        for i in range(30 * sent):
            prompt, output = draw.randint(5, LONGEST_PROMPT), draw.randint(5, LONGEST_OUTPUT)
            at = first.get(tenant, 0) + i // sent * 4
            name = f"{tenant}{i}"
            arrivals.append((at, ask(name, prompt, output, seed=draw.randrange(99), tenant=tenant)))
    return arrivals


def config(batching: str, order: str, **keys) -> PolicyConfig:
    return policy(batching, order=order, max_running_requests=RUNNING, **keys)


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_service_of_backlogged_tenants_stays_within_the_bound(batching, overlap):
    arrivals = flood({"light": 2, "heavy": 8}, {})
    fair = Ledger().watch(config(batching, "fair", overlap=overlap), arrivals, "light", "heavy")
    assert len(fair.differences) > 150
    assert fair.spread <= bound()
    total = sum(fair.service.values())
    assert total > 10 * bound(), "too short to tell"


@pytest.mark.parametrize("batching", BATCHINGS)
def test_fcfs_does_not_stay_within_it(batching):
    arrivals = flood({"light": 2, "heavy": 8}, {})
    fcfs = Ledger().watch(config(batching, "fcfs"), arrivals, "light", "heavy")
    assert fcfs.spread > 3 * bound()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_who_comes_late_has_saved_nothing_up(batching):
    arrivals = flood({"early": 8, "late": 8}, {"late": 100})
    ledger = Ledger().watch(config(batching, "fair"), arrivals, "early", "late")
    assert ledger.spread <= bound()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_weights_share_service_in_proportion(batching):
    weighted = config(batching, "fair", order_options={"weights": {"b": 3}})
    ledger = Ledger().watch(weighted, flood({"a": 8, "b": 8}, {}), "a", "b", share=3)
    assert ledger.spread <= 3 * bound()
    assert len(ledger.differences) > 150


@pytest.mark.parametrize("batching", BATCHINGS)
def test_every_token_is_charged_once_though_requests_are_retracted(batching):
    # one tenant is never lifted, so its counter is what it was served
    arrivals = flood({"a": 8}, {})
    ratio = {} if batching == "decode-first" else {"new_token_ratio": {"conservativeness": 0.05}}
    for s, _ in drive(config(batching, "fair", **ratio), 120, arrivals):
        order = s.order
    requests = [request for _, request in arrivals]
    assert sum(r.retractions for r in requests) > 0
    assert isinstance(order, FairShare)
    order.arrange([], s._view)
    assert order.counter("a") == sum(r.prompt_len + 2 * r.output_len for r in requests)
    assert not order._served


def test_cached_tokens_may_have_a_price_of_their_own():
    arrivals = [(9 * i, ask(f"r{i}", 30, 2, seed=1, tenant="a")) for i in range(3)]
    options = {"input_price": 10, "cached_price": 1, "output_price": 0}
    for s, _ in drive(config("prefill-first", "fair", order_options=options), CAPACITY, arrivals):
        order = s.order
    cached = [request.cached_tokens for _, request in arrivals]
    assert cached[0] == 0 < cached[1] == cached[2]
    order.arrange([], s._view)
    assert order.counter("a") == sum(10 * (30 - n) + n for n in cached)


def test_no_round_of_a_full_batch_asks_the_order():
    order = ORDERS.get("fair")
    asked = []

    class Asked(order):
        def arrange(self, waiting, view):
            asked.append(len(waiting))
            return super().arrange(waiting, view)

    ORDERS.register("asked")(Asked)
    arrivals = [(0, ask(f"r{i}", 4, 200, tenant="a")) for i in range(9)]
    for _ in drive(config("prefill-first", "asked"), 3000, arrivals):
        pass
    assert len(asked) < 10


@given(
    tenants=st.lists(st.sampled_from(("a", "b", "c", None)), max_size=30),
    lengths=st.randoms(use_true_random=False),
)
def test_a_queue_is_arranged_by_turns_and_in_order_within_a_tenant(tenants, lengths):
    queue = [ask(f"{i}", lengths.randint(1, 9), 1, tenant=t) for i, t in enumerate(tenants)]
    arranged = FairShare().arrange(queue, None)
    assert Counter(arranged) == Counter(queue)
    for tenant in set(tenants):
        mine = [r for r in queue if r.tenant == tenant]
        assert [r for r in arranged if r.tenant == tenant] == mine
    charged = Counter()
    left = Counter(tenants)
    for request in arranged:  # each goes to the tenant charged least so far that has any left
        assert charged[request.tenant] == min(charged[t] for t in left if left[t])
        charged[request.tenant] += request.prompt_len
        left[request.tenant] -= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_price": -1}, "input_price is -1.0; it must be a number of at least 0"),
        ({"cached_price": float("inf")}, "cached_price is inf"),
        ({"input_price": 0, "output_price": 0}, "both 0: nothing would be counted"),
        ({"weights": {"a": 0}}, "the weight of 'a' is 0.0; it must be above 0"),
        ({"weights": {"a": "x"}}, "option 'weights' of queue order 'fair' cannot be"),
    ],
)
def test_impossible_options_are_errors(options, message):
    with pytest.raises(StrategyOptionError, match=message):
        ORDERS.create("fair", options)
