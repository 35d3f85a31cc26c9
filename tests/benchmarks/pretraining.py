"""Does a pretrained touch encoder pay, and what breaks a pretraining? Run from the root of the repository:

    python -m tests.benchmarks.pretraining table --out runs/pretraining            # R@1 and probes by row and seed
    python -m tests.benchmarks.pretraining collapse --out runs/collapse            # alarms of healthy and broken runs
    python -m tests.benchmarks.pretraining codebook --out runs/codebook            # the feedback loop, and its cures

`table` uses the recording and the config of the row `grid` of the study `alignment`: it pretrains one encoder a seed on
the training episodes, and then trains the alignment from scratch, with a frozen random touch encoder, and with the
pretrained one, at the same steps (and the pretrained one also at half the steps). One line a run: R@1 of 64, and probes
of the touch encoder's mean token. Then, for each seed, the paired difference of R@1 to the run from scratch. Before
them stand probes of encoders that no alignment trained. `collapse` prints the first collapsed pass and the first alarm
of each run; healthy runs must have none. `codebook` prints the use of the codes. All runs are kept in --out, and a
second call continues where the first stopped.
"""

import argparse
import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tactile_align.config.presets import PRETRAINING
from tactile_align.config.study import merged
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.evaluation import compare
from tactile_align.diagnostics.intervals import interval_text
from tactile_align.diagnostics.readouts import STATED, stated_probe
from tactile_align.diagnostics.study import load_study
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.features.encoder import Encoder, encoder_of
from tactile_align.features.health import COLLAPSED_RANK, COLLAPSED_SPREAD
from tactile_align.policies.build import LoadedRun
from tactile_align.simulation.record import simulate
from tactile_align.training.data import Data, load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train
from tactile_align.training.state import finished

PROBED, SENSOR = 600, "tactile1"
"""Largest number of held-out contact moments that are probed, and the sensor of the simulated cell."""


def recorded(folder: Path, episodes: int, processes: int) -> Path:
    """Return the recording of the study `alignment` with this number of episodes, made if it does not exist."""
    if not folder.is_dir():
        simulate(folder, episodes=episodes, seed=11, task="regrasp", gripper="measured", processes=processes)
    return folder


def aligned(out: Path, recording: Path, **changes: Any) -> TrainConfig:
    """Return the config of the row `grid` of the study `alignment` on a recording, with changes."""
    data = [{"path": str(recording), "rig": str(recording / "rig.toml")}]
    entries = {"data": data, "out": str(out), "cache": str(recording / "cache"), "device": "cpu"}
    entries["select_by"] = "auto"
    return load_study("alignment").train_config("grid", **merged(entries, changes))


def pretraining(base: TrainConfig, out: Path, steps: int, seed: int, **changes: Any) -> TrainConfig:
    """Return the config that pretrains the touch encoder of a training config, with changes of its entries."""
    names = ("data", "cache", "device", "held_out", "test", "split_seed", "threads", "unverified_rig")
    kept = {name: value for name, value in base.model_dump(mode="json").items() if name in names}
    assert base.features.touch is not None
    own = {
        "out": str(out),
        "seed": seed,
        "steps": steps,
        "validate_every": max(1, steps // 20),
        "validation_batches": 4,
        "save_every": max(1, steps // 4),
        "batch_size": 32,
        "features": {"touch": base.features.touch.model_dump(mode="json")},
        "pretrain": {"sensors": [SENSOR]},
        "optimiser": {"lr_tower": 1e-3, "lr_head": 1e-3},
    }
    return TrainConfig.model_validate(merged(merged(merged(PRETRAINING, kept), own), changes))


def trained(config: TrainConfig, data: Data | None = None) -> Path:
    """Return the run folder of a config, trained to its end if it is not yet."""
    out = Path(config.out)
    if not finished(config):
        train(config, resume=(out / "metrics.jsonl").is_file(), data=data, progress=False)
    if not finished(config):
        raise SystemExit(f"{out}: stopped; run the same command again to continue")
    return out


@torch.no_grad()
def probed(encoder: Encoder, data: Data) -> str:
    """Return the scores of linear probes of an encoder's mean token on judged contacts, as text."""
    moments, rows = data.judged, np.flatnonzero(data.judged.touches[SENSOR].contact)
    rows = rows[evenly(len(rows), PROBED)]
    parts = [moments.batch(part).touches[SENSOR].image for part in np.array_split(rows, max(1, len(rows) // 64))]
    h = torch.cat([encoder.eval().tokens(part).mean(dim=(1, 2)) for part in parts]).double().numpy()
    texts = []
    for name, stated in STATED.items():
        try:
            found = stated_probe(name, h, partial(stated, moments, rows), moments.episode[rows])
            texts.append(f"{name} {found.measure} {found.score:.3f} {interval_text(found.interval, '.2f')}")
        except InputError as error:
            texts.append(f"{name}: {str(error).split(';')[0]}")
    return "; ".join(texts)


def table(args: argparse.Namespace) -> None:
    """Print R@1 and probes of all rows and seeds."""
    recording = recorded(args.recording or args.out / "recording", args.episodes, args.processes)
    torch.set_num_threads(1)
    for seed in args.seeds:
        base = aligned(args.out / f"scratch_{seed}", recording, seed=seed, steps=args.steps)
        assert base.features.touch is not None
        data = load_data(base, args.processes, False)
        pre = trained(pretraining(base, args.out / f"lejepa_{seed}", args.pretrain_steps, seed))
        torch.manual_seed(seed)
        untrained = encoder_of(base.features.touch)
        tower = base.features.touch.model_copy(update={"pretrained": str(pre / "tower.safetensors")})
        for name, encoder in (("random encoder", untrained), ("lejepa encoder", encoder_of(tower))):
            print(f"seed {seed} | {name} | no alignment | {probed(encoder, data)}", flush=True)
        touch = {
            "scratch": ({}, args.steps),
            "frozen": ({"tune": "frozen"}, args.steps),
            "pretrained": ({"pretrained": tower.pretrained}, args.steps),
            "pretrained_half": ({"pretrained": tower.pretrained}, max(1, args.steps // 2)),
        }
        runs = []
        for row, (changes, steps) in touch.items():
            config = aligned(args.out / f"{row}_{seed}", recording, seed=seed, steps=steps, features={"touch": changes})
            runs.append(trained(config, data if row == "scratch" else None))
            loaded = LoadedRun.load(runs[-1], config, data.judged, "retrieval")
            print(f"seed {seed} | {row} | {steps} steps | {probed(loaded.alignment.towers.touch, data)}", flush=True)
        print(compare(runs, progress=False, baseline_rates=args.rates).text(), flush=True)


def first_passes(out: Path) -> tuple[int | None, str]:
    """Return the step of the first collapsed validation pass of a pretraining run, and its alarms with their steps."""
    records = read_metrics(out / "metrics.jsonl")
    passes = [r for r in records if r["kind"] == "validation" and r["step"] > 0]
    collapsed = [
        r["step"]
        for r in passes
        if r["rank/z/touch"] < COLLAPSED_RANK
        or min(r["spread/z/touch"], r["std/z"]) < COLLAPSED_SPREAD
        or r.get("usage", 1.0) < 0.05
    ]
    alarms = [f"{r['id']} at {r['step']}" for r in records if r["kind"] == "finding" and r["id"] != "data-starvation"]
    return collapsed[0] if collapsed else None, ", ".join(alarms) or "none"


LOOP = {"size": 256, "commitment": 0.3, "refresh_every": 500, "refresh_below": 12.8}
CODEBOOKS: dict[str, dict[str, Any]] = {
    "default": {},
    "loop": LOOP,
    "no refresh": {**LOOP, "refresh_every": 0},
    "commitment": {**LOOP, "commitment": 0.15},
    "gentle refresh": {**LOOP, "refresh_every": 2000, "refresh_below": 0.1},
    "gradient": {**LOOP, "refresh_every": 0, "learn": True},
    "fsq": {"kind": "fsq"},
}
"""Codebooks by row. loop: the settings with which a run lost its codes; codes below 5 % of the tokens, which is 12.8
even shares, are replaced. The rows after it change one thing of it."""


def rows_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the entries of [pretrain] and the number of steps, by row."""
    if args.what == "codebook":
        return {name: {"codebook": book, "steps": args.steps} for name, book in CODEBOOKS.items()}
    long, short = args.steps, max(1, args.steps * 3 // 10)
    healthy = {f"healthy {seed}": {"seed": seed, "steps": long if seed < 3 else short} for seed in range(10)}
    return {**healthy, "invariance alone": {"sigreg_weight": 0.0, "steps": short}}


def watched(args: argparse.Namespace) -> None:
    """Print the first collapsed pass, the alarms and the last values of each pretraining run."""
    recording = recorded(args.recording or args.out / "recording", args.episodes, args.processes)
    torch.set_num_threads(1)
    base = aligned(args.out / "unused", recording)
    data = None
    for name, entries in rows_of(args).items():
        options = copy.deepcopy(entries)
        steps, seed = options.pop("steps"), options.pop("seed", 0)
        config = pretraining(base, args.out / name.replace(" ", "_"), steps, seed, pretrain=options)
        data = data or load_data(config, args.processes, False)
        collapsed, alarms = first_passes(trained(config, data))
        last = [r for r in read_metrics(Path(config.out) / "metrics.jsonl") if r["kind"] == "validation"][-1]
        shown = ("sigreg", "invariance", "invariance_chance", "std/z", "usage", "perplexity")
        values = ", ".join(f"{key} {last[key]:.3g}" for key in shown if key in last)
        print(f"{name} | {steps} steps | collapsed: {collapsed} | alarms: {alarms} | {values}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "collapse", "codebook"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--recording", type=Path, help="existing recording of the simulated cell")
    parser.add_argument("--episodes", type=int, default=200, help="episodes to record")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="steps of a run; default: 320, 1000 or 2500")
    parser.add_argument("--pretrain-steps", type=int, default=1000)
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="rates of the opening-only baseline")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args(argv)
    args.steps = args.steps or {"table": 320, "collapse": 1000, "codebook": 2500}[args.what]
    args.out.mkdir(parents=True, exist_ok=True)
    table(args) if args.what == "table" else watched(args)


if __name__ == "__main__":
    main()
