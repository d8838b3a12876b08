"""Select the images of a visit that form the short-axis cine: one stack of slices, one acquisition per slice.

The series description decides first, then the orientation of the slices in the body, then the number of slices with
several phases. Long-axis views, the aorta, localisers, tagging and mapping of the same visit are ignored.
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
from cmnet_core.io.dicom_unusable import UNREADABLE, Unusable, no_images
from cmnet_core.io.orientation import APEX_FROM_BASE_RAS, SHORT_AXIS_COSINE

_SHORT_AXIS = re.compile(r"sax|short.?axis|(?<![a-z])(sa|kurz\w*achse)(?![a-z])", re.IGNORECASE)
_OTHER_VIEW = re.compile(
    r"(?<![a-z])(lax|[234][ _-]?(ch(a?mbe?r)?|kammer)|hla|vla|ao|sag|cor|tra|axial)(?![a-z])"
    r"|long.?axis|lvot|rvot|aort|transvers",
    re.IGNORECASE,
)
_OTHER_SEQUENCE = re.compile(
    r"(?<![a-z])(pc|map|t1\w*|t2\w*|lge|psir|haste)(?![a-z])"
    r"|locali[sz]er|scout|survey|flow|venc|tagg?(ing)?(?![a-z])|molli|delayed|perfusion|inlinevf|fitparam",
    re.IGNORECASE,
)
_NOT_MAGNITUDE = frozenset(
    {
        *("P", "PHASE", "PHASE MAP", "VELOCITY", "VELOCITY MAP"),
        *("R", "REAL", "I", "IMAGINARY"),
        *("PROJECTION IMAGE", "MIP", "MINIP", "MPR"),
    }
)
"""Values of ImageType of images other than the magnitude of an acquired slice."""

_PARALLEL_COSINE = 0.999  # 2.6 degrees
_APEX_FROM_BASE_LPS = np.array(APEX_FROM_BASE_RAS) * (-1.0, -1.0, 1.0)
_SAME_SLICE_MM = 0.5
_SAME_SLICE_FRACTION = 0.4  # of the thickness: a slice repeated in another breath-hold is within this distance
_COMPLETE = 0.9
_REPEATED_IN_SERIES = 1.5
_STACK_SLICES = 3  # the fewest slices that make a stack of its own
_STACK_FRACTION = 0.7  # of the slices of the largest stack: a smaller one repeats single slices
_STACK_OVERLAP = 0.5  # of the extent of the shorter one: less is a continuation of the stack


@dataclass(frozen=True, slots=True, eq=False)
class Acquisition:
    """One acquisition of one slice.

    Attributes:
        images: Its phases in the order of the cycle.
        position_mm: Position along the stack, from base to apex, in mm.
    """

    images: tuple[ImageHeader, ...]
    position_mm: float

    @property
    def key(self) -> tuple[int, str, str, int]:
        """A key that sorts the acquisitions of a visit by time."""
        first = self.images[0]
        return (first.series[0], first.acquired, first.series[1], first.instance)


def find_stack(members: Sequence[Member], *, study: str | None = None) -> tuple[list[Acquisition], set[QCFlag]]:
    """Find the short-axis cine among the files of a visit.

    Args:
        members: The files.
        study: The person or study to choose where there are several: the digest of the patient or the end of the
            StudyInstanceUID.

    Returns:
        Its slices from base to apex, and quality flags.

    Raises:
        ImageError: The files contain no short-axis cine.
    """
    images, flags = _headers(members)
    stack = _short_axis(_one_study(images if study is None else _of_study(images, study)))
    acquisitions, repeats = _acquisitions(stack)
    acquisitions, repeated_stacks = _last_stack(acquisitions)
    usual = _common_count(acquisitions)
    kept, superseded = _last_complete(acquisitions, usual)
    whole = [acquisition for acquisition in kept if 2 * len(acquisition.images) > usual]
    if len(whole) < len(kept):
        flags.add(QCFlag.SLICES_DROPPED)  # localisers parallel to the stack, interrupted acquisitions
    if abs(float(stack[0].normal @ _APEX_FROM_BASE_LPS)) < SHORT_AXIS_COSINE:
        flags.add(QCFlag.ORIENTATION_UNUSUAL)
    return sorted(
        whole, key=lambda acquisition: acquisition.position_mm
    ), flags | repeats | repeated_stacks | superseded


def towards_apex(image: ImageHeader) -> NDArray[np.float64]:
    """Unit normal of the slices towards the apex, which is left, anterior and inferior of the base."""
    return image.normal if float(image.normal @ _APEX_FROM_BASE_LPS) >= 0 else -image.normal


def timed(images: Sequence[ImageHeader]) -> bool:
    """Whether trigger times identify the phases of a slice."""
    times = {image.trigger_ms for image in images}
    return None not in times and (len(times) > 1 or len(images) == 1)


def _headers(members: Sequence[Member]) -> tuple[list[ImageHeader], set[QCFlag]]:
    images: list[ImageHeader] = []
    unusable: Counter[Unusable] = Counter()
    names = series_names(members)
    for member in members:
        try:
            headers = read_headers(member)
        except DAMAGE:
            headers = Unusable.DAMAGED
        if isinstance(headers, Unusable):
            unusable[headers] += 1
        else:
            images += [_named(header, names) for header in headers]
    magnitude = [image for image in images if not _NOT_MAGNITUDE.intersection(image.image_type)]
    if not magnitude:
        raise no_images(len(members), len(images), unusable)
    unreadable = sum(unusable[reason] for reason in UNREADABLE)
    flags = {QCFlag.FILES_UNREADABLE} if unreadable else set()
    # Reconstructions of another kind are derived from the cine; they are used only if there is nothing else.
    acquired = [image for image in magnitude if "DERIVED" not in image.image_type]
    images = acquired if _cine_slices(acquired) else magnitude
    once: dict[tuple[object, ...], ImageHeader] = {}
    for image in images:
        key = (image.uid, image.frame, image.trigger_ms, image.instance, *image.position)
        # A copy that was cut short is the smaller file.
        if key not in once or image.member.size >= once[key].member.size:
            once[key] = image
    return list(once.values()), flags | ({QCFlag.DUPLICATE_IMAGES} if len(once) < len(images) else set())


def _of_study(images: Sequence[ImageHeader], study: str) -> list[ImageHeader]:
    """The images of the person with this digest, or of the study whose UID ends like this.

    Raises:
        ImageError: There are none.
    """
    chosen = [image for image in images if image.study.patient == study or image.study.uid.endswith(study)]
    if not chosen:
        names = sorted({_study_name(image.study.patient, image.study.uid) for image in images})
        raise ImageError(
            f"Expected the study '{study}', found {'; '.join(names[:5])}.",
            hint="Give the digest of a patient or the end of a study's UID, as listed here.",
            code=ErrorCode.DICOM,
        )
    return chosen


def _study_name(patient: str, uid: str) -> str:
    return f"patient {patient or 'unknown'}, study {uid[-12:] or 'unknown'}"


def _one_study(images: Sequence[ImageHeader]) -> Sequence[ImageHeader]:
    """The images of the only person and study with a short-axis cine.

    Raises:
        ImageError: There are short-axis cines of two persons or studies, whose slices must not be mixed.
    """
    groups = defaultdict(list)
    for image in images:
        groups[image.study.patient, image.study.uid].append(image)
    cines = {key: group for key, group in groups.items() if _stack_slices(group) >= _STACK_SLICES}
    if len(cines) < 2:
        return next(iter(cines.values()), images)
    patients = sorted({patient for patient, _ in cines})
    different = "persons" if len(patients) > 1 else "studies"
    names = [_study_name(*key) for key in sorted(cines)]
    raise ImageError(
        f"Expected one short-axis cine, found those of {len(cines)} {different}: {'; '.join(names)}.",
        hint="Give the files of one study, or choose it with --study or the column dicom_study: by the digest of the "
        "patient or the end of the study's UID, as listed here.",
        code=ErrorCode.DICOM,
    )


def _stack_slices(images: Sequence[ImageHeader]) -> int:
    """Number of cine slices of the largest stack of parallel slices that is not of another view or sequence."""
    candidates = [image for image in images if not _is_other(image)]
    return max((_cine_slices(stack) for stack in _parallel(candidates)), default=0)


def _is_other(image: ImageHeader) -> bool:
    return bool(_OTHER_VIEW.search(image.description) or _OTHER_SEQUENCE.search(image.description))


def _named(image: ImageHeader, names: Mapping[str, str]) -> ImageHeader:
    return image if image.description else replace(image, description=names.get(base_name(image.member), ""))


def _short_axis(images: Sequence[ImageHeader]) -> list[ImageHeader]:
    """The images of the stack that is most likely the short-axis cine."""
    candidates = [image for image in images if not _is_other(image)]
    if not candidates:
        # A name such as SAX_planned_on_4CH mentions both; it is used if there is nothing else.
        candidates = [
            image
            for image in images
            if _SHORT_AXIS.search(image.description) and not _OTHER_SEQUENCE.search(image.description)
        ]
    if not candidates:
        # Their descriptions are free text, which may name the patient.
        series = len({image.description for image in images})
        raise ImageError(
            f"Expected a short-axis cine, found only series of other views: {series} of {len(images)} images.",
            hint="Give the folder or zip with the short-axis series; if its name is misleading, convert it to NIfTI.",
            code=ErrorCode.DICOM,
        )
    stack = max(_parallel(candidates), key=_short_axis_score)
    named = [image for image in stack if _SHORT_AXIS.search(image.description)]
    return named if _cine_slices(named) else stack


def _short_axis_score(images: Sequence[ImageHeader]) -> tuple[bool, bool, int, int]:
    cines = _cine_slices(images)
    named = any(_SHORT_AXIS.search(image.description) for image in images)
    oblique = abs(float(images[0].normal @ _APEX_FROM_BASE_LPS)) >= SHORT_AXIS_COSINE
    return named and cines > 0, oblique and cines > 0, cines, len(images)


def _cine_slices(images: Sequence[ImageHeader]) -> int:
    """Number of slice positions with more than one image."""
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


def _acquisitions(stack: Sequence[ImageHeader]) -> tuple[list[Acquisition], set[QCFlag]]:
    """Each slice of each series, in the order of its cycle; a slice repeated within a series gives two acquisitions."""
    across = towards_apex(stack[0])
    slices = _by_place(stack, across)
    usual = Counter(len(images) for images in slices).most_common(1)[0][0]
    found, flags = [], set()
    for images in slices:
        for tried in _split_repeats(images, usual):
            phases = _unique_phases(tried)
            if len(phases) < len(tried):
                flags.add(QCFlag.DUPLICATE_IMAGES)
            found.append(Acquisition(tuple(phases), float(np.mean([image.position @ across for image in phases]))))
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


def _split_repeats(images: Sequence[ImageHeader], usual: int) -> list[list[ImageHeader]]:
    """Split the images of one slice of one series into cycles, if it holds more than one."""
    count = min(images[0].phases or usual, usual)
    ordered = sorted(images, key=lambda image: image.instance)
    if not timed(images) or len(images) < _REPEATED_IN_SERIES * count:
        return [ordered]
    runs = [[ordered[0]]]
    for before, image in pairwise(ordered):
        if (image.trigger_ms or 0.0) < (before.trigger_ms or 0.0):
            runs.append([])
        runs[-1].append(image)
    whole = _COMPLETE * count <= max(len(run) for run in runs) <= count / _COMPLETE
    return runs if whole and min(len(run) for run in runs) > 1 else [ordered]


def _unique_phases(images: Sequence[ImageHeader]) -> list[ImageHeader]:
    """Sort by time; of images with the same time and number the last is kept."""
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


def _last_stack(acquisitions: Sequence[Acquisition]) -> tuple[list[Acquisition], set[QCFlag]]:
    """The last of several complete stacks, such as rest and stress, whose slices must not be mixed.

    A stack that has most of the slices of the largest one and whose slices overlap those of another stack is a
    repetition of the whole stack. The last one is used that was not interrupted. Repeated single slices are handled by
    :func:`_last_complete`.
    """
    stacks = defaultdict(list)
    for acquisition in acquisitions:
        if len(acquisition.images) > 1:
            first = acquisition.images[0]
            stacks[first.series, first.study.frame_of_reference].append(acquisition)
    largest = max(map(len, stacks.values()), default=0)
    complete = [stack for stack in stacks.values() if len(stack) >= max(_STACK_SLICES, _STACK_FRACTION * largest)]
    repeated = [stack for stack in complete if any(_overlap(stack, other) for other in complete if other is not stack)]
    if not repeated:
        return list(acquisitions), set()
    phases = [float(np.median([len(acquisition.images) for acquisition in stack])) for stack in repeated]
    whole = [stack for stack, count in zip(repeated, phases, strict=True) if count >= _STACK_FRACTION * max(phases)]
    last = max(whole, key=lambda stack: max(acquisition.key for acquisition in stack))
    superseded = {id(acquisition) for stack in repeated if stack is not last for acquisition in stack}
    return [acquisition for acquisition in acquisitions if id(acquisition) not in superseded], {QCFlag.REPEATED_SLICES}


def _overlap(a: Sequence[Acquisition], b: Sequence[Acquisition]) -> bool:
    """Whether two stacks cover the same part of the heart with slices that overlap.

    The odd and the even slices of one stack, acquired as two series, cover the same part without overlap.
    """
    positions = [np.array(sorted(acquisition.position_mm for acquisition in stack)) for stack in (a, b)]
    common = min(place[-1] for place in positions) - max(place[0] for place in positions)
    distance = float(np.median(np.abs(positions[0][:, None] - positions[1][None]).min(axis=1)))
    thickness = a[0].images[0].thickness_mm or float(np.median(np.diff(positions[0])))
    covers = common > _STACK_OVERLAP * min(place[-1] - place[0] for place in positions)
    return bool(covers and distance < _COMPLETE * thickness)


def _common_count(acquisitions: Sequence[Acquisition]) -> int:
    counts = Counter(len(acquisition.images) for acquisition in acquisitions if len(acquisition.images) > 1)
    if not counts:
        raise ImageError(
            f"Expected a cine, found {len(acquisitions)} slice(s) with a single phase each.",
            hint="Give the short-axis cine series with all its phases. If they are there, the headers lack what orders "
            "them: TriggerTime, TemporalPositionIdentifier or distinct InstanceNumbers.",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )
    # A cine has many slices and many phases; viability and perfusion series do not have both.
    return max(counts, key=lambda n: (counts[n] ** 2 * n, n))


def _last_complete(acquisitions: Sequence[Acquisition], usual: int) -> tuple[list[Acquisition], set[QCFlag]]:
    """One acquisition per slice: the last complete one, or else the longest."""

    def completeness(acquisition: Acquisition) -> tuple[object, ...]:
        count = len(acquisition.images)
        complete = count >= _COMPLETE * usual
        return complete, 0 if complete else count, acquisition.key

    kept: list[Acquisition] = []
    replaced: list[Acquisition] = []
    for acquisition in sorted(acquisitions, key=completeness, reverse=True):
        again = any(_same_slice(acquisition, other) for other in kept)
        (replaced if again else kept).append(acquisition)
    repeated = {QCFlag.REPEATED_SLICES} if any(len(acquisition.images) > 1 for acquisition in replaced) else set()
    return [acquisition for acquisition in kept if not _is_remnant(acquisition, kept, replaced)], repeated


def _same_slice(a: Acquisition, b: Acquisition) -> bool:
    return abs(a.position_mm - b.position_mm) <= _tolerance_mm(a.images[0])


def _tolerance_mm(image: ImageHeader) -> float:
    stated = [mm for mm in (image.slice_mm, image.thickness_mm) if mm is not None]
    return max(_SAME_SLICE_MM, _SAME_SLICE_FRACTION * min(stated, default=0.0))


def _is_remnant(acquisition: Acquisition, kept: Sequence[Acquisition], replaced: Sequence[Acquisition]) -> bool:
    """Whether this is the remaining end slice of a stack that was acquired again, shifted along its normal."""
    series = acquisition.images[0].series
    if not any(other.images[0].series == series for other in replaced):
        return False
    places = sorted(other.position_mm for other in kept)
    gap = float(np.median(np.diff(places))) if len(places) > 1 else 0.0
    others = [other.position_mm for other in kept if other.images[0].series != series]
    return bool(others) and min(abs(acquisition.position_mm - place) for place in others) < _COMPLETE * gap
