"""Training runs on a simulated recording: what a run leaves, exact resume, and refusals."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tactile_align.calibration.rig import Verified, load_rig
from tactile_align.config.train import TrainConfig, load_config
from tactile_align.errors import DivergedError
from tactile_align.moments.augment import augment
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.act import ACT
from tactile_align.policies.alignment import Alignment
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint, load_tensors
from tactile_align.training.data import load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import build_model, make_trainer, train, validate
from tactile_align.training.validation import health, held_out_sampler

Maker = Callable[..., TrainConfig]


def test_a_run_leaves_config_rig_statistics_metrics_and_checkpoints(small_config: Maker) -> None:
    config = small_config()
    out = train(config, progress=False)
    assert load_config(out / "config.toml") == config
    assert load_rig(out / "rig.toml").name == "cell"
    records = read_metrics(out / "metrics.jsonl")
    training = [r for r in records if r["kind"] == "train"]
    held_out = [r for r in records if r["kind"] == "validation"]
    assert [r["step"] for r in held_out] == [3, 6]
    # Validation computes everything that training does.
    beyond = {name for name in set(training[0]) - set(held_out[0]) if not name.startswith("grad/")}
    assert beyond == {"data_s", "step_s", "gradient_norm"}
    assert training[0]["chance/left_wrist-tactile1"] == pytest.approx(np.log(1 + 8), abs=0.25)
    assert sorted(p.name for p in (out / "checkpoints").iterdir())[-2:] == ["step_00000003.pt", "step_00000006.pt"]
    assert (out / "environment.txt").read_text().startswith("python 3.")


def test_statistics_come_from_training_episodes_only(small_config: Maker) -> None:
    config = small_config()
    data = load_data(config, progress=False)
    together = np.concatenate([qpos for qpos, _ in data.train.low_dim()])
    assert np.abs(np.array(data.statistics.qpos_mean) - together.mean(axis=0)).max() < 1e-9
    assert data.statistics.episodes == 3
    paths = {job.ref for job in data.train.jobs} & {job.ref for job in data.held_out.jobs}
    assert paths == set()


def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(small_config: Maker, tmp_path: Path) -> None:
    whole = train(small_config("whole"), progress=False)
    shutil.copytree(whole, tmp_path / "resumed")
    for late in ("step_00000006.pt", "best_action.safetensors"):
        (tmp_path / "resumed" / "checkpoints" / late).unlink(missing_ok=True)
    resumed = train(small_config("resumed", workers=1), resume=True, progress=False)
    a, b = (load_checkpoint(latest_checkpoint(run / "checkpoints")) for run in (whole, resumed))
    assert a["step"] == b["step"] == 6
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    first, second = (
        [r["loss"] for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "validation"]
        for run in (whole, resumed)
    )
    assert first[-1] == second[-1]


def test_without_weight_and_tokens_training_is_plain_act_bit_for_bit(small_config: Maker) -> None:
    base = small_config()
    plain = base.policy.model_copy(update={"vision": "none", "region_tokens": False, "touch_tokens": False})
    config = base.model_copy(update={"hsa": base.hsa.model_copy(update={"weight": 0.0}), "policy": plain})
    data = load_data(config, progress=False)
    model = build_model(config, data.train)
    assert model.alignment is None and model.act is not None
    torch.manual_seed(config.seed)
    act = ACT(model.act.config)
    batch = data.train.batch([3, 50, 200])
    torch.manual_seed(7)
    loss, _ = model.train()(batch)
    torch.manual_seed(7)
    output = act.train()(batch.qpos, None, None, batch.action, batch.is_pad)
    keep = ~batch.is_pad[..., None]
    l1 = ((output.actions - batch.action).abs() * keep).sum() / (keep.sum() * 7)
    kl = -0.5 * (1 + output.logvar - output.mu**2 - output.logvar.exp()).sum(-1).mean()
    assert torch.equal(loss, l1 + 10.0 * kl)
    loss.backward()
    (l1 + 10.0 * kl).backward()
    for ours, theirs in zip(model.act.parameters(), act.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


def test_alignment_changes_the_gradient_of_weights_the_action_depends_on(small_config: Maker) -> None:
    config = small_config()
    data = load_data(config, progress=False)
    model = build_model(config, data.train).eval()
    sampled = np.flatnonzero(data.contact)[::9][:8].tolist()
    from tactile_align.moments.augment import augment

    batch = augment(data.train.batch(sampled), config.augment)
    seen = model.see(batch)
    encoder = [p for p in model.alignment.towers.vision.parameters() if p.requires_grad]
    actions = model.predict(batch, seen)
    to_action = torch.autograd.grad(actions.square().sum(), encoder, retain_graph=True)
    to_hsa = torch.autograd.grad(model.alignment(batch, seen)[0], encoder)
    both = [i for i in range(len(encoder)) if float(to_action[i].norm()) > 0 and float(to_hsa[i].norm()) > 0]
    assert len(both) > 0.9 * len(encoder)


def test_every_trainable_tensor_gets_gradient(small_config: Maker) -> None:
    config = small_config()
    data = load_data(config, progress=False)
    model = build_model(config, data.train)
    from tactile_align.moments.augment import augment

    rows = np.flatnonzero(data.contact)[::9][:10].tolist()
    batch = augment(data.train.batch(rows), config.augment)
    loss, _ = model(batch)
    loss.backward()
    silent = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    zero = {name for name, p in model.named_parameters() if p.grad is not None and not bool(p.grad.any())}
    # ACT's decoder attends to zeros at first, so its own attention learns only later (a fact of ACT, kept for parity).
    known = ("act.decoder.layers.0.self_attn", "act.decoder.layers.0.norm1")
    assert silent == set() and all(name.startswith(known) for name in zero)


def test_a_diverging_run_stops_and_names_step_episode_and_row(small_config: Maker) -> None:
    config = small_config(optimiser={"lr": 1e30, "lr_tower": 1e30, "lr_head": 1e30, "warmup_steps": 0}, steps=20)
    with pytest.raises(DivergedError, match=r"step \d+: .*non-finite.*episode_init_\d\.hdf5 row \d+"):
        train(config, progress=False)


def test_batches_with_a_single_contact_do_not_stop_a_run_but_are_counted(small_config: Maker) -> None:
    # Four moments a batch of three episodes, none of which is a negative of another of its own episode.
    changes = {"batch_size": 4, "hsa": {"min_gap": 10_000}, "contact_share": "natural", "steps": 8, "log": {"every": 1}}
    records = read_metrics(train(small_config(**changes), progress=False) / "metrics.jsonl")
    trained = [r for r in records if r["kind"] == "train"]
    lonely = [r["no_negative/left_wrist-tactile1"] for r in trained]
    assert len(lonely) == 8 and max(lonely) > 0 == min(lonely)
    assert {(r["pairs/left_wrist-tactile1"] > 0, "hsa" in r) for r in trained} == {(True, True), (False, False)}


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(small_config: Maker) -> None:
    config = small_config(steps=1)
    data = load_data(config, progress=False)
    trainer = make_trainer(config, data)
    assert trainer.model.alignment is not None
    next(trainer.model.alignment.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(DivergedError, match=r"step 1: .*non-finite: gradient_norm.*row \d"):
        trainer.step(data.train.batch(list(range(0, 240, 20))), 0)
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


def test_11_an_error_in_the_alignment_stops_training(small_config: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise ValueError("planted in the loss")

    monkeypatch.setattr(Alignment, "forward", fails)
    config = small_config()
    with pytest.raises(ValueError, match="planted in the loss"):
        train(config, progress=False)
    assert read_metrics(Path(config.out) / "metrics.jsonl") == []


def test_12_a_batch_without_negatives_stops_training(small_config: Maker) -> None:
    with pytest.raises(ValueError, match="requires negatives"):
        train(small_config(batch_size=1, contact_share=1.0), progress=False)


def test_14_the_best_weights_are_those_of_the_smallest_whole_validation_pass(small_config: Maker) -> None:
    # Rates at which the loss soon goes up again: the best is neither the last nor what a running mean would say.
    rates = {"lr": 0.02, "lr_tower": 0.02, "lr_head": 0.02, "lr_temperature": 0.02, "warmup_steps": 0}
    free = {"kl_weight": 0.0}
    config = small_config(steps=12, optimiser=rates, policy=free, validate_every=2, save_every=2, keep_last=99)
    data = load_data(config, progress=False)
    out = train(config, data=data, progress=False)
    records = read_metrics(out / "metrics.jsonl")
    errors = {r["step"]: r["action_error"] for r in records if r["kind"] == "validation"}
    smallest = min(errors, key=lambda step: errors[step])
    assert smallest < max(errors)
    best = load_checkpoint(out / "checkpoints" / "best_action.safetensors")
    assert (best["step"], best["measure"], best["value"]) == (smallest, "action", errors[smallest])
    model = build_model(config, data.train)
    for step, error in errors.items():  # the very pass that metrics.jsonl tells of, from the weights alone
        load_tensors(model, load_checkpoint(out / "checkpoints" / f"step_{step:08d}.pt")["model"])
        assert validate(model, data.held_out, config, torch.device("cpu"))["action_error"] == error
    load_tensors(model, best["model"])
    assert validate(model, data.held_out, config, torch.device("cpu"))["action_error"] == min(errors.values())


def test_a_second_run_into_the_same_folder_is_refused(small_config: Maker) -> None:
    config = small_config(steps=1)
    train(config, progress=False)
    with pytest.raises(FileExistsError, match="--resume"):
        train(config, progress=False)


def test_a_rig_that_failed_verification_is_refused_unless_overridden(
    small_config: Maker, regrasp_folder: Path, tmp_path: Path
) -> None:
    failed = Verified(when="2026-11-01T10:00:00", data_hash="0" * 64, verdict="fail")
    rig = load_rig(regrasp_folder / "rig.toml").model_copy(update={"verified": failed})
    rig.save(tmp_path / "failed.toml")
    entry = [{"path": str(regrasp_folder), "rig": str(tmp_path / "failed.toml")}]
    with pytest.raises(ValueError, match=r"failed.toml: this rig failed `verify`"):
        load_data(small_config(data=entry), progress=False)
    load_data(small_config(data=entry, unverified_rig=True), progress=False)


def test_a_rig_that_was_never_verified_is_trained_with_a_word_about_it(
    small_config: Maker, regrasp_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for status, said in (("exact", 'status "exact" is for simulations'), ("calibrated", "warning: ")):
        rig = tmp_path / f"{status}.toml"
        load_rig(regrasp_folder / "rig.toml").model_copy(update={"status": status}).save(rig)
        load_data(small_config(data=[{"path": str(regrasp_folder), "rig": str(rig)}]), progress=False)
        told = caplog.text
        caplog.clear()
        assert (
            said in told and "never verified" in told and f"tactile-align verify {regrasp_folder} --rig {rig}" in told
        )
    entry = [{"path": str(regrasp_folder), "rig": str(rig)}]
    load_data(small_config(data=entry, hsa={"weight": 0.0}), progress=False)  # region tokens come from the box too
    assert "never verified" in caplog.text
    caplog.clear()
    out = train(small_config(data=entry, unverified_rig=True, steps=1), progress=False)
    assert "never verified" not in caplog.text and load_config(out / "config.toml").unverified_rig


def test_statistics_of_a_run_restore_robot_units(small_config: Maker) -> None:
    out = train(small_config(steps=1), progress=False)
    statistics = Statistics.load(out / "statistics.json")
    action = np.random.default_rng(0).normal(size=(4, 6, 7))
    assert np.abs(statistics.restore_action(statistics.normalise_action(action)) - action).max() < 1e-12


def test_two_views_and_a_camera_of_acts_own_are_trained_together(small_config: Maker) -> None:
    views = [
        {"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2},
        {"camera": "top", "sensor": "tactile1", "weight": 0.5},
    ]
    base = small_config()
    resnet = {"vision": "resnet18", "cameras": ["top"], "image_size": [64, 48], "vision_weights": "scratch"}
    policy = base.policy.model_dump() | resnet
    hsa = base.hsa.model_dump() | {"region_negatives": 2}
    out = train(small_config("two", views=views, policy=policy, hsa=hsa, steps=1), progress=False)
    record = read_metrics(out / "metrics.jsonl")[0]
    total = record["hsa/left_wrist-tactile1"] + 0.5 * record["hsa/top-tactile1"]
    assert record["hsa"] == pytest.approx(total, abs=1e-5)
    assert record["negatives/left_wrist-tactile1"] > 2


def test_a_rank_is_the_mean_over_the_batches_that_have_one(small_config: Maker) -> None:
    config = small_config(train_policy=False, batch_size=14, contact_share="natural", validation_batches=10)
    data = load_data(config, progress=False)
    model = build_model(config, data.held_out)
    key = "rank/region/left_wrist-tactile1"
    ranks = []
    for indices in held_out_sampler(data.held_out, config):
        batch = augment(data.held_out.batch(indices), config.augment)
        with torch.no_grad():
            features = model.eval().see(batch)
            ranks += [float(value) for name, value in health(model, batch, features).items() if name == key]
    assert 0 < len(ranks) < 10  # some batches have too few pairs
    found = validate(model, data.held_out, config, torch.device("cpu"))
    assert found[key] == pytest.approx(np.mean(ranks), rel=1e-6)
