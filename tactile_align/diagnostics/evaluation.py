"""Evaluation of finished runs on their held-out episodes: retrieval with baselines, read-outs and action error."""

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
    Comparison,
    HeldOutLoss,
    OpeningOnly,
    Recall,
    Summary,
    ViewSummary,
    json_of,
)
from tactile_align.errors import InputError
from tactile_align.files import write_text_atomically
from tactile_align.losses.build import negatives_of
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import LoadedRun
from tactile_align.training.data import Data, load_data
from tactile_align.training.loop import train
from tactile_align.training.state import finished

BASELINE = "opening_only"
GALLERY = 64


def evaluate(run: str | Path, *, data: Data | None = None, progress: bool = True, processes: int = 1) -> Summary:
    """Return the results of a run's best checkpoint on the held-out episodes, and write them to RUN/summary.json.

    If the run folder does not contain the opening-only baseline, the baseline is trained first. It has the same loss,
    steps, batches and negatives as the run, but an MLP on the gripper's opening replaces the image region.

    Args:
        run: The run folder.
        data: Data already loaded for the run's config; None loads the data.
        progress: Show progress bars on stderr.
        processes: Number of processes that prepare episodes.

    Raises:
        FactError, FileNotFoundError: The folder contains no run.
        InputError: The training of the baseline was stopped; the next call resumes it. Or no held-out moment of a view
            has both a box and a contact.
    """
    return _judge(Path(run), data, progress, processes).summary


def compare(runs: Sequence[str | Path], *, progress: bool = True, processes: int = 1) -> Comparison:
    """Return the results of several runs, each as from `evaluate`, and their paired differences to the first run.

    Args:
        runs: At least two run folders, judged on the same episodes.
        progress: Show progress bars on stderr.
        processes: Number of processes that prepare episodes.

    Raises:
        InputError: A run is given twice, or the runs are judged on different episodes. Also the errors of `evaluate`.
    """
    folders = [Path(run) for run in runs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        given = ", ".join(str(folder) for folder in folders)
        raise InputError(f"got a run twice: {given}. A comparison needs different runs; give each run once")
    judged = [_judge(folder, None, progress, processes) for folder in folders]
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


def _judge(folder: Path, data: Data | None, progress: bool, processes: int) -> _Judged:
    config = load_config(folder / "config.toml")
    data = data or load_data(config, processes, progress)
    loaded = LoadedRun.load(folder, config, data.held_out)
    views: dict[str, ViewSummary] = {}
    reading = None
    if loaded.model.aligns:
        baseline = None
        if config.region == "box":
            baseline_config = opening_only(config)
            train_to_the_end(baseline_config, data, progress)
            baseline = LoadedRun.load(Path(baseline_config.out), baseline_config, data.held_out)
        views = {view.key: _view_summary(loaded, baseline, view.key) for view in loaded.model.views}
        reading = _readings(data, config)
    actions = None if loaded.model.act is None else action_moments(loaded, data.train)
    summary = Summary(folder.name, _encoder_name(loaded.model), views, reading)
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


def opening_only(config: TrainConfig) -> TrainConfig:
    """Return the config of a run's opening-only baseline; the baseline's folder lies inside the run's folder."""
    update = {"region": "opening", "train_policy": False, "out": str(Path(config.out) / BASELINE)}
    hsa = config.hsa.model_copy(update={"region_negatives": 0, "finger_negative": False, "camera_negative": False})
    return TrainConfig.model_validate(config.model_copy(update={**update, "hsa": hsa}).model_dump())


def held_out_loss(run: LoadedRun, features: dict[str, np.ndarray]) -> HeldOutLoss:
    """Return the alignment loss HSA on held-out pairs and its chance level, both averaged over batches.

    A batch has the size of a training batch. Its negatives follow the run's rules for the time gap and for similar
    touches. A pair without a negative counts as 0.

    Args:
        run: Run, loaded with its held-out episodes.
        features: Features of one view; see `pairs.pair_features`.
    """
    alignment = run.alignment
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(features["h_tau"]))
    losses, chances = [], []
    kappa = alignment.temperature().detach()
    size = min(run.config.batch_size, len(rows))
    for start in range(0, len(rows) - size + 1, size):
        chosen = rows[start : start + size]
        tau, w, episode, time = (torch.from_numpy(features[n][chosen]) for n in ("h_tau", "h_w", "episode", "time"))
        touch = torch.from_numpy(features["touch"][chosen]) if "touch" in features else None
        negatives = negatives_of(run.config.hsa, episode, time, touch)
        loss, stats, valid = alignment.contrast(tau, w, negatives, torch.ones(size, dtype=torch.bool), kappa)
        share = float(valid.float().mean())
        losses.append(share * float(loss))
        chances.append(share * float(stats.chance))
    return HeldOutLoss(float(np.mean(losses)), float(np.mean(chances)), size)


def _view_summary(run: LoadedRun, baseline: LoadedRun | None, key: str) -> ViewSummary:
    features = pair_features(run, key)
    pairs = {(int(e), int(c)) for e, c in zip(features["episode"], features["contact"], strict=True)}
    gallery = min(GALLERY, len(pairs))
    recalls, beside, minus = _retrieval(features, gallery), None, None
    if baseline is not None:
        other = pair_features(baseline, key)
        galleries, _ = read_galleries(other, gallery, run.config.hsa.min_gap)
        beside = OpeningOnly(held_out_loss(baseline, other), _retrieval(other, gallery), galleries)
        minus = recalls["both"].minus(beside.retrieval["both"])
    return ViewSummary(
        moments=len(features["h_tau"]),
        contacts=len(pairs),
        loss=held_out_loss(run, features),
        retrieval=recalls,
        opening_only=beside,
        minus_opening=minus,
        **vars(view_readouts(run, key, features=features, gallery=gallery)),
    )


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
