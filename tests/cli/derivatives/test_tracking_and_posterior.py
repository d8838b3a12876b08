"""What infer stores is small and comes back as it was."""

from pathlib import Path

import pytest
import torch

from cmnet_cli.derivatives.posterior import read_posterior, write_posterior
from cmnet_cli.derivatives.tracking import read_facts, read_velocities, write_velocities
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import Sidecar, write_sidecar
from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.uncertainty.posterior import Posterior


@pytest.mark.parametrize("largest_voxels", [0.0, 0.4, 3.0, 60.0])
def test_velocities_round_trip_to_half_a_quantum(tmp_path: Path, largest_voxels: float) -> None:
    generator = torch.Generator().manual_seed(1)
    velocities = largest_voxels * (2 * torch.rand(3, 3, 2, 8, 6, generator=generator) - 1)
    write_velocities(tmp_path / "m.npz", velocities)
    torch.testing.assert_close(read_velocities(tmp_path / "m.npz"), velocities, rtol=0, atol=0.5 / 128 + 1e-6)


def test_sidecar_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).case("sub-1")
    facts = {"motion": {}, "window": {}, "flags": [], "folded_voxels": 0}
    write_sidecar(folder.sidecar("infer"), Sidecar("infer", "sub-1", "0", "c0ffee", "decaf", (), (), facts))
    with pytest.raises(ImageError, match=r"Another version of cmnet stored sub-1.*infer --force"):
        read_facts(folder)


def test_smooth_velocities_compress_well(tmp_path: Path) -> None:
    axis = torch.linspace(-1, 1, 64)
    bell = torch.exp(-4 * (axis[:, None] ** 2 + axis**2))
    cycle = torch.sin(torch.linspace(0, 6.28, 50))
    write_velocities(tmp_path / "m.npz", (cycle[:, None, None, None, None] * bell).expand(50, 3, 12, 64, 64))
    assert (tmp_path / "m.npz").stat().st_size < 1e6


def test_damaged_velocities_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    with pytest.raises(ImageError) as missing:
        read_velocities(path)
    write_velocities(path, torch.rand(2, 3, 2, 8, 8))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ImageError, match="--save-motion full") as damaged:
        read_velocities(path)
    assert (missing.value.code, damaged.value.code) == (ErrorCode.FILE_MISSING, ErrorCode.FILE_DAMAGED)


def test_posterior_round_trip(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = (3 * torch.randn(2, 4, 3, 8, 8, generator=generator)).softmax(1)
    factor = torch.randn(4, 3, 1, 3, 2, 2, generator=generator)
    stored = Posterior(shapes, torch.randn(4, 3, 2, 2, generator=generator), factor)
    write_posterior(tmp_path / "p.npz", stored)
    found = read_posterior(tmp_path / "p.npz")
    torch.testing.assert_close(found.shapes, shapes, rtol=0, atol=0.04)
    torch.testing.assert_close(found.log_sd, stored.log_sd, rtol=0, atol=0.026)
    torch.testing.assert_close(found.factor, factor, rtol=0, atol=float(factor.abs().max()) / 250)
    (tmp_path / "p.npz").write_bytes(b"PK")
    with pytest.raises(ImageError):
        read_posterior(tmp_path / "p.npz")
