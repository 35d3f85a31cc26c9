"""The watch speaks up once, with the step, about a training that looks ill, and is silent about a healthy one."""

from collections.abc import Callable
from typing import Any

import pytest

from tactile_align.config.train import TrainConfig
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train
from tactile_align.training.watch import Remark, Watch

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


def said(watch: Watch, kind: str, records: list[dict[str, Any]], every: int = 10) -> list[Remark]:
    return [remark for i, one in enumerate(records) for remark in getattr(watch, kind)((i + 1) * every, one)]


@pytest.fixture
def watch(small_config: Maker) -> Watch:
    return Watch(small_config(steps=1000))


def test_a_healthy_course_is_met_with_silence(watch: Watch) -> None:
    falling = [record(hsa__v=2.8 * 0.99**i, gradient_cosine=0.1) for i in range(100)]
    assert said(watch, "train", falling) == []
    assert said(watch, "validation", [health() | {"loss": 3 - 0.1 * i} for i in range(10)]) == []


@pytest.mark.parametrize(
    ("kind", "records", "check", "step"),
    [
        ("train", [record(hsa__v=2.79)] * 60, "flat at chance", 210),
        ("train", [record(data_s=0.5)] * 40, "data starvation", 100),
        ("train", [record()] * 5 + [record(temperature=0.01)] * 5, "temperature at its bound", 60),
        ("train", [record(gradient_cosine=-0.5)] * 8, "gradient conflict", 30),
        ("validation", [{"loss": 1.0}, {"loss": 0.9}, {"loss": 2.7}, {"loss": 3.0}], "validation spike", 30),
        ("validation", [health(), health(region=(1.4, 0.5))] * 3, "collapse", 20),
        ("validation", [health(), health(region=(6.4, 0.01))] * 3, "collapse", 20),
        ("validation", [health(), health(touch=(1.4, 0.5))] * 3, "collapse", 20),
    ],
)
def test_an_illness_is_named_once_with_its_step(
    watch: Watch, kind: str, records: list[dict[str, float]], check: str, step: int
) -> None:
    remarks = said(watch, kind, records)
    assert [(r.check, r.step) for r in remarks] == [(check, step)]
    assert len(remarks[0].text) > 60 and remarks[0].record()["kind"] == "finding"


def test_a_loss_at_chance_early_on_is_young_not_flat(watch: Watch) -> None:
    assert said(watch, "train", [record(hsa__v=2.8)] * 19) == []


def test_the_opening_only_baseline_is_not_blamed_for_its_one_dimension(small_config: Maker) -> None:
    baseline = Watch(small_config(steps=1000, region="opening", train_policy=False))
    assert said(baseline, "validation", [health(region=(1.4, 0.5))] * 3) == []


def test_pairs_that_mostly_have_no_negative_are_pointed_out(watch: Watch) -> None:
    assert said(watch, "train", [record(no_negative__v=1.0, pairs__v=9.0)] * 20) == []
    (remark,) = said(watch, "train", [record(no_negative__v=3.0, pairs__v=3.0)] * 20)
    assert remark.check == "pairs without negatives" and remark.text.startswith("2") and "contact_share" in remark.text


def test_a_run_that_pulls_pairs_together_and_nothing_apart_is_named_as_collapsed(small_config: Maker) -> None:
    config = small_config(
        train_policy=False,
        hsa={"kind": "mse", "learn_temperature": False},
        steps=20,
        validate_every=20,
        save_every=20,
    )
    (found,) = [
        one for one in read_metrics(train(config, progress=False) / "metrics.jsonl") if one["kind"] == "finding"
    ]
    assert (found["check"], found["step"]) == ("collapse", 20)
    assert "touch/left_wrist-tactile1" in found["text"] and "region/left_wrist-tactile1" in found["text"]
    assert "hsa.kind = 'hsa'" in found["text"]
