"""The doctor of a pretraining run passes a healthy config and names an objective that collapses."""

import json
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest

from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.diagnose import ablate, diagnose
from tactile_align.diagnostics.doctor.pretraining import breaks, grown_objective, pretraining_checks
from tactile_align.errors import InputError
from tactile_align.moments.batch import MomentBatch
from tactile_align.training.data import load_data
from tactile_align.training.watch import Watch, finding
from tests.diagnostics.doctor.planting_defects import constant_touch, spoilt
from tests.training.test_pretraining import pretraining


@pytest.mark.parametrize(("weight", "window", "status"), [(0.05, {"stride": 2}, "pass"), (0.0, None, "fail")])
def test_the_doctor_names_an_objective_without_sigreg(
    regrasp_folder: Path, tmp_path: Path, weight: float, window: dict[str, int] | None, status: str
) -> None:
    pre = {"sensors": ["tactile1"], "sigreg_weight": weight, "next": window}
    config = pretraining(regrasp_folder, tmp_path / "run", pretrain=pre)
    report = diagnose(config, data=load_data(config, progress=False))
    found = {check.id: check for check in report.checks}
    assert found["pushes-apart"].status == status, report.text()
    assert report.exit_code == (status == "fail")
    assert not any(check.status == "fail" for check in report.checks if check.id != "pushes-apart")
    assert ("touches-move" in found) == ("gradient/objective.predictor" in found) == (window is not None)
    assert {"stream-change/tactile1", "one-batch-overfits", "gradient/objective.projector.0"} <= found.keys()


def test_the_parts_of_an_objective_come_in_order_and_end_with_the_whole(tmp_path: Path) -> None:
    codebook = {"size": 16, "refresh_every": 2, "expire_below": 1.0}
    pre = {"sensors": ["tactile1"], "codebook": codebook, "next": {}}
    config = pretraining(tmp_path, tmp_path / "run", pretrain=pre)
    names, values, parts = zip(*grown_objective(config), strict=True)
    assert names == (
        "pretrain.sigreg_weight",
        "pretrain.next",
        "pretrain.codebook",
        "pretrain.codebook.refresh_every",
        "pretrain.codebook.expire_below",
    )
    assert values == (0.05, "4 touches", "vq", 2, 1.0) and parts[-1] == config
    assert parts[0].pretrain.codebook is None and parts[0].pretrain.next is None


@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (12, 12)])
def test_an_ablation_that_would_not_train_is_refused(tmp_path: Path, steps: int, warmup: int) -> None:
    config = pretraining(tmp_path, tmp_path / "run", optimiser={"warmup_steps": warmup})
    with pytest.raises(InputError, match=rf"warmup_steps = {warmup}.*got steps = {steps}"):
        ablate(config, steps=steps)


def test_the_part_that_breaks_a_pretraining_is_named(regrasp_folder: Path, tmp_path: Path) -> None:
    pre = {"sensors": ["tactile1"], "sigreg_weight": 0.0, "codebook": {"size": 16}, "next": {}}
    rates = {"lr_tower": 2e-3, "lr_head": 2e-3, "warmup_steps": 2, "weight_decay": 0.05}
    config = pretraining(regrasp_folder, tmp_path / "run", pretrain=pre, optimiser=rates)
    report = ablate(config, steps=12, data=load_data(config, progress=False))
    (check,) = report.checks
    assert (check.id, check.status) == ("addition/pretrain.sigreg_weight", "fail"), report.text()
    assert "collapse/z/touch" in check.measured and "sigreg_weight (now 0)" in check.advice
    assert not (tmp_path / "run").exists()


def repeated_touch(batch: MomentBatch) -> MomentBatch:
    """Return the batch with windows in which the newest touch stands still."""
    image = batch.touches["tactile1"].image
    return batch.with_images({"tactile1": image[..., :3].repeat(1, 1, 1, image.shape[3] // 3)})


@pytest.mark.parametrize(
    ("change", "status"), [(repeated_touch, "warn"), (constant_touch, None), (lambda batch: batch, "pass")]
)
def test_touches_that_stand_still_are_seen_through_the_noise_of_the_objective(
    regrasp_folder: Path, tmp_path: Path, change: Callable[[MomentBatch], MomentBatch], status: str | None
) -> None:
    config = pretraining(regrasp_folder, tmp_path / "run", pretrain={"sensors": ["tactile1"], "next": {"stride": 2}})
    checks = pretraining_checks(config, spoilt(load_data(config, progress=False), change))
    before = takewhile(lambda check: not check.id.startswith("gradient/"), checks)
    assert {check.id: check.status for check in before}.get("touches-move") == status


def test_a_prediction_at_chance_breaks_an_objective(
    regrasp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_at_chance(config: TrainConfig, **options: object) -> Path:
        watch, out = Watch(config), Path(config.out)
        record = {"next": 0.25, "next_chance": 0.25}
        found = [finding(step, check) for step in range(10, 201, 10) for check in watch.train(step, record)]
        out.mkdir()
        (out / "metrics.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in found), encoding="utf-8")
        return out

    monkeypatch.setattr("tactile_align.diagnostics.doctor.pretraining.train", train_at_chance)
    config = pretraining(regrasp_folder, tmp_path / "run", pretrain={"sensors": ["tactile1"], "next": {}})
    (check,) = breaks(config, load_data(config, progress=False), 200)
    assert (check.id, check.status) == ("next-at-chance", "fail")
