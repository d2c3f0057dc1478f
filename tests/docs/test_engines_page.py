"""The page on the two engines: its table is what the presets are, its commands and links exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from simulator import Plan
from simulator.simulation import as_config
from twin.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engines.md"
TEXT = PAGE.read_text(encoding="utf-8")


def commands() -> list[str]:
    in_blocks = re.findall(r"^(twin .*)$", TEXT, re.MULTILINE)
    return sorted({*in_blocks, *re.findall(r"`(twin [^`]+)`", TEXT)})


@pytest.mark.parametrize("line", commands())
def test_its_commands_have_the_options_they_use(line):
    _, name, *arguments = shlex.split(line)
    command = main.get_command(click.Context(main), name)
    assert command is not None, name
    context = command.make_context(name, arguments)
    assert context.params


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.startswith("https://") or (PAGE.parent / target).exists(), target


def test_its_table_is_what_the_presets_are():
    def row(heading: str) -> list[str]:
        (cells,) = re.findall(rf"^\| {re.escape(heading)} \|(.*)\|$", TEXT, re.MULTILINE)
        return [cell.strip() for cell in cells.split(" | ")]

    sglang, vllm = (Plan.of(as_config({"preset": preset})) for preset in ("sglang", "vllm"))
    tokens = row("prompt tokens a step on this GPU")
    assert tokens[0].startswith(f"{sglang.policy.chunked_prefill_size:,} ")
    assert tokens[1].startswith(f"{vllm.policy.batching_options['max_num_batched_tokens']:,} ")
    running = row("requests at once")
    assert running[0] == f"{sglang.policy.max_running_requests:,}"
    assert running[1].startswith(f"{vllm.policy.max_running_requests:,} ")
    memory = row("memory for weights and KV")
    assert f"{sglang.kv_capacity:,} tokens" in memory[0]
    assert f"{vllm.kv_capacity:,} tokens" in memory[1]
