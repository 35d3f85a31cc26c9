"""Numbers of feature spaces that are known by construction."""

import numpy as np
import pytest

from tactile_align.diagnostics.space import space_health, uniformity


def sphere(count: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, dim))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def test_a_perfect_pair_of_round_spaces() -> None:
    u = sphere(800, 16)
    found = space_health(5 * u, u)
    assert found.alignment == pytest.approx(0, abs=1e-12) and found.modality_gap == pytest.approx(0, abs=1e-12)
    assert found.margin > 0.2 and found.rank_touch == pytest.approx(16, abs=0.3)
    assert found.partition_isotropy_touch > 0.85 and "no collapse" in found.verdict
    assert (found.dim, found.pairs) == (16, 800)


def test_unrelated_directions_are_two_apart_and_have_no_margin() -> None:
    found = space_health(sphere(500, 64, 1), sphere(500, 64, 2))
    assert found.alignment == pytest.approx(2, abs=0.05) and found.margin < 0


def test_the_margin_is_that_of_angles_in_the_plane() -> None:
    def at(*degrees: float) -> np.ndarray:
        return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)

    found = space_health(3 * at(0, 90, 180), at(30, 100, 180))
    # Own regions 30, 10 and 0 degrees away; the nearest other ones 100, 60 and 80.
    own, other = np.cos(np.deg2rad([[30, 10, 0], [100, 60, 80]]))
    assert found.margin == pytest.approx((own - other).mean(), abs=1e-12)
    assert found.alignment == pytest.approx((2 - 2 * own).mean(), abs=1e-12)
    # Two chords, of 30 and of 10 degrees, 80 degrees between them.
    a, b = 2 * np.sin(np.deg2rad([15, 5]))
    assert found.modality_gap == pytest.approx(np.sqrt(a**2 + b**2 + 2 * a * b * np.cos(np.deg2rad(80))) / 3)


def test_collapsed_features_are_named() -> None:
    u = sphere(200, 16)
    same = np.tile(u[:1], (200, 1)) + 1e-9 * u
    found = space_health(same, u)
    assert found.rank_touch == pytest.approx(1, abs=1e-3) and found.uniformity_touch == pytest.approx(0, abs=1e-6)
    assert found.verdict == "collapsed: touch features lie in one point or on one line"


def test_a_point_is_named_also_where_its_noise_has_a_rank() -> None:
    u = sphere(200, 256)
    found = space_health(u, u[:1] + 0.02 * sphere(200, 256, seed=1))
    assert found.rank_vision > 2 and found.spread_vision == pytest.approx(0.02, rel=0.02)
    assert found.verdict == "collapsed: vision features lie in one point or on one line"


def test_uniformity_is_its_formula_on_two_opposite_points() -> None:
    u = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    # Of 12 ordered pairs 4 are equal and 8 are 2 apart.
    assert uniformity(u) == pytest.approx(np.log((4 + 8 * np.exp(-8)) / 12))


def test_the_gap_is_the_distance_of_the_means() -> None:
    u, v = np.tile([[1.0, 0.0]], (6, 1)), np.tile([[0.0, 1.0]], (6, 1))
    assert space_health(u, v).modality_gap == pytest.approx(np.sqrt(2))


def test_features_without_direction_are_refused_by_row() -> None:
    u = sphere(5, 4)
    broken = u.copy()
    broken[3] = 0
    with pytest.raises(ValueError, match=r"h_w is zero .*in rows \[3\]"):
        space_health(u, broken)
    with pytest.raises(ValueError, match=r"\(1, 4\)"):
        space_health(u[:1], u[:1])
