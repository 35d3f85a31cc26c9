"""Does what is compiled to machine code compute as it does plainly: `python -m tests.benchmarks.compiled RECORDING`.

RECORDING is a folder of simulated episodes with its rig.toml. Compiles kinematics, values and gradients, and trains a
small network plain and with `optimiser.compile`. Exits 1 where anything differs. Needs a C++ compiler.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.kinematics import test_motion
from tests.training.conftest import small_training
from tests.training.test_compile import require_equal_training


def random_q(count: int) -> np.ndarray:
    """Return (count, 6) joint angles over the whole turn, rad."""
    return np.random.default_rng(0).uniform(-np.pi, np.pi, (count, 6))


def main(recording: Path) -> int:
    """Print a line each; return 1 where something differs."""
    try:
        for function in test_motion.FUNCTIONS:
            test_motion.test_torch_compile_takes_it_whole(function, random_q, "inductor")
            print(f"{function.__name__}: equal", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            require_equal_training(
                lambda out, **changes: small_training(recording, Path(folder) / out, cache=f"{folder}/cache", **changes)
            )
        print("training: equal")
    except AssertionError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
