"""The small training config, for policies that come out of a run, and what a policy is handed to act on."""

from typing import Any

from tactile_align.datasets.episodes import Episode
from tests.training.conftest import small_config

__all__ = ["observation", "small_config"]


def observation(episode: Episode, t: int, **more: Any) -> dict[str, Any]:
    """Return what a robot would hand to `Policy.act` at row t of an episode."""
    return {
        "qpos": episode.qpos[t],
        "images": {name: episode.image(name, t) for name in episode.cameras},
        "touches": {name: episode.image(name, t) for name in episode.sensors},
        **more,
    }
