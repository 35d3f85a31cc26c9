"""Probes on features whose content is known."""

import numpy as np
import pytest

from tactile_align.diagnostics.probes import left_out_in_turn, probe_classes, probe_number

EPISODE = np.repeat(np.arange(20), 30)


def noise(dim: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(EPISODE), dim))


def test_a_class_written_into_the_features_is_read_whatever_its_share() -> None:
    label = np.random.default_rng(1).random(len(EPISODE)) < 0.08
    h = noise()
    h[:, 3] += 12 * label
    found = probe_classes(h, label, EPISODE)
    assert found.score > 0.99 and found.chance == 0.5 and found.measure == "balanced accuracy"
    assert (found.moments, found.episodes) == (600, 20)


def test_features_that_say_nothing_score_chance_even_with_unequal_classes() -> None:
    scores = []
    for seed in range(6):
        label = np.random.default_rng(seed).choice(["cup", "bolt", "die"], size=len(EPISODE), p=[0.8, 0.15, 0.05])
        found = probe_classes(noise(seed=100 + seed), label, EPISODE)
        assert found.chance == pytest.approx(1 / 3)
        scores.append(found.score)
    # Left-out folds lie on the other side of the fitted mean, which costs a few points below chance.
    assert np.mean(scores) == pytest.approx(1 / 3, abs=0.06), "always answering 'cup' would look like 0.8 unbalanced"


def test_a_feature_that_only_names_the_episode_does_not_pass_for_knowledge() -> None:
    # Each episode has one object and its own offset: random splits would score 1, disjoint ones chance.
    rng = np.random.default_rng(0)
    label = rng.permutation(np.arange(20) % 2)[EPISODE]
    h = noise() * 0.1 + rng.normal(size=(20, 16))[EPISODE] * 5
    assert probe_classes(h, label, EPISODE).score < 0.8


def test_a_number_is_explained_by_as_much_as_the_features_hold() -> None:
    rng = np.random.default_rng(2)
    signal, rest = rng.normal(size=(2, len(EPISODE)))
    h = noise()
    h[:, 0] = signal
    found = probe_number(h, 0.02 + 0.003 * (signal + rest), EPISODE)
    assert found.interval is not None and found.interval[0] < 0.5 < found.interval[1]
    assert found.score == pytest.approx(0.5, abs=0.08)
    nothing = probe_number(noise(seed=9), signal, EPISODE)
    assert -0.1 < nothing.score < 0.05


def test_a_place_is_explained_by_the_share_of_both_squares() -> None:
    # The features hold all of u and nothing of v, whose variance is three times that of u.
    u, v = np.random.default_rng(3).normal(size=(2, len(EPISODE))) * [[1.0], [3**0.5]]
    h = noise(seed=4)
    h[:, 2] = u
    assert probe_number(h, np.stack([u, v], axis=1), EPISODE).score == pytest.approx(0.25, abs=0.06)


def test_four_episodes_are_left_out_one_by_one() -> None:
    four = EPISODE % 4
    fold = left_out_in_turn(four)
    assert len(set(zip(four.tolist(), fold.tolist(), strict=True))) == len(set(fold)) == 4
    h, label = noise(), np.arange(len(EPISODE)) % 2
    h[:, 0] += 12 * label
    found = probe_classes(h, label, four)
    assert found.score > 0.99 and found.episodes == 4 and found.interval is not None
    assert probe_number(noise(), h[:, 0], four).score < 0.1


def test_constant_features_score_chance_and_break_nothing() -> None:
    label = np.arange(len(EPISODE)) % 2
    assert probe_classes(np.ones((len(EPISODE), 4)), label, EPISODE).score == pytest.approx(0.5)
    assert probe_number(np.ones((len(EPISODE), 4)), noise()[:, 0], EPISODE).score == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_probed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two classes; all 600 moments are 'cup'"):
        probe_classes(noise(), np.repeat("cup", 600), EPISODE)
    with pytest.raises(ValueError, match=r"requires at least 4 judged .*got 3\. Judge more episodes: raise `test`"):
        probe_classes(noise(), EPISODE % 2, EPISODE % 3)
    with pytest.raises(ValueError, match="different values"):
        probe_number(noise(), np.ones(600), EPISODE)
