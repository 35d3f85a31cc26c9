"""An episode as a Rerun recording: arms, cameras, sensors and boxes in 3D, beside images, touches and curves."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode, EpisodeRef
from tactile_align.errors import InputError
from tactile_align.extras import need
from tactile_align.geometry.frames import Array
from tactile_align.viz.ink import COMPARED, sensor_colour
from tactile_align.viz.overlay.boxes import told
from tactile_align.viz.overlay.footage import Footage

ROW = "row"
SECONDS = "seconds"
AXIS_M = 0.05
FRUSTUM_M = 0.15


def record(
    episode: EpisodeRef | str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    tell: Callable[[str], object] | None = None,
    **options: Any,
) -> Path:
    """Write an episode as a .rrd file, to be opened with `rerun FILE`.

    In it, under `world`: each arm's frames and a line through them, each camera's frustum with its frames, each
    sensor's body and pad; under `touch` the touches; under `curves` joints (deg), openings (mm), contact and,
    by camera and sensor, the share of the box inside. Frusta are drawn without lens distortion; boxes in images
    have it.

    Args:
        episode: A file, "FILE#NAME" where a file holds several, or a ref.
        out: The .rrd file.
        overwrite: Whether an existing file may be replaced.
        tell: Called with a line for each camera and sensor on how the boxes of `compare` differ, e.g. print.
        options: The fields of `OverlayOptions`, as in `overlay`; the boxes of `compare` have another colour, tokens
            are not recorded.

    Returns:
        The file.

    Raises:
        ModuleNotFoundError: rerun-sdk is not installed.
        FileExistsError: The file exists and `overwrite` is False.
        InputError: `out` does not end in .rrd, or what `overlay` refuses.
    """
    rr = need("rerun", "a Rerun recording", "rerun-sdk", "rerun", "`overlay` draws PNG and MP4 without it")
    target = Path(out)
    if target.suffix != ".rrd":
        raise InputError(f"{target}: a Rerun recording needs a name ending in .rrd")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another out, or replace it with --overwrite (overwrite=True)")
    with Footage(episode, **{"grid": None, **options}) as footage:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.stem}.{os.getpid()}.rrd")
        try:
            stream = rr.RecordingStream("tactile_align", recording_id=footage.episode.path.name)
            stream.save(str(partial))
            _Recorder(rr, stream, footage).write(footage.rows)
            stream.disconnect()
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        if tell is not None:
            for line in told(footage.seen, footage.rows):
                tell(line)
    return target


class _Recorder:
    """Logs a footage's static parts, then row after row."""

    def __init__(self, rr: Any, stream: Any, footage: Footage) -> None:
        self.rr, self.stream, self.footage = rr, stream, footage
        self.rig: Rig = footage.rig
        self.episode: Episode = footage.episode
        self.frames = {arm: self._chain(arm) for arm in self.rig.arms}
        self.cameras = [name for name in footage.cameras if name in self.rig.cameras]
        self.T_world = {name: self._pose(name) for name in self._mounted()}

    def write(self, rows: Sequence[int]) -> None:
        self._static()
        for t in rows:
            self.stream.set_time(ROW, sequence=t)
            if self.episode.fps is not None:
                self.stream.set_time(SECONDS, duration=t / self.episode.fps)
            for name, T in self.T_world.items():
                self._log(name, self.rr.Transform3D(translation=T[t, :3, 3], mat3x3=T[t, :3, :3]))
            self._arms(t)
            self._images(t)
            self._curves(t)

    def _chain(self, arm: str) -> list[str]:
        entry = self.rig.arms[arm]
        nodes = ["base", *(f"link{i + 1}" for i in range(entry.arm.dof)), "flange"]
        return [f"{arm}/{node}" for node in (*nodes, *(("finger1", "finger2") if entry.gripper else ()))]

    def _mounted(self) -> list[str]:
        """Entity names of all that has a pose."""
        frames = [f"world/{frame}" for chain in self.frames.values() for frame in chain]
        return [*frames, *(f"world/{c}" for c in self.cameras), *(f"world/{s}" for s in self.rig.sensors)]

    def _pose(self, entity: str) -> Array:
        """(T, 4, 4) T_world_entity; a camera turned by the recorder is turned here, see `_upright`."""
        name = entity.removeprefix("world/")
        qpos = self.episode.qpos
        if name in self.rig.cameras or name in self.rig.sensors:
            mount = self.rig.cameras.get(name) or self.rig.sensors[name]
            turn = _upright(self.rig.camera(name).stored) if name in self.rig.cameras else np.eye(3)
            T_parent_this = mount.T_parent_this.copy()
            T_parent_this[:3, :3] = T_parent_this[:3, :3] @ turn
            return self._T(mount.parent, qpos) @ T_parent_this
        return self._T(name, qpos)

    def _T(self, frame: str, qpos: np.ndarray) -> np.ndarray:
        opening = self.footage.opening.get(frame.partition("/")[0])
        T: np.ndarray = self.rig.T_from_to("world", frame, qpos, opening)
        return T

    def _log(self, entity: str, *parts: Any, static: bool = False) -> None:
        self.stream.log(entity, *parts, static=static)

    def _static(self) -> None:
        rr = self.rr
        self._log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        axes = rr.Arrows3D(vectors=np.eye(3) * AXIS_M, colors=[[230, 60, 60], [60, 200, 60], [80, 120, 255]])
        for chain in self.frames.values():
            for frame in chain:
                self._log(f"world/{frame}/axes", axes, static=True)
        for name in self.cameras:
            camera = self.rig.camera(name).stored
            K = np.asarray(camera.K) @ _upright(camera)
            K[[0, 1], [0, 1]] = np.abs(K[[0, 1], [0, 1]])
            K[:2, 2] += 0.5  # Rerun puts (0, 0) at the first pixel's corner
            self._log(
                f"world/{name}",
                rr.Pinhole(
                    image_from_camera=K,
                    width=camera.width,
                    height=camera.height,
                    camera_xyz=rr.ViewCoordinates.RDF,
                    image_plane_distance=FRUSTUM_M,
                ),
                static=True,
            )
        for i, (name, sensor) in enumerate(self.rig.sensors.items()):
            for part, solids, thick in (("body", sensor.body, 0.0005), ("pad", (sensor.pad,), 0.001)):
                self._log(
                    f"world/{name}/{part}",
                    rr.Boxes3D(
                        centers=[solid.center_m for solid in solids],
                        half_sizes=[np.asarray(solid.size_m) / 2 for solid in solids],
                        colors=[sensor_colour(i)] * len(solids),
                        radii=thick,
                    ),
                    static=True,
                )

    def _arms(self, t: int) -> None:
        for arm, chain in self.frames.items():
            line = [self.T_world[f"world/{f}"][t, :3, 3] for f in chain if not f.endswith(("finger1", "finger2"))]
            self._log(f"world/{arm}/line", self.rr.LineStrips3D([line], radii=0.006, colors=[200, 200, 200]))

    def _images(self, t: int) -> None:
        rr = self.rr
        for name in self.footage.cameras:
            place = f"world/{name}" if name in self.cameras else f"images/{name}"
            self._log(f"{place}/image", self._picture(name, t))
            for i, (sensor, seen) in enumerate(self.footage.seen.get(name, {}).items()):
                for kind, boxes, colour in (
                    ("box", seen.boxes.box, sensor_colour(i)),
                    ("compared", seen.compared, COMPARED),
                ):
                    if boxes is None:
                        continue
                    known = [boxes[t] + 0.5] if np.isfinite(boxes[t]).all() else np.zeros((0, 4))
                    drawn = rr.Boxes2D(array=known, array_format=rr.Box2DFormat.XYXY, colors=colour)
                    self._log(f"{place}/image/{sensor}_{kind}", drawn)
        for name in self.episode.sensors:
            self._log(f"touch/{name}", self._picture(name, t))

    def _picture(self, name: str, t: int) -> Any:
        """Return a frame as stored where a standard decoder gets its colours right, else decoded."""
        stored = self.episode.encoded(name, t)
        if stored is None or self.episode.stream(name).channels != "rgb":
            return self.rr.Image(self.episode.image(name, t))
        kind = "image/png" if stored.startswith(b"\x89PNG") else "image/jpeg"
        return self.rr.EncodedImage(contents=stored, media_type=kind)

    def _curves(self, t: int) -> None:
        scalar = self.rr.Scalars
        for arm, q in self.footage.joints.items():
            for i, angle in enumerate(np.degrees(q[t])):
                self._log(f"curves/{arm}/joint{i + 1}_deg", scalar([float(angle)]))
        for arm, opening in self.footage.opening.items():
            self._log(f"curves/{arm}/opening_mm", scalar([1000 * float(opening[t, 0])]))
        for name, flags in self.footage.contact.items():
            self._log(f"curves/{name}/contact", scalar([float(flags[t])]))
        for camera, sensors in self.footage.seen.items():
            for sensor, seen in sensors.items():
                self._log(f"curves/{camera}/{sensor}_inside", scalar([float(seen.boxes.inside[t])]))


def _upright(camera: Camera) -> np.ndarray:
    """Return R_camera_upright: a recorder's turn by 180 degrees makes both focal lengths negative.

    A mirrored image (one negative) is no pose of a camera; its frustum is drawn unmirrored.
    """
    if float(camera.K[0][0]) < 0 and float(camera.K[1][1]) < 0:
        return np.diag([-1.0, -1.0, 1.0])
    return np.eye(3)
