"""The watch speaks up once, with the step, about a training that looks ill, and is silent about a healthy one."""

from collections.abc import Callable
from typing import Any

import pytest

from tactile_align.checks import Check
from tactile_align.config.train import TrainConfig
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train
from tactile_align.training.watch import Watch, finding

Maker = Callable[..., TrainConfig]


def record(**changes: float) -> dict[str, float]:
    healthy = {"loss": 2.0, "hsa/v": 1.5, "chance/v": 2.8, "data_s": 0.01, "step_s": 1.0, "temperature": 0.07}
    return healthy | {name.replace("__", "/"): value for name, value in changes.items()}


def health(touch: tuple[float, float] = (6.0, 0.5), region: tuple[float, float] = (6.4, 0.4)) -> dict[str, float]:
    """A validation record with effective rank and spread of both sides."""
    sides = {"touch": touch, "region": region}
    return {"loss": 1.0} | {
        f"{name}/{side}/v": value
        for side, values in sides.items()
        for name, value in zip(("rank", "spread"), values, strict=True)
    }


def pointing(**values: float) -> dict[str, float]:
    """A training record of a pointer in the view v."""
    healthy = {"map": 2.0, "map_chance": 4.0, "done": 0.3, "said_done": 0.4, "is_done": 0.4}
    return {f"point_{name}/v": value for name, value in (healthy | values).items()}


def reported(watch: Watch, kind: str, records: list[dict[str, Any]], every: int = 10) -> list[tuple[int, Check]]:
    """Return each check with its step."""
    steps = range(every, (len(records) + 1) * every, every)
    looks = watch.train if kind == "train" else lambda _, record: watch.validation(record, record["loss"])
    return [(step, check) for step, record in zip(steps, records, strict=True) for check in looks(step, record)]


@pytest.fixture
def watch(small_config: Maker) -> Watch:
    return Watch(small_config(steps=1000))


def test_a_healthy_course_is_met_with_silence(watch: Watch) -> None:
    falling = [record(hsa__v=2.8 * 0.99**i, gradient_cosine=0.1) for i in range(100)]
    falling = [one | {"denoise": 0.99**i, "denoise_chance": 1.0} for i, one in enumerate(falling)]
    falling = [one | pointing(map=4.0 * 0.99**i, said_done=0.1) for i, one in enumerate(falling)]
    assert reported(watch, "train", falling) == []
    assert reported(watch, "validation", [health() | {"loss": 3 - 0.1 * i} for i in range(10)]) == []


@pytest.mark.parametrize(
    ("kind", "records", "check", "step"),
    [
        ("train", [record(hsa__v=2.79)] * 60, "flat-at-chance", 210),
        ("train", [record(denoise=1.26, denoise_chance=1.27)] * 60, "denoiser-at-chance", 210),
        ("train", [record() | pointing(map=3.99)] * 60, "pointer-at-chance/v", 210),
        ("train", [record() | pointing(said_done=0.0)] * 60, "done-one-class/v", 210),
        ("train", [record() | pointing(said_done=1.0)] * 60, "done-one-class/v", 210),
        ("train", [record(data_s=0.5)] * 40, "data-starvation", 100),
        ("train", [record()] * 5 + [record(temperature=0.01)] * 5, "temperature-at-bound", 60),
        ("train", [record(gradient_cosine=-0.5)] * 8, "gradient-conflict", 30),
        ("validation", [{"loss": 1.0}, {"loss": 0.9}, {"loss": 2.7}, {"loss": 3.0}], "validation-spike", 30),
        ("validation", [health(), health(region=(1.4, 0.5))] * 3, "collapse/region/v", 20),
        ("validation", [health(), health(region=(6.4, 0.01))] * 3, "collapse/region/v", 20),
        ("validation", [health(), health(touch=(1.4, 0.5))] * 3, "collapse/touch/v", 20),
    ],
)
def test_an_illness_is_named_once_with_its_step(
    watch: Watch, kind: str, records: list[dict[str, float]], check: str, step: int
) -> None:
    ((when, found),) = reported(watch, kind, records)
    assert (found.id, found.status, when) == (check, "warn", step)
    record = finding(when, found)
    assert (record["kind"], record["step"], record["id"], record["status"]) == ("finding", step, check, "warn")
    assert found.measured in record["text"] and record["advice"] == found.advice != ""


def courses(held_out: list[float], training: float) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Return (training record, validation record) pairs whose held-out loss takes these fractions of chance."""
    return [(record(hsa__v=training * 2.8), {"loss": 1.0, "hsa/v": ratio * 2.8, "chance/v": 2.8}) for ratio in held_out]


def overfit(watch: Watch, course: list[tuple[dict[str, float], dict[str, float]]]) -> list[tuple[int, Check]]:
    """Return the findings of the validation records, with the index of the pass."""
    found = []
    for number, (trained, held_out) in enumerate(course):
        watch.train(number + 1, trained)
        found += [(number, check) for check in watch.validation(held_out) if check.id == "held-out-at-chance"]
    return found


def test_a_held_out_loss_that_rises_to_chance_while_training_falls_is_named_once(watch: Watch) -> None:
    ((number, check),) = overfit(watch, courses([0.9, 0.8, 0.95, 1.2, 1.5], training=0.4))
    assert (number, check.status) == (3, "warn")
    assert check.measured == "1.20 of chance (lowest 0.80), in training 0.40"
    assert "fewer steps" in check.advice and "recall/VIEW" in check.advice


@pytest.mark.parametrize(
    ("held_out", "training"),
    [
        ([2.0, 1.6, 1.2, 1.0, 0.9], 0.8),  # from scratch: above chance, but it falls
        ([0.9, 1.0, 1.1], 1.0),  # training is at chance too, so nothing is learnt by heart
        ([0.5, 0.7, 0.9], 0.2),  # it rises, but what was learnt still helps
    ],
)
def test_a_held_out_loss_that_falls_or_stays_below_chance_is_no_overfitting(
    watch: Watch, held_out: list[float], training: float
) -> None:
    assert overfit(watch, courses(held_out, training)) == []


def test_a_module_that_the_loss_does_not_reach_is_named(watch: Watch) -> None:
    step = {"hsa_weight": 1.0, "l1": 0.3, "pairs/v": 8.0, "grad/towers.touch_head": 0.2, "grad/act.action_head": 0.1}
    step["grad/region_to_act"] = 0.1
    assert reported(watch, "train", [record() | step] * 3) == []
    # Before ACT is trained, or in a batch without pairs, no gradient is expected.
    alone = {name: value for name, value in step.items() if name != "l1"}
    alone |= {"grad/act.action_head": 0.0, "grad/region_to_act": 0.0}
    assert reported(watch, "train", [record() | alone] * 3) == []
    assert reported(watch, "train", [record() | step | {"pairs/v": 0.0, "grad/towers.touch_head": 0.0}]) == []
    ((when, check),) = reported(watch, "train", [record() | step | {"grad/towers.touch_head": 0.0}] * 3)
    assert (when, check.id, check.measured) == (10, "no-gradient", "1 of 3: towers.touch_head")


def test_a_denoiser_that_starts_after_pretraining_is_judged_from_its_own_first_step(small_config: Maker) -> None:
    watch = Watch(small_config(steps=1000, alignment={"mode": "pretrain_then_tune", "pretrain_steps": 500}))
    young = record(denoise=1.27, denoise_chance=1.27) | {"grad/act.encoder": 0.0}
    assert watch.train(501, young) == []
    assert [check.id for check in watch.train(502, young)] == ["no-gradient"]
    young["grad/act.encoder"] = 0.1
    found = [(step, check.id) for step in range(510, 700, 10) for check in watch.train(step, young)]
    assert found == [(610, "denoiser-at-chance")]


def test_features_that_are_not_finite_are_named_too(watch: Watch) -> None:
    broken = health(touch=(float("nan"), 0.5), region=(6.0, float("nan")))
    assert [c.id for c in watch.validation(broken)] == ["collapse/touch/v", "collapse/region/v"]


def test_a_loss_at_chance_early_on_is_young_not_flat(watch: Watch) -> None:
    assert reported(watch, "train", [record(hsa__v=2.8)] * 19) == []


def test_the_opening_only_baseline_is_not_blamed_for_its_one_dimension(small_config: Maker) -> None:
    baseline = Watch(small_config(steps=1000, region="opening", train_policy=False))
    assert reported(baseline, "validation", [health(region=(1.4, 0.5))] * 3) == []


def test_pairs_that_mostly_have_no_negative_are_pointed_out(watch: Watch) -> None:
    assert reported(watch, "train", [record(no_negative__v=1.0, pairs__v=9.0)] * 20) == []
    ((_, check),) = reported(watch, "train", [record(no_negative__v=3.0, pairs__v=3.0)] * 20)
    assert check.id == "pairs-without-negatives"
    assert check.advice.startswith("Raise contact_share or batch_size; `tactile-align doctor CONFIG` states")
    assert check.value == pytest.approx(18 / 84), "four of the ten records are new: 6 x 1 + 4 x 3 of 60 + 24 pairs"


def test_a_run_that_pulls_pairs_together_and_nothing_apart_is_named_as_collapsed(small_config: Maker) -> None:
    config = small_config(
        train_policy=False, hsa={"kind": "mse", "learn_temperature": False}, steps=20, validate_every=20, save_every=20
    )
    records = [one for one in read_metrics(train(config, progress=False) / "metrics.jsonl") if one["kind"] == "finding"]
    sides = ("touch", "region")
    assert {(one["id"], one["step"]) for one in records} == {(f"collapse/{s}/left_wrist-tactile1", 20) for s in sides}
    assert all("hsa.kind = 'hsa'" in one["advice"] for one in records)


def test_codes_that_are_lost_are_named_at_their_first_pass_and_once(watch: Watch) -> None:
    """The course is that of a codebook over features that collapse, recorded every 50 steps."""
    course = [0.484, 0.074, 0.055, 0.035, 0.031, 0.031]
    passes = [{"loss": 1.0, "usage": usage, "perplexity": usage / 3} for usage in course]
    found = reported(watch, "validation", passes, every=50)
    assert [(step, check.id) for step, check in found] == [(100, "codebook-halved"), (200, "codebook-usage")]
    assert all(check.advice.startswith("If a collapse is reported, too, follow its advice first") for _, check in found)
