"""The walk-through of calibration/README.md runs as written, from a printed board to a passed verify."""

import re
from pathlib import Path

import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.geometry.frames import rotation_log

README = Path(__file__).resolve().parents[2] / "calibration" / "README.md"


@pytest.mark.slow
def test_the_walk_through_runs_as_written(
    recorded: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    Path("episodes").symlink_to(recorded["measured"], target_is_directory=True)  # `simulate` keeps finished episodes
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    rig, truth = load_rig(tmp_path / "rig.toml"), load_rig("cell")
    assert rig.verified is not None and rig.verified.verdict in ("pass", "warn")
    off = np.linalg.inv(truth.cameras["left_wrist"].T_parent_this) @ rig.cameras["left_wrist"].T_parent_this
    assert np.linalg.norm(off[:3, 3]) < 1e-3 and np.linalg.norm(rotation_log(off[:3, :3])) < np.radians(0.3)
    assert (tmp_path / "label.html").stat().st_size > 100_000
    assert abs(rig.cameras["left_wrist"].K[0][0] / truth.cameras["left_wrist"].K[0][0] - 1) < 0.01


def test_the_pictures_of_the_walk_through_are_there() -> None:
    for name in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / name).is_file()
