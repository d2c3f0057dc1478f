"""What each architecture fixes, and which keys of its `config.json` say the rest.

Rules as in transformers' modelling files of the same names: which layers hold experts, what has a
bias or a norm. Supported are the dense Llama, Mistral, Qwen2 and Qwen3, and the mixtures Mixtral,
Qwen3-MoE, Llama 4 (its text model) and DeepSeek-V3.

Two things are simplified, and named here because they show in figures:

- Llama 4's layers with rotary embedding, three of four, attend only within chunks of
  `attention_chunk_size` (8,192) tokens. They are taken as attending to everything, so beyond that
  length attention takes up to four times too long. KV is counted in full, as engines keep it unless
  told to use a pool per kind of layer. Its vision tower (0.87 B parameters) is left out.
- DeepSeek-V3's module for predicting a second token (`num_nextn_predict_layers`, 11.5 B parameters)
  is left out: an engine loads it only to speculate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from policies.shapes.attention import Attention, GroupedQueryAttention, LatentAttention
from policies.shapes.mlp import GatedMLP, MixtureOfExperts

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.shapes.config_json import ConfigJson


class Layers(NamedTuple):
    """What a model's layers are made of.

    `mlp` and `moe` are None where no layer has one; `dense` and `sparse` say how many do.
    """

    attention: Attention
    mlp: GatedMLP | None
    moe: MixtureOfExperts | None
    dense: int
    sparse: int


def _grouped_query(
    c: ConfigJson,
    *,
    qk_norm: bool = False,
    qk_norm_weights: bool = False,
    qkv_bias: bool = False,
    output_bias: bool = False,
) -> GroupedQueryAttention:
    hidden_size = c.integer("hidden_size")
    heads = c.integer("num_attention_heads")
    if not c.has("head_dim") and hidden_size % heads:
        raise ValueError(
            f"{c.where}: hidden_size {hidden_size} is not a multiple of num_attention_heads "
            f"{heads}, and there is no head_dim"
        )
    kv_heads = c.integer("num_key_value_heads", default=heads)
    head_dim = c.integer("head_dim", default=hidden_size // heads)
    try:
        return GroupedQueryAttention(
            hidden_size, heads, kv_heads, head_dim, qk_norm, qk_norm_weights, qkv_bias, output_bias
        )
    except ValueError as error:
        raise ValueError(f"{c.where}: {error}") from None


def _experts(
    c: ConfigJson,
    experts: str,
    inner_size: str,
    *,
    shared_inner_size: int = 0,
    router_bias: bool = False,
) -> MixtureOfExperts:
    try:
        return MixtureOfExperts(
            hidden_size=c.integer("hidden_size"),
            experts=c.integer(experts),
            experts_per_token=c.integer("num_experts_per_tok"),
            inner_size=c.integer(inner_size),
            shared_inner_size=shared_inner_size,
            router_bias=router_bias,
        )
    except ValueError as error:
        message = str(error)
        raise ValueError(message if c.where in message else f"{c.where}: {message}") from None


def _interleaved(
    c: ConfigJson, attention: Attention, sparse: list[int], inner: str, moe: MixtureOfExperts
) -> Layers:
    """Layers of which those numbered in `sparse` hold experts, the others an MLP."""
    layers = c.integer("num_hidden_layers")
    dense = layers - len(sparse)
    mlp = GatedMLP(c.integer("hidden_size"), c.integer(inner)) if dense else None
    return Layers(attention, mlp, moe if sparse else None, dense, len(sparse))


def _dense(c: ConfigJson, attention: Attention, *, mlp_bias: bool = False) -> Layers:
    mlp = GatedMLP(c.integer("hidden_size"), c.integer("intermediate_size"), mlp_bias)
    return Layers(attention, mlp, None, c.integer("num_hidden_layers"), 0)


def _llama(c: ConfigJson) -> Layers:
    bias = c.flag("attention_bias")
    attention = _grouped_query(c, qkv_bias=bias, output_bias=bias)
    return _dense(c, attention, mlp_bias=c.flag("mlp_bias"))


def _mistral(c: ConfigJson) -> Layers:
    return _dense(c, _grouped_query(c))


def _qwen2(c: ConfigJson) -> Layers:
    return _dense(c, _grouped_query(c, qkv_bias=True))


def _qwen3_attention(c: ConfigJson) -> GroupedQueryAttention:
    bias = c.flag("attention_bias")
    return _grouped_query(c, qk_norm=True, qk_norm_weights=True, qkv_bias=bias, output_bias=bias)


def _qwen3(c: ConfigJson) -> Layers:
    return _dense(c, _qwen3_attention(c))


def _qwen3_moe(c: ConfigJson) -> Layers:
    layers = c.integer("num_hidden_layers")
    step = c.integer("decoder_sparse_step", default=1)
    dense = c.layer_numbers("mlp_only_layers", layers) or ()
    sparse = [i for i in range(layers) if i not in dense and (i + 1) % step == 0]
    # transformers 5 saves what its older versions call num_experts under Mixtral's name
    count = "num_local_experts" if c.has("num_local_experts") else "num_experts"
    moe = _experts(c, count, "moe_intermediate_size")
    return _interleaved(c, _qwen3_attention(c), sparse, "intermediate_size", moe)


def _mixtral(c: ConfigJson) -> Layers:
    moe = _experts(c, "num_local_experts", "intermediate_size")
    layers = list(range(c.integer("num_hidden_layers")))
    return _interleaved(c, _grouped_query(c), layers, "intermediate_size", moe)


def _llama4(c: ConfigJson) -> Layers:
    layers = c.integer("num_hidden_layers")
    step = c.integer("interleave_moe_layer_step", default=1)
    sparse = c.layer_numbers("moe_layers", layers)
    if sparse is None:
        sparse = [i for i in range(layers) if (i + 1) % step == 0]
    bias = c.flag("attention_bias")
    # queries and keys are normed, where they are, without weights
    attention = _grouped_query(c, qk_norm=c.flag("use_qk_norm"), qkv_bias=bias, output_bias=bias)
    shared = c.integer("intermediate_size")  # one expert that all tokens take, as wide as a routed
    moe = _experts(c, "num_local_experts", "intermediate_size", shared_inner_size=shared)
    return _interleaved(c, attention, sparse, "intermediate_size_mlp", moe)


def _deepseek_v3(c: ConfigJson) -> Layers:
    if c.flag("attention_bias"):
        raise ValueError(f"{c.where}: attention_bias is True; expected false")
    c.one_of("topk_method", ("noaux_tc",), "noaux_tc")  # the one with a correction per expert
    c.one_of("moe_layer_freq", (1,), 1)
    layers = c.integer("num_hidden_layers")
    attention = LatentAttention(
        hidden_size=c.integer("hidden_size"),
        heads=c.integer("num_attention_heads"),
        q_lora_rank=c.integer("q_lora_rank") if c.has("q_lora_rank") else None,
        kv_lora_rank=c.integer("kv_lora_rank"),
        nope_head_dim=c.integer("qk_nope_head_dim"),
        rope_head_dim=c.integer("qk_rope_head_dim"),
        v_head_dim=c.integer("v_head_dim"),
    )
    shared = c.integer("n_shared_experts", default=0, least=0)
    moe = _experts(
        c,
        "n_routed_experts",
        "moe_intermediate_size",
        shared_inner_size=shared * c.integer("moe_intermediate_size"),
        router_bias=True,
    )
    first = c.integer("first_k_dense_replace", default=0, least=0)
    if first > layers:
        raise ValueError(f"{c.where}: first_k_dense_replace is {first}; expected at most {layers}")
    sparse = list(range(first, layers))
    return _interleaved(c, attention, sparse, "intermediate_size", moe)


ARCHITECTURES: Final[dict[str, Callable[[ConfigJson], Layers]]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "MixtralForCausalLM": _mixtral,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "Llama4ForCausalLM": _llama4,
    "Llama4ForConditionalGeneration": _llama4,
    "DeepseekV3ForCausalLM": _deepseek_v3,
}
"""The architectures known, and how to read each."""


def text_model(config: ConfigJson) -> tuple[str, ConfigJson]:
    """The architecture's name, and the part of the config that describes its text model.

    Raises:
        ValueError: for an architecture that is not known; lists those that are.
    """
    names = config.values.get("architectures")
    supported = ", ".join(ARCHITECTURES)
    if not isinstance(names, list) or len(names) != 1:
        raise ValueError(
            f"{config.where}: architectures is {names!r}; expected one of: {supported}"
        )
    if names[0] not in ARCHITECTURES:
        raise ValueError(
            f"{config.where}: architecture {names[0]!r} is not supported; supported: {supported}"
        )
    inside = names[0].endswith("ForConditionalGeneration")
    return str(names[0]), config.inner("text_config") if inside else config
