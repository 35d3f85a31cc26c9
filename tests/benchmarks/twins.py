"""Do all containers give the same facts, verdicts and batches: `python -m tests.benchmarks.twins RECORDING [EPISODES]`.

RECORDING is a folder of simulated episodes with its rig.toml. 12 rows of each of 20 (or EPISODES) episodes, made
small, are written as X-Trainer HDF5 and to every other container. Prints a line a container; exits 1 if one differs:
the facts of `inspect`, the table of `verify` (to 1e-9), and a training batch of all moments, bit for bit. Containers
with a loss are compared by their batch alone, whose camera images may differ by 3 grey levels in the mean.
"""

import sys
import tempfile
import traceback
from pathlib import Path

from tests.datasets.containers.test_twins import (
    LOSSLESS,
    LOSSY,
    batch,
    facts,
    leaves,
    places,
    record,
    require_same_batch,
    require_same_table,
    rig,
    table,
)


def main(recording: Path, episodes: int) -> int:
    """Print the lines; return 1 if a container differs."""
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        record(recording, root, episodes, spread=True)
        paths, known = places(root), rig(recording, "hdf5")
        found, checks = facts(paths["hdf5"]), table(paths["hdf5"], known)
        ours = dict(leaves(batch(paths["hdf5"], known, "hdf5", root / "cache")))
        print(f"{len(found)} episodes, {len(checks)} checks, {len(ours)} tensors")
        for container in (*LOSSLESS, *LOSSY):
            path, its_rig = paths[container], rig(recording, container)
            try:
                if container in LOSSLESS:
                    assert facts(path) == found
                    require_same_table(table(path, its_rig), checks)
                theirs = dict(leaves(batch(path, its_rig, container, root / f"cache {container}")))
                require_same_batch(theirs, dict(ours), container)
                print(f"{container}: equal", flush=True)
            except AssertionError:
                bad += 1
                print(f"{container}: DIFFERENT", flush=True)
                traceback.print_exc()
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20))
