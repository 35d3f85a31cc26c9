"""The rows of the comparison tables, each a change of one base config."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row of a study.

    Attributes:
        name: Short name, also its folder's.
        title: What the table calls it.
        changes: What differs from the base config, nested as in the TOML file.
        shift_px: How far the wrist camera's principal point is moved in the rig, right and down, raw px: every box
            is off by that much while the images are as they were.
    """

    name: str
    title: str
    changes: dict[str, Any] = field(default_factory=dict)
    shift_px: tuple[float, float] = (0.0, 0.0)


TABLE = (
    Row("opening", "opening only", {"region": "opening"}),
    Row("whole", "whole image, grid", {"features": {"place": "whole"}}),
    Row("elsewhere", "box elsewhere, grid", {"features": {"place": "elsewhere"}}),
    Row("mean", "mean in box", {"features": {"pooling": "mean"}}),
    Row("attention", "attention in box", {"features": {"pooling": "attention"}}),
    Row("grid", "grid in box"),
    Row("crop", "crop at box, grid", {"views": [{"zoom": 2.2}]}),
    Row("crop_elsewhere", "crop elsewhere, grid", {"views": [{"zoom": 1.2}]}, shift_px=(270.0, -148.0)),
)
"""The main comparison; all rows have the same encoders, the same number of tokens, steps, batches and rivals.

A box elsewhere is cut from tokens that have attended to the whole image; a crop elsewhere shows the encoder nothing
else. It lies to the upper right of the fingers and is small, so that neither a finger nor the border of the frame
comes into view: either would tell the gripper's opening.
"""

CROP = {"views": [{"zoom": 2.2}]}
BASE = "crop"
ABLATIONS = (
    Row("crop_mean", "mean", {**CROP, "features": {"pooling": "mean"}}),
    Row("crop_mean_block", "mean after one trainable block", {**CROP, "features": {"pooling": "mean_block"}}),
    Row("crop_attention", "attention", {**CROP, "features": {"pooling": "attention"}}),
    Row("crop_gaussian", "Gaussian box weights", {**CROP, "features": {"pooling": "gaussian"}}),
    Row("contact_off", "contact gate off", {**CROP, "hsa": {"require_contact": False}, "contact_share": None}),
    Row("gap_off", "time gap off", {**CROP, "hsa": {"min_gap": 0}}),
    Row("ceiling", "same-touch ceiling 0.98", {**CROP, "hsa": {"touch_ceiling": 0.98}}),
    Row("difference", "touch as difference to its reference", {**CROP, "features": {"touch_input": "difference"}}),
    Row("finger", "region of the other finger as rival", {**CROP, "hsa": {"finger_rival": True}}),
    Row("regions", "2 region rivals", {**CROP, "hsa": {"region_rivals": 2}}),
    Row("hardness", "hardness 1", {**CROP, "hsa": {"hardness": 1.0}}),
    Row("hardest", "32 hardest rivals", {**CROP, "hsa": {"hardest": 32}}),
    Row("bank", "memory bank of 1024", {**CROP, "hsa": {"bank": 1024}}),
    Row("one_way", "one way, as the original", {**CROP, "hsa": {"symmetric": False}}),
    Row(
        "mse",
        "pairs pulled together only (MSE)",
        {**CROP, "hsa": {"kind": "mse", "learn_temperature": False, "symmetric": False}},
    ),
    *(
        Row(
            f"kappa_{int(1000 * kappa):03d}",
            f"kappa {kappa}",
            {**CROP, "hsa": {"temperature": kappa, "learn_temperature": False}},
        )
        for kappa in (0.03, 0.07, 0.1, 0.2, 0.3)
    ),
    *(Row(f"shift_{px:02d}", f"box {px} px to the right", CROP, shift_px=(float(px), 0.0)) for px in (5, 10, 25, 50)),
    *(Row(f"left_{px:02d}", f"box {px} px to the left", CROP, shift_px=(-float(px), 0.0)) for px in (25, 50)),
    *(
        Row(f"ahead_{mm:02d}", f"box {mm} mm in front of the pad", {"views": [{"zoom": 2.2, "ahead_m": mm / 1000}]})
        for mm in (8, 16, 24)
    ),
)
"""Changes of the best row of the comparison, the crop, one at a time; there the differences stand out of the noise.

A box moved to the right moves onto the grasped object, one moved to the left onto the finger.
"""

ROWS = {row.name: row for row in (*TABLE, *ABLATIONS)}
GROUPS = {"table": tuple(row.name for row in TABLE), "ablations": (BASE, *(row.name for row in ABLATIONS))}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a nested dict with changes; lists of dicts are merged item by item."""
    out = dict(base)
    for key, value in changes.items():
        old = out.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            out[key] = merged(old, value)
        elif isinstance(value, list) and isinstance(old, list) and all(isinstance(v, dict) for v in value):
            out[key] = [merged(o, v) for o, v in zip(old, value, strict=True)]
        else:
            out[key] = value
    return out
