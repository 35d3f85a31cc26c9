"""Evaluation of finished runs on their test episodes: retrieval with baselines, read-outs and action error."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tactile_align.config.train import TrainConfig, load_config
from tactile_align.diagnostics.actions import ActionMoments, action_moments, compare_actions
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.readouts import read_galleries, view_readouts
from tactile_align.diagnostics.retrieval import retrieval
from tactile_align.diagnostics.summary import (
    BaselineTrial,
    Comparison,
    HeldOutLoss,
    OpeningOnly,
    Recall,
    Summary,
    ViewSummary,
    best_trial,
    json_of,
    result_of,
)
from tactile_align.errors import DivergedError, InputError
from tactile_align.files import read_json, write_text_atomically
from tactile_align.losses.build import negatives_of
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import LoadedRun
from tactile_align.training.data import Data, load_data
from tactile_align.training.loop import train
from tactile_align.training.state import finished

logger = logging.getLogger(__name__)

BASELINE, TRIAL = "opening_only", "trial.json"
BASELINE_RATES = (1e-4, 1e-3, 1e-2)
"""Learning rates of the baseline's new layers. They do not depend on the run's, which may be those of a tower."""
GALLERY = 64


def evaluate(
    run: str | Path,
    *,
    data: Data | None = None,
    progress: bool = True,
    processes: int = 1,
    baseline_rates: Sequence[float] = BASELINE_RATES,
) -> Summary:
    """Return the results of a run on its test episodes, and write them to RUN/summary.json.

    A run without a test part is judged on its held-out episodes, on which the checkpoint was selected. Episodes,
    statistics and rigs are those with which the run was trained, whatever the folders of [[data]] contain now.

    Retrieval and the other read-outs are those of the weights with the best held-out retrieval, action errors those of
    the weights with the smallest held-out action error; see `TrainConfig.select_by`.

    The opening-only baseline is trained first, unless the run folder already contains it. See `opening_only`. Of its
    learning rates, the one with the highest R@1 on the held-out episodes counts.

    Args:
        run: The run folder.
        data: The run's data, if the caller has loaded them; None: they are loaded here.
        progress: Show progress bars on stderr.
        processes: Number of processes that prepare episodes.
        baseline_rates: Learning rates of the baseline's new layers; each is a training of its own. Empty: no baseline.

    Raises:
        FactError, FileNotFoundError: The folder contains no run.
        InputError: The training of the baseline was stopped; the next call resumes it. Or no held-out moment of a view
            has both a box and a contact. Or the baseline diverged at every rate. Or an episode of the run is missing or
            changed.
    """
    return _judge(Path(run), data, progress, processes, baseline_rates).summary


def compare(
    runs: Sequence[str | Path],
    *,
    progress: bool = True,
    processes: int = 1,
    baseline_rates: Sequence[float] = BASELINE_RATES,
) -> Comparison:
    """Return the results of several runs, each as from `evaluate`, and their paired differences to the first run.

    Args:
        runs: At least two run folders, judged on the same episodes.
        progress: Show progress bars on stderr.
        processes: Number of processes that prepare episodes.
        baseline_rates: As in `evaluate`.

    Raises:
        InputError: A run is given twice, or the runs are judged on different episodes. Also the errors of `evaluate`.
    """
    folders = [Path(run) for run in runs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        given = ", ".join(str(folder) for folder in folders)
        raise InputError(f"got a run twice: {given}. A comparison needs different runs; give each run once")
    judged = [_judge(folder, None, progress, processes, baseline_rates) for folder in folders]
    for folder, other in zip(folders, judged, strict=True):
        if other.episodes != judged[0].episodes:
            raise InputError(
                f"{folder} is judged on other episodes than {folders[0]}; a paired comparison needs the same episodes. "
                f"Compare runs with the same [[data]] and the same split"
            )
    plain = [folder.name for folder in folders]
    names = plain if len(set(plain)) == len(plain) else [str(folder) for folder in folders]
    first, comparisons = judged[0].summary, len(folders) - 1
    others = dict(zip(names[1:], (other.summary for other in judged[1:]), strict=True))
    differences = {
        key: {
            name: other.views[key].retrieval["both"].minus(view.retrieval["both"], comparisons)
            for name, other in others.items()
            if key in other.views
        }
        for key, view in first.views.items()
    }
    acting = {name: other.actions for name, other in zip(names, judged, strict=True) if other.actions is not None}
    return Comparison(
        tuple(other.summary for other in judged),
        comparisons,
        {key: by_run for key, by_run in differences.items() if by_run},
        compare_actions(acting, comparisons) if names[0] in acting and len(acting) > 1 else {},
    )


class _Judged(NamedTuple):
    summary: Summary
    actions: ActionMoments | None
    episodes: tuple[tuple[Path, str], ...]


def _judge(folder: Path, data: Data | None, progress: bool, processes: int, baseline_rates: Sequence[float]) -> _Judged:
    config = load_config(folder / "config.toml")
    data = data or load_data(config, processes, progress, folder)
    loaded = LoadedRun.load(folder, config, data.judged, "retrieval")
    weights = {}
    views: dict[str, ViewSummary] = {}
    reading = None
    if loaded.model.aligns:
        trials: tuple[BaselineTrial, ...] = ()
        baseline = None
        if config.region == "box" and baseline_rates:
            trials = baseline_trials(config, data, baseline_rates, progress)
            best = opening_only(config, best_trial(trials).rate)
            baseline = LoadedRun.load(Path(best.out), best, data.judged, "retrieval")
        views = {view.key: _view_summary(loaded, baseline, view.key, trials) for view in loaded.model.views}
        reading = _readings(data, config)
        weights["retrieval"] = loaded.selected
    actions = None
    if loaded.model.act is not None:
        acting = LoadedRun.load(folder, config, data.judged, "action")
        actions, weights["action"] = action_moments(acting, data.train), acting.selected
    summary = Summary(folder.name, _encoder_name(loaded.model), data.judged_on, views, reading, weights=weights)
    if actions is not None:
        summary = replace(summary, action_error=actions.error(), phases=actions.phases())
    write_text_atomically(folder / "summary.json", json_of(summary))
    episodes = tuple((job.ref.path.resolve(), job.ref.group) for job in loaded.moments.jobs)
    return _Judged(summary, actions, episodes)


def train_to_the_end(config: TrainConfig, data: Data, progress: bool = True) -> None:
    """Train a run to its last step, or resume it where it stopped; a finished run is not changed.

    Raises:
        InputError: The training was stopped (Ctrl-C, SIGTERM) before its end, so the run cannot be evaluated.
    """
    if finished(config):
        return
    out = Path(config.out)
    train(config, data=data, resume=(out / "metrics.jsonl").exists(), progress=progress)
    if not finished(config):
        raise InputError(
            f"{out}: expected a run trained for {config.steps} steps; the training was stopped early. Run the same "
            f"command again to resume from the last checkpoint"
        )


def opening_only(config: TrainConfig, rate: float) -> TrainConfig:
    """Return the config of a run's opening-only baseline; the baseline's folder lies inside the run's folder.

    The baseline has the same loss, steps, batches, touch tower and negatives in the batch as the run, but an MLP on the
    gripper's opening replaces the image region. It trains no policy, and its alignment loss lasts all steps: `patience`
    does not end it. With `init`, it starts from the same weights, as far as they fit.

    Args:
        config: Config of the run.
        rate: Learning rate of the layers that start from random weights: the MLP and the head of the touch tower. The
            touch tower keeps the run's lr_tower.
    """
    out = str(Path(config.out) / BASELINE / f"lr_{rate:g}")
    hsa = config.hsa.model_copy(update={"region_negatives": 0, "finger_negative": False, "camera_negative": False})
    alignment = config.alignment.model_copy(update={"mode": "joint", "pretrain_steps": 0, "cosine_every": 0})
    optimiser = config.optimiser.model_copy(update={"lr_head": rate})
    parts = {"hsa": hsa, "alignment": alignment, "optimiser": optimiser}
    update = {"region": "opening", "train_policy": False, "out": out, "select_by": "auto", "patience": None, **parts}
    return TrainConfig.model_validate(config.model_copy(update=update).model_dump())


def baseline_trials(
    config: TrainConfig, data: Data, rates: Sequence[float], progress: bool = True
) -> tuple[BaselineTrial, ...]:
    """Train the opening-only baseline of a run at each rate, and return the trials in the order of the rates.

    Each trial is kept in the run folder, in opening_only/lr_RATE, with its result in trial.json. A trial that is
    complete there is not trained again.

    Raises:
        InputError: A training was stopped (Ctrl-C, SIGTERM); the next call resumes it.
    """
    return tuple(_trial(opening_only(config, rate), data, progress) for rate in rates)


def _trial(config: TrainConfig, data: Data, progress: bool) -> BaselineTrial:
    out, rate, advice = Path(config.out), config.optimiser.lr_head, "Delete the file; the baseline is then judged again"
    path, trial = out / TRIAL, None
    if path.is_file():
        trial = result_of(BaselineTrial, read_json(path, advice), str(path))
    if trial is not None and trial.steps == config.steps:
        return trial
    began, recall, said = time.monotonic(), None, "diverged"
    try:
        train_to_the_end(config, data, progress)
    except DivergedError as error:
        logger.warning(f"opening-only baseline at learning rate {rate:g}: {error}")
    else:
        recall = _held_out_recall(LoadedRun.load(out, config, data.held_out, "retrieval"))
        said = f"held-out R@1 {recall:.3f}"
    trial = BaselineTrial(rate, config.steps, time.monotonic() - began, recall)
    write_text_atomically(path, json_of(trial))
    logger.info(f"opening-only baseline at learning rate {rate:g}: {said}, took {trial.seconds:.0f} s")
    return trial


def _held_out_recall(run: LoadedRun) -> float:
    """Return R@1 of a run, averaged over directions and views."""
    found = []
    for view in run.model.views:
        features = pair_features(run, view.key)
        found.append(_retrieval(features, _gallery(features))["both"].at[1])
    return float(np.mean(found))


def held_out_loss(run: LoadedRun, features: dict[str, np.ndarray]) -> HeldOutLoss:
    """Return the alignment loss HSA on held-out pairs and its chance level, both averaged over batches.

    A batch has the size of a training batch. Its negatives follow the run's rules for the time gap, contacts and
    similar touches. A pair without a negative counts as 0.

    Args:
        run: Run, loaded with its held-out episodes.
        features: Features of one view; see `pairs.pair_features`.
    """
    alignment = run.alignment
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(features["h_tau"]))
    losses, chances = [], []
    kappa = alignment.temperature().detach().cpu()
    size = min(run.config.batch_size, len(rows))
    for start in range(0, len(rows) - size + 1, size):
        chosen = rows[start : start + size]
        names = ("h_tau", "h_w", "episode", "time", "contact")
        tau, w, episode, time, contact = (torch.from_numpy(features[name][chosen]) for name in names)
        touch = torch.from_numpy(features["touch"][chosen]) if "touch" in features else None
        negatives = negatives_of(run.config.hsa, episode, time, touch, contact)
        loss, stats, valid = alignment.contrast(tau, w, negatives, torch.ones(size, dtype=torch.bool), kappa)
        share = float(valid.float().mean())
        losses.append(share * float(loss))
        chances.append(share * float(stats.chance))
    return HeldOutLoss(float(np.mean(losses)), float(np.mean(chances)), size)


def _view_summary(
    run: LoadedRun, baseline: LoadedRun | None, key: str, trials: tuple[BaselineTrial, ...]
) -> ViewSummary:
    features = pair_features(run, key)
    gallery = _gallery(features)
    recalls, beside, minus = _retrieval(features, gallery), None, None
    if baseline is not None:
        other = pair_features(baseline, key)
        galleries, _ = read_galleries(other, gallery, run.config.hsa.min_gap)
        beside = OpeningOnly(held_out_loss(baseline, other), _retrieval(other, gallery), galleries, trials)
        minus = recalls["both"].minus(beside.retrieval["both"])
    return ViewSummary(
        moments=len(features["h_tau"]),
        contacts=_contacts(features),
        loss=held_out_loss(run, features),
        retrieval=recalls,
        opening_only=beside,
        minus_opening=minus,
        **vars(view_readouts(run, key, features=features, gallery=gallery)),
    )


def _contacts(features: dict[str, np.ndarray]) -> int:
    return len({(int(e), int(c)) for e, c in zip(features["episode"], features["contact"], strict=True)})


def _gallery(features: dict[str, np.ndarray]) -> int:
    return min(GALLERY, _contacts(features))


def _retrieval(features: dict[str, np.ndarray], gallery: int) -> dict[str, Recall]:
    tau, w, episode, contact = (features[name] for name in ("h_tau", "h_w", "episode", "contact"))
    return retrieval(tau, w, episode, contact, gallery=gallery)


def _encoder_name(model: AlignedPolicy) -> str:
    if model.alignment is None:
        return "none"
    towers = model.alignment.towers
    return ", ".join(dict.fromkeys((towers.vision.name, towers.touch.name)))


def _readings(data: Data, config: TrainConfig) -> str:
    readings = set()
    for rig in data.rigs:
        for view in config.views:
            arm = rig.sensor_arm(view.sensor)
            if arm and rig.arms[arm].gripper is not None:
                readings.add(rig.gripper(arm).reading)
    return " and ".join(sorted(readings)) or "none"
