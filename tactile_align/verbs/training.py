"""Commands for training runs, from `train` to `demo`. Each command imports its heavy modules only when it runs."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import AvoidSubcommands, Positional, arg

from tactile_align.verbs import GOOD, UNUSABLE, show

logger = logging.getLogger(__name__)

TRAIN_USAGE = """usage: tactile-align train CONFIG.toml [--resume [--skip-damaged]] [--FIELD VALUE ...]

Train a policy (ACT, flow or diffusion) with the alignment loss HSA on HDF5, LeRobot or Zarr episodes.
A flag overrides a field of the config: --hsa.temperature 0.08.
tactile-align train CONFIG.toml --help lists all fields with their values in that config.
--resume continues a stopped run; with a larger --steps it makes a finished run longer.
--skip-damaged resumes from an earlier checkpoint if the newest cannot be read.
--traceback shows where an error was raised."""


PRETRAIN_USAGE = """usage: tactile-align pretrain CONFIG.toml [--resume [--skip-damaged]] [--FIELD VALUE ...]

Train a touch encoder on the touches of the training episodes alone, without labels, boxes or policy.
CONFIG.toml has a table [pretrain]. The flags are those of `train`.
The run folder gets tower.safetensors, which features.touch.pretrained of another config accepts."""


def train(argv: Sequence[str]) -> int:
    """Train a policy (ACT, flow or diffusion) with the alignment loss HSA; exit status 1 if the run diverges."""
    from tactile_align.config.train import load_config

    out = _trained("train", TRAIN_USAGE, argv)
    if isinstance(out, Path):
        config = load_config(out / "config.toml")
        points = config.pointer is not None and not config.train_policy and config.hsa.weight == 0
        advice = f"See where it points with: tactile-align point {out} EPISODE"
        print(f"run folder: {out}. {advice if points else f'Evaluate it with: tactile-align evaluate {out}'}")
        return GOOD
    return out


def pretrain(argv: Sequence[str]) -> int:
    """Train a touch encoder on touches alone; exit status 1 if the run diverges."""
    out = _trained("pretrain", PRETRAIN_USAGE, argv)
    if isinstance(out, Path):
        print(f"run folder: {out}. Use its encoder with: features.touch.pretrained = '{out / 'tower.safetensors'}'")
        return GOOD
    return out


def _trained(verb: Literal["train", "pretrain"], usage: str, argv: Sequence[str]) -> Path | int:
    """Train as the words after `verb` state; return the run folder, or the exit status if only help was printed."""
    from tactile_align.config.train import TrainConfig, load_config
    from tactile_align.errors import InputError
    from tactile_align.files import read_toml

    own = ("--resume", "--skip-damaged")
    rest = [word for word in argv if word not in own]
    if not rest or rest[0] in ("-h", "--help"):
        print(usage)
        return GOOD if rest else UNUSABLE
    default = load_config(rest[0])
    if (default.pretrain is not None) != (verb == "pretrain"):
        has, right = ("a", "pretrain") if verb == "train" else ("no", "train")
        raise InputError(
            f"{rest[0]}: tactile-align {verb} trains {'a policy' if verb == 'train' else 'an encoder alone'}, but the "
            f"file has {has} table [pretrain]. Run tactile-align {right} {rest[0]}, or change the file"
        )
    heads = [word for word in rest[1:] if word.partition("=")[0] == "--policy.head"]
    if heads and "preset" in read_toml(Path(rest[0])):
        raise InputError(
            f"{rest[0]}: this file names a preset; got the flag --policy.head, which comes too late for it. State "
            f"policy.head in the file, whose preset depends on it"
        )
    flags = [word for word in rest[1:] if word.removeprefix("--").startswith("pointer.")]
    if default.pointer is None and flags:
        raise InputError(
            f"{rest[0]}: flags of the pointer need its table; got {flags[0]} without one. Add a [pointer] table to the "
            f"file"
        )
    # Fields of a table that may be missing, such as [pointer], are flags if the file has the table.
    named, flat = f"tactile-align {verb} CONFIG", (AvoidSubcommands,)
    config = tyro.cli(TrainConfig, default=default, args=rest[1:], prog=named, config=flat)
    from tactile_align.training.loop import train as run_training  # torch, which help and a wrong flag do without

    resume, skip_damaged = (word in argv for word in own)
    return run_training(config, resume=resume, skip_damaged=skip_damaged)


def evaluate(
    run: Positional[Path],
    others: Positional[tuple[Path, ...]] = (),
    as_json: Annotated[bool, arg(name="json")] = False,
    processes: int = 1,
    baseline: bool = True,
) -> int:
    """Evaluate runs on their test episodes: retrieval with baselines, localisation, feature space, action error.

    A run without test episodes is evaluated on its held-out episodes, on which its weights were selected.

    The results are also written to RUN/summary.json.

    Args:
        run: Run folder.
        others: Folders of further runs on the same episodes; each is compared with the first run.
        as_json: Print the result as JSON.
        processes: Number of processes that prepare episodes.
        baseline: Train a baseline that sees only the gripper's opening, at three learning rates, each for the run's
            number of steps. This is done once: the baseline is kept in RUN/opening_only. With --no-baseline, a baseline
            in that folder is used, and none is trained.
    """
    from tactile_align.diagnostics.evaluation import BASELINE_RATES, compare
    from tactile_align.diagnostics.evaluation import evaluate as judge
    from tactile_align.diagnostics.summary import json_of

    rates = BASELINE_RATES if baseline else ()
    alone = judge(run, processes=processes, baseline_rates=rates) if not others else None
    result = alone or compare((run, *others), processes=processes, baseline_rates=rates)
    print(json_of(result) if as_json else result.text())
    return GOOD


def point(
    run: Positional[Path],
    episode: Positional[str],
    out: Path | None = None,
    rig: str | None = None,
    layout: str | None = None,
    frames: int = 12,
    overwrite: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Draw where the contact pointer of a run points in an episode, beside the true places, and print its errors.

    The errors stand beside those of controls that do not look at the image. They are fitted to the training episodes of
    the run, which must still exist.

    Args:
        run: Run folder.
        episode: Episode file; FILE#NAME if the file holds several episodes.
        out: Folder for one PNG file per view; default: RUN/points.
        rig: Name or path of the rig; default: the run's rig.
        layout: Name or path of the episode layout; default: detect the layout.
        frames: Number of evenly spaced frames to draw.
        overwrite: Replace existing files.
        as_json: Print the result as JSON, with all places and probabilities.
    """
    from tactile_align.diagnostics.summary import json_of
    from tactile_align.viz.points import point_sheets

    options: dict[str, Any] = {"rig": rig, "layout": layout, "frames": frames, "overwrite": overwrite}
    result, files = point_sheets(run, episode, out=out, **options)
    print(json_of(result) if as_json else result.text())
    for file in files:
        logger.info(f"wrote {file}")
    return GOOD


def rollout(
    run: Positional[Path],
    others: Positional[tuple[Path, ...]] = (),
    *,
    task: Literal["lift", "feel", "look", "sort"],
    seeds: int = 25,
    first: int = 5000,
    touch: Literal["true", "shuffle", "zero"] = "true",
    weights: Literal["last", "best"] = "last",
    box_offset_px: float = 0.0,
    rig_error_mm: float = 0.0,
    rig_error_deg: float = 0.0,
    occlude: bool = False,
    clutter: bool = False,
    film: Path | None = None,
    overwrite: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Let policies act in the simulated cell: each seed is played with every class of object.

    The cell is that of the training episodes of the runs. Success is printed with 95 % intervals over seeds. Several
    runs are compared with the first, seed by seed.

    Args:
        run: Run folder.
        others: Folders of further runs, which are compared with the first run.
        task: lift: lift a block. feel: carry it to the side that its relief, which only the touch shows, stands for.
            look: the same with painted marks that cameras see. sort: eight reliefs, and another gel unit in each
            episode.
        seeds: Number of seeds.
        first: First seed; the others follow it. The default lies beyond the seeds of the shipped studies, so that
            nothing is chosen on the seeds that judge them.
        touch: true: the true touch. shuffle: the touch of another object, the same for all classes of a seed. zero: a
            touch without contact.
        weights: last: weights of the last step, or their running mean. best: weights with the smallest held-out action
            error.
        box_offset_px: Shift of all boxes to the right, px of the camera's raw frames (640x480).
        rig_error_mm: Error of each moving camera's position in the policy's rig, mm.
        rig_error_deg: Error of each moving camera's orientation in the policy's rig, degrees.
        occlude: Cover 60 % of the sensor's box in the images of moving cameras.
        clutter: Draw random colours and light, and further objects on the bench, also where the recording has none.
        film: PNG file to write: a film strip of the first seed.
        overwrite: Replace an existing film strip.
        as_json: Print the result as JSON.
    """
    from dataclasses import replace

    from tactile_align.diagnostics.rollout import TOUCHES, Filmed, recorded_cell
    from tactile_align.diagnostics.rollout import rollout as act
    from tactile_align.diagnostics.summary import json_of
    from tactile_align.files import refuse_existing

    if film is not None:
        refuse_existing(film, overwrite=overwrite)
    recorded, source = recorded_cell((run, *others))
    changes = {
        "box_offset_px": box_offset_px,
        "rig_error_mm": rig_error_mm,
        "rig_error_deg": rig_error_deg,
        "occlude": occlude,
        "clutter": clutter or recorded.clutter,
    }
    options = recorded.model_copy(update=changes)
    films: dict[str, list[Filmed]] | None = None if film is None else {}
    chosen = range(first, first + seeds)
    result = act((run, *others), task, chosen, options=options, touch=touch, weights=weights, film=films)
    result = replace(result, source=source)
    print(json_of(result) if as_json else result.text())
    if film is not None and films is not None:
        from tactile_align.viz.film import film_strip
        from tactile_align.viz.overlay.overlay import write_png

        write_png(film, film_strip(films, f"task {task}, simulated cell; touch {touch}: {TOUCHES[touch]}"))
    return GOOD


def doctor(
    config: Positional[Path],
    everything: Annotated[bool, arg(name="all")] = False,
    as_json: Annotated[bool, arg(name="json")] = False,
    processes: int = 1,
) -> int:
    """Check the data, the model and a few training steps before a long run; exit status 1 if a check fails.

    For the config.toml of a run folder, the data are the episodes, statistics and rigs of that run.

    Args:
        config: Training config (TOML).
        everything: Also print the checks that passed, and the table of parameters.
        as_json: Print the result as JSON, with all checks and tables.
        processes: Number of processes that prepare episodes.
    """
    from tactile_align.config.train import load_config
    from tactile_align.diagnostics.doctor.diagnose import diagnose
    from tactile_align.policies.build import check_weights
    from tactile_align.training.data import load_data, run_beside

    chosen = load_config(config)
    check_weights(chosen)
    data = load_data(chosen, processes, True, run_beside(config))
    return show(diagnose(chosen, data=data, progress=True), as_json, everything)


def ablate(
    config: Positional[Path], steps: int = 300, as_json: Annotated[bool, arg(name="json")] = False, processes: int = 1
) -> int:
    """Start from a plain policy, add the parts of a config one by one, and report the first part that fails a check.

    With [pretrain], the parts are those of the objective, and each is trained for some steps.

    Args:
        config: Training config (TOML).
        steps: Number of training steps of each part of a config with [pretrain]; more than optimiser.warmup_steps.
        as_json: Print the result as JSON.
        processes: Number of processes that prepare episodes.
    """
    from tactile_align.config.train import load_config
    from tactile_align.diagnostics.doctor.diagnose import ablate as rebuild

    return show(rebuild(load_config(config), steps=steps, processes=processes), as_json)


def study(
    file: Positional[str],
    out: Positional[Path | None] = None,
    rows: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    processes: int = 1,
    page: bool = False,
    dry_run: bool = False,
) -> int:
    """Train variants of a config with several seeds, and print tables with paired differences.

    Run the command again to continue a stopped study. --dry-run prints the core-hours and one command for each missing
    run.

    Args:
        file: Study file (TOML), or the name of a shipped study: alignment, policy, closed_loop_quick, closed_loop,
            recipe, heads or pointer.
        out: Folder for all results; default: runs/NAME.
        rows: Names of rows or groups of rows; default: all rows.
        seeds: Seeds; each row is trained once per seed; default: the seeds of the file.
        processes: Number of runs at a time, and of processes that record episodes.
        page: Also write OUT/page.html: charts, tables and, for studies of success, film strips, which are made first.
        dry_run: Only print the core-hours, and one command for each run that is missing.
    """
    from tactile_align.diagnostics.study import commands, cost
    from tactile_align.diagnostics.study import study as compare

    if dry_run:
        print("\n".join([f"# {cost(file, out, rows, seeds)}", *commands(file, out, rows, seeds)]))
    else:
        print(compare(file, out, rows, seeds, processes=processes))
    if page and not dry_run:
        from tactile_align.viz.report.study_page import write_study_page

        print(write_study_page(file, out))
    return GOOD


def report(
    run: Positional[Path],
    other: Positional[Path | None] = None,
    out: Path | None = None,
    pictures: Path | None = None,
    draw: bool = False,
    overwrite: bool = False,
) -> int:
    """Write a self-contained HTML page about one run, or about two runs side by side.

    Args:
        run: Run folder.
        other: Folder of a second run to compare with.
        out: Page to write; default: RUN/report.html, or RUN/report_with_OTHER.html for two runs.
        pictures: Folder of pictures to embed; default: RUN/pictures.
        draw: First draw similarity maps, retrieval galleries, attention and sample frames; needs the recordings.
        overwrite: Replace an existing page and, with --draw, existing pictures.
    """
    from tactile_align.viz.report.report import report as write

    print(write(run, other, out=out, pictures=pictures, draw=draw, overwrite=overwrite))
    return GOOD


def watch(run: Positional[Path], port: int = 8765) -> int:
    """Show the report of a running training in a browser on this machine; stop with Ctrl-C.

    The page reloads when the run logs new values.

    Args:
        run: Run folder.
        port: Port on 127.0.0.1; 0: any free port.
    """
    from tactile_align.viz.report.live import watch as serve

    serve(run, port, tell=lambda address: print(address, flush=True))
    return GOOD


def demo(size: Literal["smoke", "full"] = "full", out: Path = Path("runs") / "demo") -> int:
    """Run every step on a simulated cell: simulate, verify, overlay, train, evaluate, report.

    Args:
        size: full: the whole demo, about 20 minutes on 2 free cores. smoke: a test that every step runs, up to 3
            minutes.
        out: Folder for all results.
    """
    from tactile_align.demo import run_demo

    return run_demo(size, out)
