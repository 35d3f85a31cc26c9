"""Film strips of roll-outs: one row per run and class, with the images of moments at which the policy was asked."""

from collections.abc import Mapping, Sequence

import numpy as np

from tactile_align.diagnostics.outcomes import Played
from tactile_align.diagnostics.rollout import Filmed
from tactile_align.errors import InputError
from tactile_align.viz.ink import INK, Ink
from tactile_align.viz.overlay.view import fit_into

SIDE = 160
"""Longer side of an image in the strip, px."""
EVERY = 2
"""Step between the moments that are shown; the end of an episode is always shown."""
_GAP = 4


def film_strip(films: Mapping[str, Sequence[Filmed]], title: str = "") -> np.ndarray:
    """Return a picture of filmed episodes.

    Args:
        films: Filmed episodes by name of the run, as `rollout` gives them.
        title: Title above all rows.

    Returns:
        (H, W, 3) uint8 RGB. Each row has a caption with the outcome. Its columns are moments; the last one is the end
        of the episode. A column shows all cameras and, at the bottom, the touch that the policy got.

    Raises:
        InputError: There is no filmed episode.
    """
    shots = [
        (f"{run}, {caption(film.played)}", [*film.moments[:-1:EVERY], film.moments[-1]])
        for run in films
        for film in films[run]
    ]
    if not shots:
        raise InputError("a film strip needs at least one filmed episode; got none. Pass `film` to rollout or play")
    ink = Ink.of(480)
    columns = max(len(moments) for _, moments in shots)
    heights = [_size(image)[0] for image in shots[0][1][0].values()]
    tall = ink.row + sum(heights) + _GAP * len(heights)
    picture = np.full((ink.row + tall * len(shots), columns * (SIDE + _GAP) + _GAP, 3), INK, np.uint8)
    width = picture.shape[1] - 2 * ink.pad
    ink.text(picture, ink.fit(title, width), ink.pad, ink.pad)
    for number, (words, moments) in enumerate(shots):
        top = ink.row + number * tall
        ink.text(picture, ink.fit(words, width), ink.pad, top + ink.pad)
        for column, moment in enumerate(moments):
            y = top + ink.row
            for image in moment.values():
                high, wide = _size(image)
                x = _GAP + column * (SIDE + _GAP) + (SIDE - wide) // 2
                fit_into(picture[y : y + high, x : x + wide], image)
                y += high + _GAP
    return picture


def caption(played: Played) -> str:
    """Return the outcome of an episode in words: "seed 3, class 0: lifted, carried to +y, correct, 38 steps"."""
    carried = {1: "carried to +y", -1: "carried to -y", 0: "carried to no side"}[played.side]
    lifted, correct = ("lifted" if played.lifted else "not lifted"), ("correct" if played.correct else "wrong")
    return f"seed {played.seed}, class {played.cls}: {lifted}, {carried}, {correct}, {played.steps} steps"


def _size(image: np.ndarray) -> tuple[int, int]:
    """Return the (height, width) of an image in the strip."""
    high, wide = image.shape[:2]
    scale = SIDE / max(high, wide)
    return round(high * scale), round(wide * scale)
