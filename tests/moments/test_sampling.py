"""Batches are a pure function of seed and number."""

import numpy as np
import pytest

from tactile_align.moments.sampling import MomentSampler, split_episodes

CONTACT = np.arange(47) % 3 == 0


def test_each_pass_gives_every_contact_moment_exactly_once() -> None:
    sampler = MomentSampler(CONTACT, 8, 1.0, seed=4, start=0, stop=2)
    drawn = np.concatenate([sampler.batch(n) for n in range(2)])
    assert sorted(drawn) == sorted(np.flatnonzero(CONTACT))


def test_a_batch_holds_the_share_of_contact_asked_for() -> None:
    for n in range(5):
        batch = MomentSampler(CONTACT, 12, 0.75, seed=4, start=0, stop=9).batch(n)
        assert CONTACT[batch].sum() == 9 and len(batch) == 12


def test_starting_late_goes_on_with_the_very_next_batch() -> None:
    whole = list(MomentSampler(CONTACT, 6, 0.5, seed=1, start=0, stop=9))
    late = list(MomentSampler(CONTACT, 6, 0.5, seed=1, start=4, stop=9))
    assert whole[4:] == late
    assert whole != list(MomentSampler(CONTACT, 6, 0.5, seed=2, start=0, stop=9))


def test_batches_do_not_depend_on_the_order_in_which_they_are_drawn() -> None:
    forwards, backwards = (MomentSampler(CONTACT, 6, 0.5, seed=1, start=0, stop=40) for _ in range(2))
    drawn = {n: backwards.batch(n).tolist() for n in (39, 3, 17, 0)}
    assert all(forwards.batch(n).tolist() == drawn[n] for n in sorted(drawn))


def test_a_pass_is_permuted_once_and_not_for_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    made, generator = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: made.append(seed) or generator(seed))
    sampler = MomentSampler(CONTACT, 4, 0.5, seed=4, start=0, stop=16)
    assert len(list(sampler)) == 16  # 32 draws from 16 moments in contact, and 32 from 31 without
    assert made == [[4, 0, 0], [4, 1, 0], [4, 0, 1], [4, 1, 1]]


def test_the_share_that_leaves_no_training_episode_is_named() -> None:
    for held_out, test, advice in ((0.1, 18, "reduce test"), (19, 4, "reduce held_out"), (30, 0, "reduce held_out")):
        with pytest.raises(ValueError, match=f"Record more episodes, or {advice}$"):
            split_episodes(range(20), 0, held_out, test)


def test_ranks_share_a_batch_without_overlap() -> None:
    parts = [list(MomentSampler(CONTACT, 8, None, 3, 0, 4, rank, 2)) for rank in (0, 1)]
    for n, (a, b) in enumerate(zip(*parts, strict=True)):
        assert sorted(a + b) == sorted(MomentSampler(CONTACT, 8, None, 3, 0, 4).batch(n))


def test_contact_moments_that_do_not_exist_are_asked_for_in_vain() -> None:
    with pytest.raises(ValueError, match=r"no contact moments, but contact_share = 0\.5 needs 4 "):
        MomentSampler(np.zeros(9, dtype=bool), 8, 0.5, 0, 0, 1)
    with pytest.raises(ValueError, match="multiple of 3, the number of processes"):
        MomentSampler(CONTACT, 8, None, 0, 0, 1, world=3)
