"""Pointing at the next contacts: errors of a contact pointer and of controls that do not look at the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tactile_align.calibration.rig import load_rig
from tactile_align.checks import text_table
from tactile_align.config.train import load_config
from tactile_align.datasets.episodes import open_episode
from tactile_align.diagnostics.probes import ridge
from tactile_align.errors import InputError
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.policies.build import LoadedRun, inputs_of
from tactile_align.projection.episode_boxes import ViewBoxes, qpos_at_exposure
from tactile_align.training.data import load_data

POINTER, CONSTANT, NOW, LINEAR = "pointer", "constant", "sensor now", "linear in joints"
PERIODS = {"0": (0, 1), "1 to 4": (1, 5), "5 to 14": (5, 15), "15 on": (15, 10**9)}
"""First row of each period of an episode, and the row after its last. If all episodes start alike, the joints tell
nothing in row 0, and the place of the next contact from row 1 on, because the arm is then on its way."""
FITS = (*((row, row + 1) for row in range(5)), (5, 15), (15, 10**9))
"""First row, and the row after the last, of each regression of the control `linear in joints`."""
FOLDS = 5
"""Number of groups of training episodes by which such a regression is chosen or not."""
_STRENGTH = 1e-3  # of the ridge regression


@dataclass(frozen=True)
class Pointed:
    """Next K contacts of one view's sensor in R moments, with predictions, px of the camera's stored images.

    Attributes:
        view: Key of the view.
        episode: (R,) index of the episode of each moment.
        time: (R,) row of each moment in its episode.
        ahead: (R, K) bool, which contacts have not begun in the moment; the other known ones are present contacts.
        points: (R, K, 2) true places; nan where they are not known.
        done: (R, K) bool, whether there is no such contact within the horizon.
        done_known: (R, K) bool, whether `done` is known.
        predicted: (R, K, 2) predicted places by name of the predictor; nan where it predicts nothing.
        px: (R, K) distance of the prediction from the true place by name, px; nan where one of them is unknown.
        mm: (R, K) the same distance at the depth of the true place, mm.
        done_probability: (R, K) probability of `done` that the pointer predicts; None without a pointer.
        says_done: (R, K) bool, whether the pointer decides that there is no such contact; None without a pointer.
    """

    view: str
    episode: np.ndarray
    time: np.ndarray
    ahead: np.ndarray
    points: np.ndarray
    done: np.ndarray
    done_known: np.ndarray
    predicted: dict[str, np.ndarray]
    px: dict[str, np.ndarray]
    mm: dict[str, np.ndarray]
    done_probability: np.ndarray | None
    says_done: np.ndarray | None

    def of(self, first: int, stop: int, k: int = 0) -> np.ndarray:
        """Return the indices of the moments in rows `first` to `stop` - 1 whose contact k is known and not begun."""
        known = np.isfinite(self.points[:, k, 0]) & self.ahead[:, k]
        return np.flatnonzero(known & (self.time >= first) & (self.time < stop))

    def done_counts(self) -> np.ndarray:
        """Return (E, 2) in each episode the pointer's right decisions for done, and its wrong decisions.

        Raises:
            ValueError: There are no decisions.
        """
        if self.says_done is None:
            raise ValueError("no decisions of done; a pointer makes them")
        parts = self.says_done & self.done & self.done_known, (self.says_done ^ self.done) & self.done_known
        return np.stack([np.bincount(self.episode, part.sum(axis=1)) for part in parts], axis=1)

    def done_f1(self) -> float:
        """Return the F1 of the pointer's decisions of done over all known entries; nan if it is not defined."""
        return float("nan") if self.says_done is None else float(f1(self.done_counts().sum(axis=0)))


def f1(counts: np.ndarray) -> np.ndarray:
    """Return the F1 (...) of numbers (..., 2) of right decisions for a class and of wrong ones; nan without any."""
    hits, wrong = counts[..., 0], counts[..., 1]
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * hits / (2 * hits + wrong))


def pointed(
    moments: Moments,
    key: str,
    predicted: Mapping[str, np.ndarray],
    done_probability: np.ndarray | None = None,
    says_done: np.ndarray | None = None,
) -> Pointed:
    """Return the true contacts ahead of all N moments of a view, and the errors of predictions.

    Args:
        moments: The moments; the input of the view has `contacts`.
        key: Key of the view.
        predicted: (N, K, 2) predicted places by name of the predictor, px of the input image.
        done_probability: (N, K) probability of done; None: none was predicted.
        says_done: (N, K) bool, the decisions of done; None: none was predicted.
    """
    ahead, entry = moments.ahead[key], next(e for e in moments.jobs[0].inputs if e.key == key)
    episode, time = moments.episode, moments.time
    points = np.full(ahead.points.shape, np.nan)
    stored = {name: np.full(ahead.points.shape, np.nan) for name in predicted}
    apart = {name: np.full(ahead.known.shape, np.nan) for name in predicted}
    for number, job in enumerate(moments.jobs):
        rows, camera = episode == number, job.rig.camera(entry.stream).stored
        back = entry.image_map(camera.width, camera.height).inverse()
        points[rows] = back.apply(ahead.points[rows])
        places = np.asarray(camera.unproject(points[rows], ahead.depth[rows]))
        for name, values in predicted.items():
            stored[name][rows] = back.apply(np.asarray(values, np.float64)[rows])
            there = np.asarray(camera.unproject(stored[name][rows], ahead.depth[rows]))
            apart[name][rows] = 1e3 * np.linalg.norm(there - places, axis=-1)
    px = {name: np.linalg.norm(values - points, axis=-1) for name, values in stored.items()}
    begun = ahead.onsets <= time[:, None]
    told = ahead.done_known
    own = (done_probability, says_done)
    return Pointed(key, episode, time, ~begun, points, ahead.done, told, stored, px, apart, *own)


def controls(train: Moments, moments: Moments, key: str) -> dict[str, np.ndarray]:
    """Return the places (N, K, 2), px of the input image, that predictors without eyes give in N moments.

    constant: the median place of the training moments. sensor now: the centre of the pad in this moment. linear in
    joints: ridge regressions from the state to the place, see `linear`. A control without training targets is nan.

    Args:
        train: Moments to which the controls are fitted.
        moments: Moments for which they predict.
        key: Key of a view with contacts ahead in both.
    """
    ahead = train.ahead[key]
    constant = np.full((len(moments), ahead.known.shape[1], 2), np.nan)
    for k in range(ahead.known.shape[1]):
        if ahead.known[:, k].any():
            constant[:, k] = np.median(ahead.points[ahead.known[:, k], k], axis=0)
    pad = np.repeat(_pad_now(moments, key)[:, None], ahead.known.shape[1], axis=1)
    return {CONSTANT: constant, NOW: pad, LINEAR: linear(train, moments, key)}


def linear(train: Moments, moments: Moments, key: str, fits: Sequence[tuple[int, int]] = FITS) -> np.ndarray:
    """Return the places (N, K, 2) of ridge regressions from the state, px of the input image.

    One regression is fitted to all training moments. For each entry of `fits` (first row, and the row after the last),
    one is fitted to the training moments of these rows, and used there if its median error is smaller in
    cross-validation over training episodes: few episodes do not determine it.
    """
    ahead = train.ahead[key]
    before, now = (np.concatenate([q for q, _ in m.low_dim()]) for m in (train, moments))
    out = np.full((len(now), ahead.known.shape[1], 2), np.nan)
    for k in range(ahead.known.shape[1]):
        known = np.flatnonzero(ahead.known[:, k])
        if not len(known):
            continue
        x, y, fold, time = before[known], ahead.points[known, k], train.episode[known] % FOLDS, train.time[known]
        out[:, k] = ridge(x, y, np.ones(len(x)), now, _STRENGTH)
        pooled = _crossed(x, y, fold)
        for first, stop in fits:
            fitted, asked = ((first <= t) & (t < stop) for t in (time, moments.time))
            if not fitted.any():
                continue
            own = _crossed(x[fitted], y[fitted], fold[fitted])
            if np.median(own) < np.median(pooled[fitted]):
                out[asked, k] = ridge(x[fitted], y[fitted], np.ones(fitted.sum()), now[asked], _STRENGTH)
    return out


def _crossed(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return the errors (M,) of ridge regressions at M moments, each fitted to the other folds; inf without others."""
    errors = np.full(len(x), np.inf)
    for number in np.unique(fold):
        tested = fold == number
        if not tested.all():
            found = ridge(x[~tested], y[~tested], np.ones((~tested).sum()), x[tested], _STRENGTH)
            errors[tested] = np.linalg.norm(found - y[tested], axis=1)
    return errors


def _pad_now(moments: Moments, key: str) -> np.ndarray:
    """Return the pixel (N, 2) of the pad's centre in N moments, px of the input image; nan behind the camera."""
    entry = next(e for e in moments.jobs[0].inputs if e.key == key)
    assert entry.sensor is not None
    opening, uv = moments.touches[entry.sensor].opening, []
    for number, (job, (qpos, _)) in enumerate(zip(moments.jobs, moments.low_dim(), strict=True)):
        rows, camera = moments.episode == number, job.rig.camera(entry.stream).stored
        with open_episode(job.ref) as episode:
            exposed = qpos_at_exposure(job.rig, entry.stream, qpos, episode.fps)
        view = ViewBoxes(job.rig, entry.stream, entry.sensor, exposed, None if opening is None else opening[rows])
        T = view.T_camera_sensor
        centre = T[:, :3, :3] @ np.asarray(job.rig.sensor(entry.sensor).pad.center_m) + T[:, :3, 3]
        uv.append(entry.image_map(camera.width, camera.height).apply(np.asarray(camera.project(centre)[0])))
    return np.concatenate(uv)


def donors(moments: Moments) -> np.ndarray:
    """Return for each of N moments a moment of another episode, in about the same row, (N,) int64.

    Raises:
        InputError: There is only one episode.
    """
    if len(moments.jobs) < 2:
        raise InputError("images can be exchanged only between episodes; got one episode. Use several episodes")
    lengths = np.bincount(moments.episode)
    starts = np.cumsum(lengths) - lengths
    other = (moments.episode + 1) % len(lengths)
    return np.asarray(starts[other] + np.minimum(moments.time, lengths[other] - 1))


@torch.no_grad()
def predictions(
    run: LoadedRun, images: np.ndarray | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return what the pointer of a run predicts in all N moments of the run, by key of the view.

    Args:
        run: The run.
        images: (N,) moment whose camera images each moment gets, see `donors`; None: its own.

    Returns:
        Places (N, K, 2), px of the input image of the moments, probabilities of done (N, K), and decisions of done
        (N, K) bool.

    Raises:
        ValueError: The model has no contact pointer.
    """
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {key: [] for key in run.model.pointed_keys}
    rows = np.arange(len(run.moments))
    seen = None if images is None else run.batches(images)
    for batch in run.batches(rows):
        if seen is not None:
            others = next(seen).views
            batch = batch.with_images({key: others[key].image for key in parts})
        features = run.model.see(batch, alignment=False, action=False, pointer=True)
        for key, output in run.model.point(batch, features).items():
            # The encoder's image is cut from the middle of the input, which is larger by the largest random shift.
            points = output.points.double().cpu().numpy() + run.config.augment.shift_px
            parts[key].append((points, output.done.double().cpu().numpy(), output.says_done.cpu().numpy()))
    joined = {key: [np.concatenate(values) for values in zip(*found, strict=True)] for key, found in parts.items()}
    return {key: (points, done, said) for key, (points, done, said) in joined.items()}


@dataclass(frozen=True)
class PointError:
    """Median error of one predictor over the moments of a period whose k-th contact is ahead.

    Attributes:
        moments: Number of these moments.
        px: Median error, px of the camera's stored images.
        mm: Median error at the depth of the true place, mm.
    """

    moments: int
    px: float
    mm: float


@dataclass(frozen=True)
class PointView:
    """Results of one view in one episode.

    Attributes:
        errors: Errors by contact ("1" is the next one), then by period, then by name of the predictor.
        done_f1: F1 of the pointer's decisions of done over all known entries.
        true: (T, K, 2) true places in the T rows, px of the camera's stored images; None where not known.
        predicted: (T, K, 2) places that the pointer predicts.
        done: (T, K) whether there is no such contact within the horizon; None where not known.
        done_probability: (T, K) probability of done that the pointer predicts.
        says_done: (T, K) whether the pointer decides that there is no such contact.
    """

    errors: dict[str, dict[str, dict[str, PointError]]]
    done_f1: float
    true: list[list[list[float] | None]]
    predicted: list[list[list[float]]]
    done: list[list[bool | None]]
    done_probability: list[list[float]]
    says_done: list[list[bool]]


@dataclass(frozen=True)
class PointResult:
    """Contacts that a run's pointer predicts in one episode, beside the true ones.

    Attributes:
        episode: The episode.
        weights: Weights that were used, with their step.
        views: Results by key of the view.
    """

    episode: str
    weights: str
    views: dict[str, PointView]

    @classmethod
    def of(cls, episode: str, weights: str, views: Mapping[str, Pointed]) -> "PointResult":
        """Return the results of one episode from its predictions, by key of the view."""
        return cls(episode, weights, {key: _result(p) for key, p in views.items()})

    def text(self) -> str:
        """Return a table of the errors of each view, with the F1 of done below it."""
        lines = [
            f"{self.episode}, weights: {self.weights}",
            "median error of contacts ahead, px of the stored image (mm)",
        ]
        for key, view in self.views.items():
            names = list(dict.fromkeys(n for by in view.errors.values() for row in by.values() for n in row))
            rows = [
                [k, period, str(next(iter(by.values())).moments), *(_cell(by[name]) for name in names)]
                for k, periods in view.errors.items()
                for period, by in periods.items()
            ]
            table = text_table(["contact", "rows", "moments", *names], rows) if rows else ["no contact ahead is known"]
            lines += ["", key, *table]
            lines.append(f"done: F1 {view.done_f1:.2f} of the balanced decisions")
        return "\n".join(lines)


def _cell(error: PointError) -> str:
    return "-" if np.isnan(error.px) else f"{error.px:.1f} ({error.mm:.0f})"


def _result(result: Pointed) -> PointView:
    assert result.done_probability is not None and result.says_done is not None
    errors: dict[str, dict[str, dict[str, PointError]]] = {}
    for k in range(result.points.shape[1]):
        for period, limits in PERIODS.items():
            rows = result.of(*limits, k)
            if len(rows):
                by = errors.setdefault(str(k + 1), {}).setdefault(period, {})
                for name in result.predicted:
                    px, mm = (values[name][rows, k] for values in (result.px, result.mm))
                    by[name] = PointError(
                        len(rows), *(float(np.nanmedian(v)) if np.isfinite(v).any() else np.nan for v in (px, mm))
                    )
    true = [[None if np.isnan(p).any() else p.tolist() for p in row] for row in result.points]
    done = [
        [bool(d) if told else None for d, told in zip(*row, strict=True)]
        for row in zip(result.done, result.done_known, strict=True)
    ]
    said = (result.done_probability.tolist(), result.says_done.tolist())
    return PointView(errors, result.done_f1(), true, result.predicted[POINTER].tolist(), done, *said)


def pointing_views(run: Path) -> dict[str, str]:
    """Return the views in which a run's pointer points: the camera by the key of the view.

    Raises:
        FactError: The folder contains no run.
        InputError: The run has no contact pointer.
    """
    config = load_config(run / "config.toml")
    if config.pointer is None:
        raise InputError(f"{run}: this run has no contact pointer. Train with a [pointer] table in the config")
    return {view.key: view.camera for view in config.views if view.key in config.pointer.views}


def point(
    run: str | Path, episode: str, *, rig: str | None = None, layout: str | None = None, progress: bool = True
) -> tuple[PointResult, dict[str, Pointed]]:
    """Return what a run's pointer and the controls predict in one episode: the results, and all points by view.

    The controls are fitted to the run's training episodes, which must still exist.

    Args:
        run: The run folder.
        episode: Episode file; "FILE#NAME" if the file holds several episodes.
        rig: Name or path of the rig; None: the run's rig of this episode, or its first rig for an episode of no list.
        layout: Name or path of the episode layout; None: detect the layout.
        progress: Show a progress bar on stderr.

    Raises:
        FactError, FileNotFoundError: The folder contains no run, or a file does not exist.
        InputError: The run has no contact pointer, one of its episodes is missing or changed, or the episode does not
            fit the rig or the run.
    """
    folder = Path(run)
    pointing_views(folder)
    config = load_config(folder / "config.toml")
    with open_episode(episode, layout) as opened:
        ref = opened.ref
    data = load_data(config, progress=progress, run=folder)
    own = {(e.path, e.group): e.data for part in data.episodes.parts.values() for e in part}
    number = own.get((str(ref.path.absolute()), ref.group), 0)
    chosen = data.rigs[number] if rig is None else load_rig(rig)
    job = Job(ref, chosen.for_episode(ref.path), inputs_of(config, chosen), False)
    moments = Moments([job], chunk=config.policy.chunk_size, cache=Path(config.cache), progress=progress)
    loaded = LoadedRun.load(folder, config, moments.normalised(data.statistics), "retrieval")
    views = {
        key: pointed(moments, key, {POINTER: points} | controls(data.train, moments, key), done, said)
        for key, (points, done, said) in predictions(loaded).items()
    }
    return PointResult.of(str(ref), loaded.selected, views), views
