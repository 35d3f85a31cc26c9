"""The doctor's rows of action heads pass healthy ones and find each defect of a denoiser that never trained."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tactile_align.checks import Check
from tactile_align.config.presets import with_preset
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor import learning, model
from tactile_align.diagnostics.doctor.data import statistics
from tactile_align.diagnostics.doctor.subject import Subject, examine
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.aligned import AlignedPolicy, Losses
from tactile_align.policies.heads.denoising import Denoising
from tactile_align.policies.heads.head import Draws, Memory
from tactile_align.training.data import load_data
from tactile_align.training.loop import build_model
from tests.training.heads import on_joints

HEADS, DENOISERS = ("act", "flow", "diffusion"), ("flow", "diffusion")


@pytest.fixture(scope="module")
def subjects(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    made = {}
    for head in HEADS:
        config = on_joints(regrasp_folder, tmp_path_factory.mktemp("heads") / head, head)
        data = load_data(config, progress=False)
        made[head] = examine(config, data, build_model(config, data.train))
    return made


def spoilt(subject: Subject, **changes: Any) -> Subject:
    """Return the subject with a copy of its model, and with changed entries."""
    return replace(subject, model=build_model(subject.config, subject.data.train), **changes)


def by_kind(checks: Any) -> dict[str, Check]:
    return {check.kind: check for check in checks}


@pytest.mark.parametrize("head", DENOISERS)
def test_a_healthy_denoiser_passes(subjects: dict[str, Subject], head: str) -> None:
    subject = subjects[head]
    checks = [*model.denoiser(subject), *model.large_loss(subject), *model.clipping(subject), *statistics(subject)]
    checks += [*learning.uses_observations(subject), *model.gradients(subject)]
    assert [f"{c.id}: {c.measured}" for c in checks if c.status != "pass"] == []
    kinds = {"output-std", "initial-loss", "denoiser-rate", "loss-as-defined", "gradient-clip", "action-range"}
    assert {*kinds, "observation-shuffle"} <= {check.kind for check in checks}


@pytest.mark.parametrize("head", DENOISERS)
def test_weights_six_times_too_large_are_found(subjects: dict[str, Subject], head: str) -> None:
    subject = spoilt(subjects[head])
    for part in subject.model.act.denoiser.modules():
        if isinstance(part, nn.Linear):
            part.reset_parameters()
            part.weight.data.mul_(6)
    found = by_kind(model.denoiser(subject))
    assert found["output-std"].status == "fail" and found["initial-loss"].status == "fail"


class Scaled(AlignedPolicy):
    """Policy whose action loss is scaled down where it is large."""

    def losses(self, *args: Any, **options: Any) -> Losses:
        found = super().losses(*args, **options)
        large = found.action is not None and float(found.action) > 1000
        return found._replace(action=0.1 * found.action) if large and found.action is not None else found


@pytest.mark.parametrize("head", HEADS)
def test_a_loss_that_is_scaled_down_above_1000_is_found(subjects: dict[str, Subject], head: str) -> None:
    subject = spoilt(subjects[head])
    assert by_kind(model.large_loss(subject))["loss-as-defined"].status == "pass"
    subject.model.__class__ = Scaled
    found = by_kind(model.large_loss(subject))["loss-as-defined"]
    assert found.status == "fail" and found.value == pytest.approx(0.9, abs=0.01)


def test_ten_times_the_rate_of_balanced_is_found() -> None:
    entries = {"preset": "balanced", "data": [{"path": "a", "rig": "b"}], "hsa": {"weight": 0.0}}
    policy = {"head": "flow", "cameras": ["top"], "vision_weights": "scratch"}
    preset = TrainConfig.model_validate(with_preset({**entries, "policy": policy}, "test"))
    fast = preset.optimiser.model_copy(update={"lr": 10 * preset.optimiser.lr})
    assert model.denoiser_rate(preset).status == "pass"
    assert model.denoiser_rate(preset.model_copy(update={"optimiser": fast})).status == "warn"


@pytest.mark.parametrize("head", DENOISERS)
def test_actions_scaled_by_mean_and_deviation_are_found(subjects: dict[str, Subject], head: str) -> None:
    subject = subjects[head]
    mixed = Statistics.of(subject.data.train.low_dim())
    data = replace(subject.data, statistics=mixed, train=subject.data.train.normalised(mixed))
    spoilt = examine(subject.config, data, subject.model)
    assert by_kind(statistics(spoilt))["action-range"].status == "fail"


def test_a_run_without_gradient_clipping_is_warned_of(subjects: dict[str, Subject]) -> None:
    config = subjects["flow"].config
    never = config.optimiser.model_copy(update={"clip_norm": 1e9})
    subject = replace(subjects["flow"], config=config.model_copy(update={"optimiser": never}))
    assert by_kind(model.clipping(subject))["gradient-clip"].status == "warn"


@pytest.mark.parametrize("head", DENOISERS)
def test_a_denoiser_that_ignores_the_observation_is_found(subjects: dict[str, Subject], head: str) -> None:
    subject = spoilt(subjects[head])

    def blind(encode: Any, *args: Any) -> Memory:
        memory = encode(*args)
        return memory._replace(tokens=torch.zeros_like(memory.tokens))

    subject.model.act.encode = partial(blind, subject.model.act.encode)
    assert by_kind(learning.uses_observations(subject))["observation-shuffle"].status == "fail"


def test_noises_without_one_near_pure_noise_do_not_decide_whether_observations_are_used(
    subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, calls = Denoising.random, iter(range(10**6))

    def little(head: Denoising, rows: int, generator: torch.Generator | None) -> Draws:
        return draw(head, rows, generator)._replace(level=torch.zeros(rows, head.config.denoiser.draws))

    def every_other(head: Denoising, rows: int, generator: torch.Generator | None) -> Draws:
        return (draw if next(calls) % 2 else little)(head, rows, generator)

    monkeypatch.setattr(Denoising, "random", every_other)
    (check,) = learning.uses_observations(subjects["diffusion"])
    assert check.status == "pass" and "nan" not in check.measured
    monkeypatch.setattr(Denoising, "random", little)
    assert list(learning.uses_observations(subjects["diffusion"])) == []


def test_one_moment_has_no_observation_to_shuffle(subjects: dict[str, Subject]) -> None:
    one = subjects["flow"].few.rows(slice(0, 1))
    assert list(learning.uses_observations(replace(subjects["flow"], few=one))) == []
