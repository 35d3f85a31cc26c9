"""Verbs on runs, from train to demo. Heavy modules are imported by the verb that needs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from tactile_align.verbs import GOOD, UNUSABLE, show

TRAIN_USAGE = """usage: tactile-align train CONFIG.toml [--resume] [--FIELD VALUE ...]

Train on HDF5 episodes, HSA beside ACT. A flag overrides a field of the config: --hsa.temperature 0.08.
tactile-align train CONFIG.toml --help lists all fields with their values in that config.
--resume continues a stopped run. --traceback shows where an error was raised."""


def train(argv: Sequence[str]) -> int:
    """Train on HDF5 episodes, HSA beside ACT; exit 1 when the run diverged."""
    from tactile_align.config.train import TrainConfig, load_config
    from tactile_align.training.loop import train as run_training

    rest = [word for word in argv if word != "--resume"]
    if not rest or rest[0] in ("-h", "--help"):
        print(TRAIN_USAGE)
        return GOOD if rest else UNUSABLE
    config = tyro.cli(TrainConfig, default=load_config(rest[0]), args=rest[1:], prog="tactile-align train CONFIG")
    out = run_training(config, resume="--resume" in argv)
    print(f"run folder: {out}. Evaluate it with: tactile-align evaluate {out}")
    return GOOD


def evaluate(run: Positional[Path], as_json: Annotated[bool, arg(name="json")] = False, processes: int = 1) -> int:
    """Evaluate a run on its held-out episodes: retrieval and its baselines, localisation, feature space, action error.

    The results are also written to RUN/summary.json.

    Args:
        run: Run folder.
        as_json: Print JSON.
        processes: Number of processes that prepare episodes.
    """
    from tactile_align.diagnostics.evaluation import evaluate as judge
    from tactile_align.diagnostics.summary import json_of

    summary = judge(run, processes=processes)
    print(json_of(summary) if as_json else summary.text())
    return GOOD


def doctor(config: Positional[Path], as_json: Annotated[bool, arg(name="json")] = False, processes: int = 1) -> int:
    """Check data, model and a few training steps before a long run; exit 1 when a check fails.

    Args:
        config: Training config.
        as_json: Print JSON.
        processes: Number of processes that prepare episodes.
    """
    from tactile_align.config.train import load_config
    from tactile_align.diagnostics.doctor.diagnose import diagnose

    return show(diagnose(load_config(config), processes=processes), as_json)


def ablate(config: Positional[Path], as_json: Annotated[bool, arg(name="json")] = False, processes: int = 1) -> int:
    """Add the parts of a config one by one to a plain policy and report the first part with which a check fails.

    Args:
        config: Training config.
        as_json: Print JSON.
        processes: Number of processes that prepare episodes.
    """
    from tactile_align.config.train import load_config
    from tactile_align.diagnostics.doctor.ablation import ablate as rebuild

    return show(rebuild(load_config(config), processes=processes), as_json)


def study(
    out: Positional[Path],
    rows: tuple[str, ...] = ("table",),
    seeds: tuple[int, ...] = (0, 1, 2),
    size: Literal["full", "smoke"] = "full",
    processes: int = 1,
    threads: int = 1,
) -> int:
    """Compare regions, negatives and losses in the simulated cell; a stopped study resumes.

    Args:
        out: Folder of the study.
        rows: Rows of the table to run: their names, or "table" or "ablations" for a whole set.
        seeds: Seeds; every row is trained once with each.
        size: full: the study; smoke: a short test that all parts run.
        processes: Number of processes that record and prepare episodes.
        threads: Number of torch threads of a run.
    """
    from tactile_align.diagnostics.study import study as compare

    print(compare(out, rows, seeds, size, processes=processes, threads=threads))
    return GOOD


def report(
    run: Positional[Path],
    other: Positional[Path | None] = None,
    out: Path | None = None,
    pictures: Path | None = None,
    draw: bool = False,
    overwrite: bool = False,
) -> int:
    """Write a self-contained HTML page about one run, or about two side by side.

    Args:
        run: Run folder.
        other: Second run folder, to compare with.
        out: Page to write; default RUN/report.html.
        pictures: Folder of pictures to embed; default RUN/pictures.
        draw: First draw maps, galleries, attention and sample overlays, which needs the recordings.
        overwrite: Replace an existing page and, with --draw, existing pictures.
    """
    from tactile_align.viz.report.report import report as write

    print(write(run, other, out=out, pictures=pictures, draw=draw, overwrite=overwrite))
    return GOOD


def watch(run: Positional[Path], port: int = 8765) -> int:
    """Serve the report of a running training to a browser on this machine, updated with each log; Ctrl-C ends it.

    Args:
        run: Run folder.
        port: Port on 127.0.0.1; 0: a free one.
    """
    from tactile_align.viz.report.live import watch as serve

    serve(run, port, tell=lambda address: print(address, flush=True))
    return GOOD


def demo(size: Literal["smoke", "full"] = "full", out: Path = Path("runs") / "demo") -> int:
    """Run all steps on a simulated cell: simulate, verify, overlay, train, evaluate, report.

    Args:
        size: full takes up to 20 minutes on 2 cores; smoke takes up to 3 and only tests that all steps run.
        out: Folder for all results.
    """
    from tactile_align.demo import run_demo

    return run_demo(size, out)
