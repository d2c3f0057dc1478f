"""The shape of a dense transformer: what it weighs, what a token's KV costs, what it computes.

Scheduling, memory and latency need a model's sizes, never its weights. A `ModelShape` is read from
a HuggingFace `config.json` (a file, a folder that holds one, or one of the configs bundled under
`policies/models`), keeps the numbers that cannot be computed and offers the rest as properties.

It does not know tensors, tokenizers, rotary embeddings or any hardware. The derived figures count
one copy of the whole model; whoever splits it over GPUs divides. A mixture of experts or latent
attention would be another shape with the same properties; here such an architecture is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

BUNDLED_FOLDER: Final = Path(__file__).with_name("models")

_DTYPE_BYTES: Final = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
_DTYPE_ALIASES: Final = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
}

# What an architecture fixes and its config.json need not say, as in transformers' modeling files:
# whether queries and keys are normed, whether q, k and v always have a bias, and whether the key
# `attention_bias` is obeyed.
_ARCHITECTURES: Final = {
    "LlamaForCausalLM": (False, False, True),
    "MistralForCausalLM": (False, False, False),
    "Qwen2ForCausalLM": (False, True, False),
    "Qwen3ForCausalLM": (True, False, True),
}


def canonical_dtype(name: str) -> str:
    """The full name of a data type: `bf16` is `bfloat16`, `fp8` is `float8_e4m3fn`.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones.
    """
    full = _DTYPE_ALIASES.get(name, name)
    if full not in _DTYPE_BYTES:
        known = ", ".join([*_DTYPE_ALIASES, *_DTYPE_BYTES])
        raise ValueError(f"unknown dtype {name!r}; known: {known}")
    return full


def dtype_bytes(name: str) -> int:
    """Bytes of one element of a data type, by full name or alias."""
    return _DTYPE_BYTES[canonical_dtype(name)]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a dense decoder with grouped-query attention and a gated MLP (Llama, Qwen2, Qwen3).

    Counts are exact: `parameters` equals the number of elements in the published checkpoint.
    """

    name: str
    architecture: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    tied_embeddings: bool
    qk_norm: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    dtype: str

    def __post_init__(self) -> None:
        """Hold what the derived figures rely on."""
        for field in ("layers", "hidden_size", "heads", "kv_heads", "head_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"{self.name}: {field} is {getattr(self, field)}, expected >= 1")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.name}: {self.heads} heads cannot share {self.kv_heads} kv heads evenly"
            )

    # -- parameters -------------------------------------------------------------------------------

    @property
    def linear_parameters(self) -> int:
        """Elements of the weight matrices inside the layers: q, k, v, o, gate, up and down."""
        attention = self.hidden_size * self.head_dim * 2 * (self.heads + self.kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.layers * (attention + mlp)

    @property
    def embedding_parameters(self) -> int:
        """Elements of the token embedding table (looked up, not multiplied)."""
        return self.vocab_size * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """Elements of the LM head matrix, which is the embedding table where the two are tied."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Elements of the whole model; a tied LM head is counted once."""
        per_layer = 2 * self.hidden_size
        if self.qk_norm:
            per_layer += 2 * self.head_dim
        if self.qkv_bias:
            per_layer += (self.heads + 2 * self.kv_heads) * self.head_dim
        if self.output_bias:
            per_layer += self.hidden_size
        if self.mlp_bias:
            per_layer += 2 * self.intermediate_size + self.hidden_size
        head = 0 if self.tied_embeddings else self.head_parameters
        vectors = self.layers * per_layer + self.hidden_size
        return self.linear_parameters + vectors + self.embedding_parameters + head

    # -- bytes ------------------------------------------------------------------------------------

    def resolve_dtype(self, dtype: str) -> str:
        """The full dtype name; `auto` is the dtype the checkpoint is stored in."""
        return self.dtype if dtype == "auto" else canonical_dtype(dtype)

    def linear_bytes(self, weight_dtype: str = "auto") -> int:
        """Bytes of the layers' weight matrices, the ones every forward pass reads."""
        return self.linear_parameters * dtype_bytes(self.resolve_dtype(weight_dtype))

    def weight_bytes(self, weight_dtype: str = "auto") -> int:
        """Bytes of all weights in memory.

        A narrower `weight_dtype` applies to the layers' matrices; embeddings, LM head, norms and
        biases stay in the checkpoint's dtype, as FP8 checkpoints for SGLang and vLLM have them.
        """
        rest = self.parameters - self.linear_parameters
        return self.linear_bytes(weight_dtype) + rest * dtype_bytes(self.dtype)

    def kv_bytes_per_token(self, kv_dtype: str = "auto") -> int:
        """Bytes of the keys and values of one token over all layers."""
        elements = 2 * self.layers * self.kv_heads * self.head_dim
        return elements * dtype_bytes(self.resolve_dtype(kv_dtype))

    # -- floating-point operations ----------------------------------------------------------------

    @property
    def linear_flops_per_token(self) -> int:
        """FLOPs of the layers' matrix products for one token (a multiply-add is two)."""
        return 2 * self.linear_parameters

    @property
    def head_flops_per_row(self) -> int:
        """FLOPs of the LM head for one row; it runs only on rows that sample."""
        return 2 * self.head_parameters

    @property
    def attention_flops_per_pair(self) -> int:
        """FLOPs of attention for one (query, key) pair over all layers: QK^T and PV."""
        return 4 * self.heads * self.head_dim * self.layers

    # -- reading ----------------------------------------------------------------------------------

    @classmethod
    def load(cls, source: str | Path) -> ModelShape:
        """Read a shape from a bundled name, a folder with `config.json`, or such a file.

        Bundled names are matched without regard to case, whole (`Qwen/Qwen3-8B`) or by their last
        part (`qwen3-8b`). A path that exists goes before a bundled name.

        Raises:
            ValueError: for an unknown name (lists the bundled ones), an unsupported architecture
                (lists the supported), or a missing or ill-typed key (names file and key).
        """
        path = Path(source)
        if path.is_dir() and (path / "config.json").is_file():
            path = path / "config.json"
            name = path.resolve().parent.name
        elif path.is_file():
            name = path.resolve().parent.name if path.name == "config.json" else path.stem
        else:
            name = _bundled_name(str(source))
            path = BUNDLED_FOLDER / (name.replace("/", "--") + ".json")
        return cls.from_config(_read_json(path), name=name, where=str(path))

    @classmethod
    def from_config(cls, config: dict[str, Any], *, name: str, where: str) -> ModelShape:
        """Build a shape from the parsed contents of a `config.json`; `where` names it in errors."""
        reader = _Config(config, where)
        architecture = reader.architecture()
        qk_norm, qkv_bias, reads_bias = _ARCHITECTURES[architecture]
        attention_bias = reads_bias and reader.flag("attention_bias")
        hidden_size = reader.integer("hidden_size")
        heads = reader.integer("num_attention_heads")
        if config.get("head_dim") is None and hidden_size % heads:
            raise ValueError(
                f"{where}: hidden_size {hidden_size} is not a multiple of num_attention_heads "
                f"{heads}, and there is no head_dim"
            )
        reader.refuse_what_is_not_modelled()
        return cls(
            name=name,
            architecture=architecture,
            layers=reader.integer("num_hidden_layers"),
            hidden_size=hidden_size,
            heads=heads,
            kv_heads=reader.integer("num_key_value_heads", default=heads),
            head_dim=reader.integer("head_dim", default=hidden_size // heads),
            intermediate_size=reader.integer("intermediate_size"),
            vocab_size=reader.integer("vocab_size"),
            max_position_embeddings=reader.integer("max_position_embeddings"),
            tied_embeddings=reader.flag("tie_word_embeddings"),
            qk_norm=qk_norm,
            qkv_bias=qkv_bias or attention_bias,
            output_bias=attention_bias,
            mlp_bias=architecture == "LlamaForCausalLM" and reader.flag("mlp_bias"),
            dtype=reader.dtype(),
        )


def bundled_models() -> tuple[str, ...]:
    """The names `ModelShape.load` knows without a path, sorted."""
    return tuple(sorted(p.stem.replace("--", "/", 1) for p in BUNDLED_FOLDER.glob("*.json")))


def _bundled_name(wanted: str) -> str:
    known = bundled_models()
    for name in known:
        if wanted.lower() in (name.lower(), name.rsplit("/", 1)[-1].lower()):
            return name
    raise ValueError(
        f"unknown model {wanted!r}: not a folder with config.json, not a file, and not one of the "
        f"bundled models: {', '.join(known)}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable JSON file: {error}") from error
    match config:
        case dict():
            return config
    raise ValueError(f"{path}: expected a JSON object, found {type(config).__name__}")


@dataclass(frozen=True, slots=True)
class _Config:
    """A parsed config.json whose reads name file and key when they fail."""

    values: dict[str, Any]
    where: str

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        if value is None:
            if default is not None:
                return default
            raise ValueError(f"{self.where}: key {key!r} is missing; expected a positive integer")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{self.where}: {key} is {value!r}; expected a positive integer")
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if value is True or value is False:
            return bool(value)
        raise ValueError(f"{self.where}: {key} is {value!r}; expected true or false")

    def architecture(self) -> str:
        names = self.values.get("architectures")
        supported = ", ".join(_ARCHITECTURES)
        if not isinstance(names, list) or len(names) != 1:
            raise ValueError(
                f"{self.where}: architectures is {names!r}; expected one of: {supported}"
            )
        if names[0] not in _ARCHITECTURES:
            raise ValueError(
                f"{self.where}: architecture {names[0]!r} is not supported; supported: {supported}"
            )
        return str(names[0])

    def dtype(self) -> str:
        # transformers 5 writes `dtype`, older versions `torch_dtype`; without either, float32.
        name = self.values.get("dtype") or self.values.get("torch_dtype") or "float32"
        try:
            return canonical_dtype(str(name))
        except ValueError as error:
            raise ValueError(f"{self.where}: dtype: {error}") from error

    def refuse_what_is_not_modelled(self) -> None:
        if self.values.get("quantization_config") is not None:
            raise ValueError(
                f"{self.where}: quantization_config is set; load the unquantised model's "
                "config and give the precision as weight_dtype (fp8)"
            )
        # Qwen keeps a window size it does not use; Mistral's window is used whenever it is set.
        window = self.values.get("sliding_window")
        if window is not None and self.values.get("use_sliding_window", True):
            raise ValueError(
                f"{self.where}: sliding_window is {window!r}; sliding-window attention is not "
                "modelled, expected null or use_sliding_window: false"
            )
