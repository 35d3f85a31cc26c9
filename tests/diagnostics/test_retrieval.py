"""Retrieval against cases whose answer is known, and against galleries drawn by hand."""

import numpy as np
import pytest

from tactile_align.diagnostics.retrieval import region_retrieval, retrieval


def cell(episodes: int = 6, contacts: int = 12, moments: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return the episode and the contact of each moment."""
    episode, contact, _ = np.meshgrid(range(episodes), range(contacts), range(moments), indexing="ij")
    return episode.ravel(), contact.ravel()


def test_perfect_features_find_every_partner() -> None:
    episode, contact = cell()
    h = np.random.default_rng(0).normal(size=(len(episode), 32))
    for kind in ("all", "cross-episode"):
        found = retrieval(h, h, episode, contact, gallery=32, kind=kind)
        for recall in found.values():
            assert recall.at == {1: 1.0, 5: 1.0, 10: 1.0} and recall.median_rank == 1
            assert recall.queries == 72 and recall.episodes == 6
            low, high = recall.interval[1] or (0, 0)
            assert 0.8 < low < 1 and high == 1.0, "six perfect episodes do not show that every episode is perfect"


def test_random_features_score_chance() -> None:
    episode, contact = cell(30, 12, 2)
    rng = np.random.default_rng(0)
    tau, w = rng.normal(size=(2, len(episode), 16))
    recall = retrieval(tau, w, episode, contact, gallery=32)["both"]
    for k in (1, 5, 10):
        assert recall.chance[k] == k / 32
        assert recall.interval[k][0] < k / 32 < recall.interval[k][1]
        assert recall.at[k] == pytest.approx(k / 32, abs=0.02)
    assert recall.median_rank == pytest.approx(16.5, abs=1.5)


@pytest.mark.parametrize("value", [1.0, 0.0, np.nan])
def test_features_that_are_all_alike_find_nothing(value: float) -> None:
    episode, contact = cell()
    same = np.full((len(episode), 8), value)
    recall = retrieval(same, same, episode, contact, gallery=32)["both"]
    assert recall.at == {1: 0.0, 5: 0.0, 10: 0.0} and recall.median_rank == 32


@pytest.mark.parametrize("kind", ["all", "cross-episode", "same-episode"])
def test_expected_recall_equals_galleries_drawn_by_hand(kind: str) -> None:
    episode, contact = cell(4, 10, 1)
    rng = np.random.default_rng(1)
    w = rng.normal(size=(40, 6))
    tau = w + 1.2 * rng.normal(size=(40, 6))
    gallery, tries = 8, 4000
    found = retrieval(tau, w, episode, contact, gallery=gallery, kind=kind, draws=1)  # type: ignore[arg-type]
    unit_tau, unit_w = (h / np.linalg.norm(h, axis=1, keepdims=True) for h in (tau, w))
    hits = np.zeros(3)
    for i in range(40):
        same = episode == episode[i]
        allowed = {"all": ~np.eye(40, dtype=bool)[i], "cross-episode": ~same, "same-episode": same}[kind].copy()
        allowed[i] = False
        pool = np.flatnonzero(allowed)
        for _ in range(tries // 40):
            others = rng.choice(pool, gallery - 1, replace=False)
            rank = 1 + (unit_w[others] @ unit_tau[i] >= unit_w[i] @ unit_tau[i]).sum()
            hits += [rank <= 1, rank <= 5, rank <= 10]
    for k, share in zip((1, 5, 10), hits / (40 * (tries // 40)), strict=True):
        assert found["touch to vision"].at[k] == pytest.approx(share, abs=0.025)


def test_a_tie_with_a_negative_is_no_hit() -> None:
    w = np.eye(4)
    tau = np.eye(4)
    tau[1] = [1, 1, 0, 0]  # as near to contact 0 as to its own
    recall = retrieval(tau, w, np.arange(4), np.zeros(4), gallery=4, ks=(1,))["touch to vision"]
    assert recall.at[1] == pytest.approx(3 / 4)


def test_two_moments_of_one_contact_are_never_negatives() -> None:
    episode, contact = cell(2, 8, 5)
    names = np.stack([episode, contact], axis=1)
    h = np.random.default_rng(0).normal(size=(16, 8))[np.unique(names, axis=0, return_inverse=True)[1].ravel()]
    assert retrieval(h, h, episode, contact, gallery=16)["both"].at[1] == 1.0


def test_directions_are_not_mixed_up() -> None:
    # Every touch points at region 0: touch 0 finds its region; region 0 finds four equal touches, so nothing.
    tau = np.tile([1.0, 0.0, 0.0, 0.0], (4, 1))
    w = np.eye(4) + 0.01
    found = retrieval(tau, w, np.arange(4), np.zeros(4), gallery=4, ks=(1,))
    assert found["touch to vision"].at[1] == pytest.approx(1 / 4)
    assert found["vision to touch"].at[1] == 0


def test_too_few_contacts_for_a_gallery_are_refused_with_what_there_is() -> None:
    episode, contact = cell(2, 4, 1)
    h = np.random.default_rng(0).normal(size=(8, 4))
    with pytest.raises(ValueError, match=r"gallery of 64 candidates requires 63.*at most 7.*smaller gallery"):
        retrieval(h, h, episode, contact, gallery=64)


def test_equal_seeds_give_equal_results() -> None:
    episode, contact = cell()
    tau, w = np.random.default_rng(0).normal(size=(2, len(episode), 8))
    one, two = (retrieval(tau, w, episode, contact, gallery=16, seed=3)["both"] for _ in range(2))
    assert one == two


def test_moments_too_close_in_time_do_not_stand_in_a_gallery() -> None:
    # Contacts come in twins that look alike, 5 frames apart; the next twins are 100 frames away.
    episode, contact = np.zeros(20), np.arange(20)
    time = np.arange(20) // 2 * 100 + np.arange(20) % 2 * 5
    h = np.repeat(np.random.default_rng(0).normal(size=(10, 8)), 2, axis=0)
    options = {"gallery": 8, "kind": "same-episode", "time": time, "ks": (1,)}
    assert retrieval(h, h, episode, contact, min_gap=20, **options)["both"].at[1] == 1.0  # type: ignore[arg-type]
    mixed = retrieval(h, h, episode, contact, min_gap=0, **options)["both"].at[1]  # type: ignore[arg-type]
    assert mixed == pytest.approx(12 / 19)  # the twin is not among 7 of the 19 others
    with pytest.raises(ValueError, match="requires the time"):
        retrieval(h, h, episode, contact, gallery=8, min_gap=20)


def test_a_touch_finds_its_region_among_those_of_its_image() -> None:
    rng = np.random.default_rng(0)
    episode, contact = cell(8, 10, 2)
    regions = rng.normal(size=(len(episode), 5, 16))
    perfect = region_retrieval(regions[:, 0], regions, episode, contact)
    assert perfect.at == {1: 1.0} and perfect.gallery == 5 and perfect.chance == {1: 0.2} and perfect.queries == 80
    blind = region_retrieval(rng.normal(size=(len(episode), 16)), regions, episode, contact)
    assert blind.interval[1][0] < 0.2 < blind.interval[1][1]
    assert region_retrieval(regions[:, 1], regions, episode, contact).at[1] == 0
    same = np.ones_like(regions)
    assert region_retrieval(same[:, 0], same, episode, contact).at[1] == 0


def test_two_episodes_are_too_few_for_an_interval_whatever_their_contacts() -> None:
    # One episode of two is perfect and one hopeless; the percentile bootstrap covers the truth in 49 % of such cases.
    episode, contact = cell(2, 30, 1)
    rng = np.random.default_rng(0)
    regions = rng.normal(size=(60, 4, 8))
    tau = np.where((episode == 0)[:, None], regions[:, 0], regions[:, 1])
    recall = region_retrieval(tau, regions, episode, contact)
    assert recall.at[1] == 0.5 and recall.interval[1] is None


def test_each_query_keeps_its_hit_for_paired_comparisons() -> None:
    episode, contact = cell(6, 8, 2)
    tau, w = np.random.default_rng(1).normal(size=(2, len(episode), 8))
    both = retrieval(tau, w, episode, contact, gallery=16)["both"]
    assert both.hits is not None and np.mean(both.hits.at_1) == pytest.approx(both.at[1], abs=1e-4)
    assert list(zip(both.hits.episode, both.hits.contact, strict=True)) == [(e, c) for e in range(6) for c in range(8)]
    found = both.minus(retrieval(w, w, episode, contact, gallery=16)["both"])
    assert found.value == pytest.approx(both.at[1] - 1, abs=1e-4) and (found.pairs, found.episodes) == (48, 6)


def test_chance_is_a_share_even_in_a_gallery_smaller_than_k() -> None:
    episode, contact = cell(3, 8, 1)
    h = np.random.default_rng(0).normal(size=(24, 8))
    found = retrieval(h, h[::-1], episode, contact, gallery=8)["both"]
    assert found.chance == {1: 0.125, 5: 0.625, 10: 1.0} and found.at[10] == 1.0


def test_one_episode_says_nothing_about_others() -> None:
    episode, contact = cell(1, 30, 1)
    h = np.random.default_rng(0).normal(size=(30, 8))
    found = retrieval(h, h, episode, contact, gallery=8)["both"]
    assert found.at[1] == 1.0 and found.interval[1] is None
