"""Every Triton kernel compiles for an H100, here, where none is: its machine code is made and dropped.

The interpreter takes what the compiler refuses (an annotation, a type that changes in a loop), so a
kernel that was only interpreted may never have been a kernel.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SHARED_BYTES = 227 * 1024  # what a block may have on it
INDICES = {
    "int32": ("sequence_ptr", "token_ptr", "kv_len_ptr", "table_ptr", "tile_ptr", "indptr_ptr"),
    "int64": ("order_ptr", "block_expert_ptr", "block_start_ptr", "block_stop_ptr"),
}
POINTERS = {
    **dict.fromkeys(INDICES["int32"], "*i32"),
    **dict.fromkeys(INDICES["int64"], "*i64"),
    "part_ptr": "*fp32",
    "lse_ptr": "*fp32",
}
ATTENTION = {"GROUP": 4, "HEAD_DIM": 128, "BLOCK_N": 64, "BLOCK_D": 128}
EXPERTS = {"HIDDEN": 2048, "INNER": 768, "BLOCK_N": 64, "BLOCK_K": 64}
ONES = {"page_size": 1, "kv_heads": 1}  # Triton makes a constant of an argument that is 1
KERNELS: dict[str, tuple[str, dict[str, int]]] = {
    "decode, parts": ("paged_decode._part_kernel", ATTENTION | {"BLOCK_G": 16, "ONE_PART": False}),
    "decode, one part": (
        "paged_decode._part_kernel",
        ATTENTION | ONES | {"BLOCK_G": 16, "ONE_PART": True, "parts": 1},
    ),
    "merge": ("paged_decode._merge_kernel", {"HEAD_DIM": 80, "BLOCK_N": 64, "BLOCK_D": 128}),
    "extend": ("paged_extend._extend_kernel", ATTENTION | {"TILE_TOKENS": 32, "BLOCK_M": 128}),
    "extend, ones": (
        "paged_extend._extend_kernel",
        ATTENTION | ONES | {"TILE_TOKENS": 32, "BLOCK_M": 128},
    ),
    "gate and up": ("experts_triton._gate_up_kernel", EXPERTS | {"BLOCK_M": 16}),
    "down": ("experts_triton._down_kernel", EXPERTS | {"BLOCK_M": 64}),
}


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_for_hopper(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # unset, some versions warn
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    path, constants = KERNELS[name]
    module, function = path.split(".")
    kernel = getattr(import_module(f"runtime.kernels.{module}"), function)
    if not isinstance(kernel, triton.JITFunction):
        pytest.skip("TRITON_INTERPRET is set: there is nothing to compile")
    if dtype == "fp32":  # as the launches do
        constants = constants | {"BLOCK_N": 32}
    signature: dict[str, str] = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.endswith("_ptr"):
            signature[argument] = POINTERS.get(argument, f"*{dtype}")
        else:
            signature[argument] = "fp32" if argument == "scale_log2" else "i32"
    places = {argument: at for at, argument in enumerate(kernel.arg_names)}
    aligned = {
        (places[argument],): [["tt.divisibility", 16]]
        for argument in signature
        if argument.endswith("_ptr")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8, "num_stages": 3}
    )
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED_BYTES
