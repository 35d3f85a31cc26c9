"""Intervals over episodes: their coverage in simulated experiments, and when none is printed."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy.stats import ttest_rel

from tactile_align.diagnostics.intervals import (
    RULES,
    Kind,
    balanced_interval,
    error_difference_limits,
    error_limits,
    interval_text,
    mean_interval,
    paired_interval,
    r2_interval,
    relative_limits,
    share_difference_limits,
    share_limits,
)
from tests.benchmarks.coverage import LOWEST, cell, errors, paired_shares, roll_outs, shares


@pytest.mark.parametrize(
    ("rate", "icc", "n"), [(0.02, 0.2, 4), (0.02, 0.2, 20), (0.2, 0.2, 8), (0.2, 0.2, 40), (0.9, 0.05, 4)]
)
def test_intervals_of_shares_hold_the_truth(rate: float, icc: float, n: int) -> None:
    limits = share_limits(*shares(np.random.default_rng(3), rate, icc, n))
    assert cell("share", "", n, limits, rate).coverage >= LOWEST


@pytest.mark.parametrize(("rate", "n"), [(0.05, 50), (0.1, 25), (0.85, 15)])
def test_intervals_of_rollouts_hold_the_truth_where_both_classes_of_a_seed_end_alike(rate: float, n: int) -> None:
    limits = share_limits(*roll_outs(np.random.default_rng(3), rate, 1.0, n), unseen_correlation=1.0)
    assert cell("share", "", n, limits, rate).coverage >= LOWEST


@pytest.mark.parametrize(("rates", "n"), [((0.05, 0.02), 4), ((0.2, 0.05), 8), ((0.9, 0.5), 20)])
def test_intervals_of_paired_differences_hold_the_truth(rates: tuple[float, float], n: int) -> None:
    d, count = paired_shares(np.random.default_rng(3), rates, 0.2, 0.5, n)
    limits = share_difference_limits(d.sum(axis=-1), (d**2).sum(axis=-1), count)
    assert cell("share difference", "", n, limits, rates[0] - rates[1]).coverage >= LOWEST


@pytest.mark.parametrize(("tail", "n"), [((1.0, 1.0), 8), ((1.0, 0.5), 20)])
def test_intervals_of_errors_with_a_heavy_tail_hold_the_truth(tail: tuple[float, float], n: int) -> None:
    a, b, count = errors(np.random.default_rng(3), tail, 0.7, 0.9, n)
    assert cell("error", "", n, error_limits(a, count), 1.0).coverage >= LOWEST
    assert cell("error difference", "", n, error_difference_limits(a, b, count), 0.3).coverage >= LOWEST
    assert cell("R2", "", n, relative_limits(b, a), -0.3 / 1.7).coverage >= LOWEST


def test_too_few_episodes_have_no_interval_and_the_text_says_so() -> None:
    for n, expected in ((3, False), (4, True)):
        episode = np.repeat(np.arange(n), 10)
        hits = (np.arange(10 * n) % 4 == 0).astype(float)
        assert (mean_interval(hits, episode) is not None) == expected
        assert (paired_interval(hits, 1 - hits, episode) is not None) == expected
        assert (paired_interval(hits, 1 - hits, episode, bounds=(0, np.inf)) is not None) == expected
        assert (r2_interval(hits, 1 - hits, episode) is not None) == expected
    for n, expected in ((7, False), (8, True)):
        episode = np.repeat(np.arange(n), 10)
        error = np.random.default_rng(0).lognormal(size=10 * n)
        assert (mean_interval(error, episode, bounds=(0, np.inf)) is not None) == expected
    assert interval_text(None) == "(too few episodes for an interval)"
    assert interval_text((0.1, 0.25), ".2f") == "[0.10, 0.25]"


def test_an_infinite_limit_is_printed_as_such() -> None:
    residual, deviation = np.array([1.0, 1, 1, 100]), np.array([1.0, 1, 1, 0.01])
    interval = r2_interval(residual, deviation, np.arange(4))
    assert interval is not None and interval[0] == -np.inf and np.isfinite(interval[1])
    assert interval_text(interval).startswith("[-inf, ")


def test_every_kind_of_interval_has_its_rule() -> None:
    assert set(RULES) == set(get_args(Kind))


def test_the_episode_is_the_unit_and_not_the_contact() -> None:
    # All contacts of an episode agree: 40 copies of a contact do not say more than one.
    hits, copies = np.array([1.0, 0, 1, 0, 0, 1, 0, 1]), 40
    few = mean_interval(hits, np.arange(8))
    many = mean_interval(np.repeat(hits, copies), np.repeat(np.arange(8), copies))
    assert few is not None and many is not None
    assert many[1] - many[0] == pytest.approx(few[1] - few[0], rel=0.07)


def test_pairing_finds_a_difference_that_two_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(20), 12)
    a = rng.random((20, 12)) < rng.beta(1, 1, (20, 1))
    b = a & (rng.random(a.shape) < 0.8)
    first, second = (mean_interval(x.ravel().astype(float), episode) for x in (a, b))
    difference = paired_interval(a.ravel().astype(float), b.ravel().astype(float), episode)
    assert first is not None and second is not None and difference is not None
    assert first[0] < second[1] and difference[0] > 0
    corrected = paired_interval(a.ravel().astype(float), b.ravel().astype(float), episode, comparisons=8)
    assert corrected is not None and corrected[0] < difference[0] and corrected[1] > difference[1]


def test_swapping_the_runs_swaps_the_interval() -> None:
    rng = np.random.default_rng(1)
    episode, a, b = np.repeat(np.arange(9), 5), *rng.lognormal(size=(2, 45))
    for bounds in ((0, 10.0), (0, np.inf)):
        forth, back = paired_interval(a, b, episode, bounds=bounds), paired_interval(b, a, episode, bounds=bounds)
        assert forth is not None and back == pytest.approx((-forth[1], -forth[0]))
    assert forth is not None
    t = ttest_rel(a.reshape(9, 5).mean(axis=1), b.reshape(9, 5).mean(axis=1)).confidence_interval()
    assert forth[0] <= t.low and forth[1] >= t.high


def test_a_run_compared_with_itself_differs_by_zero() -> None:
    same, episode = np.random.default_rng(2).random(40), np.repeat(np.arange(8), 5)
    for bounds in ((0, 1), (0, np.inf)):
        interval = paired_interval(same, same, episode, bounds=bounds)
        assert interval is not None and interval[0] <= 0 <= interval[1]


def test_balanced_accuracy_of_equal_classes_has_the_interval_of_a_share() -> None:
    rng = np.random.default_rng(4)
    label, episode = np.tile([0, 1], 80), np.repeat(np.arange(8), 20)
    correct = rng.random(160) < 0.8
    assert balanced_interval(correct, label, episode) == pytest.approx(
        mean_interval(correct.astype(float), episode), abs=0.03
    )


def test_a_rule_decides_from_which_number_of_episodes_an_interval_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    hits, episode = np.ones(40), np.repeat(np.arange(8), 5)
    assert mean_interval(hits, episode) is not None
    monkeypatch.setitem(RULES, "share", replace(RULES["share"], fewest=9))
    assert mean_interval(hits, episode) is None
