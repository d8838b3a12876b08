"""The methods by name, one line each. A further method is one file of this folder and one line here."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cmnet_core.errors import ErrorCode, ManifestError, did_you_mean
from cmnet_core.inference.tracking import Model, load_model
from cmnet_core.methods import convex_adam, free_form, greedy, ilk, lcc_demons, no_motion, simpleitk_demons, syn
from cmnet_core.methods.cardiomorphnet import CardioMorphNetMethod
from cmnet_core.methods.interface import Method
from cmnet_core.methods.learned import open_learned
from cmnet_core.methods.pairwise import PairwiseRegistration, Register
from cmnet_core.models.baselines.checkpoint import baseline_weights, digest_of, missing_weights
from cmnet_core.models.checkpoint import WEIGHTS

CARDIOMORPHNET, PUBLISHED, NO_MOTION = "cardiomorphnet", "cardiomorphnet-paper", "none"

PUBLISHED_WEIGHTS = WEIGHTS / "paper.safetensors"


@dataclass(frozen=True, slots=True)
class MethodEntry:
    """How a method is opened.

    Attributes:
        summary: What the method is, in a few words.
        create: Creates the method from the networks of cmnet.
        package: The package of an extra that it needs; empty for none.
        weights: The weights of a learned method; None for other methods.
    """

    summary: str
    create: Callable[[Model], Method]
    package: str = ""
    weights: Path | None = None


def _pairwise(summary: str, register: Register, package: str = "") -> MethodEntry:
    return MethodEntry(summary, partial(PairwiseRegistration, register), package)


def _learned(summary: str, name: str) -> MethodEntry:
    return MethodEntry(summary, partial(open_learned, name), weights=baseline_weights(name))


def _published(model: Model) -> Method:
    """Return CardioMorphNet as published with its own SegNet; the given networks only tell the device."""
    return CardioMorphNetMethod(load_model(PUBLISHED_WEIGHTS, model.device))


METHODS: Mapping[str, MethodEntry] = {
    CARDIOMORPHNET: MethodEntry("the networks of --model: segmentation, motion and uncertainty", CardioMorphNetMethod),
    PUBLISHED: MethodEntry("CardioMorphNet as published: --model paper", _published, weights=PUBLISHED_WEIGHTS),
    NO_MOTION: _pairwise("no motion: the least that a method must exceed", no_motion.register),
    "lcc-demons": _pairwise("symmetric log-demons by local correlation", lcc_demons.register),
    "demons-diffeomorphic": _pairwise("diffeomorphic demons", simpleitk_demons.register_diffeomorphic, "SimpleITK"),
    "demons-symmetric": _pairwise("fast symmetric demons", simpleitk_demons.register_fast_symmetric, "SimpleITK"),
    "ilk": _pairwise("iterative Lucas-Kanade optical flow, in-plane", ilk.register, "scikit-image"),
    "syn": _pairwise("SyN by local cross-correlation", syn.register_cross_correlation, "antspyx"),
    "syn-mattes": _pairwise("SyN by mutual information", syn.register_mutual_information, "antspyx"),
    "greedy": _pairwise("greedy diffeomorphic registration", greedy.register, "picsl-greedy"),
    "ffd": _pairwise("free-form deformation by B-splines", free_form.register, "itk-elastix"),
    "convexadam": _pairwise("discrete convex optimisation, then Adam", convex_adam.register, "convexAdam"),
    "voxelmorph": _learned("after VoxelMorph: displacement by a U-Net", "voxelmorph"),
    "voxelmorph-diffeomorphic": _learned("after VoxelMorph: velocity by a U-Net", "voxelmorph-diffeomorphic"),
    "dragnet": _learned("after DragNet: recurrent latent variable, Gaussian posterior of the motion", "dragnet"),
    "tlrn": _learned("after TLRN: velocities with temporal residual blocks", "tlrn"),
    "jms": _learned("after JMS: joint motion and segmentation with a recurrent unit", "jms"),
    "tcsf": _learned("after TCSF: segmentation and tracking in space and time", "tcsf"),
    "segmorph": _learned("after SegMorph: recurrent latent variable, motion and segmentation", "segmorph"),
}  # fmt: skip


def find_method(name: str) -> MethodEntry:
    """Return a method by its name, if what it needs is installed.

    Raises:
        ManifestError: There is no such method, or its package is not installed.
        CheckpointError: The package does not have its weights.
    """
    if name not in METHODS:
        hint = f"{did_you_mean(name, METHODS)}Give one of {', '.join(METHODS)}."
        raise ManifestError(f"There is no method '{name}'.", hint=hint, code=ErrorCode.CONFIG)
    entry = METHODS[name]
    if entry.package and not _version(entry.package):
        raise ManifestError(
            f"The method '{name}' needs the package {entry.package}, which is not installed.",
            hint=f"Install it with: pip install 'cmnet[baselines]'   or: pip install {entry.package}",
            code=ErrorCode.TOOL,
        )
    if entry.weights and not entry.weights.is_file():
        raise missing_weights(name, entry.weights)
    return entry


def open_method(name: str, model: Model) -> Method:
    """Open a method by its name.

    Args:
        name: A key of :data:`METHODS`.
        model: Networks of cmnet, which locate and segment the heart for methods that cannot do so themselves.

    Raises:
        ManifestError: There is no such method, or its package is not installed.
        CheckpointError: The package does not have its weights, or they are damaged.
    """
    return find_method(name).create(model)


def method_digest(name: str, model_digest: str) -> str:
    """Return a digest of what the results of a method depend on: all weights, and the version of its package.

    Args:
        name: A key of :data:`METHODS`.
        model_digest: Digest of the networks of cmnet.

    Raises:
        ManifestError: There is no such method, or its package is not installed.
        CheckpointError: The package does not have its weights.
    """
    entry = find_method(name)
    if name == CARDIOMORPHNET:
        return model_digest
    own = digest_of(entry.weights) if entry.weights else ""
    facts = f"{name} {entry.package} {_version(entry.package)} {own} {model_digest}"
    return hashlib.sha256(facts.encode()).hexdigest()


def _version(package: str) -> str:
    """Return the version of an installed package, or an empty text."""
    try:
        return version(package) if package else ""
    except PackageNotFoundError:
        return ""
