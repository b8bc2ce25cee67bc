"""GPUs by name: peak FLOPs and memory, from the vendors' data sheets, and roughly what an hour of one costs.

Knows how torch and Ray name a GPU. Standard library only. Never knows a trial, or which GPUs there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.trial import Dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One kind of GPU. Peaks are those of dense matrix products, in 1e12 FLOPs a second."""

    words: tuple[str, ...]
    """Words that its name has."""
    memory_gb: int
    """In 1e9 bytes: a little less than most devices give, which leaves room for what the driver takes."""
    bfloat16: float | None
    """None where the hardware has no bfloat16."""
    tf32: float | None
    float32: float
    dollars_per_hour: float | None
    """On demand at a large cloud, rounded, as public comparisons had it early in 2026; None where they had none. Prices
    differ by three times between clouds and go stale: an assumption, to be replaced by the price that is paid.
    """

    @property
    def memory_bytes(self) -> int:
        return self.memory_gb * 10**9

    def peak_flops(self, dtype: Dtype, *, tf32: bool) -> float | None:
        """Peak FLOPs a second of matrix products in ``dtype``; ``None`` where the data sheet has none."""
        match dtype:
            case "bfloat16":
                peak = self.bfloat16
            case "float32":
                peak = self.tf32 if tf32 else self.float32
            case "float64":
                peak = None
        return None if peak is None else peak * 1e12


def _gpu(
    name: str,
    memory_gb: int,
    *,
    bfloat16: float | None = None,
    tf32: float | None = None,
    float32: float,
    dollars: float | None = None,
) -> Device:
    return Device(
        words=tuple(name.split()),
        memory_gb=memory_gb,
        bfloat16=bfloat16,
        tf32=tf32,
        float32=float32,
        dollars_per_hour=dollars,
    )


# The first whose words are all in a name counts. Where a name does not tell the memory apart, the smaller stands last.
DEVICES = (
    _gpu("B200", 180, bfloat16=2250, tf32=1125, float32=75),
    _gpu("H200", 141, bfloat16=989, tf32=494, float32=67, dollars=5.0),
    _gpu("H100 NVL", 94, bfloat16=835, tf32=417, float32=60),
    _gpu("H100 PCIe", 80, bfloat16=756, tf32=378, float32=51),
    _gpu("H100", 80, bfloat16=989, tf32=494, float32=67, dollars=4.0),
    _gpu("A100 80GB", 80, bfloat16=312, tf32=156, float32=19.5, dollars=2.5),
    _gpu("A100", 40, bfloat16=312, tf32=156, float32=19.5, dollars=2.0),
    _gpu("L40S", 48, bfloat16=362, tf32=183, float32=91.6, dollars=1.5),
    _gpu("L4", 24, bfloat16=121, tf32=60, float32=30.3, dollars=0.8),
    _gpu("A40", 48, bfloat16=149.7, tf32=74.8, float32=37.4),
    _gpu("A6000", 48, bfloat16=154.8, tf32=77.4, float32=38.7),
    _gpu("A10G", 24, bfloat16=70, tf32=35, float32=35, dollars=1.0),
    _gpu("A10", 24, bfloat16=125, tf32=62.5, float32=31.2),
    _gpu("V100 32GB", 32, float32=15.7),
    _gpu("V100", 16, float32=15.7),
    _gpu("T4", 16, float32=8.1),
    _gpu("RTX 4090", 24, bfloat16=165.2, tf32=82.6, float32=82.6),
    _gpu("RTX 3090", 24, bfloat16=71, tf32=35.6, float32=35.6),
)


def find_device(name: str) -> Device | None:
    """The GPU of this name, as torch (``NVIDIA A100-SXM4-80GB``), Ray (``A100``) or a person (``a100``) gives it.

    ``None`` for others.
    """
    words = name.upper().replace("-", " ").split()
    return next((device for device in DEVICES if all(word.upper() in words for word in device.words)), None)
