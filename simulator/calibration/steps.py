"""The steps of a run as calibration sees them: what each held, how long it took, what the host did.

Read from a run's step table, which either world writes. A step's duration is what it kept the device
for: from its launch, or the end of the step before if that is later, to its end. That counts the
time a device takes to begin; where it begins before the launch call has returned, it is counted from there.

The table has sums over a step's rows. Which prefill rows sampled, and how long each was, are in the
decision log; where a run has none, all are taken to have sampled and to be of the same length.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from traces.records.run import Run

    Int64s = NDArray[np.int64]
    Item = Any

PHASES = ("receive", "schedule", "prepare", "launch", "collect", "commit")
MODES: tuple[Literal["decode", "extend", "mixed"], ...] = ("decode", "extend", "mixed")


class CalibrationError(ValueError):
    """Records that no profile can be made of; says which run, what is wrong, and what is needed."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps in order of launch; int64 of shape (steps,) each, times in nanoseconds.

    Attributes:
        iteration: of the loop.
        duration_ns: on the device.
        mode: index into `MODES`; -1 for an empty batch.
        decode_requests, decode_kv_tokens: decode rows, and the KV they read.
        prefill_requests, prefill_tokens, cached_tokens: prefill rows, their new and cached tokens.
        prefill_pairs: pairs of a new token and one it attends to, in prefill rows.
        sampled: rows that sample.
        host_ns: shape (6, steps): host time by phase, in the order of `PHASES`.
        waiting, running: requests, as the launch left them.
        arrivals: requests that had come in since the receive before.
        finished: requests that ended with the step's commit.
        wake_ns: from the step's end to when a host that waited for it went on; -1 where it did not wait.
        between_ns: host time since the commit before that no phase has; -1 where the host may have slept.
        exact_rows: bool: whether prefill rows are known one by one.
    """

    iteration: Int64s
    duration_ns: Int64s
    mode: Int64s
    decode_requests: Int64s
    decode_kv_tokens: Int64s
    prefill_requests: Int64s
    prefill_tokens: Int64s
    cached_tokens: Int64s
    prefill_pairs: Int64s
    sampled: Int64s
    host_ns: Int64s
    waiting: Int64s
    running: Int64s
    arrivals: Int64s
    finished: Int64s
    wake_ns: Int64s
    between_ns: Int64s
    exact_rows: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.iteration)

    @property
    def tokens(self) -> Int64s:
        """Tokens computed in each step."""
        return self.prefill_tokens + self.decode_requests

    def __getitem__(self, chosen: Item) -> Self:
        """Some of them, chosen as rows of an array are."""
        each = {f.name: getattr(self, f.name)[..., chosen] for f in fields(self)}
        return type(self)(**each)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The steps of several runs, one after another."""
        each = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts], axis=-1)
            for f in fields(cls)
        }
        return cls(**each)

    @classmethod
    def of(cls, run: Run) -> Self:
        """The steps of a run.

        Raises:
            RecordError: where it has no step table, or that cannot be read.
            CalibrationError: where its times or counts are impossible.
        """
        ranks = run.manifest.get("ranks", 1)
        if ranks != 1:
            raise CalibrationError(
                f"run {run.name} is of {ranks} ranks, whose steps stand in one table; calibrate from a run "
                "of a single engine"
            )
        table = run.arrow("steps")
        raw = _columns(run, table)
        _check_times(run, raw)
        _check_counts(run, raw)
        launch, start, end, commit = (
            raw[f"{at}_ns"] for at in ("launch", "start", "end", "commit")
        )
        new, cached = raw["prefill_tokens"], raw["cached_tokens"]
        decode_kv = raw["kv_tokens_read"] - new - cached
        rows = raw["prefill_requests"]
        # of the recorded products new x (cached + new), causal attention leaves out new x (new - 1) / 2
        squares, sampled = _even_squares(new, rows), rows + raw["decode_requests"]
        exact = np.zeros(len(new), dtype=bool)
        if run.has("decisions"):
            squares, sampled, exact = _by_row(run, raw["iteration"], squares, sampled)
        pairs = raw["query_kv_product"] - decode_kv - (squares - new) // 2
        host = np.stack([raw[f"host_{phase}_ns"] for phase in PHASES])
        began = launch - host[:4].sum(axis=0)
        arrivals, finished = _counts(run, began, commit)
        return cls(
            iteration=raw["iteration"],
            duration_ns=end - np.minimum(start, np.maximum(launch, _before(end))),
            mode=_modes(rows, raw["decode_requests"]),
            decode_requests=raw["decode_requests"],
            decode_kv_tokens=decode_kv,
            prefill_requests=rows,
            prefill_tokens=new,
            cached_tokens=cached,
            prefill_pairs=pairs,
            sampled=sampled,
            host_ns=host,
            waiting=raw["waiting"],
            running=raw["running"],
            arrivals=arrivals,
            finished=finished,
            wake_ns=_wakes(launch, end, commit - host[5] - host[4]),
            between_ns=_between(began, commit, raw["running"], finished),
            exact_rows=exact,
        )


def _check_times(run: Run, raw: dict[str, Int64s]) -> None:
    ends = raw["end_ns"]
    rules = (
        ("end_ns", raw["start_ns"], "start_ns", ends),
        ("commit_ns", ends, "end_ns", raw["commit_ns"]),
        ("start_ns", _before(ends), "the end_ns of the step before", raw["start_ns"]),
        ("launch_ns", _before(raw["launch_ns"]), "that of the step before", raw["launch_ns"]),
    )
    for name, earlier, what, later in rules:
        wrong = np.flatnonzero(later < earlier)
        # two clocks, the host's and the device's, agree to some microseconds
        wrong = wrong[(earlier - later)[wrong] > (0 if name == "end_ns" else 50_000)]
        if len(wrong):
            at = int(wrong[0])
            raise CalibrationError(
                f"run {run.name}: times go backwards in {len(wrong)} steps: iteration "
                f"{raw['iteration'][at]} has {name} {later[at]} before {what} {earlier[at]}; "
                "such records cannot be calibrated from, record the run anew"
            )


def _columns(run: Run, table: pa.Table) -> dict[str, Int64s]:
    raw = {}
    for name in table.column_names:
        if name in ("mode", "new_token_ratio"):
            continue
        if table[name].null_count:
            raise CalibrationError(
                f"run {run.name}: {table[name].null_count} steps without {name}; record the run anew"
            )
        raw[name] = table[name].to_numpy()
    return raw


def _check_counts(run: Run, raw: dict[str, Int64s]) -> None:
    """See that every step is one that there can be."""
    rows, new, cached = raw["prefill_requests"], raw["prefill_tokens"], raw["cached_tokens"]
    decode, read = raw["decode_requests"], raw["kv_tokens_read"]
    decode_kv = read - new - cached
    times = ("launch_ns", "start_ns", "end_ns", "commit_ns")
    rules: list[tuple[NDArray[np.bool_], tuple[str, ...], str]] = [
        (values < 0, (name,), "no less than 0") for name, values in raw.items() if name not in times
    ]
    rules += [
        (
            (new < rows) | ((new > 0) & (rows == 0)),
            ("prefill_requests", "prefill_tokens"),
            "one new token a prefill row at least, and none without a row",
        ),
        (
            (cached > 0) & (rows == 0),
            ("prefill_requests", "cached_tokens"),
            "no cached tokens without a prefill row",
        ),
        (
            (decode_kv < decode) | ((decode_kv > 0) & (decode == 0)),
            ("decode_requests", "kv_tokens_read", "prefill_tokens", "cached_tokens"),
            "KV read beyond that of prefill rows by decode rows, and one token by each at least",
        ),
        (
            raw["query_kv_product"] < read,
            ("query_kv_product", "kv_tokens_read"),
            "a product no less than the KV read: every row has a query token",
        ),
        (
            np.diff(raw["iteration"], prepend=-1) <= 0,
            ("iteration",),
            "one above that of the step before",
        ),
    ]
    for wrong, names, right in rules:
        if wrong.any():
            at = int(wrong.argmax())
            found = ", ".join(f"{name} {raw[name][at]}" for name in names)
            raise CalibrationError(
                f"run {run.name}: {wrong.sum()} steps that cannot be: iteration "
                f"{raw['iteration'][at]} has {found}; expected {right}"
            )


def _before(ends: Int64s) -> Int64s:
    """The value before each, the largest so far; the first has itself the least possible."""
    if not len(ends):
        return ends
    before = np.concatenate([[min(0, int(ends[0]))], ends[:-1]])
    return np.asarray(np.maximum.accumulate(before))


def _modes(prefill: Int64s, decode: Int64s) -> Int64s:
    return np.select([(prefill > 0) & (decode > 0), prefill > 0, decode > 0], [2, 1, 0], -1)


def _even_squares(new: Int64s, rows: Int64s) -> Int64s:
    """The sum of squares of rows that have so many tokens together and are equally long."""
    return new * new // np.maximum(rows, 1)


def _by_row(
    run: Run, iteration: Int64s, squares: Int64s, sampled: Int64s
) -> tuple[Int64s, Int64s, NDArray[np.bool_]]:
    """Sums over rows from the decision log, for the steps that it holds."""
    import pyarrow.compute as pc

    table = run.arrow("decisions").select(["iteration", "kind", "item_kind", "length", "stop"])
    items = table.filter(pc.equal(table["kind"].cast("string"), "item"))
    at = np.searchsorted(iteration, items["iteration"].to_numpy())
    there = at < len(iteration)
    prefill = pc.equal(items["item_kind"].cast("string"), "prefill").to_numpy() & there
    length = np.where(prefill, items["length"].to_numpy(), 0)
    samples = items["stop"].is_valid().to_numpy() & there
    count = len(iteration)
    known = np.bincount(at[there], minlength=count) > 0
    of_rows = np.zeros(count, dtype=np.int64)
    np.add.at(of_rows, at[prefill], (length * length)[prefill])
    of_samples = np.bincount(at[samples], minlength=count)
    return np.where(known, of_rows, squares), np.where(known, of_samples, sampled), known


def _counts(run: Run, began: Int64s, commit: Int64s) -> tuple[Int64s, Int64s]:
    """Requests that came in before each step's receive, and that ended with its commit."""
    table = run.arrow("requests")
    size = len(began)
    came = np.searchsorted(began, np.sort(table["arrival_ns"].to_numpy()), "left")
    ended = table["finish_ns"].drop_null().to_numpy()
    gone = np.searchsorted(commit, ended, "left")
    return (
        np.bincount(came[came < size], minlength=size),
        np.bincount(gone[gone < size], minlength=size),
    )


def _wakes(launch: Int64s, end: Int64s, waited: Int64s) -> Int64s:
    """How long after a step's end a host that waited for it went on; -1 where it came later."""
    # the host's last launch before it collected; a step ended after that was waited for
    last = np.searchsorted(launch, waited, "right") - 1
    late = launch[np.maximum(last, 0)] > end
    return np.where(late, -1, np.maximum(waited - end, 0))


def _between(began: Int64s, commit: Int64s, running: Int64s, finished: Int64s) -> Int64s:
    """Host time between a commit and the round after it that belongs to no phase."""
    at = np.searchsorted(commit, began, "right") - 1
    gap = began - commit[np.maximum(at, 0)]
    awake = (at >= 0) & (np.concatenate([[0], running[:-1]]) > np.concatenate([[0], finished[:-1]]))
    return np.where(awake, gap, -1)
