"""The exported program gives the policy's actions on observations it has not seen."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.policies.export import export_policy
from tactile_align.policies.observation import checked
from tactile_align.policies.runtime import Policy
from tactile_align.training.loop import train


@pytest.mark.slow
def test_an_exported_program_acts_as_the_policy(
    small_config: Callable[..., TrainConfig], regrasp_folder: Path, tmp_path: Path
) -> None:
    policy = Policy.load(train(small_config(steps=1), progress=False))
    with open_episode(list_episodes(regrasp_folder)[0]) as episode:
        seen = [
            {
                "qpos": episode.qpos[t],
                "images": {"left_wrist": episode.image("left_wrist", t)},
                "touches": {"tactile1": episode.image("tactile1", t)},
            }
            for t in (0, 40, 80)
        ]
    first = policy.batch(checked(seen[0], policy.needs))
    names = export_policy(policy, first, tmp_path / "policy.pt2")
    program = torch.export.load(tmp_path / "policy.pt2").module()
    for one in seen[1:]:
        batch = policy.batch(checked(one, policy.needs))
        actions = program(*(batch.tensors()[name] for name in names))
        restored = policy.statistics.restore_action(actions[0].detach().double().numpy())
        assert np.abs(restored - policy.act(one)).max() < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".pt2", ".part")) == ["policy.pt2"]
