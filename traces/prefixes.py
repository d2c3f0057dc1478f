"""Prompts as chains of blocks, numbered so that equal numbers mean equal prefixes.

A prefix cache keeps blocks of tokens and finds one by all that stands before it and in it. Here each
such block gets a small number, as the first to hold it comes by. A prompt that goes on with the one
before it in its session is looked at from where they part, so long contexts cost what they add.
Caches and requests in time are not known here.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from traces.tokens import BlockTokens, JoinedTokens, SyntheticTokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from traces.tokens import Tokens
    from traces.workload import TraceRequest

USUAL_BLOCK_SIZE = 512
"""Tokens per block where a trace does not name its own: Mooncake's, which most tools write."""


def own_block_size(requests: Sequence[TraceRequest]) -> int:
    """Tokens per prefix hash, if all prompts are named by hashes of one size; else the usual."""
    sizes = {
        None if first is None else first.block_size
        for first in (_leading_blocks(request.prompt) for request in requests)
    }
    only = sizes.pop() if len(sizes) == 1 else None
    return USUAL_BLOCK_SIZE if only is None else only


def prompt_blocks(requests: Sequence[TraceRequest], block_size: int) -> Iterator[NDArray[np.int64]]:
    """The blocks of each prompt: int64, shape (ceil(length / block_size),).

    Numbers count from 0 in the order in which blocks are first seen, so a block is new when its
    number is the highest yet. Where all prompts are named by prefix hashes of that block size, the
    hashes say which blocks are equal; any others are compared by their token ids. Prompts of
    different cache namespaces share nothing. The last, partial block is one too.
    """
    by_hash = all(_named_by_hash(request.prompt, block_size) for request in requests)
    # A block is its parent and its own name, so that sharing is of whole prefixes.
    known: dict[tuple[object, object], int] = {}
    before: dict[tuple[object, ...], tuple[Tokens, NDArray[np.int64]]] = {}
    for request in requests:
        prompt, namespace = request.prompt, (request.extra_key, request.lora_id)
        same = 0
        blocks = np.empty(-(-len(prompt) // block_size), dtype=np.int64)
        if request.session is not None:
            last = before.get((request.session, *namespace))
            if last is not None:
                same = _common_tokens(last[0], prompt) // block_size
                blocks[:same] = last[1][:same]
            before[request.session, *namespace] = (prompt, blocks)
        parent: object = blocks.item(same - 1) if same else namespace
        names = _hash_names if by_hash else _content_names
        for place, name in enumerate(names(prompt, same, block_size), same):
            number = known.setdefault((parent, name), len(known))
            blocks[place] = parent = number
        yield blocks


def _leading_blocks(prompt: Tokens) -> BlockTokens | None:
    first = prompt.parts[0] if isinstance(prompt, JoinedTokens) and prompt.parts else prompt
    return first if isinstance(first, BlockTokens) else None


def _named_by_hash(prompt: Tokens, block_size: int) -> bool:
    """Whether hashes name its blocks; those of full blocks may be followed by a part of one."""
    first = _leading_blocks(prompt)
    if first is None or first.block_size != block_size:
        return False
    rest = len(prompt) - len(first)
    return not rest or (rest < block_size and len(first) % block_size == 0)


def _hash_names(prompt: Tokens, skip: int, block_size: int) -> list[int | bytes]:
    """Names of the blocks after the first `skip`."""
    first = _leading_blocks(prompt)
    assert first is not None
    names: list[int | bytes] = [*first.hash_ids[skip:].tolist()]
    if len(first) < len(prompt):
        names += _content_names(prompt, max(skip, len(first.hash_ids)), block_size)
    return names


def _content_names(prompt: Tokens, skip: int, block_size: int) -> list[int | bytes]:
    """Names of the blocks after the first `skip`, made from their token ids."""
    content = _ids_from(prompt, skip * block_size)
    step = block_size * content.itemsize
    data = content.tobytes()
    return [
        blake2b(data[start : start + step], digest_size=16).digest()
        for start in range(0, len(data), step)
    ]


def _ids_from(prompt: Tokens, start: int) -> NDArray[np.int32]:
    """The token ids from `start` on; of a joined prompt only the parts that are needed are made."""
    made: list[NDArray[np.int32]] = []
    for part in _parts(prompt):
        if start < len(part):
            made.append(part.array()[start:])
        start = max(0, start - len(part))
    return np.concatenate(made) if made else np.empty(0, dtype=np.int32)


def _common_tokens(one: Tokens, other: Tokens) -> int:
    """Leading tokens that two prompts have in common, as far as what they are held as shows it."""
    same = 0
    for mine, theirs in zip(_parts(one), _parts(other), strict=False):
        shared = _common_of_parts(mine, theirs)
        same += shared
        if shared < max(len(mine), len(theirs)):
            break
    return same


def _common_of_parts(one: Tokens, other: Tokens) -> int:
    least = min(len(one), len(other))
    if one is other:
        return least
    match one, other:
        case BlockTokens(), BlockTokens():
            if (one.block_size, one.vocab_size) != (other.block_size, other.vocab_size):
                return 0
            blocks = min(len(one.hash_ids), len(other.hash_ids))
            differ = one.hash_ids[:blocks] != other.hash_ids[:blocks]
            equal = int(differ.argmax()) if differ.any() else blocks
            return min(least, equal * one.block_size)
        case SyntheticTokens(), SyntheticTokens():
            alike = (one.key, one.vocab_size) == (other.key, other.vocab_size)
            return least if alike else 0
        case _:
            return least if one == other else 0


def _parts(prompt: Tokens) -> tuple[Tokens, ...]:
    return prompt.parts if isinstance(prompt, JoinedTokens) else (prompt,)
