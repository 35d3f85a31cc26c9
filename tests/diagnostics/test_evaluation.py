"""Judging a run: its baseline must be whole, and what cannot be judged is said."""

import copy
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tactile_align import cli
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics import evaluation
from tactile_align.diagnostics.evaluation import (
    BASELINE,
    BASELINE_RATES,
    TRIAL,
    baseline_trials,
    compare,
    evaluate,
    held_out_loss,
    kept_trials,
    opening_only,
)
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.readouts import view_readouts
from tactile_align.diagnostics.retrieval import retrieval
from tactile_align.diagnostics.summary import (
    BaselineTrial,
    HeldOutLoss,
    best_trial,
    json_of,
    result_of,
    summary_of,
    view_lines,
)
from tactile_align.errors import InputError
from tactile_align.losses.build import negatives_of
from tactile_align.moments.dataset import Moments
from tactile_align.policies.build import LoadedRun, make_model
from tactile_align.policies.checkpoint import FORMAT, latest_checkpoint, load_checkpoint
from tactile_align.training import loop, validation
from tactile_align.training.data import Data, load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.optimiser import make_optimiser
from tactile_align.training.state import finished
from tactile_align.viz.report.report import judge, report
from tactile_align.viz.report.run_folder import read_run
from tests.training.conftest import small_training
from tests.training.test_without_pairs import first_contact, without

Maker = Callable[..., TrainConfig]
KEY = "left_wrist-tactile1"


@pytest.fixture(scope="module")
def trained(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Data]:
    """A finished run of the alignment alone, and its data."""
    config = small_training(
        regrasp_folder, tmp_path_factory.mktemp("run") / "run", train_policy=False, steps=2, validate_every=1
    )
    data = load_data(config, progress=False)
    loop.train(config, data=data, progress=False)
    return config, data


def steps_of(run: Path) -> int:
    return int(load_checkpoint(latest_checkpoint(run / "checkpoints"))["step"])


def test_a_baseline_that_was_stopped_is_gone_on_with_and_never_compared_with(
    trained: tuple[TrainConfig, Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = trained
    baseline = Path(config.out) / BASELINE / "lr_0.0001"
    (baseline / "checkpoints").mkdir(parents=True)
    (baseline / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')  # killed before its first checkpoint
    validate = loop.validate

    def interrupted(*args: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return validate(*args)

    monkeypatch.setattr(loop, "validate", interrupted)
    with pytest.raises(InputError, match=r"opening_only.*2 steps.*stopped.*again"):
        evaluate(config.out, data=data, progress=False)
    assert steps_of(baseline) == 1 and not (Path(config.out) / "summary.json").exists()
    monkeypatch.undo()
    view = evaluate(config.out, data=data, progress=False).views[KEY]
    assert steps_of(baseline) == 2 and view.opening_only is not None and view.opening_only.retrieval["both"].queries > 0
    assert [record["step"] for record in validations(baseline)] == [1, 2]
    assert [trial.rate for trial in view.opening_only.trials] == [1e-4, 1e-3, 1e-2]


def test_a_second_evaluation_trains_no_baseline_and_says_the_same(
    trained: tuple[TrainConfig, Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = trained
    first = evaluate(config.out, data=data, progress=False)

    def trains(*_: object, **__: object) -> None:
        raise AssertionError("training began again")

    monkeypatch.setattr(evaluation, "train", trains)
    assert evaluate(config.out, data=data, progress=False) == first
    bare = evaluate(config.out, data=data, progress=False, baseline_rates=())
    assert bare == first, "without training, the baseline in the folder counts"


def test_without_rates_only_finished_trials_of_the_runs_steps_count(
    trained: tuple[TrainConfig, Data], tmp_path: Path
) -> None:
    config = trained[0].model_copy(update={"out": str(tmp_path / "run")})
    assert kept_trials(config) == ()
    for rate, steps, recall in ((1e-2, 2, 0.1), (1e-3, 2, None), (1e-4, 9, 0.5)):
        folder = Path(opening_only(config, rate).out)
        folder.mkdir(parents=True)
        (folder / TRIAL).write_text(json_of(BaselineTrial(rate, steps, 1.0, recall)), encoding="utf-8")
    assert [(trial.rate, trial.recall) for trial in kept_trials(config)] == [(1e-3, None), (1e-2, 0.1)]
    (Path(opening_only(config, 1e-2).out) / TRIAL).unlink()
    assert kept_trials(config) == (), "the only finished trial diverged"


def test_the_command_leaves_the_baseline_out_when_asked(
    trained: tuple[TrainConfig, Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def judged(run: Path, **options: object) -> None:
        asked.append(options["baseline_rates"])
        raise InputError("judged")

    monkeypatch.setattr(evaluation, "evaluate", judged)
    for words in (["evaluate", "RUN"], ["evaluate", "RUN", "--no-baseline"]):
        assert cli.run(words) == 2
    assert asked == [BASELINE_RATES, ()]


def test_the_best_rate_on_held_out_episodes_counts_and_one_that_diverges_does_not(
    trained: tuple[TrainConfig, Data], tmp_path: Path
) -> None:
    config, data = trained[0].model_copy(update={"out": str(tmp_path / "run")}), trained[1]
    trials = baseline_trials(config, data, (1e-3, 1e30), progress=False)
    assert [trial.recall is None for trial in trials] == [False, True]
    assert all(trial.seconds > 0 and trial.steps == 2 for trial in trials) and best_trial(trials) is trials[0]
    kept = Path(opening_only(config, 1e30).out) / TRIAL
    assert result_of(BaselineTrial, json.loads(kept.read_text(encoding="utf-8")), "") == trials[1]
    better = replace(trials[0], recall=1.0)
    assert best_trial((*trials, better)) is better
    with pytest.raises(InputError, match=r"diverged at every learning rate \(1e\+30\).*--no-baseline"):
        best_trial(trials[1:])


def test_a_staged_run_has_a_baseline_that_trains_the_alignment_at_every_step(trained: tuple[TrainConfig, Data]) -> None:
    base = trained[0].model_dump() | {"train_policy": True, "steps": 6}
    staged = TrainConfig.model_validate(base | {"alignment": {"mode": "pretrain_then_tune", "pretrain_steps": 3}})
    baseline = opening_only(staged, 1e-3)
    assert (baseline.steps, baseline.alignment.mode, baseline.region) == (6, "joint", "opening")
    assert (baseline.optimiser.lr_head, baseline.optimiser.lr_tower) == (1e-3, staged.optimiser.lr_tower)


def test_a_baseline_is_trained_for_all_steps_of_a_run_with_patience(
    small_config: Maker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(validation, "GALLERY", 6)
    frozen = {"lr_tower": 1e-12, "lr_head": 1e-12, "lr_temperature": 1e-12, "warmup_steps": 0}
    config = small_config(train_policy=False, steps=4, patience=1, validate_every=1, optimiser=frozen)
    data = load_data(config, progress=False)
    assert steps_of(loop.train(config, data=data, progress=False)) < 4
    (trial,) = baseline_trials(config, data, [1e-12])
    assert steps_of(Path(config.out) / BASELINE / "lr_1e-12") == trial.steps == 4
    assert "first gradient" not in caplog.text


def test_the_baseline_of_a_run_that_started_from_another_starts_from_the_same_weights(
    trained: tuple[TrainConfig, Data], small_config: Maker
) -> None:
    first, data = trained
    config = small_config(train_policy=False, init=first.out)
    source = load_checkpoint(latest_checkpoint(Path(first.out) / "checkpoints"))["model"]
    towers = loop.build_model(opening_only(config, 1e-3), data.train).state_dict()
    taken = [name for name in towers if name in source and name.startswith("alignment.towers.vision.visual")]
    assert taken and all(torch.equal(towers[name], source[name]) for name in taken)
    acting = {"vision": "none", "region_tokens": False, "touch_tokens": False}
    alone = small_config("acting", policy=acting, hsa={"weight": 0.0}, views=[], contact_share="natural", steps=1)
    other = config.model_copy(update={"init": str(loop.train(alone, progress=False))})
    assert loop.start_from(loop.make_model(opening_only(other, 1e-3), 7, 7), opening_only(other, 1e-3))["taken"] == []
    gone = config.model_copy(update={"init": "runs/gone"})
    with pytest.raises(
        FileNotFoundError, match=r"init = 'runs/gone': no such run.*opening-only baseline.*--no-baseline"
    ):
        baseline_trials(gone, data, [1e-3], progress=False)


def easy_world(rng: np.random.Generator, count: int, code: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return openings (N, 2), m, and touch features (N, 96) that are a noisy code of the opening."""
    opening = rng.uniform(0.0, 0.05, size=(count, 1))
    waves = np.sin(2 * np.pi * (opening / 0.05) * np.arange(1, 9) * 0.5 + np.arange(8))
    touch = waves @ code + 0.1 * rng.normal(size=(count, 96))
    return torch.tensor(np.repeat(opening, 2, axis=1), dtype=torch.float32), torch.tensor(touch, dtype=torch.float32)


def recall_in_the_easy_world(config: TrainConfig) -> float:
    """Return R@1 among 64 of the baseline's own layers, loss and optimiser on frozen touch features."""
    model = make_model(config, 7, 7)
    alignment, head = model.alignment, model.alignment and model.alignment.towers.touch_head
    assert alignment is not None and alignment.opening_region is not None and head is not None
    optimiser, schedule = make_optimiser(model, config)
    rng = np.random.default_rng(0)
    code = rng.normal(size=(8, 96)) / 8**0.5
    rows, zeros, valid = torch.arange(16), torch.zeros(16, dtype=torch.int64), torch.ones(16, dtype=torch.bool)
    negatives = negatives_of(config.hsa, rows, zeros, None, zeros)
    for _ in range(config.steps):
        opening, touch = easy_world(rng, 16, code)
        tau, w = head(touch), alignment.opening_region(opening)
        loss, _, _ = alignment.contrast(tau, w, negatives, valid, alignment.temperature())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    opening, touch = easy_world(rng, 64 * 8, code)
    with torch.no_grad():
        tau, w = head(touch).numpy(), alignment.opening_region(opening).numpy()
    found = retrieval(tau, w, np.arange(512) // 8, np.arange(512), gallery=64)
    return found["both"].at[1]


def test_the_baseline_learns_the_easy_world_that_the_pretrained_rate_leaves_unlearnt(tmp_path: Path) -> None:
    rates = {"lr_tower": 1e-5, "lr_head": 1e-5, "warmup_steps": 20}
    config = small_training(
        tmp_path, tmp_path / "run", train_policy=False, steps=600, optimiser=rates, hsa={"learn_temperature": False}
    )
    chosen = max(recall_in_the_easy_world(opening_only(config, rate)) for rate in BASELINE_RATES)
    before = recall_in_the_easy_world(opening_only(config, config.optimiser.lr_head))
    assert chosen > 0.2 and before < 0.05, "chance is 0.016"


def test_the_read_outs_stand_in_the_summary_and_in_the_text_beside_their_baselines(
    trained: tuple[TrainConfig, Data],
) -> None:
    config, data = trained
    found = evaluate(config.out, data=data, progress=False)
    assert summary_of(Path(config.out) / "summary.json") == found
    stored = json.loads((Path(config.out) / "summary.json").read_text(encoding="utf-8"))["views"][KEY]
    # One held-out episode: no other episodes to find candidates in, and none to fit a probe on.
    assert set(stored["left_out"]) == {"galleries/cross-episode", "probes"}
    assert set(stored["galleries"]) == {"contact only", "same episode with a gap", "regions of the same image"}
    assert set(stored["opening_only"]["galleries"]) == {"contact only", "same episode with a gap"}
    assert stored["space"]["pairs"] == stored["moments"] and stored["localisation"]["moments"] == stored["contacts"]
    lines = found.text().splitlines()
    for name, recalls in stored["opening_only"]["galleries"].items():
        own = stored["galleries"][name]["both"]
        row = next(line for line in lines if line.startswith(name)).removeprefix(name)
        own_at, *remark, opening, chance, size = row.split()
        assert " ".join(remark) == "(too few episodes for an interval)", "there is one held-out episode"
        cells = [own["at"]["1"], recalls["both"]["at"]["1"], 1 / own["gallery"]]
        assert [own_at, opening, chance, size] == [*(f"{cell:.3f}" for cell in cells), str(own["gallery"])]
    minus = stored["minus_opening"]
    assert minus["pairs"] == stored["contacts"]
    assert any(line.startswith("box minus opening only, R@1 on the same") for line in lines)
    place = stored["localisation"]
    line = next(line for line in lines if line.startswith("localisation"))
    assert f"best fixed guess {place['always_there']:.3f}" in line and f"{place['distance_mm']:.1f} mm" in line
    assert any(line.startswith("left out: probes: a probe requires at least 4 judged") for line in lines)


def test_two_runs_are_compared_on_the_same_contacts_and_moments(
    trained: tuple[TrainConfig, Data], tmp_path: Path
) -> None:
    config, _ = trained
    outs = []
    for steps in (1, 2):
        acting = config.model_copy(update={"train_policy": True, "steps": steps, "out": str(tmp_path / f"run{steps}")})
        loop.train(acting, data=load_data(acting, progress=False), progress=False)
        outs.append(acting.out)
    found = compare(outs, progress=False)
    one, two = (summary_of(Path(out) / "summary.json") for out in outs)
    assert found.runs == (one, two) and found.comparisons == 1 + len(found.actions) and not found.left_out
    retrieved, acted = found.retrieval[KEY]["run2"], found.actions["all"]["run2"]
    assert retrieved.pairs == two.views[KEY].contacts
    assert retrieved.value == pytest.approx(
        two.views[KEY].retrieval["both"].at[1] - one.views[KEY].retrieval["both"].at[1], abs=1e-4
    )
    assert acted.value == pytest.approx(two.phases["all"]["policy"].error - one.phases["all"]["policy"].error)
    assert {"all", "transition"} <= set(found.actions) <= {"all", "free", "contact", "transition"}
    assert {"policy", "standing still", "last action", "linear in joints"} == set(one.phases["all"]), (
        "one episode: nothing to shuffle"
    )
    assert "paired with run1 on the same moments" in found.text()


def test_what_needs_an_image_is_left_out_of_a_model_that_sees_none(trained: tuple[TrainConfig, Data]) -> None:
    config, data = trained
    blind = opening_only(config, 1e-3)
    found = view_readouts(LoadedRun.untrained(blind, data.held_out), KEY)
    assert found.localisation is None and "region = 'opening'" in found.left_out["localisation"]
    assert "region = 'opening'" in found.left_out["galleries/regions of the same image"]
    assert set(found.galleries) == {"contact only", "same episode with a gap"}


def validations(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "validation"]


def test_a_run_is_finished_after_its_last_step_or_when_its_patience_is_over(
    regrasp_folder: Path, tmp_path: Path
) -> None:
    config = small_training(regrasp_folder, tmp_path, steps=6)
    assert not finished(config)
    for step, stale, patience, expected in ((5, 0, None, False), (6, 0, None, True), (5, 2, 2, True), (5, 1, 2, False)):
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        (tmp_path / "checkpoints").mkdir()
        state = {"format": FORMAT, "model": {}, "step": step, "stale": stale}
        torch.save(state, tmp_path / "checkpoints" / f"step_{step:08d}.pt")
        assert finished(config.model_copy(update={"patience": patience})) == expected


def test_held_out_episodes_without_contact_are_named(trained: tuple[TrainConfig, Data]) -> None:
    config, data = trained
    run = LoadedRun.load(Path(config.out), config, data.held_out, "retrieval")
    contact = data.held_out.touches["tactile1"].contact
    kept = contact.copy()
    contact[:] = np.False_
    try:
        for judge in (pair_features, view_readouts):
            with pytest.raises(ValueError, match=rf"{KEY}.*judged moments.*contact; none of"):
                judge(run, KEY)  # type: ignore[operator]
    finally:
        contact[:] = kept


def test_a_run_is_evaluated_on_the_device_of_its_config(trained: tuple[TrainConfig, Data]) -> None:
    config, data = trained
    elsewhere = config.model_copy(update={"device": "meta"})  # torch's device without data, which every machine has
    before = LoadedRun.untrained(elsewhere, data.held_out)
    after = LoadedRun.load(Path(config.out), elsewhere, data.held_out, "retrieval")
    for run in (before, after):
        batch = run.batch([0, 1])
        assert {str(tensor.device) for tensor in (*run.model.parameters(), *batch.tensors().values())} == {"meta"}


def test_held_out_batches_without_any_negative_are_no_test_and_said_to_be_none(
    trained: tuple[TrainConfig, Data],
) -> None:
    config, data = trained
    apart = config.hsa.model_copy(update={"min_gap": 10_000})  # of the one held-out episode nothing negatives anything
    alone = config.model_copy(update={"hsa": apart})
    run = LoadedRun(LoadedRun.load(Path(config.out), config, data.held_out, "retrieval").model, data.held_out, alone)
    loss = held_out_loss(run, pair_features(run, KEY))
    assert (loss.hsa, loss.chance) == (0, 0)
    view = evaluate(config.out, data=data, progress=False).views[KEY]
    assert "no pair has a negative in its batch" in next(view_lines(replace(view, loss=loss)))


@pytest.mark.parametrize(
    ("hsa", "time", "contact", "negatives"),
    [
        ({}, [0, 0, 0, 0], [0, 0, 0, 0], [3, 3, 3, 3]),
        ({"touch_ceiling": 0.98}, [0, 0, 0, 0], [0, 0, 0, 0], [2, 2, 3, 3]),  # the first two feel the same
        ({"min_gap": 3}, [0, 1, 2, 3], [0, 1, 2, 3], [1, 0, 0, 1]),  # of one episode: two are too near to all others
        ({"min_gap": 3}, [0, 9, 20, 40], [0, 0, 1, 2], [2, 2, 3, 3]),  # of one episode: the first two are one contact
    ],
)
def test_the_held_out_loss_follows_the_rules_of_the_run(
    tmp_path: Path, hsa: dict[str, Any], time: list[int], contact: list[int], negatives: list[int]
) -> None:
    changes = {"hsa": {"min_gap": 0, "temperature": 0.25, **hsa}, "batch_size": 4, "train_policy": False}
    config = small_training(tmp_path / "recording", tmp_path / "run", **changes)
    run = LoadedRun(make_model(config, 7, 7).eval(), None, config)  # type: ignore[arg-type]  # features are all it takes
    one = np.eye(4, dtype=np.float32)
    episode = np.zeros(4, np.int64) if hsa.get("min_gap") else np.arange(4)
    features = {"h_tau": one, "h_w": one, "episode": episode, "time": np.array(time), "contact": np.array(contact)}
    features["touch"] = one[[0, 0, 2, 3]]
    found = held_out_loss(run, features)
    n = np.array(negatives)
    assert found.chance == pytest.approx(np.log1p(n).mean(), rel=1e-5)
    assert found.hsa == pytest.approx(np.log1p(n * np.exp(-1 / 0.25)).mean(), rel=1e-5)


def test_a_run_with_one_held_out_contact_is_evaluated_and_reported_without_retrieval(
    trained: tuple[TrainConfig, Data], tmp_path: Path
) -> None:
    config, data = trained[0].model_copy(update={"out": str(tmp_path / "run")}), trained[1]
    shutil.copytree(trained[0].out, config.out, ignore=shutil.ignore_patterns(BASELINE, "summary.json"))
    single = replace(data, held_out=without(data.held_out, KEY, contact=first_contact(data.held_out)))
    view = evaluate(config.out, data=single, progress=False).views[KEY]
    assert view.contacts == 1 and view.retrieval == {} and view.opening_only is None
    for name in ("retrieval", "opening only", "galleries/contact only"):
        assert re.search("one held-out contact.*hold out more", view.left_out[name]), name
    assert any(re.search("left out: .*one held-out contact", line) for line in view_lines(view))
    text = (Path(config.out) / "summary.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"summary.json contains a bare {name}"))
    page = report(config.out).read_text(encoding="utf-8")
    assert "one held-out contact" in page


def without_gripper(moments: Moments) -> Moments:
    other = copy.copy(moments)
    other.touches = {name: replace(touch, opening=None) for name, touch in moments.touches.items()}
    return other


def test_a_run_of_an_arm_without_a_gripper_is_evaluated_without_the_opening_baseline(
    trained: tuple[TrainConfig, Data], tmp_path: Path
) -> None:
    config, data = trained[0].model_copy(update={"out": str(tmp_path / "run")}), trained[1]
    shutil.copytree(trained[0].out, config.out, ignore=shutil.ignore_patterns(BASELINE, "summary.json"))
    bare = replace(data, train=without_gripper(data.train), held_out=without_gripper(data.held_out))
    view = evaluate(config.out, data=bare, progress=False).views[KEY]
    assert view.opening_only is None and view.retrieval["both"].queries > 1
    assert "tactile1" in view.left_out["opening only"] and "no gripper" in view.left_out["opening only"]
    assert "opening from h_tau" not in view.probes
    (found,) = (check for check in judge(read_run(config.out)).checks if check.id == f"retrieval-opening/{KEY}")
    assert "no gripper" in found.why and found.advice == ""
    with pytest.raises(InputError, match=r"region = 'opening' needs a gripper.*tactile1"):
        loop.train(opening_only(config, 1e-3), data=bare, progress=False)


def test_non_finite_results_are_stored_as_words_and_read_as_numbers() -> None:
    loss = HeldOutLoss(float("nan"), float("inf"), 4)
    assert '"nan"' in json_of(loss) and "NaN" not in json_of(loss)
    found = result_of(HeldOutLoss, json.loads(json_of(loss)), "")
    assert np.isnan(found.hsa) and found.chance == float("inf")
