"""Files exported beside the pages: figures, and the animated cine."""

import re
from xml.etree import ElementTree

import imageio_ffmpeg
import pytest
from PIL import Image

from cmnet_cli.report.export.file_formats import AnimationFormat, FigureFormat
from cmnet_cli.report.export.formats import Formats
from cmnet_cli.report.write import Request, write_report
from tests.cli.commanding import cmnet
from tests.report_runs import IDS, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("formats") / "run", ids=IDS[:1], failed=())
    formats = Formats(FigureFormat.SVG, AnimationFormat.GIF)
    write_report(folder.root, Request(formats=formats))
    return folder


def test_each_figure_is_a_self_contained_file(run):
    figures = {path.stem.removeprefix(f"{IDS[0]}_"): path for path in (run.report.parent / "figures").iterdir()}
    expected = {
        "volumes",
        "circumferential-strain",
        "radial-strain",
        "twist",
        "strain-basal",
        "ecc",
        "err",
        "time-to-peak",
        "thickness",
        "uncertainty",
    }
    assert expected | {"basal-ed", "mid-es", "apical-es-by-motion"} <= set(figures)
    volumes = figures["volumes"].read_text(encoding="utf-8")
    assert all(f">{words}<" in volumes for words in ("Volumes over the cycle", "left ventricle, propagated from ED"))
    for path in figures.values():
        text = path.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.get("width")) >= 180
        used, defined = (set(re.findall(pattern, text)) for pattern in (r"var\((--[a-z-]+)\)", r"(--[a-z-]+):"))
        assert used <= defined


def test_the_animation_has_every_frame_and_the_frame_duration(run):
    with Image.open(run.report_page(IDS[0]).with_suffix(".gif")) as film:
        assert (film.n_frames, film.info["duration"], film.info["loop"]) == (6, 150, 0)
        colours = film.convert("RGB").getcolors(100_000)
    assert any(red > 200 and blue < 100 for _, (red, _, blue) in colours)


def test_a_video_has_four_cycles(tmp_path):
    folder = make_run(tmp_path, ids=IDS[:1], failed=())
    write_report(folder.root, Request(formats=Formats(animation=AnimationFormat.MP4)))
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(folder.report_page(IDS[0]).with_suffix(".mp4")))
    assert frames == 4 * 6
    assert seconds == pytest.approx(4 * 0.9, abs=0.2)


def test_a_format_whose_program_is_missing_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    folder = make_run(tmp_path, ids=IDS[:1], failed=())
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = cmnet("report", "--run", tmp_path, "--pdf")
    assert ran.exit_code == 3
    assert "none of chromium" in " ".join(ran.output.split())
    assert not folder.report.exists()
