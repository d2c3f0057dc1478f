"""One layer's attention: its weights, the KV of a token, and what a (query, key) pair costs.

Two kinds. *Grouped-query attention* (Ainslie et al., 2023) keeps keys and values of a few KV heads.
*Multi-head latent attention* (DeepSeek-V2, 2024) keeps one latent vector per token, from which the
keys and values of all heads can be made, and a rotary key shared by all heads. It is computed in two
ways, as vLLM does it:

- *absorbed*, in decode: the up-projections are multiplied into queries and outputs instead, and
  attention runs over the latents themselves, as multi-query attention with one wide head;
- *expanded*, in prefill: keys and values are made for the new tokens and, again in each prefill, for
  the cached ones; attention then runs over narrow heads.

Both ways cost the same matrix products per new token. All figures are of one layer and, where they
are per token, of one token. Traffic is in elements read and written, weights apart. Nothing here
knows batches, precision or hardware.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupedQueryAttention:
    """Queries of `heads` heads over keys and values of `kv_heads` heads (Llama, Qwen, Mixtral).

    `qk_norm` is a norm of queries and keys, `qk_norm_weights` whether it has weights.
    """

    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: bool = False
    qk_norm_weights: bool = False
    qkv_bias: bool = False
    output_bias: bool = False

    def __post_init__(self) -> None:
        """Heads share KV heads evenly."""
        for field in ("hidden_size", "heads", "kv_heads", "head_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; expected >= 1")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} kv heads evenly")

    @property
    def matrix_parameters(self) -> int:
        """Elements of the q, k, v and o matrices."""
        return self.hidden_size * self.head_dim * 2 * (self.heads + self.kv_heads)

    @property
    def vector_parameters(self) -> int:
        """Elements of norms and biases."""
        norms = 2 * self.head_dim if self.qk_norm_weights else 0
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        return norms + biases + (self.hidden_size if self.output_bias else 0)

    @property
    def kv_elements(self) -> int:
        """Elements kept per token."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def prefill_flops_per_pair(self) -> int:
        """FLOPs of one (query, key) pair over all heads: QK^T and PV."""
        return 4 * self.heads * self.head_dim

    @property
    def decode_flops_per_pair(self) -> int:
        """The same: a token's keys and values are used as they are kept."""
        return self.prefill_flops_per_pair

    @property
    def expansion_flops(self) -> int:
        """FLOPs to make a cached token's keys and values usable in a prefill: none."""
        return 0

    @property
    def product_traffic(self) -> int:
        """Elements that the matrix products read and write: q, k, v from the input, then o."""
        queries = self.heads * self.head_dim
        return (self.hidden_size + queries + self.kv_elements) + (queries + self.hidden_size)

    @property
    def elementwise_traffic(self) -> int:
        """Elements that the kernels between them read and write.

        Rotary embedding, the norm of queries and keys where there is one, the write of the KV, and
        the attention kernel's queries and outputs.
        """
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        rotary = 2 * (queries + keys) * (2 if self.qk_norm else 1)
        return rotary + 4 * keys + 2 * queries


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V3 and the models that share its code).

    `q_lora_rank` is None where queries are projected in one step. `nope_head_dim`, `rope_head_dim`
    and `v_head_dim` are the parts of a head: without and with rotary embedding, and of the values.
    """

    hidden_size: int
    heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    nope_head_dim: int
    rope_head_dim: int
    v_head_dim: int

    def __post_init__(self) -> None:
        """Every size is there."""
        sizes = ("hidden_size", "heads", "kv_lora_rank")
        for field in (*sizes, "nope_head_dim", "rope_head_dim", "v_head_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; expected >= 1")

    @property
    def kv_heads(self) -> int:
        """As decode sees it, all heads share one."""
        return 1

    @property
    def head_dim(self) -> int:
        """As decode sees it: the latent and the rotary key."""
        return self.kv_lora_rank + self.rope_head_dim

    @property
    def _query(self) -> int:
        return self.heads * (self.nope_head_dim + self.rope_head_dim)

    @property
    def _expanded(self) -> int:
        return self.heads * (self.nope_head_dim + self.v_head_dim)

    @property
    def matrix_parameters(self) -> int:
        """Elements of the projections of queries, down to the latent, up from it, and of outputs."""
        hidden, rank = self.hidden_size, self.q_lora_rank
        queries = hidden * self._query if rank is None else rank * (hidden + self._query)
        down = hidden * (self.kv_lora_rank + self.rope_head_dim)
        up = self.kv_lora_rank * self._expanded
        return queries + down + up + self.heads * self.v_head_dim * hidden

    @property
    def vector_parameters(self) -> int:
        """Elements of the norms of the two latents."""
        return (self.q_lora_rank or 0) + self.kv_lora_rank

    @property
    def kv_elements(self) -> int:
        """Elements kept per token: the latent and the rotary key."""
        return self.kv_lora_rank + self.rope_head_dim

    @property
    def prefill_flops_per_pair(self) -> int:
        """FLOPs of one (query, key) pair over all heads, expanded."""
        return 2 * (self._query + self.heads * self.v_head_dim)

    @property
    def decode_flops_per_pair(self) -> int:
        """FLOPs of one (query, key) pair over all heads, absorbed: scores, then a sum of latents."""
        return 2 * self.heads * (self.head_dim + self.kv_lora_rank)

    @property
    def expansion_flops(self) -> int:
        """FLOPs to make the keys and values of a cached token again in a prefill."""
        return 2 * self.kv_lora_rank * self._expanded

    @property
    def product_traffic(self) -> int:
        """Elements that the matrix products read and write, expanded."""
        hidden, rank = self.hidden_size, self.q_lora_rank
        queries = self._query if rank is None else 2 * rank + self._query
        latents = self.kv_elements + self.kv_lora_rank + self._expanded
        return hidden + queries + latents + self.heads * self.v_head_dim + hidden

    @property
    def elementwise_traffic(self) -> int:
        """Elements that the kernels between them read and write.

        Norms of the latents, rotary embedding of queries and the shared key, the write of the KV,
        and the attention kernel's queries and outputs, expanded.
        """
        norms = 2 * ((self.q_lora_rank or 0) + self.kv_lora_rank)
        rotary = 2 * self.rope_head_dim * (self.heads + 1)
        return norms + rotary + 2 * self.kv_elements + self._query + self.heads * self.v_head_dim


Attention = GroupedQueryAttention | LatentAttention
