"""Read-outs (results computed from features) of one view: retrieval, feature space, localisation and linear probes."""

from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

import numpy as np
import torch

from tactile_align.datasets.episodes import Episode, open_episode
from tactile_align.datasets.truth import read_truth
from tactile_align.diagnostics.localisation import grid_places, localise, maps_of, millimetres_per_pixel
from tactile_align.diagnostics.pairs import pair_features, row_features
from tactile_align.diagnostics.probes import left_out_in_turn, probe_classes, probe_number
from tactile_align.diagnostics.retrieval import AMONG_REGIONS, KINDS, among_regions, gallery_recalls
from tactile_align.diagnostics.summary import MORE_EPISODES, SIDES, Localisation, Probe, Readouts, Recall, SpaceHealth
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.features.health import collapsed, effective_rank, partition_isotropy, spread
from tactile_align.features.towers import shifted_boxes
from tactile_align.moments.dataset import Moments
from tactile_align.policies.alignment import View
from tactile_align.policies.build import LoadedRun


def stated_object(moments: Moments, rows: np.ndarray) -> np.ndarray:
    """Return the name of the grasped object, (N,), in the N moments with the indices `rows`.

    Raises:
        InputError: A recording does not state the object, or cannot be read.
    """

    def read(episode: Episode) -> np.ndarray | None:
        name = episode.attributes.get("object")
        return None if name is None else np.full(len(episode), str(name))

    return _stated(moments, rows, read, "the attribute 'object'")


def stated_indentation(moments: Moments, rows: np.ndarray) -> np.ndarray:
    """Return how deep the object is pressed into the gel, (N,), m; arguments and errors as for `stated_object`."""
    return _stated(moments, rows, lambda episode: read_truth(episode, "indentation"), "the array truth/indentation")


def stated_place(moments: Moments, rows: np.ndarray) -> np.ndarray:
    """Return the place of the contact on the pad, (N, 2), m; nan without contact. Arguments as for `stated_object`."""
    return _stated(moments, rows, lambda episode: read_truth(episode, "print", 2), "the array truth/print")


STATED = {"object": stated_object, "indentation": stated_indentation, "place": stated_place}
"""Functions that read from the recordings what a probe predicts, by the name of the probe."""


def stated_probe(name: str, h: np.ndarray, read: Callable[[], np.ndarray], episode: np.ndarray) -> Probe:
    """Return the score of a probe of what `read` returns, in the moments in which it is known.

    Args:
        name: Name of the probe; "object" predicts a class, the others predict numbers.
        h: (N, D) features of N moments.
        read: Function that returns what each moment states, such as those in `STATED`.
        episode: (N,) episode of each moment.

    Raises:
        InputError: The recordings do not state it, or `probe_classes` or `probe_number` refuses it.
    """
    value = read()
    if name == "object":
        return probe_classes(h, value, episode)
    known = np.isfinite(value).reshape(len(value), -1).all(axis=1)
    return probe_number(h[known], value[known], episode[known])


def _stated(moments: Moments, rows: np.ndarray, read: Callable[[Episode], np.ndarray | None], what: str) -> np.ndarray:
    stated: dict[int, np.ndarray] = {}
    numbers, times = moments.episode[rows].tolist(), moments.time[rows].tolist()
    for number in sorted(set(numbers)):
        ref = moments.jobs[number].ref
        with open_episode(ref) as episode:
            values = read(episode)
        if values is None:
            raise InputError(
                f"{ref}: {what} is missing, but this probe requires {what} in every judged episode. Add {what} to "
                f"this file, or use simulated episodes"
            )
        stated[number] = values
    return np.array([stated[number][t] for number, t in zip(numbers, times, strict=True)])


Made = TypeVar("Made")
OTHER_REGIONS = 7
POINTED = 128
"""Largest number of contacts for localisation; each touch is compared with regions all over one image."""
PROBED, QUIET = 1500, 256
"""Largest number of moments for the probes. PROBED: moments in contact. QUIET: moments without contact."""
SPACED = 2000  # moments compared pairwise; one table has 32 MB


def view_readouts(
    run: LoadedRun, key: str, *, features: dict[str, np.ndarray] | None = None, gallery: int = 64
) -> Readouts:
    """Return the read-outs of one view: recall in four kinds of gallery, feature space, localisation and linear probes.

    A gallery is the set of candidates of a query: regions for a touch, touches for a region. The first three kinds are
    those of `retrieval.KINDS`, the fourth contains other regions of the same image.

    Some results cannot be computed for every run; `Readouts.left_out` contains the reason for each missing result.

    Args:
        run: Run, loaded with the episodes on which it is evaluated.
        key: Key of the view.
        features: `pair_features` of the view, if already computed; None computes them.
        gallery: Number of candidates in the galleries that contain other contacts.

    Raises:
        InputError: No moment has both a box and a contact.
    """
    view = run.view(key)
    pairs = pair_features(run, key) if features is None else features
    galleries, left_out = read_galleries(pairs, gallery, run.config.hsa.min_gap)
    some = evenly(len(pairs["row"]), SPACED)
    space = _attempt(left_out, "space", partial(space_health, pairs["h_tau"][some], pairs["h_w"][some]))
    among, place = f"galleries/{AMONG_REGIONS}", None
    if run.config.region == "box":
        middle = middles(pairs)
        few = middle[evenly(len(middle), POINTED)]
        looked = _look_around(run, view, pairs, few)
        regions = _attempt(left_out, among, partial(among_regions, pairs, few, looked["beside"], looked["exist"]))
        if regions is not None:
            galleries[AMONG_REGIONS] = {"touch to vision": regions}
        place = _attempt(left_out, "localisation", partial(_localisation, run, view, looked))
    else:
        reason = f"requires a model that uses the image region; this model has region = '{run.config.region}'"
        left_out |= {among: reason, "localisation": reason}
    probes = _probes(left_out, run, view, pairs)
    return Readouts(galleries=galleries, probes=probes, left_out=left_out, space=space, localisation=place)


def read_galleries(
    features: dict[str, np.ndarray], gallery: int, min_gap: int
) -> tuple[dict[str, dict[str, Recall]], dict[str, str]]:
    """Return the recall by kind of gallery (a key of KINDS), then by direction, and the reasons for missing results.

    Args:
        features: `pair_features` of a view.
        gallery: Largest number of candidates; see `gallery_recalls`.
        min_gap: Smallest distance, in rows, of two moments of one episode in the same gallery.
    """
    galleries, left_out = dict[str, dict[str, Recall]](), dict[str, str]()
    for name, kind in KINDS.items():
        recalls = _attempt(left_out, f"galleries/{name}", partial(gallery_recalls, features, kind, gallery, min_gap))
        if recalls is not None:
            galleries[name] = recalls
    return galleries, left_out


def middles(features: dict[str, np.ndarray]) -> np.ndarray:
    """Return the index of the middle moment of each of C contacts, (C,), in increasing order.

    Args:
        features: `pair_features` of a view, whose arrays the indices refer to.
    """
    names = np.stack([features["episode"], features["contact"]], axis=1)
    _, first, count = np.unique(names, axis=0, return_index=True, return_counts=True)
    return np.asarray(np.sort(first + count // 2))


def _attempt(left_out: dict[str, str], name: str, make: Callable[[], Made]) -> Made | None:
    """Return the result of `make`; if `make` raises an InputError, store its text in `left_out` and return None."""
    try:
        return make()
    except InputError as error:
        left_out[name] = str(error)
        return None


@torch.no_grad()
def _look_around(
    run: LoadedRun, view: View, features: dict[str, np.ndarray], chosen: np.ndarray
) -> dict[str, np.ndarray]:
    """Return, for the pairs `chosen`, features of regions beside the box and similarity maps; one pass per batch."""
    alignment, rows, done = run.alignment, features["row"][chosen], 0
    towers = alignment.towers
    found: dict[str, list[np.ndarray]] = {"beside": [], "exist": [], "maps": [], "box": []}
    for batch in run.batches(rows):
        part = batch.views[view.key]
        box = part.box
        beside, exist = shifted_boxes(box, OTHER_REGIONS, towers.vision.input_size)
        places = torch.cat([beside, grid_places(towers, box)], dim=1)
        seen = towers.of_boxes(part.image, places, alignment.sigma(batch, view))
        h_tau = torch.from_numpy(features["h_tau"][chosen[done : done + len(box)]]).to(box.device)
        done += len(box)
        maps = maps_of(towers, h_tau, seen[:, OTHER_REGIONS:])
        parts = {"beside": seen[:, :OTHER_REGIONS], "exist": exist, "maps": maps, "box": box.double()}
        for name, values in parts.items():
            found[name].append(values.cpu().numpy())
    return {**{name: np.concatenate(parts) for name, parts in found.items()}, "row": rows}


def _localisation(run: LoadedRun, view: View, looked: dict[str, np.ndarray]) -> Localisation:
    rows, box, size = looked["row"], looked["box"], run.alignment.towers.vision.input_size
    mm = pixel_millimetres(run.moments, view, rows, box)
    return localise(looked["maps"], box, size, run.moments.episode[rows], mm_per_px=mm)


def pixel_millimetres(moments: Moments, view: View, rows: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the width and height, mm, that a pixel of the encoder's input covers at the sensor's depth, (N, 2).

    Args:
        moments: Moments on which a run is evaluated.
        view: View, i.e. the camera and the sensor.
        rows: (N,) indices of moments that have a box.
        box: (N, 4) boxes of these moments in the encoder's input, px.
    """
    stored = moments.views[view.key].frame_box[rows]
    # The ratio of the box sides is the scale of the image in each direction, whatever ImageMap a moment has.
    enlarged = (stored[:, 2:] - stored[:, :2]) / (box[:, 2:] - box[:, :2])
    return _millimetres(moments, view, rows) * enlarged


def _millimetres(moments: Moments, view: View, rows: np.ndarray) -> np.ndarray:
    """Return the width and height, mm, that a pixel of the stored frame covers at the sensor's depth, (N, 2)."""
    found = np.empty((len(rows), 2))
    opening = moments.touches[view.sensor].opening
    for number in np.unique(moments.episode[rows]):
        here = moments.episode[rows] == number
        rig, qpos = moments.jobs[number].rig, moments.low_dim()[number][0][moments.time[rows][here]]
        stands = None if opening is None else opening[rows][here]
        depth = rig.T_camera_sensor(view.camera, view.sensor, qpos, stands)[:, 2, 3]
        found[here] = millimetres_per_pixel(depth, rig.camera(view.camera).stored.K)
    return found


def _probes(left_out: dict[str, str], run: LoadedRun, view: View, features: dict[str, np.ndarray]) -> dict[str, Probe]:
    """Return the scores of probes of the opening and of what is `STATED` (in contact), and of contact itself."""
    try:
        left_out_in_turn(features["episode"])
    except InputError as error:
        left_out["probes"] = str(error)
        return {}
    moments, some = run.moments, evenly(len(features["row"]), PROBED)
    rows, episode = features["row"][some], features["episode"][some]
    reads = {name: cache(partial(stated, moments, rows)) for name, stated in STATED.items()}
    opening = moments.touches[view.sensor].opening
    if opening is not None:
        total = opening[rows].sum(axis=1)
        reads["opening"] = cache(lambda: total)
    made: dict[str, Probe | None] = {}
    for name, read in reads.items():
        for side in SIDES:
            of = f"{name} from {side}"
            made[of] = _attempt(
                left_out, f"probes/{of}", partial(stated_probe, name, features[side][some], read, episode)
            )
    idle = np.flatnonzero(moments.views[view.key].visible & ~moments.touches[view.sensor].contact)
    quiet = idle[evenly(len(idle), QUIET)]
    others = row_features(run, view, quiet) if len(quiet) else {}
    touching = np.repeat(["contact", "no contact"], [len(rows), len(quiet)])
    episodes = np.concatenate([episode, moments.episode[quiet]])
    for side in SIDES:
        h = np.concatenate([features[side][some], *([others[side]] if others else [])])
        make = partial(probe_classes, h, touching, episodes)
        made[f"contact from {side}"] = _attempt(left_out, f"probes/contact from {side}", make)
    return {name: probe for name, probe in made.items() if probe is not None}


def space_health(h_tau: np.ndarray, h_w: np.ndarray) -> SpaceHealth:
    """Return measures of the feature space of pairs.

    Args:
        h_tau: (N, D) touch features of N >= 2 moments, not normalised.
        h_w: (N, D) region features of the same moments.

    Raises:
        ValueError: The shapes differ.
        InputError: There is one pair only, or a row is zero or non-finite.
    """
    if h_tau.ndim != 2 or h_tau.shape != h_w.shape:
        raise ValueError(
            f"h_tau and h_w must both have shape (N, D); got {h_tau.shape} and {h_w.shape}. Pass features of the same "
            f"moments"
        )
    if len(h_tau) < 2:
        raise InputError(f"the feature space needs at least 2 pairs; got {len(h_tau)}. {MORE_EPISODES}")
    u, v = _unit(h_tau, "h_tau"), _unit(h_w, "h_w")
    touches, regions = torch.from_numpy(u), torch.from_numpy(v)
    cosines = u @ v.T
    others = np.where(np.eye(len(u), dtype=bool), -np.inf, cosines)
    ranks = {"touch": float(effective_rank(touches)), "vision": float(effective_rank(regions))}
    spreads = {"touch": float(spread(touches)), "vision": float(spread(regions))}
    gap = float(np.linalg.norm(u.mean(axis=0) - v.mean(axis=0)))
    return SpaceHealth(
        alignment=float(np.mean(np.sum((u - v) ** 2, axis=1))),
        uniformity_touch=uniformity(u),
        uniformity_vision=uniformity(v),
        rank_touch=ranks["touch"],
        rank_vision=ranks["vision"],
        spread_touch=spreads["touch"],
        spread_vision=spreads["vision"],
        partition_isotropy_touch=float(partition_isotropy(touches)),
        partition_isotropy_vision=float(partition_isotropy(regions)),
        modality_gap=gap,
        margin=float(np.mean(np.diag(cosines) - others.max(axis=1))),
        dim=u.shape[1],
        pairs=len(u),
        verdict=_verdict(ranks, spreads, gap, min(u.shape)),
    )


def _verdict(ranks: dict[str, float], spreads: dict[str, float], gap: float, most: int) -> str:
    fallen = [side for side, rank in ranks.items() if collapsed(rank, spreads[side])]
    if fallen:
        return f"collapsed: {' and '.join(fallen)} features lie in one point or on one line"
    flat = [side for side, rank in ranks.items() if rank < 0.05 * most]
    if flat:
        return f"{' and '.join(flat)} features use less than 5 % of the available directions"
    if gap > 1:
        return f"touch and vision features are far apart: the distance of their means is {gap:.2f}"
    return "no collapse: touch and vision features both use the space and share it"


def uniformity(u: np.ndarray) -> float:
    """Return the logarithm of the mean of e^(-2 |u_i - u_j|^2) over all pairs i != j (arXiv 2005.10242).

    Args:
        u: (N, D) unit vectors; u_i is row i.
    """
    count = len(u)
    total = np.exp(-2 * np.maximum(2 - 2 * (u @ u.T), 0)).sum() - count
    return float(np.log(total / (count * (count - 1))))


def _unit(h: np.ndarray, name: str) -> np.ndarray:
    h = h.astype(np.float64)
    length = np.linalg.norm(h, axis=1, keepdims=True)
    rows = np.flatnonzero(~np.isfinite(length[:, 0]) | (length[:, 0] == 0))[:5].tolist()
    if rows:
        raise InputError(f"{name} is zero or non-finite in rows {rows}; features must be neither. Check these images")
    return np.asarray(h / length)
