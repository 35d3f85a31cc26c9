"""Controls of the alignment loss: permuted pairs, which teach nothing, and two crops of one region, without touch."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tactile_align.config.features import EncoderConfig, FeatureConfig
from tactile_align.config.hsa import HSAConfig
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.diagnose import diagnose
from tactile_align.diagnostics.evaluation import evaluate
from tactile_align.errors import InputError
from tactile_align.features.towers import Features
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import MomentBatch, TouchBatch, ViewBatch
from tactile_align.policies.alignment import Alignment, BatchFeatures, View
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint
from tactile_align.training.data import load_data
from tactile_align.training.distributed import Group
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import make_trainer, train
from tactile_align.training.step import Trainer, step_seed
from tactile_align.training.validation import validate
from tactile_align.training.watch import Watch
from tests.training.conftest import TOWER

Maker = Callable[..., TrainConfig]
VIEW = View("v", "camera", "sensor", 1.0)
KEY = "left_wrist-tactile1"
CROPS = {"pairs": "two_crops", "min_gap": 8, "learn_temperature": False}
SEPARATE = {"touch": TOWER}
EPISODES, CONTACTS, FRAMES, SIZE, DIM, STEPS = 8, 6, 4, 24, 16, 200


def play() -> tuple[Tensor, Tensor, Tensor]:
    """Fixed touch and region vectors (N, SIZE) of play in which both show the contact, and (N, 3) facts of the moments.

    The facts are the index of the episode, the time and the index of the contact.
    """
    generator = torch.Generator().manual_seed(0)
    facts = torch.cartesian_prod(torch.arange(EPISODES), torch.arange(CONTACTS), torch.arange(FRAMES))
    facts = torch.stack([facts[:, 0], facts[:, 1] * 10 + facts[:, 2], facts[:, 1]], dim=1)
    shown = torch.randn(EPISODES * CONTACTS, 8, generator=generator).repeat_interleave(FRAMES, dim=0)
    sides = [shown @ torch.randn(8, SIZE, generator=generator) for _ in range(2)]
    touch, region = (side + 0.3 * torch.randn(side.shape, generator=generator) for side in sides)
    return touch, region, facts


def moments(facts: Tensor, order: Tensor) -> MomentBatch:
    rows = len(facts)
    image = torch.zeros(rows, 2, 2, 3, dtype=torch.uint8)
    visible = torch.arange(rows) % 8 != 5
    touch = TouchBatch(image=image, contact=torch.arange(rows) % 9 != 4, contact_index=facts[:, 2])
    return MomentBatch(
        qpos=torch.zeros(rows, 7),
        qpos_raw=torch.zeros(rows, 7),
        action=torch.zeros(rows, 1, 7),
        is_pad=torch.zeros(rows, 1, dtype=torch.bool),
        episode=facts[:, 0],
        time=facts[:, 1],
        views={"v": ViewBatch(image, torch.zeros(rows, 4), visible)},
        touches={"sensor": touch},
        order=order,
    )


def alignment_of(**hsa: Any) -> Alignment:
    tower = EncoderConfig(model="ViT-demo", pretrained="scratch", image_size=(32, 32))
    return Alignment(FeatureConfig(vision=tower, dim=DIM), HSAConfig(min_gap=3, **hsa), (VIEW,)).train()


def features_of(tau: Tensor, w: Tensor) -> BatchFeatures:
    return BatchFeatures({"v": Features(w, w[:, None])}, {"sensor": Features(tau, tau[:, None])})


def loss_over_chance(rows: int = 24, **hsa: Any) -> float:
    """Train two linear heads by the real loss and return the mean loss over chance in the last quarter of the steps."""
    torch.manual_seed(0)
    alignment = alignment_of(**hsa)
    heads = nn.ModuleDict({side: nn.Linear(SIZE, DIM) for side in ("touch", "region")})
    optimiser = torch.optim.Adam(heads.parameters(), 1e-2)
    touch, region, facts = play()
    ratios = []
    for _ in range(STEPS):
        drawn = torch.randperm(len(facts))[:rows]
        batch = moments(facts[drawn], torch.rand(rows))
        loss, log = alignment(batch, features_of(heads["touch"](touch[drawn]), heads["region"](region[drawn])))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ratios.append(float(log["hsa/v"] / log["chance/v"]))
    last = ratios[-STEPS // 4 :]
    return sum(last) / len(last)


@pytest.mark.parametrize("symmetric", [False, True])
def test_permuted_pairs_stay_at_chance_where_true_pairs_are_learnt(symmetric: bool) -> None:
    assert loss_over_chance(symmetric=symmetric) < 0.6
    assert loss_over_chance(symmetric=symmetric, pairs="permuted") > 0.97


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_features_that_know_every_contact_are_at_chance_on_permuted_pairs(sign: int, symmetric: bool) -> None:
    # A partner of the same contact would lower the loss of sign 1; a true region among the negatives that of sign -1.
    facts = play()[2]
    contacts = torch.eye(EPISODES * CONTACTS).repeat_interleave(FRAMES, dim=0)
    generator, alignment = torch.Generator().manual_seed(0), alignment_of(symmetric=symmetric, pairs="permuted")
    alone = 0
    for _ in range(20):
        drawn = torch.randperm(len(facts), generator=generator)[:30]
        batch = moments(facts[drawn], torch.rand(30, generator=generator))
        _, log = alignment(batch, features_of(sign * contacts[drawn], contacts[drawn]))
        assert float(log["hsa/v"]) == pytest.approx(float(log["chance/v"]), rel=1e-5)
        assert int(log["pairs/v"]) > 15 and float(log["r1/v"]) == 0
        alone += int(log["no_partner/v"])
    assert 0 < alone < 40, "of about 460 partners, one in 40 is of the same contact"


def test_a_permuted_loss_is_that_of_the_moved_touches_without_any_pair_of_related_moments() -> None:
    touch, region, facts = play()
    drawn = torch.randperm(24, generator=torch.Generator().manual_seed(1))[:20]  # six contacts
    batch = moments(facts[drawn], torch.rand(20, generator=torch.Generator().manual_seed(2)))
    alignment, tau, w = alignment_of(pairs="permuted"), touch[drawn], region[drawn]
    features = features_of(tau, w)
    loss, log = alignment(batch, features)
    valid = [i for i in range(20) if batch.views["v"].visible[i] and batch.touches["sensor"].contact[i]]
    cycle = sorted(valid, key=lambda i: float(batch.order[i]))
    moved = {row: cycle[k - 1] for k, row in enumerate(cycle)}

    def related(a: int, b: int) -> bool:
        (e, s, c), (f, t, d) = facts[drawn[a]].tolist(), facts[drawn[b]].tolist()
        return e == f and (abs(s - t) < 3 or c == d)

    kept = [i for i in valid if not related(i, moved[i])]
    assert 6 < len(kept) < len(valid)
    losses = []
    for i in kept:
        others = [j for j in kept if not any(related(a, b) for a in (i, moved[i]) for b in (j, moved[j]))]
        scores = torch.cosine_similarity(tau[moved[i]][None], w[[i, *others]]) / 0.07
        losses.append(float(scores.logsumexp(0) - scores[0]))
    assert float(loss) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert (int(log["pairs/v"]), int(log["no_partner/v"])) == (len(kept), len(valid) - len(kept))
    plain, _ = alignment.eval()(batch, features)
    assert torch.equal(plain, alignment_of().eval()(batch, features)[0]), "validation uses true pairs"


def trainer_of(config: TrainConfig) -> tuple[Trainer, MomentBatch]:
    data = load_data(config, progress=False)
    rows = data.contact.nonzero()[0][::5][: config.batch_size].tolist()
    return make_trainer(config, data), data.train.batch(rows)


def test_the_permutation_is_new_at_each_step_and_that_of_its_step(small_config: Maker) -> None:
    trainer, batch = trainer_of(small_config(hsa={"pairs": "permuted"}))
    orders = [trainer.prepared(batch, step).order for step in (0, 1, 0)]
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0].argsort(), orders[1].argsort())
    true, _ = trainer_of(small_config())
    one, other = (t.prepared(batch, 3).tensors() for t in (trainer, true))
    assert set(one) - set(other) == {"order"} and all(torch.equal(one[name], value) for name, value in other.items())


@pytest.mark.parametrize("bank", [0, 16])
def test_a_loss_of_two_crops_is_infonce_between_two_augmentations_of_each_region(
    small_config: Maker, bank: int
) -> None:
    config = small_config(hsa={**CROPS, "bank": bank, "symmetric": bank > 0}, train_policy=False, features=SEPARATE)
    trainer, raw = trainer_of(config)
    step, alignment = 3, trainer.model.alignment
    towers = copy.deepcopy(alignment.towers)
    generator = torch.Generator().manual_seed(step_seed(config.seed, step))
    first, second = (augment(raw, config.augment, generator).views[KEY] for _ in range(2))
    assert not torch.equal(first.image, second.image)
    index = raw.touches["tactile1"].contact_index
    valid = (first.visible & second.visible & raw.touches["tactile1"].contact).nonzero().flatten().tolist()
    with torch.no_grad():
        w, tau = (towers.of_region(view.image, view.box.nan_to_num(5.0)).vector for view in (first, second))
        losses = []
        for a, b in ((tau, w), (w, tau))[: 1 + (bank > 0)]:
            for i in valid:
                others = []
                for j in valid:
                    close = abs(int(raw.time[i] - raw.time[j])) < 8 or bool(index[i] == index[j])
                    if not (raw.episode[i] == raw.episode[j] and close):
                        others.append(j)
                scores = torch.cosine_similarity(a[i][None], b[[i, *others]]) / 0.07
                losses.append(float(scores.logsumexp(0) - scores[0]))
    log = trainer.step(raw, step)
    assert len(valid) > 6 and float(log["hsa"]) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    if bank:
        kept = alignment.memory.bank(0).kept()
        torch.testing.assert_close(kept[0], tau[valid])
        torch.testing.assert_close(kept[1], w[valid])


def test_two_crops_train_the_vision_tower_and_leave_the_touch_tower_as_it_is(small_config: Maker) -> None:
    config = small_config(hsa=CROPS, train_policy=False, features=SEPARATE)
    trainer, raw = trainer_of(config)
    blind = replace(raw, touches={n: replace(t, image=255 - t.image) for n, t in raw.touches.items()})
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    loss = float(trainer.step(raw, 0)["hsa"])
    after = dict(trainer.model.named_parameters())
    moved = {name for name, p in before.items() if not torch.equal(p, after[name])}
    touch = {name for name in before if name.startswith("alignment.towers.touch")}
    held = {id(p) for group in trainer.optimiser.param_groups for p in group["params"]}
    assert len(touch) > 20 and not moved & touch and all(after[name].grad is None for name in touch)
    assert not any(id(after[name]) in held for name in touch)
    assert moved == {n for n, p in after.items() if p.requires_grad} and len(moved) > 20
    again = make_trainer(config, trainer.data, Group(0, 1, torch.device("cpu")))
    assert float(again.step(blind, 0)["hsa"]) == loss, "no touch image enters the loss"


def test_a_policy_trains_the_touch_tower_that_two_crops_leave_alone(small_config: Maker) -> None:
    trainer, raw = trainer_of(small_config(hsa=CROPS, features=SEPARATE))
    parts = trainer.step(raw, 0)
    name = "towers.touch.visual.transformer.resblocks.0"
    assert float(parts[f"grad/{name}"]) > 0 and "grad/towers.touch_head" not in parts
    held_out = validate(trainer.model, trainer.data.held_out, trainer.config, torch.device("cpu"))
    assert f"rank/region/{KEY}" in held_out and f"hsa/{KEY}" in held_out
    assert not [n for n in held_out if n.startswith(("recall/", "rank/touch"))]


@pytest.mark.parametrize("pairs", ["permuted", "two_crops"])
def test_a_resumed_control_equals_one_that_never_stopped_bit_for_bit(
    small_config: Maker, tmp_path: Path, pairs: str
) -> None:
    changes = {"hsa": {"pairs": pairs}, "steps": 4, "save_every": 2, "validate_every": 4, "log": {"every": 1}}
    whole = train(small_config("whole", **changes), progress=False)
    shutil.copytree(whole, tmp_path / "resumed")
    for late in ("step_00000004.pt", "best_action.safetensors"):
        (tmp_path / "resumed" / "checkpoints" / late).unlink(missing_ok=True)
    resumed = train(small_config("resumed", **changes), resume=True, progress=False)
    a, b = (load_checkpoint(latest_checkpoint(run / "checkpoints")) for run in (whole, resumed))
    assert a["step"] == b["step"] == 4
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    assert not list((whole / "checkpoints").glob("best_retrieval*"))
    first, second = (
        [r["loss"] for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "train"] for run in (whole, resumed)
    )
    assert first == second and len(first) == 4


def test_the_watch_is_silent_about_permuted_pairs_at_chance(small_config: Maker) -> None:
    level = {"hsa/v": 2.79, "chance/v": 2.8, "temperature": 0.5, "hsa_weight": 1.0}
    flat = {"rank/touch/v": 1.1, "spread/touch/v": 0.01}
    counts = []
    for pairs in ("true", "permuted"):
        watch = Watch(small_config(steps=1000, hsa={"pairs": pairs}))
        found = [check for step in range(10, 400, 10) for check in watch.train(step, level)]
        counts.append(len(found) + len(watch.validation(flat)))
    assert counts == [3, 0]


def test_a_run_of_two_crops_is_evaluated_without_an_opening_baseline(small_config: Maker) -> None:
    out = train(small_config(hsa=CROPS, train_policy=False, steps=1, validate_every=1), progress=False)
    summary = evaluate(out, progress=False)
    assert summary.views[KEY].opening_only is None and 0 <= summary.views[KEY].retrieval["both"].at[1] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hsa": {**CROPS, "touch_ceiling": 0.9}}, r"touch_ceiling = 0\.9 compares touches.*pairs = 'two_crops'"),
        ({"hsa": {**CROPS, "kind": "mse"}}, r"kind = 'mse' ignores.*pairs = two_crops"),
        ({"hsa": CROPS, "augment": {"shift_px": 0, "gain": 0, "shuffle_channels": 0}}, r"all options of augment are 0"),
        ({"hsa": CROPS, "region": "opening", "train_policy": False}, r"two_crops' needs image regions"),
        ({"hsa": CROPS, "select_by": "retrieval"}, r"select_by = 'retrieval' needs .*hsa\.pairs = 'two_crops'"),
        ({"hsa": {"pairs": "permuted", "learn_temperature": False}, "select_by": "hsa"}, r"select_by = 'hsa' needs"),
        ({"hsa": CROPS, "train_policy": False, "patience": 2}, r"patience = 2 needs a measure.*no policy"),
    ],
)
def test_what_a_control_would_ignore_is_refused(small_config: Maker, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


def test_the_doctor_refuses_a_control(small_config: Maker) -> None:
    with pytest.raises(InputError, match=r"doctor checks .* true pairs; got hsa\.pairs = 'permuted'"):
        diagnose(small_config(hsa={"pairs": "permuted"}))
