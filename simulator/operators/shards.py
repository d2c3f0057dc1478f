"""How a model is split over GPUs, and what matrix products one of them is left with.

*Tensor parallel* (Megatron, Shoeybi et al., 2019) splits heads, inner widths and the vocabulary over
`tp` GPUs and adds up twice a layer. *Expert parallel* gives each of `ep` GPUs whole experts. Where
`ep` is larger than `tp`, attention runs in `ep / tp` data-parallel ranks, each with its own batch,
and the experts see the tokens of all of them. *Pipeline parallel* splits the layers over `pp` stages.

It knows shapes, not times. All weights are taken as evenly split; what does not divide is rounded
up, as engines pad it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.shapes.attention import GroupedQueryAttention

if TYPE_CHECKING:
    from policies.model_shape import ModelShape
    from policies.shapes.mlp import GatedMLP


class Parallel(BaseModel):
    """Degrees of parallelism.

    Raises:
        ValueError: where neither of `tp` and `ep` divides the other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tp: int = Field(1, ge=1)
    """Tensor parallel: GPUs that each product is split over."""
    ep: int = Field(1, ge=1)
    """Expert parallel: GPUs that share the experts, each with whole ones."""
    pp: int = Field(1, ge=1)
    """Pipeline parallel: stages that share the layers."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tp % self.ep and self.ep % self.tp:
            raise ValueError(f"tp is {self.tp} and ep {self.ep}; one must divide the other")
        return self

    @property
    def attention_ranks(self) -> int:
        """Data-parallel ranks of attention that share the experts."""
        return max(1, self.ep // self.tp)

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return max(self.tp, self.ep) * self.pp

    @property
    def expert_tp(self) -> int:
        """How many GPUs one expert is split over."""
        return max(1, self.tp // self.ep)


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product (m, k) by (k, n) on one GPU, `count` times in a forward pass."""

    name: str
    n: int
    k: int
    count: int


def bytes_per_gpu(
    model: ModelShape, parallel: Parallel, *, weight_dtype: str = "auto", kv_dtype: str = "auto"
) -> tuple[int, int]:
    """Bytes on one GPU: of weights, and of the keys and values of one token.

    Raises:
        ValueError: see `heads`.
    """
    linear = model.linear_bytes(weight_dtype)
    routed = model.routed_parameters * linear // max(model.linear_parameters, 1)
    rest = model.weight_bytes(weight_dtype) - routed
    weights = rest // parallel.tp + routed // max(parallel.tp, parallel.ep)
    kv = model.kv_bytes_per_token(kv_dtype)
    if parallel.tp > 1:
        _, kv_heads, _ = heads(model, parallel.tp)
        kv = kv * kv_heads // model.kv_heads
    return weights // parallel.pp, kv // parallel.pp


def heads(model: ModelShape, tp: int) -> tuple[int, int, int]:
    """Query heads and KV heads of one GPU, and their width; a KV head is copied where `tp` is larger.

    Raises:
        ValueError: for latent attention, which has no tables in one common form, or where heads do
            not divide.
    """
    match model.attention:
        case GroupedQueryAttention() as attention:
            pass
        case _:
            raise ValueError(
                f"{model.name}: latent attention is not composed from tables; use the roofline"
            )
    if attention.heads % tp:
        raise ValueError(f"{model.name}: {attention.heads} heads do not divide by tp {tp}")
    return attention.heads // tp, max(1, attention.kv_heads // tp), attention.head_dim


def products(model: ModelShape, parallel: Parallel) -> list[Product]:
    """The products that every token takes part in, fused as engines fuse them; no experts, no head."""
    tp, hidden = parallel.tp, model.hidden_size
    query, kv, width = heads(model, tp)
    found = [
        Product("qkv", (query + 2 * kv) * width, hidden, model.layers),
        Product("o", hidden, query * width, model.layers),
    ]
    if model.mlp is not None:
        found += _gated("", model.mlp, tp, model.dense_layers)
    if model.moe is not None:
        found.append(Product("router", model.moe.experts, hidden, model.moe_layers))
        if model.moe.shared is not None:
            found += _gated("shared_", model.moe.shared, tp, model.moe_layers)
    return found


def head(model: ModelShape, tp: int) -> Product:
    """The LM head, split over the vocabulary."""
    return Product("lm_head", -(-model.vocab_size // tp), model.hidden_size, 1)


def _gated(prefix: str, mlp: GatedMLP, tp: int, count: int) -> list[Product]:
    inner = -(-mlp.inner_size // tp)
    return [
        Product(f"{prefix}gate_up", 2 * inner, mlp.hidden_size, count),
        Product(f"{prefix}down", mlp.hidden_size, inner, count),
    ]
