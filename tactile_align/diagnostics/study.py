"""Studies: resumable training runs of the rows and seeds of a study file, and tables with paired differences."""

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from tactile_align.calibration.rig import load_rig
from tactile_align.config.data import DataConfig
from tactile_align.config.study import STANDING_STILL, GroupConfig, StudyConfig
from tactile_align.config.train import TrainConfig, load_config
from tactile_align.diagnostics.actions import POLICY, STILL, action_moments
from tactile_align.diagnostics.evaluation import train_to_the_end
from tactile_align.diagnostics.intervals import interval_text, mean_interval
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.retrieval import retrieval
from tactile_align.diagnostics.summary import ERRORS, Difference, JudgedOn, Recall, json_of, judged_text, result_of
from tactile_align.errors import FactError, InputError
from tactile_align.facts import parse
from tactile_align.files import read_json, read_toml, write_text_atomically
from tactile_align.moments.dataset import Moments
from tactile_align.policies.alignment import Alignment
from tactile_align.policies.build import LoadedRun
from tactile_align.simulation.record import simulate
from tactile_align.training.data import load_data
from tactile_align.training.state import FREE

logger = logging.getLogger(__name__)
RESULT = "result.json"


@dataclass(frozen=True)
class Cell:
    """Result of one run of a study: one row of the study file with one seed. It is stored as RUN/result.json.

    Attributes:
        row: Name of the row of the study file, i.e. of the variant of the config.
        seed: Seed of the run.
        encoder: Name of the vision encoder, "SCRATCH" if it has no pretrained weights, or "none" without encoder.
        steps: Number of training steps.
        training_moments: Number of training moments.
        head_parameters: Number of parameters of the layers that compute the region feature, h_w, from the vision tokens
            or from the gripper's opening.
        resumed: Whether the training was stopped and resumed; `cpu_minutes` then covers only the last part.
        cpu_minutes: CPU time of the training, minutes.
        judged_on: Episodes on which the values were computed; see `Summary.judged_on`.
        selected: How the weights were selected, such as "best held-out R@1 0.120, step 400".
        values: R@1 of each contact, averaged over both directions, or the action error of each moment; see
            `actions.ActionMoments.of`.
        episodes: Episode of each value: path of the file, with #NAME if the file holds several episodes.
        places: For each value, the index of its contact, or the frame number of its moment, in the episode.
        recall: Recall averaged over both directions; None if the study measures the action error.
        standing_still: Action error of each moment if every action of the chunk equals the recorded state; None if the
            study measures retrieval, or if state and action differ in length.
        phases: Phase of each moment, "free", "contact" or "transition"; None if the study measures retrieval.
    """

    row: str
    seed: int
    encoder: str
    steps: int
    training_moments: int
    head_parameters: int
    resumed: bool
    cpu_minutes: float
    judged_on: JudgedOn
    selected: str
    values: list[float]
    episodes: list[str]
    places: list[int]
    recall: Recall | None = None
    standing_still: list[float] | None = None
    phases: list[str] | None = None

    def by_place(self, values: Sequence[float] | None) -> dict[tuple[str, int], float]:
        """Return `values`, one per entry of `episodes`, by (episode, place); an empty dict if `values` is None."""
        return dict(zip(zip(self.episodes, self.places, strict=True), values, strict=True)) if values else {}


def load_study(name_or_path: str | Path) -> StudyConfig:
    """Return the study in a TOML file, or the shipped study with a name.

    Raises:
        FactError, InputError: The file or name does not exist, the file is not TOML, or a key is unknown, missing or
            wrong, also in the training config of a row, or a row of an action study trains no policy. The message
            states the key.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        folder = Path(str(resources.files(__package__).joinpath("studies")))
        path = folder / f"{name_or_path}.toml"
        if not path.is_file():
            raise FactError(
                f"'{name_or_path}': no such study. Give the path of a .toml file, or a shipped name: "
                f"{', '.join(sorted(file.stem for file in folder.glob('*.toml')))}"
            )
    if not path.is_file():
        raise FactError(f"{path}: no such file. Give the path of a study file, or the name of a shipped study")
    plan = parse(StudyConfig, {**read_toml(path), "name": path.stem}, str(path))
    for row in plan.rows:
        config = config_of(plan, Path(path.stem), row, plan.seeds[0])
        if plan.measure == "action" and not config.train_policy:
            raise InputError(
                f"{path}: row {row} has train_policy = false, but measure = 'action' needs a policy. Set train_policy "
                f"= true, or measure = 'retrieval'"
            )
    return plan


def study(
    file: str | Path,
    out: str | Path | None = None,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    *,
    processes: int = 1,
    progress: bool = True,
) -> str:
    """Run the missing runs of a study and return its tables, which are also written to OUT/table.md.

    A run trains one row of the file with one seed. Finished runs are kept; a run that was stopped resumes from its last
    checkpoint.

    Args:
        file: Path of a study file, or name of a shipped study.
        out: Folder of the study, for recordings, runs and tables. None: runs/NAME.
        rows: Names of rows or groups of rows. Empty: all rows.
        seeds: Seeds; each row has one run per seed. Empty: the seeds of the file.
        processes: Number of runs at a time, and of processes that record episodes.
        progress: Show progress bars on stderr.

    Returns:
        The tables as Markdown.

    Raises:
        FactError, InputError: The study file is wrong, or a row name is unknown. Or a run in the folder has another
            config than the study file states, or was stopped (Ctrl-C, SIGTERM) before its end.
    """
    plan = load_study(file)
    chosen = list(product(seeds or plan.seeds, plan.row_names(tuple(rows))))
    folder = Path(out or f"runs/{plan.name}")
    if plan.recording is not None:
        simulate(folder / "data", **plan.recording.model_dump(), processes=processes, progress=progress)
    for row in dict.fromkeys(row for _, row in chosen):
        _write_shifted_rigs(plan, folder, row)
    configs = {(seed, row): config_of(plan, folder, row, seed) for seed, row in chosen}
    missing = [cell for cell, config in configs.items() if not _done(config)]
    for seed, row in missing:
        logger.info(f"{plan.title(row)}, seed {seed}: {command(file, folder, row, seed)}")
    work = (delayed(_run)(plan, row, configs[seed, row], progress) for seed, row in missing)
    Parallel(n_jobs=processes)(work)
    text = table_text(plan, results(folder))
    write_text_atomically(folder / "table.md", text)
    return text


def command(file: str | Path, folder: Path, row: str, seed: int) -> str:
    """Return the command line that trains and evaluates one run of a study.

    Args:
        file: Path of the study file, or name of a shipped study.
        folder: Folder of the study.
        row: Name of a row of the study file.
        seed: Seed of the run.
    """
    return shlex.join(["tactile-align", "study", str(file), str(folder), "--rows", row, "--seeds", str(seed)])


def commands(
    file: str | Path, out: str | Path | None = None, rows: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[str]:
    """Return the command line of every missing run of a study; the arguments are those of `study`."""
    plan = load_study(file)
    folder = Path(out or f"runs/{plan.name}")
    cells = product(seeds or plan.seeds, plan.row_names(tuple(rows)))
    return [command(file, folder, row, seed) for seed, row in cells if not _done(config_of(plan, folder, row, seed))]


def config_of(plan: StudyConfig, folder: Path, row: str, seed: int) -> TrainConfig:
    """Return the training config of one run of a study.

    Args:
        plan: The study.
        folder: Folder of the study, which contains the run folders.
        row: Name of a row of the study file.
        seed: Seed of the run.
    """
    config = _with_true_boxes(plan, folder, row, seed)
    if not any(plan.rows[row].shift_px):
        return config
    data = [entry.model_copy(update={"rig": str(rig)}) for entry, rig in _shifted_rigs(config, folder, row)]
    return config.model_copy(update={"data": tuple(data)})


def _with_true_boxes(plan: StudyConfig, folder: Path, row: str, seed: int) -> TrainConfig:
    entries: dict[str, Any] = {"out": str(folder / "runs" / f"{row}-s{seed}"), "seed": seed}
    if plan.recording is not None:
        data = folder / "data"
        entries |= {"data": [{"path": str(data), "rig": str(data / "rig.toml")}], "cache": str(folder / "cache")}
    return plan.train_config(row, **entries)


def _shifted_rigs(config: TrainConfig, folder: Path, row: str) -> list[tuple[DataConfig, Path]]:
    """Return each [[data]] entry of the config, with the path of a copy of its rig in which the cameras are shifted."""
    return [(entry, folder / "rigs" / f"{row}_{number}.toml") for number, entry in enumerate(config.data)]


def _write_shifted_rigs(plan: StudyConfig, folder: Path, row: str) -> None:
    shift = plan.rows[row].shift_px
    if not any(shift):
        return
    config = _with_true_boxes(plan, folder, row, plan.seeds[0])
    (folder / "rigs").mkdir(parents=True, exist_ok=True)
    for entry, path in _shifted_rigs(config, folder, row):
        rig = load_rig(entry.rig_source)
        for camera in dict.fromkeys(view.camera for view in config.views):
            K = [list(line) for line in rig.camera(camera).K]
            K[0][2] += shift[0]
            K[1][2] += shift[1]
            rig = rig.with_camera(camera, K=K)
        rig.save(path)


def _done(config: TrainConfig) -> bool:
    """Return whether a run has a result.

    Raises:
        InputError: The run was trained with another config.
    """
    out = Path(config.out)
    if not (out / RESULT).exists():
        return False
    now, then = (c.model_dump(mode="json", exclude=FREE) for c in (config, load_config(out / "config.toml")))
    if changed := [key for key in now if now[key] != then[key]]:
        raise InputError(
            f"{out}: this run was trained with another config than the study file states now; {', '.join(changed)} "
            f"changed. Use another folder for the changed study, or delete this run to train it again"
        )
    return True


def _run(plan: StudyConfig, row: str, config: TrainConfig, progress: bool) -> None:
    """Train one run to its end, evaluate it and write its result."""
    out = Path(config.out)
    data = load_data(config, progress=progress)
    began, resumed = time.process_time(), any((out / "checkpoints").glob("step_*.pt"))
    train_to_the_end(config, data, progress)
    minutes = (time.process_time() - began) / 60
    run = LoadedRun.load(out, config, data.judged, plan.measure)
    alignment = run.model.alignment
    encoder, head = "none", 0
    if alignment is not None:
        encoder = "SCRATCH" if alignment.towers.scratch else alignment.towers.vision.name
        head = head_parameters(alignment)
    cell = Cell(
        row=row,
        seed=config.seed,
        encoder=encoder,
        steps=config.steps,
        training_moments=len(data.train),
        head_parameters=head,
        resumed=resumed,
        cpu_minutes=round(minutes, 2),
        judged_on=data.judged_on,
        selected=run.selected,
        **(retrieval_of(run, plan.gallery) if plan.measure == "retrieval" else actions_of(run, data.train)),
    )
    write_text_atomically(out / RESULT, json_of(cell))


def head_parameters(alignment: Alignment) -> int:
    """Return the number of parameters of the layers that compute the region feature h_w; see `Cell`."""
    towers = alignment.towers
    opening = alignment.opening_region
    parts = (towers.region_pooling, towers.region_mlp) if opening is None else (opening,)
    return sum(p.numel() for part in parts for p in part.parameters())


def retrieval_of(run: LoadedRun, gallery: int) -> dict[str, Any]:
    """Return the entries of `Cell` that are computed from retrieval in the first view.

    Raises:
        InputError: There are fewer contacts than `gallery`, the number of candidates.
    """
    features = pair_features(run, run.model.views[0].key)
    tau, w, episode, contact = (features[name] for name in ("h_tau", "h_w", "episode", "contact"))
    recall = retrieval(tau, w, episode, contact, gallery=gallery)["both"]
    assert recall.hits is not None
    names = [str(job.ref) for job in run.moments.jobs]
    return {
        "values": list(recall.hits.at_1),
        "episodes": [names[e] for e in recall.hits.episode],
        "places": list(recall.hits.contact),
        "recall": replace(recall, hits=None),
    }


def actions_of(run: LoadedRun, train: Moments) -> dict[str, Any]:
    """Return the entries of `Cell` that are computed from action errors; arguments as for `actions.action_moments`."""
    found = action_moments(run, train)
    names = [str(job.ref) for job in run.moments.jobs]
    return {
        "values": found.of(POLICY).round(6).tolist(),
        "episodes": [names[e] for e in found.episode],
        "places": found.time.tolist(),
        "standing_still": found.of(STILL).round(6).tolist() if STILL in found.errors else None,
        "phases": found.phase.tolist(),
    }


def results(folder: Path) -> list[Cell]:
    """Return the finished runs of a study, sorted by row and seed."""
    advice = "Delete the file; the study then evaluates this run again"
    paths = sorted(folder.glob(f"runs/*/{RESULT}"))
    cells = (result_of(Cell, read_json(path, advice), str(path)) for path in paths)
    return sorted(cells, key=lambda cell: (cell.row, cell.seed))


def table_text(plan: StudyConfig, cells: Sequence[Cell]) -> str:
    """Return the Markdown tables of finished runs: the results of each run, and the paired differences of each group.

    Runs of rows that the study file no longer contains are left out.

    Raises:
        InputError: Some runs are evaluated on test episodes, others on held-out episodes.
    """
    cells = [cell for row in plan.rows for cell in cells if cell.row == row]
    if not cells:
        return "no finished run yet\n"
    parts = {cell.judged_on: f"{cell.row}, seed {cell.seed}" for cell in cells}
    if len(parts) > 1:
        found = " and ".join(f"{name} on {judged_text(part)}" for part, name in parts.items())
        raise InputError(
            f"study {plan.name}: {found}; a study needs runs that are judged on the same part. Set the same held_out, "
            f"test and split_seed in all rows"
        )
    encoders = ", ".join(dict.fromkeys(cell.encoder for cell in cells))
    recall, episodes = cells[0].recall, judged_text(cells[0].judged_on)
    if recall is None:
        head = f"Mean absolute action error on {episodes}, mean over all columns, robot units, zero latent"
    else:
        head = (
            f"Retrieval among {recall.gallery} contacts of {episodes}, averaged over both directions. Chance: R@1 "
            f"{recall.chance[1]:.3f}, R@5 {recall.chance[5]:.3f}"
        )
    tables = [f"{head}. Encoders: {encoders}. Intervals: 95 %, over episodes.\n", _runs_table(plan, cells)]
    for name, group in plan.compared().items():
        if table := _differences_table(plan, group, cells):
            tables += [f"Group {name}: {table}"]
    return "\n".join(tables)


def _runs_table(plan: StudyConfig, cells: Sequence[Cell]) -> str:
    columns: tuple[str, ...] = ("action error", "in contact", "standing still")
    if plan.measure == "retrieval":
        columns = ("R@1", "R@5", "median rank", "head parameters")
    lines = [f"| row | seed | {' | '.join(columns)} | weights | CPU min |", "|---" * (len(columns) + 4) + "|"]
    for cell in cells:
        if cell.recall is not None:
            r = cell.recall
            measured = [f"{r.at[1]:.3f} {interval_text(r.interval[1])}", f"{r.at[5]:.3f}", f"{r.median_rank:.1f}"]
            measured.append(f"{cell.head_parameters:,}")
        else:
            values = np.array(cell.values)
            interval = mean_interval(values, np.array(cell.episodes), bounds=ERRORS)
            touching = values[np.array(cell.phases) == "contact"]
            others = ["-" if not len(v) else f"{np.mean(v):.4f}" for v in (touching, cell.standing_still or [])]
            measured = [f"{values.mean():.4f} {interval_text(interval)}", *others]
        minutes = f"{cell.cpu_minutes:.1f}{' (resumed)' if cell.resumed else ''}"
        entries = [plan.title(cell.row), str(cell.seed), *measured, cell.selected, minutes]
        lines.append(f"| {' | '.join(entries)} |")
    return "\n".join(lines) + "\n"


def _differences_table(plan: StudyConfig, group: GroupConfig, cells: Sequence[Cell]) -> str | None:
    """Return the table of a group's paired differences: each row minus the row that it is compared with.

    Both rows are compared at the same contacts (or moments), each averaged over the seeds that both rows have.
    """
    present = {cell.row for cell in cells}
    rows = [row for row in group.rows if row in present and row not in group.against]
    references = [row for row in group.against if row in present or row == STANDING_STILL]
    count = len(rows) * len(references)
    if not count:
        return None
    what, bounds = "R@1 on the same contacts", (0.0, 1.0)
    if plan.measure == "action":
        what, bounds = "action error on the same moments", ERRORS
    lines = [
        f"differences of the {what}, averaged over the seeds. All {count} intervals hold together with 95 % "
        f"(Bonferroni).\n",
        f"| row | seeds | {' | '.join(f'minus {plan.title(other)}' for other in references)} |",
        "|---" * (len(references) + 2) + "|",
    ]
    for row in rows:
        found = [paired(cells, row, other, bounds, count) for other in references]
        seeds = ", ".join(map(str, next((seeds for difference, seeds in found if difference), ())))
        texts = ["-" if difference is None else difference.text("+z.4f") for difference, _ in found]
        lines.append(f"| {plan.title(row)} | {seeds} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def paired(
    cells: Sequence[Cell], row: str, other: str, bounds: tuple[float, float] = (0, 1), comparisons: int = 1
) -> tuple[Difference | None, list[int]]:
    """Return the mean difference of two rows of a study over the seeds that both have, and these seeds.

    The values of both rows are compared at the same contacts or moments. The difference is None if the rows have no
    seed, or no contact or moment, in common.

    Args:
        cells: Finished runs.
        row: Name of the first row.
        other: Name of the second row, or "standing_still": the actions that repeat the recorded state, at the moments
            of the first row.
        bounds: Smallest and largest possible value; (0, inf) for errors.
        comparisons: Number of intervals that must all contain their true values with 95 % probability (Bonferroni).
    """
    first = {cell.seed: cell.by_place(cell.values) for cell in cells if cell.row == row}
    second = {cell.seed: cell.by_place(cell.values) for cell in cells if cell.row == other}
    if other == STANDING_STILL:
        second = {cell.seed: cell.by_place(cell.standing_still) for cell in cells if cell.row == row}
    seeds = sorted(first.keys() & second.keys())
    a, b = (_average([values[seed] for seed in seeds]) for values in (first, second))
    return Difference.at_common(a, b, bounds=bounds, comparisons=comparisons), seeds


def _average(runs: Sequence[Mapping[tuple[str, int], float]]) -> dict[tuple[str, int], float]:
    """Return the mean over `runs` of the value at each place that all of them have; see `Cell.by_place`."""
    places = runs[0] if runs else {}
    return {
        place: float(np.mean([run[place] for run in runs])) for place in places if all(place in run for run in runs)
    }
