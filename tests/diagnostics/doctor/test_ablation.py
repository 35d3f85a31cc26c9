"""Modules and losses are added one by one; the first that breaks a check is named."""

from pathlib import Path

import pytest

from tactile_align.diagnostics.doctor.diagnose import ablate, grown
from tactile_align.training.data import load_data
from tests.training.conftest import small_training


def test_the_pieces_of_a_config_come_in_order_and_end_with_the_whole(regrasp_folder: Path, tmp_path: Path) -> None:
    config = small_training(regrasp_folder, tmp_path / "run", hsa={"symmetric": True, "bank": 32})
    names, _, parts = zip(*grown(config), strict=True)
    assert names == (
        "train_policy",
        "policy.vision",
        "policy.region_tokens",
        "policy.touch_tokens",
        "hsa.weight",
        "hsa.symmetric",
        "hsa.bank",
        "hsa.learn_temperature",
    )
    assert parts[0].hsa.weight == 0 and parts[-1] == config


@pytest.mark.slow
def test_the_addition_that_breaks_a_check_is_named(regrasp_folder: Path, tmp_path: Path) -> None:
    # One pair in a batch has no negative, so the alignment learns nothing from it; the policy alone does.
    config = small_training(regrasp_folder, tmp_path / "run", batch_size=2, contact_share=0.5)
    report = ablate(config, data=load_data(config, progress=False))
    assert [c.status for c in report.checks] == ["pass", "pass", "pass", "pass", "fail"] and report.exit_code == 1
    last = report.checks[-1]
    assert last.id == "addition/hsa.weight" and "pairs-without-negatives/" in last.measured, report.text()
