"""Numbers the original system recorded for its loss: seed 42, eight pairs of 768-vectors, kappa 0.07."""

import pytest
import torch

from tactile_align.losses.hsa import HSALoss

TOLERANCE = 1e-4


def recorded_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(42)
    h_tau, h_w = torch.randn(8, 768), torch.randn(8, 768)
    return h_tau, h_w, torch.randn(8, 5, 768), torch.randn(8, 768)


def test_the_in_batch_loss_and_its_gradients_are_those_recorded() -> None:
    h_tau, h_w, _, _ = recorded_inputs()
    h_tau.requires_grad_()
    h_w.requires_grad_()
    loss = HSALoss(0.07)(h_tau, h_w)
    loss.backward()
    assert loss.item() == pytest.approx(1.8813, abs=TOLERANCE)
    assert h_tau.grad is not None and h_tau.grad.norm().item() == pytest.approx(0.1650, abs=TOLERANCE)
    assert h_w.grad is not None and h_w.grad.norm().item() == pytest.approx(0.1666, abs=TOLERANCE)


def test_explicit_negatives_alone_give_the_recorded_loss() -> None:
    h_tau, h_w, hard, _ = recorded_inputs()
    assert HSALoss(0.07)(h_tau, h_w, hard).item() == pytest.approx(1.7129, abs=TOLERANCE)


def test_the_third_person_term_and_the_weighted_total_are_those_recorded() -> None:
    h_tau, h_w, _, h_tp = recorded_inputs()
    loss = HSALoss(0.07)
    third = loss(h_tau, h_tp)
    assert third.item() == pytest.approx(2.4428, abs=TOLERANCE)
    assert (loss(h_tau, h_w) + 0.5 * third).item() == pytest.approx(3.1027, abs=TOLERANCE)
