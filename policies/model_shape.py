"""The shape of a transformer: what it weighs, what a token's KV costs, what it computes.

Scheduling, memory and latency need a model's sizes, never its weights. A `ModelShape` is read from
a HuggingFace `config.json` (a file, a folder that holds one, or one of the configs bundled under
`policies/models`). It is put together from the parts in `policies/shapes`: one kind of attention in
all layers, and in each layer an MLP or a mixture of experts.

It does not know tensors, tokenizers, rotary embeddings or any hardware. The derived figures count
one copy of the whole model; whoever splits it over GPUs divides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from policies.shapes.architectures import ARCHITECTURES, text_model
from policies.shapes.config_json import ConfigJson, read_json
from policies.shapes.dtypes import canonical_dtype, dtype_bytes

if TYPE_CHECKING:
    from policies.shapes.attention import Attention
    from policies.shapes.mlp import GatedMLP, MixtureOfExperts

__all__ = ["ModelShape", "bundled_models", "canonical_dtype", "dtype_bytes"]

BUNDLED_FOLDER: Final = Path(__file__).with_name("models")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder-only transformer, dense or with experts.

    Counts are exact: `parameters` equals the number of elements in the published checkpoint, but for
    what `policies.shapes.architectures` says is left out.

    Attributes:
        name: as bundled, or the folder's.
        architecture: as its config.json names it.
        hidden_size: width of the residual stream.
        attention: of every layer.
        mlp: of the dense layers; None if there is none.
        moe: of the layers with experts; None if there is none.
        dense_layers: how many layers hold an MLP.
        moe_layers: how many hold experts.
        vocab_size: tokens.
        max_position_embeddings: context length of the model.
        tied_embeddings: the LM head is the embedding table.
        dtype: of activations, embeddings, LM head, norms, biases and routers.
        matrix_dtype: of the layers' matrices as stored, FP8 in a checkpoint so quantised.
    """

    name: str
    architecture: str
    hidden_size: int
    attention: Attention
    mlp: GatedMLP | None
    moe: MixtureOfExperts | None
    dense_layers: int
    moe_layers: int
    vocab_size: int
    max_position_embeddings: int
    tied_embeddings: bool
    dtype: str
    matrix_dtype: str

    # -- sizes ------------------------------------------------------------------------------------

    @property
    def layers(self) -> int:
        """Layers, of either kind."""
        return self.dense_layers + self.moe_layers

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.attention.heads

    @property
    def kv_heads(self) -> int:
        """KV heads; 1 for latent attention, whose heads share one latent."""
        return self.attention.kv_heads

    @property
    def head_dim(self) -> int:
        """Elements of a KV head; of the latent and the rotary key for latent attention."""
        return self.attention.head_dim

    @property
    def intermediate_size(self) -> int:
        """Inner width of the dense layers' MLP, or of one expert where no layer is dense."""
        if self.mlp is not None:
            return self.mlp.inner_size
        assert self.moe is not None
        return self.moe.inner_size

    # -- parameters -------------------------------------------------------------------------------

    @property
    def linear_parameters(self) -> int:
        """Elements of the weight matrices inside the layers, all experts included, routers not."""
        return self.dense_parameters + self.routed_parameters

    @property
    def dense_parameters(self) -> int:
        """The part of them that every token uses: attention, MLPs and shared experts."""
        dense = self.layers * self.attention.matrix_parameters
        if self.mlp is not None:
            dense += self.dense_layers * self.mlp.matrix_parameters
        if self.moe is not None:
            dense += self.moe_layers * self.moe.shared_parameters
        return dense

    @property
    def routed_parameters(self) -> int:
        """The other part: the routed experts, of which a token uses some."""
        return 0 if self.moe is None else self.moe_layers * self.moe.routed_parameters

    @property
    def router_parameters(self) -> int:
        """Elements of the routers, their corrections included."""
        return 0 if self.moe is None else self.moe_layers * self.moe.router_parameters

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
        vectors = self.layers * (2 * self.hidden_size + self.attention.vector_parameters)
        if self.mlp is not None:
            vectors += self.dense_layers * self.mlp.vector_parameters
        head = 0 if self.tied_embeddings else self.head_parameters
        vectors += self.hidden_size  # the last norm
        inside = self.linear_parameters + self.router_parameters + vectors
        return inside + self.embedding_parameters + head

    @property
    def active_parameters(self) -> int:
        """Elements that one token uses: all but the routed experts it is not routed to."""
        if self.moe is None:
            return self.parameters
        active = self.moe_layers * self.moe.active_parameters
        return self.parameters - self.routed_parameters + active

    # -- bytes ------------------------------------------------------------------------------------

    def resolve_weight_dtype(self, dtype: str) -> str:
        """The full dtype name; `auto` is what the layers' matrices are stored in."""
        return self.matrix_dtype if dtype == "auto" else canonical_dtype(dtype)

    def linear_bytes(self, weight_dtype: str = "auto") -> int:
        """Bytes of the layers' weight matrices, all experts included."""
        return self.linear_parameters * dtype_bytes(self.resolve_weight_dtype(weight_dtype))

    def weight_bytes(self, weight_dtype: str = "auto") -> int:
        """Bytes of all weights in memory.

        A narrower `weight_dtype` applies to the layers' matrices; embeddings, LM head, routers,
        norms and biases stay in the checkpoint's dtype, as FP8 checkpoints for SGLang and vLLM have
        them. The scales of an FP8 checkpoint (4 bytes for 128 x 128 elements) are not counted.
        """
        rest = self.parameters - self.linear_parameters
        return self.linear_bytes(weight_dtype) + rest * dtype_bytes(self.dtype)

    def kv_bytes_per_token(self, kv_dtype: str = "auto") -> int:
        """Bytes kept of one token over all layers: keys and values, or the latents of both."""
        dtype = self.dtype if kv_dtype == "auto" else canonical_dtype(kv_dtype)
        return self.layers * self.attention.kv_elements * dtype_bytes(dtype)

    # -- floating-point operations ----------------------------------------------------------------

    @property
    def linear_flops_per_token(self) -> int:
        """FLOPs of the layers' matrix products for one token (a multiply-add is two)."""
        return self.dense_flops_per_token + self.expert_flops_per_token

    @property
    def dense_flops_per_token(self) -> int:
        """The part of them in what every token uses, routers included."""
        return 2 * (self.dense_parameters + self.router_parameters)

    @property
    def expert_flops_per_token(self) -> int:
        """The part of them in the routed experts a token takes."""
        return 0 if self.moe is None else 2 * self.moe_layers * self.moe.active_parameters

    @property
    def head_flops_per_row(self) -> int:
        """FLOPs of the LM head for one row; it runs only on rows that sample."""
        return 2 * self.head_parameters

    @property
    def attention_flops_per_pair(self) -> int:
        """FLOPs of prefill attention for one (query, key) pair over all layers: QK^T and PV."""
        return self.layers * self.attention.prefill_flops_per_pair

    @property
    def decode_attention_flops_per_pair(self) -> int:
        """The same in decode, where latent attention is absorbed."""
        return self.layers * self.attention.decode_flops_per_pair

    # -- reading ----------------------------------------------------------------------------------

    @classmethod
    def load(cls, source: str | Path) -> ModelShape:
        """Read a shape from a bundled name, a folder with `config.json`, or such a file.

        Bundled names are matched without regard to case, whole (`Qwen/Qwen3-8B`) or by their last
        part (`qwen3-8b`). A path that exists goes before a bundled name.

        A GGUF is not read here: see `simulator.model_file`.

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
        return cls.from_config(read_json(path), name=name, where=str(path))

    @classmethod
    def from_config(cls, config: dict[str, Any], *, name: str, where: str) -> ModelShape:
        """Build a shape from the parsed contents of a `config.json`; `where` names it in errors."""
        whole = ConfigJson(config, where)
        architecture, text = text_model(whole)
        text.refuse_sliding_window()
        layers = ARCHITECTURES[architecture](text)
        dtype = text.dtype(default=whole.dtype())
        return cls(
            name=name,
            architecture=architecture,
            hidden_size=text.integer("hidden_size"),
            attention=layers.attention,
            mlp=layers.mlp,
            moe=layers.moe,
            dense_layers=layers.dense,
            moe_layers=layers.sparse,
            vocab_size=text.integer("vocab_size"),
            max_position_embeddings=text.integer("max_position_embeddings"),
            tied_embeddings=text.flag("tie_word_embeddings"),
            dtype=dtype,
            matrix_dtype=whole.matrix_dtype(dtype),
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
