"""Collapsed features are told from healthy ones, by numbers known by construction."""

import numpy as np
import pytest
import torch

from tactile_align.features.health import collapsed, effective_rank, eigenvalue_ratio, partition_isotropy, spread

COUNT, DIM = 64, 128


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def point(noise: float = 1e-3) -> np.ndarray:
    """One direction with noise in each of its 128 numbers."""
    return unit(drawn(1, DIM)) + noise * drawn(COUNT, DIM, seed=1)


def line() -> np.ndarray:
    """Both ways along one direction, with a noise of 1e-5."""
    return drawn(COUNT, 1, seed=2) * unit(drawn(1, DIM)) + 1e-5 * drawn(COUNT, DIM, seed=1)


def cone() -> np.ndarray:
    """Healthy features of a real encoder: a common direction and 20 more, cosines of 0.8 to each other."""
    return 2.0 * unit(drawn(1, DIM)) + drawn(COUNT, 20, seed=3) @ drawn(20, DIM, seed=4) / np.sqrt(20 * DIM)


SICK = {"point": point, "line": line, "constant": lambda: np.ones((COUNT, DIM)), "zeros": lambda: np.zeros((9, 4))}
WELL = {"isotropic": lambda: drawn(COUNT, DIM), "cone": cone, "few dimensions": lambda: drawn(COUNT, 16)}


def health(features: np.ndarray) -> tuple[float, float]:
    h = torch.from_numpy(features).float()
    return float(effective_rank(h)), float(spread(h))


@pytest.mark.parametrize("name", SICK)
def test_a_point_a_line_and_a_constant_have_collapsed(name: str) -> None:
    assert collapsed(*health(SICK[name]()))


@pytest.mark.parametrize("name", WELL)
def test_healthy_features_have_not_collapsed(name: str) -> None:
    assert not collapsed(*health(WELL[name]()))


def test_the_spread_names_a_point_whose_noise_has_a_rank_and_the_rank_a_line_that_is_spread() -> None:
    noisy = health(point(noise=2e-3))
    assert noisy[0] > 2 and collapsed(*noisy)
    assert health(line())[1] > 0.9


def test_features_that_are_not_finite_count_as_collapsed() -> None:
    broken = torch.ones(5, 4)
    broken[2, 1] = torch.nan
    assert torch.isnan(effective_rank(broken)) and torch.isnan(spread(broken))
    assert collapsed(float(effective_rank(broken)), 1.0) and collapsed(3.0, float(spread(broken)))
    for measure in (eigenvalue_ratio, partition_isotropy):
        with pytest.raises(ValueError, match="1 of 5 features are non-finite"):
            measure(broken)


def test_the_effective_rank_is_that_of_roy_and_vetterli_on_unit_features_as_they_are() -> None:
    h = cone()
    values = np.linalg.svd(unit(h), compute_uv=False)
    p = values / values.sum()
    assert float(effective_rank(torch.from_numpy(7 * h))) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_effective_rank_counts_directions_of_equal_strength(count: int) -> None:
    assert float(effective_rank(torch.eye(8)[:count].repeat(5, 1))) == pytest.approx(count)


def test_the_spread_is_the_distance_from_the_mean_of_directions_in_the_plane() -> None:
    angle = torch.deg2rad(torch.tensor([-30.0, 30.0]))
    h = torch.stack([angle.cos(), angle.sin()], dim=1) * torch.tensor([[2.0], [5.0]])
    assert float(spread(h)) == pytest.approx(np.sin(np.deg2rad(30)), abs=1e-6)


def test_the_eigenvalue_ratio_is_that_of_the_covariance() -> None:
    h = drawn(40, 5) * [1, 2, 3, 4, 5]
    values = np.linalg.eigvalsh(np.cov(unit(h).T))
    assert float(eigenvalue_ratio(torch.from_numpy(h))) == pytest.approx(values[2] / values[4], rel=1e-9)


def test_partition_isotropy_of_a_cross_is_one_and_of_a_point_is_small() -> None:
    assert float(partition_isotropy(torch.cat([torch.eye(4), -torch.eye(4)]))) == pytest.approx(1)
    assert float(partition_isotropy(torch.ones(300, 4))) == pytest.approx(np.exp(-2), rel=1e-6)
