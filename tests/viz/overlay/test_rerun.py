import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tactile_align.errors import MissingExtra
from tactile_align.viz.overlay.footage import Footage
from tactile_align.viz.overlay.rerun import record
from tests.viz import making


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.record(tmp_path_factory.mktemp("recorded"))


def test_without_rerun_it_says_how_to_get_it(episode: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tactile-align\[rerun\]'"):
        record(episode, tmp_path / "a.rrd")
    assert not list(tmp_path.iterdir())


def read(path: Path) -> dict[tuple[str, str], list[tuple[int | None, Any]]]:
    """Return what a recording holds by (entity, component), each as (row, value)."""
    chunk = pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed, or too old to read files back")
    found: dict[tuple[str, str], list[tuple[int | None, Any]]] = {}
    for part in chunk.RrdReader(str(path)).stream().to_chunks():
        table = part.to_record_batch()
        kept = [name for name in table.schema.names if name == "row" or ":" in name]
        batch = table.select(kept).to_pydict()
        rows = batch.get("row", [None] * table.num_rows)
        for component, values in batch.items():
            if ":" in component:
                found.setdefault((part.entity_path, component), []).extend(zip(rows, values, strict=True))
    return found


def at(values: list[tuple[int | None, Any]], row: int) -> np.ndarray:
    return np.asarray(next(value for t, value in values if t == row), float).squeeze()


def test_poses_boxes_and_curves_in_the_recording_are_those_of_the_rig(episode: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    path = record(episode, tmp_path / "a.rrd", start=3, stop=9, ahead_m=0.01)
    assert [file.name for file in tmp_path.iterdir()] == ["a.rrd"]
    found = read(path)
    with Footage(episode, ahead_m=0.01) as footage:
        region = footage.moment(5).views[1].regions[0]
        opening = footage.opening["left"]
    rig, qpos = making.cell(), making.joints()
    T = rig.T_from_to("world", "left/finger1", qpos[5:6].astype(np.float32).astype(float), opening[5:6])[0]
    T = T @ rig.sensors["tactile1"].T_parent_this
    assert_allclose(at(found["/world/tactile1", "Transform3D:translation"], 5), T[:3, 3], atol=1e-5)
    columns = at(found["/world/tactile1", "Transform3D:mat3x3"], 5)  # stored column by column
    assert_allclose(columns.reshape(3, 3).T, T[:3, :3], atol=1e-5)
    centre = at(found["/world/left_wrist/image/tactile1_box", "Boxes2D:centers"], 5)
    assert_allclose(centre - 0.5, (region.box[:2] + region.box[2:]) / 2, atol=1e-3)
    assert_allclose(at(found["/curves/left/opening_mm", "Scalars:scalars"], 5), 1000 * opening[5, 0], rtol=1e-6)
    assert_allclose(at(found["/curves/left/joint2_deg", "Scalars:scalars"], 5), np.degrees(qpos[5, 1]), atol=1e-4)
    assert sorted({row for row, _ in found["/curves/tactile1/contact", "Scalars:scalars"]}) == [3, 4, 5, 6, 7, 8]
    ((_, pad),) = found["/world/tactile1/pad", "Boxes3D:half_sizes"]
    assert_allclose(np.asarray(pad).squeeze(), [0.009, 0.0, 0.012], atol=1e-7)


def test_a_pixel_of_a_turned_camera_lies_where_the_frustum_shows_it(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    rig = making.cell().with_camera("left_wrist", image_map=[["rotate180"]])
    found = read(record(making.record(tmp_path, rig=False), tmp_path / "a.rrd", rig=rig, stop=1))
    ((_, K),) = found["/world/left_wrist", "Pinhole:image_from_camera"]
    T = np.eye(4)
    T[:3, :3] = at(found["/world/left_wrist", "Transform3D:mat3x3"], 0).reshape(3, 3).T
    T[:3, 3] = at(found["/world/left_wrist", "Transform3D:translation"], 0)
    pad = at(found["/world/tactile1", "Transform3D:translation"], 0)
    p = np.linalg.inv(T) @ [*pad, 1.0]
    uvw = np.asarray(K, float).reshape(3, 3).T @ p[:3]
    assert K is not None and (np.diag(np.asarray(K, float).reshape(3, 3)) > 0).all() and p[2] > 0
    qpos = making.joints()[:1].astype(np.float32).astype(float)
    expected, _ = rig.camera("left_wrist").stored.project(rig.T_camera_sensor("left_wrist", "tactile1", qpos)[:, :3, 3])
    assert_allclose(uvw[:2] / uvw[2] - 0.5, expected[0], atol=0.01)


def test_a_recording_is_not_overwritten_unasked_and_needs_its_ending(episode: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    (tmp_path / "a.rrd").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"a\.rrd.*exists"):
        record(episode, tmp_path / "a.rrd")
    with pytest.raises(ValueError, match=r"end in \.rrd"):
        record(episode, tmp_path / "a.mp4")
