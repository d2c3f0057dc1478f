"""LLMServingSim's profiles of vLLM become a profile of operators.

A folder `<gpu>/<model>/<variant>/tp<n>/` of CSV files, plain or gzipped, times in microseconds of one
layer, as vLLM's own layers take them in eager mode: `dense.csv` over tokens, `per_sequence.csv` over
rows, `attention.csv` over prefill chunk, cached tokens, decode rows and KV length together, `moe.csv`
over tokens and experts touched, and `skew.csv`, decode rows of unequal length beside equal ones. What
was measured, `meta.yaml` beside them says, else the path.

Products go in steps between the sizes measured: a kernel computes whole tiles, and a step that vLLM
replays as a CUDA graph has as many tokens as one captured. A size takes what the next such one takes.

Nothing in it crosses GPUs: where a model is split, a `Link` stands in for collectives, and is named
in the profile's approximations. Experts see tokens as even routing sends them.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.yaml_text import read_yaml
from simulator.operators.curve import Curve
from simulator.operators.mixed_attention import MixedAttention, MixedWork
from simulator.operators.monotone import monotone
from simulator.operators.profile import Operator, OperatorProfile
from simulator.operators.shards import Parallel, heads
from simulator.operators.surface import Surface
from simulator.operators.tables import TableError
from simulator.operators.uniform_attention import DecodeAttention
from simulator.operators.work import BatchWork, Work, fit_sum
from simulator.profile import same_model
from traces.readers.files import plain_or_gzipped, text_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from policies.model_shape import ModelShape

NS_PER_US: Final = 1e3
LICENCE: Final = "MIT"
# how often a layer of the profile runs: per layer of the model, or once a step
PER_LAYER: Final = {
    "layernorm": 2,
    **dict.fromkeys(("qkv_proj", "qk_norm", "rotary_emb", "o_proj"), 1),
    **dict.fromkeys(("gate_up_proj", "act_fn", "down_proj"), 1),
}
PER_STEP: Final = ("embedding", "final_layernorm")
PER_ROW: Final = ("lm_head", "sampler")
PRODUCTS: Final = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
# vLLM captures graphs of these many tokens and, with more sequences, every 16 up to 512
CAPTURED: Final = (1, 2, 4, *range(8, 257, 8))
# of LLMServingSim's profiler: `<gpu>/<owner>/<model>/<variant>/tp<n>`
SPLIT: Final = re.compile(r"tp\d+")
LEVELS: Final = ("tp[0-9]*", "*/tp[0-9]*", "*/*/tp[0-9]*", "*/*/*/tp[0-9]*", "*/*/*/*/tp[0-9]*")
# rows of a tensor core's smallest tile in these kernels, and the profile's spacing above
TILE: Final = 16


class Link(BaseModel):
    """What GPUs are joined by, where collectives were not measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_ns: float = Field(gt=0)
    bytes_per_s: float = Field(gt=0)

    def curve(self, share: float) -> Curve:
        """A collective over elements of 2 bytes, of which each GPU sends `share`."""
        work = Work(floor=self.latency_ns, traffic=share * 2e9 / self.bytes_per_s)
        return Curve(work=work, sizes=(1,), ns=(work.at(1),))


def read_llmservingsim(
    folder: str | Path,
    model: ModelShape,
    parallel: Parallel | None = None,
    *,
    link: Link | None = None,
) -> OperatorProfile:
    """A profile from one variant's folder, the parent of `tp1`.

    Raises:
        TableError: where a file or layer is missing; lists what there is.
        ValueError: where the model is split over GPUs and no `link` is given.
    """
    parallel = parallel or Parallel()
    if link is None and (parallel.tp > 1 or parallel.ep > 1 or parallel.pp > 1):
        raise ValueError(
            f"the profile has no collectives and {parallel} needs them; give link latency and "
            "bandwidth (--link US,GB/S)"
        )
    root = Path(folder)
    here = root / f"tp{parallel.tp}"
    if not here.is_dir():
        known = ", ".join(sorted(p.name for p in root.glob("tp*"))) or "none"
        raise TableError(f"{root} has no tp{parallel.tp}; there are: {known}")
    dense, rows = _read(here, "dense"), _read(here, "per_sequence")
    per_layer = [n for n in PER_LAYER if n in set(dense["layer"])]
    needed = ["qkv_proj", "o_proj", "layernorm"] + (["gate_up_proj"] if model.mlp else [])
    missing = [name for name in needed if name not in per_layer]
    if missing:
        raise TableError(f"{here}/dense.csv has no {', '.join(missing)}; it has {per_layer}")
    mlp = ("gate_up_proj", "act_fn", "down_proj")
    operators = [
        Operator(
            name=name,
            count=PER_LAYER[name] * (model.dense_layers if name in mlp else model.layers),
            curve=_product(dense, name) if name in PRODUCTS else _layer(dense, name, "tokens"),
        )
        for name in per_layer
    ]
    operators += [Operator(name=n, count=1, curve=_layer(dense, n, "tokens")) for n in PER_STEP]
    operators += [
        Operator(name=n, per="sampled", count=1, curve=_layer(rows, n, "sequences"))
        for n in PER_ROW
    ]
    remarks: list[str] = []
    if model.moe is not None:
        # a GPU's experts are whole under expert parallelism; split ones need their own measurement
        place = root / "tp1" if parallel.expert_tp == 1 else here
        curve = _experts(_read(place, "moe"), model, parallel)
        operators.append(
            Operator(name="experts", per="expert_token", count=model.moe_layers, curve=curve)
        )
        remarks.append("experts: tokens spread evenly over experts")
    if link is not None:
        operators += _linked(model, parallel, link, remarks)
    query, kv, _ = heads(model, parallel.tp)
    where = root.parts[-4:]
    return OperatorProfile(
        model=model.name,
        gpu=str(read_meta(root).get("hardware", where[0])),
        weight_dtype="bfloat16",
        kv_dtype="bfloat16",
        parallel=parallel,
        layers=model.layers,
        source=f"LLMServingSim profile ({LICENCE}), vLLM 0.19.0: {'/'.join(where)}",
        licence=LICENCE,
        operators=tuple(operators),
        attention=attention(_read(here, "attention"), _read(here, "skew"), query, kv),
        approximations=tuple(remarks),
    )


def variant_folder(path: Path, model: str) -> Path:
    """The folder that holds `tp1` and its like: a given one, or the one above or below it.

    Args:
        path: that folder, one of those in it, or one of those above, as the model's or the GPU's.
        model: which it is to be of, where it says of which it is.

    Raises:
        TableError: where there is none, or more than one.
    """
    if SPLIT.fullmatch(path.name):
        path = path.parent
    found = sorted({tp.parent for depth in LEVELS for tp in path.glob(depth) if tp.is_dir()})
    models = {folder: _model_of(folder) or model for folder in found}
    fit = [folder for folder in found if same_model(models[folder], model)]
    if len(fit) == 1:
        return fit[0]
    if not found:
        raise TableError(
            f"{path} holds no profile of LLMServingSim's: no folder tp1, tp2 ... in it"
        )
    if not fit:
        raise TableError(
            f"{found[0]}: it is of model {models[found[0]]}, the config's is {model}; give the folder of "
            "that model"
        )
    raise TableError(f"{path} holds several profiles: {', '.join(map(str, fit))}; give one of them")


def _model_of(folder: Path) -> str | None:
    model = read_meta(folder).get("model")
    return model if isinstance(model, str) else None


def read_meta(folder: Path) -> dict[str, Any]:
    """What a variant's folder says of itself in `meta.yaml`; nothing where there is none.

    Raises:
        TableError: where it cannot be read.
    """
    path = plain_or_gzipped(folder, "meta.yaml")
    if path is None:
        return {}
    try:
        meta = read_yaml(text_of(path))
    except (OSError, EOFError, ValueError) as error:
        raise TableError(f"{path} cannot be read: {error}") from None
    return meta if isinstance(meta, dict) else {}


def _read(folder: Path, name: str) -> pd.DataFrame:
    import pandas as pd

    path = plain_or_gzipped(folder, f"{name}.csv")
    if path is not None:
        return pd.read_csv(path)
    known = ", ".join(sorted(p.name for p in folder.glob("*.csv*"))) or "no CSV file"
    raise TableError(f"{folder} has no {name}.csv; there is: {known}")


def _product(table: pd.DataFrame, name: str) -> Curve:
    """Over tokens, in steps: up to 256 by what is captured, then by tiles, where as finely measured."""
    measured = _median(table, name, "tokens")
    known, ns = measured.index.to_numpy(float), monotone(np.array(measured, float))
    most = int(known[-1])
    above = (int(n) for n in known if n > CAPTURED[-1] or n == most)
    found: dict[int, float] = {}
    for before, end in pairwise([0, *(n for n in CAPTURED if n < most), *above]):
        time = float(np.interp(end, known, ns))
        if end - before <= TILE:
            found[before + 1] = time
        found[end] = time
    return _fitted(np.array(list(found), float), np.array(list(found.values())), thin=False)


def _layer(table: pd.DataFrame, name: str, size: str) -> Curve:
    median = _median(table, name, size)
    return _fitted(median.index.to_numpy(float), np.array(median, float))


def _median(table: pd.DataFrame, name: str, size: str) -> pd.Series[float]:
    rows = table[table["layer"] == name]
    if rows.empty:
        known = ", ".join(sorted(set(table["layer"])))
        raise TableError(f"the profile has no layer {name!r}; there are: {known}")
    return rows.groupby(size)["time_us"].median() * NS_PER_US


def _fitted(sizes: NDArray[np.float64], ns: NDArray[np.float64], *, thin: bool = True) -> Curve:
    floor, traffic = fit_sum(np.stack([np.ones_like(sizes), sizes]), ns)
    return Curve.measured(Work(floor=float(floor), traffic=float(traffic)), sizes, ns, thin=thin)


def _experts(table: pd.DataFrame, model: ModelShape, parallel: Parallel) -> Curve:
    """Over tokens of all ranks: this GPU's share of them, on the experts of its own they touch."""
    assert model.moe is not None
    wide = table.pivot_table(index="tokens", columns="activated_experts", values="time_us")
    touched = wide.columns.to_numpy(float)
    sizes, ns = [], []
    for tokens, line in zip(wide.index.to_numpy(float), wide.to_numpy(float), strict=True):
        known = ~np.isnan(line)
        group = round(tokens) * parallel.ep
        expected = model.moe.expected_experts(group) / parallel.ep
        us = np.interp(expected, touched[known], line[known])
        sizes.append(float(group))
        ns.append(float(us) * NS_PER_US)
    return _fitted(np.array(sizes), np.array(ns))


def _linked(
    model: ModelShape, parallel: Parallel, link: Link, remarks: list[str]
) -> list[Operator]:
    tp, ep, ranks = parallel.tp, parallel.ep, parallel.attention_ranks
    remarks.append(
        f"collectives: {link.latency_ns / 1e3:g} us and {link.bytes_per_s / 1e9:g} GB/s a GPU, as "
        "a ring would send them; not measured"
    )
    hidden = model.hidden_size
    found: list[tuple[str, str, int, int, float]] = []
    if tp > 1:
        count = model.layers + (model.layers if ranks == 1 else model.dense_layers)
        found.append(("all_reduce", "token", count, hidden, 2 * (tp - 1) / tp))
        found.append(("gather_logits", "sampled", 1, model.vocab_size, (tp - 1) / tp))
    if ranks > 1:
        found += [
            (name, "expert_token", model.moe_layers, hidden, (ep - 1) / ep)
            for name in ("experts_all_gather", "experts_reduce_scatter")
        ]
    if parallel.pp > 1:
        found.append(("send", "token", parallel.pp - 1, hidden, 1.0))
    return [
        Operator.model_validate(
            {
                "name": name,
                "per": per,
                "count": count,
                "unit": unit,
                "curve": link.curve(share),
                "measured": False,
            }
        )
        for name, per, count, unit, share in found
    ]


def attention(table: pd.DataFrame, skew: pd.DataFrame, query: int, kv: int) -> MixedAttention:
    """Attention of one layer from `attention.csv`, and the weight of the longest row from `skew.csv`.

    Of the measured combinations those in powers of two are taken, which form a whole grid; an
    optional second grid between them is left to check it with.
    """
    names = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"]
    kept = table[table[names].map(_power_of_two).all(axis=1)]
    grid = kept.groupby(names)["time_us"].median() * NS_PER_US
    mixed = grid[(grid.index.get_level_values(0) > 0) & (grid.index.get_level_values(2) > 0)]
    axes = [sorted(set(mixed.index.get_level_values(i))) for i in range(4)]
    chunks, cached, rows, lengths = axes
    rows = [0, *rows]
    times = np.full([len(chunks), len(cached), len(rows), len(lengths)], np.nan)
    for i, c in enumerate(chunks):
        for j, p in enumerate(cached):
            times[i, j, 0, :] = grid.get((c, p, 0, 0), np.nan)
            for k, n in enumerate(rows[1:], start=1):
                times[i, j, k] = [mixed.get((c, p, n, d), np.nan) for d in lengths]
    if np.isnan(times).any():
        missing = int(np.isnan(times).sum())
        raise TableError(f"attention.csv: {missing} of {times.size} combinations are missing")
    return MixedAttention(
        kind="mixed",
        decode=DecodeAttention(
            surface=_decode(grid, query, kv), skew_share=_share(skew, mixed=False)
        ),
        axes=(tuple(chunks), tuple(cached), tuple(rows), tuple(lengths)),
        ns=tuple(float(t) for t in np.rint(monotone(times)).ravel()),
        work=_mixed_work(mixed),
        skew_share=_share(skew, mixed=True),
    )


def _decode(grid: pd.Series[float], query: int, kv: int) -> Surface:
    decode = grid[grid.index.get_level_values(0) == 0].droplevel([0, 1]).unstack()
    rows, lengths = decode.index.to_numpy(float), decode.columns.to_numpy(float)
    ns = decode.to_numpy(float)
    batch, length = (a.ravel() for a in np.meshgrid(rows, lengths, indexing="ij"))
    terms = np.stack([np.ones_like(batch), batch * query, batch * length * kv])
    floor, row, token = (float(c) for c in fit_sum(terms, ns.ravel()))
    return Surface(
        work=BatchWork(floor=floor, row=row * query, token=token * kv),
        rows=tuple(int(r) for r in rows),
        lengths=tuple(int(n) for n in lengths),
        ns=tuple(tuple(float(t) for t in line) for line in np.rint(monotone(ns))),
        most_tokens=int(rows[-1] * lengths[-1]),
    )


def _mixed_work(mixed: pd.Series[float]) -> MixedWork:
    chunk, cached, rows, length = (
        mixed.index.get_level_values(i).to_numpy(float) for i in range(4)
    )
    pairs = chunk * (cached + 0.5 * chunk)
    terms = np.stack([np.ones_like(chunk), chunk + rows, pairs, rows * length])
    floor, token, pair, kv = (float(c) for c in fit_sum(terms, np.array(mixed, float)))
    return MixedWork(floor=floor, token=token, pair=pair, kv=kv)


def _share(skew: pd.DataFrame, *, mixed: bool) -> float:
    """Of what the longest row would add if all were as long, how much it adds; least squares."""
    rows = skew[(skew["pc"] > 0) == mixed]
    # relative to the step's time, so that long steps do not decide alone
    most = ((rows["t_max_us"] - rows["t_mean_us"]) / rows["t_skew_us"]).to_numpy(float)
    real = ((rows["t_skew_us"] - rows["t_mean_us"]) / rows["t_skew_us"]).to_numpy(float)
    return float(np.clip((most * real).sum() / (most * most).sum(), 0.0, 1.0)) if len(rows) else 0.0


def _power_of_two(value: int) -> bool:
    return value & (value - 1) == 0
