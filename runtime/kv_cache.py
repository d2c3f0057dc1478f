"""The paged KV tensors: where keys and values of all layers lie, and how new ones get there.

A slot is one token's place: `page * page_size + offset`. Page 0 is padding: page tables are padded
with it, and padded rows write into it. It never belongs to a request, so nobody may read it. Which
page belongs to whom is the scheduler's business (`policies.kv`), not known here.
"""

from __future__ import annotations

import torch


class KVCache:
    """Keys and values of every layer, in pages.

    Attributes:
        k: per layer, keys of shape (pages, page_size, kv_heads, head_dim).
        v: per layer, values of the same shape.

    Args:
        layers: transformer layers that attend.
        pages: pages in each layer, page 0 included; at least 2.
        page_size: tokens a page.
        kv_heads: key/value heads.
        head_dim: elements of one head.
        dtype: element type of keys and values.
        device: where the tensors lie.

    Raises:
        ValueError: a size that no cache can have.
    """

    def __init__(
        self,
        layers: int,
        pages: int,
        page_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = {
            "layers": (layers, 1),
            "pages": (pages, 2),
            "page_size": (page_size, 1),
            "kv_heads": (kv_heads, 1),
            "head_dim": (head_dim, 1),
        }
        for name, (value, least) in sizes.items():
            if value < least:
                msg = f"a KV cache needs {name} >= {least}, got {value}"
                raise ValueError(msg)
        self.layers = layers
        self.pages = pages
        self.page_size = page_size
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        self.dtype = dtype
        # Zeros, not empty: a masked value is multiplied by zero, and zero times NaN is NaN.
        storage = torch.zeros(
            (2, layers, pages, page_size, kv_heads, head_dim), dtype=dtype, device=device
        )
        self.device = storage.device
        self.k = list(storage[0].unbind(0))
        self.v = list(storage[1].unbind(0))
        by_slot = storage.view(2, layers, pages * page_size, kv_heads, head_dim)
        self.k_slots = list(by_slot[0].unbind(0))  # per layer: (slots, kv_heads, head_dim)
        self.v_slots = list(by_slot[1].unbind(0))

    @staticmethod
    def bytes_per_token(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Bytes of keys and values of one token, over all layers."""
        return 2 * layers * kv_heads * head_dim * dtype.itemsize

    @property
    def capacity_tokens(self) -> int:
        """Tokens that requests can hold: every page but the padding page."""
        return (self.pages - 1) * self.page_size

    @property
    def nbytes(self) -> int:
        """Bytes of the whole cache, the padding page included."""
        per_token = self.bytes_per_token(self.layers, self.kv_heads, self.head_dim, self.dtype)
        return per_token * self.pages * self.page_size

    def write(self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put new keys and values into their slots. Launches on the current stream; never waits.

        Args:
            layer: which layer's.
            slots: int64 (T,), on the cache's device.
            k: (T, kv_heads, head_dim), of the cache's dtype.
            v: the same shape.
        """
        self.k_slots[layer].index_copy_(0, slots, k)
        self.v_slots[layer].index_copy_(0, slots, v)
