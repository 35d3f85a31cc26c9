"""Everything that can be read off one view's features on held-out episodes, in one call."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tactile_align.datasets.moments import Batch, Moments
from tactile_align.diagnostics.evaluation import pair_rows
from tactile_align.diagnostics.localisation import localise, millimetres_per_pixel, similarity_maps
from tactile_align.diagnostics.probes import probe_classes, probe_number
from tactile_align.diagnostics.retrieval import Gallery, region_retrieval, retrieval
from tactile_align.diagnostics.space import space_health
from tactile_align.policies.aligned import AlignedPolicy, View
from tactile_align.training.augment import augment
from tactile_align.training.config import TrainConfig
from tactile_align.training.data import views_of

OTHER_REGIONS, POINTED, PROBED = 7, 256, 1500
SPACED = 4000  # moments compared each with each: 128 MB a table


def view_readouts(
    model: AlignedPolicy, moments: Moments, config: TrainConfig, key: str, *, gallery: int = 64, min_gap: int = 20
) -> dict[str, Any]:
    """Read out one view: four galleries, the feature space, localisation and probes.

    What a view's held-out episodes are too few for is left out and named under "left_out".

    Args:
        model: In eval mode, looking at boxes.
        moments: Held-out episodes.
        config: The run's.
        key: The view's key.
        gallery: Candidates of the galleries across contacts.
        min_gap: Rows that moments of one episode must be apart to stand in one gallery.

    Returns:
        Plain values for JSON: "galleries", "space", "localisation", "probes", "left_out".

    Raises:
        ValueError: No held-out moment has both a box and a contact.
    """
    view = next(one for one in model.views if one.key == key)
    camera = next(entry.camera for one, entry in zip(views_of(config), config.views, strict=True) if one.key == key)
    pairs = pair_rows(moments, view)
    found = _features(model, moments, config, view, pairs)
    episode, index = moments.episode[pairs], moments.column(f"contact_index/{view.sensor}")[pairs]
    time, tau, w = moments.time[pairs], found["h_tau"], found["h_w"]
    out: dict[str, Any] = {"galleries": {}, "probes": {}, "left_out": {}}

    def attempt(group: str, name: str, make: Any) -> None:
        try:
            out[group][name] = make()
        except ValueError as error:
            out["left_out"][f"{group}/{name}"] = str(error)

    for name, kind, size in (
        ("contact only", "all", gallery),
        ("cross-episode", "cross-episode", gallery),
        ("same episode with a gap", "same-episode", min(gallery, 8)),
    ):
        attempt("galleries", name, lambda k=kind, s=size: _recalls(tau, w, episode, index, time, k, s, min_gap))
    attempt(
        "galleries",
        "regions of the same image",
        lambda: _among_regions(tau, found["regions"], episode, index, found["beside"]),
    )
    few = _spread(np.arange(len(pairs)), SPACED)
    out["space"] = space_health(tau[few], w[few]).as_dict()
    out["localisation"] = _localisation(model, moments, config, view, camera, pairs)
    for side in ("h_tau", "h_w"):
        opening = _opening(moments, view.sensor)
        if opening is not None:
            total = opening[pairs].sum(axis=1)
            attempt(
                "probes", f"opening from {side}", lambda s=side, t=total: probe_number(found[s], t, episode).as_dict()
            )
    some = _spread(np.flatnonzero(moments.column(f"visible/{view.key}")), PROBED)
    touching, of = moments.column(f"contact/{view.sensor}")[some], moments.episode[some]
    every = _features(model, moments, config, view, some, regions=False)
    for side in ("h_tau", "h_w"):
        attempt("probes", f"contact from {side}", lambda s=side: probe_classes(every[s], touching, of).as_dict())
    return out


def _among_regions(
    tau: np.ndarray, regions: np.ndarray, episode: np.ndarray, contact: np.ndarray, whole: np.ndarray
) -> dict[str, Any]:
    """Judge the moments that have all of the other regions: near a border there are fewer, and chance is higher."""
    if not whole.any():
        raise ValueError(f"no box lies far enough from the border to have {OTHER_REGIONS} others of its size beside it")
    return region_retrieval(tau[whole], regions[whole], episode[whole], contact[whole]).as_dict()


def _recalls(
    tau: np.ndarray,
    w: np.ndarray,
    episode: np.ndarray,
    contact: np.ndarray,
    time: np.ndarray,
    kind: Gallery,
    gallery: int,
    min_gap: int,
) -> dict[str, Any]:
    found = retrieval(tau, w, episode, contact, gallery=gallery, kind=kind, time=time, min_gap=min_gap)
    return {name: recall.as_dict() for name, recall in found.items()}


@torch.no_grad()
def _features(
    model: AlignedPolicy, moments: Moments, config: TrainConfig, view: View, rows: np.ndarray, regions: bool = True
) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {"h_tau": [], "h_w": [], "regions": [], "beside": []}
    for batch in _batches(model, moments, config, rows):
        seen = model.see(batch)
        found["h_tau"].append(seen.touches[view.sensor].vector.float().cpu().numpy())
        found["h_w"].append(seen.regions[view.key].vector.float().cpu().numpy())
        if regions:
            assert model.towers is not None
            images, box = batch[f"image/{view.key}"], model.finite_box(batch, view)
            others, exist = model.towers.of_other_regions(images, box, OTHER_REGIONS, model.sigma(batch, view))
            found["regions"].append(np.concatenate([found["h_w"][-1][:, None], others.float().cpu().numpy()], axis=1))
            found["beside"].append(exist.all(dim=1).cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items() if parts}


def _localisation(
    model: AlignedPolicy, moments: Moments, config: TrainConfig, view: View, camera: str, pairs: np.ndarray
) -> dict[str, Any]:
    assert model.towers is not None
    rows = _spread(pairs, POINTED)
    maps, boxes = [], []
    for batch in _batches(model, moments, config, rows):
        box = batch[f"box/{view.key}"]
        tau = model.see(batch).touches[view.sensor].vector
        images, sigma = batch[f"image/{view.key}"], model.sigma(batch, view)
        maps.append(similarity_maps(model.towers, tau, images, box, sigma).float().cpu().numpy())
        boxes.append(box.cpu().numpy())
    sides, stored = np.concatenate(boxes).astype(np.float64), moments.column(f"frame_box/{view.key}")[rows]
    # Box sides before and after say how much the image was resized, whatever map each moment went through.
    enlarged = (stored[:, 2] - stored[:, 0]) / (sides[:, 2] - sides[:, 0])
    mm = _millimetres(moments, view, camera, rows) * enlarged
    size = model.towers.vision.input_size
    return localise(np.concatenate(maps), sides, size, moments.episode[rows], mm_per_px=mm).as_dict()


def _millimetres(moments: Moments, view: View, camera: str, rows: np.ndarray) -> np.ndarray:
    """Return the size of a pixel of the stored frame at the sensor's depth, (N,) mm."""
    found = np.empty(len(rows))
    for number in np.unique(moments.episode[rows]):
        here = moments.episode[rows] == number
        rig, qpos = moments.jobs[number].rig, moments.low_dim()[number][0][moments.time[rows][here]]
        opening = _opening(moments, view.sensor)
        stands = None if opening is None else opening[rows][here]
        depth = rig.T_camera_sensor(camera, view.sensor, qpos, stands)[:, 2, 3]
        found[here] = millimetres_per_pixel(depth, rig.camera(camera).stored.K)
    return found


def _batches(model: AlignedPolicy, moments: Moments, config: TrainConfig, rows: np.ndarray) -> Iterator[Batch]:
    """Yield batches whose views are cut to the encoder's input from the middle."""
    keys, device = tuple(one.key for one in model.views), next(model.parameters()).device
    for chosen in np.array_split(rows, max(1, len(rows) // 128)):
        batch = {name: value.to(device) for name, value in moments.__getitems__(chosen.tolist()).items()}
        yield augment(batch, keys, config.augment, None)


def _opening(moments: Moments, sensor: str) -> np.ndarray | None:
    try:
        return moments.column(f"opening/{sensor}")
    except KeyError:  # an arm without a gripper
        return None


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)]
