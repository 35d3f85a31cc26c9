"""Studies: resumable training runs and roll-outs of the rows and seeds of a study file, and their results."""

import logging
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from joblib import Parallel, delayed

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.config.data import DataConfig
from tactile_align.config.study import BEST, TRUE, RecordingConfig, StudyConfig, merged
from tactile_align.config.train import TrainConfig, load_config
from tactile_align.diagnostics.actions import POLICY, STILL, action_moments
from tactile_align.diagnostics.evaluation import train_to_the_end
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.retrieval import retrieval
from tactile_align.diagnostics.rollout import play, policy_of
from tactile_align.diagnostics.study_tables import RolledOut, RunResult, table_text
from tactile_align.diagnostics.summary import json_of, result_of
from tactile_align.errors import FactError, InputError
from tactile_align.facts import parse
from tactile_align.files import read_json, read_toml, write_text_atomically
from tactile_align.moments.dataset import Moments
from tactile_align.policies.alignment import Alignment
from tactile_align.policies.build import LoadedRun
from tactile_align.policies.checkpoint import header_of
from tactile_align.simulation.record import simulate
from tactile_align.training.data import Data, count_contacts, load_data
from tactile_align.training.state import FREE

logger = logging.getLogger(__name__)
RESULT = "result.json"


def load_study(name_or_path: str | Path) -> StudyConfig:
    """Return the study in a TOML file, or the shipped study with a name.

    Raises:
        FactError, InputError: The file or name does not exist, the file is not TOML, or a key is unknown, missing or
            wrong, also in the training config of a row, or a row of an action study trains no policy, or a row of a
            success study has roll-outs but no policy, or a policy but no roll-outs. The message states the key.
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
        if plan.measure != "success" and config.pretrain is not None:
            raise InputError(
                f"{path}: row {row} has [pretrain], which only a study with measure = 'success' trains; got measure = "
                f"'{plan.measure}'. Remove the row, and set features.touch.pretrained to a tower.safetensors"
            )
        if plan.measure == "success" and config.train_policy != (plan.stated(row, "roll_outs") is not None):
            has = "a policy, but no roll_outs" if config.train_policy else "roll_outs, but train_policy = false"
            raise InputError(
                f"{path}: row {row} has {has}; measure = 'success' needs roll_outs for exactly the rows with a policy. "
                f"Add or remove roll_outs, or change train_policy"
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

    A run trains one row of the file with one seed; a study of success then rolls it out. Finished runs and roll-outs
    are kept; a run that was stopped resumes from its last checkpoint. A row with `init` starts from the run of that row
    with the same seed, which is run first.

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
            config or other roll-outs than the study file states, or was stopped (Ctrl-C, SIGTERM) before its end.
    """
    plan, folder, waves = _waves(file, out, rows, seeds)
    chosen = [run for wave in waves for run in wave]
    missing = {run for run in chosen if not _done(plan, folder, *run)}
    for place, recording in _recordings(plan, folder, dict.fromkeys(row for _, row in chosen)).items():
        stated = recording.model_dump(exclude={"options", "minutes"})
        simulate(place, **stated, options=recording.options, processes=processes, progress=progress)
    for row in dict.fromkeys(row for _, row in chosen):
        _write_wrong_rigs(plan, folder, row)
    for wave in waves:
        work = [(seed, row) for seed, row in wave if (seed, row) in missing]
        for seed, row in work:
            logger.info(f"{plan.title(row)}, seed {seed}: {command(file, folder, row, seed)}")
        Parallel(n_jobs=processes)(delayed(_run)(plan, folder, row, seed, progress) for seed, row in work)
    text = table_text(plan, *results(folder))
    write_text_atomically(folder / "table.md", text)
    return text


Waves = list[list[tuple[int, str]]]
"""Runs as (seed, row), in groups of which each needs only runs of the groups before it."""


def _waves(
    file: str | Path, out: str | Path | None, rows: Sequence[str], seeds: Sequence[int]
) -> tuple[StudyConfig, Path, Waves]:
    """Return a study, its folder, and the chosen runs with all runs that they start from; arguments as for `study`."""
    plan = load_study(file)
    waves: Waves = []
    for row in plan.row_names(tuple(rows)):
        chain = [row]
        while (init := plan.stated(chain[0], "init")) is not None:
            chain.insert(0, init)
        for depth, name in enumerate(chain):
            waves += [[] for _ in range(depth + 1 - len(waves))]
            waves[depth] += [(seed, name) for seed in seeds or plan.seeds]
    return plan, Path(out or f"runs/{plan.name}"), [sorted(dict.fromkeys(wave), key=_seed) for wave in waves]


def _seed(run: tuple[int, str]) -> int:
    return run[0]


def _recordings(plan: StudyConfig, folder: Path, rows: Sequence[str] | dict[str, None]) -> dict[Path, RecordingConfig]:
    """Return the recordings that rows train on, by folder."""
    found: dict[Path, RecordingConfig] = {}
    for row in rows:
        if (recording := plan.recording_of(row)) is not None:
            found[_recorded(plan, folder, row)] = recording
    return found


def _recorded(plan: StudyConfig, folder: Path, row: str) -> Path:
    name = plan.stated(row, "recording")
    return folder / "data" if name is None else folder / "data" / name


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
    """Return the command line of every missing run of a study; the arguments are those of `study`.

    A run comes after the run that it starts from.
    """
    plan, folder, waves = _waves(file, out, rows, seeds)
    missing = [run for wave in waves for run in wave if not _done(plan, folder, *run)]
    return [command(file, folder, row, seed) for seed, row in missing]


def cost(file: str | Path, out: str | Path | None = None, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> str:
    """Return the core-hours of the missing recordings and runs of a study as text, from the `minutes` in its file.

    The arguments are those of `study`.
    """
    plan, folder, waves = _waves(file, out, rows, seeds)
    missing = [row for wave in waves for seed, row in wave if not _done(plan, folder, seed, row)]
    made = {place: len(list(place.glob("episode_init_*.hdf5"))) for place in _recordings(plan, folder, missing)}
    recordings = _recordings(plan, folder, dict.fromkeys(missing))
    left = [recording for place, recording in recordings.items() if made[place] < recording.episodes]
    stated = [recording.minutes for recording in left] + [plan.rows[row].minutes for row in missing]
    known = [minutes for minutes in stated if minutes is not None]
    unknown = f"; not measured: {len(stated) - len(known)} of these" if len(known) < len(stated) else ""
    hours = f"{sum(known) / 60:.2f} core-hours" if known or not stated else "unknown core-hours"
    return f"{len(missing)} missing runs and {len(left)} missing recordings: {hours}{unknown}"


def config_of(plan: StudyConfig, folder: Path, row: str, seed: int) -> TrainConfig:
    """Return the training config of one run of a study.

    Args:
        plan: The study.
        folder: Folder of the study, which contains the run folders.
        row: Name of a row of the study file.
        seed: Seed of the run.
    """
    config = _with_true_boxes(plan, folder, row, seed)
    if not _wrong_rig(plan, row):
        return config
    data = [entry.model_copy(update={"rig": str(rig)}) for entry, rig in _wrong_rigs(config, folder, row)]
    return config.model_copy(update={"data": tuple(data)})


def _out(folder: Path, row: str, seed: int) -> Path:
    return folder / "runs" / f"{row}-s{seed}"


def _with_true_boxes(plan: StudyConfig, folder: Path, row: str, seed: int) -> TrainConfig:
    entries: dict[str, Any] = {"out": str(_out(folder, row, seed)), "seed": seed}
    if plan.recording_of(row) is not None:
        data = _recorded(plan, folder, row)
        source = {"path": str(data), "rig": str(data / "rig.toml"), "episodes": plan.stated(row, "episodes")}
        entries |= {"data": [source], "cache": str(folder / "cache")}
    if (init := plan.stated(row, "init")) is not None:
        start, before = _out(folder, init, seed), _with_true_boxes(plan, folder, init, seed)
        if before.pretrain is None:
            entries["init"] = str(start)
        else:
            if plan.train_config(row, **entries).features.touch is None:
                encoder = getattr(before.features, before.pretrained_side)
                raise InputError(
                    f"study {plan.name}: row {row} starts from the touch encoder of row {init} and needs one of its "
                    f"own; got one encoder for touches and views. Set features.touch of row {row}, with model = "
                    f"'{encoder.model}' and the other entries of features.{before.pretrained_side} of row {init}"
                )
            entries["features"] = {"touch": {"pretrained": str(start / "tower.safetensors")}}
    return plan.train_config(row, **entries)


def _wrong_rig(plan: StudyConfig, row: str) -> bool:
    return any(plan.rows[row].shift_px) or bool(plan.rig_changes(row))


def _wrong_rigs(config: TrainConfig, folder: Path, row: str) -> list[tuple[DataConfig, Path]]:
    """Return each [[data]] entry of the config, with the path of a copy of its rig that a row changes."""
    return [(entry, folder / "rigs" / f"{row}_{number}.toml") for number, entry in enumerate(config.data)]


def _write_wrong_rigs(plan: StudyConfig, folder: Path, row: str) -> None:
    if not _wrong_rig(plan, row):
        return
    shift, config = plan.rows[row].shift_px, _with_true_boxes(plan, folder, row, plan.seeds[0])
    (folder / "rigs").mkdir(parents=True, exist_ok=True)
    for entry, path in _wrong_rigs(config, folder, row):
        rig = load_rig(entry.rig_source)
        changed = merged(rig.model_dump(mode="json"), plan.rig_changes(row))
        rig = parse(Rig, changed, f"study {plan.name}, row {row}, rig")
        for camera in dict.fromkeys(view.camera for view in config.views) if any(shift) else ():
            K = [list(line) for line in rig.camera(camera).K]
            K[0][2] += shift[0]
            K[1][2] += shift[1]
            rig = rig.with_camera(camera, K=K)
        rig.save(path)


def _done(plan: StudyConfig, folder: Path, seed: int, row: str) -> bool:
    """Return whether a run has its result, with all its roll-outs, or a result that cannot be read, which is kept.

    Raises:
        InputError: The run was trained with another config, or rolled out otherwise, than the study file states.
    """
    config = config_of(plan, folder, row, seed)
    out = Path(config.out)
    if not (out / RESULT).exists():
        return False
    try:
        cell = _cell(out)
    except InputError:  # named below the tables, by `results`
        return True
    now, then = (c.model_dump(mode="json", exclude=FREE) for c in (config, load_config(out / "config.toml")))
    if changed := [key for key in now if now[key] != then[key]]:
        raise InputError(
            f"{out}: this run was trained with another config than the study file states now; {', '.join(changed)} "
            f"changed. Use another folder for the changed study, or delete this run to train it again"
        )
    return not _conditions_left(plan, row, cell)


def _cell(out: Path) -> RunResult:
    path, advice = out / RESULT, "Delete the file; the study then evaluates this run again"
    return result_of(RunResult, read_json(path, advice), str(path), advice)


def _conditions_left(plan: StudyConfig, row: str, cell: RunResult) -> list[str]:
    """Return the conditions under which a run was not rolled out yet.

    Raises:
        InputError: Roll-outs of the run differ from those that the study file states.
    """
    acts, left = plan.stated(row, "roll_outs"), []
    for name in () if acts is None else acts.conditions:
        rolled, condition = cell.rolled.get(name), plan.condition(row, name)
        if rolled is None:
            left.append(name)
            continue
        seeds = list(dict.fromkeys(p.seed for p in rolled.played))
        now = (acts.task, _seeds(plan, row), condition.touch, condition.options)
        if (rolled.task, seeds, rolled.touch, rolled.options) != now:
            raise InputError(
                f"row {row}, seed {cell.seed}: its roll-outs '{name}' were made with another task, touch, other seeds "
                f"or options than the study file states now. Use another folder for the changed study, or delete "
                f"{RESULT} of this run to roll it out again"
            )
    return left


def _seeds(plan: StudyConfig, row: str) -> list[int]:
    acts = plan.stated(row, "roll_outs")
    return list(range(acts.first, acts.first + acts.seeds))


def _run(plan: StudyConfig, folder: Path, row: str, seed: int, progress: bool) -> None:
    """Train one run to its end, evaluate it, roll it out if the row states that, and write its result."""
    config = config_of(plan, folder, row, seed)
    out = Path(config.out)
    cell = _cell(out) if (out / RESULT).exists() else _trained(plan, row, config, progress)
    write_text_atomically(out / RESULT, json_of(cell))
    for name in _conditions_left(plan, row, cell):
        rolled = {name: _rolled_out(plan, row, out, name)}
        if name == TRUE and _best_differs(out, config.steps):
            rolled[BEST] = _rolled_out(plan, row, out, TRUE, best=True)
        cell = replace(cell, rolled=cell.rolled | rolled)
        write_text_atomically(out / RESULT, json_of(cell))


def _trained(plan: StudyConfig, row: str, config: TrainConfig, progress: bool) -> RunResult:
    """Train one run to its end and return its result, without roll-outs."""
    out = Path(config.out)
    data = load_data(config, progress=progress)
    began, resumed = time.process_time(), any((out / "checkpoints").glob("step_*.pt"))
    train_to_the_end(config, data, progress)
    minutes = (time.process_time() - began) / 60
    measured: dict[str, Any] = {"encoder": "none", "head_parameters": 0, "selected": f"step {config.steps}"}
    measured |= {"values": [], "episodes": [], "places": []}
    if config.pretrain is None:
        kind: Literal["action", "retrieval"] = "action" if plan.measure == "action" else "retrieval"
        measured |= _measured(plan, LoadedRun.load(out, config, data.judged, kind), data)
    return RunResult(
        row=row,
        seed=config.seed,
        steps=config.steps,
        training_moments=len(data.train),
        resumed=resumed,
        cpu_minutes=round(minutes, 2),
        judged_on=data.judged_on,
        **measured,
    )


def _measured(plan: StudyConfig, run: LoadedRun, data: Data) -> dict[str, Any]:
    """Return the entries of `RunResult` that are computed with the model of a run."""
    alignment = run.model.alignment
    encoder, head = "none", 0
    if alignment is not None:
        encoder = "SCRATCH" if alignment.towers.scratch else alignment.towers.vision.name
        head = head_parameters(alignment)
    measured: dict[str, Any] = {"encoder": encoder, "head_parameters": head, "selected": run.selected}
    if plan.measure == "retrieval":
        measured |= retrieval_of(run, plan.gallery)
    elif plan.measure == "action":
        measured |= actions_of(run, data.train)
    elif (
        run.model.aligns
        and run.config.hsa.pairs != "two_crops"
        and count_contacts(run.moments, run.model.views[0]) >= plan.gallery
    ):
        measured["recall"] = retrieval_of(run, plan.gallery)["recall"]
    return measured


def _rolled_out(plan: StudyConfig, row: str, out: Path, name: str, best: bool = False) -> RolledOut:
    """Return the roll-outs of a run under a condition, with the weights of the last step or with the best ones."""
    acts, condition = plan.stated(row, "roll_outs"), plan.condition(row, name)
    began = time.process_time()
    policy, weights = policy_of(out, acts.task, condition.options, "best" if best else "last")
    played = play(policy, acts.task, _seeds(plan, row), options=condition.options, touch=condition.touch)
    minutes = round((time.process_time() - began) / 60, 2)
    return RolledOut(acts.task, condition.touch, condition.options, weights, minutes, played)


def _best_differs(out: Path, steps: int) -> bool:
    """Return whether a run has weights of the smallest action error that are not those of its last step."""
    path = out / "checkpoints" / "best_action.safetensors"
    return path.is_file() and int(header_of(path)["step"]) != steps


def head_parameters(alignment: Alignment) -> int:
    """Return the number of parameters of the layers that compute the region feature h_w; see `RunResult`."""
    towers = alignment.towers
    opening = alignment.opening_region
    parts = (towers.region_pooling, towers.region_mlp) if opening is None else (opening,)
    return sum(p.numel() for part in parts for p in part.parameters())


def retrieval_of(run: LoadedRun, gallery: int) -> dict[str, Any]:
    """Return the entries of `RunResult` that are computed from retrieval in the first view.

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
    """Return the entries of `RunResult` that are computed from action errors; arguments as for `action_moments`."""
    found = action_moments(run, train)
    names = [str(job.ref) for job in run.moments.jobs]
    return {
        "values": found.of(POLICY).round(6).tolist(),
        "episodes": [names[e] for e in found.episode],
        "places": found.time.tolist(),
        "standing_still": found.of(STILL).round(6).tolist() if STILL in found.errors else None,
        "phases": found.phase.tolist(),
    }


def results(folder: Path) -> tuple[list[RunResult], list[str]]:
    """Return the finished runs of a study, sorted by row and seed, and for each unreadable result the reason."""
    cells, unreadable = list[RunResult](), list[str]()
    for path in sorted(folder.glob(f"runs/*/{RESULT}")):
        try:
            cells.append(_cell(path.parent))
        except InputError as error:
            unreadable.append(str(error))
    return sorted(cells, key=lambda cell: (cell.row, cell.seed)), unreadable
