"""The loss without negatives, and both losses from a config."""

import re
from typing import Any

import pytest
import torch

from tactile_align.config.hsa import HSAConfig
from tactile_align.losses.build import loss_of, temperature_of
from tactile_align.losses.hsa import HSALoss, LossOptions
from tactile_align.losses.mse import MSELoss


def test_the_fallback_is_twice_one_minus_the_cosine_over_valid_pairs() -> None:
    h_tau, h_w = torch.randn(2, 6, 5, dtype=torch.float64) * 3
    valid = torch.tensor([True, True, False, True, False, True])
    cosine = torch.nn.functional.cosine_similarity(h_tau, h_w)
    loss, stats = MSELoss()(h_tau, h_w, valid=valid, stats=True)
    torch.testing.assert_close(loss, (2 - 2 * cosine)[valid].mean())
    assert float(stats.pairs) == 4 and float(stats.negatives) == 0 and float(stats.chance) == 2


def test_the_fallback_lets_nothing_through_from_rows_that_are_not_valid() -> None:
    h_tau, h_w = torch.randn(2, 3, 5)
    h_tau[1] = h_w[1] = torch.nan
    h_tau.requires_grad_()
    loss = MSELoss()(h_tau, h_w, valid=torch.tensor([True, False, True]))
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert h_tau.grad is not None and bool(torch.isfinite(h_tau.grad).all()) and float(h_tau.grad[1].abs().sum()) == 0


def test_a_config_becomes_its_loss_and_temperature() -> None:
    assert isinstance(loss_of(HSAConfig(kind="mse")), MSELoss)
    loss = loss_of(HSAConfig(symmetric=True, hardness=0.5, hardest=7, chunk=9))
    assert isinstance(loss, HSALoss) and loss.explicit == "add"
    assert loss.options == LossOptions(symmetric=True, hardness=0.5, hardest=7, chunk=9)
    kappa = temperature_of(HSAConfig(temperature=0.2, temperature_final=0.05, temperature_steps=1))
    assert [float(kappa()), float(kappa())] == pytest.approx([0.2, 0.05])
    with pytest.raises(ValueError, match="temperature_steps of at least 1"):
        HSAConfig(temperature_final=0.05)
    with pytest.raises(ValueError, match="temperature_steps = 100 needs temperature_final"):
        HSAConfig(temperature_steps=100)


@pytest.mark.parametrize(
    "ignored",
    [
        {"temperature": 0.1},
        {"learn_temperature": True},
        {"temperature_bounds": (0.02, 0.5)},
        {"temperature_final": 0.05, "temperature_steps": 10},
        {"symmetric": True},
        {"region_negatives": 2},
        {"finger_negative": True},
        {"camera_negative": True},
        {"hardness": 0.5},
        {"hardest": 7},
        {"symmetric": True, "bank": 64},
        {"bank_momentum": 0.9},
        {"chunk": 8},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_the_fallback_would_ignore_are_refused_by_name(ignored: dict[str, Any]) -> None:
    assert HSAConfig(**ignored).kind == "hsa"
    got = ", ".join(f"{name} = {value}" for name, value in ignored.items())
    with pytest.raises(ValueError, match=rf"kind = 'mse'.*got {re.escape(got)}\. Omit them"):
        HSAConfig(kind="mse", **ignored)
    usual = {name: HSAConfig.model_fields[name].default for name in ignored}
    assert not list(temperature_of(HSAConfig(kind="mse", min_gap=3, touch_ceiling=0.9, **usual)).parameters())
