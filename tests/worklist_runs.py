"""Run folders for tests of the worklist: tables of twenty subjects that differ little, and some with reasons."""

import numpy as np

from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.verdicts import COLUMNS
from cmnet_cli.tables.schema import write_table
from tests.report_runs import ids_of

IDS = tuple(f"sub-99{number:05d}" for number in range(1, 21))
SHARED = ("spacing-from-zooms", "no-heart-rate", "interval-uninformative")


def usual_rows():
    """Twenty subjects that differ little, each with the flags of its data set."""
    generator = np.random.default_rng(5)
    for number, case_id in enumerate(IDS):
        edv, ef, mass, pair = 150 + 20 * generator.normal(), 60 + 3 * generator.normal(), *generator.normal(size=2)
        row = {"lvedv_ml": edv, "lvef_pct": ef, "lvm_g": 0.7 * edv * np.exp(0.05 * mass), "rvedv_ml": 1.1 * edv}
        row |= {
            "sv_difference_pct": 4 * pair,
            "lvef_pct_lo": ef - 4,
            "lvef_pct_hi": ef + 4,
            "ed_frame": 0,
            "es_frame": 1,
        }
        row |= {"gcs_line_midwall_peak_pct": -0.3 * ef, "group": "ab"[number % 2], "qc_flags": list(SHARED)}
        yield {**ids_of(case_id), **row}


def write_rows(root, rows, *, esv_by_motion=None):
    """A run whose tables hold these subjects; at ES both networks agree but in the given subjects."""
    folder = RunFolder(root)
    write_table(folder.table("indices"), "indices", rows)
    frames = []
    for number, row in enumerate(rows):
        esv = 60.0 + 0.1 * number
        moved = (esv_by_motion or {}).get(row["case_id"], esv + 0.5 * (number % 3))
        volumes = {"lv_ml": esv, "lv_propagated_ml": moved, "rv_ml": esv, "rv_propagated_ml": esv}
        frames += [{**ids_of(row["case_id"]), "frame": frame, **volumes} for frame in (0, 1)]
    write_table(folder.table("frames"), "frames", frames)
    return folder


def changed(**by_id):
    """The usual subjects, of which some have other values or further flags."""
    rows = list(usual_rows())
    for row in rows:
        own = dict(by_id.get(f"s{int(row['subject_id']) - 9900000}", {}))
        row["qc_flags"] = [*row["qc_flags"], *own.pop("flags", ())]
        row |= own
    return rows


def write_typical(root):
    """A subject for every kind of reason."""
    rows = changed(
        s4={"flags": ["lv-gap-in-stack"]},
        s7={"flags": ["base-not-covered"]},
        s9={"lvef_pct_lo": 40.0, "lvef_pct_hi": 72.0},
        s12={"sv_difference_pct": -45.0},
    )
    return write_rows(root, rows, esv_by_motion={IDS[14]: 110.0})


def write_verdicts(folder, *lines):
    """The table of verdicts of a run."""
    folder.verdicts.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n", encoding="utf-8")
