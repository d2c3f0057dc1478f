"""Section `policy` of a config from how an engine was run: what each of its settings is called there.

Engines differ in what bounds the tokens of a step, and by their version in how they free blocks. The
context limit is not decided here: it depends on what the KV memory holds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from simulator.simulation import as_config
from simulator.validation.assumption import Assumption

if TYPE_CHECKING:
    from traces.real_runs.base import EngineSettings

# the config's keys for an engine's settings that have a default to fall back to ...
KEYS = {
    "max_running_requests": "policy.max_running_requests",
    "max_batched_tokens": "policy.chunked_prefill_size",
    "page_size": "policy.page_size",
    "prefix_caching": "policy.cache",
    "overlapped": "policy.overlap",
}
# ... and those of them that an engine has others for
OWN_KEYS = {"vllm": {"max_batched_tokens": "policy.batching_options.max_num_batched_tokens"}}
# the last vLLM known to put freed blocks without contents to the tail of the queue; the preset's does not
FREES_TO_THE_TAIL = (0, 19)


def keys_of(engine: str) -> dict[str, str]:
    """The config's keys for an engine's settings."""
    return KEYS | OWN_KEYS.get(engine, {})


def policy_of(engine: EngineSettings) -> tuple[dict[str, Any], list[Assumption]]:
    """Section `policy`, but for the context limit, and the defaults that hold where nothing is known."""
    policy: dict[str, Any] = {}
    for setting, key in (keys_of(engine.engine) | {"order": "policy.order"}).items():
        value = _in_config(setting, getattr(engine, setting))
        if value is not None:
            _put(policy, key, value)
    if engine.engine == "vllm" and _until(engine.version, FREES_TO_THE_TAIL):
        _put(policy, "policy.batching_options.reuse_unhashed_first", value=False)
    return policy, _defaults(engine)


def _in_config(setting: str, value: object) -> object:
    """A setting's value as the config has it; None where that is for the preset to say."""
    match setting, value:
        case "overlapped", bool():
            return "overlapped" if value else "serial"
        case "prefix_caching", bool():
            return None if value else "none"
    return value


def _put(policy: dict[str, Any], key: str, value: object) -> None:
    """Set one of the config's keys in its section `policy`."""
    _, *sections, last = key.split(".")
    for section in sections:
        policy = policy.setdefault(section, {})
    policy[last] = value


def _until(version: str | None, last: tuple[int, int]) -> bool:
    """Whether a version is known and no later than that, by its first two numbers."""
    found = re.match(r"(\d+)\.(\d+)", version or "")
    return found is not None and (int(found[1]), int(found[2])) <= last


def _defaults(engine: EngineSettings) -> list[Assumption]:
    """What the preset decides where an engine's own settings are not known."""
    preset = as_config({"preset": engine.engine}).model_dump(mode="json")
    found = []
    for setting, key in keys_of(engine.engine).items():
        if getattr(engine, setting) is None:
            value = preset
            for part in key.split("."):
                value = value[part]
            found.append(Assumption(key, value, "the engine's default"))
    return found
