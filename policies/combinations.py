"""Which options of a policy make sense together, and why the others do not.

Each check raises an error that names the keys and says what would do. What no engine could run, or what
would be set and never read, is refused; what merely goes beyond one engine is not (see
`policies.engines`).
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from policies.batching.decode_first import DecodeFirst
from policies.batching.prefill_first import PrefillFirst
from policies.registry import (
    BATCHINGS,
    EVICTIONS,
    ORDERS,
    RETRACTIONS,
    StrategyOptionError,
    UnknownStrategyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.config import PolicyConfig

# What decode-first does not read: it has one token budget, preempts the last or least important one
# that runs, and reuses blocks in the order in which they were freed.
PREFILL_FIRST_ONLY = (
    "eviction",
    "eviction_options",
    "retraction",
    "chunked_prefill_size",
    "max_prefill_tokens",
    "prefill_max_requests",
    "prefill_decode_interval",
    "prefill_decode_interval_min_batch",
    "new_token_ratio",
    "waiting_refresh_interval",
    "waiting_refresh_requests",
)
OF_PRIORITY = ("preemption", "preemption_threshold")


def check(policy: PolicyConfig) -> None:
    """See the module.

    Raises:
        ValueError: for a combination that makes no sense.
    """
    with _key_named("order"):
        order = ORDERS.create(policy.order, policy.order_options)
    with _key_named("batching"):
        batching = _batching(policy)
    with _key_named("eviction"):
        EVICTIONS.create(policy.eviction, policy.eviction_options)
    with _key_named("retraction"):
        RETRACTIONS.create(policy.retraction)
    if policy.cache not in batching.caches:
        known = " or ".join(batching.caches)
        raise ValueError(
            f"batching {policy.batching} plans with cache {known}, not {policy.cache}: "
            f"set policy.cache to {known}"
        )
    if policy.cache == "blocks" and order.needs_tree:
        raise ValueError(f"order {policy.order} needs cache radix: hashed blocks have no tree")
    if policy.order == "shortest-prefill-first" and policy.cache == "none":
        caches = " or ".join(cache for cache in batching.caches if cache != "none")
        raise ValueError(
            f"order shortest-prefill-first needs a prefix cache: set cache to {caches}"
        )
    size = policy.chunked_prefill_size
    if isinstance(size, int) and size < policy.page_size:
        raise ValueError(
            f"chunked_prefill_size {size} is below page_size {policy.page_size}: no chunk fits"
        )
    if isinstance(batching, DecodeFirst):
        unread = list(_unread(policy))
        if unread:
            raise ValueError(
                f"batching {policy.batching} does not read {', '.join(unread)}, which is for "
                f"{_names_of(PrefillFirst)}: leave it out"
            )
        check_limits(policy)


@contextmanager
def _key_named(key: str) -> Iterator[None]:
    """What is wrong with a strategy or its options, with the key of the config that says so."""
    try:
        yield
    except UnknownStrategyError as error:
        raise UnknownStrategyError(f"policy.{key}: {error}") from None
    except StrategyOptionError as error:
        raise StrategyOptionError(f"policy.{key}_options: {error}") from None


def check_limits(policy: PolicyConfig) -> None:
    """Under decode-first, every running request decodes in a step. `auto` is not looked at.

    Raises:
        ValueError: where not all could.
    """
    requests = policy.max_running_requests
    tokens = policy.batching_options.get("max_num_batched_tokens")
    if isinstance(requests, int) and isinstance(tokens, int) and requests > tokens:
        raise ValueError(
            f"max_running_requests {requests} is above max_num_batched_tokens {tokens}: not all "
            "that run could decode in one step; lower the one or raise the other"
        )


def _batching(policy: PolicyConfig) -> Any:
    try:
        return BATCHINGS.create(policy.batching, policy.batching_options)
    except StrategyOptionError as error:
        takes = inspect.signature(BATCHINGS.get(policy.batching)).parameters
        for key in policy.batching_options:
            others = [n for n in BATCHINGS.names() if key in _parameters(n)]
            if key not in takes and others:
                raise StrategyOptionError(f"{error}; {' and '.join(others)} has it") from None
        raise


def _parameters(batching: str) -> list[str]:
    return list(inspect.signature(BATCHINGS.get(batching)).parameters)


def _unread(policy: PolicyConfig) -> Iterator[str]:
    """The keys set to something that decode-first would not read."""
    defaults = type(policy).model_fields
    for key in PREFILL_FIRST_ONLY:
        value = getattr(policy, key)
        switched_off = key == "chunked_prefill_size" and value is None
        if value != defaults[key].default and not switched_off:
            yield key
    priority = type(policy.priority).model_fields
    for key in OF_PRIORITY:
        if getattr(policy.priority, key) != priority[key].default:
            yield f"priority.{key}"


def _names_of(family: type) -> str:
    """The batchings that ship of a family."""
    names = [
        name
        for name in BATCHINGS.names()
        if issubclass(BATCHINGS.get(name), family)
        and BATCHINGS.get(name).__module__.startswith("policies.")
    ]
    return " and ".join(names)
