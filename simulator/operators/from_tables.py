"""Tables of a GPU and the shape of a model become a profile.

What the tables do not hold is approximated by name, in `OperatorProfile.approximations`:

- *Kernels between the products* (norms, rotary embedding, activation): their traffic at the bandwidth
  the tables' products attain, and `KERNEL_NS` for each kernel, which is what LLMServingSim's
  profile of vLLM 0.19 shows for one token (layernorm 2.4 us, rotary 2.7, activation 2.7).
- *Sampling*: a fixed time and one per row, from the same profile (25 us, and 0.5 us a row).
- *Pipeline*: an activation sent on takes as long as an all-gather of two GPUs of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from simulator.operators.attention import AttentionTable
from simulator.operators.communication import all_reduce, deepep, nccl
from simulator.operators.curve import Curve
from simulator.operators.gemm import GemmTable
from simulator.operators.moe import ROUTING, ExpertShape, ExpertTable
from simulator.operators.profile import Operator, OperatorProfile
from simulator.operators.shards import Parallel, head, heads, products
from simulator.operators.tables import LICENCE
from simulator.operators.uniform_attention import DecodeAttention, UniformAttention
from simulator.operators.work import Work

if TYPE_CHECKING:
    from policies.model_shape import ModelShape
    from simulator.operators.tables import Tables

AllToAll = Literal["nccl", "deepep"]
KERNEL_NS: Final = 2400.0
SAMPLER_NS: Final = 25_000.0
SAMPLER_ROW_NS: Final = 500.0
GEMM_DTYPES: Final = {"bfloat16": "bfloat16", "float16": "bfloat16", "float8_e4m3fn": "fp8_block"}


def condense(
    tables: Tables,
    model: ModelShape,
    parallel: Parallel | None = None,
    *,
    weight_dtype: str = "auto",
    kv_dtype: str = "bfloat16",
    routing: str = ROUTING,
    all_to_all: AllToAll = "nccl",
) -> OperatorProfile:
    """A model's operators, as one GPU of a group runs them.

    Args:
        tables: the measurements.
        model: the sizes.
        parallel: how it is split; not at all when left out.
        weight_dtype: the tables' name of the precision of products (`bfloat16`, `fp8`,
            `fp8_block`); what the checkpoint is in when left to `auto`.
        kv_dtype: of keys and values, `bfloat16` or `fp8`.
        routing: how tokens spread over experts.
        all_to_all: what carries tokens to experts of other ranks.

    Raises:
        TableError: where a needed table holds nothing like what is asked for.
        ValueError: for a model that cannot be split so, or has latent attention.
    """
    parallel = parallel or Parallel()
    tables = replace(tables, notes=[])  # what was read from elsewhere for this profile, no other
    dtype = GEMM_DTYPES[model.matrix_dtype] if weight_dtype == "auto" else weight_dtype
    gemms = tables.read("gemm", "gemm")
    precise = GemmTable(gemms, "bfloat16")
    gemm = precise if dtype == "bfloat16" else GemmTable(gemms, dtype)
    remarks: list[str] = []

    def note(found: tuple[Curve, str | None], name: str) -> Curve:
        curve, remark = found
        if remark is not None:
            remarks.append(f"{name}: {remark}")
        return curve

    operators = [
        Operator(
            name=product.name,
            count=product.count,
            # routers are never quantised
            curve=note(
                (precise if product.name == "router" else gemm).curve(product.n, product.k),
                product.name,
            ),
        )
        for product in products(model, parallel)
    ]
    last = head(model, parallel.tp)
    curve = note(precise.curve(last.n, last.k), last.name)
    operators.append(Operator(name=last.name, per="sampled", count=1, curve=curve))
    if model.moe is not None:
        table = ExpertTable(tables.read("moe", "moe"), dtype, routing)
        moe = model.moe
        split = (parallel.expert_tp, parallel.ep)
        shape = ExpertShape(
            moe.hidden_size, moe.inner_size, moe.experts_per_token, moe.experts, *split
        )
        curve = note(table.curve(shape), "experts")
        operators.append(
            Operator(name="experts", per="expert_token", count=model.moe_layers, curve=curve)
        )
    operators += _between(model, parallel, precise.byte, remarks)
    operators += _communication(tables, model, parallel, all_to_all, remarks)
    query, kv, width = heads(model, parallel.tp)
    prefill, remark = AttentionTable(
        tables.read("attention", "context_attention"), "prefill", width, kv_dtype
    ).surface(query, kv)
    decode, other = AttentionTable(
        tables.read("attention", "generation_attention"), "decode", width, kv_dtype
    ).surface(query, kv)
    remarks += [r for r in (remark, other) if r is not None]
    return OperatorProfile(
        model=model.name,
        gpu=tables.gpu,
        weight_dtype=dtype,
        kv_dtype=kv_dtype,
        parallel=parallel,
        layers=model.layers,
        source=tables.source,
        licence=LICENCE,
        operators=tuple(operators),
        attention=UniformAttention(
            kind="uniform",
            prefill=prefill.thinned(),
            decode=DecodeAttention(surface=decode.thinned()),
        ),
        approximations=(*remarks, *tables.notes),
    )


def _approximated(name: str, count: int, work: Work, **fields: object) -> Operator:
    curve = Curve(work=work, sizes=(1,), ns=(work.at(1),))
    return Operator.model_validate(
        {"name": name, "count": count, "curve": curve, "measured": False, **fields}
    )


def _between(
    model: ModelShape, parallel: Parallel, byte_ns: float, remarks: list[str]
) -> list[Operator]:
    """Norms, rotary embedding, activations, embedding and sampling, which have no tables."""
    remarks.append(
        f"elementwise kernels and embedding: traffic at {1 / byte_ns:.0f} GB/s as the products "
        f"attain, {KERNEL_NS / 1e3} us a kernel; sampling: {SAMPLER_NS / 1e3} us and "
        f"{SAMPLER_ROW_NS / 1e3} us a row"
    )
    width, tp = 2, parallel.tp

    def kernel(name: str, elements: float, kernels: int, count: int) -> Operator:
        work = Work(floor=kernels * KERNEL_NS, traffic=elements * width * byte_ns)
        return _approximated(name, count, work)

    found = [
        # residual add and norm, twice a layer, on every GPU in full
        kernel("norms", 2 * 4 * model.hidden_size, 2, model.layers),
        # rotary embedding with the norms of queries and keys, then the write of the KV
        kernel("rotary_and_kv", model.attention.elementwise_traffic / tp, 2, model.layers),
        kernel("embedding", 2 * model.hidden_size, 1, 1),
    ]
    if model.mlp is not None:
        elements = model.mlp.elementwise_traffic / tp
        found.append(kernel("activation", elements, 1, model.dense_layers))
    sampler = Work(floor=SAMPLER_NS, traffic=SAMPLER_ROW_NS)
    return [*found, _approximated("sampling", 1, sampler, per="sampled")]


def _communication(
    tables: Tables,
    model: ModelShape,
    parallel: Parallel,
    all_to_all: AllToAll,
    remarks: list[str],
) -> list[Operator]:
    tp, hidden = parallel.tp, model.hidden_size
    ranks = parallel.attention_ranks
    found: list[Operator] = []
    if tp > 1:
        # after attention, and after each MLP or experts, unless those end with an all-to-all
        count = model.layers + (model.layers if ranks == 1 else model.dense_layers)
        curve = all_reduce(tables, tp)
        found.append(Operator(name="all_reduce", count=count, unit=hidden, curve=curve))
        logits = nccl(tables, "all_gather", tp)
        found.append(
            Operator(
                name="gather_logits", per="sampled", count=1, unit=model.vocab_size, curve=logits
            )
        )
    if model.moe is not None and ranks > 1:
        if all_to_all == "nccl":
            for name in ("all_gather", "reduce_scatter"):
                curve = nccl(tables, name, parallel.ep)
                found.append(
                    Operator(
                        name=f"experts_{name}",
                        per="expert_token",
                        count=model.moe_layers,
                        unit=hidden,
                        curve=curve,
                    )
                )
        else:
            for phase in ("decode", "extend"):
                curve, remark = deepep(tables, model.moe, low_latency=phase == "decode")
                if remark is not None:
                    remarks.append(remark)
                found.append(
                    Operator(name="all_to_all", phase=phase, count=model.moe_layers, curve=curve)
                )
    if parallel.pp > 1:
        remarks.append("pipeline: an activation sent on takes as long as an all-gather of two GPUs")
        curve = nccl(tables, "all_gather", 2)
        found.append(Operator(name="send", count=parallel.pp - 1, unit=hidden, curve=curve))
    return found
