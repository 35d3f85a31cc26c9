"""Does a pretrained touch encoder pay, and what breaks a pretraining? Run from the root of the repository:

    python -m tests.benchmarks.pretraining choose --out runs/choose                # the best other objective, one seed
    python -m tests.benchmarks.pretraining table --out runs/pretraining --other NAME    # R@1 and probes by row and seed
    python -m tests.benchmarks.pretraining collapse --out runs/collapse            # alarms of healthy and broken runs
    python -m tests.benchmarks.pretraining codebook --out runs/codebook            # the feedback loop, and its cures

`table` uses the recording and the config of the row `grid` of the study `alignment`: it pretrains one encoder a seed
and objective on the training episodes, and then trains the alignment from scratch, with a frozen random touch encoder,
and with each pretrained one (that of LeJEPA also at half the steps, and frozen); and, as a control, touches with the
gripper's opening alone. One line a run: R@1 of 64, and probes of the touch encoder's mean token. Before them
stand probes of encoders that no alignment trained. Last, the paired differences of R@1, by seed and over all. `choose`
compares the objectives with one seed on another recording. `collapse` prints the first collapsed pass and the first
alarm of each run; healthy runs must have none. `codebook` prints the use of the codes, also at step 2,000, and that of
codebooks without SIGReg. All runs are kept in --out with their CPU time, and a second call continues where the first
stopped; --rows chooses rows.
"""

import argparse
import copy
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tactile_align.config.features import EncoderConfig
from tactile_align.config.presets import PRETRAINING
from tactile_align.config.study import merged
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.intervals import interval_text
from tactile_align.diagnostics.readouts import STATED, stated_probe
from tactile_align.diagnostics.study import load_study, retrieval_of
from tactile_align.diagnostics.study_tables import Values, average
from tactile_align.diagnostics.summary import Difference
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

SECONDS = "cpu_seconds.txt"
OBJECTIVES: dict[str, dict[str, Any]] = {
    "lejepa": {},
    "next": {"next": {}},
    "vq": {"codebook": {}},
    "fsq": {"codebook": {"kind": "fsq"}},
}
"""Entries of [pretrain], by objective."""
PROBED, SENSOR = 600, "tactile1"
"""Largest number of held-out contact moments that are probed, and the sensor of the simulated cell."""


def recorded(args: argparse.Namespace) -> Path:
    """Return the recording of the study `alignment`, or that of `choose`; its missing episodes are made."""
    folder: Path = args.recording or args.out / "recording"
    if args.recording is None:
        seed = 12 if args.what == "choose" else 11
        simulate(
            folder, episodes=args.episodes, seed=seed, task="regrasp", gripper="measured", processes=args.processes
        )
    return folder


def aligned(out: Path, recording: Path, row: str = "grid", **changes: Any) -> TrainConfig:
    """Return the config of a row of the study `alignment` on a recording, with changes."""
    data = [{"path": str(recording), "rig": str(recording / "rig.toml")}]
    entries = {"data": data, "out": str(out), "cache": str(recording / "cache"), "device": "cpu"}
    entries["select_by"] = "auto"
    return load_study("alignment").train_config(row, **merged(entries, changes))


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
    """Return the run folder of a config, trained to its end if it is not yet; its CPU time is added to a file there."""
    out = Path(config.out)
    if not finished(config):
        began = time.process_time()
        try:
            train(config, resume=(out / "metrics.jsonl").is_file(), data=data, progress=False)
        finally:
            out.mkdir(parents=True, exist_ok=True)
            with (out / SECONDS).open("a") as file:
                file.write(f"{time.process_time() - began:.1f}\n")
    if not finished(config):
        raise SystemExit(f"{out}: stopped; run the same command again to continue")
    return out


def cost(out: Path) -> str:
    """Return the CPU time that the training of a run took, over all calls."""
    return f"{sum(map(float, (out / SECONDS).read_text().split())) / 60:.1f} CPU min"


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


def tower_of(base: TrainConfig, args: argparse.Namespace, objective: str, seed: int) -> EncoderConfig:
    """Return the touch encoder of a config that an objective pretrains, with the path of its weights."""
    out, options = args.out / f"pre_{objective}_{seed}", OBJECTIVES[objective]
    trained(pretraining(base, out, args.pretrain_steps, seed, pretrain=options))
    assert base.features.touch is not None
    return base.features.touch.model_copy(update={"pretrained": str(out / "tower.safetensors")})


def choose(args: argparse.Namespace) -> None:
    """Print R@1 and probes of each objective, with one seed."""
    recording, seed = recorded(args), args.seeds[0]
    torch.set_num_threads(1)
    base = aligned(args.out / "scratch", recording, seed=seed, steps=args.steps)
    data = load_data(base, args.processes, False)
    for objective in args.rows or OBJECTIVES:
        tower = tower_of(base, args, objective, seed)
        changes: dict[str, Any] = {"features": {"touch": {"pretrained": tower.pretrained}}}
        config = aligned(args.out / objective, recording, seed=seed, steps=args.steps, **changes)
        run = trained(config)
        recall = retrieval_of(LoadedRun.load(run, config, data.judged, "retrieval"), args.gallery)["recall"]
        shown = f"R@1 of {recall.gallery} {recall.at[1]:.3f} | {probed(encoder_of(tower), data)}"
        print(f"{objective} | {shown} | {cost(args.out / f'pre_{objective}_{seed}')} + {cost(run)}", flush=True)


def table(args: argparse.Namespace) -> None:
    """Print R@1 and probes of all rows and seeds, and the paired differences of R@1."""
    recording = recorded(args)
    torch.set_num_threads(1)
    objectives = ("lejepa", *([args.other] if args.other else []))
    hits: dict[str, list[Values]] = {}
    for seed in args.seeds:
        configs = configs_of(args, recording, seed, objectives)
        assert configs["scratch"].features.touch is not None
        data = load_data(configs["scratch"], args.processes, False)
        torch.manual_seed(seed)
        random = encoder_of(configs["scratch"].features.touch)
        print(f"seed {seed} | random encoder | no alignment | {probed(random, data)}", flush=True)
        for objective in objectives:
            tower = tower_of(configs["scratch"], args, objective, seed)
            shown = f"{probed(encoder_of(tower), data)} | {cost(args.out / f'pre_{objective}_{seed}')}"
            print(f"seed {seed} | {objective} encoder | no alignment | {shown}", flush=True)
        for row, config in configs.items():
            run = trained(config, data if row == "scratch" else None)
            loaded = LoadedRun.load(run, config, data.judged, "retrieval")
            found = retrieval_of(loaded, args.gallery)
            places = zip(found["episodes"], found["places"], strict=True)
            hits.setdefault(row, []).append(dict(zip(places, found["values"], strict=True)))
            recall = found["recall"]
            shown = f"R@1 of {recall.gallery} {recall.at[1]:.3f} {interval_text(recall.interval[1], '.3f')}"
            probes = probed(loaded.alignment.towers.touch, data)
            print(f"seed {seed} | {row} | {config.steps} steps | {shown} | {probes} | {cost(run)}", flush=True)
    pairs = [(row, "scratch") for row in hits if row != "scratch"]
    pairs.append(("lejepa_frozen", "frozen"))
    print(f"differences of R@1; the {len(pairs)} intervals of a column hold together with 95 % (Bonferroni)")
    for row, other in pairs:
        columns = [*zip(hits[row], hits[other], strict=True), (average(hits[row]), average(hits[other]))]
        differences = [Difference.at_common(a, b, bounds=(0, 1), comparisons=len(pairs)) for a, b in columns]
        texts = ["-" if difference is None else difference.text("+z.3f") for difference in differences]
        print(f"{row} minus {other} | {' | '.join(texts[:-1])} | all seeds {texts[-1]}", flush=True)


def configs_of(
    args: argparse.Namespace, recording: Path, seed: int, objectives: Sequence[str]
) -> dict[str, TrainConfig]:
    """Return the training configs of the rows of `table` with a seed, by row."""

    def row(name: str, of: str = "grid", steps: int = args.steps, **touch: Any) -> dict[str, TrainConfig]:
        out = args.out / f"{name}_{seed}"
        return {name: aligned(out, recording, of, seed=seed, steps=steps, features={"touch": touch})}

    start = {name: str(args.out / f"pre_{name}_{seed}" / "tower.safetensors") for name in objectives}
    rows = row("scratch") | row("opening", "opening") | row("frozen", tune="frozen")
    for name, path in start.items():
        rows |= row(name, pretrained=path)
    rows |= row("lejepa_half", steps=max(1, args.steps // 2), pretrained=start["lejepa"])
    rows |= row("lejepa_frozen", pretrained=start["lejepa"], tune="frozen")
    return rows


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


LOOP = {"size": 256, "commitment": 0.3, "refresh_every": 500, "refresh_below": 12.8, "expire_below": 0.0}
"""Settings with which a run lost its codes; codes below 5 % of the tokens, which is 12.8 even shares, are replaced."""
NO_REFRESH = {**LOOP, "refresh_every": 0}
CODEBOOKS: dict[str, dict[str, Any]] = {
    "default": {},
    "no expiry": {"expire_below": 0.0},
    "loop": LOOP,
    "no refresh": NO_REFRESH,
}
"""Codebooks by row."""
ALONE: dict[str, dict[str, Any]] = {
    "loop": LOOP,
    "no refresh": NO_REFRESH,
    "commitment": {**LOOP, "commitment": 0.15},
    "gradient": {**NO_REFRESH, "learn": True},
    "fsq": {"kind": "fsq"},
}
"""Codebooks of the rows without SIGReg; those after the loop change one thing of it."""
HEALTHY_AT = 2000
"""Step at which more than half of the codes of the row default must be used."""


def rows_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the entries of [pretrain] and the number of steps, by row."""
    if args.what == "codebook":
        rows = {name: {"codebook": book, "steps": args.steps} for name, book in CODEBOOKS.items()}
        alone = {"sigreg_weight": 0.0, "steps": max(1, args.steps * 2 // 5)}
        return rows | {f"{name} alone": {"codebook": book, **alone} for name, book in ALONE.items()}
    long, short = args.steps, max(1, args.steps * 3 // 10)
    healthy = {f"healthy {seed}": {"seed": seed, "steps": long if seed < 3 else short} for seed in range(10)}
    alone = {"sigreg_weight": 0.0, "steps": short}
    after = {"healthy next": {"next": {}, "steps": short}, "next alone": {"next": {}, **alone}}
    return {**healthy, "invariance alone": alone, **after}


def watched(args: argparse.Namespace) -> None:
    """Print the first collapsed pass, the alarms and the last values of each pretraining run."""
    recording = recorded(args)
    torch.set_num_threads(1)
    base = aligned(args.out / "unused", recording)
    for name, entries in rows_of(args).items():
        if args.rows and name not in args.rows:
            continue
        options = copy.deepcopy(entries)
        steps, seed = options.pop("steps"), options.pop("seed", 0)
        config = pretraining(base, args.out / name.replace(" ", "_"), steps, seed, pretrain=options)
        run = trained(config, load_data(config, args.processes, False))
        collapsed, alarms = first_passes(run)
        passes = [r for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "validation"]
        last = passes[-1]
        shown = ("sigreg", "invariance", "invariance_chance", "next", "next_chance", "std/z", "usage", "perplexity")
        values = ", ".join(f"{key} {last[key]:.3g}" for key in shown if key in last)
        if "usage" in last:
            used = [(r["step"], r["usage"]) for r in passes if "usage" in r]
            step, usage = next((pair for pair in used if pair[0] >= HEALTHY_AT), used[-1])
            lowest, at = min((value, step) for step, value in used)
            values += f", usage at step {step} {usage:.3g}, lowest {lowest:.3g} at {at}"
        print(
            f"{name} | {steps} steps | collapsed: {collapsed} | alarms: {alarms} | {values} | {cost(run)}", flush=True
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "table", "collapse", "codebook"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--recording", type=Path, help="existing recording of the simulated cell")
    parser.add_argument("--episodes", type=int, default=200, help="episodes to record")
    parser.add_argument("--other", choices=list(OBJECTIVES)[1:], help="objective beside lejepa in the table")
    parser.add_argument(
        "--rows", nargs="+", default=[], help="rows of collapse or codebook, or objectives to choose from"
    )
    parser.add_argument("--gallery", type=int, default=64, help="candidates of R@1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="steps of a run; default: 320, 1000 or 2500")
    parser.add_argument("--pretrain-steps", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args(argv)
    args.steps = args.steps or {"collapse": 1000, "codebook": 2500}.get(args.what, 320)
    args.out.mkdir(parents=True, exist_ok=True)
    {"choose": choose, "table": table}.get(args.what, watched)(args)


if __name__ == "__main__":
    main()
