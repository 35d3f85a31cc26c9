"""What can be read off frozen features by a linear layer, on episodes it was not fitted on."""

import numpy as np

from tactile_align.diagnostics.retrieval import episode_interval
from tactile_align.diagnostics.summary import Probe
from tactile_align.errors import InputError

FOLDS = 5
STRENGTHS = (1e-3, 1e-1, 1e1, 1e3)
"""Ridge strengths tried, as shares of the number of moments; the inner episodes choose."""


def probe_classes(h: np.ndarray, label: np.ndarray, episode: np.ndarray, *, folds: int = FOLDS, seed: int = 0) -> Probe:
    """Read a class (contact yes or no, object) off features, every class weighing the same.

    A ridge regression on one-of-K targets; the largest output wins.

    Args:
        h: (N, D) features.
        label: (N,) any names.
        episode: (N,) which episode a moment is of; episodes are never split.
        folds: Parts in turn left out.
        seed: Which episodes go together.

    Raises:
        InputError: A single class, or fewer episodes than folds.
    """
    classes, y = np.unique(label, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"a probe needs at least two classes; all {len(label)} moments are '{classes[0]}'")
    y = y.ravel()
    weight = 1.0 / np.bincount(y)[y]
    predicted = _out_of_fold(h, np.eye(len(classes))[y], weight, episode, folds, seed).argmax(axis=1)
    one_of = np.eye(len(classes))[y].T
    sums = np.concatenate([one_of * (predicted == y), one_of])
    k = len(classes)

    def balanced(s: np.ndarray) -> np.ndarray:
        return np.asarray(np.nanmean(s[:k] / s[k:], axis=0))

    return Probe(
        "balanced accuracy",
        float(balanced(sums.sum(axis=1, keepdims=True))[0]),
        episode_interval(sums, episode, balanced, seed=seed),
        1 / k,
        len(y),
        len(np.unique(episode)),
    )


def probe_number(h: np.ndarray, value: np.ndarray, episode: np.ndarray, *, folds: int = FOLDS, seed: int = 0) -> Probe:
    """Read a number (opening, indentation) off features; arguments as `probe_classes`.

    R2 compares with the mean of the episodes fitted on, so that knowing nothing scores 0 or a little less.
    """
    value = value.astype(np.float64)
    if np.ptp(value) == 0:
        raise InputError(f"a probe needs a value that changes; all {len(value)} moments have {value[0]}")
    even = np.ones(len(value))
    error = (_out_of_fold(h, value[:, None], even, episode, folds, seed)[:, 0] - value) ** 2
    spread = (_means_of_others(value, episode, folds, seed) - value) ** 2
    sums = np.stack([error, spread])

    def explained(s: np.ndarray) -> np.ndarray:
        return np.asarray(1 - s[0] / s[1])

    interval = episode_interval(sums, episode, explained, seed=seed)
    score = float(explained(sums.sum(axis=1, keepdims=True))[0])
    return Probe("R2", score, interval, 0.0, len(value), len(np.unique(episode)))


def left_out_in_turn(episode: np.ndarray, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Return which fold each moment is left out in, (N,).

    Raises:
        InputError: Fewer episodes than folds.
    """
    names, index = np.unique(episode, return_inverse=True)
    if len(names) < folds:
        raise InputError(
            f"{folds} folds need at least as many episodes; got {len(names)}. Evaluate on more episodes or ask for "
            f"fewer folds"
        )
    order = np.random.default_rng([seed, 2]).permutation(len(names))
    return np.asarray((order % folds)[index.ravel()])


def _means_of_others(value: np.ndarray, episode: np.ndarray, folds: int, seed: int) -> np.ndarray:
    part = left_out_in_turn(episode, folds, seed)
    return np.asarray([value[part != p].mean() for p in range(folds)])[part]


def _out_of_fold(
    h: np.ndarray, target: np.ndarray, weight: np.ndarray, episode: np.ndarray, folds: int, seed: int
) -> np.ndarray:
    """Return predictions (N, K), each from a fit on other episodes, the ridge strength chosen inside those."""
    part = left_out_in_turn(episode, folds, seed)
    predicted = np.empty_like(target, dtype=np.float64)
    for p in range(folds):
        fitted, asked = part != p, part == p
        inner = fitted & (part != (p + 1) % folds)
        judged = part == (p + 1) % folds
        best = STRENGTHS[0]
        if folds > 2:
            losses = []
            for strength in STRENGTHS:
                guess = _ridge(h[inner], target[inner], weight[inner], h[judged], strength)
                losses.append((weight[judged, None] * (guess - target[judged]) ** 2).sum())
            best = STRENGTHS[int(np.argmin(losses))]
        predicted[asked] = _ridge(h[fitted], target[fitted], weight[fitted], h[asked], best)
    return predicted


def _ridge(x: np.ndarray, y: np.ndarray, weight: np.ndarray, asked: np.ndarray, strength: float) -> np.ndarray:
    """Fit y on standardised x by weighted ridge regression and return the predictions at `asked`."""
    w = weight / weight.mean()
    centre = np.average(x, axis=0, weights=w)
    scale = np.sqrt(np.average((x - centre) ** 2, axis=0, weights=w))
    scale[scale < 1e-9 * max(1.0, float(scale.max()))] = np.inf  # a constant feature says nothing
    level = np.average(y, axis=0, weights=w)
    z = (x - centre) / scale
    gram = (z * w[:, None]).T @ z + strength * len(z) * np.eye(z.shape[1])
    coefficients = np.linalg.solve(gram, (z * w[:, None]).T @ (y - level))
    return np.asarray((asked - centre) / scale @ coefficients + level)
