"""Print how well contacts are found from touches alone, and at what cost: `python -m tests.benchmarks.contact`.

Six simulated episodes (five of posed contacts, one of grasps under physics), as simulated and as a worn
sensor would show them. The F1 score counts frames of at least 0.1 mm of true indentation against frames of less than
0.02 mm; cost is process time over that of decoding the same touches. Exits 1 where the score is below 0.97 or where
finding contacts costs more than twice as much as decoding.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np

from tactile_align.datasets.contact import contact_of
from tactile_align.datasets.episodes import open_episode
from tactile_align.simulation.record import simulate

LEAST_F1, MOST_COST = 0.97, 2.0
Change = Callable[[np.ndarray], np.ndarray]


def touches_of(path: Path) -> np.ndarray:
    """Return the (T, H, W, 3) touches of an episode."""
    with open_episode(path) as episode:
        return np.stack([episode.image("tactile1", t) for t in range(len(episode))])


def worn(touches: np.ndarray) -> np.ndarray:
    """Return touches as a worn sensor shows them: a lamp fades by 40 grey levels, all flicker, pixels are noisy."""
    rng = np.random.default_rng(0)
    steps, height, width, _ = touches.shape
    fade = np.linspace(0, 1, steps)[:, None, None] * np.linspace(0, 1, width)[None, None] * np.ones((1, height, 1))
    worn = touches + rng.normal(0, 3, (steps, 1, 1, 1)) + rng.normal(0, 4, touches.shape)
    worn[..., 0] -= 40 * fade
    return worn.clip(0, 255).astype(np.uint8)


def agreement(paths: Iterable[Path], change: Change | None = None) -> float:
    """Return the F1 score of contacts found in the changed touches of simulated episodes."""
    right = wrong = 0
    for path in paths:
        with h5py.File(path) as file:
            indentation = file["truth/indentation"][()]
        touches = touches_of(path)
        flags = contact_of(change(touches) if change else touches).flags
        touching, free = indentation >= 1e-4, indentation < 2e-5
        right += 2 * int((flags & touching).sum())
        wrong += int((flags & free).sum() + (~flags & touching).sum())
    return right / (right + wrong)


def cost(path: Path, repeats: int = 5) -> float:
    """Return the process time of finding contacts over that of decoding the touches; the two take turns."""
    spent = [[], []]
    for _ in range(repeats):
        began = time.process_time()
        touches = touches_of(path)
        decoded = time.process_time()
        contact_of(touches)
        spent[0].append(decoded - began)
        spent[1].append(time.process_time() - decoded)
    return min(spent[1]) / min(spent[0])


def main() -> int:
    """Print the table; return 1 where a bar is missed."""
    with tempfile.TemporaryDirectory() as folder:
        paths = simulate(folder, episodes=6, seed=77, task="mixed", processes=1, progress=False)
        scores = {"as simulated": agreement(paths), "worn": agreement(paths, worn)}
        ratio = cost(paths[0])
    print(f"| touches | F1 (bar {LEAST_F1}) |\n|---|---:|")
    for name, score in scores.items():
        print(f"| {name} | {score:.4f} |")
    print(f"\nCost over decoding (bar {MOST_COST:g}): {ratio:.2f}")
    return int(min(scores.values()) < LEAST_F1 or ratio > MOST_COST)


if __name__ == "__main__":
    sys.exit(main())
