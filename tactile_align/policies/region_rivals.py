"""Other regions as rivals of a touch: beside the box, at the other finger, in the other cameras."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tactile_align.features.towers import shifted_boxes

if TYPE_CHECKING:
    from tactile_align.policies.aligned import AlignedPolicy, Batch, Seen, View


class RegionRivals(NamedTuple):
    """N other regions of each touch of a view, for `hsa_loss`.

    Attributes:
        features: (B, N, dim).
        exist: (B, N) bool, where such a region is in sight.
        kinds: N names, of the rule each column is from.
    """

    features: Tensor
    exist: Tensor
    kinds: tuple[str, ...]

    def counts(self, valid: Tensor) -> dict[str, Tensor]:
        """Return how many of them the valid (B,) touches have, by kind."""
        found = (self.exist & valid[:, None]).sum(dim=0)
        return {
            kind: torch.stack([n for n, own in zip(found, self.kinds, strict=True) if own == kind]).sum()
            for kind in dict.fromkeys(self.kinds)
        }


def region_rivals(model: AlignedPolicy, batch: Batch, seen: Seen) -> dict[str, RegionRivals]:
    """Return the other regions that the config asks for, by view key; no entry where there are none.

    One pass of the vision encoder for each view whose image is looked at beside the box.
    """
    hsa, towers = model.hsa, model.towers
    if towers is None or model.region != "box" or not hsa.looks_beside:
        return {}
    beside = {view.key: _beside(model, batch, view) for view in model.views}
    return {view.key: _of_view(model, batch, seen, view, beside) for view in model.views}


class _Looked(NamedTuple):
    """What was seen beside the box in one view's image: (B, n, dim) shifted boxes, (B, n) which of them exist, and
    (B, 1, dim) the other finger."""

    shifted: Tensor
    exist: Tensor
    finger: Tensor | None


def _beside(model: AlignedPolicy, batch: Batch, view: View) -> _Looked:
    hsa, towers = model.hsa, model.towers
    assert towers is not None
    box = model.finite_box(batch, view)
    wanted = any(other.sensor == view.sensor and other.camera != view.camera for other in model.views)
    count = max(hsa.region_rivals, int(hsa.camera_rival and wanted))
    moved, exist = shifted_boxes(box, count, towers.vision.input_size)
    places = [moved] if count else []
    if hsa.finger_rival:
        there = batch[f"other_box/{view.key}"]
        places.append(torch.where(finger_in_sight(model, batch, view)[:, None], there, box)[:, None])
    if not places:
        return _Looked(box.new_zeros((len(box), 0, towers.config.dim)), exist, None)
    found = towers.of_boxes(batch[f"image/{view.key}"], torch.cat(places, dim=1), model.sigma(batch, view))
    return _Looked(found[:, :count], exist, found[:, count:] if hsa.finger_rival else None)


def finger_in_sight(model: AlignedPolicy, batch: Batch, view: View) -> Tensor:
    """Return (B,) bool: whether the other finger's box is a region of its own.

    Its centre must lie in the image the encoder sees, and outside the sensor's box: fingers that close on something
    thin cover each other.
    """
    assert model.towers is not None
    box, other = batch[f"box/{view.key}"], batch[f"other_box/{view.key}"]
    centre = (other[:, :2] + other[:, 2:]) / 2
    border = other.new_tensor(model.towers.vision.input_size) - 0.5
    in_image = ((centre >= -0.5) & (centre <= border)).all(dim=1)
    in_box = ((centre >= box[:, :2]) & (centre <= box[:, 2:])).all(dim=1)
    return in_image & ~in_box & batch[f"visible/{view.key}"]


def _of_view(model: AlignedPolicy, batch: Batch, seen: Seen, view: View, beside: dict[str, _Looked]) -> RegionRivals:
    hsa = model.hsa
    own, wanted = beside[view.key], hsa.region_rivals
    beside_it = zip(own.shifted[:, :wanted].unbind(1), own.exist[:, :wanted].unbind(1), strict=True)
    columns = [("beside", features, exist) for features, exist in beside_it]
    if own.finger is not None:
        columns.append(("finger", own.finger[:, 0], finger_in_sight(model, batch, view)))
    for other in model.views if hsa.camera_rival else ():
        if other.camera == view.camera:
            continue
        # The same sensor's box in another camera is this touch's pair there, never its rival.
        same = other.sensor == view.sensor
        there = beside[other.key].shifted[:, 0] if same else seen.regions[other.key].vector
        in_sight = batch[f"visible/{other.key}"]
        columns.append(("camera", there, in_sight & beside[other.key].exist[:, 0] if same else in_sight))
    kinds, features, exist = zip(*columns, strict=True)
    return RegionRivals(torch.stack(features, dim=1), torch.stack(exist, dim=1), kinds)
