"""Limits of what `verify` measures on recorded episodes.

Those of motion lie between what right and wrong rigs gave on simulated episodes; docs/howto/verify.md has the figures.
"""

from math import inf

from tactile_align.checks import Limit

SIDE = " of the side"
LIMITS = {
    "iou-median": Limit(
        "IoU of {1} in {0}, median", 0.75, 0.5, form=".3f", why="Below 0.5 most lit tokens show something else"
    ),
    "iou-p5": Limit(
        "IoU of {1} in {0}, 5th percentile", 0.5, 0.25, form=".3f", why="The worst frames train on the wrong tokens"
    ),
    "box-missing": Limit(
        "{1} in sight of {0} without a box", 0.02, 0.2, form=".1%", why="Frames without a box are lost to training"
    ),
    "box-coverage": Limit(
        "Box of {1} in {0}", 0.95, 0.5, form=".1%", why="A camera on the same hand should see the sensor nearly always"
    ),
    "edge-error": Limit(
        "Edges of {1} in {0}, median", 0.05, 0.2, SIDE, why="A shift of one edge hides in the IoU of a large box"
    ),
    "box-drift": Limit(
        "Drift of {1} in {0} between episodes", 0.05, 0.2, SIDE, why="One rig must hold for all episodes"
    ),
    "principal-point": Limit(
        "Principal point of {0}, off the image's centre", 0.12, inf, form=".0%", why="Lenses stay under 5 %"
    ),
    "box-motion": Limit(
        "{1} moves as its box in {0}", 0.15, -inf, form=".2f", why="The edges in a right box move along with it"
    ),
    "world-motion": Limit(
        "The still world moves as {0} does", 0.4, -inf, form=".2f", why="At rest, only the camera's motion moves pixels"
    ),
    "opening-in-contact": Limit(
        "{0} touches when nearly closed",
        0.3,
        -inf,
        form=".0%",
        why="In a right rig nearly all openings in contact are smaller than those without",
    ),
}
GAINS = {"box-motion": 0.1, "world-motion": 0.15}
"""By how much another hypothesis must score higher than the rig as written to be named; medians."""
FIELD_DEG = (20.0, 170.0)
"""Plausible fields of view across a frame, deg."""
