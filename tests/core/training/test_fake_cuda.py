"""Training and inference on a pretended GPU: no operation mixes tensors of the CPU with those of the device."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cmnet_core.models.build import build_motion, build_segnet
from cmnet_core.models.segnet import class_probabilities
from cmnet_core.models.shape_motion_net import ShapeMotionNet, ShapeMotionSizes
from cmnet_core.training.cycle_loss import TrainingCycle, cycle_loss
from cmnet_core.training.loop import bfloat16_autocast
from cmnet_core.training.segnet_stage import SegmentationView, views_loss
from cmnet_core.types import Spacing
from tests.fake_cuda import CAN_BACKPROPAGATE, CUDA, fake_cuda
from tests.training_cases import SMALL_MOTION, SMALL_SEGNET, motion_settings

FRAMES = 3


@pytest.fixture(autouse=True)
def pretended_gpu() -> Iterator[None]:
    with fake_cuda():
        yield


def probabilities() -> Tensor:
    return torch.rand(3, 4, 64, 64, device=CUDA).softmax(1)


def require_gradients_on_the_device(network: nn.Module, loss: Tensor) -> None:
    assert loss.device.type == "cuda"
    if CAN_BACKPROPAGATE:
        loss.backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        assert {gradient.device.type for gradient in gradients} == {"cuda"}


def test_pretended_gpu_refuses_tensors_of_the_cpu() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device=CUDA) + torch.ones(3)
    with bfloat16_autocast(CUDA):
        image, weight = torch.ones(1, 3, 8, 8, device=CUDA), torch.ones(2, 3, 3, 3, device=CUDA)
        assert nn.functional.conv2d(image, weight).dtype == torch.bfloat16


def test_training_step_of_segnet() -> None:
    with CUDA:
        segnet = build_segnet(SMALL_SEGNET).train()
    views = [SegmentationView(torch.rand(3, 1, 64, 64), torch.rand(3, 4, 64, 64).softmax(1)) for _ in range(2)]
    require_gradients_on_the_device(segnet, views_loss(segnet, views, CUDA))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_step_of_the_motion_network(*, checkpointing: bool) -> None:
    with CUDA:
        motion = build_motion(SMALL_MOTION).train()
    cycle = TrainingCycle(
        [torch.rand(3, 1, 64, 64, device=CUDA) for _ in range(FRAMES)],
        [probabilities() for _ in range(FRAMES)],
        Spacing(8.0, 1.5, 1.5),
    )
    settings = replace(motion_settings(1), gradient_checkpointing=checkpointing)
    # A generator of CUDA exists with CUDA only; without it, the means are taken.
    terms = cycle_loss(motion, cycle, settings=settings, generator=None)
    assert {name for name, term in terms.items() if term.device.type != "cuda"} == set()
    require_gradients_on_the_device(motion, terms["loss"])


@torch.no_grad()
def test_inference() -> None:
    with CUDA:
        segnet, motion = build_segnet(SMALL_SEGNET).eval(), ShapeMotionNet(ShapeMotionSizes()).eval()
    with bfloat16_autocast(CUDA):
        segmented = class_probabilities(segnet, torch.rand(2, 3, 64, 64, device=CUDA), frames_at_once=2)
    assert segmented.device.type == "cuda"
    posterior = motion(torch.rand(2, 3, 7, 48, 48, device=CUDA), 8.0)
    assert {maps.device.type for maps in (posterior.mean, posterior.log_variance, posterior.factor)} == {"cuda"}
