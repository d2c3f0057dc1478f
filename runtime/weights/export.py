"""A loaded model as a HuggingFace folder, for whatever reads those: transformers, other engines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runtime.models.rope import Llama3Scaling, YarnScaling
from runtime.weights.folder import WHOLE
from runtime.weights.names import huggingface_views

if TYPE_CHECKING:
    from pathlib import Path

    from runtime.models.config import ModelConfig
    from runtime.models.rope import Rope
    from runtime.weights.load import LoadedModel
    from runtime.weights.tokenizer import Tokenizer


def export_folder(loaded: LoadedModel, path: Path) -> None:
    """Write config, weights (in the type they are loaded in) and tokenizer into a folder.

    Args:
        loaded: the model.
        path: of the folder; made if it is not there.

    Raises:
        ValueError: the folder holds a model already.
    """
    from safetensors.torch import save_file

    if (path / "config.json").exists():
        raise ValueError(f"{path}: holds a config.json already; choose a folder without a model")
    path.mkdir(parents=True, exist_ok=True)
    views = huggingface_views(loaded.model)
    # parts of fused parameters share memory, which safetensors refuses to save
    tensors = {name: view.to("cpu", copy=True).contiguous() for name, view in views.items()}
    save_file(tensors, path / WHOLE, metadata={"format": "pt"})
    if loaded.tokenizer is not None:
        _export_tokenizer(loaded.tokenizer, loaded.config, path)
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    tokens = {"bos_token_id": loaded.config.bos_id, "eos_token_id": list(loaded.config.eos_ids)}
    tokens = {key: value for key, value in tokens.items() if value not in (None, [])}
    _write_json(path / "generation_config.json", tokens)
    # last: a folder with a config.json is a whole model
    _write_json(path / "config.json", {**_config_json(loaded.config), **tokens, "dtype": dtype})


def _config_json(c: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {
        "architectures": [c.architecture],
        "model_type": c.model_type,
        "hidden_size": c.hidden_size,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.intermediate_size,
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.max_position_embeddings,
        "rms_norm_eps": c.rms_norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": c.tied_embeddings,
        "use_sliding_window": False,
        # both spellings: version 4 of transformers, and other engines, know only the older
        "rope_theta": c.rope.theta,
        "rope_scaling": _scaling(c.rope),
    }
    if c.model_type != "qwen2":
        values["attention_bias"] = c.qkv_bias
    if c.model_type == "llama":
        values["mlp_bias"] = c.mlp_bias
    if c.experts is not None:
        dense = [i for i in range(c.layers) if i not in c.experts.layers]
        values |= {
            "num_experts": c.experts.count,
            "num_experts_per_tok": c.experts.per_token,
            "moe_intermediate_size": c.experts.intermediate_size,
            "norm_topk_prob": c.experts.normalised,
            "mlp_only_layers": dense,
            "decoder_sparse_step": 1,
        }
    return values


def _scaling(rope: Rope) -> dict[str, Any] | None:
    match rope.scaling:
        case Llama3Scaling() as llama3:
            return {
                "rope_type": "llama3",
                "factor": llama3.factor,
                "low_freq_factor": llama3.low_freq_factor,
                "high_freq_factor": llama3.high_freq_factor,
                "original_max_position_embeddings": llama3.original_context,
            }
        case YarnScaling() as yarn:
            return {
                "rope_type": "yarn",
                "factor": yarn.factor,
                "attention_factor": yarn.attention_factor,
                "beta_fast": yarn.beta_fast,
                "beta_slow": yarn.beta_slow,
                "truncate": yarn.truncate,
                "original_max_position_embeddings": yarn.original_context,
            }
    return None


def _export_tokenizer(tokenizer: Tokenizer, config: ModelConfig, path: Path) -> None:
    tokenizer.backend.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
        **tokenizer.special_tokens,
    }
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template.source
    _write_json(path / "tokenizer_config.json", settings)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
