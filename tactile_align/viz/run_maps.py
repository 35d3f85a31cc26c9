"""The pictures of a run's features, before and after training, named as the report expects them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tactile_align.datasets.episodes import EpisodeRef, open_episode
from tactile_align.datasets.truth import read_truth
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.viz.charts import embedding, similarity_matrix
from tactile_align.viz.footage import Footage
from tactile_align.viz.frame import draw_frame
from tactile_align.viz.maps import normalised, retrieval_gallery
from tactile_align.viz.overlay import write_png
from tactile_align.viz.run_gaze import SHOWN, TALL_PX, attention_pictures, laid_over, when
from tactile_align.viz.tiles import beside, grid, headed, tall

if TYPE_CHECKING:
    from tactile_align.datasets.prepare import Job
    from tactile_align.diagnostics.gaze import Pointing
    from tactile_align.policies.aligned import AlignedPolicy
    from tactile_align.training.config import TrainConfig
    from tactile_align.training.data import Data

GALLERY, POINTS = 64, 160
EPISODES = 3
"""Held-out episodes whose frames and attention are drawn."""
Features = dict[str, np.ndarray]


def draw_maps(
    run: str | Path, out: str | Path | None = None, *, data: "Data | None" = None, overwrite: bool = False
) -> list[Path]:
    """Draw what a run's features say on its held-out episodes.

    For each view, before training (step 0) and after: map_step_N.png, the similarity of touches to all tokens;
    gallery_step_N.png; matrix_step_N.png; attention_episode_E_step_N.png, what the policy looks at. After training:
    embedding_by_episode.png, and _by_object and _by_phase where the recordings say them (simulated ones do). Beside
    them overlay_episode_E.png, sample frames with their boxes. With several views the names begin with the view.

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
    for episode, job in enumerate(given.held_out.jobs[:EPISODES]):
        pictures[f"overlay_episode_{episode}"] = _frames(job)
        if after.act is not None:
            for at, picture in attention_pictures({0: before, step: after}, given, config, keys, episode).items():
                pictures[f"attention_episode_{episode}_step_{at:06d}"] = picture
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
    from tactile_align.diagnostics.gaze import pointing
    from tactile_align.diagnostics.pairs import pair_features

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
        pictures[f"map_step_{step:06d}"] = _maps_of(seen[step], (low, high), step)
        tau, w = found["h_tau"], found["h_w"]
        cosine = normalised(tau[chosen]) @ normalised(w[chosen]).T
        pictures[f"gallery_step_{step:06d}"] = retrieval_gallery(touches, views, cosine, height=96)
        pictures[f"matrix_step_{step:06d}"] = similarity_matrix(
            tau[ordered], w[ordered], groups=last["episode"][ordered], title=f"cosines, {when(step)}"
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
        InputError: There is no row.
    """
    if len(features["episode"]) == 0:
        raise InputError(
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
    with open_episode(ref) as episode:
        stated, phase = episode.attributes, read_truth(episode, "phase")
    if phase is None or "object" not in stated or "phases" not in stated:
        return {}
    phases = dict(enumerate(str(stated["phases"]).split(",")))
    return {"object": [str(stated["object"])], "phase": [phases.get(int(i), "unknown") for i in phase]}


def _maps_of(seen: "Pointing", limits: tuple[float, float], step: int) -> np.ndarray:
    lines = []
    for image, touch, box, scores in zip(seen.images, seen.touches, seen.box, seen.similarity, strict=True):
        view = laid_over(image, scores, box, None, limits, "cosine")
        lines.append(beside([tall(touch, view.shape[0]), view]))
    return headed(grid(lines, 2), f"similarity of the touch on the left to the image's tokens, {when(step)}")


def _frames(job: "Job") -> np.ndarray:
    """Return some moments of an episode as `overlay` draws them, with the boxes where the run's views put them."""
    pictures = []
    for ahead_m in sorted({one.ahead_m for one in job.inputs if one.sensor is not None}) or [0.0]:
        with Footage(job.ref, job.rig, ahead_m=ahead_m) as footage:
            pictures += [draw_frame(footage.moment(int(t), TALL_PX), TALL_PX) for t in evenly(len(footage), SHOWN)]
    return grid(pictures, 2)
