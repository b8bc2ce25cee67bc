"""What a plan says of each cell before it is paid: where its trials run, with how much memory, for which hours."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cluster.answers import plan_of
from cluster.fleet import load_of
from cluster.outlook import Outlook, Seat, outlook
from cluster.placement import Machine, place
from cluster.plan_tables import plan_record, plan_view
from sweeps.cost import Cost, Rates, cost
from sweeps.plan import DataFacts, Plan, plan, studies
from sweeps.reading import read_spec
from sweeps.spec import SweepSpec
from tests.cluster.sweep import prepared_for
from trainer.ladder import SHAPES
from trainer.memory import GIB, estimate
from trainer.trial import Full

SPEC = """\
name: seated
data: nano
models: [pythia-14m, pythia-1b, pythia-12b]
methods: [full, bias]
budgets_flops: [1e20]
trials: 3
fixed: {batch_size: 1024, max_length: 75}
limits: {min_steps: 0, max_epochs: 1e9}
resources: {gpus_per_trial: 0.25, cpus_per_trial: 4}
"""
FACTS = DataFacts(num_train_pairs=None, tokens_per_pair=78, measured=False)


def seated(text: str = SPEC, device: str = "H100") -> tuple[SweepSpec, Plan, Outlook]:
    spec = read_spec(text)
    made = plan(spec, FACTS, SHAPES)
    return spec, made, outlook(spec, made, SHAPES, device, num_negatives=0)


def words(seats: Outlook) -> dict[tuple[str, str], str]:
    return {
        (model.rsplit("-", 1)[-1], method.label): seat if isinstance(seat, str) else seat.words
        for (model, method), seat in seats.items()
    }


def shown(made: Plan, paid: Cost | None, seats: Outlook, width: int = 120) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(plan_view("seated", made, paid, (), seats))
    return console.export_text().splitlines()


def test_each_model_and_method_has_its_own_share_or_number_of_gpus() -> None:
    _, _, seats = seated()
    said = words(seats)
    assert said["14m", "full"] == "1/4 GPU"
    # Four floats a parameter are 14 GB, and the activations of 80,000 tokens pass the other 4 of a quarter GPU.
    assert said["1b", "full"] == "1/4 GPU *"
    # Weights, gradients and moments of 12e9 parameters in float32 are 190 GB: more than two GPUs of 80.
    seat = seats["EleutherAI/pythia-12b", Full()]
    assert isinstance(seat, Seat) and seat.placement.num_workers >= 4 and seat.placement.zero_stage
    assert seat.words.startswith(f"{seat.placement.num_workers} GPU, ZeRO-{seat.placement.zero_stage}")
    assert all(seat.memory_bytes < 80e9 for seat in seats.values() if isinstance(seat, Seat))


def test_a_plan_foretells_the_placement_that_a_launch_gives() -> None:
    """By the driver's own load of each study, on a machine as the plan assumes it."""
    spec = read_spec(SPEC)
    prepared = prepared_for(spec, Path())
    made = plan_of(spec, prepared)
    seats = outlook(spec, made, SHAPES, "L4", num_negatives=prepared.manifest.source.num_negatives)
    machine = Machine(num_cpus=128, memory_bytes=1024 * GIB, num_gpus=8, gpu="L4")
    found = studies(spec, made, data="d", revisions=dict.fromkeys(spec.models, "r"), shapes=SHAPES)
    assert len(found) == len(seats) == 6
    for study in found:
        load, seat = load_of(study, prepared), seats[study.cell.model, study.cell.method]
        if isinstance(seat, str):
            with pytest.raises(ValueError, match=study.cell.model):
                place(load, spec.resources, [machine])
            continue
        assert seat.placement == place(load, spec.resources, [machine])
        assert seat.memory_bytes == estimate(load, seat.placement).total


def test_on_cpus_and_without_a_known_device_it_shows_what_it_can() -> None:
    _, made, seats = seated(SPEC.replace("gpus_per_trial: 0.25, cpus_per_trial: 4", "cpus_per_trial: 2"))
    assert words(seats)["14m", "full"] == "2 CPU"
    assert not any("GPU-hours" in line for line in shown(made, None, seats))
    _, made, seats = seated(device="a device of tomorrow")
    assert seats == {}
    [head] = [line for line in shown(made, None, seats) if line.startswith("budget")]
    assert head.split() == ["budget", "model", "method", "params", "tokens", "steps", "trials", "FLOPs"]


def test_hours_and_money_of_the_cells_add_up_to_the_plan_s() -> None:
    spec, made, seats = seated()
    paid = cost(made, Rates(device="H100", price_per_hour=2.0))
    record = json.loads(json.dumps(plan_record(spec.name, made, paid, (), seats)))
    cells = record["cells"]
    assert sum(cell["gpu_hours"] for cell in cells) == pytest.approx(record["cost"]["gpu_hours"])
    assert cells[0]["gpu_hours"] == pytest.approx(3 * 1e20 / (0.35 * 989e12) / 3600)
    assert all(cell["money"] == pytest.approx(2 * cell["gpu_hours"]) for cell in cells)
    assert record["cost"]["currency"] is None, "the price is a person's own"
    assert cost(made, Rates(device="H100")).to_dict()["currency"] == "dollars"
    [largest] = [c for c in cells if c["model"].endswith("12b") and c["method"] == "full"]
    assert largest["placement"]["zero_stage"] and largest["memory_bytes_per_worker"] > 20e9


def test_a_cell_that_fits_nowhere_says_so() -> None:
    text = SPEC.replace("gpus_per_trial: 0.25", "gpus_per_trial: 1, max_gpus_per_trial: 1, offload: false")
    spec, made, seats = seated(text)
    [line] = [line for line in shown(made, None, seats) if "pythia-12b" in line and " full " in line]
    assert "does not fit" in line
    cells = plan_record(spec.name, made, None, (), seats)["cells"]
    assert {c["model"] for c in cells if c["does_not_fit"]} == {"EleutherAI/pythia-12b"}
    assert all(("needs" in c["does_not_fit"]) == (c["placement"] is None) for c in cells if c["does_not_fit"])


@pytest.mark.parametrize("device", ["H100", "L4", "T4"])
def test_the_table_of_the_largest_preset_fits_120_columns(device: str) -> None:
    """Also where large models take several GPUs, and with the epochs of data that are known."""
    spec = read_spec("pythia", ["limits.max_epochs=1e9"])
    made = plan(spec, replace(FACTS, num_train_pairs=54_000_000), SHAPES)
    seats = outlook(spec, made, SHAPES, device, num_negatives=0)
    lines = shown(made, cost(made, Rates(device=device)), seats, width=400)
    table = [line.rstrip() for line in lines if line.startswith("1.5e18")]
    assert len(table) > 30
    assert max(map(len, [*table, *(line for line in lines if line.startswith("budget"))])) <= 120
    first = table[0].split()
    assert first[:4] == ["1.5e18", "pythia-14m", "freeze-0.5", "1.19M"], "without the organisation"


def test_models_of_one_name_keep_their_organisations() -> None:
    text = SPEC.replace("[pythia-14m, pythia-1b, pythia-12b]", "[a/pythia, b/pythia]")
    spec = read_spec(text)
    made = plan(spec, FACTS, {name: SHAPES["pythia-14m" if name == "x" else "nano-1k"] for name in spec.models})
    assert {line.split()[1] for line in shown(made, None, {}) if line.startswith("1.0e20")} == {"a/pythia", "b/pythia"}
