"""The device that the networks run on, and the GPU that each worker uses."""

import os

import torch

from cmnet_core.errors import ErrorCode, ManifestError

CPU = "cpu"


def resolve_device(name: str) -> str:
    """Return the device that ``name`` selects; ``auto`` is a GPU where there is one.

    Raises:
        ManifestError: There is no such device on this machine.
    """
    available = [CPU, *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    device = {"auto": available[-1] if len(available) == 1 else available[1], "cuda": "cuda:0"}.get(name, name)
    if device not in available:
        raise ManifestError(
            f"There is no device '{name}' on this machine; there is {', '.join(available)}.",
            hint="Give --device one of these, or auto.",
            code=ErrorCode.CONFIG,
        )
    return device


def gpus_for_workers(name: str) -> tuple[str, ...]:
    """Return the GPUs to assign to this machine's workers, one each; none where ``name`` is a single device."""
    if name not in ("auto", "cuda"):
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(item.strip() for item in visible.split(",") if item.strip())
    return tuple(str(number) for number in range(torch.cuda.device_count()))
