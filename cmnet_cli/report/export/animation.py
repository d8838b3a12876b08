"""The beating heart as a file that plays anywhere: GIF, or MP4 where ffmpeg is at hand."""

import importlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from cmnet_cli.report.data.slice_views import Sight
from cmnet_cli.report.plot import overlay
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import replacing
from cmnet_core.labels import Label

_COLOURS = {Label.LV: "#ff6a2b", Label.MYO: "#f5dd4b", Label.RV: "#56b9f2"}

# Voxels are enlarged this much; lines are drawn finer still and then brought down, which makes them smooth.
_ENLARGED, _FINER, _GAP = 3, 2, 4

# Browsers play a GIF slowly whose frames are shorter.
_SHORTEST_MS = 20
_CYCLES = 4


def write_animation(sights: Sequence[Sight], *, frame_ms: float | None, out: Path) -> None:
    """Write three slices side by side, with the contours that the motion carries.

    Args:
        sights: The slices.
        frame_ms: Time between two frames; where nobody knows, a cycle takes a second.
        out: Ends in ``.gif`` or ``.mp4``.

    Raises:
        ManifestError: There is no ffmpeg, or it failed.
    """
    step_ms = frame_ms or 1000.0 / len(sights[0].grey)
    frames = list(_frames(sights))
    with replacing(out) as partial:
        if out.suffix == ".gif":
            _write_gif(frames, step_ms, partial)
        else:
            _write_mp4(frames, step_ms, partial)


def _frames(sights: Sequence[Sight]) -> Iterator[Image.Image]:
    for frame in range(len(sights[0].grey)):
        panels = [_panel(sight, frame) for sight in sights]
        width, height = panels[0].size
        sheet = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, height), "black")
        for place, panel in enumerate(panels):
            sheet.paste(panel, (place * (width + _GAP), 0))
        # Films need even numbers of rows and columns.
        yield sheet.crop((0, 0, sheet.width // 2 * 2, sheet.height // 2 * 2))


def _panel(sight: Sight, frame: int) -> Image.Image:
    height, width = sight.grey.shape[1:]
    factor = _ENLARGED * _FINER
    fine = Image.fromarray(np.ascontiguousarray(sight.grey[frame])).convert("RGB")
    fine = fine.resize((factor * width, factor * height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(fine)
    for outline in overlay.contours(sight.carried[frame]):
        for line in outline.lines:
            points = [(float(x), float(y)) for x, y in (line + 0.5) * factor]
            pen.line(points, fill=_COLOURS[outline.structure], width=2 * _FINER, joint="curve")
    return fine.resize((_ENLARGED * width, _ENLARGED * height), Image.Resampling.LANCZOS)


def _write_gif(frames: Sequence[Image.Image], step_ms: float, out: Path) -> None:
    palette = _palette()
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    duration = max(_SHORTEST_MS, round(step_ms / 10) * 10)
    first.save(out, format="GIF", save_all=True, append_images=others, duration=duration, loop=0, optimize=False)


def _palette() -> Image.Image:
    """Greys, and the colours of the lines on dark and light ground: the same in all frames, or they would flicker."""
    greys = [(level, level, level) for level in range(0, 256, 2)]
    lines = [ImageColor.getrgb(colour)[:3] for colour in _COLOURS.values()]
    mixed = [
        tuple(round(share * part + (1 - share) * ground) for part in line)
        for line in lines
        for share in (0.25, 0.5, 0.75, 1.0)
        for ground in (0, 80, 160, 240)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in (*greys, *mixed) for part in colour])
    return palette


def _write_mp4(frames: Sequence[Image.Image], step_ms: float, out: Path) -> None:
    width, height = frames[0].size
    taken = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{1000 / step_ms:.3f}", "-i", "-")
    given = ("-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", "-y")
    film = b"".join(frame.tobytes() for frame in frames) * _CYCLES
    try:
        subprocess.run([find_ffmpeg(), *taken, *given, str(out)], input=film, check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ManifestError(
            f"ffmpeg could not write the animation: {error}.", hint="Ask for --animation gif.", code=ErrorCode.TOOL
        ) from error


def find_ffmpeg() -> str:
    """The program: the system's own, or that of the Python package imageio-ffmpeg.

    Raises:
        ManifestError: There is none.
    """
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        packaged = importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ManifestError(
            "An MP4 animation needs ffmpeg, which is not installed.",
            hint="Install ffmpeg, or pip install 'cmnet[video]', or ask for --animation gif.",
            code=ErrorCode.TOOL,
        ) from error
    return str(packaged.get_ffmpeg_exe())
