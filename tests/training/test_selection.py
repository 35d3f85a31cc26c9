"""The weights a run keeps, by action error and by retrieval; what decides them, and what is read of them later."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.evaluation import evaluate
from tactile_align.diagnostics.retrieval import retrieval
from tactile_align.moments.augment import augment
from tactile_align.policies.build import LoadedRun, measure_of
from tactile_align.policies.checkpoint import load_checkpoint, selected_checkpoint
from tactile_align.policies.runtime import Policy
from tactile_align.training import loop, validation
from tactile_align.training.data import contacts_of, load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import build_model, train
from tactile_align.training.state import Progress
from tactile_align.training.validation import held_out_sampler, selected_measure, validate
from tests.training.heads import on_joints

Maker = Callable[..., TrainConfig]
KEY = "left_wrist-tactile1"
EACH = {"validate_every": 1, "save_every": 1, "keep_last": 99}


def scripted(monkeypatch: pytest.MonkeyPatch, **values: Sequence[float]) -> None:
    """Replace what validation measures; pass n of a run gets the n-th value of each name."""
    passes = iter([dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)])
    monkeypatch.setattr(loop, "validate", lambda *args: {n.replace("__", "/"): v for n, v in next(passes).items()})


def recall_name(name: str = KEY) -> str:
    return f"recall__{name}"


def test_action_and_retrieval_keep_their_own_best_weights_whatever_the_sum_of_losses(
    small_config: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(steps=3, **EACH)
    data = load_data(config, progress=False)
    scripted(monkeypatch, loss=[1.0, 2.0, 3.0], action_error=[0.5, 0.2, 0.3], **{recall_name(): [0.1, 0.05, 0.3]})
    out = train(config, data=data, progress=False)
    checkpoints = out / "checkpoints"
    for measure, step, value in (("action", 2, 0.2), ("retrieval", 3, 0.3)):
        best = load_checkpoint(selected_checkpoint(checkpoints, measure))  # type: ignore[arg-type]
        whole = load_checkpoint(checkpoints / f"step_{step:08d}.pt")
        assert (best["step"], best["measure"], best["value"]) == (step, measure, pytest.approx(value))
        assert all(torch.equal(best["model"][name], whole["model"][name]) for name in best["model"])
        assert set(whole) - set(best) == {"optimiser", "schedule", "mean", "best", "stale", "rng"}
        alike = ("config", "statistics", "rigs", "sizes", "episodes", "versions")
        assert {n: best[n] for n in alike} == {n: whole[n] for n in alike}
        run = LoadedRun.load(out, config, data.held_out, measure)  # type: ignore[arg-type]
        assert run.step == step and run.selected.endswith(f"{value:.3f}, step {step}")
    acting = Policy.load(out).model.state_dict()
    whole = load_checkpoint(checkpoints / "step_00000002.pt")["model"]
    assert all(torch.equal(acting[name], whole[name]) for name in whole)
    monkeypatch.undo()
    text = evaluate(out, data=data, progress=False).text()
    assert (
        "weights: best held-out R@1 0.300, step 3" in text
        and "weights: best held-out action error (normalised) 0.200, step 2" in text
    )


def test_best_weights_of_steps_that_a_resumed_run_discards_are_removed(
    small_config: Maker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config(steps=3, **EACH)
    data = load_data(config, progress=False)
    recalls = {recall_name(): [0.3, 0.2, 0.1]}
    scripted(monkeypatch, loss=[1.0] * 3, action_error=[0.5, 0.1, 0.3], **recalls)
    checkpoints = train(config, data=data, progress=False) / "checkpoints"
    for step in (2, 3):
        (checkpoints / f"step_0000000{step}.pt").unlink()
    scripted(monkeypatch, loss=[1.0] * 2, action_error=[0.8, 0.7], **{recall_name(): [0.2, 0.1]})
    train(config, data=data, resume=True, progress=False)
    action, retrieval = (load_checkpoint(checkpoints / f"best_{name}.safetensors") for name in ("action", "retrieval"))
    assert (action["step"], action["value"]) == (3, 0.7) and retrieval["step"] == 1
    assert "best_action.safetensors: removed" in caplog.text and "best_retrieval" not in caplog.text


def test_select_by_decides_which_weights_are_read(small_config: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(steps=3, hsa={"learn_temperature": False}, select_by="hsa", **EACH)
    data = load_data(config, progress=False)
    errors = {"action_error": [0.2, 0.5, 0.6], recall_name(): [0.1, 0.3, 0.2], "hsa": [3.0, 2.0, 1.0]}
    scripted(monkeypatch, loss=[1.0, 1.0, 1.0], **errors)
    out = train(config, data=data, progress=False)
    steps = {}
    for name in ("auto", "action", "retrieval", "hsa", "last"):
        changed = config.model_copy(update={"select_by": name})
        steps[name] = [LoadedRun.load(out, changed, data.held_out, m).step for m in ("action", "retrieval")]
    assert steps == {"auto": [1, 2], "action": [1, 1], "retrieval": [1, 2], "hsa": [1, 3], "last": [3, 3]}


def test_of_two_equal_passes_the_later_is_kept_but_is_no_progress() -> None:
    course = Progress()
    assert course.judge({"action": 0.5, "retrieval": 1.0}, "action") == ["action", "retrieval"]
    assert course.judge({"action": 0.5, "retrieval": 0.9}, "action") == ["action", "retrieval"] and course.stale == 1
    assert course.judge({"action": 0.6, "retrieval": 0.95}, "action") == [] and course.stale == 2
    assert course.judge({"action": float("nan")}, "action") == [] and course.stale == 3
    assert course.judge({"action": 0.4}, None) == ["action"] and course.stale == 3
    assert course.best == {"action": 0.4, "retrieval": 0.9}


def test_pretraining_is_never_stopped_or_called_a_spike_and_keeps_no_weights_for_acting(
    small_config: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = {"mode": "pretrain_then_tune", "pretrain_steps": 5}
    config = small_config(steps=9, alignment=staged, patience=2, validate_every=1)
    errors = [0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 0.8, 0.85, 0.95]
    scripted(monkeypatch, loss=[1.0] * 9, action_error=errors)
    out = train(config, progress=False)
    records = read_metrics(out / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "validation"] == list(range(1, 10))
    best = load_checkpoint(out / "checkpoints" / "best_action.safetensors")
    assert (best["step"], best["value"]) == (7, 0.8)
    assert not [r for r in records if r.get("id") == "validation-spike"]


def test_patience_of_retrieval_does_not_count_pretraining_either(
    small_config: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = {"mode": "pretrain_then_tune", "pretrain_steps": 5}
    config = small_config(steps=9, alignment=staged, patience=2, validate_every=1)
    monkeypatch.setattr(loop, "selected_measure", lambda *args, **options: "retrieval")
    recalls = [0.9, 0.8, 0.7, 0.6, 0.5, 0.1, 0.2, 0.3, 0.4]
    scripted(monkeypatch, loss=[1.0] * 9, action_error=[1.0] * 9, **{recall_name(): recalls})
    out = train(config, progress=False)
    records = read_metrics(out / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "validation"] == list(range(1, 8))  # two passes after step 5
    assert not [r for r in records if r.get("id") == "validation-spike"]


def test_patience_follows_the_measure_and_not_the_loss(small_config: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(steps=9, patience=2, validate_every=1, train_policy=False)
    monkeypatch.setattr(loop, "selected_measure", lambda *args, **options: "retrieval")
    losses = [9.0 - step for step in range(9)]
    scripted(monkeypatch, loss=losses, **{recall_name(): [0.1, 0.3, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]})
    out = train(config, progress=False)
    assert [r["step"] for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "validation"] == [1, 2, 3, 4]
    assert load_checkpoint(out / "checkpoints" / "best_retrieval.safetensors")["step"] == 4  # of equals the later


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select_by": "action", "train_policy": False}, "select_by = 'action' needs a policy"),
        ({"select_by": "retrieval", "hsa": {"weight": 0.0}}, "select_by = 'retrieval' needs the alignment loss"),
        ({"select_by": "hsa"}, r"fixed temperature; got hsa\.learn_temperature = true"),
        ({"select_by": "last", "patience": 3}, "patience = 3 needs a measure"),
    ],
)
def test_a_measure_that_cannot_be_measured_is_refused(
    small_config: Maker, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


@pytest.mark.parametrize("head", ["flow", "diffusion"])
def test_auto_never_selects_by_the_error_of_one_sampled_chunk(regrasp_folder: Path, tmp_path: Path, head: str) -> None:
    config = on_joints(regrasp_folder, tmp_path / "run", head)
    data = load_data(config, progress=False)
    acting = on_joints(regrasp_folder, tmp_path / "run", "act")
    for one, measure in (
        (config, None),
        (acting, "action"),
        (config.model_copy(update={"select_by": "action"}), "action"),
    ):
        assert selected_measure(one, data.held_out) == measure and one.unselected == (measure is None)
        assert measure_of(one, "action") == (measure or "last")
    with pytest.raises(
        ValueError, match=f"patience = 3 needs a measure; .*policy.head = '{head}'.*select_by = 'action'"
    ):
        on_joints(regrasp_folder, tmp_path / "run", head, patience=3)


def test_too_few_held_out_contacts_are_no_measure_of_retrieval(
    small_config: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config(steps=1, train_policy=False, patience=4)
    data = load_data(config, progress=False)
    count = int(contacts_of(data.held_out, build_model(config, data.train).views[0]).max()) + 1
    out = train(config, data=data, progress=False)
    assert f"too few contacts ({count} of view {KEY})" in caplog.text and "patience = 4 never ends" in caplog.text
    caplog.clear()
    assert selected_measure(config, data.held_out, quiet=True) is None and caplog.text == ""
    assert not list((out / "checkpoints").glob("best_*"))
    assert LoadedRun.load(out, config, data.held_out, "retrieval").selected == "last checkpoint, step 1"
    with pytest.raises(ValueError, match=rf"too few contacts \({count} of view {KEY}\); .* needs 64"):
        train(small_config("other", train_policy=False, select_by="retrieval"), data=data, progress=False)
    assert not Path(small_config("other").out).exists()


def test_the_recall_of_validation_is_that_of_the_tables_and_costs_no_pass_of_the_encoders(
    small_config: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "GALLERY", 6)
    config = small_config(validation_batches=4)
    data = load_data(config, progress=False)
    model, moments = build_model(config, data.train), data.held_out
    encoder, passes = model.alignment.towers.vision, []
    tokens = encoder.tokens
    monkeypatch.setattr(encoder, "tokens", lambda images: passes.append(len(images)) or tokens(images))
    found = validate(model, moments, config, torch.device("cpu"))
    assert passes == [12, 24] * 4  # of each batch: the touches, then the regions with the whole frames

    of, rows = contacts_of(moments, model.views[0]), []
    for row in np.concatenate([*held_out_sampler(moments, config)]):
        if of[row] >= 0 and of[row] not in of[rows]:
            rows.append(int(row))
    assert len(rows) >= 6
    with torch.no_grad():
        seen = model.eval().see(augment(moments.batch(rows), config.augment))
    tau, w = seen.touches["tactile1"].vector.numpy(), seen.regions[KEY].vector.numpy()
    expected = retrieval(tau, w, moments.episode[rows], of[rows], gallery=6, draws=1)["both"].at[1]
    assert 0 < expected < 1 and found[f"recall/{KEY}"] == pytest.approx(expected, abs=1e-6)


def test_contacts_that_the_batches_lack_are_added_to_the_recall(
    small_config: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "GALLERY", 10)
    config = small_config(validation_batches=1, batch_size=4)
    data = load_data(config, progress=False)
    model = build_model(config, data.train)
    asked: list[int] = []
    uses: list[dict[str, bool]] = []
    see = model.see
    monkeypatch.setattr(model, "see", lambda batch, **u: asked.append(len(batch)) or uses.append(u) or see(batch, **u))
    found = validate(model, data.held_out, config, torch.device("cpu"))
    inside = len(
        np.unique(
            [
                c
                for c in contacts_of(data.held_out, model.views[0])[next(iter(held_out_sampler(data.held_out, config)))]
                if c >= 0
            ]
        )
    )
    assert uses[1:] == [{"action": False, "beside": False}] * (len(asked) - 1)
    assert asked[0] == 4 and sum(asked[1:]) == 10 - inside and max(asked) <= 4
    assert f"recall/{KEY}" in found
    again = validate(model, data.held_out, config, torch.device("cpu"))
    assert again == found


def test_the_action_error_is_that_of_the_acting_policy_over_recorded_steps(small_config: Maker) -> None:
    config = small_config()
    data = load_data(config, progress=False)
    model, moments = build_model(config, data.train), data.held_out
    found = validate(model, moments, config, torch.device("cpu"))["action_error"]
    total = count = 0.0
    for rows in held_out_sampler(moments, config):
        batch = augment(moments.batch(rows), config.augment)
        with torch.no_grad():
            actions = model.eval().predict(batch, model.see(batch))
        for i in range(len(rows)):
            for t in range(batch.action.shape[1]):
                if not batch.is_pad[i, t]:
                    total += float((actions[i, t] - batch.action[i, t]).abs().sum())
                    count += 7
    assert found == pytest.approx(total / count, rel=1e-5)


def test_new_best_weights_are_one_file_without_optimiser_bank_or_double_tensors(small_config: Maker) -> None:
    bank = {"bank": 24, "symmetric": True}
    out = train(small_config(steps=3, hsa=bank, optimiser={"ema": 0.9}, save_every=99), progress=False)
    best, step = (out / "checkpoints" / name for name in ("best_action.safetensors", "step_00000003.pt"))
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [best.name, step.name]
    names = set(load_checkpoint(best)["model"])
    assert not [n for n in names if "memory" in n or n.startswith("alignment.towers.touch.")]
    assert names == set(load_checkpoint(step)["mean"]["tensors"])
    # Before, a new best wrote the whole state twice, optimiser, average and all.
    assert best.stat().st_size < 0.3 * 2 * step.stat().st_size
    Policy.load(out)
