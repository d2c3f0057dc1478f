"""Simulates a real run's requests: a config in, a run of the same kind as the real one out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.data_parallel import simulate_ranks
from simulator.simulation import as_config, simulate
from traces.real_runs.our_run import from_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from traces.real_runs.base import RealRun
    from traces.workload import Workload

RECORDS = ("requests", "steps", "tokens")


@dataclass(frozen=True, slots=True)
class Replay:
    """A real run's requests as the simulator served them.

    Attributes:
        run: as a run of the same kind as the real one.
        config: all it was simulated with.
        ranks: data-parallel ranks.
    """

    run: RealRun
    config: dict[str, Any]
    ranks: int


def replay(
    workload: Workload,
    config: Mapping[str, Any],
    settings: Sequence[str] = (),
    *,
    ranks: int = 1,
    records: Sequence[str] = RECORDS,
) -> Replay:
    """Simulate requests under a config.

    Args:
        workload: the real run's.
        config: sections of a config.
        settings: `section.key=value` settings over it.
        ranks: data-parallel ranks that step together.
        records: of requests, steps, tokens.

    Raises:
        ConfigError: for a config that cannot be used.
    """
    whole = as_config(config, settings)
    if ranks > 1:
        run = simulate_ranks(workload, whole, ranks=ranks, records=records)
    else:
        run = simulate(workload, whole, records=records)
    return Replay(
        replace(from_run(run, Path("simulated"), workload), name="simulated"),
        whole.model_dump(mode="json"),
        ranks,
    )
