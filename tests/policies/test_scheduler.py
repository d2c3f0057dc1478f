from __future__ import annotations

from hypothesis import given

from tests.policies.workloads import Case, cases
from tests.policies.world import World


def world(case: Case, *, indexed: bool = True) -> World:
    return World(case.policy, case.capacity, case.clients, case.aborts, indexed=indexed)


@given(cases())
def test_every_request_ends_with_exactly_its_tokens(case: Case) -> None:
    world(case).run().check_answers()
