"""Which rows are negatives of which."""

import numpy as np
import pytest
import torch

from tactile_align.losses.hsa import LossOptions, hsa_loss
from tactile_align.losses.negatives import Facts, Negatives, permuted_rows, touch_pattern, unlike


def facts(batch: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 3, batch)), torch.from_numpy(rng.integers(0, 30, batch))


def test_moments_close_in_time_are_no_negatives_only_within_their_episode() -> None:
    episode, time = facts()
    rule = Negatives(episode, time, min_gap=7)
    mask = rule.rows(0, 12)
    taken = 0
    for i in range(12):
        for j in range(12):
            near = bool(episode[i] == episode[j]) and abs(int(time[i]) - int(time[j])) < 7
            assert bool(mask[i, j]) == (i != j and not near)
            taken += i != j and near
    assert int(rule.excluded()["time_gap"]) == taken > 0


def test_a_gap_of_exactly_the_minimum_is_enough() -> None:
    rule = Negatives(torch.zeros(2, dtype=torch.int64), torch.tensor([0, 5]), min_gap=5)
    assert bool(rule.rows(0, 2)[0, 1])
    assert not bool(Negatives(rule.episode, torch.tensor([0, 4]), min_gap=5).rows(0, 2)[0, 1])


def test_spans_of_rows_are_cut_from_the_whole() -> None:
    rule = Negatives(*facts(), min_gap=7)
    spans = torch.cat([rule.rows(a, b) for a, b in ((0, 5), (5, 6), (6, 12))])
    assert torch.equal(spans, rule.rows(0, 12))


def test_no_moment_is_its_own_negative_even_without_a_gap() -> None:
    assert not bool(Negatives(*facts(), min_gap=0).rows(0, 12).diagonal().any())


def test_the_same_moment_drawn_twice_or_kept_in_the_bank_is_no_negative() -> None:
    episode, time = torch.tensor([0, 0, 1]), torch.tensor([4, 4, 4])
    bank = Facts(torch.tensor([1, 0]), torch.tensor([4, 5]))
    rule = Negatives(episode, time, min_gap=0, bank=bank)
    assert rule.rows(0, 3).tolist() == [
        [False, False, True, True, True],
        [False, False, True, True, True],
        [True, True, False, False, True],
    ]
    assert int(rule.excluded()["time_gap"]) == 3


def test_the_loss_takes_a_rule_as_it_takes_its_mask() -> None:
    h_tau, h_w = torch.randn(2, 12, 5, dtype=torch.float64)
    rule = Negatives(*facts(), min_gap=7)
    by_rule = hsa_loss(h_tau, h_w, negative=rule, options=LossOptions(symmetric=True))
    torch.testing.assert_close(
        by_rule, hsa_loss(h_tau, h_w, negative=rule.rows(0, 12), options=LossOptions(symmetric=True))
    )


def test_moments_without_contact_are_nobodys_negatives() -> None:
    episode, time = facts()
    contact = torch.arange(12) % 3 != 0
    mask = Negatives(episode, time, 0, contact=contact).rows(0, 12)
    both = contact[:, None] & contact[None, :] & ~torch.eye(12, dtype=torch.bool)
    assert torch.equal(mask, both)
    gone = Negatives(episode, time, 0, contact=contact).excluded()
    assert int(gone["no_contact"]) == 12 * 11 - int(both.sum())


def test_moments_of_one_contact_are_no_negatives_whatever_the_gap() -> None:
    episode = torch.tensor([0, 0, 0, 1, 0, 0])
    time = torch.tensor([0, 50, 99, 0, 25, 75])
    index = torch.tensor([3, 3, 4, 3, -1, -1])
    rule = Negatives(episode, time, 20, contact_index=index)
    want = ~torch.eye(6, dtype=torch.bool)
    want[0, 1] = want[1, 0] = False
    assert torch.equal(rule.rows(0, 6), want), "moments without contact are of no contact"
    assert int(rule.excluded()["same_contact"]) == 2 and int(rule.excluded()["time_gap"]) == 0
    assert bool(Negatives(episode, time, 20).rows(0, 6)[0, 1])


def test_touches_that_feel_the_same_are_no_negatives() -> None:
    (episode, _), time = facts(), torch.arange(12)
    touch = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    touch[7] = 3 * touch[2]
    rule = Negatives(episode, time, 0, touch=touch, ceiling=0.6)
    cosine = _cosines(touch.double().numpy())
    want = (cosine <= 0.6) & ~np.eye(12, dtype=bool)
    assert np.array_equal(rule.rows(0, 12).numpy(), want) and not want[2, 7]
    assert int(rule.excluded()["same_touch"]) == 12 * 11 - want.sum()


def _cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def test_all_rules_at_once_are_symmetric_and_may_be_asked_by_spans() -> None:
    episode, time = facts()
    touch = torch.randn(12, 6)
    index = torch.arange(12) // 2
    rule = Negatives(episode, time, 7, torch.arange(12) != 4, touch, ceiling=0.3, contact_index=index)
    mask = rule.rows(0, 12)
    assert torch.equal(mask, mask.T)
    assert torch.equal(torch.cat([rule.columns(a, b) for a, b in ((0, 5), (5, 12))]), mask)
    assert set(rule.excluded()) == {"time_gap", "no_contact", "same_contact", "same_touch"}


def test_rows_with_moved_touches_are_negatives_if_no_moment_of_one_is_excluded_for_the_other() -> None:
    episode, time = facts(24)
    bank = Facts(*facts(5, seed=1))
    moved = permuted_rows(torch.rand(24, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3 != 1)
    plain, rule = (Negatives(episode, time, 4, bank=bank, touch_row=rows) for rows in (None, moved))
    kept, mask, apart = plain.rows(0, 24), rule.rows(0, 24), rule.unrelated()
    of = [(i, int(moved[i])) for i in range(24)] + [(j, j) for j in range(24, 29)]
    for i in range(24):
        assert mask[i].tolist() == [all(kept[a, b] for a in of[i] for b in of[j]) for j in range(29)]
        assert bool(apart[i]) == bool(kept[of[i]])
    assert torch.equal(mask[:, :24], mask[:, :24].T) and torch.equal(rule.columns(3, 9), mask[3:9])
    assert 0 < int(mask.sum()) < int(kept.sum()) and not apart[moved == torch.arange(24)].any()
    assert int(rule.excluded()["time_gap"]) > int(plain.excluded()["time_gap"])
    with pytest.raises(ValueError, match=r"touch_row must be an int64 tensor of shape \(24,\); got torch.bool"):
        Negatives(episode, time, 4, touch_row=moved > 0)


@pytest.mark.parametrize("valid", [0, 1, 2, 3, 9])
def test_the_touches_of_valid_rows_move_in_one_random_cycle(valid: int) -> None:
    generator, found = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        some = torch.zeros(11, dtype=torch.bool)
        some[torch.randperm(11, generator=generator)[:valid]] = True
        moved = permuted_rows(torch.rand(11, generator=generator), some)
        assert sorted(moved.tolist()) == list(range(11)) and torch.equal(moved[~some], torch.arange(11)[~some])
        if valid:
            visited = [int(some.nonzero()[0])]
            while (after := int(moved[visited[-1]])) != visited[0]:
                visited.append(after)
            assert len(visited) == valid
        found.add(tuple(moved.tolist()))
    assert len(found) == 1 if valid < 2 else len(found) > 20


def test_the_pattern_of_a_touch_forgets_what_all_touches_share() -> None:
    base = torch.randint(50, 200, (1, 48, 32, 3), dtype=torch.uint8).repeat(4, 1, 1, 1)
    touched = base.clone()
    touched[0, :24] += 30
    touched[1, :24] += 30
    touched[2, 24:] += 30
    raw = touch_pattern(touched)
    pattern = unlike(raw, raw)
    assert pattern.shape == (4, 192)
    cosine = torch.nn.functional.cosine_similarity(pattern[:, None], pattern[None], dim=-1)
    assert cosine[0, 1] > 0.99 and cosine[0, 2] < 0


def test_facts_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        Negatives(torch.zeros(3), torch.zeros(4), min_gap=1)
    with pytest.raises(ValueError, match="min_gap must be at least 0; got -1"):
        Negatives(torch.zeros(3), torch.zeros(3), min_gap=-1)
    three = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"contact must be a bool tensor of shape \(3,\); got torch.int64"):
        Negatives(three, three, 1, contact=three)
    with pytest.raises(ValueError, match=r"ceiling was given without touch"):
        Negatives(three, three, 1, ceiling=0.9)
    with pytest.raises(ValueError, match=r"touch must have shape \(3, F\); got \(2, 4\)"):
        Negatives(three, three, 1, touch=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"contact_index must be an integer tensor of shape \(3,\); got torch.float32"):
        Negatives(three, three, 1, contact_index=torch.zeros(3))
    with pytest.raises(ValueError, match="`contact` was given only for the batch"):
        Negatives(three, three, 1, contact=three.bool(), bank=Facts(three, three))
