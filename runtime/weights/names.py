"""Where each tensor of a checkpoint goes: its name, and the part of a fused parameter it fills.

Writing through these views is all that loading is; reading through them gives the checkpoint back.
Names as in HuggingFace checkpoints and in GGUF files (llama.cpp).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from runtime.models.layers import GatedMLP

if TYPE_CHECKING:
    from torch import Tensor

    from runtime.models.decoder import Decoder, DecoderLayer
    from runtime.models.layers import Attention
    from runtime.models.moe import MixtureOfExperts

Views = dict[str, "Tensor"]

_GGUF_LAYER: Final = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
}


def huggingface_views(model: Decoder) -> Views:
    """Every tensor of the model's checkpoint by its HuggingFace name, each an exact part."""
    views = _outside(model, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    for i, layer in enumerate(model.layers):
        inside = _layer(layer)
        if not isinstance(layer.mlp, GatedMLP):
            inside |= _experts_apart(layer.mlp)
        views |= {f"model.layers.{i}.{name}": view for name, view in inside.items()}
    return views


def gguf_views(model: Decoder) -> Views:
    """The same by the names of a GGUF file, where a layer's experts lie in one tensor."""
    views = _outside(model, "token_embd.weight", "output_norm.weight", "output.weight")
    for i, layer in enumerate(model.layers):
        for name, view in _layer(layer).items():
            stem, _, kind = name.rpartition(".")
            views[f"blk.{i}.{_GGUF_LAYER[stem]}.{kind}"] = view
        if not isinstance(layer.mlp, GatedMLP):
            gate, up = layer.mlp.w13.chunk(2, dim=1)
            views |= {
                f"blk.{i}.ffn_gate_exps.weight": gate,
                f"blk.{i}.ffn_up_exps.weight": up,
                f"blk.{i}.ffn_down_exps.weight": layer.mlp.w2,
            }
    return views


def _outside(model: Decoder, embedding: str, norm: str, head: str) -> Views:
    views = {embedding: model.embedding, norm: model.norm.weight}
    if not model.config.tied_embeddings:
        views[head] = model.head
    return views


def _layer(layer: DecoderLayer) -> Views:
    """What every layer has, and its MLP or router."""
    views = {
        "input_layernorm.weight": layer.input_norm.weight,
        "post_attention_layernorm.weight": layer.mlp_norm.weight,
        **_attention(layer.attention),
    }
    if not isinstance(layer.mlp, GatedMLP):
        return views | {"mlp.gate.weight": layer.mlp.router.weight}
    for kind, fused in _tensors(layer.mlp.gate_up.weight, layer.mlp.gate_up.bias):
        views[f"mlp.gate_proj.{kind}"], views[f"mlp.up_proj.{kind}"] = fused.chunk(2)
    for kind, whole in _tensors(layer.mlp.down.weight, layer.mlp.down.bias):
        views[f"mlp.down_proj.{kind}"] = whole
    return views


def _attention(attention: Attention) -> Views:
    views: Views = {}
    rows = [n * attention.head_dim for n in (attention.heads, *2 * (attention.kv_heads,))]
    for kind, fused in _tensors(attention.qkv.weight, attention.qkv.bias):
        for name, part in zip("qkv", torch.split(fused, rows), strict=True):
            views[f"self_attn.{name}_proj.{kind}"] = part
    for kind, whole in _tensors(attention.output.weight, attention.output.bias):
        views[f"self_attn.o_proj.{kind}"] = whole
    if attention.q_norm is not None and attention.k_norm is not None:
        views["self_attn.q_norm.weight"] = attention.q_norm.weight
        views["self_attn.k_norm.weight"] = attention.k_norm.weight
    return views


def _experts_apart(moe: MixtureOfExperts) -> Views:
    views: Views = {}
    for e, (w13, w2) in enumerate(zip(moe.w13, moe.w2, strict=True)):
        gate, up = w13.chunk(2)
        views[f"mlp.experts.{e}.gate_proj.weight"] = gate
        views[f"mlp.experts.{e}.up_proj.weight"] = up
        views[f"mlp.experts.{e}.down_proj.weight"] = w2
    return views


def _tensors(weight: Tensor, bias: Tensor | None) -> list[tuple[str, Tensor]]:
    return [("weight", weight)] if bias is None else [("weight", weight), ("bias", bias)]
