"""Hours and money as booked FLOPs: by data sheets and by hand."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from analysis.hardware import ASSUMED_MFU, budget_from, hardware
from tests.analysis.law_rows import FULL, row
from trainer.result import TrialState


def rows(*mfu: float | None, device: str = "NVIDIA H100 80GB HBM3", tf32: bool = False) -> pd.DataFrame:
    placement = json.dumps({"dtype": "float32", "tf32": tf32})
    return pd.DataFrame(
        [
            row(FULL, 10**11, "nano-7k", 3.0, number=number)
            | {"mfu": share, "device": device, "dtype": "float32", "placement": placement}
            for number, share in enumerate(mfu)
        ]
    )


def test_without_a_measurement_the_share_is_assumed_and_said() -> None:
    machine = hardware(rows(None, device="cpu"), "H100", mfu=None, price_per_hour=None)
    assert (machine.mfu, machine.mfu_from, machine.dtype) == (ASSUMED_MFU, "assumed", "bfloat16")
    assert budget_from(None, 2.0, None, machine) == round(2 * 3600 * 989e12 * 0.35)
    assert "assumed: the sweep ran on cpu, whose peak is not known" in machine.sentence(1e18)


def test_a_measured_median_counts_against_the_peak_that_it_was_measured_with() -> None:
    machine = hardware(rows(0.1, 0.2, 0.6, None), "H100", mfu=None, price_per_hour=None)
    assert (machine.mfu, machine.mfu_from, machine.dtype) == (0.2, "measured", "float32")
    assert machine.flops_per_second == pytest.approx(0.2 * 67e12)
    assert "the median of 3 trials" in machine.sentence(1e18)
    with_tf32 = hardware(rows(0.1, 0.2, 0.6, tf32=True), "H100", mfu=None, price_per_hour=None)
    assert with_tf32.flops_per_second == pytest.approx(0.2 * 494e12)


def test_a_share_measured_elsewhere_is_told_and_one_that_is_given_counts_first() -> None:
    measured = rows(0.3)
    elsewhere = hardware(measured, "A100", mfu=None, price_per_hour=None)
    assert elsewhere.mfu == 0.3
    assert "the median of 1 trial on NVIDIA H100 80GB HBM3" in elsewhere.why
    given = hardware(measured, "h100", mfu=0.5, price_per_hour=None)
    assert (given.mfu, given.mfu_from) == (0.5, "given")


def test_trials_that_did_not_complete_measure_nothing() -> None:
    failed = rows(0.2).assign(state=str(TrialState.FAILED))
    assert hardware(failed, "H100", mfu=None, price_per_hour=None).mfu_from == "assumed"


def test_money_hours_and_flops_are_the_same_amount() -> None:
    machine = hardware(rows(None), "H100", mfu=0.4, price_per_hour=2.5)
    flops = budget_from(None, None, 100.0, machine)
    assert flops == round(40 * 3600 * 989e12 * 0.4)
    assert machine.hours(flops) == pytest.approx(40)
    assert machine.money(flops) == pytest.approx(100)
    assert "40 GPU-hours of H100, which cost 100 at 2.5 an hour" in machine.sentence(flops)


@pytest.mark.parametrize(
    ("budget", "hours", "money", "words"),
    [
        (None, None, None, "no budget is given: give one of"),
        (1e12, 2.0, None, "--budget and --gpu-hours are given: give one of"),
        (float("nan"), None, None, "--budget is nan"),
        (None, 2.0, None, "--gpu-hours is 2 without a device"),
        (None, None, 5.0, "--money is 5 without a device"),
    ],
)
def test_anything_but_one_whole_budget_is_refused(
    budget: float | None, hours: float | None, money: float | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        budget_from(budget, hours, money, None)


def test_what_buys_nothing_or_has_no_price_is_refused() -> None:
    machine = hardware(rows(None), "H100", mfu=0.4, price_per_hour=None)
    with pytest.raises(ValueError, match="--money is 5 without a price: give --price"):
        budget_from(None, None, 5.0, machine)
    for hours in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"--gpu-hours is .*: give an amount above 0"):
            budget_from(None, hours, None, machine)


@pytest.mark.parametrize(
    ("device", "mfu", "price", "words"),
    [
        ("abacus", None, None, "--device is 'abacus', whose peak is not known: choose among B200, H200"),
        ("H100", 1.5, None, "--mfu is 1.5"),
        ("H100", 0.0, None, "--mfu is 0"),
        ("H100", None, -2.0, "--price is -2"),
    ],
)
def test_wrong_hardware_is_refused(device: str, mfu: float | None, price: float | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hardware(rows(None), device, mfu=mfu, price_per_hour=price)
