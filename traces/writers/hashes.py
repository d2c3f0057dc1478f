"""Prompts as prefix hashes: their own where they have them, else named by what they hold."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from traces.tokens import BlockTokens, SyntheticTokens, Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traces.writers.losses import Losses

_BYTES_PER_ID = 4


class PrefixHashes:
    """Names the blocks of prompts so that equal names mean equal prompts up to there.

    Where all prompts are named by hashes of that block size already, those are kept. Otherwise
    blocks are numbered by content as they come: what is shared is kept in whole blocks, and the
    token ids are lost, except of texts that were made from a key.

    Args:
        prompts: all that will be asked for.
        block_size: tokens per hash.
        losses: told of what is lost.
    """

    def __init__(self, prompts: Sequence[Tokens], block_size: int, losses: Losses) -> None:
        self._size = block_size
        self._losses = losses
        self._kept = all(self._has_own(prompt) for prompt in prompts)
        self._names: dict[tuple[int, bytes], int] = {}

    def of(self, prompt: Tokens) -> list[int]:
        """The hashes of a prompt, the last, partial block included."""
        if self._kept and isinstance(prompt, BlockTokens):
            ids: list[int] = prompt.hash_ids.tolist()
            return ids
        if not isinstance(prompt, SyntheticTokens):
            self._losses.add(f"what prompts hold within blocks of {self._size}")
        content = prompt.array().astype("<i4", copy=False).tobytes()
        step = self._size * _BYTES_PER_ID
        named: list[int] = []
        parent = -1
        for start in range(0, len(content), step):
            block = blake2b(content[start : start + step], digest_size=16).digest()
            parent = self._names.setdefault((parent, block), len(self._names))
            named.append(parent)
        return named

    def _has_own(self, prompt: Tokens) -> bool:
        return isinstance(prompt, BlockTokens) and prompt.block_size == self._size
