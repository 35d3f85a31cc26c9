"""Evaluation of a finished run on its held-out episodes: retrieval with baselines, read-outs and action error."""

from pathlib import Path

import numpy as np
import torch

from tactile_align.config.train import TrainConfig, load_config
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.readouts import read_galleries, view_readouts
from tactile_align.diagnostics.retrieval import retrieval
from tactile_align.diagnostics.summary import (
    ActionError,
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
    folder = Path(run)
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
    error = None if loaded.model.act is None else action_error(loaded)
    summary = Summary(folder.name, _encoder_name(loaded.model), views, reading, error)
    write_text_atomically(folder / "summary.json", json_of(summary))
    return summary


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
    kappa = alignment.temperature().detach().cpu()
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
    beside = None
    if baseline is not None:
        other = pair_features(baseline, key)
        galleries, _ = read_galleries(other, gallery, run.config.hsa.min_gap)
        beside = OpeningOnly(held_out_loss(baseline, other), _retrieval(other, gallery), galleries)
    return ViewSummary(
        moments=len(features["h_tau"]),
        contacts=len(pairs),
        loss=held_out_loss(run, features),
        retrieval=_retrieval(features, gallery),
        opening_only=beside,
        **vars(view_readouts(run, key, features=features, gallery=gallery)),
    )


def _retrieval(features: dict[str, np.ndarray], gallery: int) -> dict[str, Recall]:
    tau, w, episode, contact = (features[name] for name in ("h_tau", "h_w", "episode", "contact"))
    return retrieval(tau, w, episode, contact, gallery=gallery)


@torch.no_grad()
def action_error(run: LoadedRun) -> ActionError:
    """Return the mean absolute action errors of the policy and of standing still on held-out episodes, robot units.

    The latent is zero, as on the robot. Standing still means that every action of a chunk equals the state
    recorded at the start of the chunk.

    Raises:
        ValueError: The moments are not normalised.
    """
    moments, statistics = run.moments, run.moments.statistics
    if statistics is None:
        raise ValueError("expected normalised moments; got moments as recorded. Use `Moments.normalised`")
    errors, still, real = [], [], []
    rows = np.arange(0, len(moments), max(1, len(moments) // 1500))
    for batch in run.batches(rows):
        output = run.model.predict(batch, run.model.see(batch))
        predicted = statistics.restore_action(output.actions.double())
        recorded = statistics.restore_action(batch.action.double())
        errors.append((predicted - recorded).abs().cpu())
        if batch.qpos_raw.shape[1] == recorded.shape[2]:
            still.append((batch.qpos_raw[:, None] - recorded).abs().cpu())
        real.append(~batch.is_pad.cpu())
    keep = torch.cat(real)
    policy = torch.cat(errors)
    return ActionError(
        per_column=tuple(policy[keep].mean(dim=0).tolist()),
        first_step=tuple(policy[:, 0].mean(dim=0).tolist()),
        moments=len(keep),
        standing_still_per_column=tuple(torch.cat(still)[keep].mean(dim=0).tolist()) if still else None,
    )


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
