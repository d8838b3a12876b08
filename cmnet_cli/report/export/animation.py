"""The animated cine as a file: GIF, or MP4 where ffmpeg is installed."""

import importlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from cmnet_cli.report.data.slice_geometry import contours
from cmnet_cli.report.data.slice_views import SliceView
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import replacing
from cmnet_core.labels import Label

_COLOURS = {Label.LV: "#ff6a2b", Label.MYO: "#f5dd4b", Label.RV: "#56b9f2"}

# Voxels are enlarged by the first factor; lines are drawn at the product of both factors and downsampled, which makes
# them smooth. The third number is the gap between slices in pixels.
_ENLARGED, _SUPERSAMPLING, _GAP = 3, 2, 4

# Browsers slow a GIF down whose frames are shorter than this.
_SHORTEST_MS = 20
_CYCLES = 4


def write_animation(views: Sequence[SliceView], *, frame_ms: float | None, out: Path) -> None:
    """Write three slices side by side, with the contours propagated from ED by the motion.

    Args:
        views: The slices.
        frame_ms: Time between two frames in ms; where it is not known, a cycle takes one second.
        out: Path that ends in ``.gif`` or ``.mp4``.

    Raises:
        ManifestError: ffmpeg is not installed or failed.
    """
    step_ms = frame_ms or 1000.0 / len(views[0].grey)
    frames = list(_frames(views))
    with replacing(out) as partial:
        if out.suffix == ".gif":
            _write_gif(frames, step_ms, partial)
        else:
            _write_mp4(frames, step_ms, partial)


def _frames(views: Sequence[SliceView]) -> Iterator[Image.Image]:
    for frame in range(len(views[0].grey)):
        panels = [_panel(view, frame) for view in views]
        width, height = panels[0].size
        sheet = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, height), "black")
        for number, panel in enumerate(panels):
            sheet.paste(panel, (number * (width + _GAP), 0))
        # Video codecs need even numbers of rows and columns.
        yield sheet.crop((0, 0, sheet.width // 2 * 2, sheet.height // 2 * 2))


def _panel(view: SliceView, frame: int) -> Image.Image:
    height, width = view.grey.shape[1:]
    factor = _ENLARGED * _SUPERSAMPLING
    fine = Image.fromarray(np.ascontiguousarray(view.grey[frame])).convert("RGB")
    fine = fine.resize((factor * width, factor * height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(fine)
    for outline in contours(view.propagated[frame]):
        for line in outline.lines:
            points = [(float(x), float(y)) for x, y in (line + 0.5) * factor]
            pen.line(points, fill=_COLOURS[outline.structure], width=2 * _SUPERSAMPLING, joint="curve")
    return fine.resize((_ENLARGED * width, _ENLARGED * height), Image.Resampling.LANCZOS)


def _write_gif(frames: Sequence[Image.Image], step_ms: float, out: Path) -> None:
    palette = _palette()
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    duration = max(_SHORTEST_MS, round(step_ms / 10) * 10)
    first.save(out, format="GIF", save_all=True, append_images=others, duration=duration, loop=0, optimize=False)


def _palette() -> Image.Image:
    """Return greys and the line colours on dark and light background: one palette for all frames avoids flicker."""
    greys = [(level, level, level) for level in range(0, 256, 2)]
    lines = [ImageColor.getrgb(colour)[:3] for colour in _COLOURS.values()]
    mixed = [
        tuple(round(opacity * channel + (1 - opacity) * background) for channel in line)
        for line in lines
        for opacity in (0.25, 0.5, 0.75, 1.0)
        for background in (0, 80, 160, 240)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for colour in (*greys, *mixed) for channel in colour])
    return palette


def _write_mp4(frames: Sequence[Image.Image], step_ms: float, out: Path) -> None:
    width, height = frames[0].size
    source = (
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        f"{1000 / step_ms:.3f}",
        "-i",
        "-",
    )
    target = ("-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", "-y")
    video = b"".join(frame.tobytes() for frame in frames) * _CYCLES
    try:
        subprocess.run([find_ffmpeg(), *source, *target, str(out)], input=video, check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ManifestError(
            f"ffmpeg could not write the animation: {error}.", hint="Use --animation gif.", code=ErrorCode.TOOL
        ) from error


def find_ffmpeg() -> str:
    """Return the path of ffmpeg: the system's own, or that of the Python package imageio-ffmpeg.

    Raises:
        ManifestError: ffmpeg is not installed.
    """
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        packaged = importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ManifestError(
            "An MP4 animation needs ffmpeg, which is not installed.",
            hint="Install ffmpeg, or pip install 'cmnet[video]', or use --animation gif.",
            code=ErrorCode.TOOL,
        ) from error
    return str(packaged.get_ffmpeg_exe())
