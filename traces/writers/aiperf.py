"""AIPerf's mooncake_trace: as Mooncake JSONL, but a turn of a session holds only what is new.

AIPerf itself puts prompts and answers of a session before its next turn. A prompt that is what was
said before and something new is written as that; of any other prompt in a session only how much
longer it is can be said, and one that is no longer begins a session of its own.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from traces.tokens import JoinedTokens, SyntheticTokens, Tokens
from traces.writers.hashes import PrefixHashes
from traces.writers.mooncake import chained, milliseconds, name_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.fields import Row
    from traces.workload import TraceRequest, Workload
    from traces.writers.losses import Losses


def aiperf_rows(workload: Workload, block_size: int, losses: Losses) -> Iterator[Row]:
    """The rows of a workload, in its order; `losses` is told what they do not hold."""
    chains = chained(workload)
    known = {request.id: request for request in workload}
    added = [
        _added(request, known.get(chains.get(request.id) or ""), losses) for request in workload
    ]
    texts = [
        request.prompt if new is None else new for request, new in zip(workload, added, strict=True)
    ]
    hashes = PrefixHashes([text for text in texts if _hashed(text)], block_size, losses)
    parts: dict[str, int] = {}
    keys: set[int] = set()
    for request, new, text in zip(workload, added, texts, strict=True):
        losses.of_fields(request)
        row: Row = {
            "timestamp": milliseconds(request.arrival_ns),
            "input_length": len(text),
            "output_length": len(request.output),
        }
        if isinstance(text, SyntheticTokens):
            if text.key in keys:
                losses.add("beginnings that texts share")
            keys.add(text.key)
        else:
            row["hash_ids"] = hashes.of(text)
        name_session(row, request, chains, losses)
        if request.session is not None and request.id in chains:
            _part(row, request.session, parts, begins=new is None)
        yield row


def _part(row: Row, session: str, parts: dict[str, int], *, begins: bool) -> None:
    """Names the part of a session that a row is in; a new one loses the wait for the one before."""
    if begins:
        parts[session] = parts.get(session, 0) + 1
        row.pop("delay", None)
    if session in parts:
        row["session_id"] = f"{session}~{parts[session]}"


def _added(request: TraceRequest, before: TraceRequest | None, losses: Losses) -> Tokens | None:
    """What a turn adds to what was said before; None where it is no longer than that."""
    if before is None:
        return request.prompt
    said = JoinedTokens([before.prompt, before.output])
    if isinstance(request.prompt, JoinedTokens):
        parts = request.prompt.parts
        if parts[: len(said.parts)] == said.parts and len(parts) > len(said.parts):
            rest = parts[len(said.parts) :]
            return rest[0] if len(rest) == 1 else JoinedTokens(rest)
    if len(request.prompt) > len(said):
        losses.add("prompts that are not all that was said before and something new")
        return SyntheticTokens(_key(request.id), len(request.prompt) - len(said))
    losses.add("waits of prompts that are no longer than what was said before")
    return None


def _hashed(text: Tokens) -> bool:
    """Whether a text is named by hashes; one made from a key is its length."""
    return not isinstance(text, SyntheticTokens)


def _key(name: str) -> int:
    """A key of its own for what a request adds."""
    return int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "big")
