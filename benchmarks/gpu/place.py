"""Where a stage runs: the device, the model measured there, and the file its figures go to.

Figures are written as they come, so that a stage that is cut short leaves what it had. On a GPU the model
has the shapes of Qwen3-8B and random weights in bf16; `tiny` stands for a few thousand parameters and small
steps on the CPU, which run the same code.
"""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from benchmarks.gpu.steps import StepTime
    from runtime import LoadedModel
    from traces.records.run import Run
    from traces.workload import Workload

MODEL = "Qwen/Qwen3-8B"
PAGE_SIZE = 16


class Place:
    """See the module.

    Args:
        stage: whose figures are written.
        folder: where results lie, one file a stage.
        tiny: small and on the CPU.
    """

    def __init__(self, stage: str, folder: Path, *, tiny: bool) -> None:
        self.stage = stage
        self.folder = folder
        self.tiny = tiny
        self.device = torch.device("cpu" if tiny else "cuda:0")
        self.figures: dict[str, Any] = {}
        self._began = time.perf_counter()
        self._loaded: LoadedModel | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if tiny:
            torch.set_num_threads(1)

    @property
    def loaded(self) -> LoadedModel:
        """The model, loaded when it is first asked for."""
        if self._loaded is None:
            if self.tiny:
                from benchmarks.gpu.tiny import tiny_model

                with TemporaryDirectory() as folder:
                    self._loaded = tiny_model(Path(folder))
            else:
                from runtime import load_model

                self._loaded = load_model(
                    MODEL, dtype="bf16", device=self.device, load_format="dummy"
                )
        return self._loaded

    def forget_model(self) -> None:
        """Let go of the model and its memory."""
        self._loaded = None
        self.clean()

    def clean(self) -> None:
        """Free what earlier engines held: pools are sized by what is free."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def steps(self, work: Workload, config: dict[str, Any]) -> list[StepTime]:
        """The steps of a workload; see `run_steps`."""
        from benchmarks.gpu.steps import run_steps

        self.clean()
        return run_steps(work, config, self.loaded)

    def recorded(
        self, name: str, work: Workload, config: dict[str, Any], *, decisions: bool = False
    ) -> Run:
        """The run of a workload, recorded in a folder beside the results; a whole one is kept.

        Args:
            name: of the folder.
            work: the workload.
            config: of the engine.
            decisions: record what `twin verify` needs too: every token, which is large.
        """
        from runtime import replay
        from traces.records.errors import RecordError
        from traces.records.run import load_run

        folder = self.folder / self.stage / name
        try:
            run = load_run(folder)
            if run.status == "complete":
                return run
        except RecordError:
            pass  # there is none yet
        self.clean()
        return replay(
            work,
            config,
            loaded=self.loaded,
            out=folder,
            overwrite=True,
            records=("requests", "steps", *(["decisions"] if decisions else [])),
        )

    def size(self, real: int, tiny: int) -> int:
        """A size on the GPU, and the one that stands for it on the CPU."""
        return tiny if self.tiny else real

    def config(self, *, kv: int | None = None, **sections: dict[str, Any]) -> dict[str, Any]:
        """A config; `kv` is the pool's size in tokens, None for what fits."""
        config: dict[str, Any] = {
            "model": {"path": MODEL, "kv_dtype": "auto"},
            "kv": {"capacity_tokens": 16_384 if self.tiny else kv},
            **sections,
        }
        limit = {"max_running_requests": 64} if self.tiny else {}
        config["policy"] = {"page_size": PAGE_SIZE, **limit, **sections.get("policy", {})}
        return config

    def note(self, key: str, value: Any) -> None:
        """Take a figure down, on disk too; and say it."""
        self.figures[key] = value
        print(f"  {key}: {json.dumps(value)}", flush=True)
        self._write(self.folder / f"{self.stage}.partial.json", "partial")

    def finish(self) -> None:
        """All figures are there."""
        self._write(result_file(self.folder, self.stage), "complete")
        (self.folder / f"{self.stage}.partial.json").unlink(missing_ok=True)

    def earlier(self, stage: str) -> dict[str, Any] | None:
        """The figures of another stage, if it has run."""
        file = result_file(self.folder, stage)
        if not file.is_file():
            return None
        figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["figures"]
        return figures

    def _write(self, file: Path, status: str) -> None:
        from runtime.versions import versions

        product = "CPU"
        if self.device.type == "cuda":
            product = torch.cuda.get_device_name(self.device)
        content = {
            "stage": self.stage,
            "status": status,
            "device": product,
            "tiny": self.tiny,
            "versions": versions(self.device),
            "seconds": round(time.perf_counter() - self._began, 1),
            "figures": self.figures,
        }
        new = file.with_suffix(".new")
        new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        new.replace(file)


def result_file(folder: Path, stage: str) -> Path:
    """Where a stage's figures are once it has ended."""
    return folder / f"{stage}.json"
