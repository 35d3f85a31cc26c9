"""Demo that runs every step of the toolkit on a simulated cell, from recording to policies that act."""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from joblib import Parallel, delayed

from tactile_align.calibration.rig import load_rig
from tactile_align.config.presets import SMALL_ACT, SMALL_TOWER
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.evaluation import evaluate, train_to_the_end
from tactile_align.diagnostics.intervals import interval_text
from tactile_align.diagnostics.rollout import Filmed, rollout
from tactile_align.diagnostics.study import load_study
from tactile_align.diagnostics.summary import Summary
from tactile_align.files import write_text_atomically
from tactile_align.policies.build import views_of
from tactile_align.simulation.box_proof import posed_boxes, recorded_boxes
from tactile_align.simulation.record import simulate
from tactile_align.training.data import Data, load_data
from tactile_align.training.logs import read_metrics
from tactile_align.verify.verify import verify_episodes
from tactile_align.viz.features.charts import draw_curves, draw_recall
from tactile_align.viz.features.run_pictures import draw_maps
from tactile_align.viz.film import film_strip
from tactile_align.viz.overlay.overlay import overlay, write_png
from tactile_align.viz.report.report import report

logger = logging.getLogger(__name__)

Size = Literal["smoke", "full"]


@dataclass(frozen=True)
class Plan:
    """Numbers that make a demo small or large.

    Attributes:
        regrasp: Number of recorded episodes of the simulated task "regrasp".
        expert: Number of recorded episodes of the simulated task "expert".
        poses: Number of robot poses at which the sensors' boxes in the top camera's images are compared with the masks
            that MuJoCo renders.
        steps: Number of training steps.
        batch_size: Number of moments (synchronised instants of an episode) in a training batch.
        held_out: Episodes that are not used for training: below 1, their share of all episodes; else their number.
        demonstrations: Number of recorded demonstrations of the closed-loop task "feel".
        policy_steps: Number of training steps of each policy that acts.
        pairs: Number of seeds that each policy plays, each with both classes of object.
    """

    regrasp: int
    expert: int
    poses: int
    steps: int
    batch_size: int
    held_out: float
    demonstrations: int
    policy_steps: int
    pairs: int


PLANS: dict[Size, Plan] = {
    "full": Plan(260, 8, 500, 240, 128, 0.15, demonstrations=80, policy_steps=500, pairs=15),
    "smoke": Plan(4, 1, 20, 4, 16, 2, demonstrations=12, policy_steps=2, pairs=1),
}


def demo_config(out: Path, plan: Plan) -> TrainConfig:
    """Return the demo's training config: a small ViT and a small ACT, both from scratch."""
    folders, touch = [out / "data" / name for name in ("regrasp", "expert")], {**SMALL_TOWER, "image_size": [48, 64]}
    return TrainConfig.model_validate(
        {
            "data": [{"path": str(folder), "rig": str(folder / "rig.toml")} for folder in folders],
            "views": [{"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2}],
            "out": str(out / "run"),
            "features": {"vision": SMALL_TOWER, "touch": touch, "margin": 2.2, "dim": 128},
            "hsa": {"learn_temperature": True, "symmetric": True, "min_gap": 8},
            "policy": SMALL_ACT,
            "optimiser": {"lr": 1e-3, "lr_tower": 1e-3, "lr_head": 1e-3, "warmup_steps": 40, "clip_norm": 1.0},
            "augment": {"shift_px": 8, "gain": 0.3, "shuffle_channels": 1.0},
            "batch_size": plan.batch_size,
            "contact_share": 0.9,
            "steps": plan.steps,
            "held_out": plan.held_out,
            "validate_every": max(4, plan.steps // 7),
            "validation_batches": 4,
            "save_every": plan.steps,
            "cache": str(out / "cache"),
            "threads": min(os.cpu_count() or 1, 4),
        }
    )


def acting_config(out: Path, plan: Plan, row: str) -> TrainConfig:
    """Return the training config of a policy that acts: a row of the study closed_loop_quick."""
    recording, run = out / "data" / "feel", out / "closed_loop" / row
    data = [{"path": str(recording), "rig": str(recording / "rig.toml")}]
    entries = {"data": data, "out": str(run), "steps": plan.policy_steps, "cache": str(out / "cache")}
    return load_study("closed_loop_quick").train_config(row, **entries)


def run_demo(size: Size, out: Path) -> int:
    """Run the demo and return its exit status.

    The steps are: record, compare the boxes with MuJoCo, verify the rig, draw overlays, train, evaluate, let two
    policies act, summarise.

    Args:
        size: full: the whole demo. smoke: a small demo that takes a few minutes and only tests that every step runs.
        out: Folder for all results. Finished recordings in it are kept, and a stopped training resumes.

    Returns:
        0, or 1 when `verify` failed.

    Raises:
        FileExistsError: The folder contains a finished demo.
        InputError: The training was stopped (Ctrl-C, SIGTERM).
    """
    plan, began = PLANS[size], time.perf_counter()
    if (out / "summary.md").exists():
        raise FileExistsError(f"{out} contains a finished demo. Read summary.md in it, or choose another folder")
    cores, recordings = os.cpu_count() or 1, out / "data"
    out.mkdir(parents=True, exist_ok=True)
    _say(1, "record episodes on the simulated cell")
    regrasp = simulate(recordings / "regrasp", episodes=plan.regrasp, seed=1, gripper="measured", processes=cores)
    experts: dict[str, Any] = {"episodes": plan.expert, "seed": 2, "task": "expert", "processes": cores}
    expert = simulate(recordings / "expert", gripper="measured", **experts)
    commanded = simulate(recordings / "commanded", gripper="commanded", **experts)
    _say(2, "compare the projected boxes with MuJoCo's masks")
    proof = _box_proof(regrasp, commanded, out, plan)
    print(proof, flush=True)
    _say(3, "verify the rig on the recordings")
    verdicts: dict[str, str] = {}
    for name in ("regrasp", "commanded"):
        verification = verify_episodes(recordings / name, most=12, progress=False)
        verdicts[name] = verification.verdict
        write_text_atomically(out / f"verify_{name}.txt", verification.text() + "\n")
        if name == "regrasp":
            write_text_atomically(out / "run" / "verification.json", verification.json())
        print(f"{name}: {verification.verdict} (table in {out / f'verify_{name}.txt'})", flush=True)
    _say(4, "draw overlays")
    pictures = out / "pictures"
    for name, path in (("regrasp", regrasp[0]), ("expert", expert[0])):
        for picture in overlay(path, out=pictures / f"overlay_{name}.png", format="sheet", overwrite=True):
            print(picture, flush=True)
    _say(5, "train HSA and ACT from SCRATCH (random weights)")
    config = demo_config(out, plan)
    data = load_data(config, cores)
    train_to_the_end(config, data)
    _say(6, f"train the opening-only baseline and evaluate both models on {data.judged_on} episodes")
    # All layers are new, so their rate is the baseline's too. `evaluate` tries three.
    summary = evaluate(config.out, data=data, baseline_rates=(config.optimiser.lr_head,))
    print(summary.text(), flush=True)
    _draw_run(config, data, summary, pictures)
    _say(7, "train a policy without and one with touch from SCRATCH, and let both act")
    proof_of_touch = _let_act(out, plan, cores, pictures)
    print(proof_of_touch, flush=True)
    minutes = (time.perf_counter() - began) / 60
    text = _summary(size, proof, verdicts, summary, proof_of_touch, minutes)
    write_text_atomically(out / "summary.md", text)
    page = report(config.out, pictures=pictures, out=out / "report.html", overwrite=True)
    print(f"\n{text}\npictures: {pictures}\nsummary:  {out / 'summary.md'}\nreport:   {page}", flush=True)
    return 1 if "fail" in verdicts.values() else 0


def _say(step: int, text: str) -> None:
    logger.info(f"\n[{step}/7] {text}")


def _box_proof(regrasp: list[Path], commanded: list[Path], out: Path, plan: Plan) -> str:
    cell = load_rig("cell")
    measured = load_rig(out / "data" / "regrasp" / "rig.toml")
    by_command = load_rig(out / "data" / "commanded" / "rig.toml")
    wrist = recorded_boxes(regrasp, measured, "left_wrist", "tactile1")
    top = posed_boxes(cell, cell, "top", "tactile1", plan.poses)
    held, followed = (
        recorded_boxes(commanded, by_command, "left_wrist", "tactile1", hold=hold, in_contact=True)
        for hold in (True, False)
    )
    return (
        f"wrist view, measured openings: {wrist.text()}\n"
        f"top view, which depends on all six joints: {top.text()}\n"
        f"commanded openings in contact: IoU median {np.median(held.iou):.3f} with the opening held at contact onset, "
        f"{np.median(followed.iou):.3f} without the hold"
    )


ACTING = {"feel_vision": "vision", "feel_touch": "vision and touch"}
"""Rows of the study closed_loop_quick whose policies act in the demo, with their titles."""
_FIRST = 2000  # first seed of the roll-outs; no study uses these seeds


def _let_act(out: Path, plan: Plan, cores: int, pictures: Path) -> str:
    """Train the policies that act, roll them out and return their success as a table."""
    recording = out / "data" / "feel"
    simulate(recording, episodes=plan.demonstrations, seed=3, task="feel", gripper="measured", processes=cores)
    configs = {row: acting_config(out, plan, row) for row in ACTING}
    for config in configs.values():
        load_data(config, cores)  # fills the cache, which both policies share
    Parallel(n_jobs=min(cores, len(configs)))(delayed(_train_acting)(config) for config in configs.values())
    films: dict[str, list[Filmed]] = {}
    seeds = range(_FIRST, _FIRST + plan.pairs)
    played = rollout([config.out for config in configs.values()], "feel", seeds, film=films)
    write_png(pictures / "film.png", film_strip(films, "task feel, simulated cell, encoders from SCRATCH"))
    return played.text()


def _train_acting(config: TrainConfig) -> None:
    train_to_the_end(config, load_data(config, 1, progress=False), progress=False)


def _draw_run(config: TrainConfig, data: Data, summary: Summary, pictures: Path) -> None:
    title = "demo run, encoders from SCRATCH"
    draw_curves(read_metrics(Path(config.out) / "metrics.jsonl"), pictures / "curves.png", title)
    key = views_of(config)[0].key
    draw_recall(summary.views[key], pictures / "recall.png", title)
    draw_maps(config.out, pictures, data=data, overwrite=True)


def _summary(
    size: Size, proof: str, verdicts: Mapping[str, str], summary: Summary, proof_of_touch: str, minutes: float
) -> str:
    view, error = next(iter(summary.views.values())), summary.action_error
    assert view.opening_only is not None and error is not None and error.standing_still_per_column is not None
    loss, box, opening = view.loss, view.retrieval["both"], view.opening_only.retrieval["both"]
    own, minus = box.interval[1], view.minus_opening
    assert minus is not None
    learnt = loss.hsa <= 0.9 * loss.chance and own is not None and own[0] > 1 / box.gallery and minus.above_zero
    verdict = (
        "Touch and sight are aligned: a touch retrieves its view more often than chance or the opening alone would."
        if learnt
        else "Alignment is not shown in this run: retrieval is not clearly above chance and above the opening alone."
    )
    note = "\n(Size smoke: too little data and training to learn anything. It only tests that every step runs.)\n"
    return f"""# Demo on the simulated cell

{verdict}
{note if size == "smoke" else ""}
Both encoders started from random weights (SCRATCH). The demo took {minutes:.1f} minutes.

## Is the box on the sensor?

{proof}

verify: {json.dumps(dict(verdicts))}

## Did touch and sight align? ({view.contacts} contacts of {summary.episodes_text})

| | value | compare with |
|---|---|---|
| HSA loss (SCRATCH) | {loss.hsa:.3f} | chance {loss.chance:.3f}; ratio {loss.hsa / loss.chance:.2f} |
| R@1 of {box.gallery} (SCRATCH) | {box.at[1]:.3f} {interval_text(own)} | chance {1 / box.gallery:.3f} |
| R@1 of the gripper's opening alone | {opening.at[1]:.3f} {interval_text(opening.interval[1])} | R@1 above |
| R@1 minus that of the opening, on the same contacts | {minus.text()} | 0 |

Intervals: 95 %, over {box.episodes} episodes. A gallery contains at most one moment per contact.

## Does the policy act? ({summary.episodes_text})

The mean absolute action error is {np.mean(error.per_column):.4f}, over joints (rad) and gripper (share of its stroke).
A policy that stands still has an error of {np.mean(error.standing_still_per_column):.4f}.

## Does touch make a policy act better?

In the task `feel`, only the touch tells to which side an object belongs. Both policies learnt from the same
demonstrations with the same number of steps; each seed is played with an object of either side, so a policy that does
not use touch is right at most half of the time.

```
{proof_of_touch}
```

## Pictures

film.png: both policies act; each row is one episode, with wrist image, top image and touch.
overlay_*.png: the projected box, its tokens and the touch. curves.png: loss and chance. recall.png: retrieval and its
baselines. Before and after training: gallery_*.png, touches and their nearest views; map_*.png, similarity of touches
to all tokens; matrix_*.png, cosines; attention_*.png, attention of the policy. After it: embedding_*.png, features.
"""
