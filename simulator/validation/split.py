"""How a real run's model was split over GPUs, and whether step times are of that split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.config import ConfigError
from simulator.operators.shards import Parallel
from simulator.validation.assumption import Assumption

if TYPE_CHECKING:
    from policies.model_shape import ModelShape
    from simulator.validation.setup import Setup
    from traces.real_runs.base import EngineSettings

ONE_GPU = "step times are of one GPU that holds the whole model, which the run had split as {}"


def split_over_gpus(
    engine: EngineSettings, model: ModelShape, measured: Parallel | None
) -> tuple[Parallel, int, Assumption | None]:
    """How a model is split, how many data-parallel ranks step together, and what was assumed for it.

    Args:
        engine: what is known of how it was run.
        model: its shape.
        measured: the split of the profile, for an engine that is not known to have another; None for
            one GPU.

    Raises:
        ConfigError: for ranks that share nothing.
    """
    if engine.tensor_parallel is None and measured is not None:
        assumed = Assumption("GPUs", measured.gpus, "as the profile was measured")
        return measured, measured.attention_ranks, assumed
    tp, dp = engine.tensor_parallel or 1, engine.data_parallel or 1
    shared_experts = model.moe is not None and engine.expert_parallel
    if dp > 1 and not shared_experts:
        raise ConfigError(
            f"{dp} data-parallel ranks of {model.name} without expert parallelism: ranks that share no "
            "experts are engines of their own; validate one of them with the requests it was sent"
        )
    split = Parallel(tp=tp, ep=tp * dp) if shared_experts else Parallel(tp=tp)
    if engine.tensor_parallel is not None:
        return split, dp, None
    return split, dp, Assumption("GPUs", split.gpus, "the run does not say")


def check_split(setup: Setup, measured: Parallel | None) -> list[str]:
    """See that step times are of the run's split.

    Args:
        setup: of the run.
        measured: how the profile takes the model to be split; None for a model of one GPU.

    Returns:
        what to tell where nothing else is at hand.

    Raises:
        ConfigError: where a profile is of another split.
    """
    if measured is None:
        return [] if setup.parallel.gpus == 1 else [ONE_GPU.format(setup.parallel)]
    if measured != setup.parallel:
        raise ConfigError(
            f"--profile: it was measured for {measured}, the run was split as {setup.parallel}; give one "
            "of that split"
        )
    return []
