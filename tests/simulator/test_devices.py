"""Datasheets: dense peaks, memory a process sees, every figure with its source."""

import dataclasses

import pytest

from simulator.devices import Device, known_devices


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
