"""What do action heads cost, and which ways do they choose? Run from the root of the repository, on a free core:

    python -m tests.benchmarks.heads cost                     # CPU time of a training step and of one call, by head
    python -m tests.benchmarks.heads ways RUN... --seeds 40   # on runs of the study `heads`, one line per roll-out
    python -m tests.benchmarks.heads executed RUN...          # how many actions of a chunk should be executed?

`cost` records four episodes and trains the config of the study for some steps. `ways` plays each run from one start
with many seeds of the policy's noise, and prints which way of the grasp it chose. It then prints the median distance of
sampled first chunks to the nearer demonstrated way, over starts and seeds (mean absolute error of the joints, rad).
`executed` plays starts that the study does not use, and prints how many are lifted with 2, 5 and 10 executed actions.
"""

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tactile_align.config.cell import CellOptions
from tactile_align.config.policy import Head
from tactile_align.config.study import merged
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.rollout import policy_of
from tactile_align.diagnostics.study import load_study
from tactile_align.policies.runtime import Policy
from tactile_align.simulation.cell import EXECUTED, WAYS, Cell
from tactile_align.simulation.record import simulate
from tactile_align.training.data import load_data
from tactile_align.training.loop import make_trainer

START, STARTS, CHUNKS = 7_000, 10, 4  # seed of the start from which ways are counted; starts and seeds of distances
HEADS: tuple[Head, ...] = ("act", "flow", "diffusion")


def config_of(head: Head, recording: Path) -> TrainConfig:
    """Return the config of the study's row for a head, on a recording."""
    row = "one_way_act" if head == "act" else "one_way_flow"
    data = [{"path": str(recording), "rig": str(recording / "rig.toml")}]
    changes: dict[str, Any] = {"data": data, "cache": str(recording / "cache"), "held_out": 1, "device": "cpu"}
    return load_study("heads").train_config(row, **merged(changes, {} if head == "act" else {"policy": {"head": head}}))


def cost(steps: int, recording: Path | None) -> None:
    """Print the CPU time of a training step and of one call of each head, one thread."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = recording or Path(folder)
        if recording is None:
            simulate(place, episodes=4, seed=61, task="lift", gripper="measured", processes=1, progress=False)
        base = 0.0
        for head in HEADS:
            config = config_of(head, place)
            data = load_data(config, progress=False)
            trainer = make_trainer(config, data)
            batch = data.train.batch(list(range(config.batch_size)))
            trainer.step(batch, 0)
            began = time.process_time()
            for step in range(1, 1 + steps):
                trainer.step(batch, step)
            each = (time.process_time() - began) / steps
            base = base or each
            rig = data.rigs[0]
            sizes = {name: (camera.stored.width, camera.stored.height) for name, camera in rig.cameras.items()}
            policy = Policy(trainer.model, config, rig, data.statistics, sizes)
            cell = Cell("lift", cameras=tuple(policy.needs.cameras))
            cell.reset(START)
            observation = cell.observation(cell.moment())
            policy.act(observation)
            calls = []
            for _ in range(10):
                began = time.process_time()
                policy.act(observation)
                calls.append(time.process_time() - began)
            numbers = sum(p.numel() for p in trainer.model.act.parameters()) if trainer.model.act else 0
            print(
                f"{head}: {numbers} numbers, step {1e3 * each:.0f} ms ({each / base:.2f} of ACT's), "
                f"call {1e3 * float(np.median(calls)):.1f} ms, slowest {1e3 * max(calls):.1f} ms",
                flush=True,
            )


def tool_yaw(cell: Cell) -> float:
    """Return the yaw of the tool, degrees."""
    return float(np.degrees(np.arctan2(*cell.world.T_world_tcp()[[1, 0], [0, 0]])))


def play(cell: Cell, policy: Policy, start: int, seed: int, executed: int) -> None:
    """Play an episode of the cell with the first actions of each chunk."""
    cell.reset(start)
    policy.reset(seed=seed)
    while cell.count < cell.task.horizon and not cell.over():
        for action in policy.act(cell.observation(cell.moment()))[:executed]:
            cell.step(action)


def lifted(run: Path, seeds: int, first: int) -> None:
    """Print how many starts a run lifts by the number of executed actions of a chunk."""
    torch.set_num_threads(1)
    policy, _ = policy_of(run, "lift")
    cell = Cell("lift", cameras=tuple(policy.needs.cameras))
    for executed in (2, 5, 10):
        raised = late = 0
        for start in range(first, first + seeds):
            play(cell, policy, start, seed=start, executed=executed)
            raised += cell.outcome().lifted
            late += not cell.outcome().lifted and cell.count >= cell.task.horizon
        print(f"{run} executes {executed}: lifted {raised} of {seeds}, {late} end at the horizon", flush=True)


def ways(run: Path, seeds: int, first: int) -> None:
    """Print the way that a run chooses from one start with each seed, and the distance of its chunks to the ways."""
    torch.set_num_threads(1)
    policy, _ = policy_of(run, "lift")
    options = CellOptions(two_ways=True)
    cell = Cell("lift", options, cameras=tuple(policy.needs.cameras))
    cell.reset(START)
    list(cell.demonstrate(noise=0.0, way=0))
    along = tool_yaw(cell)
    executed = policy.execute or EXECUTED
    for seed in range(first, first + seeds):
        play(cell, policy, START, seed, executed)
        turned = (tool_yaw(cell) - along + 45) % 180 - 45
        print(
            f"{run} seed {seed}: way {int(turned > 45)}, turned {turned:.0f} deg, lifted {cell.outcome().lifted}",
            flush=True,
        )
    distances = []
    for start in range(START, START + STARTS):
        shown = []
        for way in range(WAYS):
            cell.reset(start)
            steps = islice(cell.demonstrate(noise=0.0, way=way), policy.config.policy.chunk_size)
            shown.append(np.array([step.action for step in steps])[:, :-1])
        cell.reset(start)
        observation = cell.observation(cell.moment())
        for seed in range(CHUNKS):
            policy.reset(seed=seed)
            chunk = policy.act(observation)[:, :-1]
            distances.append(min(float(np.abs(chunk - way).mean()) for way in shown))
    print(
        f"{run}: median distance to the nearer way {float(np.median(distances)):.4f} rad over {len(distances)} chunks"
    )


def main() -> None:
    """Run the mode that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    modes = parser.add_subparsers(dest="mode", required=True)
    costs = modes.add_parser("cost")
    costs.add_argument("--steps", type=int, default=10)
    costs.add_argument("--recording", type=Path, default=None)
    counted = modes.add_parser("ways")
    counted.add_argument("runs", nargs="+", type=Path)
    counted.add_argument("--seeds", type=int, default=40)
    counted.add_argument("--first", type=int, default=0)
    raised = modes.add_parser("executed")
    raised.add_argument("runs", nargs="+", type=Path)
    raised.add_argument("--seeds", type=int, default=40)
    raised.add_argument("--first", type=int, default=5_000)
    given = parser.parse_args()
    if given.mode == "cost":
        cost(given.steps, given.recording)
    else:
        for run in given.runs:
            (ways if given.mode == "ways" else lifted)(run, given.seeds, given.first)


if __name__ == "__main__":
    main()
