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
        exist: (B, N) bool, where such a region is in sight; None: everywhere.
        kinds: N names, of the rule each column is from.
    """

    features: Tensor
    exist: Tensor | None
    kinds: tuple[str, ...]

    def counts(self, valid: Tensor) -> dict[str, Tensor]:
        """Return how many of them the valid (B,) touches have, by kind."""
        exist = torch.ones_like(self.features[..., 0], dtype=torch.bool) if self.exist is None else self.exist
        found = (exist & valid[:, None]).sum(dim=0)
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
    """What was seen beside the box in one view's image: (B, n, dim) shifted boxes, (B, 1, dim) the other finger."""

    shifted: Tensor
    finger: Tensor | None


def _beside(model: AlignedPolicy, batch: Batch, view: View) -> _Looked:
    hsa, towers = model.hsa, model.towers
    assert towers is not None
    box = model.finite_box(batch, view)
    wanted = any(other.sensor == view.sensor and other.camera != view.camera for other in model.views)
    count = max(hsa.region_rivals, int(hsa.camera_rival and wanted))
    places = [shifted_boxes(box, count, towers.vision.input_size)] if count else []
    if hsa.finger_rival:
        there = batch[f"other_box/{view.key}"]
        places.append(torch.where(finger_in_sight(model, batch, view)[:, None], there, box)[:, None])
    if not places:
        return _Looked(box.new_zeros((len(box), 0, model.towers.config.dim)), None)  # type: ignore[union-attr]
    found = towers.of_boxes(batch[f"image/{view.key}"], torch.cat(places, dim=1), model.sigma(batch, view))
    return _Looked(found[:, :count], found[:, count:] if hsa.finger_rival else None)


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
    own, everywhere = beside[view.key], torch.ones_like(batch[f"visible/{view.key}"])
    columns = [("beside", one, everywhere) for one in own.shifted[:, : hsa.region_rivals].unbind(1)]
    if own.finger is not None:
        columns.append(("finger", own.finger[:, 0], finger_in_sight(model, batch, view)))
    for other in model.views if hsa.camera_rival else ():
        if other.camera == view.camera:
            continue
        # The same sensor's box in another camera is this touch's pair there, never its rival.
        same = other.sensor == view.sensor
        there = beside[other.key].shifted[:, 0] if same else seen.regions[other.key].vector
        columns.append(("camera", there, batch[f"visible/{other.key}"]))
    kinds, features, exist = zip(*columns, strict=True)
    # Shifted boxes alone are everywhere, and the loss then has nothing to leave out.
    missing = set(kinds) != {"beside"}
    return RegionRivals(torch.stack(features, dim=1), torch.stack(exist, dim=1) if missing else None, kinds)
