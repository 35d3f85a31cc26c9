"""Forward kinematics against the libraries people use: one process, one thread, interleaved, best of seven.

    python -m tests.benchmarks.kinematics            # table and bars; exit 1 when a bar is missed
    python -m tests.benchmarks.kinematics --device cuda --poses 1000000

Needs roboticstoolbox and pytorch_kinematics (the test extra). The arm is a Nova 2 in float64; every competitor is built
from the same numbers and must agree to 0.1 mm before it is timed. pytorch_kinematics is moved to float64, its best
case here: built as float32 it is no faster on a CPU and 1e-7 off.
"""

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from math import pi

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tactile_align.kinematics.arm import forward_kinematics, jacobian, load_arm  # noqa: E402

REPEATS = 7
BARS = [
    ("ours, torch", "roboticstoolbox DHRobot.fkine", 150.0),
    ("ours, torch", "roboticstoolbox ets().eval", 3.0),
    ("ours, torch", "pytorch_kinematics", 12.0),
    ("ours, torch, forward and backward", "pytorch_kinematics, forward and backward", 5.0),
    ("ours, numpy", "roboticstoolbox ets().eval", 2.5),
]
Call = Callable[[], object]


def toolbox_calls(q: np.ndarray) -> dict[str, Call]:
    """The arm as a DH table, as its users build it, and as the compiled chain it turns into."""
    import roboticstoolbox as rtb

    d1, a2, a3, d4, d5, d6 = 0.2234, 0.280, 0.22501, 0.1175, 0.120, 0.088004
    rows = [(0, d1, 0, pi / 2), (-pi / 2, 0, -a2, 0), (0, 0, -a3, 0), (-pi / 2, d4, 0, pi / 2)]
    rows += [(0, d5, 0, -pi / 2), (0, d6, 0, 0)]
    robot = rtb.DHRobot([rtb.RevoluteDH(offset=o, d=d, a=a, alpha=w) for o, d, a, w in rows])
    chain = robot.ets()
    return {
        "roboticstoolbox DHRobot.fkine": lambda: robot.fkine(q).A,
        "roboticstoolbox ets().eval": lambda: chain.eval(q),
    }


def urdf() -> str:
    """The Nova 2 as URDF text."""
    arm = load_arm("nova2")
    lines, parent = ['<robot name="nova2"><link name="base"/>'], "base"
    rpy = [(0, 0, 0), (pi / 2, pi / 2, 0), (0, 0, 0), (0, 0, -pi / 2), (pi / 2, 0, 0), (-pi / 2, 0, 0)]
    for i, T in enumerate(arm.T_link_joint):
        xyz, tilt = " ".join(map(repr, T[:3, 3].tolist())), " ".join(map(repr, map(float, rpy[i])))
        lines.append(
            f'<link name="link{i}"/><joint name="joint{i}" type="revolute"><parent link="{parent}"/>'
            f'<child link="link{i}"/><origin xyz="{xyz}" rpy="{tilt}"/><axis xyz="0 0 1"/>'
            f'<limit lower="-6" upper="6" effort="1" velocity="1"/></joint>'
        )
        parent = f"link{i}"
    return "".join(lines) + "</robot>"


def with_backward(forward: Callable[[torch.Tensor], torch.Tensor], q: torch.Tensor) -> Call:
    leaf = q.clone().requires_grad_()

    def call() -> torch.Tensor:
        leaf.grad = None
        forward(leaf)[:, :3].square().sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    return call


def calls(q: np.ndarray, device: str) -> dict[str, Call]:
    """Everything that is timed, each on the same poses."""
    import pytorch_kinematics

    arm = load_arm("nova2")
    tensor = torch.tensor(q, device=device)
    chain = pytorch_kinematics.build_serial_chain_from_urdf(urdf(), "link5").to(dtype=torch.float64, device=device)
    ours = lambda x: forward_kinematics(arm, x)  # noqa: E731
    theirs = lambda x: chain.forward_kinematics(x).get_matrix()  # noqa: E731
    found: dict[str, Call] = toolbox_calls(q) if device == "cpu" else {}
    found["pytorch_kinematics"] = lambda: theirs(tensor)
    found["pytorch_kinematics, forward and backward"] = with_backward(theirs, tensor)
    if device == "cpu":
        found["ours, numpy"] = lambda: ours(q)
    found["ours, torch"] = lambda: ours(tensor)
    found["ours, torch, forward and backward"] = with_backward(ours, tensor)
    found["ours, Jacobian, torch"] = lambda: jacobian(arm, tensor)
    expected = forward_kinematics(arm, q[:100])
    for name in ("pytorch_kinematics", "roboticstoolbox DHRobot.fkine", "roboticstoolbox ets().eval"):
        if name in found:
            got = found[name]()
            got = got[:100].cpu().numpy() if isinstance(got, torch.Tensor) else np.asarray(got)[:100]
            if not np.allclose(got, expected, atol=1e-4):
                raise SystemExit(f"{name} computes another arm: {np.abs(got - expected).max():.2g} off")
    return found


def best_times(timed: dict[str, Call], device: str) -> dict[str, float]:
    """Seconds of each call: all in turn, seven rounds, the best of each, so a busy moment hits them alike.

    Each timed call follows an untimed one, or the fast ones would find the caches as the slow ones left them. On a
    CPU the clock is the process's own time, which other work on the machine disturbs least.
    """
    best = dict.fromkeys(timed, float("inf"))
    clock = time.process_time if device == "cpu" else time.perf_counter
    for _ in range(REPEATS):
        for name, call in timed.items():
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            start = clock()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            best[name] = min(best[name], clock() - start)
    return best


def single_pose() -> dict[str, float]:
    """Microseconds for one pose; no bar."""
    arm, q = load_arm("nova2"), np.linspace(-1, 1, 6)
    tensor = torch.tensor(q)
    found = {}
    for name, call in {
        "numpy": lambda: forward_kinematics(arm, q),
        "torch": lambda: forward_kinematics(arm, tensor),
    }.items():
        call()
        times = []
        for _ in range(200):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        found[name] = 1e6 * min(times)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--poses", type=int, default=10_000)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    q = np.random.default_rng(0).uniform(-pi, pi, (options.poses, 6))
    times = best_times(calls(q, options.device), options.device)
    versions = ["numpy", "torch", "roboticstoolbox-python", "pytorch_kinematics"]
    print(f"Nova 2, float64, {options.poses} poses, {options.device}, one thread, best of {REPEATS}, interleaved.")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{v} {importlib.metadata.version(v)}" for v in versions))
    print("\n| what | ms | poses / s |\n|---|---:|---:|")
    for name, seconds in times.items():
        print(f"| {name} | {1e3 * seconds:.3f} | {options.poses / seconds:,.0f} |")
    missed = 0
    print("\n| ours | against | times as fast | bar |\n|---|---|---:|---:|")
    for ours, theirs, bar in BARS:
        if ours in times and theirs in times:
            ratio = times[theirs] / times[ours]
            missed += ratio < bar
            print(f"| {ours} | {theirs} | {ratio:.1f} | {bar:g} |")
    print("\nOne pose: " + ", ".join(f"{name} {us:.0f} us" for name, us in single_pose().items()))
    if missed:
        print(f"{missed} of {len(BARS)} bars missed", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
