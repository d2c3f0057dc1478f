"""Tables are found in a folder or the package's layout, and what is missing is listed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

from simulator.operators import Tables
from simulator.operators.tables import TableError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    table = pd.DataFrame({"m": [1], "latency": [0.5]})
    for version in ("0.5.9", "0.5.10"):
        folder = tmp_path / "h200_sxm" / "gemm" / "sglang" / version
        folder.mkdir(parents=True)
        table.to_parquet(folder / "gemm_perf.parquet")
    comm = tmp_path / "h200_sxm" / "comm" / "sglang" / "0.5.9"
    comm.mkdir(parents=True)
    table.to_parquet(comm / "custom_allreduce_perf.parquet")
    return tmp_path


def test_the_newest_version_is_taken_by_number_not_by_letter(root: Path) -> None:
    assert Tables.open("h200", "sglang", root=root).version == "0.5.10"


def test_milliseconds_become_nanoseconds(root: Path) -> None:
    assert Tables.open("h200_sxm", "sglang", root=root).read("gemm", "gemm")["ns"].item() == 500_000


def test_the_packages_layout_is_found(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    package = tmp_path_factory.mktemp("site") / "aiconfigurator_core"
    (package / "systems").mkdir(parents=True)
    (package / "systems" / "data").symlink_to(root)
    for where in (package, package.parent):
        assert Tables.open("h200", "sglang", root=where).gpu == "h200_sxm"


@pytest.mark.parametrize(
    ("gpu", "framework", "version", "message"),
    [
        ("b300", "sglang", None, r"no tables of GPU 'b300'.*there are: h200_sxm"),
        ("h200", "vllm", None, r"no tables of 'vllm'.*there are: sglang"),
        ("h200", "sglang", "0.4", r"no tables of sglang 0\.4.*there are: 0\.5\.9, 0\.5\.10"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    root: Path, gpu: str, framework: str, version: str | None, message: str
) -> None:
    with pytest.raises(TableError, match=message):
        Tables.open(gpu, framework, version, root=root)


def test_a_table_of_another_version_is_an_error_but_for_communication(root: Path) -> None:
    tables = Tables.open("h200", "sglang", root=root)
    with pytest.raises(TableError, match=r"no table moe/moe; versions that have it: none"):
        tables.read("moe", "moe")
    tables.read_communication("custom_allreduce")
    assert tables.notes == ["custom_allreduce: from sglang 0.5.9"]


def test_a_folder_without_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="holds no operator tables"):
        Tables.open("h200", "sglang", root=tmp_path)


def test_older_attention_tables_hold_no_sliding_windows(root: Path) -> None:
    folder = root / "h200_sxm" / "attention" / "sglang" / "0.5.10"
    folder.mkdir(parents=True)
    table = pd.DataFrame({"head_dim": [128], "latency": [0.5]})
    table.to_parquet(folder / "context_attention_perf.parquet")
    read = Tables.open("h200", "sglang", root=root).read("attention", "context_attention")
    assert read["window_size"].tolist() == [0]
