"""Which backend is chosen, why, and what is said to a wish that cannot be met."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from runtime.attention import choose as choosing
from runtime.attention.choose import AttentionChoiceError, choose
from runtime.attention.reference import ReferenceAttention
from runtime.attention.torch_backend import TorchAttention

BF16 = torch.bfloat16


def test_on_the_cpu_auto_is_torch_and_says_why() -> None:
    choice = choose("auto", "cpu", 64, torch.float32, 16)
    assert choice.name == "torch"
    assert choice.build is TorchAttention
    assert choice.reason == "torch: the others need CUDA, and the device is cpu"


@pytest.mark.parametrize(
    ("name", "backend"), [("torch", TorchAttention), ("reference", ReferenceAttention)]
)
def test_a_named_one_is_what_was_asked_for(name: str, backend: object) -> None:
    choice = choose(name, "cpu", 80, BF16, 1)
    assert choice.build is backend
    assert (choice.name, choice.reason) == (name, f"{name}: asked for")


def test_an_unknown_name_lists_the_known() -> None:
    known = "auto, flashinfer, triton, torch, reference"
    with pytest.raises(AttentionChoiceError, match=f"'fast'; known: {known}"):
        choose("fast", "cpu", 64, BF16, 16)


def test_a_dtype_and_a_page_size_that_nobody_takes() -> None:
    with pytest.raises(AttentionChoiceError, match="cannot compute in int8; known: float32"):
        choose("auto", "cpu", 64, torch.int8, 16)
    with pytest.raises(AttentionChoiceError, match="page_size must be at least 1, got 0"):
        choose("auto", "cpu", 64, BF16, 0)


@pytest.mark.parametrize(
    ("name", "device", "head_dim", "dtype", "message"),
    [
        ("flashinfer", "cpu", 64, BF16, "'flashinfer' .*needs a CUDA device, and this one is cpu"),
        ("flashinfer", "cuda", 80, BF16, "kernels for head_dim 64, 128, 256, and this .* is 80"),
        ("flashinfer", "cuda", 64, torch.float32, "kernels for bfloat16 and float16"),
        ("triton", "cuda", 512, BF16, "take head_dim up to 256, and this one is 512"),
    ],
)
def test_a_named_one_that_cannot_work_says_what_is_missing(
    name: str, device: str, head_dim: int, dtype: torch.dtype, message: str
) -> None:
    with pytest.raises(AttentionChoiceError, match=message):
        choose(name, device, head_dim, dtype, 16)


def test_triton_on_the_cpu_points_to_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(AttentionChoiceError, match=r"needs a CUDA device.*TRITON_INTERPRET=1"):
        choose("triton", "cpu", 64, BF16, 16)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages that seem to be installed."""
    names: set[str] = set()
    monkeypatch.setattr(choosing, "find_spec", lambda name: name if name in names else None)
    for name in ("flashinfer", "triton"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(choosing, "_factory", lambda name: name)
    return names


def test_on_cuda_auto_goes_down_the_list(installed: set[str]) -> None:
    nothing = choose("auto", "cuda", 128, BF16, 16)
    assert nothing.name == "torch"
    assert "not flashinfer: the package flashinfer is not installed" in nothing.reason
    assert "not triton: the package triton is not installed" in nothing.reason
    installed.add("triton")
    triton = choose("auto", "cuda", 128, BF16, 16)
    assert triton.name == "triton"
    assert "pip install flashinfer-python" in triton.reason
    installed.add("flashinfer")
    assert choose("auto", "cuda", 128, BF16, 16).name == "flashinfer"
    odd = choose("auto", "cuda", 96, BF16, 16)
    assert odd.name == "triton"
    assert "not flashinfer: it has kernels for head_dim" in odd.reason


def test_a_package_that_cannot_be_imported_is_as_good_as_missing(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed |= {"flashinfer", "triton"}

    def refuse(name: str) -> ModuleType:
        msg = "libcudart.so.13: cannot open shared object file"
        raise OSError(msg)

    monkeypatch.setattr(choosing, "import_module", refuse)
    with pytest.raises(AttentionChoiceError, match=r"importing flashinfer failed: libcudart"):
        choose("flashinfer", "cuda", 128, BF16, 16)
    assert choose("auto", "cuda", 128, BF16, 16).name == "torch"
