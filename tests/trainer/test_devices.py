"""GPUs by name, against their data sheets."""

from __future__ import annotations

import pytest

from trainer.devices import DEVICES, find_device


@pytest.mark.parametrize(
    ("name", "memory_gb", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 80, 312e12),
        ("NVIDIA A100-PCIE-40GB", 40, 312e12),
        ("A100", 40, 312e12),
        ("NVIDIA H100 80GB HBM3", 80, 989e12),
        ("NVIDIA H100 PCIe", 80, 756e12),
        ("NVIDIA H200", 141, 989e12),
        ("NVIDIA L4", 24, 121e12),
        ("NVIDIA L40S", 48, 362e12),
        ("NVIDIA GeForce RTX 4090", 24, 165.2e12),
        ("Tesla V100-SXM2-32GB", 32, None),
        ("Tesla T4", 16, None),
    ],
)
def test_gpus_are_known_by_the_names_that_torch_and_ray_give(name: str, memory_gb: int, peak: float | None) -> None:
    device = find_device(name)
    assert device is not None
    assert (device.memory_gb, device.peak_flops("bfloat16", tf32=False)) == (memory_gb, peak)


def test_every_gpu_of_the_table_is_found_by_its_own_name_and_others_are_not() -> None:
    assert all(find_device(" ".join(device.words)) is device for device in DEVICES)
    assert find_device("Tesla K80") is None
    h100 = find_device("H100")
    assert h100 is not None
    assert h100.peak_flops("float32", tf32=True) == 494e12
    assert h100.peak_flops("float64", tf32=False) is None
