"""Which experts have tuned Triton tiles, and which run with an engine's default ones.

SGLang and vLLM ship a file of tile sizes for each (experts on a GPU, inner width on a GPU) that
someone tuned on a GPU, and have one rule for all others. A tuned kernel is up to twice as fast as
its untuned neighbour, which no size explains: without this list, experts that were not measured were
off by 7.6 % on the H200 under SGLang, with it by 5.9 %.

The pairs are the names of those files, `E=<experts>,N=<inner>,device_name=<device>[,dtype=...].json`,
as SGLang 0.5.14 and vLLM 0.24.0 (both Apache-2.0) have them; what is in the files is not here. Other
versions have mostly the same. Of a GPU or precision that is not listed nothing is taken as tuned.
"""

from __future__ import annotations

from typing import Final

_H200: Final = "NVIDIA H200"
_H100: Final = "NVIDIA H100 80GB HBM3"
_A100: Final = "NVIDIA A100-SXM4-80GB"

# {(framework, device, precision): {experts: inner widths}}, named as the operator tables name them
_TUNED: Final[dict[tuple[str, str, str], dict[int, tuple[int, ...]]]] = {
    ("sglang", _H200, "bfloat16"): {
        8: (1792, 2048, 3584, 4096, 7168, 14336),
        16: (1024,),
        20: (1536,),
        64: (320, 640, 1280, 2560),
        128: (192, 384, 704, 768),
        129: (384,),
        161: (192,),
        512: (64, 128, 256),
    },
    ("sglang", _H100, "bfloat16"): {
        1: (3072,),
        8: (1792, 2048, 3584, 4096, 7168),
        16: (1024, 1344, 1856, 2048, 2688),
        20: (2048,),
        24: (1024,),
        32: (224, 448, 896, 928, 1792, 1856),
        64: (192, 320, 384, 464, 640, 768, 928, 1280, 1536, 1856, 2688),
        65: (1536,),
        128: (192, 232, 352, 384, 464, 512, 704, 768, 928, 1344, 1856, 2688),
        144: (512,),
        256: (672, 1344, 2688),
        512: (64, 128, 336, 672, 1344, 2688),
    },
    ("sglang", _A100, "bfloat16"): {
        1: (1792, 3584, 7168, 14336),
        8: (1792, 2048, 3584, 4096, 7168),
        16: (1344, 1792, 2688, 3584, 7168, 14336),
        64: (640, 1280),
        257: (64,),
    },
    ("sglang", _H200, "fp8_block"): {
        64: (512,),
        80: (640,),
        128: (384, 768),
        160: (640,),
        256: (256,),
        257: (128, 256, 512),
        264: (256,),
        384: (128,),
        385: (128,),
        513: (512,),
    },
    ("sglang", _H100, "fp8_block"): {
        64: (1024,),
        128: (384,),
        256: (128, 384),
        257: (128,),
        272: (128,),
        512: (128, 256),
    },
    ("vllm", _H200, "bfloat16"): {
        8: (1792, 2048, 3584, 4096, 7168, 14336),
        16: (1024, 2048),
        64: (320, 640, 1280, 2560),
        128: (96, 192, 384, 512, 768, 1024),
        512: (64, 128, 256, 512),
    },
    ("vllm", _H100, "bfloat16"): {
        1: (3072,),
        8: (1792, 2048, 3584, 4096, 7168),
        16: (1344, 1792, 2688),
        32: (1792,),
        62: (256, 512),
        64: (320, 640, 1280, 1536),
        72: (384, 768),
        128: (192, 384, 512, 928, 1856, 2880),
        256: (512,),
        512: (128, 256, 512),
    },
    ("vllm", _A100, "bfloat16"): {
        1: (1792, 3584, 7168, 14336),
        8: (1792, 2048, 3584, 4096, 7168),
        16: (1344, 1792, 2688, 3584, 7168, 14336),
        64: (640, 1280),
        128: (192,),
        512: (64, 128),
    },
    ("vllm", _H200, "fp8_block"): {
        8: (2048,),
        16: (4096,),
        32: (2048,),
        128: (384, 512, 768),
        256: (256, 512),
        384: (128,),
    },
    ("vllm", _H100, "fp8_block"): {256: (128, 384), 512: (128, 256)},
}


def tuned(framework: str, device: str, dtype: str) -> frozenset[tuple[int, int]]:
    """(experts, inner width) on one GPU that have tuned tiles.

    Args:
        framework: as the tables' column says, in any case: `SGLang`, `VLLM`.
        device: as the tables' column says.
        dtype: of the weights, as the tables' column `moe_dtype` says.

    Returns:
        Nothing where no list is known: all shapes then count as alike.
    """
    found = _TUNED.get((framework.lower(), device, dtype), {})
    return frozenset((experts, inner) for experts, inners in found.items() for inner in inners)
