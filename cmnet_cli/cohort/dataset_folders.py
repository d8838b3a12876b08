"""The files and folders of a data set on disk, in a fixed order, and those that cannot be used."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cmnet_cli.cohort.listing import LeftOut
from cmnet_cli.privacy.deidentify import redact_ids
from cmnet_core.errors import ErrorCode, ManifestError

COPY_AGAIN = "Copy or download the subject again."
"""What the user can do about a subject whose files are incomplete."""

FOLLOW_LINKS = "Give --follow-links if you trust it."
"""What the user can do about a link that leads out of the folder."""

_LINK = "This link leads out of the folder."


def walk_files(
    folder: Path, left_out: list[LeftOut], *, folders: bool = False, follow_links: bool = False
) -> Iterator[Path]:
    """Yield all files below a folder in a fixed order, without a call of ``stat`` per file: biobanks are large.

    Args:
        folder: The folder of the data set.
        left_out: Receives the folders that cannot be read, and the links that lead out of the folder.
        folders: Whether to yield folders, too.
        follow_links: Whether to follow links that lead out of the folder.
    """
    root = os.path.realpath(folder)
    for inner, entries in walk_folders(folder, left_out, follow_links=follow_links):
        for entry in entries:
            if not follow_links and _leads_out(entry, root):
                left_out.append(LeftOut(Path(inner, entry.name), _LINK, FOLLOW_LINKS))
            elif folders or not entry.is_dir(follow_symlinks=follow_links):
                yield Path(inner, entry.name)


def walk_folders(
    folder: Path, left_out: list[LeftOut], *, follow_links: bool = False
) -> Iterator[tuple[Path, list["os.DirEntry[str]"]]]:
    """Yield every folder with its sorted entries; hidden ones are left out.

    Args:
        folder: The folder of the data set.
        left_out: Receives the folders that cannot be read.
        follow_links: Whether to follow links to folders.

    Raises:
        ManifestError: The folder of the data set cannot be read.
    """
    pending, seen = [folder], set()
    while pending:
        inner = pending.pop()
        if follow_links:
            # Links may lead back to a folder above.
            real = os.path.realpath(inner)
            if real in seen:
                continue
            seen.add(real)
        try:
            with os.scandir(inner) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if inner != folder:
                reason = f"The folder cannot be read: {error.strerror}."
                left_out.append(LeftOut(inner, reason, "Request permission to read it, or copy it again."))
                continue
            raise ManifestError(
                f"{redact_ids(str(inner))}: the folder cannot be read: {error.strerror}.",
                hint="Request permission to read it.",
                code=ErrorCode.MANIFEST_UNREADABLE,
            ) from error
        yield inner, [entry for entry in entries if not entry.name.startswith(".")]
        inside = [entry for entry in reversed(entries) if _is_inner_folder(entry, follow_links=follow_links)]
        pending += [Path(entry.path) for entry in inside]


def _is_inner_folder(entry: "os.DirEntry[str]", *, follow_links: bool = False) -> bool:
    return entry.is_dir(follow_symlinks=follow_links) and not entry.name.startswith(".")


def _leads_out(entry: "os.DirEntry[str]", root: str) -> bool:
    return entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root)


def folders_without_image(folder: Path, images: Iterable[tuple[str, Path]], *, expected: str) -> list[LeftOut]:
    """List the folders beside those of the subjects that hold no image.

    The folders of subjects are those with the id of the subject, or its visit, in their names.

    Args:
        folder: The folder of the data set.
        images: The id and the image of each subject, or its visit and the image.
        expected: The name of an image.
    """
    used: set[Path] = set()
    parents: set[Path] = set()
    for name, path in images:
        above = path.relative_to(folder).parents
        used.update(folder / inner for inner in above)
        parents.update((folder / inner).parent for inner in above if name in inner.name)
    return [
        LeftOut(Path(entry.path), f"The folder has no file like {expected}.", COPY_AGAIN)
        for parent in sorted(parents)
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name)
        if _is_inner_folder(entry) and Path(entry.path) not in used
    ]
