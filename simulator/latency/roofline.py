"""A roofline: device time of a step from a model's shape and a GPU's datasheet.

A forward pass is taken as kernels of a few kinds, run one after another. Each kind takes as long as
its arithmetic or its memory traffic needs at an attainable share of the peak, whichever is longer
(Williams, Waterman, Patterson, "Roofline", CACM 2009):

- *linear*: the layers' matrix products that every token takes part in; weights are read once a step.
- *experts*: the products of routed experts, for those each token takes; the experts that a step
  touches are read once, as many as `policies.shapes.mlp` expects under uniform routing.
- *head*: the LM head, over the rows that sample.
- *elementwise*: norms, rotary embedding, activation and residuals; memory traffic of the tokens.
- *prefill attention*: per row, each new token against the cached tokens and the new ones up to
  itself; all prefill rows in one kernel a layer.
- *decode attention*: the KV of all decode rows, read once. Latent attention is absorbed here and
  expanded in prefill (`policies.shapes.attention`), the cached tokens anew each time.
- *overhead*: per layer and per step, what neither explains: kernel ramps, launch gaps.

It does not know how kernels quantise to tiles and waves, uneven KV lengths, skewed routing, layers
that attend within chunks only (Llama 4: taken as attending to everything), or communication.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.shapes.dtypes import dtype_bytes
from simulator.latency.base import LatencyModel, StepShape

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from policies.model_shape import ModelShape
    from policies.shapes.mlp import MixtureOfExperts
    from simulator.devices import Device


class RooflineOptions(BaseModel):
    """Attainable shares of the datasheet's peaks, and fixed overheads.

    The shares are medians (the figures in brackets: ranges) over AIConfigurator's tables of measured
    kernels (Apache-2.0, from PyPI's aiconfigurator-core) on H200 and H100, SGLang 0.5.14 and vLLM
    0.24.0; the overheads are rounded assumptions. `python -m benchmarks.roofline_vs_tables FOLDER`
    puts the kernels of one model's layers together and prints how far the roofline is from them. Mean
    absolute errors, the range over those two GPUs and two frameworks:

    - matrix products of Qwen3-8B and 32B: 2 to 8 % up to 64 tokens, 4 to 17 % up to 512, 3 to 9 %
      above; of Qwen3-1.7B 17 to 36 % below 512 tokens, too fast: its kernels are too short;
    - decode attention: 7 to 14 % where a layer reads more than 512 MiB of KV, 19 to 43 % below;
    - prefill attention: 19 to 27 % above 16 k tokens, 32 to 56 % for 512 to 16 k, too fast;
    - on an A100: products of 8B and 32B 3 to 25 %, decode attention 14 to 60 %, too fast.

    Against 6,000 whole steps that AIConfigurator 0.12 predicts from such tables for Qwen3-8B and
    Llama-3.1-8B on an H200 (SGLang 0.5.14; decode, prefill and mixed): 3 to 5 %.

    `python -m benchmarks.roofline_vs_moe_tables FOLDER` compares routed experts (Qwen3-30B-A3B and
    235B-A22B, Mixtral 8x7B, Llama 4 Scout; even routing and power laws) and latent attention:

    - experts: 1 to 24 % for 48 to 256 tokens, 3 to 38 % for 8 to 32 (skewed routing touches fewer),
      1 to 58 % above; the largest where SGLang has no tuned configuration for a shape, then too fast;
    - absorbed latent attention in decode: 7 to 8 % above 524,288 KV tokens, 15 to 19 % above 65,536,
      39 to 41 % below, too fast.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gemm_flops_efficiency: float = Field(0.72, gt=0, le=1)
    """Share of the dense peak that large products reach (0.70 to 0.76)."""
    gemm_flops_efficiency_fp8: float = Field(0.53, gt=0, le=1)
    """The same for FP8 (0.50 to 0.58)."""
    gemm_bandwidth_efficiency: float = Field(0.75, gt=0, le=1)
    """Share of the memory bandwidth at which products of few rows read their weights (0.71 to 0.78)."""
    expert_flops_efficiency: float = Field(0.5, gt=0, le=1)
    """Share of the dense peak that the experts' grouped products reach (0.45 to 0.56 with vLLM's kernels;
    SGLang's reach 0.22 to 0.39 where they have no tuned configuration for a shape)."""
    expert_flops_efficiency_fp8: float = Field(0.31, gt=0, le=1)
    """The same for FP8 (0.27 to 0.37)."""
    expert_bandwidth_efficiency: float = Field(0.8, gt=0, le=1)
    """Share of the memory bandwidth at which the experts read their weights (0.71 to 0.87)."""
    elementwise_bandwidth_efficiency: float = Field(0.7, gt=0, le=1)
    """Share of the memory bandwidth that the kernels between the products reach (norms, rotary embedding,
    activation, residuals); an assumption."""
    attention_flops_efficiency: float = Field(0.55, gt=0, le=1)
    """Share of the dense peak of prefill attention at head dimension 128 (0.46 at 2,048 tokens, 0.55 at
    8,192, 0.60 at 16,384), and of absorbed latent attention in decode (0.53 to 0.61 above 500,000 KV
    tokens), which arithmetic bounds."""
    attention_bandwidth_efficiency: float = Field(0.88, gt=0, le=1)
    """Share of the memory bandwidth at which decode attention reads KV (0.75 to 0.87 at 512 MiB a layer,
    0.91 above 2 GiB)."""
    decode_layer_overhead_ns: int = Field(16_000, ge=0)
    """Nanoseconds per layer of a decode step, replayed as a CUDA graph; an attention kernel takes 10 us
    however little it reads, the rest are gaps between some ten kernels; the few more that routing takes
    are not counted."""
    extend_layer_overhead_ns: int = Field(40_000, ge=0)
    """Nanoseconds per layer of a step with prefill rows, launched kernel by kernel; an assumption of 4 us
    for each of some ten kernels."""
    step_overhead_ns: int = Field(50_000, ge=0)
    """Nanoseconds once a step: embedding, final norm, sampling; an assumption."""


class StepParts(NamedTuple):
    """Where a step's time goes, in nanoseconds, not yet rounded."""

    linear: float
    experts: float
    head: float
    elementwise: float
    prefill_attention: float
    decode_attention: float
    overhead: float


class RooflineLatency(LatencyModel):
    """Device time from a roofline over what a batch is made of.

    Args:
        model: the sizes.
        device: the peaks.
        weight_dtype: precision of the layers' matrices; `auto` is the checkpoint's. FP8 products
            run at the device's FP8 rate.
        kv_dtype: precision of keys and values in memory; attention computes in the checkpoint's.
        options: attainable shares and overheads; the defaults when left out.

    Raises:
        ValueError: where the device has no tensor cores for a dtype.
    """

    def __init__(
        self,
        model: ModelShape,
        device: Device,
        *,
        weight_dtype: str = "auto",
        kv_dtype: str = "auto",
        options: RooflineOptions | None = None,
    ) -> None:
        o = options or RooflineOptions()
        self.options = o
        weight_dtype = model.resolve_weight_dtype(weight_dtype)
        fp8 = weight_dtype.startswith("float8")
        linear_share = o.gemm_flops_efficiency_fp8 if fp8 else o.gemm_flops_efficiency
        expert_share = o.expert_flops_efficiency_fp8 if fp8 else o.expert_flops_efficiency
        peak = device.peak_flops(model.dtype)
        linear_peak = device.peak_flops(weight_dtype)
        # From here on nanoseconds per unit, so that a step is a few products and sums.
        linear_flop_ns = 1e9 / (linear_peak * linear_share)
        head_flop_ns = 1e9 / (peak * o.gemm_flops_efficiency)
        attention_flop_ns = 1e9 / (peak * o.attention_flops_efficiency)
        byte_ns = 1e9 / device.memory_bandwidth
        gemm_byte_ns = byte_ns / o.gemm_bandwidth_efficiency
        width, weight_width = dtype_bytes(model.dtype), dtype_bytes(weight_dtype)

        self._linear_token_flops_ns = model.dense_flops_per_token * linear_flop_ns
        dense_bytes = model.dense_parameters * weight_width + model.router_parameters * width
        self._linear_weights_ns = dense_bytes * gemm_byte_ns
        self._linear_token_bytes_ns = _product_traffic(model) * width * gemm_byte_ns
        self._moe = model.moe
        if model.moe is not None:
            expert_byte_ns = byte_ns / o.expert_bandwidth_efficiency
            expert_bytes = model.moe_layers * model.moe.expert.matrix_parameters * weight_width
            self._expert_token_flops_ns = (
                model.expert_flops_per_token * 1e9 / (linear_peak * expert_share)
            )
            self._expert_weights_ns = expert_bytes * expert_byte_ns
            self._expert_token_bytes_ns = (
                model.moe_layers * model.moe.product_traffic * width * expert_byte_ns
            )
        self._head_row_flops_ns = model.head_flops_per_row * head_flop_ns
        self._head_weights_ns = model.head_parameters * width * gemm_byte_ns
        self._head_row_bytes_ns = (model.hidden_size + model.vocab_size) * width * gemm_byte_ns
        self._elementwise_token_ns = (
            _elementwise_traffic(model) * width * byte_ns / o.elementwise_bandwidth_efficiency
        )
        self._pair_ns = model.attention_flops_per_pair * attention_flop_ns
        self._expansion_ns = (
            model.layers * model.attention.expansion_flops * 1e9 / (peak * o.gemm_flops_efficiency)
        )
        self._kv_token_ns = (
            model.kv_bytes_per_token(kv_dtype) * byte_ns / o.attention_bandwidth_efficiency
        )
        # one query per row: bytes and pairs both grow with the KV tokens, so one of them decides
        self._decode_kv_token_ns = max(
            self._kv_token_ns, model.decode_attention_flops_per_pair * attention_flop_ns
        )
        self._decode_overhead_ns = float(
            o.step_overhead_ns + model.layers * o.decode_layer_overhead_ns
        )
        self._extend_overhead_ns = float(
            o.step_overhead_ns + model.layers * o.extend_layer_overhead_ns
        )
        self._decode_fixed: dict[int, float] = {}  # by requests

    def step_ns(self, shape: StepShape) -> int:
        """Nanoseconds of one forward pass: the sum of `parts`, rounded; 0 without any row."""
        if not shape[0]:
            requests, kv_tokens = shape[1], shape[2]
            if not requests:
                return 0
            read = kv_tokens * self._decode_kv_token_ns
            return round(self._decode_fixed_ns(requests) + read + self._decode_overhead_ns)
        # Added one by one: the built-in `sum` rounds floats differently from Python 3.12 on.
        linear, experts, head, elementwise, prefill, decode, overhead = self.parts(shape)
        return round(linear + experts + head + elementwise + prefill + decode + overhead)

    def decode_steps_ns(
        self,
        requests: int,
        kv_tokens: int,
        steps: int,
        kv_lens: Callable[[], NDArray[np.int64]],  # noqa: ARG002 - lengths do not matter to it
    ) -> NDArray[np.int64]:
        """See `LatencyModel.decode_steps_ns`. Only the attention part grows from step to step."""
        exact = np.arange(kv_tokens, kv_tokens + steps * requests, requests, dtype=np.float64)
        # the same operations in the same order as in `step_ns`, so the same rounding
        exact *= self._decode_kv_token_ns
        exact += self._decode_fixed_ns(requests)
        exact += self._decode_overhead_ns
        rounded: NDArray[np.int64] = np.rint(exact, out=exact).astype(np.int64)
        return rounded

    def _decode_fixed_ns(self, requests: int) -> float:
        """The parts of a decode step that do not grow with the KV it reads, but the overhead."""
        fixed = self._decode_fixed.get(requests)
        if fixed is None:
            parts = self.parts(StepShape((), requests, 0, requests, _unknown))
            fixed = parts.linear + parts.experts + parts.head + parts.elementwise
            self._decode_fixed[requests] = fixed + parts.prefill_attention
        return self._decode_fixed[requests]

    def parts(self, shape: StepShape) -> StepParts:
        """Where the time of a forward pass goes."""
        prefill, decode_requests, decode_kv_tokens, sampled, _ = shape
        tokens = decode_requests
        prefill_attention = 0.0
        overhead = self._decode_overhead_ns
        if prefill:
            pairs_twice = kv_tokens = 0
            for new, cached in prefill:
                tokens += new
                kv_tokens += cached + new
                # Causal: the i-th of the new tokens sees the cached ones and i new ones.
                pairs_twice += new * (2 * cached + new + 1)
            prefill_attention = max(
                0.5 * pairs_twice * self._pair_ns, kv_tokens * self._kv_token_ns
            )
            cached_tokens = kv_tokens - (tokens - decode_requests)
            prefill_attention += cached_tokens * self._expansion_ns
            overhead = self._extend_overhead_ns
        elif not decode_requests:
            return _NOTHING
        compute = tokens * self._linear_token_flops_ns
        memory = self._linear_weights_ns + tokens * self._linear_token_bytes_ns
        linear = max(compute, memory)
        head = 0.0
        if sampled:
            compute = sampled * self._head_row_flops_ns
            memory = self._head_weights_ns + sampled * self._head_row_bytes_ns
            head = max(compute, memory)
        return StepParts(
            linear,
            0.0 if self._moe is None else self._experts_ns(self._moe, tokens),
            head,
            tokens * self._elementwise_token_ns,
            prefill_attention,
            decode_kv_tokens * self._decode_kv_token_ns,
            overhead,
        )

    def _experts_ns(self, moe: MixtureOfExperts, tokens: int) -> float:
        compute = tokens * self._expert_token_flops_ns
        weights = moe.expected_experts(tokens) * self._expert_weights_ns
        return max(compute, weights + tokens * self._expert_token_bytes_ns)


def _unknown() -> NDArray[np.int64]:
    raise AssertionError("the roofline does not ask for KV lengths")


_NOTHING: Final = StepParts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _product_traffic(model: ModelShape) -> int:
    """Elements the products that every token takes part in read and write per token, weights apart."""
    elements = model.layers * model.attention.product_traffic
    if model.mlp is not None:
        elements += model.dense_layers * model.mlp.product_traffic
    if model.moe is not None:
        router = model.hidden_size + model.moe.experts
        shared = 0 if model.moe.shared is None else model.moe.shared.product_traffic
        elements += model.moe_layers * (router + shared)
    return elements


def _elementwise_traffic(model: ModelShape) -> int:
    """Elements that the kernels between the matrix products read and write per token.

    As SGLang and vLLM fuse them: residual add with RMSNorm twice a layer, then what attention and
    MLP or experts say of themselves.
    """
    norms = 2 * 4 * model.hidden_size
    elements = model.layers * (norms + model.attention.elementwise_traffic)
    if model.mlp is not None:
        elements += model.dense_layers * model.mlp.elementwise_traffic
    if model.moe is not None:
        elements += model.moe_layers * model.moe.elementwise_traffic
    return elements
