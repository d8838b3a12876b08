"""Names in a run folder."""

from pathlib import Path

from cmnet_cli.runs.paths import RunFolder


def test_paths_of_a_case_contain_its_id() -> None:
    case = RunFolder(Path("run")).case("sub-9900001_ses-2")
    assert case.folder.parent.parent == Path("run/subjects")
    assert len(case.folder.parent.name) == 2
    assert case.segnet_labels == case.folder / "sub-9900001_ses-2_desc-segnet_dseg.nii.gz"
    assert case.sidecar("infer").name == "sub-9900001_ses-2_desc-infer.json"


def test_case_folders_are_distributed_over_256_folders() -> None:
    run = RunFolder(Path("run"))
    shards = {run.case(f"sub-{9900000 + n}").folder.parent.name for n in range(2000)}
    assert len(shards) > 250
