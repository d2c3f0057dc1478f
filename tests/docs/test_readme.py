"""The README: its Python runs, its commands are ones that there are, its figures are what they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from policies.registry import ORDERS
from twin.cli import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_python_runs(monkeypatch):
    ORDERS.names()
    monkeypatch.setattr(ORDERS, "_classes", dict(ORDERS._classes))
    cells: dict[str, object] = {"__name__": "notebook"}
    for block in re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        exec(compile(block, "README.md", "exec"), cells)  # noqa: S102
    assert len(cells["run"].requests) == 200
    assert cells["run"]._repr_html_().startswith("<table")


def commands() -> list[str]:
    """Every call of `twin`, in a block or in the text."""
    in_blocks = re.findall(r"^(?:\.venv/bin/)?(twin .*)$", README, re.MULTILINE)
    in_text = re.findall(r"`(twin [^`]+)`", README)
    return sorted({*in_blocks, *in_text})


@pytest.mark.parametrize("line", commands())
def test_its_commands_have_the_options_they_use(line):
    command: click.Command = main
    arguments = shlex.split(line)[1:]
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, name
        command = found
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {a for a in arguments if a.startswith("--")} <= known


def test_its_links_and_paths_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("#") or (ROOT / target).exists(), target
    for path in re.findall(r"`((?:traces|simulator|policies|docs|tests)/[\w/.-]+)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
def test_its_table_is_what_the_demo_prints(tmp_path, monkeypatch):
    recipe = re.search(r"\$\(BIN\)/twin (ab .*?)\n\n", (ROOT / "Makefile").read_text(), re.DOTALL)
    assert recipe is not None
    arguments = shlex.split(recipe.group(1).replace("\\\n", " "))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    printed = {" ".join(line.split()) for line in result.stdout.splitlines()}
    table = README.partition("$ make demo\n")[2].partition("```")[0].replace(" ...\n", "")
    assert {" ".join(line.split()) for line in table.splitlines()} <= printed
