"""The contact pointer in training: alone or beside HSA and ACT, in parts, resumed, logged, and as a token of ACT."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.datasets.episodes import open_episode
from tactile_align.diagnostics.evaluation import opening_only
from tactile_align.moments.augment import augment
from tactile_align.policies.build import make_model
from tactile_align.policies.checkpoint import load_checkpoint
from tactile_align.policies.observation import checked
from tactile_align.policies.runtime import Policy
from tactile_align.training.data import Data, load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import build_model, make_trainer, train
from tests.policies.conftest import observation

Maker = Callable[..., TrainConfig]
KEY = "top-tactile1"
TOP = [{"camera": "top", "sensor": "tactile1"}]
POINTER = {"views": [KEY], "width": 16, "most": 2}
BLIND = {"vision": "none", "region_tokens": False, "touch_tokens": False}


def pointing(small_config: Maker, alone: bool = False, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {"views": TOP, "pointer": POINTER, "log": {"every": 1}, "policy": BLIND}
    if alone:
        options |= {"hsa": {"weight": 0.0}, "train_policy": False}
    return small_config(**{**options, **changes})


@pytest.fixture
def data(small_config: Maker) -> Data:
    return load_data(pointing(small_config), progress=False)


def test_a_pointer_trains_alone_and_keeps_its_rates_when_it_resumes(small_config: Maker) -> None:
    config = pointing(small_config, alone=True, steps=2, save_every=2, validate_every=2)
    run = train(config, progress=False)
    records = read_metrics(run / "metrics.jsonl")
    first = next(r for r in records if r["kind"] == "train")
    parts = {f"{name}/{KEY}" for name in ("point_map", "point_map_chance", "point_done", "targets")}
    assert {"pointer", *parts} <= set(first) and not any(name.startswith(("hsa", "l1")) for name in first)
    assert first["loss"] == pytest.approx(first["pointer"])
    assert first[f"point_map_flat/{KEY}"] == pytest.approx(np.log(4 * 6))
    assert any("pointer" in r and f"point_px/{KEY}" in r for r in records if r["kind"] == "validation")
    train(config.model_copy(update={"steps": 3}), resume=True, progress=False)
    early, late = (load_checkpoint(path)["model"] for path in sorted((run / "checkpoints").glob("step_*.pt")))
    assert all(torch.equal(early[f"pointer.{n}"], late[f"pointer.{n}"]) for n in ("mean_map", "done_rate", "done_odds"))
    assert float(early["pointer.mean_map"].std()) > 0 and not torch.equal(early["pointer.slots"], late["pointer.slots"])


def test_the_pointer_trains_the_vision_tower_with_hsa_and_act_and_their_cosines_are_logged(
    small_config: Maker, data: Data
) -> None:
    config = pointing(small_config, policy={"vision": "tower", "region_tokens": False, "touch_tokens": False})
    trainer = make_trainer(config, data)
    batch = data.train.batch(list(range(0, 240, 20)))
    cosines = trainer.cosines(batch, 0)
    pairs = {"gradient_cosine", "gradient_cosine/pointer-action", "gradient_cosine/pointer-alignment"}
    assert set(cosines) == pairs and all(-1 <= value <= 1 for value in cosines.values())
    parts = trainer.step(batch, 0)
    total = trainer.model.act.total(parts) + parts["hsa_weight"] * parts["hsa"] + parts["pointer"]
    assert float(parts["loss"]) == pytest.approx(float(total), rel=1e-5)
    rates = {group["name"]: group["initial_lr"] for group in trainer.optimiser.param_groups}
    assert rates["pointer"] == 1e-3


def test_the_cosine_is_that_of_the_two_gradients_on_the_vision_tower(small_config: Maker, data: Data) -> None:
    trainer = make_trainer(pointing(small_config), data)
    batch = data.train.batch(list(range(0, 240, 20)))
    found = trainer.cosines(batch, 0)
    assert set(found) == {"gradient_cosine/pointer-alignment"}  # ACT is blind
    vectors = []
    for name in ("pointer", "alignment"):
        trainer.model.zero_grad()
        losses = trainer.model.train().losses(trainer.prepared(batch, 0))
        losses.terms[name].backward()
        grads = [p.grad.flatten() for p in trainer.model.alignment.towers.vision.parameters() if p.grad is not None]
        vectors.append(torch.cat(grads).numpy())
    expected = np.dot(*vectors) / np.prod([np.linalg.norm(v) for v in vectors])
    assert found["gradient_cosine/pointer-alignment"] == pytest.approx(expected, abs=1e-4)


def test_micro_batches_give_the_gradient_of_the_complete_batch(small_config: Maker, data: Data) -> None:
    gradients = []
    for parts in (1, 3):
        still = {"augment": {"shift_px": 3, "gain": 0.0, "shuffle_channels": 0.0}}
        config = pointing(small_config, alone=True, optimiser={"accumulate": parts}, **still)
        trainer = make_trainer(config, data)
        log = trainer.step(data.train.batch(list(range(0, 240, 20))), 0)
        named = trainer.model.pointer.named_parameters()
        values = {"px": log[f"point_px/{KEY}"], "loss": log["loss"]}
        gradients.append({name: p.grad.clone() for name, p in named} | values)
    for name, whole in gradients[0].items():
        assert torch.allclose(whole, gradients[1][name], rtol=1e-3, atol=1e-6), name


def test_with_stop_gradient_the_pointer_leaves_the_towers_to_the_alignment(small_config: Maker, data: Data) -> None:
    config = pointing(small_config, alignment={"mode": "stop_gradient"})
    model = build_model(config, data.train)
    losses = model.losses(augment(data.train.batch(list(range(0, 240, 20))), config.augment))
    towers = [p for p in model.alignment.towers.parameters() if p.requires_grad]
    pulled = torch.autograd.grad(losses.pointer, [*towers, *model.pointer.key.parameters()], allow_unused=True)
    assert all(g is None for g in pulled[: len(towers)]) and all(bool(g.any()) for g in pulled[len(towers) :])


def test_a_policy_gets_the_predicted_point_as_one_token_and_acts_on_it_as_in_training(small_config: Maker) -> None:
    config = pointing(small_config, hsa={"weight": 0.0}, policy=BLIND, pointer={**POINTER, "touch": True}, steps=2)
    run = train(config, progress=False)
    acting = Policy.load(run)
    assert set(acting.needs.cameras) == {"top"} and set(acting.needs.touches) == {"tactile1"}
    data = load_data(config, progress=False, run=run)
    batch = augment(data.held_out.batch([7]), config.augment)
    model = acting.model
    features = model.see(batch, alignment=False)
    assert model.observed(batch, features).extra_tokens.shape == (1, 1, 16)  # one view: one token
    with open_episode(data.held_out.jobs[0].ref) as episode:
        acting.reset()
        chunk = acting.act(observation(episode, 7))
        shown = acting.batch(checked(observation(episode, 7), acting.needs)).images()
    # A packed frame was decoded at a reduced size, which changes it by less than a grey level.
    assert all(float((shown[key].float() - batch.images()[key]).abs().mean()) < 1 for key in shown)
    same = batch.with_images(shown)
    expected = acting.statistics.restore_action(
        model.predict(same, model.see(same, alignment=False))[0].detach().double()
    )
    assert np.allclose(chunk, expected, atol=1e-4)
    loss = model.losses(batch).action
    weights = [*model.pointer.parameters()]
    assert all(g is None for g in torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True))
    assert all(bool(g.any()) for g in torch.autograd.grad(loss, [model.point_to_act.weight]))


def test_a_pointer_beside_a_policy_gives_it_its_token_unless_the_config_says_no(small_config: Maker) -> None:
    beside, alone, bare = pointing(small_config), pointing(small_config, alone=True), small_config(views=TOP)
    assert [c.policy.pointer_token for c in (beside, alone, bare)] == [True, False, False]
    said_no = pointing(small_config, policy={**BLIND, "pointer_token": False})
    assert said_no.policy.pointer_token is False, "as runs before this default state it"
    tokens = [
        make_model(c, 7, 7, fill=False).point_to_act is not None  # widths of the state and of the action
        for c in (beside, said_no)
    ]
    assert tokens == [True, False]
    assert type(beside).model_validate(beside.model_dump()) == beside
    assert opening_only(beside, 1e-3).policy.pointer_token is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hsa": {"weight": 0.0}, "train_policy": False, "pointer": None}, "no \\[pointer\\]. Training needs"),
        ({"policy": {"pointer_token": True}, "pointer": None}, "pointer_token = true needs a \\[pointer\\] table"),
        (
            {
                "policy": {"touch_tokens": False},
                "pointer": {**POINTER, "touch": True},
                "alignment": {"mode": "pretrain_then_drop_touch", "pretrain_steps": 1},
            },
            "does not use touch; got tokens of a pointer with pointer.touch = true",
        ),
    ],
)
def test_a_config_that_lacks_what_a_pointer_needs_is_refused(
    small_config: Maker, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(views=TOP, **changes)
