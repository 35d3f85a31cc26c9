"""Judge a finished run on its held-out episodes: retrieval beside its baselines, read-outs, and the action error."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tactile_align.config.train import TrainConfig, load_config
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.readouts import read_galleries, view_readouts
from tactile_align.diagnostics.retrieval import Recall, retrieval
from tactile_align.diagnostics.summary_text import summary_text
from tactile_align.errors import InputError
from tactile_align.files import write_text_atomically
from tactile_align.losses.negatives import Negatives, unlike
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.loaded_run import LoadedRun
from tactile_align.training.data import Data, load_data
from tactile_align.training.loop import train
from tactile_align.training.state import finished

BASELINE = "opening_only"
GALLERY = 64


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        summary: Plain values, as in summary.json.
    """

    summary: dict[str, Any]

    def text(self) -> str:
        """Return the findings as a table for people."""
        return summary_text(self.summary)


def evaluate(run: str | Path, *, data: Data | None = None, progress: bool = True, processes: int = 1) -> Evaluation:
    """Evaluate a run's best checkpoint and write RUN/summary.json.

    The opening-only baseline is trained first where the run folder does not hold it: the same loss, steps, batches
    and negatives, with an MLP on the gripper's opening in place of the image region.

    Args:
        run: The run folder.
        data: Moments already loaded for the run's config; None loads them.
        progress: Show progress bars on stderr.
        processes: How many processes prepare episodes.

    Raises:
        FactError, FileNotFoundError: The folder holds no run.
        InputError: The baseline's training was stopped; the next call goes on with it.
        ValueError: No held-out moment of a view has both a box and a contact.
    """
    folder = Path(run)
    config = load_config(folder / "config.toml")
    data = data or load_data(config, processes, progress)
    loaded = LoadedRun.load(folder, config, data.held_out)
    summary: dict[str, Any] = {"run": folder.name, "encoder": _encoder_name(loaded.model), "views": {}}
    if loaded.model.aligns:
        baseline = None
        if config.region == "box":
            baseline_config = opening_only(config)
            train_to_the_end(baseline_config, data, progress)
            baseline = LoadedRun.load(Path(baseline_config.out), baseline_config, data.held_out)
        for view in loaded.model.views:
            summary["views"][view.key] = _view_summary(loaded, baseline, view.key)
        summary["opening_reading"] = _readings(data, config)
    if loaded.model.act is not None:
        summary["action_error"] = action_error(loaded)
    write_text_atomically(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return Evaluation(summary)


def train_to_the_end(config: TrainConfig, data: Data, progress: bool = True) -> None:
    """Train a run, or go on with it where it stopped; nothing is left to do for a finished one.

    Raises:
        InputError: It was stopped (Ctrl-C, SIGTERM) before its end, so it must not be judged.
    """
    if finished(config):
        return
    out = Path(config.out)
    train(config, data=data, resume=(out / "metrics.jsonl").exists(), progress=progress)
    if not finished(config):
        raise InputError(
            f"{out}: needed a run trained for {config.steps} steps; it was stopped before. Give the same command "
            f"again: it goes on from the last checkpoint"
        )


def opening_only(config: TrainConfig) -> TrainConfig:
    """Return the config of a run's opening-only baseline; it lives inside the run folder."""
    update = {"region": "opening", "train_policy": False, "out": str(Path(config.out) / BASELINE)}
    hsa = config.hsa.model_copy(update={"region_negatives": 0, "finger_negative": False, "camera_negative": False})
    return TrainConfig.model_validate(config.model_copy(update={**update, "hsa": hsa}).model_dump())


def held_out_loss(run: LoadedRun, features: dict[str, np.ndarray]) -> dict[str, float]:
    """Return HSA and chance over batches of the training batch size, drawn from all held-out pairs.

    Negatives are those in the batch, by the run's time gap and same-touch rule; a pair without any counts as 0.
    """
    alignment, hsa = run.alignment, run.config.hsa
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(features["h_tau"]))
    losses, chances = [], []
    kappa = alignment.temperature().detach()
    size = min(run.config.batch_size, len(rows))
    for start in range(0, len(rows) - size + 1, size):
        chosen = rows[start : start + size]
        tau, w, episode, time = (torch.from_numpy(features[n][chosen]) for n in ("h_tau", "h_w", "episode", "time"))
        touch = None
        if hsa.touch_ceiling is not None:
            raw = torch.from_numpy(features["touch"][chosen])
            touch = unlike(raw, raw)
        negatives = Negatives(episode, time, hsa.min_gap, touch=touch, ceiling=hsa.touch_ceiling)
        loss, stats, valid = alignment.contrast(tau, w, negatives, torch.ones(size, dtype=torch.bool), kappa)
        share = float(valid.float().mean())
        losses.append(share * float(loss))
        chances.append(share * float(stats.chance))
    return {"hsa": float(np.mean(losses)), "chance": float(np.mean(chances)), "batch": size}


def _view_summary(run: LoadedRun, baseline: LoadedRun | None, key: str) -> dict[str, Any]:
    features = pair_features(run, key)
    pairs = {(int(e), int(c)) for e, c in zip(features["episode"], features["contact"], strict=True)}
    gallery = min(GALLERY, len(pairs))
    summary: dict[str, Any] = {
        "moments": len(features["h_tau"]),
        "contacts": len(pairs),
        "loss": held_out_loss(run, features),
        "retrieval": _retrieval(features, gallery),
        **view_readouts(run, key, features=features, gallery=gallery),
    }
    if baseline is not None:
        other = pair_features(baseline, key)
        summary["opening_only"] = {
            "loss": held_out_loss(baseline, other),
            "retrieval": _retrieval(other, gallery),
            "galleries": read_galleries(other, gallery, run.config.hsa.min_gap)["galleries"],
        }
    return summary


def _retrieval(features: dict[str, np.ndarray], gallery: int) -> dict[str, dict[str, Any]]:
    found: dict[str, Recall] = retrieval(
        features["h_tau"], features["h_w"], features["episode"], features["contact"], gallery=gallery
    )
    return {name: recall.as_dict() for name, recall in found.items()}


@torch.no_grad()
def action_error(run: LoadedRun) -> dict[str, Any]:
    """Return the mean absolute action error on held-out episodes, in robot units, beside standing still.

    The latent is zero, as on the robot. Standing still repeats the moment's own recorded state.
    """
    moments, statistics = run.moments, run.moments.statistics
    if statistics is None:
        raise ValueError("needed normalised moments; these are as recorded. Take `Moments.normalised`")
    errors, still, real = [], [], []
    rows = np.arange(0, len(moments), max(1, len(moments) // 1500))
    for batch in run.batches(rows):
        output = run.model.predict(batch, run.model.see(batch))
        predicted = statistics.restore_action(output.actions.double())
        recorded = statistics.restore_action(batch.action.double())
        errors.append((predicted - recorded).abs())
        if batch.qpos_raw.shape[1] == recorded.shape[2]:
            still.append((batch.qpos_raw[:, None] - recorded).abs())
        real.append(~batch.is_pad)
    keep = torch.cat(real)
    policy = torch.cat(errors)
    summary: dict[str, Any] = {
        "per_column": policy[keep].mean(dim=0).tolist(),
        "first_step": policy[:, 0].mean(dim=0).tolist(),
        "moments": len(keep),
    }
    if still:
        summary["standing_still_per_column"] = torch.cat(still)[keep].mean(dim=0).tolist()
    return summary


def _encoder_name(model: AlignedPolicy) -> str:
    if model.alignment is None:
        return "none"
    towers = model.alignment.towers
    return ", ".join(dict.fromkeys((towers.vision.name, towers.touch.name)))


def _readings(data: Data, config: TrainConfig) -> str:
    found = set()
    for rig in data.rigs:
        for view in config.views:
            arm = rig.sensor_arm(view.sensor)
            if arm and rig.arms[arm].gripper is not None:
                found.add(rig.gripper(arm).reading)
    return " and ".join(sorted(found)) or "none"
