"""What a run of vLLM kept of its requests: lengths, and instants of the engine's own clock."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, NamedTuple

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
    path = folder / "vllm" / "requests.jsonl"
    zipped = path.with_name(f"{path.name}.gz")
    text = gzip.decompress(zipped.read_bytes()) if zipped.is_file() else path.read_bytes()
    return [
        Kept(
            row["input_toks"],
            row["output_toks"],
            row["scheduled_ts"],
            row["first_token_ts"],
            row["last_token_ts"],
        )
        for row in map(json.loads, text.splitlines())
    ]
