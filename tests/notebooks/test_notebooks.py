"""The notebooks run from top to bottom, and what they show is what is committed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
SECONDS = 60

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def shown(cell: NotebookNode) -> list[Any]:
    """What a cell shows, pictures apart: their bytes depend on the fonts and versions around."""
    outputs = []
    for output in cell.outputs:
        if output.output_type == "stream":
            outputs.append((output.name, output.text))
        else:
            data = dict(output.data)
            picture = data.pop("image/png", None)
            outputs.append((output.output_type, picture is not None, data))
    return outputs


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.notebooks
@pytest.mark.filterwarnings("ignore")  # of the notebook machinery, not of the notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_is_committed_and_takes_under_a_minute(path: Path) -> None:
    committed, run = read(path), read(path)
    timer = nbformat.v4.new_code_cell("import time; print(time.process_time())")
    run.cells.append(timer)
    client = nbclient.NotebookClient(
        run,
        timeout=10 * SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    *again, last = code(run)
    for before, after in zip(code(committed), again, strict=True):
        assert shown(after) == shown(before), before.source
    # of the processor, so that a busy machine does not fail it
    assert float(last.outputs[0].text) < SECONDS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    assert any("image/png" in out.get("data", {}) for cell in cells for out in cell.outputs)
    text = nbformat.writes(notebook)
    assert not re.search(r"/(home|root|work|Users)/", text)


def test_there_is_a_notebook() -> None:
    assert "replay_a_trace" in [path.stem for path in NOTEBOOKS]
