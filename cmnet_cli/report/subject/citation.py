"""The text that a paper may take over: what was done to this subject, with versions."""

import json
from typing import Any

from cmnet_cli.report.data.load_results import Row
from cmnet_cli.runs.paths import RunFolder
from cmnet_core import __version__

_METHOD = "Movahed et al., CardioMorphNet, Medical Image Analysis 113 (2026) 104149"
_SEGMENTS = "Cerqueira et al., Circulation 105 (2002) 539"


def text_to_cite(folder: RunFolder, row: Row) -> str:
    """A paragraph for the methods section; it names only what was really done.

    Args:
        folder: The run.
        row: The subject's row of the indices.
    """
    commands = _commands(folder)
    settings = commands.get("infer", {}).get("settings", {})
    digest = str(commands.get("infer", {}).get("model_digest", ""))[:12]
    model = f" with the weights {settings['model']} (SHA-256 {digest}…)" if settings.get("model") and digest else ""
    told = [
        f"Short-axis cine MRI of {row['frames']} frames was analysed with cmnet {_version(folder)}{model}.",
        "A segmentation network labelled left ventricle, myocardium and right ventricle in every frame; a recurrent "
        f"variational network estimated the motion from each frame to the next around the cardiac cycle ({_METHOD}).",
        "Volumes are sums of voxel volumes, papillary muscles counted as blood; mass is the myocardial volume at "
        "end-diastole times 1.05 g/mL.",
    ]
    samples = commands.get("indices", {}).get("settings", {}).get("samples")
    if samples:
        told.append(f"Intervals of 95 % rest on {samples} samples of the networks' posterior.")
    if folder.table("segments").exists():
        told.append(f"Strain is measured from end-diastole, by AHA segments ({_SEGMENTS}).")
    return " ".join(told)


def _commands(folder: RunFolder) -> dict[str, Any]:
    return dict(_record(folder).get("commands", {}))


def _version(folder: RunFolder) -> str:
    return str(_record(folder).get("cmnet_version", __version__))


def _record(folder: RunFolder) -> dict[str, Any]:
    return dict(json.loads(folder.record.read_text(encoding="utf-8"))) if folder.record.exists() else {}
