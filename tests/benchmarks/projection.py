"""Print how many sensor boxes a second one thread gives: `python -m tests.benchmarks.projection`.

Half of the sensors are ordinary, seen by a wrist camera; of the other mix some reach the near plane or leave the
lens limit. Best of several runs, as other work on the machine only ever slows one down.
"""

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
                start = time.perf_counter()
                project_solids(camera, T, body)
                seconds.append(time.perf_counter() - start)
            rates[model, len(body)] = count / min(seconds)
    return rates


def main() -> None:
    for share in (0.0, 0.1):
        print(f"{share:.0%} of the sensors cut by the near plane")
        for (model, solids), rate in boxes_a_second(cut_share=share).items():
            print(f"  {model:9s} {solids} solid{'s' if solids > 1 else ' '} {rate:12,.0f} boxes/s")


if __name__ == "__main__":
    main()
