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
    Row("grid", "grid in box (base)"),
    Row("crop", "crop at box, grid", {"views": [{"zoom": 2.2}]}),
    Row("crop_elsewhere", "crop elsewhere, grid", {"views": [{"zoom": 1.2}]}, shift_px=(270.0, -148.0)),
)
"""The main comparison; all rows have the same encoders, the same number of tokens, steps, batches and rivals.

A box elsewhere is cut from tokens that have attended to the whole image; a crop elsewhere shows the encoder nothing
else. It lies to the upper right of the fingers and is small, so that neither a finger nor the border of the frame
comes into view: either would tell the gripper's opening.
"""

ABLATIONS = (
    Row("mean_block", "mean in box after one trainable block", {"features": {"pooling": "mean_block"}}),
    Row("gaussian", "Gaussian box weights", {"features": {"pooling": "gaussian"}}),
    Row("crop_mean", "crop at box, mean", {"views": [{"zoom": 2.2}], "features": {"pooling": "mean"}}),
    Row("contact_off", "contact gate off", {"hsa": {"require_contact": False}, "contact_share": None}),
    Row("gap_off", "time gap off", {"hsa": {"min_gap": 0}}),
    Row("ceiling", "same-touch ceiling 0.98", {"hsa": {"touch_ceiling": 0.98}}),
    Row("regions", "2 region rivals", {"hsa": {"region_rivals": 2}}),
    Row("hardness", "hardness 1", {"hsa": {"hardness": 1.0}}),
    Row("hardest", "32 hardest rivals", {"hsa": {"hardest": 32}}),
    Row("bank", "memory bank of 1024", {"hsa": {"bank": 1024}}),
    Row("one_way", "one way, as the original", {"hsa": {"symmetric": False}}),
    Row("mse", "pairs pulled together only (MSE)", {"hsa": {"kind": "mse"}}),
    *(
        Row(
            f"kappa_{int(1000 * kappa):03d}",
            f"kappa {kappa}",
            {"hsa": {"temperature": kappa, "learn_temperature": False}},
        )
        for kappa in (0.03, 0.07, 0.1, 0.2, 0.3)
    ),
    *(Row(f"shift_{px:02d}", f"box shifted by {px} px", shift_px=(float(px), 0.0)) for px in (5, 10, 25, 50)),
)
"""Changes of the base, one at a time."""

ROWS = {row.name: row for row in (*TABLE, *ABLATIONS)}
GROUPS = {"table": tuple(row.name for row in TABLE), "ablations": ("grid", *(row.name for row in ABLATIONS))}


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
