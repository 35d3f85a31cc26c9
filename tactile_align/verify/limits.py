"""Limits of the checks that `verify` makes on recorded episodes.

The limits on motion lie between the scores of correct and of wrong rigs on simulated episodes; docs/howto/verify.md
lists these scores.
"""

from math import inf

from tactile_align.checks import Limit

SIDE = " of the side"
LIMITS = {
    "boxes": Limit("Boxes of {1} in {0}", 12, -inf, form=".0f", why="A few boxes, or boxes of one case, prove little"),
    "iou-median": Limit("IoU of {1} in {0}, median", 0.75, 0.5, form=".3f", why="Below 0.5 most box tokens are wrong"),
    "iou-p5": Limit("IoU of {1} in {0}, 5th percentile", 0.5, 0.25, form=".3f", why="Bad boxes train wrong tokens"),
    "box-missing": Limit("{1} seen by {0} but without a box", 0.02, 0.2, form=".1%", why="Training loses these frames"),
    "box-coverage": Limit("Frames with a box of {1} in {0}", 0.95, 0.5, form=".1%", why="Hand cameras see the sensors"),
    "edge-error": Limit("Edge error of {1} in {0}, median", 0.05, 0.2, SIDE, why="IoU can hide a shifted edge"),
    "box-drift": Limit("Drift of {1} in {0} between episodes", 0.05, 0.2, SIDE, why="One rig must fit all episodes"),
    "principal-point": Limit(
        "Principal point of {0}, distance to image centre", 0.12, inf, form=".0%", why="Under 5 % is usual"
    ),
    "box-motion": Limit("{1} moves with its box in {0}", 0.15, -inf, form=".2f", why="A right box follows the sensor"),
    "world-motion": Limit(
        "Static scene moves as predicted in {0}", 0.4, -inf, form=".2f", why="Only the camera's motion moves it"
    ),
    "opening-in-contact": Limit(
        "Openings of {0} smaller in contact", 0.3, -inf, form=".0%", why="Grasping closes the gripper"
    ),
}
COVERED = 0.3
"""Smallest share of the recorded range of openings that the boxes of truth or labels must cover."""
GAINS = {"box-motion": 0.1, "world-motion": 0.15}
"""Smallest median gain in score, over the rig as written, at which another hypothesis about the rig is reported."""
FIELD_DEG = (20.0, 170.0)
"""Smallest and largest plausible horizontal field of view, deg."""
