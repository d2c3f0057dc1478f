"""The stages, in the order they run: what each measures, and how many minutes it may take.

A stage is a module with a function `run(place)`. Here nothing is imported of what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage.

    Attributes:
        name: of its result file, and of its module in this package.
        minutes: what it takes on an H200 by estimate; it is not begun where less is left.
        says: what it measures.
        needs: packages that it cannot do without, beyond torch and numpy.
    """

    name: str
    minutes: float
    says: str
    needs: tuple[str, ...] = ("pydantic",)

    @property
    def most_minutes(self) -> float:
        """It is ended after that."""
        return min(9.0, 2 * self.minutes + 1.5)


_RECORDS = ("pydantic", "pandas", "pyarrow")
STAGES = (
    Stage("ceilings", 0.5, "copy and read bandwidth, bf16 matmul rate", ()),
    Stage("suite", 3.0, "the tests marked gpu", ("pytest",)),
    Stage("rates", 2.0, "decode and prefill of Qwen3-8B's shapes against the ceilings"),
    Stage("overlap", 2.0, "serial against overlapped: the gap between decode steps"),
    Stage("graphs", 2.0, "decode with CUDA graphs and without"),
    Stage("backends", 2.0, "each attention backend, one layer at a time", ()),
    Stage("sweep", 5.0, "recorded runs over batch compositions, for calibration", _RECORDS),
    Stage(
        "orders",
        4.0,
        "a generated Mooncake-like trace in real time, for each queue order",
        (*_RECORDS, "scipy", "yaml"),
    ),
    Stage(
        "peer",
        3.0,
        "transformers' continuous batching on the same requests",
        ("pydantic", "transformers"),
    ),
)


def find(names: list[str]) -> tuple[Stage, ...]:
    """The stages of these names, in the order they run; all of them for no name.

    Raises:
        ValueError: for an unknown name; lists the known.
    """
    known = [stage.name for stage in STAGES]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown stage {name!r}; known: {', '.join(known)}")
    return tuple(stage for stage in STAGES if not names or stage.name in names)
