"""Print how many sensor boxes a second of processor time gives: `python -m tests.benchmarks.projection`.

The sensors are those a wrist camera sees over the gripper's travel; in a second mix a tenth of them is moved to the
near plane. Best of several runs, as other work on the machine only ever slows one down. Exits 1 when pinhole or Brown
give fewer boxes than asked for. Processor time counts every thread, so more than one would not look faster.
"""

import sys
import time

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import load_rig
from tactile_align.projection.sensor_box import project_solids

LENSES = {
    "pinhole": (),
    "brown": (-0.3, 0.1, 0.001, 0.001, 0.0),
    "rational": (0.5, 0.2, 0.001, -0.001, 0.01, 0.8, 0.3, 0.02),
    "fisheye": (-0.02, 0.004, -0.003, 0.0006),
}
MIN_BOXES_A_SECOND = 50_000


def boxes_a_second(count: int = 5000, cut_share: float = 0.0, runs: int = 7) -> dict[tuple[str, int], float]:
    """Return boxes a second by (lens model, number of solids in the sensor's body)."""
    rig, rng = load_rig("cell"), np.random.default_rng(0)
    joints = np.tile([0.298, -0.294, -1.911, 0.634, 1.571, -1.273], (count, 1))
    qpos = np.concatenate([joints, rng.uniform(0, 1, (count, 1))], axis=1)
    T = rig.T_camera_sensor("left_wrist", "tactile1", qpos)
    near = rng.random(count) < cut_share
    T[near, 2, 3] = rng.uniform(-0.01, 0.02, near.sum())
    rates = {}
    for model, k in LENSES.items():
        camera = Camera(model, 640, 480, rig.cameras["left_wrist"].stored.K, model, k)  # type: ignore[arg-type]
        for body in (rig.sensors["tactile1"].body[:1], rig.sensors["tactile1"].body):
            seconds = []
            for _ in range(runs):
                start = time.process_time()
                project_solids(camera, T, body)
                seconds.append(time.process_time() - start)
            rates[model, len(body)] = count / min(seconds)
    return rates


def main() -> int:
    """Print one row for each lens; return 1 when pinhole or Brown are too slow."""
    print("| lens | cut by near plane | boxes / s, one solid | boxes / s, two solids |\n|---|---:|---:|---:|")
    slow = False
    for share in (0.0, 0.1):
        rates = boxes_a_second(cut_share=share)
        for lens in LENSES:
            print(f"| {lens} | {share:.0%} | {rates[lens, 1]:,.0f} | {rates[lens, 2]:,.0f} |")
        slow |= min(rates["pinhole", 1], rates["brown", 1]) < MIN_BOXES_A_SECOND
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
