"""Modes, weights over the steps, micro-batches, running means, patience and what is logged of gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.policies.checkpoint import load_checkpoint
from tactile_align.policies.runtime import Policy
from tactile_align.training import loop
from tactile_align.training.data import load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import make_trainer, train
from tactile_align.training.optimiser import RunningMean, validation_weights, weights_at
from tactile_align.training.step import matmul_precision
from tests.training.conftest import TOWER

Maker = Callable[..., TrainConfig]


def test_the_alignment_weight_warms_up_in_a_line_and_falls_by_a_cosine(small_config: Maker) -> None:
    config = small_config(steps=14, alignment={"warmup_steps": 4, "final": 0.2})
    shares = [weights_at(config, step).alignment for step in range(14)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    expected = [0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi * k / 9)) for k in range(10)]
    assert np.allclose(shares[4:], expected) and shares[-1] == pytest.approx(0.2)
    assert validation_weights(config).alignment == 1.0


def test_pretraining_runs_the_alignment_alone_and_then_the_action(small_config: Maker) -> None:
    config = small_config(
        steps=6, alignment={"mode": "pretrain_then_tune", "pretrain_steps": 3, "after": 0.5}, log={"every": 1}
    )
    data = load_data(config, progress=False)
    trainer = make_trainer(config, data)
    before = {name: value.clone() for name, value in trainer.model.act.state_dict().items()}
    for step in range(3):
        parts = trainer.step(data.train.batch(list(range(0, 240, 20))), step)
        assert "l1" not in parts and parts["hsa_weight"] == 1.0
    assert all(torch.equal(before[name], value) for name, value in trainer.model.act.state_dict().items())
    parts = trainer.step(data.train.batch(list(range(0, 240, 20))), 3)
    assert "l1" in parts and parts["hsa_weight"] == 0.5
    assert not all(torch.equal(before[name], value) for name, value in trainer.model.act.state_dict().items())


def test_a_policy_pretrained_with_touch_acts_without_it(small_config: Maker) -> None:
    config = small_config(
        steps=4,
        alignment={"mode": "pretrain_then_drop_touch", "pretrain_steps": 2},
        policy={"touch_tokens": False},
        log={"every": 1},
    )
    out = train(config, progress=False)
    records = [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"]
    assert ["hsa" in r for r in records] == [True, True, False, False]
    assert ["l1" in r for r in records] == [False, False, True, True]
    assert dict(Policy.load(out).needs.touches) == {}


def test_stopped_gradients_leave_the_encoders_to_the_alignment(small_config: Maker) -> None:
    config = small_config(alignment={"mode": "stop_gradient"}, augment={"shuffle_channels": 0.0})
    data = load_data(config, progress=False)
    trainer = make_trainer(config, data)
    batch = trainer.prepared(data.train.batch(np.flatnonzero(data.contact)[::15][:10].tolist()), 0)
    found = trainer.model.eval().losses(batch)
    weights = [p for p in trainer.model.alignment.towers.parameters() if p.requires_grad]
    of_action = torch.autograd.grad(found.action, weights, allow_unused=True, retain_graph=True)
    of_alignment = torch.autograd.grad(found.alignment, weights, allow_unused=True)
    assert all(grad is None for grad in of_action)
    assert sum(grad is not None and bool(grad.any()) for grad in of_alignment) > 0.9 * len(weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alignment": {"mode": "pretrain_then_tune"}}, r"pretrain_steps above 0 and below steps = \d+; got 0"),
        ({"alignment": {"pretrain_steps": 3}}, "pretrain_steps = 0"),
        ({"alignment": {"mode": "stop_gradient"}, "hsa": {"weight": 0.0}}, "action loss and alignment loss"),
        ({"alignment": {"mode": "pretrain_then_drop_touch", "pretrain_steps": 2}}, "touch_tokens = false"),
        ({"optimiser": {"accumulate": 5}}, "multiple of accumulate"),
    ],
)
def test_options_that_do_not_fit_are_refused(small_config: Maker, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


def gradients_of(config: TrainConfig) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the clipped gradients of one step on a batch with much padding, and its log."""
    data = load_data(config, progress=False)
    trainer = make_trainer(config, data)
    ends = np.flatnonzero(np.diff(data.train.episode))
    batch = data.train.batch([*(int(e) - k for e in ends for k in (0, 2)), *range(5, 125, 15)])
    assert bool(batch.is_pad.any())
    parts = trainer.step(batch, 0)
    return {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}, parts


def test_micro_batches_give_the_action_gradient_of_the_whole_batch(small_config: Maker) -> None:
    plain = {"hsa": {"weight": 0.0}, "policy": {"dropout": 0.0}, "augment": {"shuffle_channels": 0.0}}
    whole, log = gradients_of(small_config(**plain))
    parts, log_of_parts = gradients_of(small_config(**plain, optimiser={"accumulate": 4}))
    assert set(whole) == set(parts)
    scale = max(float(g.abs().max()) for g in whole.values())
    assert max(float((whole[n] - parts[n]).abs().max()) for n in whole) < 2e-5 * scale
    for name in ("l1", "kl", "loss", "gradient_norm"):
        assert float(log_of_parts[name]) == pytest.approx(float(log[name]), rel=1e-5)


def test_micro_batches_keep_every_pair_but_have_fewer_negatives(small_config: Maker) -> None:
    _, log = gradients_of(small_config(policy={"dropout": 0.0}))
    _, log_of_parts = gradients_of(small_config(policy={"dropout": 0.0}, optimiser={"accumulate": 2}))
    key = "left_wrist-tactile1"
    assert log[f"pairs/{key}"] == log_of_parts[f"pairs/{key}"]
    assert log_of_parts[f"chance/{key}"] < log[f"chance/{key}"] - 0.3
    expected = log_of_parts["l1"] + 10 * log_of_parts["kl"] + log_of_parts["hsa"]
    assert float(log_of_parts["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_a_running_mean_is_the_weighted_mean_of_its_weights(small_config: Maker) -> None:
    config = small_config()
    model = make_trainer(config, load_data(config, progress=False)).model
    mean = RunningMean(model, 0.5)
    values = []
    with torch.no_grad():
        for value in (2.0, -1.0, 3.0):
            model.touch_to_act.bias.fill_(value)
            mean.update(model)
            values.append(value)
    expected = 0.1 * mean_of_start(config) + 0.9 * 2.0
    expected = 2 / 11 * expected + 9 / 11 * -1.0
    expected = 3 / 12 * expected + 9 / 12 * 3.0
    assert torch.allclose(mean.tensors["touch_to_act.bias"], expected, atol=1e-6)


def mean_of_start(config: TrainConfig) -> torch.Tensor:
    model = make_trainer(config, load_data(config, progress=False)).model
    return model.touch_to_act.bias.detach().clone()


def test_the_best_checkpoint_holds_the_running_mean_that_was_validated(small_config: Maker) -> None:
    out = train(small_config(steps=3, optimiser={"ema": 0.9}), progress=False)
    best, last = (
        load_checkpoint(out / "checkpoints" / name) for name in ("best_action.safetensors", "step_00000003.pt")
    )
    assert all(torch.equal(best["model"][n], last["mean"]["tensors"][n]) for n in best["model"])
    assert not torch.equal(best["model"]["touch_to_act.weight"], last["model"]["touch_to_act.weight"])


def test_training_stops_when_validation_gets_no_better(small_config: Maker) -> None:
    frozen = {"lr": 1e-12, "lr_tower": 1e-12, "lr_head": 1e-12, "lr_temperature": 1e-12, "warmup_steps": 0}
    out = train(small_config(steps=40, optimiser=frozen, validate_every=2, patience=2), progress=False)
    held_out = [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "validation"]
    errors = [r["action_error"] for r in held_out]
    assert held_out[-1]["step"] < 40 and min(errors) == errors[-3]
    assert load_checkpoint(out / "checkpoints" / "best_action.safetensors")["value"] == min(errors)


def test_the_gradient_cosine_is_logged_and_changes_nothing(small_config: Maker) -> None:
    logged = train(small_config("logged", steps=3, alignment={"cosine_every": 2}, log={"every": 1}), progress=False)
    plain = train(small_config("plain", steps=3, log={"every": 1}), progress=False)
    first, second = ([r for r in read_metrics(o / "metrics.jsonl") if r["kind"] == "train"] for o in (logged, plain))
    assert ["gradient_cosine" in r for r in first] == [True, False, True]
    assert all(-1 <= r["gradient_cosine"] <= 1 for r in first if "gradient_cosine" in r)
    assert [r["loss"] for r in first] == [r["loss"] for r in second]


def test_bfloat16_stays_close_to_float32(small_config: Maker) -> None:
    exact = train(small_config("exact", steps=2, log={"every": 1}), progress=False)
    rough = train(small_config("rough", steps=2, log={"every": 1}, optimiser={"precision": "bfloat16"}), progress=False)
    a, b = (read_metrics(out / "metrics.jsonl")[0] for out in (exact, rough))
    assert b["l1"] == pytest.approx(a["l1"], rel=0.03) and b["l1"] != a["l1"]
    assert b["kl"] == pytest.approx(a["kl"], rel=0.1)


@pytest.mark.parametrize(("own", "expected"), [(None, torch.bfloat16), ("float32", torch.float32)])
def test_the_encoders_multiply_in_the_precision_of_the_training_step_unless_they_have_their_own(
    own: str | None, expected: torch.dtype, small_config: Maker
) -> None:
    features = {"vision": {**TOWER, "precision": own}}
    config = small_config(optimiser={"precision": "bfloat16"}, features=features)
    data = load_data(config, progress=False)
    trainer = make_trainer(config, data)
    dtypes = set()
    towers = trainer.model.alignment.towers
    for module in (*towers.vision.visual.modules(), *towers.touch.visual.modules()):
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, seen, product: dtypes.add(product.dtype))
    trainer.step(data.train.batch(range(12)), 0)
    assert dtypes == {expected}


@pytest.mark.parametrize(("tf32", "expected"), [(True, "high"), (False, "highest")])
def test_float32_is_multiplied_in_tf32_on_a_gpu_only_as_configured_and_only_while_training(
    tf32: bool, expected: str
) -> None:
    def settings() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    with matmul_precision(tf32, torch.device("cuda")):
        assert settings() == (expected, tf32)
    with matmul_precision(tf32, torch.device("cpu")):
        assert settings() == before
    assert settings() == before


def test_training_runs_in_its_matmul_precision(small_config: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    @contextmanager
    def noted(tf32: bool, device: torch.device) -> Iterator[None]:
        entered.append((tf32, device))
        yield

    monkeypatch.setattr(loop, "matmul_precision", noted)
    train(small_config(steps=1, validation_batches=1, optimiser={"tf32": False}), progress=False)
    assert entered == [(False, torch.device("cpu"))]


def test_a_small_gain_shrinks_the_first_outputs(small_config: Maker) -> None:
    def spread(gain: float) -> float:
        config = small_config(policy={"init_gain": gain, "dropout": 0.0})
        data = load_data(config, progress=False)
        model = make_trainer(config, data).model.eval()
        state = torch.randn(64, 7, generator=torch.Generator().manual_seed(0))
        return float(model.act(state).actions.std())

    assert spread(0.25) < 0.5 * spread(1.0)


def test_a_memory_bank_adds_negatives_after_the_first_step(small_config: Maker) -> None:
    out = train(small_config(steps=3, hsa={"bank": 24, "symmetric": True}, log={"every": 1}), progress=False)
    negatives = [
        r["negatives/left_wrist-tactile1"] for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"
    ]
    assert negatives[0] < negatives[1] < negatives[2] and negatives[0] <= 8
