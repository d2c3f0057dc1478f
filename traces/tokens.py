"""Token sequences held compactly: written out, named by prefix hashes, made from a key, or joined.

A trace of a hundred million prompt tokens fits in a few megabytes when a prompt is held as what
identifies it and its token ids are made when somebody asks, the same in every run, on every platform
and in either world. Nothing here knows of requests, trace files or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from traces.splitmix import GOLDEN, MASK, RESERVED_IDS, id_at, mix, mixed, steps, to_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

VOCAB_SIZE = 100_000
MAX_LENGTH = 2**31 - 1

# Keys of different kinds start in different places, so that block 7 is not text 7.
_BLOCK_SALT = 0x626C6F636B
_TEXT_SALT = 0x74657874
_BYTES_PER_TOKEN = 4
# So many hashes, the first lowest, are compared as one number: most prompts differ in these, and an
# operation on an integer takes a fraction of one on an array.
_FIRST = 32


@runtime_checkable
class Tokens(Protocol):
    """A token sequence of known length whose ids are made when asked for."""

    def __len__(self) -> int:
        """Number of tokens."""
        ...

    def array(self) -> NDArray[np.int32]:
        """The ids: int32, shape (len,), read-only."""
        ...

    def ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """The ids at places [start, stop): int32; no others are made."""
        ...

    def id_at(self, at: int) -> int:
        """The id at one place."""
        ...

    def shared(self, other: object) -> int:
        """How many first tokens it surely has in common with another, going by names alone.

        They may have more in common: what is named differently can begin alike by chance.
        """
        ...


class ExplicitTokens:
    """Token ids written out; two are equal when their ids are."""

    __slots__ = ("_ids",)

    def __init__(self, ids: Sequence[int] | NDArray[np.integer]) -> None:
        given = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise ValueError(
                f"token ids must be a flat sequence of integers, got {given.dtype} of shape "
                f"{given.shape}"
            )
        if given.size and (given.min() < 0 or given.max() > MAX_LENGTH):
            raise ValueError(
                f"token ids must lie in 0..{MAX_LENGTH}, got {given.min()}..{given.max()}"
            )
        self._ids = given.astype(np.int32)
        self._ids.flags.writeable = False

    def __len__(self) -> int:
        return self._ids.size

    def array(self) -> NDArray[np.int32]:
        """The ids: int32, shape (len,), read-only; the same array each time."""
        return self._ids

    def ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """See `Tokens.ids`."""
        return self._ids[start:stop]

    def id_at(self, at: int) -> int:
        """See `Tokens.id_at`."""
        return int(self._ids[at])

    def shared(self, other: object) -> int:
        """See `Tokens.shared`: ids that are written out have no other name."""
        return len(self) if other is self else 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExplicitTokens) and np.array_equal(self._ids, other._ids)

    def __hash__(self) -> int:
        return hash(self._ids.tobytes())

    def __repr__(self) -> str:
        return f"ExplicitTokens({len(self)} tokens)"


@dataclass(frozen=True, slots=True, eq=False)
class BlockTokens:
    """A prompt named by one prefix hash per block, as in the Mooncake traces.

    Equal hashes give equal blocks, so prompts share as many leading tokens as their hashes say. The
    last block may be partial; it takes the first tokens of its block. `array()` makes the ids anew
    each time (12,000 tokens take about 50 us) and keeps nothing.

    Args:
        hash_ids: int64, shape (ceil(length / block_size),), none negative; read-only once held. An
            array that is read-only already is held as it is, so prompts can share one.
        block_size: tokens per block.
        length: tokens in all.
        vocab_size: ids lie in `RESERVED_IDS` <= id < `vocab_size`.
    """

    hash_ids: NDArray[np.int64]
    block_size: int
    length: int
    vocab_size: int = VOCAB_SIZE
    _first: int = field(default=-1, init=False, repr=False)  # the first hashes, once compared

    def __post_init__(self) -> None:
        _check_length(self.length)
        _check_vocab_size(self.vocab_size)
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}")
        given = self.hash_ids
        shared = isinstance(given, np.ndarray) and not given.flags.writeable
        ids = given if shared and given.dtype == np.int64 else np.array(given, dtype=np.int64)
        blocks = -(-self.length // self.block_size)
        if ids.shape != (blocks,):
            raise ValueError(
                f"{self.length} tokens in blocks of {self.block_size} need {blocks} hash ids, "
                f"got an array of shape {ids.shape}"
            )
        if blocks and np.minimum.reduce(ids) < 0:
            raise ValueError(f"hash ids must not be negative, got {ids.min()}")
        ids.flags.writeable = False
        object.__setattr__(self, "hash_ids", ids)

    def __len__(self) -> int:
        return self.length

    def array(self) -> NDArray[np.int32]:
        """The ids: int32, shape (len,), read-only."""
        keys = mix((self.hash_ids.astype(np.uint64) ^ np.uint64(_BLOCK_SALT)) * np.uint64(GOLDEN))
        # one row per block, each a SplitMix64 stream seeded with its hash
        state = keys[:, None] + steps(self.block_size)[None, :]
        return to_ids(state.reshape(-1)[: self.length], self.vocab_size)

    def ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """See `Tokens.ids`."""
        size = self.block_size
        first = start // size
        stop = min(stop, self.length)
        hashes = self.hash_ids[first : -(-stop // size)].astype(np.uint64)
        keys = mix((hashes ^ np.uint64(_BLOCK_SALT)) * np.uint64(GOLDEN))
        if len(keys) == 1:
            low, high = start - first * size, stop - first * size
            return to_ids(keys[0] + steps(high, low), self.vocab_size)
        state = keys[:, None] + steps(size)[None, :]
        return to_ids(
            state.reshape(-1)[start - first * size : stop - first * size], self.vocab_size
        )

    def id_at(self, at: int) -> int:
        """See `Tokens.id_at`."""
        block, place = divmod(at, self.block_size)
        key = (self.hash_ids.item(block) ^ _BLOCK_SALT) * GOLDEN & MASK
        return id_at(mixed(key), place, self.vocab_size)

    def shared(self, other: object) -> int:
        """See `Tokens.shared`."""
        if (
            not isinstance(other, BlockTokens)
            or other.block_size != self.block_size
            or other.vocab_size != self.vocab_size
        ):
            return 0
        differs = self._first_as_number() ^ other._first_as_number()
        if differs:
            lowest_other_bit = (differs & -differs).bit_length() - 1
            same = lowest_other_bit // 64  # each block has 64 bits
        else:
            blocks = min(len(self.hash_ids), len(other.hash_ids))
            others = np.flatnonzero(self.hash_ids[:blocks] != other.hash_ids[:blocks])
            same = int(others[0]) if len(others) else blocks
        return min(same * self.block_size, self.length, other.length)

    def _first_as_number(self) -> int:
        if self._first < 0:
            first = int.from_bytes(self.hash_ids[:_FIRST].tobytes(), "little")
            object.__setattr__(self, "_first", first)
        return self._first

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BlockTokens)
            and (self.length, self.block_size, self.vocab_size)
            == (other.length, other.block_size, other.vocab_size)
            and np.array_equal(self.hash_ids, other.hash_ids)
        )

    def __hash__(self) -> int:
        return hash((self.hash_ids.tobytes(), self.length, self.block_size, self.vocab_size))


@dataclass(frozen=True, slots=True)
class SyntheticTokens:
    """Text of its own, for a trace that says how long a text is and not what it is.

    Two different keys give texts that share no prefix in practice; one key gives the same text in
    every run, and of two lengths the shorter is a prefix of the longer.

    Args:
        key: 0 <= key < 2**63, what the ids are made from.
        length: tokens in all.
        vocab_size: ids lie in `RESERVED_IDS` <= id < `vocab_size`.
    """

    key: int
    length: int
    vocab_size: int = VOCAB_SIZE

    def __post_init__(self) -> None:
        _check_length(self.length)
        _check_vocab_size(self.vocab_size)
        if not 0 <= self.key < 2**63:
            raise ValueError(f"key must lie in 0..2**63 - 1, got {self.key}")

    def __len__(self) -> int:
        return self.length

    def array(self) -> NDArray[np.int32]:
        """The ids: int32, shape (len,), read-only."""
        return self.ids(0, self.length)

    def ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """See `Tokens.ids`."""
        seed = np.array([(self.key * GOLDEN & MASK) ^ _TEXT_SALT], dtype=np.uint64)
        return to_ids(mix(seed) + steps(min(stop, self.length), start), self.vocab_size)

    def id_at(self, at: int) -> int:
        """See `Tokens.id_at`."""
        key = (self.key * GOLDEN & MASK) ^ _TEXT_SALT
        return id_at(mixed(key), at, self.vocab_size)

    def shared(self, other: object) -> int:
        """See `Tokens.shared`."""
        if not isinstance(other, SyntheticTokens):
            return 0
        same = other.key == self.key and other.vocab_size == self.vocab_size
        return min(self.length, other.length) if same else 0


class JoinedTokens:
    """Token sequences one after another: a conversation so far, or whole blocks and what is left.

    Two are equal when their parts are. A part that is joined itself counts as its parts, an empty
    one not at all.
    """

    __slots__ = ("_length", "parts")

    def __init__(self, parts: Iterable[Tokens]) -> None:
        flat: list[Tokens] = []
        for part in parts:
            flat.extend(part.parts if isinstance(part, JoinedTokens) else (part,))
        self.parts: tuple[Tokens, ...] = tuple(part for part in flat if len(part))
        self._length = sum(map(len, self.parts))
        _check_length(self._length)

    def __len__(self) -> int:
        return self._length

    def array(self) -> NDArray[np.int32]:
        """The ids: int32, shape (len,), read-only; made anew each time."""
        if not self.parts:
            return ExplicitTokens(()).array()
        ids = np.concatenate([part.array() for part in self.parts])
        ids.flags.writeable = False
        return ids

    def ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """See `Tokens.ids`."""
        pieces = [ExplicitTokens(()).array()]
        at = 0
        for part in self.parts:
            first, last = max(start - at, 0), min(stop - at, len(part))
            if first < last:
                pieces.append(part.ids(first, last))
            at += len(part)
        return np.concatenate(pieces)

    def id_at(self, at: int) -> int:
        """See `Tokens.id_at`."""
        for part in self.parts:
            if at < len(part):
                return part.id_at(at)
            at -= len(part)
        raise IndexError(f"place {at} past the end of {len(self)} tokens")

    def shared(self, other: object) -> int:
        """See `Tokens.shared`."""
        theirs = other.parts if isinstance(other, JoinedTokens) else (other,)
        same = 0
        for mine, their in zip(self.parts, theirs, strict=False):
            common = mine.shared(their)
            same += common
            if common < len(mine) or not isinstance(their, Sized) or common < len(their):
                break
        return same

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JoinedTokens) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __repr__(self) -> str:
        return f"JoinedTokens({list(self.parts)!r})"


def text_tokens(text: str, vocab_size: int = VOCAB_SIZE) -> ExplicitTokens:
    """Token ids for a text when no tokenizer is at hand: one for every four bytes of UTF-8.

    Four bytes a token is the usual rule of thumb for English with a large vocabulary. The id is a
    hash of the four bytes, so texts share as many tokens as their beginnings have whole pieces in
    common. An empty text has no token.
    """
    _check_vocab_size(vocab_size)
    content = text.encode("utf-8", "surrogatepass")
    padded = content + bytes(-len(content) % _BYTES_PER_TOKEN)
    pieces = np.frombuffer(padded, dtype="<u4").astype(np.uint64)
    ids = to_ids((pieces ^ np.uint64(_TEXT_SALT)) * np.uint64(GOLDEN), vocab_size)
    return ExplicitTokens(ids)


def _check_length(length: int) -> None:
    if not 0 <= length <= MAX_LENGTH:
        raise ValueError(f"a length in tokens must lie in 0..{MAX_LENGTH}, got {length}")


def _check_vocab_size(vocab_size: int) -> None:
    if not RESERVED_IDS < vocab_size <= MAX_LENGTH:
        raise ValueError(
            f"vocab_size must lie in {RESERVED_IDS + 1}..{MAX_LENGTH}, got {vocab_size}"
        )
