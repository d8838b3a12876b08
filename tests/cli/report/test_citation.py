"""The text to cite: every sentence depends on the settings that were in use."""

import json
from dataclasses import fields, replace

import pytest

from cmnet_cli.derivatives.tracking import TrackingFacts
from cmnet_cli.report.subject.citation import method_sentences, text_to_cite
from cmnet_cli.runs.provenance import FileRecord, read_sidecar, write_sidecar
from cmnet_core.imaging.preprocess import Window
from cmnet_core.models.build import DEFAULT_MOTION, MotionSizes
from cmnet_core.types import Spacing
from tests.report_runs import IDS, frame_rows, index_row, make_run, write_subject

SPACING = Spacing(z=9.0, y=1.5, x=1.5)

SHIPPED = TrackingFacts(
    20, 45.0, 0, 7, 0.1, (0,) * 20, Window((10, 128, 128), SPACING, SPACING, (0.0, 0.0), (128, 128)), DEFAULT_MOTION, 3,
    0, False, (),
)  # fmt: skip

# Settings of the motion network, another value of each, and words of the sentence before and after.
SIZES = {
    "ed_referenced": (False, "between end-diastole and every other frame", "between consecutive frames"),
    "fit": (False, "replaced by a variational fit", ""),
    "cascade_iterations": (3, "in 2 cascade iterations", "in 3 cascade iterations"),
    "use_segmentation": (False, "from the images and the segmentation probabilities", "from the images of both"),
    "rotation": (False, "rotation of each slice", ""),
    "integration_steps": (5, "with 7 squarings", "with 5 squarings"),
    "output_level": (0, "half the in-plane resolution", "the full in-plane resolution"),
    "correlation_radius": (0, "cost volume of learnt features of radius 3 voxels", ""),
}

# Widths of layers, which no sentence names.
WIDTHS = {"features", "latent", "hidden", "decoder", "deform", "rank"}

# What infer records beside the sizes of the motion network.
FACTS = {
    "segnet_members": (1, "an ensemble of 3 convolutional networks", "by a convolutional network."),
    "refinement_iterations": (12, "", "refined by 12 iterations"),
    "cycle_closed": (True, "", "Drift around the cardiac cycle"),
}


def assert_named(before, after, old, new):
    before, after = " ".join(before), " ".join(after)
    assert before != after
    for words, present, absent in ((old, before, after), (new, after, before)):
        assert not words or (words in present and words not in absent)


@pytest.mark.parametrize("name", SIZES)
def test_a_setting_of_the_motion_network_changes_the_sentence_that_names_it(name):
    value, old, new = SIZES[name]
    changed = replace(SHIPPED, motion=replace(DEFAULT_MOTION, **{name: value}))
    assert_named(method_sentences(SHIPPED), method_sentences(changed), old, new)


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_of_the_subject_changes_the_sentence_that_names_it(name):
    value, old, new = FACTS[name]
    assert_named(method_sentences(SHIPPED), method_sentences(replace(SHIPPED, **{name: value})), old, new)


def test_every_setting_of_the_motion_network_is_named_or_a_width():
    assert {field.name for field in fields(MotionSizes)} == SIZES.keys() | WIDTHS


def test_composition_is_stated_only_where_frames_are_tracked_one_after_the_other():
    composed = method_sentences(replace(SHIPPED, motion=replace(DEFAULT_MOTION, ed_referenced=False)))
    assert any("composed" in sentence for sentence in composed)
    assert not any("composed" in sentence for sentence in method_sentences(SHIPPED))


def test_a_displacement_network_has_no_velocity_field():
    sentences = method_sentences(replace(SHIPPED, motion=replace(DEFAULT_MOTION, integration_steps=0, fit=False)))
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
    assert "scaled by calibration factors" in text_to_cite(run, with_interval)
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
