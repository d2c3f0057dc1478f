"""The page on writing a policy: all its code is run, and what it says of the result holds."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from policies.registry import EVICTIONS, ORDERS
from twin.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "writing-a-policy.md"


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def registries(monkeypatch):
    for registry in (ORDERS, EVICTIONS):
        registry.names()
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))


@pytest.mark.usefixtures("registries")
def test_its_python_runs_as_a_notebook_and_shows_what_it_says(capsys):
    cells: dict[str, object] = {"__name__": "notebook"}
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), cells)  # noqa: S102
    verdicts = {pair.metric: pair.verdict for pair in cells["comparison"].paired}
    assert verdicts["ttft_ms"] == "better"
    assert verdicts["tpot_ms"] == "worse"
    printed = capsys.readouterr().out
    assert "ttft_ms" in printed
    assert "largest" in printed


@pytest.mark.usefixtures("registries")
def test_its_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("patient.py").write_text(blocks("python")[0], encoding="utf-8")
    (commands,) = blocks("bash")
    outputs = []
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "twin"
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}"
        outputs.append(result.stdout)
    assert re.search(r"patient .*tokens_per_s=500.0 .*Short prompts first", outputs[0])
    # the two comparisons are of the same runs
    assert outputs[2] == outputs[3]
    assert "better" in outputs[2]
    sys.modules.pop("policy_file_patient", None)


def test_the_lines_of_its_first_example_are_ten():
    lines = [
        line
        for line in blocks("python")[0].splitlines()
        if line.strip() and not line.lstrip().startswith(('"""', "from", "import"))
    ]
    assert len(lines) <= 10
