"""Outcomes of roll-outs: the exact sign test over seeds equals its closed form, and unequal sets are refused."""

from math import comb

import pytest

from tactile_align.diagnostics.outcomes import Played, compare_played, success


def outcomes(*correct: tuple[int, ...]) -> list[Played]:
    """Return outcomes by seed and class; a correct object of class 0 is on side 1."""
    return [
        Played(seed=seed, cls=cls, lifted=True, decided=True, correct=bool(c), side=1 - 2 * (cls ^ (not c)), steps=9)
        for seed, row in enumerate(correct)
        for cls, c in enumerate(row)
    ]


def test_the_comparison_is_the_exact_sign_test_over_seeds() -> None:
    a = outcomes((1, 1), (1, 1), (1, 0), (0, 1), (1, 1), (1, 1), (0, 0), (1, 1))
    b = outcomes((1, 0), (0, 0), (0, 1), (1, 1), (0, 1), (0, 1), (0, 0), (0, 1))
    compared = compare_played(a, b)
    assert (compared.more, compared.fewer, compared.equal) == (5, 1, 2)
    assert compared.p == pytest.approx(2 * (comb(6, 0) + comb(6, 1)) / 2**6)
    assert compare_played(a, b, comparisons=3).p == pytest.approx(3 * compared.p)
    assert compare_played(a, a).p == 1 and compare_played(b, a).fewer == 5
    with pytest.raises(ValueError, match=r"same seeds and classes.*14 of them in common"):
        compare_played(a, outcomes(*7 * [(1, 1)]))
    with pytest.raises(ValueError, match="all played with the same classes"):
        success(a[:-1])
