"""The uncertainty of a calibration, seen in the image, against calibrations drawn at random."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.projection.uncertainty import pixel_sigma

HOME = np.array([0.298, -0.294, -1.911, 0.634, 1.571, -1.273, 0.5])


def uncertain_cell() -> tuple[Rig, np.ndarray]:
    rig = load_rig("cell")
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(6, 6)) * np.array([1e-3] * 3 + [3e-3] * 3)[:, None]
    C = mixed @ mixed.T / 6
    return rig.with_camera("left_wrist", covariance=((C + C.T) / 2).tolist()), C


def test_the_spread_is_that_of_calibrations_drawn_from_the_covariance() -> None:
    rig, C = uncertain_cell()
    qpos = np.stack([HOME, HOME + np.array([0.1, -0.1, 0.1, 0.1, 0, 0.2, 0.3])])
    found = pixel_sigma(rig, "left_wrist", "tactile1", qpos)
    entry, T = rig.cameras["left_wrist"], rig.T_camera_sensor("left_wrist", "tactile1", qpos)
    p = T[..., :3, :3] @ np.asarray(rig.sensors["tactile1"].pad.center_m) + T[..., :3, 3]
    R, t = entry.T_parent_this[:3, :3], entry.T_parent_this[:3, 3]
    in_parent = p @ R.T + t
    seen = []
    for d in np.random.default_rng(1).multivariate_normal(np.zeros(6), C, size=1500):
        turned = R @ Rotation.from_rotvec(d[3:]).as_matrix()
        seen.append(entry.stored.project((in_parent - t - d[:3]) @ turned)[0])
    np.testing.assert_allclose(found, np.std(seen, axis=0), rtol=0.08)
    assert found.shape == (2, 2) and found.min() > 0.5


def test_a_rig_without_covariance_says_where_one_comes_from() -> None:
    with pytest.raises(ValueError, match=r"'left_wrist'.*no pose covariance.*calibrate hand-eye"):
        pixel_sigma(load_rig("cell"), "left_wrist", "tactile1", HOME[None])
