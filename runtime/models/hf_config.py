"""A HuggingFace `config.json`, and the `generation_config.json` beside it, as a `ModelConfig`.

Keys, spellings and defaults as in transformers' configuration classes, of version 4 (`rope_theta`,
`rope_scaling`, `torch_dtype`) and of version 5 (`rope_parameters`, `dtype`). What the decoder cannot
do is refused here, by the key that asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from policies.shapes.config_json import ConfigJson, read_json
from runtime.models.config import ARCHITECTURES, Experts, ModelConfig
from runtime.models.rope import Llama3Scaling, Rope, YarnScaling

if TYPE_CHECKING:
    from pathlib import Path

_DEFAULT_THETA: Final = 10_000.0
_DEFAULT_EPS: Final = 1e-6
_QWEN3_HEAD_DIM: Final = 128  # where the key is missing; others divide the hidden size by the heads


def read_config(path: Path) -> ModelConfig:
    """The config in a file, with the stop tokens of the `generation_config.json` beside it.

    Raises:
        ValueError: not JSON, an unsupported architecture (lists those supported) or option, a key
            that is missing or ill-typed; names file and key.
    """
    generation = path.with_name("generation_config.json")
    return parse_config(
        read_json(path),
        read_json(generation) if generation.is_file() else {},
        where=str(path),
    )


def parse_config(
    config: dict[str, Any], generation: dict[str, Any] | None = None, *, where: str
) -> ModelConfig:
    """The same from parsed JSON; `where` names the config in errors."""
    c = ConfigJson(config, where)
    model_type = _model_type(c)
    _refuse_what_is_not_built(c)
    hidden_size, heads = c.integer("hidden_size"), c.integer("num_attention_heads")
    kv_heads = c.integer("num_key_value_heads", default=heads)
    if heads % kv_heads:
        msg = f"{where}: num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}"
        raise ValueError(msg)
    bias = c.flag("attention_bias") and model_type != "qwen2"
    eos = ConfigJson(generation or {}, where.replace("config.json", "generation_config.json"))
    context = c.integer("max_position_embeddings")
    return ModelConfig(
        model_type=model_type,
        hidden_size=hidden_size,
        layers=c.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(c, model_type, hidden_size, heads),
        intermediate_size=c.integer("intermediate_size"),
        vocab_size=c.integer("vocab_size"),
        max_position_embeddings=context,
        rms_norm_eps=_number(c, "rms_norm_eps", _DEFAULT_EPS),
        rope=_rope(c, context),
        tied_embeddings=c.flag("tie_word_embeddings"),
        qkv_bias=bias or model_type == "qwen2",
        output_bias=bias,
        mlp_bias=model_type == "llama" and c.flag("mlp_bias"),
        qk_norm=model_type in {"qwen3", "qwen3_moe"},
        experts=_experts(c) if model_type == "qwen3_moe" else None,
        dtype=_dtype(c),
        bos_id=next(iter(_token_ids(c, "bos_token_id")), None),
        # transformers' generate stops at the generation config's tokens, where it names any
        eos_ids=_token_ids(eos, "eos_token_id") or _token_ids(c, "eos_token_id"),
    )


def _model_type(c: ConfigJson) -> str:
    supported = ", ".join(ARCHITECTURES.values())
    names = c.values.get("architectures")
    match names:
        case [str() as name]:
            for model_type, architecture in ARCHITECTURES.items():
                if architecture == name:
                    return model_type
            msg = f"{c.where}: architecture {name!r} is not supported; supported: {supported}"
            raise ValueError(msg)
        case None if c.values.get("model_type") in ARCHITECTURES:
            return str(c.values["model_type"])
    raise ValueError(f"{c.where}: architectures is {names!r}; expected one of: {supported}")


def _refuse_what_is_not_built(c: ConfigJson) -> None:
    c.one_of("hidden_act", ("silu",), "silu")
    if c.has("quantization_config"):
        msg = (
            f"{c.where}: quantization_config is set; quantised checkpoints are not supported, "
            "expected bfloat16, float16 or float32 weights, or a GGUF file"
        )
        raise ValueError(msg)
    # Qwen writes down a window size that it does not use
    windowed = c.flag("use_sliding_window") and c.has("sliding_window")
    kinds = c.values.get("layer_types") or ()
    if windowed or any(kind != "full_attention" for kind in kinds):
        found = f"layer_types is {kinds!r}" if kinds else "use_sliding_window is True"
        msg = (
            f"{c.where}: {found}; attention within a window is not supported, expected "
            "use_sliding_window: false, and full_attention in every layer"
        )
        raise ValueError(msg)


def _head_dim(c: ConfigJson, model_type: str, hidden_size: int, heads: int) -> int:
    default = _QWEN3_HEAD_DIM if model_type == "qwen3" else hidden_size // heads
    if not c.has("head_dim") and model_type != "qwen3" and hidden_size % heads:
        msg = (
            f"{c.where}: hidden_size {hidden_size} is not a multiple of num_attention_heads "
            f"{heads}, and there is no head_dim"
        )
        raise ValueError(msg)
    head_dim = c.integer("head_dim", default=default)
    if head_dim % 2:
        msg = f"{c.where}: head_dim is {head_dim}; rotary embeddings need an even one"
        raise ValueError(msg)
    return head_dim


def _experts(c: ConfigJson) -> Experts:
    layers = c.integer("num_hidden_layers")
    step = c.integer("decoder_sparse_step", default=1)
    dense = c.layer_numbers("mlp_only_layers", layers) or ()
    # transformers 5 renamed the key
    count = c.integer("num_local_experts" if c.has("num_local_experts") else "num_experts")
    per_token = c.integer("num_experts_per_tok")
    if per_token > count:
        msg = f"{c.where}: num_experts_per_tok is {per_token}; there are only {count} experts"
        raise ValueError(msg)
    return Experts(
        count=count,
        per_token=per_token,
        intermediate_size=c.integer("moe_intermediate_size"),
        normalised=c.flag("norm_topk_prob"),
        layers=tuple(i for i in range(layers) if i not in dense and (i + 1) % step == 0),
    )


def _dtype(c: ConfigJson) -> str:
    dtype = c.dtype()
    if dtype not in {"bfloat16", "float16", "float32"}:
        msg = f"{c.where}: dtype is {dtype!r}; expected bfloat16, float16 or float32"
        raise ValueError(msg)
    return dtype


def _rope(c: ConfigJson, context: int) -> Rope:
    """From `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (4)."""
    key = "rope_parameters" if c.has("rope_parameters") else "rope_scaling"
    r = c.inner(key) if c.has(key) else ConfigJson({}, f"{c.where}: {key}")
    theta = _number(r, "rope_theta", _number(c, "rope_theta", _DEFAULT_THETA))
    for part in (r, c):
        if _number(part, "partial_rotary_factor", 1.0) != 1.0:
            msg = f"{part.where}: partial_rotary_factor must be 1: heads are rotated whole"
            raise ValueError(msg)
    kind = r.values.get("rope_type", r.values.get("type", "default"))
    original = r.integer("original_max_position_embeddings", default=context)
    match kind:
        case "default":
            return Rope(theta)
        case "llama3":
            low, high = _number(r, "low_freq_factor"), _number(r, "high_freq_factor")
            if high <= low:
                msg = f"{r.where}: high_freq_factor {high} must be above low_freq_factor {low}"
                raise ValueError(msg)
            return Rope(theta, Llama3Scaling(_number(r, "factor"), low, high, original))
        case "yarn":
            return Rope(theta, _yarn(r, original, context))
    supported = "default, llama3, yarn"
    raise ValueError(f"{r.where}: rope_type {kind!r} is not supported; supported: {supported}")


def _yarn(r: ConfigJson, original: int, context: int) -> YarnScaling:
    factor = _number(r, "factor", context / original)
    derived = YarnScaling.attention_factor_for(
        factor,
        _number(r, "mscale") if r.has("mscale") else None,
        _number(r, "mscale_all_dim") if r.has("mscale_all_dim") else None,
    )
    return YarnScaling(
        factor=factor,
        original_context=original,
        attention_factor=_number(r, "attention_factor", derived),
        beta_fast=_number(r, "beta_fast", 32.0),
        beta_slow=_number(r, "beta_slow", 1.0),
        truncate="truncate" not in r.values or r.flag("truncate"),
    )


def _number(c: ConfigJson, key: str, default: float | None = None) -> float:
    """A number above zero; `default` where the key is missing or null."""
    match c.values.get(key):
        case None if default is not None:
            return default
        case None:
            raise ValueError(f"{c.where}: key {key!r} is missing; expected a number above 0")
        case bool():
            pass
        case int() | float() as value if value > 0:
            return float(value)
    raise ValueError(f"{c.where}: {key} is {c.values[key]!r}; expected a number above 0")


def _token_ids(c: ConfigJson, key: str) -> tuple[int, ...]:
    """Token ids under a key that holds one, a list of them, or nothing."""
    match c.values.get(key):
        case None:
            return ()
        case bool():
            pass
        case int() as token:
            return (token,)
        case list() as tokens if all(type(token) is int for token in tokens):
            return tuple(tokens)
    raise ValueError(
        f"{c.where}: {key} is {c.values[key]!r}; expected a token id or a list of them"
    )
