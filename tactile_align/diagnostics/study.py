"""Comparison studies on the simulated cell: one resumable run per row and seed, and a table with intervals."""

import logging
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Literal

from tactile_align.calibration.rig import load_rig
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.evaluation import train_to_the_end
from tactile_align.diagnostics.intervals import TOO_FEW, interval_text
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.retrieval import retrieval
from tactile_align.diagnostics.summary import Recall, json_of, result_of
from tactile_align.errors import InputError
from tactile_align.files import read_json, write_text_atomically
from tactile_align.policies.build import LoadedRun
from tactile_align.simulation.record import simulate
from tactile_align.training.data import load_data

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """Variant that a study trains; one row of the result table.

    Attributes:
        name: Short name, also used in the names of the run folders.
        title: Name in the table.
        changes: Differences from the base config, nested as in the TOML file.
        unset: Keys that are removed from the base config, so that they have their default values.
        shift_px: Shift of the wrist camera's principal point in the rig, right and down, raw px. Every box is wrong by
            this shift, while the images do not change.
    """

    name: str
    title: str
    changes: dict[str, Any] = field(default_factory=dict)
    unset: Sequence[str] = ()
    shift_px: Sequence[float] = (0, 0)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a nested dict with changes applied; lists of dicts are merged item by item."""
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


FACTS = tomllib.loads(resources.files(__package__).joinpath("study.toml").read_text(encoding="utf-8"))
BASE = "crop"
CAMERA = FACTS["config"]["views"][0]["camera"]
TABLE = tuple(Row(name, **row) for name, row in FACTS["table"].items())
"""Rows of the main comparison."""
ABLATIONS = tuple(
    Row(name, **row | {"changes": merged(FACTS["table"][BASE]["changes"], row.get("changes", {}))})
    for name, row in FACTS["ablations"].items()
)
"""Rows that each change one thing in the row `BASE`."""
ROWS = {row.name: row for row in (*TABLE, *ABLATIONS)}
GROUPS = {"table": tuple(FACTS["table"]), "ablations": (BASE, *FACTS["ablations"])}


@dataclass(frozen=True)
class Cell:
    """Result of one run of a study, stored as RUN/result.json.

    Attributes:
        row: Name of the row.
        seed: Seed of the run.
        encoder: "SCRATCH", or the name of the vision encoder.
        steps: Number of training steps.
        training_moments: Number of training moments.
        resumed: Whether the training was stopped and resumed; `cpu_minutes` then covers only the last part.
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
        """Recall averaged over both directions."""
        return self.retrieval["both"]


RESULT = "result.json"
BOX_ROWS = ("mean", "attention", "grid", "crop")
COMPARED = ("whole", "opening")
CONTROLS = ("elsewhere", "crop_elsewhere")


def results(folder: Path) -> list[Cell]:
    """Return the finished runs of a study, in the order of the rows and seeds."""
    advice, order = "Delete the file; the study then trains this row again", list(ROWS)
    paths = folder.glob(f"runs/*/{RESULT}")
    cells = (result_of(Cell, read_json(path, advice), str(path)) for path in paths)
    return sorted(cells, key=lambda cell: (order.index(cell.row), cell.seed))


def table_text(cells: Sequence[Cell], gallery: int) -> str:
    """Return the Markdown table of finished runs, with its `verdicts`."""
    if not cells:
        return "no finished run yet\n"
    encoders = ", ".join(dict.fromkeys(cell.encoder for cell in cells))
    chance = cells[0].both.chance
    comparison, ablations = ([cell for cell in cells if cell.row in names] for names in GROUPS.values())
    parts = [
        f"Retrieval among {gallery} held-out contacts, averaged over both directions; encoders: {encoders}. "
        f"Chance: R@1 {chance[1]:.3f}, R@5 {chance[5]:.3f}. Intervals: 95 %, over episodes.\n"
    ]
    if comparison:
        parts += [_markdown(comparison), *(line + "\n" for line in verdicts(cells))]
    if any(cell.row != BASE for cell in ablations):
        parts += [f"Rows that change one thing in '{ROWS[BASE].title}':\n", _markdown(ablations)]
    return "\n".join(parts)


def _markdown(cells: Sequence[Cell]) -> str:
    lines = ["| row | seed | R@1 | R@5 | median rank | CPU min |", "|---|---|---|---|---|---|"]
    for cell in cells:
        both = cell.both
        lines.append(
            f"| {ROWS[cell.row].title} | {cell.seed} | {both.at[1]:.3f} {interval_text(both.interval[1])} "
            f"| {both.at[5]:.3f} "
            f"| {both.median_rank:.1f} | {cell.cpu_minutes:.1f}{' (resumed)' if cell.resumed else ''} |"
        )
    return "\n".join(lines) + "\n"


def verdicts(cells: Sequence[Cell]) -> list[str]:
    """Return one sentence per seed on the results of the main comparison.

    The sentence states by how much the best box differs from the whole image and from the opening, on the same
    contacts, and whether the boxes elsewhere in the image are at chance. The intervals of the differences are corrected
    for the comparisons of all boxes with both rows (Bonferroni), because the best box is chosen on the same episodes. A
    seed with missing rows has no sentence.
    """
    lines = []
    for seed in sorted({cell.seed for cell in cells}):
        rows = {cell.row: cell.both for cell in cells if cell.seed == seed}
        if not all(row.name in rows for row in TABLE):
            continue
        best, comparisons = max(BOX_ROWS, key=lambda name: rows[name].at[1]), len(BOX_ROWS) * len(COMPARED)
        minus = {name: rows[best].minus(rows[name], comparisons) for name in COMPARED}
        beaten = [ROWS[name].title for name, difference in minus.items() if difference.above_zero]
        lines.append(
            f"seed {seed}: the best box is '{ROWS[best].title}'; it is better than "
            f"{' and '.join(beaten) or 'neither whole image nor opening only'} (R@1 on the same contacts minus "
            + ", ".join(f"{ROWS[name].title} {difference.text()}" for name, difference in minus.items())
            + f"; corrected for {comparisons} comparisons); "
            + "; ".join(_at_chance(ROWS[name].title, rows[name]) for name in CONTROLS)
        )
    return lines


def _at_chance(title: str, recall: Recall) -> str:
    interval, chance = recall.interval[1], recall.chance[1]
    if interval is None:
        return f"'{title}' has {TOO_FEW}"
    return (
        f"the interval of '{title}' {'contains' if interval[0] <= chance <= interval[1] else 'does NOT contain'} chance"
    )


@dataclass(frozen=True)
class Plan:
    """Sizes of a study.

    Attributes:
        episodes: Number of recorded episodes, each of 10 to 20 contacts with objects of random size.
        held_out: Share of the episodes that are held out for evaluation if below 1, otherwise their number.
        steps: Number of training steps of a run.
        batch_size: Number of moments in a batch.
        gallery: Number of candidates in the retrieval gallery.
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
    """Run the missing runs of a study and return its table, which is also written to OUT/table.md.

    Finished runs are kept; a run that was stopped resumes from its last checkpoint.

    Args:
        out: Folder of the study, for recordings, runs and table.
        rows: Names of rows, or of groups of rows. table: the main comparison. ablations: changes of the best row.
        seeds: Seeds; each row has one run per seed, and all runs are judged on the same episodes.
        size: Size of the study. full: the complete study. smoke: a test of about one minute that all parts work.
        processes: Number of processes that record and prepare episodes.
        threads: Number of torch threads of a run.
        progress: Show progress bars on stderr.

    Returns:
        The table as Markdown.

    Raises:
        InputError: A row name is unknown; the message lists the known names. Or a run was stopped (Ctrl-C, SIGTERM)
            and has no result until its training is complete.
    """
    folder, plan = Path(out), PLANS[size]
    names = dict.fromkeys(name for given in rows for name in GROUPS.get(given, (given,)))
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise InputError(f"unknown rows: {', '.join(unknown)}. Use only names from: {', '.join((*GROUPS, *ROWS))}")
    data, episodes = folder / "data", plan.episodes
    simulate(data, episodes=episodes, seed=11, gripper="measured", processes=processes, progress=progress)
    for seed, name in product(seeds, names):
        config = config_of(folder, ROWS[name], seed, plan, threads)
        if not (Path(config.out) / RESULT).exists():
            logger.info(f"{ROWS[name].title}, seed {seed}")
            _run(folder, ROWS[name], config, plan, processes, progress)
    text = table_text(results(folder), plan.gallery)
    write_text_atomically(folder / "table.md", text)
    return text


def config_of(folder: Path, row: Row, seed: int, plan: Plan, threads: int = 1) -> TrainConfig:
    """Return the training config of one run of a study.

    Args:
        folder: Folder of the study.
        row: Row of the run.
        seed: Seed of the run.
        plan: Sizes of the study.
        threads: Number of torch threads.
    """
    data, every = folder / "data", max(1, plan.steps // 4)
    rig = folder / "rigs" / f"{row.name}.toml" if any(row.shift_px) else data / "rig.toml"
    base = {name: value for name, value in FACTS["config"].items() if name not in row.unset}
    sizes = {
        "data": [{"path": str(data), "rig": str(rig)}],
        "out": str(folder / "runs" / f"{row.name}-s{seed}"),
        "optimiser": {"warmup_steps": min(40, plan.steps // 2)},
        "batch_size": plan.batch_size,
        "steps": plan.steps,
        "held_out": plan.held_out,
        "validate_every": every,
        "save_every": every,
        "cache": str(folder / "cache"),
        "threads": threads,
        "seed": seed,
    }
    return TrainConfig.model_validate(merged(merged(base, sizes), row.changes))


def _run(folder: Path, row: Row, config: TrainConfig, plan: Plan, processes: int, progress: bool) -> None:
    if any(row.shift_px):
        _write_shifted_rig(folder, row)
    data = load_data(config, processes, progress)
    began = time.process_time()
    started = any((Path(config.out) / "checkpoints").glob("step_*.pt"))
    train_to_the_end(config, data, progress)
    minutes = (time.process_time() - began) / 60
    loaded = LoadedRun.load(Path(config.out), config, data.judged, "retrieval")
    features = pair_features(loaded, loaded.model.views[0].key)
    tau, w, episode, contact = (features[name] for name in ("h_tau", "h_w", "episode", "contact"))
    towers = loaded.alignment.towers
    cell = Cell(
        row=row.name,
        seed=config.seed,
        encoder="SCRATCH" if towers.scratch else towers.vision.name,
        steps=config.steps,
        training_moments=len(data.train),
        resumed=started,
        cpu_minutes=round(minutes, 2),
        retrieval=retrieval(tau, w, episode, contact, gallery=plan.gallery),
    )
    write_text_atomically(Path(config.out) / RESULT, json_of(cell))


def _write_shifted_rig(folder: Path, row: Row) -> None:
    rig = load_rig(folder / "data" / "rig.toml")
    K = [list(line) for line in rig.camera(CAMERA).K]
    K[0][2] += row.shift_px[0]
    K[1][2] += row.shift_px[1]
    (folder / "rigs").mkdir(exist_ok=True)
    rig.with_camera(CAMERA, K=K).save(folder / "rigs" / f"{row.name}.toml")
