"""The caster sees what MuJoCo's own rays meet, and the bench is painted where it is."""

import mujoco
import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.simulation.looks import draw_look
from tactile_align.simulation.raycast import (
    BENCH,
    BOX,
    CAPSULE,
    CYLINDER,
    MISS,
    SPHERE,
    Caster,
    Lens,
    Paint,
    Pencil,
    Solids,
    hit,
    mask_box,
    normals,
)
from tactile_align.simulation.world import HOME, World, tool_pose

RIG = load_rig("cell")
LAMP = np.array([0.0, 0.0, 1.0])


def posed(seed: int, kind: str) -> World:
    rng = np.random.default_rng(seed)
    world = World(RIG, draw_look(rng, kind=kind))
    hand = tool_pose(rng.uniform([0.32, -0.15, 0.08], [0.46, 0.15, 0.18]), rng.uniform(-0.8, 0.8), (0.15, -0.1))
    q, reached = world.reach(hand, HOME)
    assert reached
    world.place_arm(q, rng.uniform(0.015, 0.04))
    world.place_thing(hand, rod=True)
    world.settle()
    return world


@pytest.mark.parametrize("camera", ["left_wrist", "top"])
@pytest.mark.parametrize(("seed", "kind"), [(0, "screw"), (1, "bumps"), (2, "ridges"), (3, "letter_L")])
def test_a_picture_meets_the_geoms_at_the_depths_that_mujocos_rays_do(camera: str, seed: int, kind: str) -> None:
    world = posed(seed, kind)
    picture, _, _ = world.look_through(camera)
    T, stored = world.T_world_camera(camera), RIG.cameras[camera].stored
    rng = np.random.default_rng(seed)
    groups, found = np.array([1, 1, 1, 1, 0, 0], np.uint8), np.zeros(1, np.int32)
    same, depths = [], []
    names = [world.model.geom(g).name for g in range(world.model.ngeom)]
    solids = [g for g in range(world.model.ngeom) if names[g] != "bench"]
    for _ in range(1000):
        u, v = int(rng.integers(stored.width)), int(rng.integers(stored.height))
        ray = np.array([(u - stored.K[0, 2]) / stored.K[0, 0], (v - stored.K[1, 2]) / stored.K[1, 1], 1.0])
        length = np.linalg.norm(ray)
        distance = mujoco.mj_ray(world.model, world.data, T[:3, 3], T[:3, :3] @ ray / length, groups, 1, -1, found)
        mine = picture.ids[v, u]
        same.append(found[0] == (names.index("bench") if mine == BENCH else solids[mine]))
        if same[-1]:
            depths.append(abs(distance / length - picture.depth[v, u]))
    # Single precision may fall on the other side of a silhouette once in a while.
    assert np.mean(same) >= 0.998
    assert max(depths) < 2e-4


def test_a_checkered_bench_is_painted_where_it_is() -> None:
    colours = np.array([[1.0, 0, 0], [0, 0, 1.0]], np.float32)
    pitch = 8.0
    nothing = Solids(np.zeros(0, np.int64), np.zeros((0, 3)), ())
    lens = Lens(320, 200, np.array([[300.0, 0, 150], [0, 280.0, 90], [0, 0, 1]]))
    T = tool_pose(np.array([0.31, -0.17, 0.6]), 0.4, (0.3, -0.2))
    picture = Caster(nothing, Paint(colours[0], colours[1], "checker", pitch), LAMP).background(lens, T)
    v, u = np.mgrid[:200, :320]
    rays = np.stack([(u - 150) / 300, (v - 90) / 280, np.ones_like(u, dtype=float)], axis=-1) @ T[:3, :3].T
    ground = T[:2, 3] - T[2, 3] * rays[..., :2] / rays[..., 2:]
    field = ground * pitch
    inner = (np.abs(field - np.round(field)) > 0.1).all(axis=-1)  # away from the seams, which are interpolated
    blue = picture.rgb[..., 2] > picture.rgb[..., 0]
    assert inner.mean() > 0.5
    np.testing.assert_array_equal(blue[inner], (np.floor(field).sum(axis=-1) % 2 == 1)[inner])


def test_above_the_horizon_there_is_sky_and_nothing_to_hit() -> None:
    nothing = Solids(np.zeros(0, np.int64), np.zeros((0, 3)), ())
    paint = Paint(np.zeros(3, np.float32), np.zeros(3, np.float32), "waves", 5.0)
    lens = Lens(40, 30, np.array([[30.0, 0, 19.5], [0, 30.0, 14.5], [0, 0, 1]]))
    T = np.eye(4)
    T[:3, :3] = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])  # looking along world x, level
    T[2, 3] = 0.5
    picture = Caster(nothing, paint, LAMP).background(lens, T)
    assert (picture.depth[:15] == MISS).all() and (picture.depth[15:] < 60).all()
    assert (picture.rgb[:15] > 150).all() and (picture.rgb[15:] < 5).all()


@pytest.mark.parametrize(
    ("kind", "size"),
    [(SPHERE, (0.03, 0, 0)), (CAPSULE, (0.02, 0.04, 0)), (CYLINDER, (0.02, 0.04, 0)), (BOX, (0.02, 0.03, 0.04))],
)
def test_points_a_hair_outside_along_the_normal_are_outside_and_a_hair_inside_inside(
    kind: int, size: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(0)
    R = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    R[:, 0] *= np.linalg.det(R)
    p = np.array([0.01, -0.02, 0.3])
    x, y = np.linspace(-0.25, 0.25, 101), np.linspace(-0.2, 0.2, 81)
    t = hit(Pencil(x, y), kind, np.array(size), p, R)
    v, u = np.nonzero(t < MISS)
    assert v.size > 500
    local = R.T @ (np.stack([x[u], y[v], np.ones(u.size)]) * t[v, u] - p[:, None])
    n = normals(kind, np.array(size), local)
    np.testing.assert_allclose(np.linalg.norm(n, axis=0), 1, atol=1e-9)
    facing = (R @ n * np.stack([x[u], y[v], np.ones(u.size)])).sum(axis=0)
    assert (facing < 1e-9).all()  # a ray enters where the surface faces it

    def outside(q: np.ndarray) -> np.ndarray:
        if kind == BOX:
            return (np.abs(q) - np.array(size)[:, None]).max(axis=0)
        if kind == SPHERE:
            return np.linalg.norm(q, axis=0) - size[0]
        if kind == CYLINDER:
            return np.maximum(np.hypot(q[0], q[1]) - size[0], np.abs(q[2]) - size[1])
        ends = np.stack([q[0], q[1], q[2] - np.clip(q[2], -size[1], size[1])])
        return np.linalg.norm(ends, axis=0) - size[0]

    np.testing.assert_allclose(outside(local), 0, atol=1e-9)
    assert (outside(local + 1e-6 * n) > 0).all() and (outside(local - 1e-6 * n) < 0).all()


def test_the_box_of_a_mask_reaches_half_a_pixel_beyond_its_outermost_centres() -> None:
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    np.testing.assert_array_equal(mask_box((100, 107, 50, 55), mask), [101.5, 50.5, 105.5, 52.5])
    assert np.isnan(mask_box((0, 0, 0, 0), np.zeros((0, 0), bool))).all()


def test_a_solid_that_reaches_from_before_the_camera_to_behind_it_is_drawn_whole() -> None:
    size = np.array([[0.02, 0.01, 0.5], [0.03, 0.4, 0]])
    paint = Paint(np.ones(3, np.float32), np.ones(3, np.float32))
    solids = Solids(np.array([BOX, CAPSULE]), size, (paint, paint))
    lens = Lens(160, 120, np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]]))
    T = np.eye(4)
    T[2, 3] = 5.0
    tilted = tool_pose(np.zeros(3), 0.3, (0.5, 0.4))[:3, :3]
    centre, axes = np.array([[0.06, 0.05, 5.0], [-0.1, -0.05, 5.0]]), np.stack([tilted, tilted])
    caster = Caster(solids, paint, LAMP)
    picture = caster.background(lens, T)
    placed = caster.place(lens, T, centre, axes)
    caster.draw(picture, lens, T, placed, np.arange(2))
    full = [
        hit(lens.pencil, int(k), s, c - T[:3, 3], tilted) for k, s, c in zip(solids.kind, size, centre, strict=True)
    ]
    for g in range(2):
        expected = (full[g] < MISS) & (full[g] < full[1 - g])
        assert expected.sum() > 200
        np.testing.assert_array_equal(picture.ids == g, expected)
