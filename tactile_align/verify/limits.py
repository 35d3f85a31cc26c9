"""Limits of verify on recorded episodes.

Those of motion lie between what right and wrong rigs gave on simulated episodes; docs/howto/verify.md has the figures.
"""

from math import inf

from tactile_align.checks import Limit

SIDE = " of the side"
LIMITS = {
    "iou-median": Limit("IoU of {1} in {0}, median", 0.75, 0.5, form=".3f", why="Below 0.5 most lit tokens are wrong"),
    "iou-p5": Limit("IoU of {1} in {0}, 5th percentile", 0.5, 0.25, form=".3f", why="Bad frames train wrong tokens"),
    "box-missing": Limit("{1} in sight of {0} without a box", 0.02, 0.2, form=".1%", why="Frames are lost to training"),
    "box-coverage": Limit("Box of {1} in {0}", 0.95, 0.5, form=".1%", why="A camera on the hand sees its sensors"),
    "edge-error": Limit("Edges of {1} in {0}, median", 0.05, 0.2, SIDE, why="The IoU of a box hides an edge's shift"),
    "box-drift": Limit(
        "Drift of {1} in {0} between episodes", 0.05, 0.2, SIDE, why="One rig must hold for all episodes"
    ),
    "principal-point": Limit(
        "Principal point of {0}, off the image's centre", 0.12, inf, form=".0%", why="Lenses stay under 5 %"
    ),
    "box-motion": Limit("{1} moves as its box in {0}", 0.15, -inf, form=".2f", why="Edges in a right box move along"),
    "world-motion": Limit(
        "The still world moves as {0} does", 0.4, -inf, form=".2f", why="At rest, only the camera's motion moves pixels"
    ),
    "opening-in-contact": Limit(
        "{0} touches when nearly closed", 0.3, -inf, form=".0%", why="In a right rig openings are smaller in contact"
    ),
}
GAINS = {"box-motion": 0.1, "world-motion": 0.15}
"""Median gain in score over the rig as written from which on another hypothesis is named."""
FIELD_DEG = (20.0, 170.0)
"""Plausible fields of view across a frame, deg."""
