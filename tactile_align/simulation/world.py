"""Simulated cell of one episode: poses, physics, images and ground truth.

The ground truth comes from MuJoCo's kinematics and from the ray caster's pixel masks, never from the rig's projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import mujoco
import numpy as np
import numpy.typing as npt

from tactile_align.calibration.rig import Rig
from tactile_align.errors import InputError
from tactile_align.geometry.frames import pose, rotation_from_rpy
from tactile_align.simulation.gel import GelCamera, GelUnit, Pad, Relaxation, Skin, centroid, clearance
from tactile_align.simulation.looks import Look, paint_of
from tactile_align.simulation.raycast import Caster, Floats, Lens, Picture, Solids, mask_box
from tactile_align.simulation.scene import ROD_HALF, TIMESTEP_S, read_hand, scene_text

CLOSE = 1e-5  # largest error of a reached pose, metres and radians
_DAMPING = 1e-5
_LONGEST = 0.3  # largest turn of a joint in one iteration, rad


def reach(
    model: mujoco.MjModel, scratch: mujoco.MjData, site: str, dof: int, T_world_site: Floats, q0: Floats, tries: int
) -> tuple[Floats, bool]:
    """Return joints at which a site has a target pose, found by damped least squares.

    Args:
        model: The scene; the arm's joints are its first joints.
        scratch: Data of the scene for the computation; overwritten.
        site: Name of the site.
        dof: Number of joints of the arm, n.
        T_world_site: (4, 4) target pose.
        q0: (n,) initialisation of the joints, rad.
        tries: Maximum number of iterations.

    Returns:
        (n,) joints, rad, and whether they reach the pose within 1e-5 m and 1e-5 rad.
    """
    index = model.site(site).id
    q = np.array(q0, dtype=np.float64)
    J, error = np.zeros((6, model.nv)), np.zeros(6)
    for _ in range(tries):
        scratch.qpos[:dof] = q
        mujoco.mj_kinematics(model, scratch)
        turn = T_world_site[:3, :3] @ scratch.site_xmat[index].reshape(3, 3).T
        axis = (turn - turn.T)[[2, 0, 1], [1, 2, 0]] / 2
        if np.trace(turn) < 1:  # beyond a quarter turn the sine decreases, so only the axis direction is used
            axis /= np.linalg.norm(axis) + 1e-9
        error[:3], error[3:] = T_world_site[:3, 3] - scratch.site_xpos[index], axis
        if np.abs(error).max() < CLOSE:
            return q, True
        mujoco.mj_comPos(model, scratch)
        mujoco.mj_jacSite(model, scratch, J[:3], J[3:], index)
        A = J[:, :dof]
        step = A.T @ np.linalg.solve(A @ A.T + _DAMPING * np.eye(6), error)
        q += step * min(1.0, _LONGEST / max(np.abs(step).max(), 1e-9))
    return q, False


CONTROL_HZ = 20.0
PHASES = ("approach", "surround", "close", "press", "release", "lift", "carry")
TOOL_DOWN = np.diag([1.0, -1.0, -1.0])
TOUCHING = 2e-5  # smallest indentation that counts as contact, metres: just above the noise of the touch camera
SQUEEZE_M = 0.003  # distance by which the command closes further after an object stops the fingers


@dataclass
class Truth:
    """Ground truth of one moment: boxes, contact, and the positions of fingers and object.

    Attributes:
        box: (4,) box of the whole sensor, hidden parts included, in stored pixels, by camera; nan if out of view.
        unoccluded: Share of the sensor's pixels that nothing hides, by camera; nan if out of view.
        indentation: Depth of the deepest point in the gel, metres.
        print: (2,) centroid of the indentation on the pad, along x and y of the frame of `gel.Pad`, metres; nan where
            nothing presses.
        contact: Whether the gel is in contact (indentation > TOUCHING).
        opening: (2,) distance of each finger from the tool axis, metres.
        thing: (3,) position of the object in the world frame, metres.
    """

    box: dict[str, Floats]
    unoccluded: dict[str, float]
    indentation: float
    print: Floats
    contact: bool
    opening: Floats
    thing: Floats


@dataclass
class Moment:
    """Images, touch image, joints and ground truth of one synchronised instant.

    Attributes:
        images: (H, W, 3) uint8 RGB images by camera name.
        touch: (H, W, 3) uint8 RGB touch image.
        q: (n,) values of the n joints, rad.
        truth: Ground truth of this moment.
    """

    images: dict[str, npt.NDArray[np.uint8]]
    touch: npt.NDArray[np.uint8]
    q: Floats
    truth: Truth


@dataclass
class Step:
    """One recorded moment with its command, phase and contact.

    Attributes:
        moment: Images, touch, joints and ground truth.
        target: Last command, n + 1 numbers: n joints, rad, and the distance of the fingers from the tool axis, metres.
        phase: Phase of the task, one of PHASES.
        contact: Index of the contact in the episode; -1 without contact.
        action: Command for the next step, n + 1 numbers like `target`; None: the target of the next step.
    """

    moment: Moment
    target: Floats
    phase: str
    contact: int
    action: Floats | None = None


def tool_pose(place: Floats, yaw: float, tilt: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """Return the pose (4, 4) in the world frame of a tool that points downward, with its origin between the pads.

    Args:
        place: (3,) position, metres.
        yaw: Rotation about world z, applied after `tilt`, rad.
        tilt: Rotations of the downward tool about world x and y, rad.
    """
    R = rotation_from_rpy(np.array([tilt[0], tilt[1], yaw])) @ TOOL_DOWN
    return np.asarray(pose(R, np.asarray(place, dtype=np.float64)))


_ROOM = 64  # px by which the noise image is larger than a camera image
FAR = 0.2  # metres: larger than any object in the hand
_OPTICAL = np.diag([1.0, -1.0, -1.0])  # rotation between the camera axes of MuJoCo and OpenCV
HOME = np.array([0.298, -0.294, -1.911, 0.634, 1.571, -1.273])  # Nova 2: tool down, pads 0.12 m above (0.40, 0)


class World:
    """Simulated cell: an arm with a sensor, the cameras of a rig, and one object to grip.

    Args:
        rig: The rig from which the cell is built.
        look: Object, colours, lamp and further objects of the episode.
        arm: Name of an arm of the rig.
        unit: Light, gain and tint of the touch sensor's image; None: those of the nominal sensor.
        camera_noise: Standard deviation of the noise of camera images, grey levels.
        noise_rngs: Random generator of the noise of each camera, by name; needed with `camera_noise`. Each camera has
            its own one, so that no image depends on the other cameras that are rendered.
        relaxation: Law by which the gel recovers; None: it recovers at once.
    """

    def __init__(
        self,
        rig: Rig,
        look: Look,
        arm: str = "left",
        unit: GelUnit | None = None,
        camera_noise: float = 0.0,
        noise_rngs: Mapping[str, np.random.Generator] | None = None,
        relaxation: Relaxation | None = None,
    ) -> None:
        self.rig, self.look, self.arm = rig, look, rig.arms[arm].arm
        self.hand = read_hand(rig, arm)
        self.model = mujoco.MjModel.from_xml_string(scene_text(rig, arm, look))
        self.data = mujoco.MjData(self.model)
        self._scratch = mujoco.MjData(self.model)
        m = self.model
        self._names = [m.geom(g).name for g in range(m.ngeom)]
        self._geoms = np.array([g for g in range(m.ngeom) if self._names[g] != "bench"])
        sensor = rig.sensors[self.hand.sensor]
        foremost = int(np.argmax([(b.corners @ np.asarray(sensor.pad.normal)).max() for b in sensor.body]))
        solids = Solids(
            m.geom_type[self._geoms].astype(np.int64),
            m.geom_size[self._geoms].copy(),
            tuple(paint_of(self._names[g], look, foremost) for g in self._geoms),
        )
        self.caster = Caster(solids, look.bench, look.lamp)
        body = m.geom_bodyid[self._geoms]
        fixed = (m.body_weldid[body] == 0) & (m.body_mocapid[body] < 0)
        things = self._named("thing")  # in the order of look.parts
        seen = np.ones(len(self._geoms), bool)
        seen[things] = [part.seen for part in look.parts]
        self._seen, self._still, self._moving = (np.flatnonzero(which & seen) for which in (seen, fixed, ~fixed))
        self.sensor_solids = self._named("sensor")
        self.thing_solids = things[[part.felt for part in look.parts]]
        self.lenses = {name: lens_of(rig, name) for name in rig.cameras}
        self._backdrop: dict[str, Picture] = {}
        # Crops of one noise image are faster than new random numbers for each image.
        self._grain: npt.NDArray[np.float32] | None = None
        self._noise_rngs = noise_rngs or {}
        if camera_noise:
            height, width = (max(getattr(lens, side) for lens in self.lenses.values()) for side in ("height", "width"))
            noise = np.random.default_rng(0).normal(0, camera_noise, (height + _ROOM, width + _ROOM, 3))
            self._grain = noise.astype(np.float32)
        self.pad = Pad(self.hand.pad_width, self.hand.pad_height)
        self.gel = GelCamera(self.pad, unit=unit)
        self._skin, self._pressed_s = Skin(relaxation), 0.0
        self._q = slice(0, self.arm.dof)
        self._fingers = [m.joint(f).qposadr[0] for f in ("finger1", "finger2")]
        self._thing = self.data.joint("thing").qpos  # a numpy view of position and quaternion, (7,)
        self.place_thing(pose(np.eye(3), np.array([0.0, 0.0, -1.0])))  # out of sight

    def _named(self, prefix: str) -> npt.NDArray[np.int64]:
        return np.array([i for i, g in enumerate(self._geoms) if self._names[g].startswith(prefix)])

    # Moving without physics

    def place_thing(self, T_world_thing: Floats, rod: bool = False) -> None:
        """Set the object's pose (4, 4) in the world frame; if `rod`, the fixture's rod holds the object from below."""
        self._thing[:3] = T_world_thing[:3, 3]
        mujoco.mju_mat2Quat(self._thing[3:], np.ascontiguousarray(T_world_thing[:3, :3]).ravel())
        self.data.mocap_pos[0] = T_world_thing[:3, 3] - [0, 0, ROD_HALF] if rod else [0, 0, -2]

    def place_arm(self, q: Floats, opening: float | Sequence[float] | Floats) -> None:
        """Set the joints `q` (n,), rad, and the distance of the fingers from the tool axis, metres.

        `opening` is one number for both fingers, or one for each.
        """
        self.data.qpos[self._q] = q
        self.data.qpos[self._fingers] = opening

    def settle(self) -> None:
        """Update the poses of all parts of the cell from the joint positions, without a physics step."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def wait(self, seconds: float) -> None:
        """Let time pass, in seconds, without a physics step: only the gel changes."""
        self.data.time += seconds

    # Moving with physics

    def command(self, target: Floats) -> None:
        """Set the servo targets: n joints, rad, and the distance of the fingers from the tool axis, metres."""
        self.data.ctrl[:] = target

    def run(self, steps: int) -> None:
        """Run `steps` physics steps of TIMESTEP_S seconds each, then update the poses of all parts of the cell."""
        mujoco.mj_step(self.model, self.data, nstep=steps)
        self.settle()

    def control(self, target: Floats) -> None:
        """Command the servo targets and simulate one control step of 1 / CONTROL_HZ seconds; see `command`."""
        self.command(target)
        self.run(round(1 / (CONTROL_HZ * TIMESTEP_S)))
        if self._skin.relaxation is not None:  # such a gel remembers how deep it was pressed between two images
            self._press()

    def thing_place(self) -> Floats:
        """Return the position of the object to grip, (3,) metres, in the world frame."""
        return np.array(self._thing[:3])

    def reach(self, T_world_tcp: Floats, q0: Floats, tries: int = 60) -> tuple[Floats, bool]:
        """Return the n joints (n,), rad, for a pose of the point between the pads, and whether the joints are usable.

        They are usable if they reach the pose and lie within the joint limits. The arguments are those of the function
        `reach`.
        """
        q, close = reach(self.model, self._scratch, "tcp", self.arm.dof, T_world_tcp, q0, tries)
        return q, close and bool(np.all((q >= self.arm.lower) & (q <= self.arm.upper)))

    # Poses and distances

    def _frames(self) -> tuple[Floats, Floats]:
        return self.data.geom_xpos[self._geoms], self.data.geom_xmat[self._geoms].reshape(-1, 3, 3)

    def T_world_camera(self, name: str) -> Floats:
        """Return a camera's pose (4, 4) in the world frame, with OpenCV axes, metres, computed by MuJoCo."""
        c = self.model.camera(name).id
        return np.asarray(pose(self.data.cam_xmat[c].reshape(3, 3) @ _OPTICAL, self.data.cam_xpos[c]))

    def T_world_tcp(self) -> Floats:
        """Return the pose (4, 4) in the world frame of the point between the pads, with the flange's axes, metres."""
        return np.asarray(pose(*self._site("tcp")))

    def T_world_pad(self) -> Floats:
        """Return the pose (4, 4) in the world frame of the undeformed gel face, metres; z points out of the sensor."""
        return np.asarray(pose(*self._site("pad")))

    def _site(self, name: str) -> tuple[Floats, Floats]:
        s = self.model.site(name).id
        return self.data.site_xmat[s].reshape(3, 3), self.data.site_xpos[s]

    def height_field(self, within: float = 0.0) -> Floats:
        """Return the distance, metres, from each gel cell to the object or the opposite pad, see `gel.clearance`."""
        R, p = self._site("pad")
        return self._clearance(R, p, np.concatenate([self.thing_solids, self._named("opposite")]), within)

    def _clearance(self, R: Floats, p: Floats, which: npt.NDArray[np.int64], within: float) -> Floats:
        centre, axes = self._frames()
        return clearance(self.pad, self.caster.solids, which, (centre - p) @ R, R.T @ axes, within)

    def thickness(self) -> tuple[float, float]:
        """Return the object's extent from the tool axis towards finger1's pad and towards finger2's pad, metres.

        Each extent covers only the part of the object that lies over that pad; it is -inf if no part does.
        """
        R, _ = self._site("pad")
        tcp = self.T_world_tcp()[:3, 3]
        out = []
        for A in (R, R @ np.diag([-1.0, 1.0, -1.0])):  # the opposite pad is finger1's pad turned about the tool axis
            nearest = float(self._clearance(A, tcp - A[:, 2] * FAR / 2, self.thing_solids, FAR).min())
            out.append(FAR / 2 - nearest if nearest < FAR else -np.inf)
        return out[0], out[1]

    # Images

    def look_through(self, name: str) -> tuple[Picture, Floats, float]:
        """Return a camera's picture, the box (4,) of the whole sensor with its hidden parts, and its visible share."""
        lens, T = self.lenses[name], self.T_world_camera(name)
        placed = self.caster.place(lens, T, *self._frames())
        fixed = self.rig.cameras[name].parent == "world"
        picture, which = self._backdrop.get(name), self._moving if fixed else self._seen
        if picture is None:
            picture = self.caster.background(lens, T)
        if fixed and name not in self._backdrop:
            self.caster.draw(picture, lens, T, placed, self._still)
            self._backdrop[name] = picture
        picture = picture.copy() if fixed else picture
        self.caster.draw(picture, lens, T, placed, which)
        window, mask = self.caster.silhouette(lens, placed, self.sensor_solids)
        box = mask_box(window, mask)
        u0, u1, v0, v1 = window
        visible = np.isin(picture.ids[v0:v1, u0:u1], self.sensor_solids)
        return picture, box, float(visible.sum() / mask.sum()) if mask.any() else np.nan

    def observe(self, rng: np.random.Generator) -> Moment:
        """Return images, touch, joints and ground truth of the current moment; `rng` draws the noise of the touch."""
        images, box, unoccluded = {}, {}, {}
        for name in self.lenses:
            picture, box[name], unoccluded[name] = self.look_through(name)
            images[name] = self._with_noise(picture.rgb, name)
        sunk, skin = self._press()
        pressed = np.where(sunk >= skin, sunk, 0.0)  # elsewhere no object reaches the skin
        deepest, opening = max(float(pressed.max()), 0.0), self.data.qpos[self._fingers].copy()
        place = centroid(self.pad, pressed)
        truth = Truth(box, unoccluded, deepest, place, deepest > TOUCHING, opening, self.thing_place())
        return Moment(images, self.gel.touch(skin, rng), self.data.qpos[self._q].copy(), truth)

    def _press(self) -> tuple[Floats, Floats]:
        """Press the objects into the gel, and return the indentation by the objects and that of the skin, metres."""
        sunk, since = -self.height_field(), self.data.time - self._pressed_s
        self._pressed_s = self.data.time
        return sunk, self._skin.press(sunk, since)

    def _with_noise(self, image: npt.NDArray[np.uint8], camera: str) -> npt.NDArray[np.uint8]:
        if self._grain is None:
            return image
        (height, width), (v, u) = image.shape[:2], self._noise_rngs[camera].integers(0, _ROOM, 2)
        return np.asarray(cv2.add(image, self._grain[v : v + height, u : u + width], dtype=cv2.CV_8U))


def lens_of(rig: Rig, name: str, raw: bool = False) -> Lens:
    """Return the lens of a rig's camera for stored frames, or for raw frames if `raw`.

    Raises:
        InputError: The camera's model is not "pinhole".
    """
    camera = rig.cameras[name].raw if raw else rig.cameras[name].stored
    if camera.model != "pinhole":
        text = f"cameras.{name}.model of rig {rig.name} is '{camera.model}'"
        raise InputError(f"{text}, but the simulated cell supports only 'pinhole'. Set model = 'pinhole' in that rig")
    return Lens(camera.width, camera.height, camera.K)


def true_sensor_boxes(rig: Rig, camera: str, q: Floats, opening: Floats, look: Look, arm: str = "left") -> Floats:
    """Return the boxes of the whole sensor in a camera's RAW frames, from MuJoCo's kinematics and pixel masks.

    Args:
        rig: The rig from which the cell is built.
        camera: Name of a camera of the rig.
        q: (T, n) values of the n joints in T frames, rad.
        opening: (T, 2) distance of each finger from the tool axis in each frame, metres.
        look: Look of the cell; any look will do, because the boxes do not depend on it.
        arm: Name of an arm of the rig.

    Returns:
        (T, 4) boxes in continuous raw pixels, clipped to the image border; nan if out of view.
    """
    world, lens = World(rig, look, arm), lens_of(rig, camera, raw=True)
    boxes = []
    for joints, fingers in zip(np.asarray(q), np.asarray(opening), strict=True):
        world.place_arm(joints, fingers)
        world.settle()
        placed = world.caster.place(lens, world.T_world_camera(camera), *world._frames())
        boxes.append(mask_box(*world.caster.silhouette(lens, placed, world.sensor_solids)))
    return np.array(boxes).reshape(-1, 4)
