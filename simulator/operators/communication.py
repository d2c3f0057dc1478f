"""Communication between GPUs of one node: curves over elements of a message, or over tokens.

All-reduce is the engine's own kernel, as replayed in a CUDA graph (eager rows hold the launch from
Python, which overlaps with the device in an engine). The rest is NCCL, of half-precision elements;
its sizes count the whole message. DeepEP's all-to-all is dispatch and combine together, over the
tokens of one rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from simulator.operators.curve import Curve
from simulator.operators.tables import TableError
from simulator.operators.work import Work, fit_sum

if TYPE_CHECKING:
    import pandas as pd

    from policies.shapes.mlp import MixtureOfExperts
    from simulator.operators.tables import Tables

NcclOperation = Literal["all_gather", "all_reduce", "alltoall", "reduce_scatter"]
NS_PER_US: Final = 1e3


def all_reduce(tables: Tables, gpus: int) -> Curve:
    """The engine's all-reduce over `gpus` GPUs, over elements of 2 bytes."""
    table = tables.read_communication("custom_allreduce")
    graph = table[table["kernel_source"].str.contains("graph", case=False)]
    # older collections hold one kind of row and do not say which
    rows = _of(graph if len(graph) else table, gpus)
    return _curve(rows, "message_size")


def nccl(tables: Tables, operation: NcclOperation, gpus: int) -> Curve:
    """An NCCL collective over `gpus` GPUs, over elements of 2 bytes of the whole message."""
    table = tables.read_communication("nccl", "nccl")
    rows = table[(table["op_name"] == operation) & (table["nccl_dtype"] == "half")]
    return _curve(_of(rows, gpus), "message_size")


def deepep(tables: Tables, moe: MixtureOfExperts, *, low_latency: bool) -> tuple[Curve, str | None]:
    """DeepEP's dispatch and combine, over tokens of a rank; a remark where the shape is another's."""
    file = "wideep_deepep_ll" if low_latency else "wideep_deepep_normal"
    table = tables.read_communication(file, "sglang")
    if low_latency:
        us = table["combine_avg_t_us"] + table["dispatch_avg_t_us"]
    else:
        us = table["dispatch_transmit_us"] + table["combine_transmit_us"]
        us = us + table["dispatch_notify_us"] + table["combine_notify_us"]
        # More SMs for transport are faster; engines give as many as were measured at most.
        most = table["dispatch_sms"] == table["dispatch_sms"].max()
        table, us = table[most], us[most]
    table = table.assign(ns=us * NS_PER_US)
    columns = ["hidden_size", "num_topk", "num_experts"]
    wanted = np.array([moe.hidden_size, moe.experts_per_token, moe.experts], float)
    shapes = table[columns].drop_duplicates().to_numpy(float)
    # what travels is hidden * top-k elements per token; how many experts there are matters less
    apart = np.abs(np.log(shapes / wanted)) @ np.array([1.0, 1.0, 0.1])
    nearest = shapes[int(np.argmin(apart))]
    rows = table[(table[columns].to_numpy(float) == nearest).all(axis=1)]
    curve = _curve(rows, "num_token")
    if (nearest == wanted).all():
        return curve, None
    share = float(wanted[0] * wanted[1] / (nearest[0] * nearest[1]))
    work = curve.work.model_copy(update={"traffic": curve.work.traffic * share})
    scaled = [
        ns * work.at(n) / curve.work.at(n) for n, ns in zip(curve.sizes, curve.ns, strict=True)
    ]
    names = ", ".join(f"{c} {int(x)}" for c, x in zip(columns, nearest, strict=True))
    remark = f"all-to-all ({file}): not measured for this model, scaled by work from {names}"
    return Curve.measured(work, curve.sizes, np.array(scaled)), remark


def _of(rows: pd.DataFrame, gpus: int) -> pd.DataFrame:
    found = rows[rows["num_gpus"] == gpus]
    if found.empty:
        known = ", ".join(str(g) for g in sorted(set(rows["num_gpus"])))
        raise TableError(f"no communication over {gpus} GPUs; there are: {known}")
    return found


def _curve(rows: pd.DataFrame, column: str) -> Curve:
    median = rows.groupby(column)["ns"].median()
    sizes, ns = median.index.to_numpy(float), median.to_numpy(float)
    floor, traffic = fit_sum(np.stack([np.ones_like(sizes), sizes]), ns)
    return Curve.measured(Work(floor=float(floor), traffic=float(traffic)), sizes, ns)
