"""Linear probes of frozen features, tested on episodes that the probes were not fitted on."""

import numpy as np

from tactile_align.diagnostics.intervals import balanced_interval, r2_interval
from tactile_align.diagnostics.summary import MORE_EPISODES, Probe
from tactile_align.errors import InputError

FOLDS, FEWEST = 5, 4
"""FOLDS: largest number of cross-validation folds. FEWEST: smallest number of episodes for a probe."""
STRENGTHS = (1e-3, 1e-1, 1e1, 1e3)
"""Candidate ridge strengths, relative to the number of moments; an inner split by episodes selects one."""


def probe_classes(h: np.ndarray, label: np.ndarray, episode: np.ndarray) -> Probe:
    """Return the score of a linear probe that predicts a class, e.g. contact or the object, from features.

    The probe is a ridge regression on one-hot targets that predicts the class with the largest output. All classes
    have the same total weight.

    Args:
        h: (N, D) features of N moments.
        label: (N,) name of the class of each moment.
        episode: (N,) episode of each moment; an episode is never split between fit and test.

    Raises:
        InputError: All moments have the same class, or there are fewer than 4 episodes.
    """
    classes, y = np.unique(label, return_inverse=True)
    k, y = len(classes), y.ravel()
    if k < 2:
        raise InputError(
            f"a probe requires moments of at least two classes; all {len(label)} moments are '{classes[0]}'. "
            f"{MORE_EPISODES}"
        )
    one_of = np.eye(k)[y]
    predicted = _out_of_fold(h, one_of, 1.0 / np.bincount(y)[y], episode).argmax(axis=1)
    correct = predicted == y
    score = float(np.mean([correct[y == c].mean() for c in range(k)]))
    interval = balanced_interval(correct, y, episode)
    return Probe("balanced accuracy", score, 1 / k, len(episode), len(np.unique(episode)), interval)


def probe_number(h: np.ndarray, value: np.ndarray, episode: np.ndarray) -> Probe:
    """Return the score of a linear probe that predicts a number, e.g. the opening, or K numbers from features.

    R2 is relative to predicting the mean over the fitted episodes, so features without information score 0 or
    slightly less. The squares of K numbers are added.

    Args:
        h: (N, D) features of N moments.
        value: (N,) number of each moment, or (N, K) numbers of one unit, e.g. a place.
        episode: (N,) episode of each moment; an episode is never split between fit and test.

    Raises:
        InputError: All moments have the same value, or there are fewer than 4 episodes.
    """
    value = value.astype(np.float64).reshape(len(value), -1)
    fold = left_out_in_turn(episode)
    if (value == value[0]).all():
        same = ", ".join(map(str, value[0]))
        raise InputError(f"a probe requires different values; all {len(value)} values are {same}. {MORE_EPISODES}")
    means = np.array([value[fold != f].mean(axis=0) for f in range(fold.max() + 1)])[fold]
    predicted = _out_of_fold(h, value, np.ones(len(value)), episode)
    residual, deviation = (((x - value) ** 2).sum(axis=1) for x in (predicted, means))
    score = float(1 - residual.sum() / deviation.sum())
    interval = r2_interval(residual, deviation, episode)
    return Probe("R2", score, 0.0, len(episode), len(np.unique(episode)), interval)


def left_out_in_turn(episode: np.ndarray) -> np.ndarray:
    """Return, for each of N moments, the index of the cross-validation fold that tests it, (N,), from 0.

    Raises:
        InputError: There are fewer than 4 episodes.
    """
    names, index = np.unique(episode, return_inverse=True)
    if len(names) < FEWEST:
        raise InputError(f"a probe requires at least {FEWEST} judged episodes; got {len(names)}. {MORE_EPISODES}")
    order = np.random.default_rng([0, 2]).permutation(len(names))
    return np.asarray((order % FOLDS)[index.ravel()])


def _out_of_fold(h: np.ndarray, target: np.ndarray, weight: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Return predictions (N, K), each from a fit to other episodes, which also select the ridge strength."""
    fold = left_out_in_turn(episode)
    folds = fold.max() + 1
    predicted = np.empty_like(target, dtype=np.float64)

    def predict(fitted: np.ndarray, tested: np.ndarray, strength: float) -> np.ndarray:
        return ridge(h[fitted], target[fitted], weight[fitted], h[tested], strength)

    for f in range(folds):
        fitted, inner_test = fold != f, fold == (f + 1) % folds
        inner = fitted & ~inner_test
        losses = [
            (weight[inner_test, None] * (predict(inner, inner_test, strength) - target[inner_test]) ** 2).sum()
            for strength in STRENGTHS
        ]
        predicted[fold == f] = predict(fitted, fold == f, STRENGTHS[int(np.argmin(losses))])
    return predicted


def ridge(x: np.ndarray, y: np.ndarray, weight: np.ndarray, tested: np.ndarray, strength: float) -> np.ndarray:
    """Return the predictions of a weighted ridge regression, (N, K); the inputs are standardised first.

    Args:
        x: (M, D) inputs of M moments, to which the regression is fitted.
        y: (M, K) targets of these moments.
        weight: (M,) weight of each moment in the fit.
        tested: (N, D) inputs for which targets are predicted.
        strength: Ridge strength, relative to M.
    """
    w = weight / weight.mean()
    centre = np.average(x, axis=0, weights=w)
    scale = np.sqrt(np.average((x - centre) ** 2, axis=0, weights=w))
    scale[scale < 1e-9 * max(1.0, float(scale.max()))] = np.inf  # a constant feature contains no information
    level = np.average(y, axis=0, weights=w)
    z = (x - centre) / scale
    gram = (z * w[:, None]).T @ z + strength * len(z) * np.eye(z.shape[1])
    coefficients = np.linalg.solve(gram, (z * w[:, None]).T @ (y - level))
    return np.asarray((tested - centre) / scale @ coefficients + level)
