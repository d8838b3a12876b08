"""Which device the networks run on, and which GPU belongs to which worker."""

import os

import torch

from cmnet_core.errors import ErrorCode, ManifestError

CPU = "cpu"


def resolve_device(name: str) -> str:
    """The device that a name stands for; ``auto`` takes a GPU where there is one.

    Raises:
        ManifestError: There is no such device on this machine.
    """
    here = [CPU, *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    meant = {"auto": here[-1] if len(here) == 1 else here[1], "cuda": "cuda:0"}.get(name, name)
    if meant not in here:
        raise ManifestError(
            f"There is no device '{name}' here; there is {', '.join(here)}.",
            hint="Give --device one of these, or auto.",
            code=ErrorCode.CONFIG,
        )
    return meant


def gpus_to_share(name: str) -> tuple[str, ...]:
    """The GPUs that workers of this machine take one each; none where a single device was named."""
    if name not in ("auto", "cuda"):
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(item.strip() for item in visible.split(",") if item.strip())
    return tuple(str(number) for number in range(torch.cuda.device_count()))
