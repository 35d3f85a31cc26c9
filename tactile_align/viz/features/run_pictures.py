"""Pictures of a run's features before and after training, saved under the file names that the report expects."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tactile_align.datasets.episodes import EpisodeRef, open_episode
from tactile_align.datasets.truth import read_truth
from tactile_align.diagnostics.summary import MORE_EPISODES
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.files import refuse_existing
from tactile_align.geometry.boxes import enlarge
from tactile_align.geometry.images import ImageMap
from tactile_align.viz.features.charts import attention_over_time, embedding, similarity_matrix
from tactile_align.viz.features.maps import normalised, retrieval_gallery, similarity_map
from tactile_align.viz.ink import INK, Ink
from tactile_align.viz.overlay.footage import Footage
from tactile_align.viz.overlay.frame import draw_frame
from tactile_align.viz.overlay.overlay import write_png

if TYPE_CHECKING:
    from tactile_align.diagnostics.gaze import Attention, Pointing
    from tactile_align.moments.cache import Job
    from tactile_align.policies.build import LoadedRun
    from tactile_align.training.data import Data

logger = logging.getLogger(__name__)


def tall(image: np.ndarray, high: int) -> np.ndarray:
    """Return an image (H, W, 3) resized to the height `high`, px, with its aspect ratio kept."""
    wide = round(image.shape[1] * high / image.shape[0])
    return cv2.resize(np.ascontiguousarray(image), (wide, high), interpolation=cv2.INTER_CUBIC)


def beside(images: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """Return one image with `images` (H, W, 3) side by side, `gap` px apart, aligned at the top, on dark ground."""
    high = max(image.shape[0] for image in images)
    line = np.full((high, sum(image.shape[1] + gap for image in images) - gap, 3), INK, np.uint8)
    x = 0
    for image in images:
        line[: image.shape[0], x : x + image.shape[1]] = image
        x += image.shape[1] + gap
    return line


def stacked(images: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """Return one image with `images` (H, W, 3) below each other, `gap` px apart, aligned at the left, on white."""
    wide = max(image.shape[1] for image in images)
    padded = [np.pad(image, ((0, gap), (0, wide - image.shape[1]), (0, 0)), constant_values=255) for image in images]
    return np.concatenate(padded)[:-gap]


def grid(cells: Sequence[np.ndarray], columns: int, gap: int = 12) -> np.ndarray:
    """Return one image with `cells`, images (H, W, 3), in rows of `columns` images; `gap` px lie between them."""
    return stacked([beside(cells[i : i + columns], gap) for i in range(0, len(cells), columns)], gap)


def wrapped(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return one image with `images` (H, W, 3) side by side, in as many lines as a width of `WIDEST_PX` needs."""
    lines: list[list[np.ndarray]] = [[]]
    for image in images:
        if lines[-1] and sum(other.shape[1] + 6 for other in lines[-1]) + image.shape[1] > WIDEST_PX:
            lines.append([])
        lines[-1].append(image)
    return stacked([beside(line) for line in lines])


def headed(image: np.ndarray, text: str) -> np.ndarray:
    """Return an image (H, W, 3) with `text` added above it on a dark ground; the text wraps to the image's width."""
    ink = Ink.of(480)
    room = image.shape[1] - 2 * ink.pad
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if ink.width(longer) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    step = ink.cap + ink.pad
    head = np.full((len(lines) * step + ink.pad, image.shape[1], 3), INK, np.uint8)
    for i, line in enumerate(lines):
        ink.text(head, ink.fit(line, room), ink.pad, ink.pad + i * step)
    return np.concatenate([head, image])


WIDEST_PX = 1600
"""Largest width of the pictures of one moment, px; wider ones would be illegible in the report."""
SHOWN = 4
"""Number of moments whose token scores are drawn."""
TALL_PX = 240
"""Height at which the small input images of the encoders are drawn, px."""


def attention_pictures(runs: Mapping[int, "LoadedRun"], keys: Sequence[str], episode: int) -> dict[int, np.ndarray]:
    """Return pictures of a policy's attention over a held-out episode, by training step, all on one colour scale.

    Args:
        runs: The same run after different numbers of training steps, by step.
        keys: Keys of the run's views.
        episode: Index of the held-out episode.
    """
    from tactile_align.diagnostics.gaze import attention

    last = runs[max(runs)]
    moments = last.moments
    rows = np.flatnonzero(moments.episode == episode)
    found = {step: attention(run, rows.tolist()) for step, run in runs.items()}
    touching = np.any([moments.touches[sensor].contact[rows] for sensor in last.model.sensors], axis=0)
    visible = np.all([moments.views[key].visible[rows] for key in keys], axis=0)
    places = np.flatnonzero(touching & visible)
    places = places[evenly(len(places), SHOWN)]
    shown = [scores[places] for one in found.values() for scores in one.maps.values()]
    high = max((float(scores.max()) for scores in shown if scores.size), default=1.0)
    name = moments.jobs[episode].ref.path.stem
    pictures = {}
    for step, one in found.items():
        title = f"attention of the policy, {name}, {when(step)}"
        shares = np.stack(list(one.shares.values()), axis=1)
        parts = [attention_over_time(shares, list(one.shares), contact=touching, title=title)]
        if len(places) and one.maps:
            cells = _looked_at(runs[step], one, rows, places, keys, high)
            title = "attention on the tokens of frame, region and touch, for moments in contact"
            columns = 2 if max(cell.shape[1] for cell in cells) <= WIDEST_PX // 2 else 1
            parts.append(headed(grid(cells, columns), title))
        pictures[step] = stacked(parts)
    return pictures


def when(step: int) -> str:
    """Return a training step in words for the title of a picture: "before training" or "after N steps"."""
    return "before training" if step == 0 else f"after {step} steps"


def _looked_at(
    run: "LoadedRun", found: "Attention", rows: np.ndarray, places: np.ndarray, keys: Sequence[str], high: float
) -> list[np.ndarray]:
    """Return one picture per index in `places`: frames, regions and touches, coloured by the attention on tokens."""
    batch = run.batch(rows[places]).to("cpu")
    images = batch.images()
    cells = []
    for i, place in enumerate(places):
        shown = []
        for camera, key in run.model.frame_keys.items():
            scores = found.maps[f"camera {camera}"][place]
            shown.append(laid_over(images[key][i].numpy(), scores, None, None, (0.0, high), f"{camera}, row {place}"))
        for key in keys if run.model.reads_regions else ():
            view = batch.views[key]
            box = view.box[i].numpy().astype(np.float64)
            window, scores = enlarge(box, run.config.features.margin), found.maps[f"region {key}"][place]
            shown.append(laid_over(view.image[i].numpy(), scores, box, window, (0.0, high), f"{key}, row {place}"))
        for sensor in run.model.sensors if run.model.touch_to_act is not None else ():
            touch, scores = batch.touches[sensor].present[i].numpy(), found.maps[f"touch {sensor}"][place]
            shown.append(laid_over(touch, scores, None, None, (0.0, high), sensor))
        cells.append(wrapped(shown))
    return cells


def laid_over(
    image: np.ndarray,
    scores: np.ndarray,
    box: np.ndarray | None,
    window: np.ndarray | None,
    limits: tuple[float, float],
    title: str,
) -> np.ndarray:
    """Return an enlarged image, coloured by the scores of its tokens.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (rows, columns) score of each token.
        box: (4,) box of the sensor in the image, px; None: not drawn.
        window: (4,) part of the image that the tokens cover, px; None: the whole image.
        limits: Scores at the two ends of the colour scale.
        title: Title above the image.
    """
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


GALLERY, POINTS = 64, 160
EPISODES = 3
"""Number of held-out episodes whose frames and attention are drawn."""
Features = dict[str, np.ndarray]


def draw_maps(
    run: str | Path, out: str | Path | None = None, *, data: "Data | None" = None, overwrite: bool = False
) -> list[Path]:
    """Draw pictures of a run's features on its test episodes, or on its held-out episodes if it has no test part.

    The following pictures are drawn before training (step 0) and after training. Those before training are left out
    with a warning if files of the initial weights (config options `init` and `pretrained`) no longer exist:

    - map_step_N.png: similarity of touches to all tokens of the image.
    - gallery_step_N.png: retrieval, i.e. touches and their most similar regions.
    - matrix_step_N.png: cosines of touches and regions.
    - attention_episode_E_step_N.png: attention of the policy's decoder; only with policy.head = "act".

    The following pictures are drawn only after training:

    - embedding_by_episode.png: features in the plane of their first two principal components. Recordings that contain
      object and phase, as simulated recordings do, also give embedding_by_object.png and embedding_by_phase.png.

    In addition, overlay_episode_E.png shows sample frames with their boxes. If the run has several views, the names of
    maps, galleries, matrices and embeddings begin with the view.

    Args:
        run: The run folder.
        out: Folder for the pictures; None: RUN/pictures.
        data: The run's data, if the caller has loaded them; None: they are loaded here.
        overwrite: Whether existing pictures may be replaced.

    Returns:
        The paths of the written files.

    Raises:
        FactError, FileNotFoundError: The run folder is not complete.
        FileExistsError: A picture exists and `overwrite` is False.
        InputError: The run has no encoders, or no moment of these episodes has both a box and a contact.
    """
    # Imported here because importing torch takes seconds and the other pictures do not need it.
    from tactile_align.config.train import load_config
    from tactile_align.policies.build import LoadedRun
    from tactile_align.training.data import load_data

    folder = Path(run)
    config = load_config(folder / "config.toml")
    given = data or load_data(config, progress=False, run=folder)
    after = LoadedRun.load(folder, config, given.judged, "retrieval")
    runs = {after.step: after}
    try:
        runs = {0: LoadedRun.untrained(config, given.judged), **runs}
    except FileNotFoundError as error:
        logger.warning(f"{folder}: the pictures before training are left out, because {error}")
    pictures: dict[str, np.ndarray] = {}
    keys = [view.key for view in after.model.views]
    for key in keys:
        prefix = f"{key}_" if len(keys) > 1 else ""
        found = _of_view(runs, key, given.judged_on)
        pictures |= {f"{prefix}{name}": picture for name, picture in found.items()}
    if config.scales_to_range:
        logger.info(f"{folder}: no pictures of attention: that of policy.head = '{config.policy.head}' is not drawn")
    for episode, job in enumerate(given.judged.jobs[:EPISODES]):
        pictures[f"overlay_episode_{episode}"] = _frames(job)
        if after.model.act is not None and not config.scales_to_range:
            for at, picture in attention_pictures(runs, keys, episode).items():
                pictures[f"attention_episode_{episode}_step_{at:06d}"] = picture
    place = folder / "pictures" if out is None else Path(out)
    files = {place / f"{name}.png": picture for name, picture in pictures.items()}
    refuse_existing(*files, overwrite=overwrite)
    return [write_png(file, picture) for file, picture in files.items()]


def _of_view(runs: dict[int, "LoadedRun"], key: str, judged_on: str) -> dict[str, np.ndarray]:
    from tactile_align.diagnostics.gaze import pointing
    from tactile_align.diagnostics.pairs import pair_features

    run = runs[max(runs)]
    moments = run.moments
    features = {step: pair_features(run, key) for step, run in runs.items()}
    last = features[max(features)]
    chosen = one_per_contact(last, GALLERY)
    starts = np.flatnonzero(moments.time == 0)
    rows = starts[last["episode"][chosen]] + last["time"][chosen]
    shown = rows[_spread(last["episode"][chosen], SHOWN)]
    seen = {step: pointing(run, key, shown.tolist()) for step, run in runs.items()}
    low = min(float(one.similarity.min()) for one in seen.values())
    high = max(float(one.similarity.max()) for one in seen.values())
    batch = moments.batch(rows)
    touches, views = list(batch.touches[run.view(key).sensor].present.numpy()), list(batch.views[key].image.numpy())
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
            last["h_tau"][some], last["h_w"][some], labels, label_name=name, title=f"{judged_on} moments by {name}"
        )
    return pictures


def one_per_contact(features: Features, most: int, seed: int = 0) -> np.ndarray:
    """Return the indices of M rows of `features`, (M,), one per contact, in random order; M is at most `most`.

    Raises:
        InputError: The features have no rows.
    """
    if len(features["episode"]) == 0:
        raise InputError(
            f"no judged moment has both a box and contact, so no pictures can be drawn. {MORE_EPISODES}; or check the "
            f"boxes with: tactile-align verify"
        )
    names = np.stack([features["episode"], features["contact"]], axis=1)
    _, first = np.unique(names, axis=0, return_index=True)
    return np.asarray(np.random.default_rng(seed).permutation(first)[:most])


def _spread(episode: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` indices into `episode`, from as many episodes as possible."""
    turn = [np.count_nonzero(episode[:i] == name) for i, name in enumerate(episode)]
    return np.argsort(turn, kind="stable")[:count]


def _labels(refs: Sequence[EpisodeRef], features: Features, chosen: np.ndarray) -> dict[str, list[str]]:
    """Return labels of the chosen features: the episode, and also object and phase if every recording has them."""
    episode, time = features["episode"][chosen], features["time"][chosen]
    labels = {"episode": [refs[e].path.stem for e in episode]}
    truths = {int(e): _truth(refs[e]) for e in np.unique(episode)}
    if all(truths.values()):
        labels["object"] = [truths[int(e)]["object"][0] for e in episode]
        labels["phase"] = [truths[int(e)]["phase"][t] for e, t in zip(episode, time, strict=True)]
    return labels


def _truth(ref: EpisodeRef) -> dict[str, list[str]]:
    """Return the object and the phase of each row of a simulated episode; {} for other episodes."""
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
    return headed(grid(lines, 2), f"similarity of the touch on the left to the tokens of the image, {when(step)}")


def _frames(job: "Job") -> np.ndarray:
    """Return sample moments of an episode, drawn as by `overlay`, once for each `ahead_m` of the run's views."""
    pictures = []
    for ahead_m in sorted({one.ahead_m for one in job.inputs if one.sensor is not None}) or [0.0]:
        with Footage(job.ref, job.rig, ahead_m=ahead_m) as footage:
            pictures += [draw_frame(footage.moment(int(t), TALL_PX), TALL_PX) for t in evenly(len(footage), SHOWN)]
    return grid(pictures, 2)
