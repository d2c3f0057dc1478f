"""Random steps over a paged cache, and what attention over them must be.

The answer is computed in float64 from keys and values that never went through a cache. All of the
cache that belongs to no sequence of the step is NaN: the padding page, other pages, and the slots
behind a sequence's last token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st

from runtime.attention.base import Sequences, sequences
from runtime.kv_cache import KVCache

if TYPE_CHECKING:
    from runtime.attention.base import AttentionBackend

LAYERS = 2
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Shape:
    """What a step looks like: `lengths` are (prefix, new tokens) of each sequence."""

    lengths: tuple[tuple[int, int], ...]
    page_size: int = 4
    kv_heads: int = 2
    group: int = 2
    head_dim: int = 16
    dtype: torch.dtype = torch.float32
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """A step ready to be attended to: the new tokens' q, k, v by layer, and the answers."""

    shape: Shape
    cache: KVCache
    seqs: Sequences
    q: list[torch.Tensor]
    k: list[torch.Tensor]
    v: list[torch.Tensor]
    answers: list[torch.Tensor]


@st.composite
def shapes(draw: st.DrawFn, *, decode_only: bool = False, most: int = 40) -> Shape:
    """Ragged batches with and without prefixes: extend, decode and mixed."""
    new = st.just(1) if decode_only else st.sampled_from((1, 1, 2, 5, 17))
    lengths = draw(st.lists(st.tuples(st.integers(0, most), new), min_size=1, max_size=6))
    return Shape(
        lengths=tuple(lengths),
        page_size=draw(st.sampled_from((1, 4, 16))),
        kv_heads=draw(st.sampled_from((1, 2, 3))),
        group=draw(st.sampled_from((1, 3, 4))),
        seed=draw(st.integers(0, 99)),
    )


def make_step(
    shape: Shape, device: torch.device | str = "cpu", *, poison_tails: bool = True
) -> Step:
    """A step of this shape, its pages scattered over the cache in no order."""
    random = torch.Generator().manual_seed(shape.seed)
    totals = [prefix + new for prefix, new in shape.lengths]
    needed = [-(-total // shape.page_size) for total in totals]
    unused = 3
    shuffled = (torch.randperm(sum(needed) + unused, generator=random) + 1).tolist()
    pages = [[shuffled.pop() for _ in range(count)] for count in needed]
    cache = KVCache(
        LAYERS,
        1 + sum(needed) + unused,
        shape.page_size,
        shape.kv_heads,
        shape.head_dim,
        shape.dtype,
        device,
    )
    for tensor in (*cache.k, *cache.v):
        tensor.fill_(torch.nan)
        if not poison_tails:
            tensor[[page for own in pages for page in own]] = 1.0
    seqs = sequences([new for _, new in shape.lengths], totals, pages, shape.page_size, device)

    def draw(tokens: int, heads: int) -> torch.Tensor:
        values = torch.randn((tokens, heads, shape.head_dim), generator=random)
        return values.to(shape.dtype)

    q: list[torch.Tensor] = []
    k: list[torch.Tensor] = []
    v: list[torch.Tensor] = []
    answers: list[torch.Tensor] = []
    for layer in range(LAYERS):
        keys = [draw(total, shape.kv_heads) for total in totals]
        values = [draw(total, shape.kv_heads) for total in totals]
        queries = [draw(new, shape.kv_heads * shape.group) for _, new in shape.lengths]
        for (prefix, _), own, mine, theirs in zip(shape.lengths, pages, keys, values, strict=True):
            for at in range(prefix):
                page, offset = own[at // shape.page_size], at % shape.page_size
                cache.k[layer][page, offset] = mine[at]
                cache.v[layer][page, offset] = theirs[at]
        new_keys = [kv[prefix:] for (prefix, _), kv in zip(shape.lengths, keys, strict=True)]
        new_values = [kv[prefix:] for (prefix, _), kv in zip(shape.lengths, values, strict=True)]
        q.append(torch.cat(queries).to(device))
        k.append(torch.cat(new_keys).to(device))
        v.append(torch.cat(new_values).to(device))
        answers.append(torch.cat([dense(*one) for one in zip(queries, keys, values, strict=True)]))
    return Step(shape, cache, seqs, q, k, v, answers)


def dense(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Causal attention of the last queries of one sequence, in float64."""
    group = queries.shape[1] // keys.shape[1]
    new, total = len(queries), len(keys)
    q = queries.double().transpose(0, 1)
    k, v = (kv.double().repeat_interleave(group, dim=1).transpose(0, 1) for kv in (keys, values))
    scores = q @ k.transpose(1, 2) / queries.shape[2] ** 0.5
    future = torch.ones((new, total), dtype=torch.bool).triu(total - new + 1)
    answers: torch.Tensor = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
    return answers.transpose(0, 1)


def answer(backend: AttentionBackend, step: Step) -> list[torch.Tensor]:
    """What a backend answers, layer by layer."""
    backend.plan(step.seqs)
    return [
        backend.attend(layer, step.q[layer], step.k[layer], step.v[layer])
        for layer in range(LAYERS)
    ]


def assert_right(outputs: list[torch.Tensor], step: Step) -> None:
    """Every layer's output is the answer, to what the dtype can hold."""
    for out, right in zip(outputs, step.answers, strict=True):
        assert out.dtype == step.shape.dtype
        assert out.shape == right.shape
        tolerance = TOLERANCE[step.shape.dtype]
        torch.testing.assert_close(out.double().cpu(), right, atol=tolerance, rtol=tolerance)
