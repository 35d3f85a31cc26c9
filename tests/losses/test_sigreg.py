"""SIGReg against a recomputation in float64, its closed scale, and LeJEPA's terms."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from tactile_align.losses.lejepa import LeJEPA, invariance
from tactile_align.losses.sigreg import GAUSSIAN, POINT, random_directions, sigreg


def by_definition(z: np.ndarray, directions: np.ndarray) -> float:
    """Trapezoidal rule over -3 to 3 of N |empirical - normal characteristic function|^2 under e^(-t^2 / 2)."""
    t = np.linspace(-3, 3, 33)
    values = []
    for a in directions.T:
        empirical = np.exp(1j * t[None] * (z @ a)[:, None]).mean(axis=0)
        gap = np.abs(empirical - np.exp(-(t**2) / 2)) ** 2
        values.append(len(z) * np.trapezoid(gap * np.exp(-(t**2) / 2), t))
    return float(np.mean(values))


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
def test_the_statistic_is_that_of_its_definition_in_float64(scale: float) -> None:
    generator = torch.Generator().manual_seed(3)
    z = scale * torch.randn(2, 21, 5, generator=generator) + 0.3
    directions = random_directions(5, 7, generator)
    assert torch.allclose(directions.norm(dim=0), torch.ones(7))
    expected = np.mean([by_definition(view.double().numpy(), directions.double().numpy()) for view in z])
    assert float(sigreg(z, directions)) == pytest.approx(expected, rel=1e-5)


def test_normal_features_have_the_same_statistic_whatever_their_number_and_a_point_grows_with_it() -> None:
    whole = quad(lambda t: (1 - math.exp(-(t**2))) * math.exp(-(t**2) / 2), -np.inf, np.inf)[0]
    assert pytest.approx(whole) == GAUSSIAN
    assert pytest.approx(quad(lambda t: (1 - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2), -99, 99)[0]) == POINT
    generator = torch.Generator().manual_seed(0)
    for rows in (8, 64):
        z = torch.randn(1000, rows, 3, generator=generator)
        assert float(sigreg(z, random_directions(3, 8, generator))) == pytest.approx(1.05, abs=0.05)
        assert float(sigreg(0 * z[:1], random_directions(3, 8, generator))) == pytest.approx(0.40 * rows, rel=0.02)


def test_the_statistic_pulls_features_towards_the_normal_distribution() -> None:
    generator = torch.Generator().manual_seed(1)
    z = (0.2 * torch.randn(64, 4, generator=generator) + 1).requires_grad_()
    for _ in range(60):
        (slope,) = torch.autograd.grad(sigreg(z, random_directions(4, 32, generator)), z)
        z = (z - 0.5 * slope).detach().requires_grad_()
    values = z.detach()
    assert values.mean(dim=0).abs().max() < 0.15 and (values.std(dim=0) - 1).abs().max() < 0.2


def test_lejepa_weighs_its_terms_and_equal_views_have_no_invariance_loss() -> None:
    torch.manual_seed(0)
    objective = LeJEPA(width=6, hidden=8, dim=4, weight=0.25, directions=16)
    tokens = torch.randn(2, 10, 3, 2, 6)
    images = torch.zeros(2, 10, 4, 5, 3, dtype=torch.uint8)
    seen: list[torch.Size] = []

    def encode(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.shape)
        return tokens.flatten(0, 1)

    parts = objective(encode, images)
    assert seen == [(20, 4, 5, 3)]
    z = objective.embed(tokens).z
    assert z.shape == (2, 10, 4) and torch.allclose(parts["invariance"], (z[0] - z[1]).square().mean() / 4)
    assert torch.allclose(parts["loss"], 0.75 * parts["invariance"] + 0.25 * parts["sigreg"])
    assert float(invariance(z[:1].expand(2, -1, -1)).detach()) == 0
