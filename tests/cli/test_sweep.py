"""The sweep of the method's parts: every variant is what it says, nothing is trained twice, and the page is right."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch.nn import functional

from benchmarks import sweep
from benchmarks.pages import replace_section
from benchmarks.refinement import Outcome, lines
from benchmarks.sweep import (
    BASELINE,
    VARIANTS,
    Budget,
    SweepSubject,
    draw_cycle,
    evaluate_subject,
    intensity_term,
    start,
)
from benchmarks.sweep_page import gain, over_seeds, picture, section
from cmnet_core.models.cardiomorphnet import iterate_cycle
from cmnet_core.training.motion_settings import LossWeights
from cmnet_core.types import Spacing

FEW = Budget(training=2, epochs=1)


def heart(subject: str) -> SweepSubject:
    """Two frames of a ventricle within its wall, with the right one beside it; SegNet sees them as they are."""
    y, x = torch.meshgrid(*(torch.arange(128) - 63.5,) * 2, indexing="ij")
    labels = []
    for cavity in (20.0, 13.0):
        radius = torch.hypot(y, x)
        rings = torch.where(radius < cavity, 1, torch.where(radius < cavity + 7, 2, 0))
        labels.append(torch.where((rings == 0) & (y.abs() < 10) & (x > 0) & (x < cavity + 20), 3, rings))
    masks = functional.one_hot(torch.stack(labels), 4).movedim(-1, 1).float()[:, None].repeat(1, 3, 1, 1, 1)
    probabilities = functional.avg_pool2d(masks.flatten(0, 2), 2).unflatten(0, (2, 3, 4))
    look = torch.einsum("tzkyx,k->tzyx", probabilities, torch.tensor([0.2, 0.9, 0.4, 0.8]))
    return SweepSubject(subject, look, probabilities, masks, Spacing(8.0, 1.5, 1.5))


def drawn(variant: sweep.Variant) -> sweep.TrainingCycle:
    return draw_cycle(heart("one"), variant, torch.Generator().manual_seed(1))


def test_variants_differ_from_the_baseline_as_their_names_state() -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert {variant.weights.smoothness for variant in VARIANTS} == {0.003, 0.01, 0.03, 0.05, 0.1, 0.3, 1.0}
    assert replace(LossWeights(), endpoint=0.0, overlap=0.0, folding=0.0, smoothness=0.05) == BASELINE.weights
    named = {variant.name: variant for variant in VARIANTS}
    blind = named["without SegNet: intensity loss, images alone as input"]
    assert (blind.weights.shape, blind.weights.composed, blind.weights.closing) == (0.0, 0.0, 0.0)
    assert drawn(blind).frames[0].shape == (3, 1, 48, 48)
    assert named["displacement (`integration_steps = 0`)"].sizes == replace(BASELINE.sizes, integration_steps=0)
    hard, soft = (drawn(replace(BASELINE, references=references)).segmentations[0] for references in (True, False))
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert 0.1 < float(soft.max(1).values.min()) < 0.9
    assert torch.allclose(soft.sum(1), torch.ones(3, 48, 48), atol=1e-5)


def test_without_the_rvae_the_latent_says_nothing() -> None:
    model = start(replace(BASELINE, latent=False), 1)
    frames = [torch.rand(3, 4, 48, 48) for _ in range(2)]
    motions = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        step = next(iterate_cycle(model, frames, sweep.Stacks((3,)), generator)).output
        motions.append(step.motion.mean)
    assert torch.equal(*motions)


def test_intensities_are_compared_after_the_warp() -> None:
    cycle = drawn(BASELINE)
    zero_motion = torch.zeros(1, 3, 3, 48, 48)
    expected = 2.0 * float((cycle.frames[0][:, 0] - cycle.frames[1][:, 0]).square().mean())
    assert float(intensity_term(3.0)(cycle, 1, zero_motion, zero_motion)) == pytest.approx(3.0 * expected, rel=1e-4)


def test_a_sweep_trains_what_is_missing_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = (BASELINE, replace(VARIANTS[3], name="both"))
    monkeypatch.setattr(sweep, "VARIANTS", chosen)
    monkeypatch.setattr(sweep, "load_subjects", lambda *_, **__: ([heart("one"), heart("two")], [heart("three")]))
    first = sweep.sweep(tmp_path, tmp_path, seeds=[1], budget=FEW)
    assert [line["variant"] for line in first.lines] == ["baseline", "both"]
    figures = first.lines[0]["subjects"]["three"]
    assert (
        figures["dice_lv_no_motion_pct"]
        == evaluate_subject(start(BASELINE, 1).eval(), heart("three"), BASELINE.sizes)["dice_lv_no_motion_pct"]
    )
    assert 50 < figures["dice_lv_no_motion_pct"] < 90
    monkeypatch.setattr(sweep, "load_subjects", None)
    again = sweep.sweep(tmp_path, tmp_path, seeds=[1], budget=FEW)
    assert again.lines == first.lines
    assert len((tmp_path / "sweep.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "state.safetensors").exists()


def line(variant: str, seed: int, *, dice: float, folds: float = 0.0) -> dict:
    """Return a line of the file of trainings: three subjects whose Dice differ by two percentage points."""
    subjects = {}
    for number in range(3):
        value = dice + 2.0 * number
        subject = {"dice_ed2es_pct": value, "folded_voxels": folds, "not_found_ed2es": 0.0}
        for s in ("lv", "myo", "rv"):
            names = f"dice_{s}_ed2es_pct", f"dice_{s}_no_motion_pct", f"hd95_{s}_ed2es_mm"
            subject |= dict(zip(names, (value, 50.0 + number, 3.0), strict=True))
        subjects[f"990000{number}"] = subject
    common = {"budget": asdict(FEW), "intensity_weight": 20.0, "cpu_seconds": 60.0}
    return {"variant": variant, "seed": seed, "subjects": subjects, **common}


LINES = [
    line("baseline", 1, dice=80.0),
    line("baseline", 2, dice=82.0),
    line("ρ = 0.3", 1, dice=78.0, folds=7.0),
    line("ρ = 0.01", 1, dice=79.5),
]


def test_a_variant_is_compared_over_the_seeds_that_both_have() -> None:
    assert over_seeds(LINES, "baseline", [1, 2])["9900000"]["dice_ed2es_pct"] == 81.0
    assert gain(LINES, "ρ = 0.3") == "\N{MINUS SIGN}2.0 (\N{MINUS SIGN}2.0 to \N{MINUS SIGN}2.0)"
    assert gain(LINES, "baseline") == ""


def test_the_page_holds_every_variant_and_the_plot_is_a_picture_of_its_own() -> None:
    text = section(LINES)
    assert "| baseline | 2 | 83.0 ± 2.0 |" in text
    assert text.index("| ρ = 0.01 |") < text.index("| ρ = 0.05 |") < text.index("| ρ = 0.3 |")
    assert "| 7, 7 |" in text
    assert "80.0 ± 2.0" in text
    assert "82.0 % and 84.0 %" in " ".join(text.split())
    assert "Not trained yet" not in text
    assert section(LINES, ["ρ = 1"]).endswith("Not trained yet: ρ = 1.")
    root = ElementTree.fromstring(picture(LINES))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(root.findall(".//{*}circle")) == 2 * 3 * 3


def test_a_section_is_replaced_between_its_marks_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- sweep: begin -->\nold\n<!-- sweep: end -->\nafter\n")
    replace_section(page, "sweep", "new\n")
    assert page.read_text() == "before\n<!-- sweep: begin -->\nnew\n<!-- sweep: end -->\nafter\n"
    with pytest.raises(SystemExit, match="accuracy"):
        replace_section(page, "accuracy", "new")


def test_refinement_costs_what_it_takes_beyond_none() -> None:
    none, some = (Outcome(n, ("80.0 ± 1.0",) * 6, 0, seconds) for n, seconds in ((0, 10.0), (10, 16.0)))
    assert lines([none, some]) == [
        ["0", *["80.0 ± 1.0"] * 6, "0", "", ""],
        ["10", *["80.0 ± 1.0"] * 6, "0", "3.0", "2.5 min"],
    ]


def test_sweep_log_is_lines_of_json(tmp_path: Path) -> None:
    sweep_log = sweep.SweepLog.open(tmp_path / "sweep.jsonl")
    sweep_log.add(LINES[0])
    assert json.loads((tmp_path / "sweep.jsonl").read_text()) == LINES[0]
    assert sweep.SweepLog.open(tmp_path / "sweep.jsonl").has(BASELINE, 1, FEW)
    assert not sweep.SweepLog.open(tmp_path / "sweep.jsonl").has(BASELINE, 2, FEW)
