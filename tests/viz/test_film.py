"""Film strips: which moments of which episode stand where."""

import numpy as np
import pytest

from tactile_align.diagnostics.outcomes import Played
from tactile_align.diagnostics.rollout import Filmed
from tactile_align.viz.film import SIDE, caption, film_strip
from tactile_align.viz.ink import INK


def filmed(cls: int, moments: int) -> Filmed:
    """Return an episode whose images are of one colour: red the class, green the moment, blue the camera or touch."""
    played = Played(seed=3, cls=cls, lifted=True, decided=True, correct=cls == 0, side=1, steps=3 * moments)

    def flat(t: int, kind: int, high: int, wide: int) -> np.ndarray:
        return np.full((high, wide, 3), (100 * (cls + 1), 20 * t + 40, kind), np.uint8)

    return Filmed(played, [{"wrist": flat(t, 60, 60, 80), "touch": flat(t, 211, 80, 60)} for t in range(moments)])


def test_a_row_shows_every_second_moment_and_the_end_with_the_touch_below_the_cameras() -> None:
    picture = film_strip({"run": [filmed(0, 6), filmed(1, 3)]})
    flat = {(r, g, b) for r, g, b in picture.reshape(-1, 3).tolist() if r in (100, 200) and len({r, g, b}) == 3}
    assert flat == {(100, 20 * t + 40, b) for t in (0, 2, 4, 5) for b in (60, 211)} | {
        (200, 20 * t + 40, b) for t in (0, 2) for b in (60, 211)
    }

    def centre(colour: tuple[int, int, int]) -> np.ndarray:
        places = np.argwhere((picture == colour).all(axis=2))
        high, wide = np.ptp(places, axis=0) + 1
        assert len(places) == high * wide == SIDE * SIDE * 3 // 4, "a whole image of the right size"
        return places.mean(axis=0)

    (y, x), (below, same) = centre((100, 40, 60)), centre((100, 40, 211))
    assert below - y == pytest.approx((0.75 * SIDE + SIDE) / 2, abs=5) and same == x
    assert centre((100, 80, 60))[1] > x and centre((100, 140, 60))[1] - x > 3 * SIDE
    assert centre((200, 40, 60))[0] > below and centre((200, 40, 60))[1] == x
    assert picture[-10, -10].tolist() == list(INK), "the shorter episode ends earlier"


def test_a_caption_states_the_outcome() -> None:
    assert caption(filmed(1, 2).played) == "seed 3, class 1: lifted, carried to +y, wrong, 6 steps"
    with pytest.raises(ValueError, match="at least one filmed episode"):
        film_strip({"run": []})
