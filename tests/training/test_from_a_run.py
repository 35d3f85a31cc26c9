"""A run from a run: a longer one, one from another's weights, and one from another's tower."""

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tactile_align.config.features import EncoderConfig
from tactile_align.config.train import TrainConfig, config_text, load_config
from tactile_align.features.encoder import Encoder, encoder_of, load_encoder
from tactile_align.features.weights import save_tower
from tactile_align.policies.build import LoadedRun, initial_checkpoint, make_model, start_from
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint, save_best
from tactile_align.policies.runtime import Policy
from tactile_align.training.data import load_data
from tactile_align.training.distributed import Group
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import build_model, make_trainer, train
from tests.features.making import noise
from tests.training.conftest import TOWER, small_training

Maker = Callable[..., TrainConfig]


def test_a_finished_run_is_lengthened_on_the_schedule_of_the_new_steps(
    small_config: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    out = train(small_config(), progress=False)
    first = [r["loss"] for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"]
    longer = small_config(steps=10, log={"every": 1})
    data = load_data(longer, progress=False)
    caplog.clear()
    assert train(longer, resume=True, data=data, progress=False) == out
    # Step 7 of 10 with a warm-up of 2: a cosine of which half is over at step 6.
    assert "from 6 to 10 steps" in caplog.text and "step 7 has 0.50 of the full learning rates" in caplog.text
    records = [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"]
    assert [r["loss"] for r in records[: len(first)]] == first and [r["step"] for r in records[-4:]] == [7, 8, 9, 10]
    assert load_config(out / "config.toml").steps == 10
    a, b = (load_checkpoint(out / "checkpoints" / f"step_{step:08d}.pt") for step in (6, 9))
    assert any(not torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    rate = 1e-3 * 0.5 * (1 + math.cos(math.pi * 7 / 8))
    groups = b["optimiser"]["param_groups"]
    assert all(group["lr"] == pytest.approx(rate) for group in groups if group["initial_lr"] == 1e-3)
    with pytest.raises(ValueError, match=r"steps changed: steps was 10, is now 8"):
        train(small_config(steps=8), resume=True, data=data, progress=False)


def test_the_first_step_of_a_lengthened_run_moves_the_weights(small_config: Maker) -> None:
    out = train(small_config(steps=4), progress=False)
    before = load_checkpoint(latest_checkpoint(out / "checkpoints"))
    assert all(group["lr"] == 0 for group in before["optimiser"]["param_groups"])
    train(small_config(steps=5), resume=True, progress=False)
    after = load_checkpoint(latest_checkpoint(out / "checkpoints"))
    name = "alignment.towers.vision.visual.conv1.0.weight"
    assert not torch.equal(before["model"][name], after["model"][name])


def test_a_run_that_patience_ended_goes_on_when_it_is_lengthened(
    small_config: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    frozen = {"lr": 1e-12, "lr_tower": 1e-12, "lr_head": 1e-12, "lr_temperature": 1e-12, "warmup_steps": 0}
    options = {"optimiser": frozen, "validate_every": 1, "patience": 1, "save_every": 99}
    out = train(small_config(steps=40, **options), progress=False)
    stopped = load_checkpoint(latest_checkpoint(out / "checkpoints"))["step"]
    assert stopped < 40 and "to continue, raise patience or steps and use --resume" in caplog.text
    log = (out / "metrics.jsonl").read_text()
    train(small_config(steps=40, **options), resume=True, progress=False)
    assert (out / "metrics.jsonl").read_text() == log
    assert f"ended at step {stopped} because of patience = 1" in caplog.text
    train(small_config(steps=60, **options), resume=True, progress=False)
    assert load_checkpoint(latest_checkpoint(out / "checkpoints"))["step"] > stopped


def test_init_takes_what_fits_and_names_every_tensor(small_config: Maker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = train(small_config("first", steps=2, train_policy=False), progress=False)
    source = load_checkpoint(latest_checkpoint(first / "checkpoints"))["model"]
    bank = {"bank": 24, "symmetric": True}
    config = small_config("second", steps=1, init=str(first), features={"dim": 8}, hsa=bank)
    data = load_data(config, progress=False)
    caplog.clear()
    model = make_trainer(config, data).model
    plain = make_model(config.model_copy(update={"init": None}), 7, 7)
    lines = {
        line.split(": ")[1].split(" (")[0]: line.split(": ", 2)[2].split(", ")
        for line in caplog.messages
        if line.startswith(f"init {first}")
    }
    state, fresh = model.state_dict(), plain.state_dict()
    heads = ("region_pooling.project", "touch_head")
    resized = {f"alignment.towers.{head}.{kind}" for head in heads for kind in ("weight", "bias")}
    assert set(lines["left"]) == resized
    assert all(torch.equal(state[name], source[name]) for name in lines["taken"]) and len(lines["taken"]) > 40
    assert all(torch.equal(state[name], fresh[name]) for name in lines["new"])
    own = {name for name in state if not name.startswith(("alignment.memory.", "alignment.towers.touch."))}
    assert set(lines["taken"]) | set(lines["new"]) == own and "act.action_head.weight" in lines["new"]
    following = model.alignment.memory.following.module.state_dict()
    assert all(torch.equal(value, following[name]) for name, value in model.alignment.towers.state_dict().items())


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_towers_of_an_alignment_alone_start_a_policy_and_stay_as_they_are_if_frozen(
    small_config: Maker, caplog: pytest.LogCaptureFixture, weight: float
) -> None:
    caplog.set_level(logging.INFO)
    features = {"vision": TOWER, "touch": TOWER}
    first = train(small_config("first", steps=2, features=features, train_policy=False), progress=False)
    source = load_checkpoint(latest_checkpoint(first / "checkpoints"))["model"]
    frozen = {"vision": {**TOWER, "tune": "frozen"}, "touch": TOWER}
    config = small_config("second", steps=2, init=str(first), features=frozen, hsa={"weight": weight})
    caplog.clear()
    out = train(config, progress=False)
    lines = {line.split(": ")[1].split(" (")[0]: line for line in caplog.messages if line.startswith(f"init {first}")}
    taken = lines["taken"].split(": ", 2)[2].split(", ")
    assert set(taken) == set(source) and all(name.startswith("alignment.") for name in taken)
    assert lines["left"].endswith("(0 tensors): none") and "act.action_head.weight" in lines["new"]
    after = load_checkpoint(latest_checkpoint(out / "checkpoints"))["model"]
    moved = {name for name in taken if not torch.equal(source[name], after[name])}
    vision, touch = "alignment.towers.vision.", "alignment.towers.touch.visual."
    assert not any(name.startswith(vision) for name in moved) and any(name.startswith(touch) for name in moved)
    assert ("alignment.towers.region_pooling.project.weight" in moved) == (weight > 0)
    rows = json.loads((out / "parameters.json").read_text(encoding="utf-8"))
    rates = {row["module"]: row["learning rate"] for row in rows if row["module"].startswith("towers.")}
    assert {rate for name, rate in rates.items() if name.startswith("towers.vision.")} == {"frozen"}
    assert rates["towers.touch.visual.transformer.resblocks.0"] == "0.001"


def test_a_resumed_run_does_not_need_the_run_it_started_from(small_config: Maker) -> None:
    first = train(small_config("first", steps=1), progress=False)
    config = small_config("second", steps=3, save_every=1, init=str(first))
    out = train(config, progress=False)
    (out / "checkpoints" / "step_00000003.pt").unlink()
    shutil.rmtree(first)
    train(config, resume=True, progress=False)
    data = load_data(config, progress=False)
    with pytest.raises(FileNotFoundError, match=r"init = '.*first': no such run.*--no-baseline"):
        build_model(config, data.train)


def test_init_from_a_run_of_which_nothing_fits_is_refused(small_config: Maker) -> None:
    plain = {"vision": "none", "region_tokens": False, "touch_tokens": False}
    first = train(small_config("first", steps=1, policy=plain, hsa={"weight": 0.0}), progress=False)
    config = small_config("second", init=str(first), train_policy=False)
    with pytest.raises(ValueError, match=r"best_action\.safetensors: none of its \d+ tensors fits"):
        start_from(make_model(config, 7, 7), config)


def test_only_the_leading_process_states_what_init_took(small_config: Maker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = train(small_config("first", steps=1), progress=False)
    config = small_config("second", init=str(first))
    data = load_data(config, progress=False)
    for rank, stated in ((0, True), (1, False)):
        caplog.clear()
        make_trainer(config, data, Group(rank, 1, torch.device("cpu")))
        assert ("taken" in caplog.text) == stated
    caplog.clear()
    build_model(config, data.train)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("theirs", "ours", "advice"),
    [
        (("ViT-B-32-quickgelu", "scratch"), ("ViT-B-32", "scratch"), r"model = 'ViT-B-32-quickgelu' as"),
        (("ViT-B-32", "openai"), ("ViT-B-32", "laion2b_s34b_b79k"), r"pretrained = 'openai' as"),
        (
            ("ViT-B-32", "laion2b_s34b_b79k"),
            ("ViT-B-32-quickgelu", "openai"),
            r"model = 'ViT-B-32' and features\.vision\.pretrained = 'laion2b_s34b_b79k' as",
        ),
    ],
)
def test_init_with_another_activation_is_refused_with_the_entry_that_decides_it(
    tmp_path: Path, theirs: tuple[str, str], ours: tuple[str, str], advice: str
) -> None:
    source, config = (
        small_training(tmp_path, tmp_path, features={"vision": {"model": model, "pretrained": pretrained}})
        for model, pretrained in (theirs, ours)
    )
    state = {"model": {}, "measure": "action", "step": 1, "value": 0.5, "config": config_text(source)}
    config = config.model_copy(update={"init": str(save_best(tmp_path, state))})
    with pytest.raises(ValueError, match=rf"another activation.*Set features\.vision\.{advice} in that run"):
        start_from(None, config)  # type: ignore[arg-type]  # refused before the model is used


def tokens(encoder: Encoder, seed: int = 0) -> torch.Tensor:
    with torch.no_grad():
        return encoder.eval().tokens(noise(3, *encoder.input_size, seed))


@pytest.mark.parametrize("tune", ["full", "adapters"])
def test_a_tower_moved_to_another_run_gives_equal_tokens_bit_for_bit(small_config: Maker, tune: str) -> None:
    separate = {"vision": {**TOWER, "tune": tune}, "touch": {**TOWER, "tune": tune}}
    config = small_config("first", steps=2, features=separate, train_policy=False)
    data = load_data(config, progress=False)
    out = train(config, data=data, progress=False)
    trained = LoadedRun.load(out, config, data.held_out, "retrieval").alignment.towers
    moved = {}
    for side, file in (("vision", "tower.safetensors"), ("touch", "touch_tower.safetensors")):
        moved[side] = {**TOWER, "tune": tune, "pretrained": str(out / file)}
        assert torch.equal(tokens(encoder_of(EncoderConfig(**moved[side]))), tokens(getattr(trained, side)))
    with pytest.raises(ValueError, match=r"tower\.safetensors': this file is an encoder.*features\.vision\.pretrained"):
        initial_checkpoint(str(out / "tower.safetensors"))
    second = small_config("second", steps=1, features=moved, policy={"chunk_size": 4})
    with pytest.raises(ValueError, match=r"features\.vision\.pretrained = .*\(held-out; trained on it\)"):
        train(second.model_copy(update={"split_seed": 1}), progress=False)
    start = make_model(second, 7, 7).alignment.towers
    assert torch.equal(tokens(start.vision), tokens(trained.vision)) and not start.vision.scratch
    assert torch.equal(tokens(start.touch), tokens(trained.touch))
    run = train(second, progress=False)
    acting = Policy.load(run).model.alignment.towers
    shutil.rmtree(out)  # the weights and the normalisation are all in the second run
    assert torch.equal(tokens(Policy.load(run).model.alignment.towers.vision), tokens(acting.vision))


def test_a_tower_keeps_its_normalisation_and_is_refused_where_it_would_compute_something_else(
    small_config: Maker,
) -> None:
    config = small_config(steps=1, train_policy=False)
    trainer = make_trainer(config, load_data(config, progress=False))
    trainer.model.alignment.towers.vision.mean += 0.125
    state = trainer.model.alignment.towers.vision.state_dict()
    path = Path(config.out) / "tower.safetensors"
    save_tower(path, state, trainer.model.alignment.towers.vision.facts)
    right: dict[str, Any] = {**TOWER, "pretrained": str(path)}
    assert torch.equal(encoder_of(EncoderConfig(**right)).mean, trainer.model.alignment.towers.vision.mean)
    for name, value, message in (
        ("image_size", [64, 64], r"image_size = \[48, 32\], but the config gives \[64, 64\]"),
        ("stem", "patch", "stem = conv, but the config gives patch"),
        ("model", "ViT-B-32", "model = ViT-demo, but the config gives ViT-B-32"),
    ):
        with pytest.raises(ValueError, match=rf"tower\.safetensors: .*{message}"):
            other = {"stem": "patch", "image_size": [64, 64]} if name == "model" else {}
            encoder_of(EncoderConfig(**{**right, **other, name: value}))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_state_dict_of_an_image_tower_alone_loads(tmp_path: Path, suffix: str) -> None:
    first = load_encoder("ViT-demo", pretrained="scratch")
    path = tmp_path / f"visual{suffix}"
    state = {name: value.contiguous() for name, value in first.visual.state_dict().items()}
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    assert torch.equal(tokens(load_encoder("ViT-demo", pretrained=path)), tokens(first))
    torch.manual_seed(3)
    clip = open_clip.create_model("ViT-B-32", pretrained=None, pretrained_text=False)
    small = {name: value for name, value in clip.visual.state_dict().items() if "resblocks.1" not in name}
    torch.save(small, path.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"visual\.bin do not fit the model ViT-demo.*its image tower"):
        load_encoder("ViT-demo", pretrained=path.with_suffix(".bin"))
