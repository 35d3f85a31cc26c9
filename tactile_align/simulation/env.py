"""Closed-loop tasks of the simulated cell as gymnasium environments (extra `gym`).

The import of this module registers them: gymnasium.make("tactile_align.simulation.env:tactile_align/Feel-v0").
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tactile_align.config.cell import CellOptions
from tactile_align.simulation.cell import Cell
from tactile_align.simulation.cell_tasks import TASKS
from tactile_align.simulation.gel import Pad


class CellEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One closed-loop task.

    The observation has the form that `Policy.act` takes: qpos (n + 1,), images by camera and touches by stream, each
    (H, W, 3) uint8 RGB. The action has n + 1 absolute numbers, as recorded: joint targets, rad, and the gripper as a
    share of its stroke; it takes 0.1 s. The episode terminates when the object was carried to a side (in `lift`: was
    lifted) or fell off the bench, and is truncated at the horizon of the task. The reward is 1 at a step at which the
    task is fulfilled, and 0 otherwise.

    `info` has the keys lifted, decided, side (+1, -1 or 0), correct, contact, phase ("free", "contact", "lifted" or
    "decided") and cls, the class of the object.

    Args:
        task: Name of the task: lift, feel, look or sort.
        cameras: Names of the cameras that are rendered and observed; None: all, the wrist camera first.
        render_mode: "rgb_array": `render` returns the image of the first camera in the last observation.
        options: Fields of `CellOptions`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - so named and typed by gymnasium

    def __init__(
        self, task: str, cameras: tuple[str, ...] | None = None, render_mode: str | None = None, **options: Any
    ) -> None:
        self.cell, self.render_mode = Cell(task, CellOptions(**options), cameras=cameras), render_mode
        rig, hand = self.cell.rig, self.cell.hand
        pad = Pad(hand.pad_width, hand.pad_height)
        stored = {name: rig.cameras[name].stored for name in self.cell.cameras}
        images: dict[str, gymnasium.Space[Any]] = {
            name: _frames(camera.height, camera.width) for name, camera in stored.items()
        }
        touches: dict[str, gymnasium.Space[Any]] = {rig.sensors[hand.sensor].stream: _frames(pad.rows, pad.columns)}
        arm = rig.arms[self.cell.arm].arm
        low, high = np.append(arm.lower, 0.0), np.append(arm.upper, 1.0)
        self.action_space = spaces.Box(low, high, dtype=np.float64)
        state = spaces.Box(-np.inf, np.inf, low.shape, np.float64)
        self._streams: dict[str, gymnasium.Space[Any]] = {"qpos": state, "touches": spaces.Dict(touches)}
        if images:  # gymnasium has no empty Dict
            self._streams["images"] = spaces.Dict(images)
        self.observation_space = spaces.Dict(self._streams)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; `options` may contain `cls`, the class of the object. Without it, the class is random."""
        super().reset(seed=seed)
        classes = self.cell.task.classes
        cls = int(self.np_random.integers(classes)) if "cls" not in (options or {}) else int((options or {})["cls"])
        self.cell.reset(int(self.np_random.integers(2**31)) if seed is None else seed, cls)
        return self._observed()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute an action for 0.1 s; see `Cell.step`."""
        self.cell.step(action)
        observation, info = self._observed()
        truncated = self.cell.count >= self.cell.task.horizon
        return observation, float(info["correct"]), self.cell.over(), truncated, info

    def render(self) -> np.ndarray | None:
        """Return the last image (H, W, 3) uint8 RGB of the first camera if `render_mode` is "rgb_array"."""
        return self._image if self.render_mode == "rgb_array" else None

    def _observed(self) -> tuple[dict[str, Any], dict[str, Any]]:
        moment = self.cell.moment()
        self._image = next(iter(moment.images.values()), None)
        seen = {name: value for name, value in self.cell.observation(moment).items() if name in self._streams}
        return seen, {**self.cell.info(moment), "cls": self.cell.cls}


def _frames(height: int, width: int) -> spaces.Box:
    return spaces.Box(0, 255, (height, width, 3), np.uint8)


for _name in TASKS:
    gymnasium.register(
        f"tactile_align/{_name.capitalize()}-v0", f"{__name__}:{CellEnv.__name__}", kwargs={"task": _name}
    )
