"""Which of a patient's images make up the short-axis cine: one stack of slices, each with one recording.

What the series is called decides first, then how its planes lie in the body, then how many slices are cines. The long
axes, the aorta, localisers, tagged and mapped images of the same visit are left aside.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.flags import QCFlag
from cmnet_core.io.dicom_file import DAMAGE, Member, base_name, series_names
from cmnet_core.io.dicom_image import ImageHeader, read_headers

_SHORT_AXIS = re.compile(r"sax|short.?axis|(?<![a-z])(sa|kurz\w*achse)(?![a-z])", re.IGNORECASE)
_SOMETHING_ELSE = re.compile(
    r"(?<![a-z])(lax|[234][ _-]?(ch(a?mbe?r)?|kammer)|hla|vla|ao|pc|sag|cor|tra|axial)(?![a-z])"
    r"|(?<![a-z])(map|t1\w*|t2\w*|lge|psir|haste)(?![a-z])"
    r"|long.?axis|lvot|rvot|aort|locali[sz]er|scout|survey|flow|venc|tagg?(ing)?(?![a-z])|molli|delayed|perfusion"
    r"|inlinevf|transvers|fitparam",
    re.IGNORECASE,
)
_PHASE_IMAGES = frozenset({"P", "PHASE", "PHASE MAP", "VELOCITY", "VELOCITY MAP"})

_PARALLEL_COSINE = 0.999  # 2.6 degrees
_APEX_FROM_BASE_LPS = np.array([1.0, -1.0, -1.0]) / np.sqrt(3.0)
# Short axes lie within 30 degrees of this diagonal; planes along an axis of the body are 55 degrees away from it.
_SHORT_AXIS_COSINE = 0.7
_SAME_SLICE_MM = 0.5
_SAME_SLICE_SHARE = 0.4  # of the thickness: a slice recorded again after a breath lies this close
_COMPLETE = 0.9
_REPEATED_IN_SERIES = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One slice, recorded once.

    Attributes:
        images: In the order of the cycle.
        place_mm: Where it lies along the way from base to apex.
    """

    images: tuple[ImageHeader, ...]
    place_mm: float

    @property
    def key(self) -> tuple[int, str, str, int]:
        """What sorts the recordings of a visit by time."""
        first = self.images[0]
        return (first.series[0], first.acquired, first.series[1], first.instance)


def find_stack(members: Sequence[Member]) -> tuple[list[Recording], set[QCFlag]]:
    """Find the short-axis cine among the files of a visit.

    Returns:
        Its slices from base to apex, and quality flags.

    Raises:
        ImageError: There is none.
    """
    images, flags = _headers(members)
    stack = _short_axis(images)
    recordings, repeats = _recordings(stack)
    usual = _usual_count(recordings)
    kept, superseded = _last_complete(recordings, usual)
    whole = [recording for recording in kept if 2 * len(recording.images) > usual]
    if len(whole) < len(kept):
        flags.add(QCFlag.SLICES_DROPPED)  # localisers parallel to the stack, recordings broken off
    if abs(float(stack[0].normal @ _APEX_FROM_BASE_LPS)) < _SHORT_AXIS_COSINE:
        flags.add(QCFlag.ORIENTATION_UNUSUAL)
    return sorted(whole, key=lambda recording: recording.place_mm), flags | repeats | superseded


def towards_apex(image: ImageHeader) -> NDArray[np.float64]:
    """Unit vector across the slices. The heart's apex lies to the left, front and feet of its base."""
    return image.normal if float(image.normal @ _APEX_FROM_BASE_LPS) >= 0 else -image.normal


def timed(images: Sequence[ImageHeader]) -> bool:
    """Whether the trigger times tell the phases of one slice apart."""
    times = {image.trigger_ms for image in images}
    return None not in times and (len(times) > 1 or len(images) == 1)


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _headers(members: Sequence[Member]) -> tuple[list[ImageHeader], set[QCFlag]]:
    images: list[ImageHeader] = []
    flags = set()
    names = series_names(members)
    for member in members:
        try:
            images += [_named(header, names) for header in read_headers(member)]
        except DAMAGE:
            flags.add(QCFlag.FILES_UNREADABLE)
    images = [image for image in images if not _PHASE_IMAGES.intersection(image.image_type)]
    if not images:
        raise ImageError(
            f"Expected DICOM images with a position in the patient, found none among {len(members)} files.",
            hint="Give the short-axis cine as DICOMs that hold one, or convert it to NIfTI with dcm2niix.",
            code=ErrorCode.DICOM,
        )
    once = {(image.uid, image.frame, image.trigger_ms, image.instance, *image.position): image for image in images}
    return list(once.values()), flags | ({QCFlag.DUPLICATE_IMAGES} if len(once) < len(images) else set())


def _named(image: ImageHeader, names: Mapping[str, str]) -> ImageHeader:
    return image if image.description else replace(image, description=names.get(base_name(image.member), ""))


def _short_axis(images: Sequence[ImageHeader]) -> list[ImageHeader]:
    """The images of the stack that is a short-axis cine most likely."""
    candidates = [image for image in images if not _SOMETHING_ELSE.search(image.description)]
    if not candidates:
        names = sorted({image.description for image in images})
        raise ImageError(
            f"Expected a short-axis cine, found only series with other names: {', '.join(names[:5])[:200]}.",
            hint="Give the folder or zip with the short-axis series; if it has such a name, convert it to NIfTI.",
            code=ErrorCode.DICOM,
        )
    stack = max(_parallel(candidates), key=_likeness)
    named = [image for image in stack if _SHORT_AXIS.search(image.description)]
    return named if _cine_slices(named) else stack


def _likeness(images: Sequence[ImageHeader]) -> tuple[bool, bool, int, int]:
    cines = _cine_slices(images)
    named = any(_SHORT_AXIS.search(image.description) for image in images)
    oblique = abs(float(images[0].normal @ _APEX_FROM_BASE_LPS)) >= _SHORT_AXIS_COSINE
    return named and cines > 0, oblique and cines > 0, cines, len(images)


def _cine_slices(images: Sequence[ImageHeader]) -> int:
    """Number of places at which there is more than one image."""
    places = Counter(round(float(image.position @ image.normal) / _SAME_SLICE_MM) for image in images)
    return sum(count > 1 for count in places.values())


def _parallel(images: Sequence[ImageHeader]) -> list[list[ImageHeader]]:
    groups: list[list[ImageHeader]] = []
    for image in images:
        group = next((g for g in groups if _same_directions(g[0], image)), None)
        if group is None:
            groups.append([image])
        else:
            group.append(image)
    return groups


def _same_directions(a: ImageHeader, b: ImageHeader) -> bool:
    return bool(((a.orientation * b.orientation).sum(axis=1) > _PARALLEL_COSINE).all())


# ── recordings ───────────────────────────────────────────────────────────────────────────────────────────────────


def _recordings(stack: Sequence[ImageHeader]) -> tuple[list[Recording], set[QCFlag]]:
    """Each slice of each series, in the order of its cycle; a slice that a series holds twice gives two."""
    across = towards_apex(stack[0])
    slices = _by_place(stack, across)
    usual = Counter(len(images) for images in slices).most_common(1)[0][0]
    found, flags = [], set()
    for images in slices:
        for tried in _tries(images, usual):
            phases = _each_phase_once(tried)
            if len(phases) < len(tried):
                flags.add(QCFlag.DUPLICATE_IMAGES)
            found.append(Recording(tuple(phases), float(np.mean([image.position @ across for image in phases]))))
    return found, flags


def _by_place(stack: Sequence[ImageHeader], across: NDArray[np.float64]) -> list[list[ImageHeader]]:
    """The images of each slice of each series."""
    series = defaultdict(list)
    for image in stack:
        series[image.series].append((float(image.position @ across), image))
    slices = []
    for placed in series.values():
        places = sorted(placed, key=lambda pair: pair[0])
        slices.append([places[0][1]])
        for (before, _), (place, image) in pairwise(places):
            if place - before > _SAME_SLICE_MM:
                slices.append([])
            slices[-1].append(image)
    return slices


def _tries(images: Sequence[ImageHeader], usual: int) -> list[list[ImageHeader]]:
    """Split what one series recorded at one place where the cycle begins anew, if it holds more than one cycle."""
    count = min(images[0].phases or usual, usual)
    ordered = sorted(images, key=lambda image: image.instance)
    if not timed(images) or len(images) < _REPEATED_IN_SERIES * count:
        return [ordered]
    runs = [[ordered[0]]]
    for before, image in pairwise(ordered):
        if (image.trigger_ms or 0.0) < (before.trigger_ms or 0.0):
            runs.append([])
        runs[-1].append(image)
    whole = _COMPLETE * count <= max(len(run) for run in runs) * 1.0 <= count / _COMPLETE
    return runs if whole and min(len(run) for run in runs) > 1 else [ordered]


def _each_phase_once(images: Sequence[ImageHeader]) -> list[ImageHeader]:
    """Sort by time; of images that no time and no number tells apart the last is kept."""
    if timed(images):
        if len(images) == images[0].phases:
            return sorted(images, key=lambda image: (image.trigger_ms or 0.0, image.instance))
        return _last_of_each(images, lambda image: image.trigger_ms or 0.0)
    if len({image.phase for image in images}) == len(images) and None not in {image.phase for image in images}:
        return _last_of_each(images, lambda image: float(image.phase or 0))
    return _last_of_each(images, lambda image: float(image.instance))


def _last_of_each(images: Sequence[ImageHeader], when: Callable[[ImageHeader], float]) -> list[ImageHeader]:
    phases = {when(image): image for image in sorted(images, key=lambda image: image.instance)}
    return [phases[time] for time in sorted(phases)]


def _usual_count(recordings: Sequence[Recording]) -> int:
    counts = Counter(len(recording.images) for recording in recordings if len(recording.images) > 1)
    if not counts:
        raise ImageError(
            f"Expected a cine, found {len(recordings)} slice(s) with a single phase each.",
            hint="Give the short-axis cine series, with all its phases.",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )
    # A cine has many slices and many phases; neither viability nor perfusion has both.
    return max(counts, key=lambda n: (counts[n] ** 2 * n, n))


def _last_complete(recordings: Sequence[Recording], usual: int) -> tuple[list[Recording], set[QCFlag]]:
    """One recording a slice: the last of those that are complete, else the longest."""

    def worth(recording: Recording) -> tuple[object, ...]:
        count = len(recording.images)
        complete = count >= _COMPLETE * usual
        return complete, 0 if complete else count, recording.key

    kept: list[Recording] = []
    replaced: list[Recording] = []
    for recording in sorted(recordings, key=worth, reverse=True):
        again = any(_same_slice(recording, other) for other in kept)
        (replaced if again else kept).append(recording)
    repeated = {QCFlag.REPEATED_SLICES} if any(len(recording.images) > 1 for recording in replaced) else set()
    return [recording for recording in kept if not _left_over(recording, kept, replaced)], repeated


def _same_slice(a: Recording, b: Recording) -> bool:
    return abs(a.place_mm - b.place_mm) <= _tolerance_mm(a.images[0])


def _tolerance_mm(image: ImageHeader) -> float:
    told = [mm for mm in (image.slice_mm, image.thickness_mm) if mm is not None]
    return max(_SAME_SLICE_MM, _SAME_SLICE_SHARE * min(told, default=0.0))


def _left_over(recording: Recording, kept: Sequence[Recording], replaced: Sequence[Recording]) -> bool:
    """Whether this is the odd end of a stack that was recorded again, shifted along its normal."""
    series = recording.images[0].series
    if not any(other.images[0].series == series for other in replaced):
        return False
    places = sorted(other.place_mm for other in kept)
    gap = float(np.median(np.diff(places))) if len(places) > 1 else 0.0
    others = [other.place_mm for other in kept if other.images[0].series != series]
    return bool(others) and min(abs(recording.place_mm - place) for place in others) < _COMPLETE * gap
