"""A small run folder for the tests of the report: written by hand, in the words of `train` and `evaluate`."""

import json
from pathlib import Path

import cv2
import numpy as np

from tactile_align.checks import Check, Report

VIEW = "left_wrist-tactile1"
CONFIG = """steps = {steps}
batch_size = 128
data = [{{ path = "data/regrasp", rig = "data/regrasp/rig.toml" }}]
"""


def recall(at: float, half: float, gallery: int = 64) -> dict[str, object]:
    """Return one entry of a retrieval summary."""
    values = {k: min(0.99, at * (1 + 0.4 * i)) for i, k in enumerate((1, 5, 10))}
    return {
        "at": values,
        "interval": {k: (max(0.0, v - half), min(1.0, v + half)) for k, v in values.items()},
        "median_rank": 4.0,
        "gallery": gallery,
        "chance": {k: k / gallery for k in values},
        "queries": 120,
        "episodes": 9,
    }


def summary(at: float = 0.42, base: float = 0.2, hsa: float = 3.1, view: str = VIEW) -> dict[str, object]:
    """Return a summary.json."""
    directions = ("touch to vision", "vision to touch", "both")
    return {
        "run": "demo",
        "encoder": "small SCRATCH",
        "judged_on": "test",
        "views": {
            view: {
                "moments": 500,
                "contacts": 120,
                "loss": {"hsa": hsa, "chance": 4.85, "batch": 128},
                "retrieval": {d: recall(at, 0.06) for d in directions},
                "opening_only": {
                    "loss": {"hsa": 4.2, "chance": 4.85, "batch": 128},
                    "retrieval": {d: recall(base, 0.05) for d in directions},
                },
                "minus_opening": {
                    "value": at - base,
                    "pairs": 120,
                    "episodes": 9,
                    "interval": [at - base - 0.06, at - base + 0.06],
                },
            }
        },
        "action_error": {
            "per_column": [0.02] * 7,
            "first_step": [0.01] * 7,
            "standing_still_per_column": [0.05] * 7,
            "moments": 900,
        },
    }


def write_report(file: Path, report: Report) -> None:
    """Write a report as a command's --json prints it."""
    file.write_text(report.json(), encoding="utf-8")


def make_run(folder: Path, name: str = "demo", steps: int = 300, view: str = VIEW, word: str = "") -> Path:
    """Write a run folder; `view` and `word` may be hostile."""
    run = folder / name
    (run / "pictures").mkdir(parents=True)
    (run / "config.toml").write_text(CONFIG.format(steps=steps) + f"# {word}\n", encoding="utf-8")
    lines = []
    for step in range(1, steps + 1, 10):
        loss = 4.85 * float(np.exp(-step / 500))
        lines.append({
            "kind": "train", "step": step, f"hsa/{view}": loss, f"chance/{view}": 4.85, "loss": loss, "l1": loss / 9,
            "temperature": 0.07, "gradient_norm": 1.0, "data_s": 0.01, "step_s": 0.2,
        })  # fmt: skip
    lines.append({"kind": "validation", "step": steps, f"hsa/{view}": 3.1, f"chance/{view}": 4.85, "loss": 3.1})
    lines.append({"kind": "train", "step": steps, "loss": 3.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    (run / "summary.json").write_text(json.dumps(summary(view=view)), encoding="utf-8")
    checks = (
        Check(f"box-on-sensor/{word}", f"Box on the sensor {word}", "pass", "0.98", 0.98, "", ">= 0.9"),
        Check("gripper-reading", "Commanded gripper", "warn", "61 %", advice="record the opening"),
    )
    write_report(
        run / "verification.json", Report("verify", f"rig cell {word}", checks, facts={"data_hash": "ab" * 32})
    )
    (run / "environment.txt").write_text("python 3.11.7\n", encoding="utf-8")
    (run / "statistics.json").write_text(json.dumps({"qpos_mean": [0.1, 0.2]}), encoding="utf-8")
    for i, step in enumerate((100, 200, 300)):
        image = np.full((60, 80, 3), 60 * (i + 1), np.uint8)
        cv2.imwrite(str(run / "pictures" / f"map_step_{step:05d}.png"), image)
    for episode in (0, 3):
        cv2.imwrite(str(run / "pictures" / f"overlay_episode_{episode}.png"), np.full((60, 80, 3), 90, np.uint8))
    cv2.imwrite(str(run / "pictures" / "gallery.png"), np.full((60, 80, 3), 120, np.uint8))
    return run
