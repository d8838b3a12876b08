"""The learned methods behind the common interface: frames, direction, millimetres, and weights that are missing."""

import dataclasses
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.errors import CheckpointError
from cmnet_core.methods import registry
from cmnet_core.methods.interface import FramePair
from cmnet_core.methods.learned import LearnedMethod
from cmnet_core.methods.registry import METHODS, PUBLISHED, find_method, method_digest
from cmnet_core.models.baselines.build import BASELINES
from cmnet_core.models.baselines.interface import Baseline, FrameSequence, SequenceMotion
from cmnet_core.types import Spacing
from tests.core.methods.models import tiny
from tests.phantoms import beating_circles

SPACING = Spacing(10.0, 1.5, 1.5)


class _Brightness(Baseline):
    """A network whose motion in voxels is the difference of the mean brightness of a frame and of the first one."""

    def forward(self, voxels: Float[Tensor, "t z y x"]) -> SequenceMotion:
        mean = voxels.mean((1, 2, 3))
        shape = (len(voxels) - 1, 3, *voxels.shape[1:])
        motion = (mean[1:] - mean[0]).view(-1, 1, 1, 1, 1).expand(shape)
        classes = mean.view(-1, 1, 1, 1, 1).expand(len(voxels), voxels.shape[1], 4, *voxels.shape[2:])
        return SequenceMotion(motion, classes)

    def loss(self, sequence: FrameSequence, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        pytest.fail("a network with nothing to learn is not trained")


@pytest.mark.parametrize("pairwise", [False, True])
def test_sequence_begins_at_the_moving_frame_and_motion_is_in_millimetres(*, pairwise: bool) -> None:
    cine, _ = beating_circles(frames=4, slices=2, size=32, spacing=SPACING)
    brightness = torch.tensor([0.1, 0.2, 0.4, 0.8])
    cine = dataclasses.replace(cine, voxels=brightness.view(4, 1, 1, 1).expand(4, 2, 32, 32), ed=0, es=2)
    pairs = [FramePair(fixed=2, moving=0), FramePair(fixed=0, moving=2), FramePair(fixed=1, moving=0)]
    network = _Brightness()
    network.pairwise = pairwise
    estimated = LearnedMethod(network, tiny(), frames=4).estimate(cine, pairs)
    assert [(field.fixed, field.moving) for field in estimated.fields.values()] == pairs
    for pair, field in estimated.fields.items():
        voxels = float(brightness[pair.fixed] - brightness[pair.moving])
        expected = voxels * torch.tensor(SPACING.zyx).view(3, 1, 1, 1).expand(3, 2, 32, 32)
        assert torch.allclose(field.displacement_mm, expected, atol=1e-5)
    assert estimated.computed == (3 if pairwise else 6)
    if not pairwise:
        assert estimated.probabilities is not None
        assert estimated.probabilities.shape == (4, 4, 2, 32, 32)
        assert torch.allclose(estimated.probabilities[:, 0, 0, 0, 0], brightness)


class _Recorder(_Brightness):
    """Keeps the brightness of the sequences that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[float]] = []

    def forward(self, voxels: Float[Tensor, "t z y x"]) -> SequenceMotion:
        self.seen.append(voxels[:, 0, 0, 0].tolist())
        return super().forward(voxels)


def test_sequences_are_as_long_as_in_training_and_spread_over_the_cycle() -> None:
    cine, _ = beating_circles(frames=10, slices=2, size=32, spacing=SPACING)
    brightness = torch.arange(10.0)
    cine = dataclasses.replace(cine, voxels=brightness.view(10, 1, 1, 1).expand(10, 2, 32, 32), ed=0, es=4)
    network = _Recorder()
    method = LearnedMethod(network, tiny(), frames=4)
    pair = method.estimate(cine, [FramePair(fixed=0, moving=4)])
    assert network.seen == [[4.0, 7.0, 0.0, 3.0]]
    assert (pair.computed, pair.probabilities) == (3, None)
    network.seen.clear()
    cycle = method.estimate(cine, [FramePair(fixed=frame, moving=0) for frame in range(1, 10)])
    assert network.seen == [[0.0, 1.0, 4.0, 7.0], [0.0, 2.0, 5.0, 8.0], [0.0, 3.0, 6.0, 9.0]]
    assert [float(field.displacement_mm[1, 0, 0, 0]) for field in cycle.fields.values()] == [
        1.5 * n for n in range(1, 10)
    ]
    assert cycle.probabilities is not None
    assert torch.equal(cycle.probabilities[:, 0, 0, 0, 0], brightness)


def test_every_learned_method_is_registered_and_depends_on_its_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert {*BASELINES, PUBLISHED} == {name for name, entry in METHODS.items() if entry.weights}
    path = tmp_path / "tlrn.safetensors"
    monkeypatch.setattr(registry, "METHODS", {"tlrn": dataclasses.replace(METHODS["tlrn"], weights=path)})
    with pytest.raises(CheckpointError, match="cmnet train --method tlrn"):
        find_method("tlrn")
    digests = set()
    for content in (b"1", b"2"):
        path.write_bytes(content)
        digests.add(method_digest("tlrn", "abc"))
    assert len(digests) == 2
