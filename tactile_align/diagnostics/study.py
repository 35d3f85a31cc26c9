"""Comparison tables on the simulated cell: one run a row and seed, resumable, printed with intervals."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tactile_align.calibration.rig import load_rig
from tactile_align.diagnostics.evaluation import load_model, train_to_the_end
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.retrieval import retrieval
from tactile_align.diagnostics.study_rows import GROUPS, ROWS, Row, merged
from tactile_align.diagnostics.study_table import results, table_text
from tactile_align.errors import InputError
from tactile_align.files import write_text_atomically
from tactile_align.simulation.record import simulate
from tactile_align.training.config import TrainConfig
from tactile_align.training.data import load_data, views_of

logger = logging.getLogger(__name__)

CAMERA, SENSOR = "left_wrist", "tactile1"


@dataclass(frozen=True)
class Plan:
    """How much a study records and trains.

    Attributes:
        episodes: Recorded episodes of 10 to 20 contacts, objects scaled at random.
        held_out: Share of them that is only evaluated.
        steps: Training steps of a run.
        batch_size: Moments in a batch.
        gallery: Candidates of the retrieval.
    """

    episodes: int = 200
    held_out: float = 0.2
    steps: int = 320
    batch_size: int = 96
    gallery: int = 64


PLANS = {"full": Plan(), "smoke": Plan(episodes=5, held_out=2, steps=4, batch_size=16, gallery=8)}


def study(
    out: str | Path,
    rows: Sequence[str] = ("table",),
    seeds: Sequence[int] = (0, 1, 2),
    size: Literal["full", "smoke"] = "full",
    *,
    processes: int = 1,
    threads: int = 1,
    progress: bool = True,
) -> str:
    """Run what is missing of a study and return its table, also written to OUT/table.md.

    Finished runs are kept; a run that was stopped goes on from its last checkpoint.

    Args:
        out: Folder of the study: recordings, runs, table.
        rows: Names of rows, or "table" (the main comparison) or "ablations".
        seeds: One run a row and seed; the seed also splits the episodes.
        size: "smoke" proves in a minute that all parts work together, and nothing else.
        processes: How many processes record and prepare episodes.
        threads: Torch threads of a run.
        progress: Show progress bars on stderr.

    Raises:
        ValueError: Unknown row names; the known ones are listed.
        InputError: A run was stopped (Ctrl-C, SIGTERM); it has no result until it has been trained to its end.
    """
    folder, plan = Path(out), PLANS[size]
    wanted = _rows(rows)
    simulate(
        folder / "data",
        episodes=plan.episodes,
        seed=11,
        task="regrasp",
        gripper="measured",
        processes=processes,
        progress=progress,
    )
    for seed in seeds:
        for row in wanted:
            if not _result_path(folder, row, seed).exists():
                logger.info(f"{row.title}, seed {seed}")
                _run(folder, row, seed, plan, processes, threads, progress)
    text = table_text(results(folder), plan.gallery)
    write_text_atomically(folder / "table.md", text)
    return text


def config_of(folder: Path, row: Row, seed: int, plan: Plan, threads: int = 1) -> TrainConfig:
    """Return the training config of one run."""
    tower = {"model": "ViT-demo", "pretrained": "scratch", "stem": "conv"}
    data = folder / "data"
    rig = data / "rig.toml" if not any(row.shift_px) else folder / "rigs" / f"{row.name}.toml"
    base: dict[str, Any] = {
        "data": [{"path": str(data), "rig": str(rig)}],
        "views": [{"camera": CAMERA, "sensor": SENSOR}],
        "out": str(_run_folder(folder, row, seed)),
        "features": {
            "vision": {**tower, "image_size": [128, 96]},
            "touch": {**tower, "image_size": [48, 64]},
            "margin": 2.2,
            "dim": 128,
        },
        "hsa": {"learn_temperature": True, "symmetric": True, "min_gap": 8},
        "train_policy": False,
        "optimiser": {"lr_encoder": 1e-3, "warmup_steps": min(40, plan.steps // 2), "clip_norm": 1.0},
        "augment": {"shift_px": 4, "gain": 0.3, "shuffle_channels": 1.0},
        "batch_size": plan.batch_size,
        "contact_share": 1.0,
        "steps": plan.steps,
        "held_out": plan.held_out,
        "validate_every": max(1, plan.steps // 4),
        "validation_batches": 4,
        "save_every": max(1, plan.steps // 4),
        "cache": str(folder / "cache"),
        "threads": threads,
        "seed": seed,
        "unverified_rig": True,
    }
    return TrainConfig.model_validate(merged(base, row.changes))


def _run(folder: Path, row: Row, seed: int, plan: Plan, processes: int, threads: int, progress: bool) -> None:
    config = config_of(folder, row, seed, plan, threads)
    if any(row.shift_px):
        _write_shifted_rig(folder, row)
    data = load_data(config, processes, progress)
    began = time.process_time()
    started = any((Path(config.out) / "checkpoints").glob("step_*.pt"))
    train_to_the_end(config, data, progress)
    minutes = (time.process_time() - began) / 60
    model = load_model(Path(config.out), config, data.held_out)
    key = views_of(config)[0].key
    features = pair_features(model, data.held_out, config, key)
    found = retrieval(
        features["h_tau"], features["h_w"], features["episode"], features["contact"], gallery=plan.gallery
    )
    assert model.towers is not None
    result = {
        "row": row.name,
        "seed": seed,
        "encoder": "SCRATCH" if model.towers.scratch else model.towers.vision.name,
        "steps": config.steps,
        "training_moments": len(data.train),
        "resumed": started,
        "cpu_minutes": round(minutes, 2),
        "retrieval": {name: recall.as_dict() for name, recall in found.items()},
    }
    write_text_atomically(_result_path(folder, row, seed), json.dumps(result, indent=2) + "\n")


def _write_shifted_rig(folder: Path, row: Row) -> None:
    rig = load_rig(folder / "data" / "rig.toml")
    K = [list(line) for line in rig.camera(CAMERA).K]
    K[0][2] += row.shift_px[0]
    K[1][2] += row.shift_px[1]
    (folder / "rigs").mkdir(exist_ok=True)
    rig.with_camera(CAMERA, K=K).save(folder / "rigs" / f"{row.name}.toml")


def _rows(names: Sequence[str]) -> list[Row]:
    expanded = [name for given in names for name in GROUPS.get(given, (given,))]
    unknown = [name for name in expanded if name not in ROWS]
    if unknown:
        raise InputError(f"no such rows: {', '.join(unknown)}. Known: {', '.join((*GROUPS, *ROWS))}")
    return [ROWS[name] for name in dict.fromkeys(expanded)]


def _run_folder(folder: Path, row: Row, seed: int) -> Path:
    return folder / "runs" / f"{row.name}-s{seed}"


def _result_path(folder: Path, row: Row, seed: int) -> Path:
    return _run_folder(folder, row, seed) / "result.json"
