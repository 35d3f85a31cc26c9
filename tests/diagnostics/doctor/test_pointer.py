"""The doctor's rows of the contact pointer pass a healthy one and find each defect of a pointer that never trained."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tactile_align.checks import Check
from tactile_align.diagnostics.doctor import learning, model, pointer
from tactile_align.diagnostics.doctor.diagnose import grown
from tactile_align.diagnostics.doctor.subject import Subject, examine
from tactile_align.training.data import load_data
from tactile_align.training.loop import build_model
from tests.training.conftest import small_training

KEY, WIDTH = "top-tactile1", 32
POINTER = {"views": [KEY], "width": WIDTH, "most": 2, "horizon": 8}
PIECES = {"history": True, "touch": True, "memory": True}
RATE = {"lr_tower": 3e-4, "lr_pointer": 3e-4}  # that of so small an encoder, at which the first step lowers the loss
ALONE = {"optimiser": RATE, "hsa": {"weight": 0.0}, "train_policy": False, "contact_share": "natural", "batch_size": 16}


@pytest.fixture(scope="module")
def subject(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A run that trains only the pointer, with all its pieces."""
    views, out = [{"camera": "top", "sensor": "tactile1"}], tmp_path_factory.mktemp("pointer")
    config = small_training(regrasp_folder, out, views=views, pointer={**POINTER, **PIECES}, **ALONE)
    data = load_data(config, progress=False)
    return examine(config, data, build_model(config, data.train))


def spoilt(subject: Subject) -> Subject:
    return replace(subject, model=copy.deepcopy(subject.model))


def by_id(checks: Any) -> dict[str, Check]:
    return {check.id: check for check in checks}


def first_steps(subject: Subject) -> tuple[Any, Any, float]:
    """Return the losses before and after the run's first step, and the total after one at the full rate."""
    ramped = learning._Lesson(subject, learning.ramp(subject))
    before = ramped.losses()
    return before, {1.0: ramped.take(1).losses()}, learning._Lesson(subject, 1.0).take(1).losses()[0]


def test_a_healthy_pointer_passes(subject: Subject) -> None:
    lesson = learning._Lesson(subject, 10.0).take(32)  # the doctor tries this rate, too, and takes the best
    checks = [*pointer.targets(subject), *pointer.rate_and_outputs(subject), *model.gradients(subject)]
    checks += [*pointer.predictions(subject, lesson.model), *learning.one_step(subject, *first_steps(subject))]
    assert [f"{c.id}: {c.measured}" for c in checks if c.status != "pass"] == []
    parts = {"key", "offset.0", "query.0", "done.0", "memory", "recall"}
    assert {f"gradient/pointer.{part}" for part in parts} <= {check.id for check in checks}
    rows = {
        "pointer-targets",
        "done-classes",
        "point-is-recorded",
        "point-spread",
        "points-in-corner",
        "done-predicted",
    }
    assert {f"{row}/{KEY}" for row in rows} <= {check.id for check in checks}


def test_five_times_the_rate_of_the_recipe_is_found(subject: Subject) -> None:
    for factor, status in ((1, "pass"), (5, "warn")):
        optimiser = subject.config.optimiser.model_copy(update={"lr_pointer": factor * 1e-3 * 128 / WIDTH})
        run = replace(subject, config=subject.config.model_copy(update={"optimiser": optimiser}))
        assert by_id(pointer.rate_and_outputs(run))["pointer-rate"].status == status


def test_a_first_step_that_raises_only_the_loss_of_the_pointer_is_found(subject: Subject) -> None:
    before, first, full = first_steps(subject)
    rising = {factor: (total, aligned, 1.1 * before[2]) for factor, (total, aligned, _) in first.items()}
    found = by_id(learning.one_step(subject, before, rising, full))["first-step"]
    assert found.status == "warn" and "pointer" in found.measured


def test_a_saturated_tanh_in_the_head_is_found(subject: Subject) -> None:
    bad = spoilt(subject)
    with torch.no_grad():
        bad.model.pointer.offset[2].weight.mul_(300)
    bad.model.pointer.offset = nn.Sequential(bad.model.pointer.offset, nn.Tanh())
    assert by_id(pointer.rate_and_outputs(bad))["pointer-saturated"].status == "fail"


def test_a_memory_without_connection_is_found(subject: Subject) -> None:
    bad = spoilt(subject)

    class Cut(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    bad.model.pointer.recall.__class__ = Cut
    found = by_id(model.gradients(bad))
    assert found["gradient/pointer.memory"].status == "fail" and found["gradient/pointer.query.0"].status == "pass"


def test_done_of_one_class_is_found_in_the_data_and_in_the_predictions(subject: Subject) -> None:
    ahead = subject.data.train.ahead[KEY]
    never = replace(ahead, done=ahead.done & False)
    train = copy.copy(subject.data.train)
    train.ahead = {KEY: never}
    bad = replace(subject, data=replace(subject.data, train=train))
    assert by_id(pointer.targets(bad))[f"done-classes/{KEY}"].status == "warn"
    stuck = copy.deepcopy(subject.model)
    with torch.no_grad():
        stuck.pointer.done[2].bias.fill_(-50.0)
    assert by_id(pointer.predictions(subject, stuck))[f"done-predicted/{KEY}"].status == "warn"


def test_points_stuck_in_a_corner_are_found(subject: Subject) -> None:
    stuck = copy.deepcopy(subject.model)
    with torch.no_grad():
        stuck.pointer.offset[2].weight.zero_()
        stuck.pointer.offset[2].bias.fill_(-100.0)
        stuck.pointer.query[2].weight.zero_()
        stuck.pointer.query[2].bias.zero_()
        stuck.pointer.recall.weight.zero_()
        stuck.pointer.recall.bias.zero_()
    found = by_id(pointer.predictions(subject, stuck))
    assert found[f"points-in-corner/{KEY}"].status == "fail" and found[f"point-spread/{KEY}"].status == "warn"
    assert found["pointer-image-shuffle"].status != "pass"


def test_points_that_do_not_move_with_the_image_are_found(subject: Subject) -> None:
    ahead = subject.batch.ahead[KEY]
    batch = replace(subject.batch, ahead={KEY: replace(ahead, points=ahead.points + 1.0)})
    assert by_id(pointer.targets(replace(subject, batch=batch)))[f"point-is-recorded/{KEY}"].status == "fail"


def test_nothing_is_said_of_recorded_points_where_none_is_known(subject: Subject) -> None:
    ahead = subject.batch.ahead[KEY]
    batch = replace(subject.batch, ahead={KEY: replace(ahead, known=ahead.known & False)})
    assert f"point-is-recorded/{KEY}" not in by_id(pointer.targets(replace(subject, batch=batch)))


def test_a_frozen_vision_tower_of_a_pointer_alone_is_found(subject: Subject) -> None:
    bad = spoilt(subject)
    bad.model.alignment.towers.vision.requires_grad_(False)
    found = by_id(model.trainable(bad))["trainable-parameters"]
    assert found.status == "fail" and "towers.vision is frozen" in found.measured


def test_the_pieces_of_a_pointer_come_one_by_one_and_its_token_last(regrasp_folder: Path, tmp_path: Path) -> None:
    views = [{"camera": "top", "sensor": "tactile1"}]
    policy = {"vision": "none", "region_tokens": False, "touch_tokens": False, "pointer_token": True}
    config = small_training(
        regrasp_folder, tmp_path / "run", views=views, pointer={**POINTER, **PIECES}, hsa={"weight": 0.0}, policy=policy
    )
    names, _, parts = zip(*grown(config), strict=True)
    grown_pieces = ("pointer", "pointer.history", "pointer.touch", "pointer.memory", "policy.pointer_token")
    assert names == ("train_policy", *grown_pieces)  # not hsa.learn_temperature, as the loss is off
    assert parts[0].pointer is None and parts[1].pointer.memory is False and parts[-1] == config
