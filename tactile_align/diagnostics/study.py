"""Comparison tables on the simulated cell: one run a row and seed, resumable, printed with intervals."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tactile_align.calibration.rig import load_rig
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.evaluation import train_to_the_end
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.retrieval import retrieval
from tactile_align.diagnostics.summary import Recall, json_of, result_of
from tactile_align.errors import InputError
from tactile_align.files import read_json, write_text_atomically
from tactile_align.policies.loaded_run import LoadedRun
from tactile_align.simulation.record import simulate
from tactile_align.training.data import load_data


@dataclass(frozen=True)
class Row:
    """One row of a study.

    Attributes:
        name: Short name, also its folder's.
        title: What the table calls it.
        changes: What differs from the base config, nested as in the TOML file.
        shift_px: How far the wrist camera's principal point is moved in the rig, right and down, raw px: every box
            is off by that much while the images are as they were.
    """

    name: str
    title: str
    changes: dict[str, Any] = field(default_factory=dict)
    shift_px: tuple[float, float] = (0.0, 0.0)


TABLE = (
    Row("opening", "opening only", {"region": "opening"}),
    Row("whole", "whole image, grid", {"features": {"place": "whole"}}),
    Row("elsewhere", "box elsewhere, grid", {"features": {"place": "elsewhere"}}),
    Row("mean", "mean in box", {"features": {"pooling": "mean"}}),
    Row("attention", "attention in box", {"features": {"pooling": "attention"}}),
    Row("grid", "grid in box"),
    Row("crop", "crop at box, grid", {"views": [{"zoom": 2.2}]}),
    Row("crop_elsewhere", "crop elsewhere, grid", {"views": [{"zoom": 1.2}]}, shift_px=(270.0, -148.0)),
)
"""The main comparison; all rows have the same encoders, the same number of tokens, steps, batches and negatives.

A box elsewhere is cut from tokens that have attended to the whole image; a crop elsewhere shows the encoder nothing
else. It lies to the upper right of the fingers and is small, so that neither a finger nor the border of the frame
comes into view: either would tell the gripper's opening.
"""

CROP = {"views": [{"zoom": 2.2}]}
BASE = "crop"
ABLATIONS = (
    Row("crop_mean", "mean", {**CROP, "features": {"pooling": "mean"}}),
    Row("crop_mean_block", "mean after one trainable block", {**CROP, "features": {"pooling": "mean_block"}}),
    Row("crop_attention", "attention", {**CROP, "features": {"pooling": "attention"}}),
    Row("crop_gaussian", "Gaussian box weights", {**CROP, "features": {"pooling": "gaussian"}}),
    Row("contact_off", "contact gate off", {**CROP, "hsa": {"require_contact": False}, "contact_share": None}),
    Row("gap_off", "time gap off", {**CROP, "hsa": {"min_gap": 0}}),
    Row("ceiling", "same-touch ceiling 0.98", {**CROP, "hsa": {"touch_ceiling": 0.98}}),
    Row("difference", "touch as difference to its reference", {**CROP, "features": {"touch_input": "difference"}}),
    Row("finger", "region of the other finger as negative", {**CROP, "hsa": {"finger_negative": True}}),
    Row("regions", "2 region negatives", {**CROP, "hsa": {"region_negatives": 2}}),
    Row("hardness", "hardness 1", {**CROP, "hsa": {"hardness": 1.0}}),
    Row("hardest", "32 hardest negatives", {**CROP, "hsa": {"hardest": 32}}),
    Row("bank", "memory bank of 1024", {**CROP, "hsa": {"bank": 1024}}),
    Row("one_way", "one way, as the original", {**CROP, "hsa": {"symmetric": False}}),
    Row(
        "mse",
        "pairs pulled together only (MSE)",
        {**CROP, "hsa": {"kind": "mse", "learn_temperature": False, "symmetric": False}},
    ),
    *(
        Row(
            f"kappa_{int(1000 * kappa):03d}",
            f"kappa {kappa}",
            {**CROP, "hsa": {"temperature": kappa, "learn_temperature": False}},
        )
        for kappa in (0.03, 0.07, 0.1, 0.2, 0.3)
    ),
    *(Row(f"shift_{px:02d}", f"box {px} px to the right", CROP, shift_px=(float(px), 0.0)) for px in (5, 10, 25, 50)),
    *(Row(f"left_{px:02d}", f"box {px} px to the left", CROP, shift_px=(-float(px), 0.0)) for px in (25, 50)),
    *(
        Row(f"ahead_{mm:02d}", f"box {mm} mm in front of the pad", {"views": [{"zoom": 2.2, "ahead_m": mm / 1000}]})
        for mm in (8, 16, 24)
    ),
)
"""Changes of the best row of the comparison, the crop, one at a time; there the differences stand out of the noise.

A box moved to the right moves onto the grasped object, one moved to the left onto the finger.
"""

ROWS = {row.name: row for row in (*TABLE, *ABLATIONS)}
GROUPS = {"table": tuple(row.name for row in TABLE), "ablations": (BASE, *(row.name for row in ABLATIONS))}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a nested dict with changes; lists of dicts are merged item by item."""
    out = dict(base)
    for key, value in changes.items():
        old = out.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            out[key] = merged(old, value)
        elif isinstance(value, list) and isinstance(old, list) and all(isinstance(v, dict) for v in value):
            out[key] = [merged(o, v) for o, v in zip(old, value, strict=True)]
        else:
            out[key] = value
    return out


@dataclass(frozen=True)
class Cell:
    """Result of one run of a study, RUN/result.json.

    Attributes:
        row: Name of the row.
        seed: Seed of the run.
        encoder: "SCRATCH", or the vision encoder's name.
        steps: Training steps.
        training_moments: Moments trained on.
        resumed: Whether the training was stopped in between, so that the time is that of its last part.
        cpu_minutes: CPU time of the training, minutes.
        retrieval: Recall by direction: "touch to vision", "vision to touch", "both".
    """

    row: str
    seed: int
    encoder: str
    steps: int
    training_moments: int
    resumed: bool
    cpu_minutes: float
    retrieval: dict[str, Recall]

    @property
    def both(self) -> Recall:
        """Recall of both directions averaged."""
        return self.retrieval["both"]


BOX_ROWS = ("mean", "attention", "grid", "crop")
CONTROLS = ("elsewhere", "crop_elsewhere")


def results(folder: Path) -> list[Cell]:
    """Return the finished runs of a study, in the order of the rows and seeds."""
    cells = [
        result_of(Cell, read_json(path, "Delete it: the study trains this row again"), str(path))
        for path in folder.glob("runs/*/result.json")
    ]
    order = list(ROWS)
    return sorted(cells, key=lambda cell: (order.index(cell.row), cell.seed))


def table_text(cells: Sequence[Cell], gallery: int) -> str:
    """Return the table of finished runs as Markdown, with what it shows and what it does not."""
    if not cells:
        return "no finished run yet\n"
    encoders = ", ".join(dict.fromkeys(cell.encoder for cell in cells))
    chance = cells[0].both.chance
    of_table = [cell for cell in cells if ROWS[cell.row] in TABLE]
    of_ablations = [cell for cell in cells if ROWS[cell.row] in ABLATIONS or cell.row == BASE]
    head = (
        f"Retrieval among {gallery} held-out contacts, both directions averaged; encoders: {encoders}. "
        f"Chance: R@1 {chance[1]:.3f}, R@5 {chance[5]:.3f}. Intervals: 95 %, bootstrap over episodes.\n"
    )
    parts = [head]
    if of_table:
        parts += [_markdown(of_table), *(line + "\n" for line in verdicts(cells))]
    if any(cell.row != BASE for cell in of_ablations):
        parts += [f"Changes of '{ROWS[BASE].title}', one at a time:\n", _markdown(of_ablations)]
    return "\n".join(parts)


def _markdown(cells: Sequence[Cell]) -> str:
    lines = ["| row | seed | R@1 | R@5 | median rank | CPU min |", "|---|---|---|---|---|---|"]
    for cell in cells:
        both = cell.both
        low, high = both.interval[1]
        lines.append(
            f"| {ROWS[cell.row].title} | {cell.seed} | {both.at[1]:.3f} [{low:.3f}, {high:.3f}] | {both.at[5]:.3f} "
            f"| {both.median_rank:.1f} | {cell.cpu_minutes:.1f}{' (resumed)' if cell.resumed else ''} |"
        )
    return "\n".join(lines) + "\n"


def verdicts(cells: Sequence[Cell]) -> list[str]:
    """Return, seed by seed, whether a box beats whole image and opening, and whether elsewhere is at chance."""
    lines = []
    for seed in sorted({cell.seed for cell in cells}):
        rows = {cell.row: cell.both for cell in cells if cell.seed == seed}
        if not all(row.name in rows for row in TABLE):
            continue
        best = max(BOX_ROWS, key=lambda name: rows[name].at[1])
        low = rows[best].interval[1][0]
        beaten = [ROWS[name].title for name in ("whole", "opening") if low > rows[name].interval[1][1]]
        lines.append(
            f"seed {seed}: the best box is '{ROWS[best].title}'; its interval lies above that of "
            f"{' and '.join(beaten) or 'none of whole image and opening only'}; "
            + "; ".join(_against_chance(name, rows[name]) for name in CONTROLS)
        )
    return lines


def _against_chance(name: str, both: Recall) -> str:
    low, high = both.interval[1]
    contains = low <= both.chance[1] <= high
    return f"the interval of '{ROWS[name].title}' {'contains' if contains else 'does NOT contain'} chance"


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
    loaded = LoadedRun.load(Path(config.out), config, data.held_out)
    features = pair_features(loaded, loaded.model.views[0].key)
    tau, w, episode, contact = (features[name] for name in ("h_tau", "h_w", "episode", "contact"))
    towers = loaded.alignment.towers
    cell = Cell(
        row=row.name,
        seed=seed,
        encoder="SCRATCH" if towers.scratch else towers.vision.name,
        steps=config.steps,
        training_moments=len(data.train),
        resumed=started,
        cpu_minutes=round(minutes, 2),
        retrieval=retrieval(tau, w, episode, contact, gallery=plan.gallery),
    )
    write_text_atomically(_result_path(folder, row, seed), json_of(cell))


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
