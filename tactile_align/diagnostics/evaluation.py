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
from tactile_align.diagnostics.actions import ActionMoments, action_moments, common_phases, compare_actions
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.readouts import read_galleries, view_readouts
from tactile_align.diagnostics.retrieval import retrieval
from tactile_align.diagnostics.summary import (
    ONE_CONTACT,
    BaselineTrial,
    Comparison,
    Difference,
    HeldOutLoss,
    JudgedOn,
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
from tactile_align.moments.dataset import Moments
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import LoadedRun, views_of
from tactile_align.training.data import Data, EpisodeLists, count_contacts, load_data, without_opening
from tactile_align.training.loop import train
from tactile_align.training.state import finished

logger = logging.getLogger(__name__)

BASELINE, TRIAL = "opening_only", "trial.json"
BASELINE_RATES = (1e-4, 1e-3, 1e-2)
"""Learning rates of the baseline's layers with random initial weights. They do not depend on the run's rates."""
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

    A run without test episodes is evaluated on its held-out episodes, on which the checkpoint was selected. Episodes,
    statistics and rigs are those with which the run was trained, whatever the folders in its [[data]] contain now.

    Retrieval and the other read-outs (see `Readouts`) are computed with the weights that had the best retrieval on
    held-out episodes. Action errors are computed with the weights that had the smallest action error there. See
    `TrainConfig.select_by`.

    The opening-only baseline (see `opening_only`) is trained first, unless the run folder already contains it. It is
    trained at several learning rates; the results are those of the rate with the highest R@1 on the held-out episodes.

    Args:
        run: The run folder.
        data: The run's data, if the caller has loaded them; None: they are loaded here.
        progress: Show progress bars on stderr.
        processes: Number of processes that prepare episodes.
        baseline_rates: Learning rates of the baseline's layers with random initial weights; one training for each rate.
            Empty: no baseline is trained, and the best baseline in the run folder, if any, is used.

    Results that need at least two contacts are left out of a view with one contact, with the reason.

    Raises:
        FactError, FileNotFoundError: The folder contains no run.
        InputError: The training of the baseline was stopped; the next call resumes it. Or no evaluated moment of a view
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

    For retrieval, only contacts that both runs have in a view are compared, with equal numbers of candidates.

    Args:
        runs: At least two run folders, evaluated on the same episodes.
        progress: Show progress bars on stderr.
        processes: Number of processes that prepare episodes.
        baseline_rates: As in `evaluate`.

    Raises:
        InputError: A run is given twice, or the runs are evaluated on different episodes. Also the errors of
            `evaluate`.
    """
    folders = [Path(run) for run in runs]
    names = run_names(folders)
    parts = [_judged_episodes(folder) for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        if part != parts[0]:
            raise InputError(
                f"{folder} is judged on other episodes than {folders[0]}; a paired comparison needs the same episodes. "
                f"Compare runs with the same [[data]] and the same split"
            )
    judged = [_judge(folder, None, progress, processes, baseline_rates) for folder in folders]
    base, *others = names
    by_name, left_out = dict(zip(names, judged, strict=True)), dict[str, str]()
    recalls = {}
    for name in others:
        ours, theirs = by_name[name].features, by_name[base].features
        for key in theirs | ours:
            if key not in theirs or key not in ours:
                left_out[f"R@1, view {key}, {name}"] = f"{name if key in theirs else base} has no view {key}"
            elif (pair := _common_recalls(ours[key], theirs[key])) is None:
                left_out[f"R@1, view {key}, {name}"] = "the runs have fewer than two contacts in common"
            else:
                recalls[key, name] = pair
    acting = {name: run.actions for name, run in by_name.items() if run.actions is not None}
    if acting and (missing := [name for name in names if name not in acting]):
        left_out |= {f"action error, {name}": f"{name} has no policy" for name in missing}
    compares = base in acting and len(acting) > 1
    comparisons = len(recalls) + (len(acting) - 1) * len(common_phases(acting.values()) if compares else ())
    retrieved: dict[str, dict[str, Difference]] = {}
    for (key, name), (own, other) in recalls.items():
        retrieved.setdefault(key, {})[name] = own.minus(other, comparisons)
    return Comparison(
        tuple(run.summary for run in judged),
        comparisons,
        retrieved,
        compare_actions(acting, comparisons) if compares else {},
        left_out,
    )


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return the names under which runs are compared: those of their folders, or the paths where names are equal.

    Raises:
        InputError: A run is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        given = ", ".join(str(folder) for folder in folders)
        raise InputError(f"got a run twice: {given}. A comparison needs different runs; give each run once")
    plain = [folder.name for folder in folders]
    return plain if len(set(plain)) == len(plain) else [str(folder) for folder in folders]


def _judged_episodes(folder: Path) -> tuple[JudgedOn, tuple[str, ...]]:
    """Return the part of a run's episodes that is judged, and the hashes of these episodes."""
    load_config(folder / "config.toml")
    lists = EpisodeLists.load(folder)
    return "test" if lists.test else "held-out", tuple(entry.hash for entry in lists.test or lists.held_out)


def _common_recalls(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[Recall, Recall] | None:
    """Return the recalls of two runs, computed from the contacts that both have; None for fewer than two contacts."""
    common = _contacts(a) & _contacts(b)
    if len(common) < 2:
        return None
    own, other = (
        {name: values[[place in common for place in _places(features)]] for name, values in features.items()}
        for features in (a, b)
    )
    return _retrieval(own)["both"], _retrieval(other)["both"]


class _Judged(NamedTuple):
    summary: Summary
    actions: ActionMoments | None
    features: dict[str, dict[str, np.ndarray]]


def _judge(folder: Path, data: Data | None, progress: bool, processes: int, baseline_rates: Sequence[float]) -> _Judged:
    config = load_config(folder / "config.toml")
    data = data or load_data(config, processes, progress, folder)
    loaded = LoadedRun.load(folder, config, data.judged, "retrieval")
    weights, features = {}, {}
    views: dict[str, ViewSummary] = {}
    reading = None
    if loaded.model.aligns:
        trials: tuple[BaselineTrial, ...] = ()
        baseline = None
        features = {view.key: pair_features(loaded, view.key) for view in loaded.model.views}
        missing = ""
        if bare := without_opening(data.judged, config):
            missing = f"{', '.join(bare)} sits on no gripper, so there is no opening"
        elif _most_contacts(data.held_out, config) < 2 or not any(map(_compared, features.values())):
            missing = ONE_CONTACT  # the best baseline is chosen by retrieval on the held-out episodes
        if not missing and config.region == "box" and config.hsa.pairs != "two_crops":  # two crops have no opening
            trials = baseline_trials(config, data, baseline_rates, progress) if baseline_rates else kept_trials(config)
        if trials:
            best = opening_only(config, best_trial(trials).rate)
            baseline = LoadedRun.load(Path(best.out), best, data.judged, "retrieval")
        views = {key: _view_summary(loaded, baseline, key, found, trials, missing) for key, found in features.items()}
        reading = _readings(data, config)
        weights["retrieval"] = loaded.selected
    summary = Summary(folder.name, encoder_name(loaded.model), data.judged_on, views, reading)
    actions = None
    if loaded.model.act is not None:
        acting = LoadedRun.load(folder, config, data.judged, "action")
        actions, weights["action"] = action_moments(acting, data.train), acting.selected
        summary = replace(summary, action_error=actions.error(), phases=actions.phases())
    summary = replace(summary, weights=weights, episodes=data.judged.hashes)
    write_text_atomically(folder / "summary.json", json_of(summary))
    return _Judged(summary, actions, features)


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
    gripper's opening replaces the image region. It trains no policy, and uses the alignment loss in all steps;
    `patience` does not end it early. If the run's config sets `init`, the baseline also starts from those weights, as
    far as their names and shapes fit.

    Args:
        config: Config of the run.
        rate: Learning rate of the layers that start from random weights: the MLP and the head of the touch tower. The
            touch tower (image encoder of touches) keeps the run's optimiser.lr_tower.
    """
    out = str(Path(config.out) / BASELINE / f"lr_{rate:g}")
    hsa = config.hsa.model_copy(update={"region_negatives": 0, "finger_negative": False, "camera_negative": False})
    alignment = config.alignment.model_copy(update={"mode": "joint", "pretrain_steps": 0, "cosine_every": 0})
    optimiser = config.optimiser.model_copy(update={"lr_head": rate})
    policy = config.policy.model_copy(update={"pointer_token": False})
    parts = {"hsa": hsa, "alignment": alignment, "optimiser": optimiser, "policy": policy}
    update = {"region": "opening", "train_policy": False, "out": out, "select_by": "auto", "patience": None, **parts}
    return TrainConfig.model_validate(config.model_copy(update=update).model_dump())


def baseline_trials(
    config: TrainConfig, data: Data, rates: Sequence[float], progress: bool = True
) -> tuple[BaselineTrial, ...]:
    """Train the opening-only baseline of a run at each learning rate, and return the results in the order of the rates.

    A trial is the training at one rate. It is kept in the run folder, in opening_only/lr_RATE, with its result in
    trial.json. A trial that already has its result is not trained again.

    Raises:
        InputError: A training was stopped (Ctrl-C, SIGTERM); the next call resumes it.
    """
    return tuple(_trial(opening_only(config, rate), data, progress) for rate in rates)


def kept_trials(config: TrainConfig) -> tuple[BaselineTrial, ...]:
    """Return the finished trials (see `baseline_trials`) in the run folder, by rate; empty if all of them diverged."""
    found = []
    for path in (Path(config.out) / BASELINE).glob(f"*/{TRIAL}"):
        trial = _trial_of(path)
        found += [trial] if trial.steps == config.steps else []
    stable = any(trial.recall is not None for trial in found)
    return tuple(sorted(found, key=lambda trial: trial.rate)) if stable else ()


def _trial_of(path: Path) -> BaselineTrial:
    advice = "Delete the file; the baseline is then judged again"
    return result_of(BaselineTrial, read_json(path, advice), str(path))


def _trial(config: TrainConfig, data: Data, progress: bool) -> BaselineTrial:
    out, rate = Path(config.out), config.optimiser.lr_head
    path = out / TRIAL
    if path.is_file() and (trial := _trial_of(path)).steps == config.steps:
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
    """Return R@1 of a run on its loaded episodes, averaged over both directions and all views with several contacts."""
    found = []
    for view in run.model.views:
        features = pair_features(run, view.key)
        if _compared(features):
            found.append(_retrieval(features)["both"].at[1])
    return float(np.mean(found))


def held_out_loss(run: LoadedRun, features: dict[str, np.ndarray]) -> HeldOutLoss:
    """Return the alignment loss HSA on held-out pairs and its chance level, both averaged over batches.

    A batch has the size of a training batch. Its negatives follow the run's options hsa.min_gap, exclude_same_contact
    and touch_ceiling. The loss of a pair without a negative counts as 0.

    Args:
        run: Run, loaded with its held-out episodes.
        features: Features of one view of the run; see `pairs.pair_features`.
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
    run: LoadedRun,
    baseline: LoadedRun | None,
    key: str,
    features: dict[str, np.ndarray],
    trials: tuple[BaselineTrial, ...],
    missing: str,
) -> ViewSummary:
    """Return the results of one view; `missing` is the reason why there is no baseline, if it is not the config's."""
    gallery = _gallery(features)
    recalls, beside, minus = dict[str, Recall](), None, None
    left_out = {"opening only": missing} if missing else {}
    if _compared(features):
        recalls = _retrieval(features)
    else:
        left_out |= dict.fromkeys(("retrieval", "opening only"), ONE_CONTACT)
    if baseline is not None and recalls:
        other = pair_features(baseline, key)
        galleries, _ = read_galleries(other, gallery, run.config.hsa.min_gap)
        beside = OpeningOnly(held_out_loss(baseline, other), _retrieval(other), galleries, trials)
        minus = recalls["both"].minus(beside.retrieval["both"])
    readouts = view_readouts(run, key, features=features, gallery=gallery)
    return ViewSummary(
        moments=len(features["h_tau"]),
        contacts=len(_contacts(features)),
        loss=held_out_loss(run, features),
        retrieval=recalls,
        opening_only=beside,
        minus_opening=minus,
        **vars(replace(readouts, left_out=left_out | readouts.left_out)),
    )


def _places(features: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """Return (index of the episode, index of the contact in it) for each moment in `features`."""
    return list(zip(features["episode"].tolist(), features["contact"].tolist(), strict=True))


def _contacts(features: dict[str, np.ndarray]) -> set[tuple[int, int]]:
    return set(_places(features))


def _compared(features: dict[str, np.ndarray]) -> bool:
    """Return whether the features are of at least two contacts, which retrieval needs."""
    return len(_contacts(features)) > 1


def _most_contacts(moments: Moments, config: TrainConfig) -> int:
    """Return the number of contacts of the view with the most contacts."""
    return max(count_contacts(moments, view) for view in views_of(config))


def _gallery(features: dict[str, np.ndarray]) -> int:
    return min(GALLERY, len(_contacts(features)))


def _retrieval(features: dict[str, np.ndarray]) -> dict[str, Recall]:
    tau, w, episode, contact = (features[name] for name in ("h_tau", "h_w", "episode", "contact"))
    return retrieval(tau, w, episode, contact, gallery=_gallery(features))


def encoder_name(model: AlignedPolicy) -> str:
    """Return the names of the vision and touch encoders with the source of their weights, or "none" without them."""
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
