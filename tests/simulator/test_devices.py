"""Datasheets: dense peaks, memory a process sees, every figure with its source."""

import dataclasses
import json
from pathlib import Path

import pytest

from simulator.config import Plan, SimulatorConfig
from simulator.devices import Device, known_devices
from simulator.profile import mismatches

B200 = """
product: NVIDIA B200
bf16_flops: 2.25e15
fp8_flops: 4.5e15
memory_bandwidth: 8.0e12
memory_bytes: 191_500_000_000
"""


def test_the_six_gpus_are_known():
    assert known_devices() == ("a100", "h100", "h200", "l40s", "rtx4090", "rtxpro6000")


@pytest.mark.parametrize("name", known_devices())
def test_every_figure_names_its_source(name):
    figures = {"bf16_flops", "fp8_flops", "memory_bandwidth", "memory_bytes"}
    sources = Device.load(name).sources
    assert set(sources) == figures
    assert all(sources.values())


@pytest.mark.parametrize(
    ("alias", "name"),
    [("H200", "h200"), ("A100-80GB", "a100"), ("h100_sxm", "h100"), ("RTX 4090", "rtx4090"),
     ("RTX PRO 6000", "rtxpro6000"), ("NVIDIA L40S", "l40s")],
)  # fmt: skip
def test_aliases_ignore_case_spaces_and_underscores(alias, name):
    assert Device.load(alias).name == name


@pytest.mark.parametrize(
    ("name", "nominal_gb"),
    [("a100", 85.9), ("h100", 85.9), ("h200", 151.4), ("l40s", 51.5), ("rtx4090", 25.8),
     ("rtxpro6000", 103.1)],
)  # fmt: skip
def test_memory_is_less_than_the_nominal_and_more_than_nine_tenths_of_it(name, nominal_gb):
    nominal = nominal_gb * 1e9
    assert 0.9 * nominal < Device.load(name).memory_bytes < nominal


def test_peaks_are_the_dense_ones():
    h200 = Device.load("h200")
    assert h200.peak_flops("bf16") == h200.peak_flops("float16") == 989.4e12
    assert h200.peak_flops("fp8") == 1978.9e12


def test_a_dtype_without_tensor_cores_is_an_error():
    with pytest.raises(ValueError, match="a100: no tensor-core rate for fp8; it has: bf16, fp16"):
        Device.load("a100").peak_flops("fp8")
    with pytest.raises(ValueError, match="no tensor-core rate for float32"):
        Device.load("h200").peak_flops("float32")


def test_an_unknown_device_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown device 'tpu'; known: a100, h100, h200"):
        Device.load("tpu")


def test_an_overridden_field_is_marked_as_given():
    device = Device.load("h200", memory_bandwidth=4.0e12, memory_bytes=100e9)
    assert device.memory_bandwidth == 4.0e12
    assert device.memory_bytes == 100_000_000_000
    assert isinstance(device.memory_bytes, int)
    assert device.sources["memory_bandwidth"] == "given"
    assert device.sources["bf16_flops"] != "given"
    assert Device.load("h200").memory_bandwidth == 4.8e12


def test_overrides_are_checked():
    with pytest.raises(ValueError, match=r"cannot override cores; known: bf16_flops.*memory_bytes"):
        Device.load("h200", cores=132)
    with pytest.raises(ValueError, match="memory_bandwidth is 0; expected a number > 0"):
        Device.load("h200", memory_bandwidth=0)
    with pytest.raises(ValueError, match="bf16_flops is None"):
        Device.load("h200", bf16_flops=None)


def test_a_device_cannot_be_changed():
    device = Device.load("h200")
    with pytest.raises(dataclasses.FrozenInstanceError):
        device.memory_bytes = 1
    with pytest.raises(TypeError):
        device.sources["bf16_flops"] = "me"


@pytest.fixture
def b200(tmp_path):
    path = tmp_path / "h200.yaml"  # what a file is called says nothing of what it describes
    path.write_text(B200)
    return str(path)


def test_any_other_gpu_is_a_file_in_yaml_or_json(b200, tmp_path):
    device = Device.load(b200)
    assert (device.name, device.product) == (b200, "NVIDIA B200")
    assert (device.bf16_flops, device.memory_bytes) == (2.25e15, 191_500_000_000)
    assert device.peak_flops("fp8") == 4.5e15
    figures = {key: getattr(device, key) for key in ("bf16_flops", "memory_bandwidth")}
    other = tmp_path / "b200.json"
    other.write_text(
        json.dumps({"product": "NVIDIA B200", "memory_bytes": 1.9e11, "fp8_flops": None, **figures})
    )
    assert Device.load(str(other)).fp8_flops is None
    plan = Plan.of(SimulatorConfig.model_validate({"device": {"name": b200}}))
    assert plan.device == device
    assert plan.kv_capacity > Plan.of(SimulatorConfig()).kv_capacity


@pytest.mark.parametrize(
    ("changed", "to", "says"),
    [
        ("product: NVIDIA B200", "", "product is None; expected what the driver calls the GPU"),
        ("bf16_flops: 2.25e15", "", "bf16_flops is missing; expected dense bfloat16"),
        ("8.0e12", "8000", r"memory_bandwidth is 8000; expected bytes/s .*an H200's: 4.8e\+12"),
        ("191_500_000_000", "180 GB", "memory_bytes is '180 GB'; expected bytes that a CUDA"),
        ("4.5e15", "true", "fp8_flops is True; expected dense FP8"),
        ("4.5e15", ".inf", "fp8_flops is inf; expected dense FP8"),
        ("bf16_flops", "bf16_flop", "unknown key 'bf16_flop'; known are product, bf16_flops"),
        (
            "fp8_flops: 4.5e15",
            "sources: {tdp: x}",
            "sources is .* expected a text for some of bf16",
        ),
        (B200, "[1]", "holds no mapping of keys; expected a datasheet, YAML or JSON with the keys"),
        (B200, "a: [", "is not YAML"),
    ],
)
def test_a_mistake_in_a_datasheet_names_file_and_field(b200, changed, to, says):
    assert changed in B200
    Path(b200).write_text(B200.replace(changed, to))
    with pytest.raises(ValueError, match=f"^{b200}: {says}"):
        Device.load(b200)


def test_a_missing_datasheet_is_named():
    with pytest.raises(ValueError, match=r"^mine.yaml: cannot be read .*expected a datasheet"):
        Device.load("mine.yaml")
    with pytest.raises(ValueError, match="or the path of a JSON or YAML file with the datasheet"):
        Device.load("b200")


def test_a_profile_of_another_gpu_is_none_for_a_datasheet_of_ones_own(b200, tmp_path):
    def differ(measured, device):
        return mismatches("Qwen/Qwen3-8B", measured, "Qwen/Qwen3-8B", device)

    assert differ("NVIDIA B200", b200) == ([], [])
    assert "the config's device is" in differ("NVIDIA H200", b200)[0][0]
    assert "no datasheet describes" in differ("NVIDIA GH200 480GB", "h200")[1][0]
    changed = tmp_path / "mine.yaml"  # an H200 all the same, with a figure corrected
    changed.write_text(B200.replace("B200", "H200 SXM 141GB"))
    assert differ("NVIDIA H200", str(changed)) == ([], [])


def test_a_datasheet_of_ones_own_is_looked_up_by_its_product(b200, tmp_path):
    assert [Device.load(name).gpu for name in known_devices()] == list(known_devices())
    assert Device.load(b200).gpu == b200
    corrected = tmp_path / "mine.yaml"
    corrected.write_text(B200.replace("B200", "H200 SXM 141GB"))
    latency = {"model": "operators"}
    config = {"device": {"name": str(corrected)}, "latency": latency}
    plan = Plan.of(SimulatorConfig(**config))
    assert plan.latency_source["profile"] == "h200.qwen3-8b"
