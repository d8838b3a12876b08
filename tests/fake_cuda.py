"""A pretended GPU: PyTorch computes shapes and devices of CUDA tensors without data and without CUDA."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

CUDA = torch.device("cuda")
CAN_BACKPROPAGATE = torch.backends.cuda.is_built()
"""Whether PyTorch's autograd engine accepts CUDA tensors; a build for CPUs refuses even pretended ones."""

CUDA_INDEX = 1
"""Index of CUDA among the device types of PyTorch."""

_KEPT: list[object] = []


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Make all tensors of the block fake ones, which may be on CUDA and refuse to be mixed with those of the CPU."""
    _set_device_guard()
    with pytest.MonkeyPatch.context() as patch:
        # Without a GPU, autocast would warn and disable itself.
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr("torch.cuda.is_bf16_supported", lambda: True)
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield


def _set_device_guard() -> None:
    """Give a build of PyTorch for CPUs the CUDA device guard that does nothing.

    FakeTensorMode replaces the device guard of a build for CUDA where no device is available, and leaves a build for
    CPUs without one, so that moving a tensor fails. Here it is first given a guard whose every method returns 0, which
    therefore reports that no device is available.
    """
    c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = (ctypes.c_void_p * 2).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
    if registry[CUDA_INDEX] is None:
        zero = ctypes.CFUNCTYPE(ctypes.c_int8)(lambda: 0)
        methods = (ctypes.c_void_p * 64)(*[ctypes.cast(zero, ctypes.c_void_p).value] * 64)
        guard = ctypes.c_void_p(ctypes.addressof(methods))
        _KEPT.extend((zero, methods, guard))
        registry[CUDA_INDEX] = ctypes.addressof(guard)
        torch._C._ensureCUDADeviceGuardSet()
