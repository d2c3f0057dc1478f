"""CUDA graphs for decode: steps of a few batch sizes, captured once, replayed with one call each.

A decode step is many small kernels, and launching them one by one takes the host longer than the device
needs for them. Batch sizes are captured largest first, so that all share the memory of the first. A batch
of another size is filled up to the next with padding (see `InputBuilder`). Attention plans outside the
graph, into buffers that do not move; looking tokens up, the LM head and sampling stay outside too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from runtime.attention.base import sequences

if TYPE_CHECKING:
    from runtime.attention.base import AttentionBackend, Sequences
    from runtime.forward import Model

_WARM_UPS = 2  # a first run compiles and allocates, a second one is as all others


def bucket_sizes(most: int) -> tuple[int, ...]:
    """Batch sizes to capture: 1, 2, 4, then multiples of 8, and the largest itself, ascending."""
    sizes = [size for size in (1, 2, 4) if size < most]
    return (*sizes, *range(8, most, 8), most)


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    attention: AttentionBackend
    hidden: torch.Tensor


class DecodeGraphs:
    """See the module. Captures when it is made.

    Args:
        model: the model, on a CUDA device.
        attention: the backend, asked for one of its kind for each size.
        sizes: batch sizes.
        max_pages: pages of the longest sequence.
        page_size: tokens a page.
        stream: steps run on it.
    """

    def __init__(
        self,
        model: Model,
        attention: AttentionBackend,
        sizes: tuple[int, ...],
        *,
        max_pages: int,
        page_size: int,
        stream: torch.cuda.Stream,
    ) -> None:
        self.sizes = tuple(sorted(sizes))
        self._model = model
        self._max_pages = max_pages
        self._page_size = page_size
        self._stream = stream
        most = self.sizes[-1]
        self._tokens = torch.zeros(most, dtype=torch.int64, device=stream.device)
        self._positions = torch.zeros(most, dtype=torch.int64, device=stream.device)
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        pool = torch.cuda.graph_pool_handle()
        with torch.inference_mode():
            self._captured = {
                size: self._capture(size, attention.for_graph(size, max_pages), pool)
                for size in reversed(self.sizes)
            }

    def _capture(self, size: int, attention: AttentionBackend, pool: Any) -> _Captured:
        tokens, positions = self._tokens[:size], self._positions[:size]
        padding = sequences(
            [1] * size, [1] * size, [[0]] * size, self._page_size, self._stream.device
        )
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                attention.plan(padding)
                self._model(tokens, positions, attention.attend)
            attention.plan(padding)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=self._stream):
            hidden = self._model(tokens, positions, attention.attend)
        return _Captured(graph, attention, hidden)

    def padded(self, batch: int) -> int:
        """The size that a decode batch is filled up to: the next one captured, or its own."""
        return next((size for size in self.sizes if size >= batch), batch)

    def covers(self, seqs: Sequences) -> bool:
        """Whether a step can be replayed."""
        return (
            seqs.decode_only
            and seqs.count in self._captured
            and seqs.page_table.shape[1] <= self._max_pages
        )

    def replay(
        self, tokens: torch.Tensor, positions: torch.Tensor, seqs: Sequences
    ) -> torch.Tensor:
        """The hidden states of a step that is covered; they hold until the next replay."""
        captured = self._captured[seqs.count]
        captured.attention.plan(seqs)
        self._tokens[: seqs.count].copy_(tokens)
        self._positions[: seqs.count].copy_(positions)
        captured.graph.replay()
        return captured.hidden
