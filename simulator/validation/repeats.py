"""Which real runs may be compared: repeats of one another, and the same requests under another policy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.validation.engine import OWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traces.real_runs.base import RealRun

# of requests that differ, in a message
SHOWN = 5
# settings of an engine that repeats share; KV capacity, which engines measure, may vary
SERVED_WITH = (
    *OWN,
    "max_running_requests",
    "max_batched_tokens",
    "page_size",
    "prefix_caching",
    "overlapped",
    "order",
)


def check_repeats(runs: Sequence[RealRun]) -> list[str]:
    """See that runs are repeats of one another.

    Returns:
        what to tell of them.

    Raises:
        ValueError: where a run is given twice, was served otherwise, or did not answer the same requests;
            says which and how.
    """
    notes = []
    for i, run in enumerate(runs):
        for other in runs[:i]:
            if _is_same_run(run, other):
                raise ValueError(f"{run.path} is given twice: a run is no repeat of itself")
            if run.requests == other.requests:
                notes.append(
                    f"{run.path} has the times of {other.path}, to the nanosecond: a copy, or simulated"
                )
        differs = _served_otherwise(runs[0], run)
        if differs:
            raise ValueError(
                f"{run.path} is no repeat of {runs[0].path}: {differs}; a run under another policy is "
                "named with --other"
            )
        _check_same_requests(runs[0], run, "no repeat of")
        missing = _only_in(runs[0], run)
        if missing:
            raise ValueError(
                f"{run.path} is no repeat of {runs[0].path}: it did not answer {missing}; give runs "
                "that answered all requests"
            )
    return notes


def check_other(run: RealRun, other: RealRun) -> list[str]:
    """See that two runs are of the same requests; returns what to tell of those not in both."""
    if _is_same_run(run, other):
        raise ValueError(f"{run.path} is also the run under another policy: give another")
    both = set(run.ids) & set(other.ids)
    if not both:
        raise ValueError(f"{run.path} and {other.path} answered no request of the same id")
    shared = [
        replace(r, requests=tuple(q for q in r.requests if q.id in both)) for r in (run, other)
    ]
    _check_same_requests(shared[0], shared[1], "not of the same requests as")
    return [
        f"left out of the answers: {missing}, which {without.path} did not answer"
        for answered, without in ((run, other), (other, run))
        if (missing := _only_in(answered, without))
    ]


def _is_same_run(one: RealRun, other: RealRun) -> bool:
    """Whether two runs were read from one place."""
    return one.source == other.source and one.path.resolve() == other.path.resolve()


def _served_otherwise(one: RealRun, other: RealRun) -> str:
    """What two runs were served with that differs, in words; empty where nothing is known to."""
    if one.engine is not None and other.engine is not None:
        for name in SERVED_WITH:
            here, there = getattr(one.engine, name), getattr(other.engine, name)
            if here != there and None not in (here, there):  # None is not known
                return f"its {name} is {there!r}, there {here!r}"
    if one.run is not None and other.run is not None:
        first, second = (
            r.manifest.get("config", {}).get("policy", {}) for r in (one.run, other.run)
        )
        for name in sorted({*first, *second}):
            if first.get(name) != second.get(name):
                return f"its policy.{name} is {second.get(name)!r}, there {first.get(name)!r}"
    return ""


def _check_same_requests(one: RealRun, other: RealRun, what: str) -> None:
    """See that a run answered no other requests than another.

    Args:
        one: a run.
        other: which is to have answered those, or some of them.
        what: it is not, for the error.

    Raises:
        ValueError: says which request differs, and how.
    """
    known = {request.id: request for request in one.requests}
    for request in other.requests:
        same = known.get(request.id)
        if same is None or same.prompt_tokens != request.prompt_tokens:
            raise ValueError(
                f"{other.path} is {what} {one.path}: request {request.id!r} has "
                f"{request.prompt_tokens} prompt tokens, there "
                f"{'it is not' if same is None else same.prompt_tokens}"
            )


def _only_in(one: RealRun, other: RealRun) -> str:
    """The requests that a run answered and another did not, in words; empty where there are none."""
    names = set(one.ids) - set(other.ids)
    if not names:
        return ""
    some = ", ".join(sorted(names)[:SHOWN])
    more = "" if len(names) <= SHOWN else f" and {len(names) - SHOWN:,} more"
    return f"{len(names):,} requests: {some}{more}" if len(names) > 1 else f"request {some}"
