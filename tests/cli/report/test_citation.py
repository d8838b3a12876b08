"""The text to cite: every sentence depends on the settings that were in use."""

import json
from dataclasses import fields, replace

import pytest

from cmnet_cli.derivatives.tracking import TrackingFacts
from cmnet_cli.report.subject.citation import method_sentences, text_to_cite
from cmnet_cli.runs.provenance import FileRecord, read_sidecar, write_sidecar
from cmnet_core.imaging.preprocess import Window
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.models.shape_motion_net import ShapeMotionSizes
from cmnet_core.types import Spacing
from tests.report_runs import IDS, frame_rows, index_row, make_run, write_subject

SPACING = Spacing(z=9.0, y=1.5, x=1.5)

SHIPPED = TrackingFacts(
    20, 45.0, 0, 7, 0.1, (0,) * 20, Window((10, 128, 128), SPACING, SPACING, (0.0, 0.0), (128, 128)),
    ShapeMotionSizes(), (),
)  # fmt: skip
ARTICLE = replace(SHIPPED, motion=MotionSizes())

# Settings of both motion networks, another value of each, and words of the sentence before and after.
SETTINGS = {
    "iterations": (SHIPPED, 3, "in 2 cascade iterations", "in 3 cascade iterations"),
    "harmonics": (SHIPPED, 5, "projected to 4 harmonics", "projected to 5 harmonics"),
    "integration_steps of the shipped network": (SHIPPED, 5, "with 6 squarings", "with 5 squarings"),
    "integration_steps": (ARTICLE, 5, "a displacement field", "a stationary velocity field"),
    "output_level": (ARTICLE, 1, "the full in-plane resolution", "half the in-plane resolution"),
}

# Widths of layers, which no sentence names.
WIDTHS = {"features", "latent", "hidden", "decoder", "deform", "rank", "kind"}
SHAPE_WIDTHS = {"fine", "middle", "coarse", "blocks", "stack", "rank", "kind"}


def assert_named(before, after, old, new):
    before, after = " ".join(before), " ".join(after)
    assert before != after
    for words, present, absent in ((old, before, after), (new, after, before)):
        assert not words or (words in present and words not in absent)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_the_motion_network_changes_the_sentence_that_names_it(name):
    facts, value, old, new = SETTINGS[name]
    changed = replace(facts, motion=replace(facts.motion, **{name.split()[0]: value}))
    assert_named(method_sentences(facts), method_sentences(changed), old, new)


def test_every_setting_of_the_motion_networks_is_named_or_a_width():
    named = {facts.motion.__class__: set() for facts, *_ in SETTINGS.values()}
    for name, (facts, *_) in SETTINGS.items():
        named[facts.motion.__class__].add(name.split()[0])
    for sizes, widths in ((MotionSizes, WIDTHS), (ShapeMotionSizes, SHAPE_WIDTHS)):
        assert {field.name for field in fields(sizes)} == named[sizes] | widths


def test_composition_is_stated_only_where_frames_are_tracked_one_after_the_other():
    assert any("composed" in sentence for sentence in method_sentences(ARTICLE))
    assert not any("composed" in sentence for sentence in method_sentences(SHIPPED))


def test_a_displacement_network_has_no_velocity_field():
    sentences = method_sentences(ARTICLE)
    assert any("represented by a displacement field" in sentence for sentence in sentences)
    assert not any("velocity" in sentence for sentence in sentences)


@pytest.fixture
def run(tmp_path):
    folder = make_run(tmp_path / "run", ids=IDS[:2], failed=())
    record = {
        "cmnet_version": "0.1.0",
        "commands": {
            "infer": {"model_digest": "decaf", "settings": {"model": "default"}},
            "indices": {"settings": {"samples": 20}},
        },
    }
    folder.record.write_text(json.dumps(record))
    return folder


@pytest.fixture
def row(run):
    labels = write_subject(run, IDS[0])
    return index_row(IDS[0], list(frame_rows(IDS[0], labels)))


def test_the_weights_are_named_where_the_run_records_those_of_the_subject(run, row):
    assert "with cmnet 0.1.0 and the network weights 'default' (SHA-256 decaf…)" in text_to_cite(run, row)
    record = json.loads(run.record.read_text())
    record["commands"]["infer"]["model_digest"] = "c0ffee"
    run.record.write_text(json.dumps(record))
    text = text_to_cite(run, row)
    assert "and network weights with the digest SHA-256 decaf…" in text
    assert "default" not in text


def test_intervals_are_cited_only_where_the_subject_has_them(run, row):
    assert "samples of the posterior" not in text_to_cite(run, row)
    with_interval = row | {"lvef_pct_lo": 50.0, "lvef_pct_hi": 60.0}
    assert "the spread of 20 samples of the posterior" in text_to_cite(run, with_interval)
    assert "split conformal prediction" in text_to_cite(run, with_interval)
    uncalibrated = with_interval | {"qc_flags": ["intervals-not-calibrated"]}
    assert "without calibration" in text_to_cite(run, uncalibrated)


def test_strain_is_cited_only_where_the_subject_has_it(run, row):
    assert "because the motion of all frames was not stored" in text_to_cite(run, row)
    assert "Engineering strain" in text_to_cite(run, row | {"gcs_line_midwall_peak_pct": -20.0})
    path = run.case(IDS[0]).sidecar("infer")
    stored = FileRecord(f"{IDS[0]}_motion.npz", 1, 0, "")
    write_sidecar(path, replace(read_sidecar(path), outputs=(stored,)))
    assert "strain" not in text_to_cite(run, row).lower()


def test_a_subject_without_a_sidecar_has_no_settings(run):
    labels = write_subject(run, IDS[1])
    text = text_to_cite(run, index_row(IDS[1], list(frame_rows(IDS[1], labels))))
    assert "their settings are not known" in text
    assert "SHA-256" not in text
