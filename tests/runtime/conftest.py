"""What the runtime's tests share: one thread, no network, small random models, the real weights."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries are imported
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3_moe")
TINY: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TINY_EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}


Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class TinyModel(Protocol):
    """Makes a small random checkpoint, and says where it lies."""

    def __call__(self, architecture: str, seed: int = 0, **overrides: Any) -> Path: ...


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file: real weights, and a tokenizer."""
    default = ROOT / ".weights" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path = Path(os.environ.get("SCHEDTWIN_SMOLLM2", default))
    if not path.is_file():
        pytest.skip(f"{path} is not there; `make weights` fetches it")
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Folders of small random fp32 models, as transformers saves them.

    `tiny_model("qwen3")` is two layers with grouped-query attention; keyword arguments override
    its config.json (`num_hidden_layers=3`, `rope_scaling={...}`). Every parameter is random, norms
    and biases too, and logits are far apart, so that a mistake anywhere shows in what is sampled.
    """
    made: dict[str, Path] = {}

    def make(architecture: str, seed: int = 0, **overrides: Any) -> Path:
        key = repr((architecture, seed, sorted(overrides.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(architecture)
            _save_random(architecture, seed, overrides, folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def dense_attend() -> Attend:
    """Causal attention within one sequence that is computed whole, without any cache."""

    def attend(_layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(0, 1),
            k.transpose(0, 1),
            v.transpose(0, 1),
            is_causal=True,
            enable_gqa=True,
        )
        return out.transpose(0, 1)

    return attend


@pytest.fixture(scope="session")
def transformers_logits() -> Callable[..., torch.Tensor]:
    """Logits (T, vocabulary) of token ids, by transformers from a folder, in fp32."""
    from transformers import AutoModelForCausalLM

    models: dict[Path, Any] = {}

    def logits(folder: Path, ids: Sequence[int]) -> torch.Tensor:
        if folder not in models:
            models[folder] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.inference_mode():
            out: torch.Tensor = models[folder](torch.tensor([ids])).logits[0]
        return out

    return logits


def _save_random(architecture: str, seed: int, overrides: dict[str, Any], folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {**TINY, **(TINY_EXPERTS if architecture == "qwen3_moe" else {}), **overrides}
    config = AutoConfig.for_model(architecture, **values)
    make: Any = AutoModelForCausalLM.from_config  # untyped
    model = make(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(generator=generator)
            if name.endswith("norm.weight"):
                parameter.mul_(0.1).add_(1.0)
            elif name.endswith("bias"):
                parameter.mul_(0.3)
            elif "embed_tokens" not in name:
                parameter.mul_(1.5 * parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
