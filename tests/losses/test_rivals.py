"""Who may be whose rival."""

import numpy as np
import pytest
import torch

from tactile_align.losses.hsa import hsa_loss
from tactile_align.losses.rivals import Rivals


def facts(batch: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 3, batch)), torch.from_numpy(rng.integers(0, 30, batch))


def test_moments_close_in_time_are_no_rivals_only_within_their_episode() -> None:
    episode, time = facts()
    rule = Rivals(episode, time, min_gap=7)
    mask = rule.rows(0, 12)
    taken = 0
    for i in range(12):
        for j in range(12):
            near = bool(episode[i] == episode[j]) and abs(int(time[i]) - int(time[j])) < 7
            assert bool(mask[i, j]) == (i != j and not near)
            taken += i != j and near
    assert int(rule.excluded()["time_gap"]) == taken > 0


def test_a_gap_of_exactly_the_minimum_is_enough() -> None:
    rule = Rivals(torch.zeros(2, dtype=torch.int64), torch.tensor([0, 5]), min_gap=5)
    assert bool(rule.rows(0, 2)[0, 1])
    assert not bool(Rivals(rule.episode, torch.tensor([0, 4]), min_gap=5).rows(0, 2)[0, 1])


def test_spans_of_rows_are_cut_from_the_whole() -> None:
    rule = Rivals(*facts(), min_gap=7)
    spans = torch.cat([rule.rows(a, b) for a, b in ((0, 5), (5, 6), (6, 12))])
    assert torch.equal(spans, rule.rows(0, 12))


def test_no_moment_is_its_own_rival_even_without_a_gap() -> None:
    assert not bool(Rivals(*facts(), min_gap=0).rows(0, 12).diagonal().any())


def test_the_loss_takes_a_rule_as_it_takes_its_mask() -> None:
    h_tau, h_w = torch.randn(2, 12, 5, dtype=torch.float64)
    rule = Rivals(*facts(), min_gap=7)
    by_rule = hsa_loss(h_tau, h_w, rival=rule, symmetric=True)
    torch.testing.assert_close(by_rule, hsa_loss(h_tau, h_w, rival=rule.rows(0, 12), symmetric=True))


def test_facts_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        Rivals(torch.zeros(3), torch.zeros(4), min_gap=1)
    with pytest.raises(ValueError, match="min_gap must be 0 or more; got -1"):
        Rivals(torch.zeros(3), torch.zeros(3), min_gap=-1)
