"""The drawing is a picture of the arm it was given."""

from pathlib import Path

import cv2
import numpy as np

from tactile_align.kinematics.arm import load_arm
from tactile_align.kinematics.drawing import draw_arm


def test_a_drawing_has_one_panel_per_posture_and_shows_the_frames(tmp_path: Path) -> None:
    arm = load_arm("nova2")
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    draw_arm(arm, {"zero": np.zeros(6)}, one)
    draw_arm(arm, {"zero": np.zeros(6), "bent": np.full(6, 0.5)}, two)
    first, second = cv2.imread(str(one)), cv2.imread(str(two))
    assert first.shape[0] == second.shape[0] and second.shape[1] == 2 * first.shape[1]
    for bgr in ((40, 40, 198), (50, 125, 46), (192, 101, 21)):
        assert (np.abs(first.astype(int) - bgr).max(axis=-1) < 12).sum() > 50
    assert not any(tmp_path.glob("*.part"))
