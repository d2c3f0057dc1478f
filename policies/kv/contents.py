"""Numbers for what blocks hold: the same number for the same tokens, from the sequence's beginning on.

They stand where vLLM has a chain of hashes. Sequences that were asked about form a tree, whose edges are
runs of numbered blocks, so a prompt is compared with others run by run and not block by block; where
tokens are known by name, without being made. A number is given again once nobody asks for it: neither a
sequence at hand nor a block that can be found.

Which blocks hold what is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.cache.prefix import WrittenPrefix

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.cache.prefix import TokenPrefix

    Int64Array = npt.NDArray[np.int64]

SHORT = 64
"""Blocks up to which a run grows in place, copying what it has; a longer one is continued by another."""


class Run:
    """Blocks that follow each other without a branch, below those of its parent.

    Attributes:
        parent: the run before it; None for the root of a namespace.
        key: what its parent files it under.
        tokens: whose blocks these are, at least up to the last of them.
        start: blocks before it.
        numbers: of its blocks, int64.
        children: by first token, or by the ids of the first block where another child has the same
            first token.
        crowded: first tokens for which children were filed by their first block.
        chains: sequences at hand that end where it ends.
    """

    __slots__ = ("chains", "children", "crowded", "key", "numbers", "parent", "start", "tokens")

    def __init__(
        self,
        parent: Run | None,
        key: int | bytes,
        tokens: TokenPrefix,
        start: int,
        numbers: Int64Array,
    ) -> None:
        self.parent = parent
        self.key = key
        self.tokens = tokens
        self.start = start
        self.numbers = numbers
        self.children: dict[int | bytes, Run] = {}
        self.crowded: frozenset[int | bytes] = frozenset()
        self.chains = 0


class Chain:
    """The blocks of one sequence.

    Attributes:
        numbers: what its first full blocks hold, as far as that was asked: int64.
        end: the run whose end is theirs.
    """

    __slots__ = ("end", "numbers")

    def __init__(self, end: Run) -> None:
        self.numbers = _NONE
        self.end = end


class Contents:
    """See the module.

    Args:
        block_size: tokens a block.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.top = 1  # numbers are below; 0 stands for no contents
        self._spare: list[Int64Array] = []  # numbers to be given again
        self._spares = 0
        self._roots: dict[str | None, Run] = {}

    def __len__(self) -> int:
        """Numbers that stand for something."""
        return self.top - 1 - self._spares

    # -- sequences ----------------------------------------------------------------------------

    def begin(self, extra_key: str | None) -> Chain:
        """A sequence in a namespace, none of its blocks numbered yet. Give it to `drop` in the end."""
        root = self._roots.get(extra_key)
        if root is None:
            root = self._roots[extra_key] = Run(None, 0, _NOTHING, 0, _NONE)
        root.chains += 1
        return Chain(root)

    def extend(self, chain: Chain, tokens: TokenPrefix) -> None:
        """Number the full blocks of a sequence; those numbered before are its first ones."""
        blocks = len(tokens) // self.block_size
        at, run = len(chain.numbers), chain.end
        pieces = [chain.numbers] if at else []
        run.chains -= 1
        while at < blocks:
            child, common = self._next(run, tokens, at, blocks)
            if child is None:
                pieces.append(self._unused(blocks - at))
                run = self._grow(run, tokens, at, pieces[-1])
                break
            run = child if common == len(child.numbers) else self._split(child, common)
            pieces.append(run.numbers)
            at += common
        run.chains += 1
        chain.end = run
        if pieces:
            chain.numbers = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def drop(self, chain: Chain) -> None:
        """A sequence is no longer at hand."""
        chain.end.chains -= 1

    def _next(self, run: Run, tokens: TokenPrefix, at: int, blocks: int) -> tuple[Run | None, int]:
        """The child along a sequence, and how many blocks they share: at least one."""
        size = self.block_size
        first = tokens.id_at(at * size)
        child = run.children.get(first)
        common = self._common(child, tokens, at, blocks)
        if not common and first in run.crowded:  # others begin with the same token
            child = run.children.get(tokens.ids(at * size, (at + 1) * size).tobytes())
            common = self._common(child, tokens, at, blocks)
        return (child, common) if common else (None, 0)

    def _common(self, run: Run | None, tokens: TokenPrefix, at: int, blocks: int) -> int:
        if run is None:
            return 0
        size = self.block_size
        stop = min(at + len(run.numbers), blocks)
        return tokens.agreement(run.tokens, at * size, stop * size) // size

    def _grow(self, run: Run, tokens: TokenPrefix, at: int, numbers: Int64Array) -> Run:
        """The run that ends with new blocks, which follow `run` and which no child of it shares."""
        size = self.block_size
        stop = (at + len(numbers)) * size
        if run.parent is not None and not (run.children or run.chains) and len(run.numbers) < SHORT:
            run.tokens = tokens.keep(run.start * size, stop)
            run.numbers = np.concatenate([run.numbers, numbers])
            return run
        key: int | bytes = tokens.id_at(at * size)
        if key in run.children:
            run.crowded |= {key}
            key = tokens.ids(at * size, (at + 1) * size).tobytes()
        child = Run(run, key, tokens.keep(at * size, stop), at, numbers)
        run.children[key] = child
        return child

    def _split(self, run: Run, blocks: int) -> Run:
        """Cut a run after so many blocks; returns the upper part. The lower part remains itself."""
        assert run.parent is not None
        upper = Run(run.parent, run.key, run.tokens, run.start, run.numbers[:blocks])
        run.parent.children[run.key] = upper
        run.parent = upper
        run.start += blocks
        run.numbers = run.numbers[blocks:]
        run.key = run.tokens.id_at(run.start * self.block_size)
        upper.children[run.key] = run
        return upper

    # -- numbers ------------------------------------------------------------------------------

    def _unused(self, count: int) -> Int64Array:
        """Numbers that stand for nothing yet: int64, shape (count,)."""
        pieces = []
        while count and self._spare:
            piece = self._spare.pop()
            if len(piece) > count:
                self._spare.append(piece[count:])
                piece = piece[:count]
            pieces.append(piece)
            count -= len(piece)
            self._spares -= len(piece)
        if count:
            pieces.append(np.arange(self.top, self.top + count, dtype=np.int64))
            self.top += count
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def sweep(self, findable: npt.NDArray[np.integer]) -> None:
        """Take back the numbers that nobody asks for any more.

        Args:
            findable: shape (at least `top`,), not 0 for each number of a block that can be found.
        """
        for extra_key, root in list(self._roots.items()):
            runs = [root]
            for run in runs:  # each after its parent; the list grows meanwhile
                runs.extend(run.children.values())
            for run in reversed(runs):
                if not run.children and not run.chains:
                    self._cut(run, findable)
            if not root.children and not root.chains:
                del self._roots[extra_key]

    def _cut(self, run: Run, findable: npt.NDArray[np.integer]) -> None:
        """Take back what of an end of the tree nobody asks for."""
        asked = findable[run.numbers].nonzero()[0]
        keep = int(asked[-1]) + 1 if len(asked) else 0
        if keep < len(run.numbers):
            self._spare.append(run.numbers[keep:])
            self._spares += len(run.numbers) - keep
            run.numbers = run.numbers[:keep]
        if not keep and run.parent is not None:
            del run.parent.children[run.key]

    def check(self) -> None:
        """Raise AssertionError unless every number stands for one thing, or is spare."""
        numbers = [*self._spare]
        for root in self._roots.values():
            runs = [root]
            for run in runs:
                runs.extend(run.children.values())
                numbers.append(run.numbers)
                for key, child in run.children.items():
                    assert child.key == key, "a run is filed under another's key"
                    assert child.parent is run, "a run has another parent"
                    assert child.start == run.start + len(run.numbers), "a gap between runs"
                    assert len(child.numbers), "a run without blocks"
        every = np.sort(np.concatenate([_NONE, *numbers]))
        assert every.tolist() == list(range(1, self.top)), "a number is lost, or given twice"


_NONE: Int64Array = np.zeros(0, dtype=np.int64)
_NOTHING = WrittenPrefix(np.zeros(0, dtype=np.int32))
