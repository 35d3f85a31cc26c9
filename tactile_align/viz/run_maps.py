"""The pictures of a run's features, before and after training, named as the report expects them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from tactile_align.datasets.episodes import EpisodeRef
from tactile_align.geometry.boxes import enlarge
from tactile_align.geometry.images import ImageMap
from tactile_align.viz.charts import attention_over_time, embedding, similarity_matrix
from tactile_align.viz.maps import normalised, retrieval_gallery, similarity_map
from tactile_align.viz.overlay import write_png
from tactile_align.viz.tiles import beside, grid, stacked, tall

if TYPE_CHECKING:
    from tactile_align.diagnostics.gaze import Attention, Pointing
    from tactile_align.policies.aligned import AlignedPolicy
    from tactile_align.training.config import TrainConfig
    from tactile_align.training.data import Data

SHOWN = 4
GALLERY, POINTS = 64, 160
TALL_PX = 240
"""Height at which an encoder's small input is drawn."""
EPISODES = 3
"""Held-out episodes whose attention is drawn."""
Features = dict[str, np.ndarray]


def draw_maps(
    run: str | Path, out: str | Path | None = None, *, data: "Data | None" = None, overwrite: bool = False
) -> list[Path]:
    """Draw what a run's features say on its held-out episodes.

    For each view, before training (step 0) and after: map_step_N.png, the similarity of touches to all tokens;
    gallery_step_N.png; matrix_step_N.png. After training: embedding_by_episode.png, and _by_object and _by_phase where
    the recordings say them (simulated ones do); attention_episode_E.png, what the policy looks at. With several views
    the names begin with the view.

    Args:
        run: The run folder.
        out: Where to; RUN/pictures when None.
        data: The run's moments where already loaded; None loads them.
        overwrite: Whether existing pictures may be replaced.

    Returns:
        The files written.

    Raises:
        FactError, FileNotFoundError: The folder holds no whole run.
        FileExistsError: A picture exists and `overwrite` is False.
        ValueError: The run has no encoders, or no held-out moment with box and contact.
    """
    # Imported here: torch takes seconds, and the other pictures do without.
    from tactile_align.diagnostics.evaluation import load_model
    from tactile_align.training.checkpoint import BEST, load_checkpoint
    from tactile_align.training.config import load_config
    from tactile_align.training.data import load_data, views_of
    from tactile_align.training.loop import build_model

    folder = Path(run)
    config = load_config(folder / "config.toml")
    given = data or load_data(config, progress=False)
    step = int(load_checkpoint(folder / "checkpoints" / BEST)["step"])
    before = build_model(config, given.held_out).eval()
    after = load_model(folder, config, given.held_out)
    pictures: dict[str, np.ndarray] = {}
    keys = [view.key for view in views_of(config)]
    for key in keys:
        prefix = f"{key}_" if len(keys) > 1 else ""
        found = _of_view({0: before, step: after}, given, config, key)
        pictures |= {f"{prefix}{name}": picture for name, picture in found.items()}
    if after.act is not None:
        pictures |= _of_policy(after, given, config, keys)
    place = folder / "pictures" if out is None else Path(out)
    files = {place / f"{name}.png": picture for name, picture in pictures.items()}
    standing = [file for file in files if file.exists()]
    if standing and not overwrite:
        raise FileExistsError(
            f"{standing[0]} exists; choose another out, or replace it with --overwrite (overwrite=True)"
        )
    for file, picture in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_png(file, picture)
    return list(files)


def _of_view(
    models: dict[int, "AlignedPolicy"], data: "Data", config: "TrainConfig", key: str
) -> dict[str, np.ndarray]:
    from tactile_align.diagnostics.evaluation import pair_features
    from tactile_align.diagnostics.gaze import pointing

    moments = data.held_out
    features = {step: pair_features(model, moments, config, key) for step, model in models.items()}
    last = features[max(features)]
    chosen = one_per_contact(last, GALLERY)
    starts = np.flatnonzero(moments.time == 0)
    rows = starts[last["episode"][chosen]] + last["time"][chosen]
    shown = rows[_spread(last["episode"][chosen], SHOWN)]
    seen = {step: pointing(model, moments, config, key, shown.tolist()) for step, model in models.items()}
    low = min(float(one.similarity.min()) for one in seen.values())
    high = max(float(one.similarity.max()) for one in seen.values())
    batch = moments.__getitems__(rows.tolist())
    touches, views = (list(batch[f"image/{name}"].numpy()) for name in (_sensor(models[max(models)], key), key))
    pictures = {}
    ordered = chosen[np.argsort(last["episode"][chosen], kind="stable")]
    for step, found in features.items():
        when = "before training" if step == 0 else f"after {step} steps"
        pictures[f"map_step_{step:06d}"] = _maps_of(seen[step], (low, high), when)
        tau, w = found["h_tau"], found["h_w"]
        cosine = normalised(tau[chosen]) @ normalised(w[chosen]).T
        pictures[f"gallery_step_{step:06d}"] = retrieval_gallery(touches, views, cosine, height=96)
        pictures[f"matrix_step_{step:06d}"] = similarity_matrix(
            tau[ordered], w[ordered], groups=last["episode"][ordered], title=f"cosines, {when}"
        )
    refs = [job.ref for job in moments.jobs]
    some = np.sort(np.random.default_rng(0).permutation(len(last["episode"]))[:POINTS])
    for name, labels in _labels(refs, last, some).items():
        pictures[f"embedding_by_{name}"] = embedding(
            last["h_tau"][some], last["h_w"][some], labels, label_name=name, title=f"held-out moments by {name}"
        )
    return pictures


def one_per_contact(features: Features, most: int, seed: int = 0) -> np.ndarray:
    """Return rows (M,) of features, one for each contact, at most `most`, in random order.

    Raises:
        ValueError: There is no row.
    """
    if len(features["episode"]) == 0:
        raise ValueError(
            "no held-out moment has both a box and a contact, so there is nothing to draw. Hold out more episodes, or "
            "look at: tactile-align verify"
        )
    names = np.stack([features["episode"], features["contact"]], axis=1)
    _, first = np.unique(names, axis=0, return_index=True)
    return np.asarray(np.random.default_rng(seed).permutation(first)[:most])


def _spread(episode: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` places, from as many episodes as possible."""
    turn = np.zeros(len(episode), dtype=int)
    for name in np.unique(episode):
        turn[episode == name] = np.arange(np.count_nonzero(episode == name))
    return np.argsort(turn, kind="stable")[:count]


def _sensor(model: "AlignedPolicy", key: str) -> str:
    return next(view.sensor for view in model.views if view.key == key)


def _labels(refs: Sequence[EpisodeRef], features: Features, chosen: np.ndarray) -> dict[str, list[str]]:
    """Return what the points may be coloured by; object and phase only where every recording states them."""
    episode, time = features["episode"][chosen], features["time"][chosen]
    labels = {"episode": [refs[e].path.stem for e in episode]}
    told = {int(e): _truth(refs[e]) for e in np.unique(episode)}
    if all(told.values()):
        labels["object"] = [told[int(e)]["object"][0] for e in episode]
        labels["phase"] = [told[int(e)]["phase"][t] for e, t in zip(episode, time, strict=True)]
    return labels


def _truth(ref: EpisodeRef) -> dict[str, list[str]]:
    """Return the object and the phase of each row of a simulated episode; nothing of others."""
    with h5py.File(ref.path) as file:
        if "truth/phase" not in file or "object" not in file.attrs or "phases" not in file.attrs:
            return {}
        phases = str(file.attrs["phases"]).split(",")
        return {"object": [str(file.attrs["object"])], "phase": [phases[i] for i in file["truth/phase"][:]]}


def _maps_of(seen: "Pointing", limits: tuple[float, float], when: str) -> np.ndarray:
    lines = []
    for image, touch, box, scores in zip(seen.images, seen.touches, seen.box, seen.similarity, strict=True):
        view = _laid_over(image, scores, box, None, limits, f"touch to tokens, {when}")
        lines.append(beside([tall(touch, view.shape[0]), view]))
    return grid(lines, 2)


def _laid_over(
    image: np.ndarray,
    scores: np.ndarray,
    box: np.ndarray | None,
    window: np.ndarray | None,
    limits: tuple[float, float],
    title: str,
) -> np.ndarray:
    """Return a small image drawn large, with scores over all of it or over a window (4,) of it."""
    high = TALL_PX
    wide = round(image.shape[1] * high / image.shape[0])
    to_large = ImageMap.identity(image.shape[1], image.shape[0]).resize(wide, high)
    large = tall(image, high)
    large_box = None if box is None else to_large.apply_to_box(box)
    tokens = ImageMap.identity(wide, high)
    if window is not None:
        rows, columns = scores.shape
        tokens = tokens.crop_box(to_large.apply_to_box(window), 64 * columns, 64 * rows)
    return similarity_map(large, scores, input_map=tokens, box=large_box, limits=limits, title=title)


def _of_policy(
    model: "AlignedPolicy", data: "Data", config: "TrainConfig", keys: Sequence[str]
) -> dict[str, np.ndarray]:
    from tactile_align.diagnostics.gaze import attention

    moments = data.held_out
    pictures = {}
    for episode in range(min(EPISODES, len(moments.jobs))):
        rows = np.flatnonzero(moments.episode == episode)
        found = attention(model, moments, config, rows.tolist())
        touching = np.any([moments.column(f"contact/{sensor}")[rows] for sensor in model.sensors], axis=0)
        name = moments.jobs[episode].ref.path.stem
        parts = [_over_time(found, touching, f"attention of the policy, {name}")]
        parts += _looked_at(model, data, config, found, rows, touching, keys)
        pictures[f"attention_episode_{episode}"] = stacked(parts)
    return pictures


def _over_time(found: "Attention", touching: np.ndarray, title: str) -> np.ndarray:
    return attention_over_time(
        np.stack(list(found.shares.values()), axis=1), list(found.shares), contact=touching, title=title
    )


def _looked_at(
    model: "AlignedPolicy",
    data: "Data",
    config: "TrainConfig",
    found: "Attention",
    rows: np.ndarray,
    touching: np.ndarray,
    keys: Sequence[str],
) -> list[np.ndarray]:
    """Return pictures of some moments in contact with the attention on their region and touch tokens."""
    from tactile_align.diagnostics.evaluation import centred

    moments = data.held_out
    visible = np.all([moments.column(f"visible/{key}")[rows] for key in keys], axis=0)
    places = np.flatnonzero(touching & visible)
    if not len(places) or not found.maps:
        return []
    places = places[np.unique(np.linspace(0, len(places) - 1, SHOWN).round().astype(int))]
    batch = centred(moments.__getitems__(rows[places].tolist()), config)
    high = max(float(scores[places].max()) for scores in found.maps.values())
    cells = []
    for i, place in enumerate(places):
        shown = []
        for key in keys if model.reads_regions else ():
            box = batch[f"box/{key}"][i].numpy().astype(np.float64)
            window, scores = enlarge(box, config.features.margin), found.maps[f"region {key}"][place]
            shown.append(_laid_over(batch[f"image/{key}"][i].numpy(), scores, box, window, (0.0, high), f"row {place}"))
        for sensor in model.sensors if model.reads_touches else ():
            touch, scores = batch[f"image/{sensor}"][i].numpy(), found.maps[f"touch {sensor}"][place]
            shown.append(_laid_over(touch, scores, None, None, (0.0, high), sensor))
        cells.append(beside(shown))
    return [grid(cells, 2)]
