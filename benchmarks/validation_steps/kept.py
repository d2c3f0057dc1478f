"""What a run of vLLM kept of its requests: lengths, and instants of the engine's own clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from traces.readers.files import plain_or_gzipped, text_of

if TYPE_CHECKING:
    from pathlib import Path


class Kept(NamedTuple):
    """One request: tokens of its prompt and output, and seconds."""

    prompt: int
    output: int
    scheduled: float
    first: float
    last: float


def kept(folder: Path) -> list[Kept]:
    """The requests of a run's folder, in the order of its workload."""
    path = plain_or_gzipped(folder / "vllm", "requests.jsonl")
    if path is None:
        raise FileNotFoundError(f"{folder / 'vllm'} has no requests.jsonl, plain or gzipped")
    return [
        Kept(
            row["input_toks"],
            row["output_toks"],
            row["scheduled_ts"],
            row["first_token_ts"],
            row["last_token_ts"],
        )
        for row in map(json.loads, text_of(path).splitlines())
    ]
