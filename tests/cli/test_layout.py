"""Names in a run folder."""

from pathlib import Path

from cmnet_cli.runs.paths import RunFolder


def test_a_case_has_a_folder_in_its_shard_and_its_id_in_every_name() -> None:
    case = RunFolder(Path("run")).case("sub-9900001_ses-2")
    assert case.folder.parent.parent == Path("run/subjects")
    assert len(case.folder.parent.name) == 2
    assert case.segnet_labels == case.folder / "sub-9900001_ses-2_desc-segnet_dseg.nii.gz"
    assert case.sidecar("infer").name == "sub-9900001_ses-2_desc-infer.json"


def test_many_cases_spread_over_shards() -> None:
    run = RunFolder(Path("run"))
    shards = {run.case(f"sub-{9900000 + n}").folder.parent.name for n in range(2000)}
    assert len(shards) > 250
