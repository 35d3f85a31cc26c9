"""Pretraining of a touch encoder: exact resume, its tower in a policy, the watch, and refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tactile_align.config.presets import PRETRAINING
from tactile_align.config.pretrain import CodebookConfig, PretrainConfig
from tactile_align.config.train import TrainConfig, config_text, load_config
from tactile_align.features.encoder import encoder_of
from tactile_align.features.tensor_files import header_of
from tactile_align.losses.lejepa import invariance
from tactile_align.moments.augment import _crop_gain_noise, with_two_crops
from tactile_align.policies.build import check_weights, make_model
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint
from tactile_align.policies.runtime import Policy
from tactile_align.training.data import contact_share, load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import make_trainer, train
from tactile_align.training.pretraining import _compared, validate_pretraining
from tactile_align.training.validation import validate
from tactile_align.training.watch import Watch
from tactile_align.verbs.training import pretrain
from tactile_align.verbs.training import train as train_verb
from tests.training.conftest import TOWER

Maker = Callable[..., TrainConfig]


def pretraining(recording: Path, out: Path, **changes: Any) -> TrainConfig:
    """Return a small pretraining config over a simulated recording; changes replace top-level entries."""
    entries = {
        "data": [{"path": str(recording), "rig": str(recording / "rig.toml")}],
        "out": str(out),
        "features": {"touch": TOWER},
        "pretrain": {"sensors": ["tactile1"]},
        "optimiser": {"lr_tower": 1e-3, "lr_head": 1e-3, "warmup_steps": 2, "weight_decay": 0.05},
        "batch_size": 12,
        "steps": 4,
        "held_out": 1,
        "validate_every": 2,
        "validation_batches": 1,
        "save_every": 2,
        "keep_last": 5,
        "cache": str(recording.parent / "cache"),
        "device": "cpu",
        "log": {"every": 1},
    }
    return TrainConfig.model_validate({**PRETRAINING, **entries, **changes})


def codebook_of(**options: Any) -> dict[str, Any]:
    """Return the entries of [pretrain] with a codebook of these options."""
    return {"sensors": ["tactile1"], "codebook": options}


@pytest.fixture(scope="module")
def whole(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretraining run with micro-batches, a running mean of the weights and a codebook; read only."""
    options = {"accumulate": 2, "ema": 0.9, **PRETRAINING["optimiser"]}
    pre = {"sensors": ["tactile1"], "codebook": {"size": 16, "refresh_every": 3, "refresh_below": 0.8}}
    out = tmp_path_factory.mktemp("pre") / "whole"
    return train(pretraining(regrasp_folder, out, optimiser=options, pretrain=pre, batch_size=16), progress=False)


def test_a_resumed_pretraining_equals_one_that_never_stopped_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "resumed")
    (tmp_path / "resumed" / "checkpoints" / "step_00000004.pt").unlink()
    config = load_config(whole / "config.toml").model_copy(update={"out": str(tmp_path / "resumed")})
    resumed = train(config, resume=True, progress=False)
    a, b = (load_checkpoint(latest_checkpoint(run / "checkpoints")) for run in (whole, resumed))
    assert a["step"] == b["step"] == 4
    for group in ("model", "mean"):
        first, second = (state[group]["tensors"] if group == "mean" else state[group] for state in (a, b))
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    timed = ("data_s", "step_s")
    logs = [
        [{k: v for k, v in r.items() if k not in timed} for r in read_metrics(run / "metrics.jsonl")]
        for run in (whole, resumed)
    ]
    assert logs[0] == logs[1] and [r["step"] for r in logs[0] if r["kind"] == "validation"] == [0, 2, 4]
    passes = [r for r in logs[0] if r["kind"] == "validation"]
    assert "usage" not in passes[0] and all(0 < r["usage"] <= 1 for r in passes[1:])
    assert all(r["commitment"] > 0 for r in logs[0] if r["kind"] == "train")


def test_the_tower_states_its_origin_and_starts_a_policy_that_needs_no_file_of_the_pretraining(
    whole: Path, small_config: Maker, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "tower.safetensors"
    moved.parent.mkdir()
    shutil.copy(whole / "tower.safetensors", moved)
    header = header_of(moved)
    assert header["model"] == "ViT-demo" and header["stem"] == "conv" and header["image_size"] == "[48, 32]"
    assert (header["objective"], header["steps"], header["layers"]) == ("lejepa+vq", "4", "[-1]")
    assert len(json.loads(header["mean"])) == len(json.loads(header["std"])) == 3 and len(header["data"]) == 64
    touch = {**TOWER, "pretrained": str(moved)}
    config = small_config(features={"touch": touch}, steps=1)
    encoder = encoder_of(config.features.touch)
    mean = load_checkpoint(latest_checkpoint(whole / "checkpoints"))["mean"]["tensors"]
    assert encoder.name == "ViT-demo (pretrained here: lejepa+vq, 4 steps)" and not encoder.scratch
    assert all(torch.equal(value, mean[f"tower.{name}"]) for name, value in encoder.state_dict().items())
    run = train(config, progress=False)
    shutil.rmtree(moved.parent)
    trained = load_checkpoint(latest_checkpoint(run / "checkpoints"))["model"]
    loaded = Policy.load(run).model.state_dict()
    own = [name for name in trained if name.startswith("alignment.towers.touch.visual.")]
    assert len(own) > 20 and all(torch.equal(loaded[name], trained[name]) for name in own)


def test_a_tower_that_was_pretrained_on_held_out_episodes_is_refused(whole: Path, small_config: Maker) -> None:
    touch = {**TOWER, "pretrained": str(whole / "tower.safetensors")}
    with pytest.raises(ValueError, match=r"tower\.safetensors.*trained on it.*split_seed"):
        train(small_config(features={"touch": touch}, split_seed=1), progress=False)


def test_the_watch_is_silent_about_a_healthy_pretraining(regrasp_folder: Path, tmp_path: Path) -> None:
    # That invariance alone is named, at the same rates and steps, is tested with the ablation of the doctor.
    rates = {"lr_tower": 2e-3, "lr_head": 2e-3, "warmup_steps": 2, "weight_decay": 0.05}
    config = pretraining(regrasp_folder, tmp_path / "run", optimiser=rates, steps=12, validate_every=4)
    records = read_metrics(train(config, progress=False) / "metrics.jsonl")
    assert [r["id"] for r in records if r["kind"] == "finding" and r["id"] != "data-starvation"] == []


def test_micro_batches_are_shares_of_the_step_and_the_random_numbers_of_a_row_do_not_depend_on_processes(
    regrasp_folder: Path, tmp_path: Path
) -> None:
    whole = pretraining(regrasp_folder, tmp_path / "a")
    data = load_data(whole, progress=False)
    trainer = make_trainer(whole, data)
    batch = data.train.batch(list(range(12)))
    prepared = trainer.prepared(batch, 3)
    assert not torch.equal(prepared.touches["tactile1"].image, prepared.second_touches["tactile1"].image)
    config = PretrainConfig(sensors=("tactile1",))
    halves = [
        with_two_crops(batch.rows(slice(r, None, 2)), config, torch.Generator().manual_seed(7), (r, 2)) for r in (0, 1)
    ]
    joint = with_two_crops(batch, config, torch.Generator().manual_seed(7))
    for rank, half in enumerate(halves):
        for name, tensor in half.tensors().items():
            assert torch.equal(tensor, joint.tensors()[name][rank::2]), name
    # Each micro-batch computes the objective of its own rows; the step's loss is the mean of both.
    split = whole.model_copy(update={"optimiser": whole.optimiser.model_copy(update={"accumulate": 2})})
    parts = make_trainer(split, data).step(batch, 3)
    torch.manual_seed(int(torch.initial_seed()))
    model = make_trainer(whole, data).model.train()
    prepared = trainer.prepared(batch, 3)  # seeds the directions, too
    shares = [model(prepared.rows(slice(i, None, 2)))[1] for i in (0, 1)]
    for name in ("loss", "invariance", "sigreg"):
        assert float(parts[name]) == pytest.approx(float((shares[0][name] + shares[1][name]) / 2), rel=1e-5)


def test_augmentations_keep_orientation_and_colours() -> None:
    # A ramp along u and v, other in each channel: crops keep its direction, and gain and grey noise its colour ratios.
    v, u = np.mgrid[0:32, 0:48]
    image = np.stack([40 + 2 * u, 60 + 3 * v, 90 + 0 * u], axis=-1).astype(np.uint8)
    plain = PretrainConfig(sensors=("a",), noise=0.0)
    images = torch.from_numpy(np.repeat(image[None], 200, 0))
    shown = _crop_gain_noise(images, plain, torch.Generator().manual_seed(0), (0, 1), 0.0).float()
    gain = shown[..., 2].mean(dim=(1, 2)) / 90
    assert 0.9 - 0.01 < float(gain.min()) < 0.92 and 1.08 < float(gain.max()) < 1.1 + 0.01
    slope_u = (shown[:, 16, -1, 0] - shown[:, 16, 0, 0]) / gain / (2 * 47)
    slope_v = (shown[:, -1, 24, 1] - shown[:, 0, 24, 1]) / gain / (3 * 31)
    assert float((slope_u - slope_v).abs().max()) < 0.05  # the side shrinks alike in both directions
    assert 0.57 < float(slope_u.min()) < 0.66 and 0.94 < float(slope_u.max()) < 1.03
    difference = _crop_gain_noise(torch.full_like(images, 128), plain, torch.Generator().manual_seed(0), (0, 1), 128.0)
    assert bool((difference == 128).all())


def test_validation_has_chance_and_limits_beside_each_value(regrasp_folder: Path, tmp_path: Path) -> None:
    config = pretraining(regrasp_folder, tmp_path / "a")
    data = load_data(config, progress=False)
    model = make_trainer(config, data).model
    first = validate(model, data.held_out, config, torch.device("cpu"))
    torch.rand(3)
    state = torch.get_rng_state()
    second = validate(model, data.held_out, config, torch.device("cpu"))
    assert first == second and torch.equal(state, torch.get_rng_state())
    assert first["invariance"] > 0 and first["loss"] == pytest.approx(
        0.95 * first["invariance"] + 0.05 * first["sigreg"]
    )
    assert first["sigreg_gaussian"] == pytest.approx(1.06, abs=0.01) and first["sigreg_point"] == pytest.approx(
        4.9, abs=0.1
    )
    assert {f"{name}/{what}/touch" for name in ("rank", "spread") for what in ("token", "z")} <= first.keys()
    with torch.no_grad():
        model.objective.projector[-1].weight.zero_()
    point = validate(model, data.held_out, config, torch.device("cpu"))
    assert point["std/z"] < 1e-6 and point["invariance_chance"] < 1e-9
    (check,) = [c for c in Watch(config).validation(point) if c.id == "collapse/z/touch"]
    assert check.status == "warn" and "of that of a point" in check.measured


def test_the_chance_of_the_invariance_compares_other_moments_with_two_sensors_too() -> None:
    # Both fingers see the same image, which is other in each of the 8 moments.
    touch = SimpleNamespace(image=10 * torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 1, 1, 3))

    class Moments(SimpleNamespace):
        def __len__(self) -> int:
            return 8

    touches = {"left": touch, "right": touch}
    batch = Moments(touches=touches, second_touches=touches, views={}, second_views={})
    objective = SimpleNamespace(
        codebook=None,
        embed=lambda tokens: SimpleNamespace(z=tokens.mean(dim=(-3, -2)), code=None),
        losses=lambda embedded: {"invariance": invariance(embedded.z)},
    )
    tower = SimpleNamespace(tokens=lambda images: images)
    model = SimpleNamespace(eval=lambda: None, prepared=lambda batch, _: batch, objective=objective, tower=tower)
    means = validate_pretraining(model, [batch])  # type: ignore[arg-type]
    assert means["invariance"] == 0 and means["invariance_chance"] == pytest.approx((40 / 2) ** 2)


def test_pretraining_draws_contacts_and_reads_nothing_else(regrasp_folder: Path, tmp_path: Path) -> None:
    config = pretraining(regrasp_folder, tmp_path / "a")
    data = load_data(config, progress=False)
    assert [entry.key for entry in data.train.jobs[0].inputs] == ["tactile1"]
    assert contact_share(data.contact, config) == 0.9
    assert np.array_equal(data.contact, data.train.touches["tactile1"].contact)
    regions = {"sensors": ["tactile1"], "regions": True}
    view = {"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2}
    both = pretraining(regrasp_folder, tmp_path / "b", pretrain=regions, views=[view], steps=1)
    trainer = make_trainer(both, loaded := load_data(both, progress=False))
    batch = loaded.train.batch(np.flatnonzero(loaded.train.views["left_wrist-tactile1"].visible)[:5])
    seen = 5 + int(batch.views["left_wrist-tactile1"].visible.sum())
    shapes: list[torch.Size] = []
    tokens = trainer.model.tower.tokens
    trainer.model.tower.tokens = lambda images: (shapes.append(images.shape), tokens(images))[1]
    trainer.step(batch, 0)
    assert shapes == [torch.Size([2 * seen, 32, 48, 3])]


def test_a_spike_of_a_pretraining_does_not_advise_what_pretraining_refuses() -> None:
    watch = Watch(pretraining(Path("recording"), Path("run")))
    found = [check for error in (1.0, 2.0) for check in watch.validation({}, error)]
    (check,) = found
    assert check.id == "validation-spike" and "optimiser.lr_tower" in check.advice
    assert "patience" not in check.advice and "kept" not in check.why


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"train_policy": True}, "train_policy"),
        ({"hsa": {"weight": 0.0, "temperature": 0.1}}, r"no effect: hsa"),
        ({"augment": {"gain": 0.1}}, "no effect: augment"),
        ({"optimiser": {"layer_decay": 0.7}}, r"optimiser\.layer_decay"),
        ({"views": [{"camera": "top", "sensor": "tactile1"}]}, r"regions = false with 1 \[\[views\]\]"),
        ({"pretrain": {"sensors": ["tactile1"], "regions": True}}, r"regions = true with 0"),
        ({"pretrain": {"sensors": ["tactile1"], "next": {}, "crop": 0.5}}, r"no effect: pretrain\.crop\. Omit them"),
        (
            {"pretrain": {"sensors": ["tactile1"], "next": {}}, "features": {"touch": TOWER, "touch_frames": 2}},
            r"single touches of a window; got touch_frames = 2, stacked",
        ),
        ({"features": {"touch": {**TOWER, "tune": "frozen"}}}, r"features\.touch\.tune = 'frozen'"),
        ({"features": {"vision": {**TOWER, "tune": "frozen"}}}, r"features\.vision\.tune = 'frozen'"),
        ({"features": {"touch": TOWER, "vision": TOWER, "dim": 64}}, r"effect: features\.vision, features\.dim\."),
        ({"optimiser": {"lr_temperature": 0.1}}, r"effect: optimiser\.lr_temperature\."),
        ({"pretrain": codebook_of(kind="fsq", refresh_every=5)}, r"refresh_every = 5 needs kind = 'vq'.*kind = 'fsq'"),
        ({"pretrain": codebook_of(learn=True, refresh_every=5)}, r"refresh_every = 5 .* learn = true"),
        ({"pretrain": codebook_of(kind="fsq", expire_below=2)}, r"expire_below = 2 needs kind = 'vq'"),
        ({"optimiser": {"accumulate": 2}}, r"batch_size = 12 and optimiser\.accumulate = 2.*batch_size to 16"),
    ],
)
def test_an_option_that_pretraining_ignores_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pretraining(Path("recording"), Path("run"), **changes)


@pytest.mark.parametrize(
    ("stated", "expire_below"),
    [({}, 2.0), ({"expire_below": 0.5}, 0.5), ({"kind": "fsq"}, 0.0), ({"learn": True}, 0.0), ({"learn": False}, 2.0)],
)
def test_codes_that_follow_the_tokens_expire_unless_stated(stated: dict[str, Any], expire_below: float) -> None:
    config = CodebookConfig(**stated)
    assert config.expire_below == expire_below and CodebookConfig(**config.model_dump()) == config


def test_a_config_file_gets_the_defaults_of_pretraining_and_each_verb_wants_its_own(tmp_path: Path) -> None:
    file = tmp_path / "pre.toml"
    file.write_text('[[data]]\npath = "r"\n[optimiser]\nlr_head = 1e-3\n[pretrain]\nsensors = ["a"]\n')
    config = load_config(file)
    assert (config.train_policy, config.hsa.weight, config.optimiser.lr_tower) == (False, 0, 5e-4)
    assert (config.optimiser.lr_head, config.optimiser.weight_decay, config.steps) == (1e-3, 0.05, 1000)
    (tmp_path / "again.toml").write_text(config_text(config))
    assert load_config(tmp_path / "again.toml") == config
    with pytest.raises(ValueError, match=r"Run tactile-align pretrain .*pre\.toml"):
        train_verb([str(file)])
    with pytest.raises(ValueError, match="this is a pretraining run"):
        make_model(config, 7, 7)
    file.write_text('[[data]]\npath = "r"\n[[views]]\ncamera = "c"\nsensor = "a"\n')
    with pytest.raises(ValueError, match=r"has no table \[pretrain\]"):
        pretrain([str(file)])
    file.write_text('preset = "tiny"\n[[data]]\npath = "r"\n[pretrain]\nsensors = ["a"]\n')
    with pytest.raises(ValueError, match="Remove the key `preset`"):
        load_config(file)


def test_the_next_touches_of_a_window_are_predicted_and_the_tower_encodes_single_touches(
    regrasp_folder: Path, tmp_path: Path
) -> None:
    window = {"context": 2, "rolled_out": 2, "stride": 3, "over_time": "attention"}
    pre = {"sensors": ["tactile1"], "next": window}
    config = pretraining(regrasp_folder, tmp_path / "run", pretrain=pre, steps=2)
    data = load_data(config, progress=False)
    trainer = make_trainer(config, data)
    rows = np.flatnonzero(data.train.time >= 9)[:12]
    raw = data.train.batch(rows)
    shown = _compared(trainer.prepared(raw, 0)).float()
    assert shown.shape == (4, 12, 32, 48, 3)
    for age in range(4):  # the newest first, with noise of their own
        true = data.train.batch(rows - 3 * age).touches["tactile1"].present.float()
        assert 1 < float((shown[age] - true).abs().mean()) < 2.5
    noise = shown - raw.touches["tactile1"].image.unflatten(3, (4, 3)).movedim(3, 0)
    assert abs(float(torch.corrcoef(noise[:2].flatten(1))[0, 1])) < 0.1
    out = train(config, data=data, progress=False)
    (last,) = [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "validation" and r["step"] == 2]
    assert {"next", "next_chance", "next_still", "sigreg", "rank/z/touch"} <= last.keys() and "invariance" not in last
    header = header_of(out / "tower.safetensors")
    assert header["objective"] == "next" and header.get("frames", "1") == "1"
    assert load_config(out / "config.toml") == config


def test_a_prediction_at_chance_is_reported_and_a_better_one_is_not(tmp_path: Path) -> None:
    pre = {"sensors": ["tactile1"], "next": {}}
    for value, chance, ids in ((0.25, 0.25, ["next-at-chance"]), (0.2, 0.25, []), (0.0, 0.0, [])):
        watch = Watch(pretraining(tmp_path, tmp_path / "run", pretrain=pre, steps=200))
        record = {"next": value, "next_chance": chance}
        found = [check for step in range(10, 201, 10) for check in watch.train(step, record)]
        assert [check.id for check in found] == ids


def test_a_window_of_stacked_touches_is_pretrained_and_read_back(regrasp_folder: Path, tmp_path: Path) -> None:
    window = {"touch": TOWER, "touch_frames": 2, "touch_stride": 3}
    config = pretraining(regrasp_folder, tmp_path / "run", features=window, steps=1)
    out = train(config, progress=False)
    assert header_of(out / "tower.safetensors")["frames"] == "2"
    touch = config.features.touch.model_copy(update={"pretrained": str(out / "tower.safetensors")})
    again = config.model_copy(update={"features": config.features.model_copy(update={"touch": touch})})
    check_weights(again)
    encoder = encoder_of(touch, frames=2)
    assert encoder.tokens(torch.zeros(1, 32, 48, 6, dtype=torch.uint8)).shape == (1, 4, 6, 96)
    # With attention over time, the encoder gets each image alone, and so it is pretrained on single images.
    alone = pretraining(regrasp_folder, tmp_path / "alone", features={**window, "touch_time": "last"})
    (entry,) = load_data(alone, progress=False).train.jobs[0].inputs
    assert entry.earlier == ()
