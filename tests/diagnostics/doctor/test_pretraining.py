"""The doctor of a pretraining run passes a healthy config and names an objective that collapses."""

from pathlib import Path

import pytest

from tactile_align.diagnostics.doctor.diagnose import diagnose
from tactile_align.training.data import load_data
from tests.training.test_pretraining import pretraining


@pytest.mark.parametrize(("weight", "status"), [(0.05, "pass"), (0.0, "fail")])
def test_the_doctor_names_an_objective_without_sigreg(
    regrasp_folder: Path, tmp_path: Path, weight: float, status: str
) -> None:
    pre = {"sensors": ["tactile1"], "sigreg_weight": weight}
    config = pretraining(regrasp_folder, tmp_path / "run", pretrain=pre)
    report = diagnose(config, data=load_data(config, progress=False))
    found = {check.id: check for check in report.checks}
    assert found["pushes-apart"].status == status, report.text()
    assert report.exit_code == (status == "fail")
    assert not any(check.status == "fail" for check in report.checks if check.id != "pushes-apart")
    assert {"stream-change/tactile1", "one-batch-overfits", "gradient/objective.projector.0"} <= found.keys()
