"""What a plan costs: by data sheets, measured shares and prices, and by hand."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from sweeps.columns import SCHEMA
from sweeps.cost import Rates, cost
from sweeps.plan import DataFacts, Plan, plan
from sweeps.reading import read_spec
from tests.analysis.law_rows import FULL, row
from trainer.devices import DEVICES
from trainer.ladder import SHAPES

SPEC = """
name: priced
data: nano
models: [nano-1k, nano-7k]
methods: [full]
budgets_flops: [1e9, 4e9]
trials: 3
limits: {min_steps: 0, max_epochs: 1e9}
"""
NONE = SCHEMA.empty_table().to_pandas()


def planned() -> Plan:
    return plan(read_spec(SPEC), DataFacts(num_train_pairs=10**9, tokens_per_pair=50.0, measured=True), SHAPES)


def measured(**shares: float) -> pd.DataFrame:
    placement = json.dumps({"dtype": "bfloat16", "tf32": False})
    return pd.DataFrame(
        [
            row(FULL, 10**9, model.replace("_", "-"), 3.0)
            | {"mfu": share, "device": "NVIDIA H100 80GB HBM3", "placement": placement}
            for model, share in shares.items()
        ]
    )


def test_without_rows_the_share_is_assumed_and_the_price_is_rough() -> None:
    found = cost(planned(), Rates(), NONE)
    # Two models, three trials each, at two budgets.
    assert found.gpu_hours == pytest.approx(2 * 3 * (1e9 + 4e9) / (0.35 * 989e12) / 3600)
    assert found.hours[4 * 10**9] == pytest.approx(4 * found.hours[10**9])
    assert found.money == pytest.approx(found.gpu_hours * 4.0)
    words = found.sentence()
    assert "GPU-hours of H100" in words and "a rough list price" in words
    assert "--device, --price, --mfu say otherwise" in words


def test_what_a_person_gives_counts_and_is_not_called_assumed() -> None:
    found = cost(planned(), Rates(device="a100", mfu=0.5, price_per_hour=1.5), NONE)
    assert found.gpu_hours == pytest.approx(2 * 3 * 5e9 / (0.5 * 312e12) / 3600)
    assert found.money == pytest.approx(found.gpu_hours * 1.5)
    assert "say otherwise" not in found.sentence() and "rough" not in found.sentence()


def test_each_model_counts_with_its_own_measured_share() -> None:
    found = cost(planned(), Rates(device="H100"), measured(nano_1k=0.1, nano_7k=0.4))
    each = 3 * 5e9 / 989e12 / 3600
    assert found.gpu_hours == pytest.approx(each / 0.1 + each / 0.4)
    # A model without a row counts with the median of the others.
    found = cost(planned(), Rates(device="H100"), measured(nano_1k=0.1))
    assert found.gpu_hours == pytest.approx(2 * each / 0.1)


def test_a_device_without_a_list_price_has_no_money() -> None:
    found = cost(planned(), Rates(device="A40"), NONE)
    assert found.money is None and "--price" in found.sentence()
    assert Rates(device="A40").known_price is None
    assert Rates(device="A40", price_per_hour=2.0).known_price == 2.0
    assert Rates(device="l4").known_price == 0.8
    assert Rates().known_price is None


def test_dearer_devices_do_more() -> None:
    """A slip in the table of prices would stand out: none is ten times from the others by its peak."""
    priced = [(device.dollars_per_hour, device.bfloat16) for device in DEVICES if device.dollars_per_hour]
    shares = [price / peak for price, peak in priced if peak]
    assert max(shares) / min(shares) < 10


@pytest.mark.parametrize("rates", [Rates(device="abacus"), Rates(mfu=0.0), Rates(mfu=1.5), Rates(price_per_hour=-1.0)])
def test_rates_that_are_none_are_refused(rates: Rates) -> None:
    with pytest.raises(ValueError, match=r"--(device|mfu|price) is"):
        cost(planned(), rates, NONE)
