"""Calibration session: a folder with `session.toml`, the robot's poses, and images (or points found in them)."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field, model_validator

from tactile_align.calibration.boards import Board, read_grey, warn_of_two_opencvs
from tactile_align.calibration.hand_eye import Mounted
from tactile_align.calibration.rig_parts import Lens
from tactile_align.calibration.views import View, read_points
from tactile_align.datasets.episodes import open_episode
from tactile_align.errors import InputError
from tactile_align.facts import Strict, parse, read_fact
from tactile_align.geometry.images import exif_orientation
from tactile_align.kinematics.arm import Arm, joint_values, load_arm
from tactile_align.sessions.robot_poses import PoseFormat, read_poses

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
STILL_RAD = 5e-4
"""Change of each joint, from frame to frame, below which the arm stands still; encoders jitter by a tenth of it."""
STILL_FRAMES = 5
"""Fewest consecutive steps between frames in which the arm must stand still, so that these frames give a view."""


@dataclass(frozen=True)
class Shot:
    """Image of a session, with its name and source.

    Attributes:
        name: Name of the view that the image gives.
        where: File of the image, with the frame number if the file is an episode, for messages.
        image: (H, W) uint8 grey, pixels as stored.
        orientation: EXIF orientation tag of the image file, which is ignored; 1 if it has none.
    """

    name: str
    where: str
    image: np.ndarray
    orientation: int = 1


def shots_of_folder(folder: Path) -> Iterator[Shot]:
    """Yield the images of a folder, sorted by file name.

    Raises:
        FileNotFoundError: The folder contains no images.
        InputError: A file is not an image.
    """
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{folder}: no images found. Give one image per view ({', '.join(SUFFIXES)})")
    for file in files:
        yield Shot(file.stem, str(file), read_grey(file), exif_orientation(file.read_bytes()))


def shots_of_episode(episode: str, camera: str, frames: tuple[int, ...]) -> Iterator[Shot]:
    """Yield the given frames of one camera of an episode, in grey, as the recorder stored them.

    Raises:
        EpisodeError, InputError: The episode lacks the camera or a frame.
    """
    with open_episode(episode) as recorded:
        if camera not in recorded.cameras:
            raise InputError(f"{episode} has no camera '{camera}'. Choose one of: {', '.join(recorded.cameras)}")
        for t in frames:
            image = cv2.cvtColor(recorded.image(camera, t), cv2.COLOR_RGB2GRAY)
            yield Shot(frame_name(t), f"{episode}: {camera}, frame {t}", np.asarray(image))


def frame_name(t: int) -> str:
    """Return the name of the view that is made from frame `t` of an episode."""
    return f"frame_{t:06d}"


def standstills(q: np.ndarray) -> tuple[int, ...]:
    """Return the middle frame of each period of an episode in which the joints q (T, n), rad, are at rest."""
    rests = np.abs(np.diff(q, axis=0)).max(axis=1) < STILL_RAD
    edges = np.flatnonzero(np.diff(rests.astype(int), prepend=0, append=0))
    return tuple(int(begin + end) // 2 for begin, end in edges.reshape(-1, 2) if end - begin >= STILL_FRAMES)


class SessionFact(Strict):
    """Keys and values of a `session.toml` file."""

    camera: str = "camera"
    """The camera's name in the rig."""
    arm: str | None = None
    """The arm's model, needed if the poses are joints."""
    base: str | None = None
    """The URDF link at which the arm starts. None: the root link."""
    tip: str | None = None
    """The URDF link that is the flange. None: the only link that has no child."""
    mounted: Mounted | None = None
    """moving: the camera is on the arm. fixed: the arm holds the board. None: the session is for intrinsics only."""
    parent: Annotated[str, Field(pattern=r"^(world|[^/]+/(base|flange|link[1-9][0-9]*))$")] | None = None
    """The camera's parent frame, as in the rig: left/flange, left/link5, world. Tool poses must be poses of this frame
    (for a fixed camera, of the flange)."""
    board_arm: str | None = None
    """The rig's arm that held the board in front of a fixed camera. None: the rig's first arm."""
    images: str = "images"
    """Folder with one image per view; its file name is the view's name."""
    episode: str | None = None
    """Recorded episode, FILE or FILE#NAME, with the camera and the joints. It replaces images and poses_file."""
    columns: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """Columns of qpos with the joints of the moving arm; only with episode."""
    frames: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """Frames that are views; None: the middle of each period in which the arm stands still. Only with episode."""
    points: str | None = None
    """CSV of board points (view, id, u, v) that another program found. It replaces images; needs width and height."""
    width: int | None = None
    height: int | None = None
    board: Board
    poses_file: str | None = None
    poses: PoseFormat | None = None
    intrinsics: Lens | None = None

    def kinematics(self) -> Arm | None:
        """Return the arm that `arm`, `base` and `tip` describe; None if `arm` is None."""
        return load_arm(self.arm, self.base, self.tip) if self.arm else None

    @model_validator(mode="after")
    def _links_are_of_an_arm(self) -> "SessionFact":
        if (self.base or self.tip) and Path(self.arm or "").suffix.lower() != ".urdf":
            raise InputError(
                f"base and tip are links of a URDF, but arm is {self.arm or 'missing'}. "
                f'Set arm to a URDF file, such as "my_arm.urdf", or remove base and tip'
            )
        return self


@dataclass(frozen=True)
class Session:
    """Calibration session as read from its files; no value is corrected.

    Attributes:
        name: The session's folder, for messages.
        fact: The keys of session.toml.
        width: Width of the images, px.
        height: Height of the images, px.
        views: N views in which the board was found, in the order of the poses (without poses, of the images' names).
        rows: (N, k) the k numbers that the pose file contains for each of these views; (N, 0) without poses.
        lost: Names of the images in which the board was not found or for which the pose is missing.
        legacy: Whether the images show the ChArUco layout from before OpenCV 4.6; None if they show no ChArUco board.
        orientations: EXIF orientation tags of the images by name, of those that have another tag than 1.
    """

    name: str
    fact: SessionFact
    width: int
    height: int
    views: tuple[View, ...]
    rows: np.ndarray
    lost: tuple[str, ...] = ()
    legacy: bool | None = None
    orientations: Mapping[str, int] = field(default_factory=dict)

    @property
    def arm(self) -> Arm | None:
        """The arm that session.toml names; None if it names no arm."""
        return self.fact.kinematics()

    @property
    def link(self) -> str:
        """Name of the arm's frame that carries the camera, such as flange or link5; flange if it carries the board."""
        node = (self.fact.parent or "").rpartition("/")[2]
        return node if self.fact.mounted == "moving" and node.startswith("link") else "flange"

    def poses_as(self, fmt: PoseFormat, link: str | None = None) -> np.ndarray:
        """Return T_base_link (N, 4, 4), m, as if the pose file had the format `fmt`; values are not checked.

        `link` is the frame whose pose is computed from joints. None: the frame given by the attribute `link`.
        """
        return fmt.matrices(self.rows, self.arm, checked=False, link=link or self.link)

    def T_base_link(self) -> np.ndarray:
        """Return the poses T_base_link (N, 4, 4), m, in N views, of the link that carries the camera or the board.

        The pose file is read in the format that [poses] in session.toml declares.

        Raises:
            InputError: Poses are missing, or their numbers are not valid poses.
        """
        if self.fact.poses is None:
            raise InputError(f"{self.name}: hand-eye needs robot poses, but session.toml has no [poses]. Add [poses]")
        try:
            return self.fact.poses.matrices(self.rows, self.arm, link=self.link)
        except InputError as error:
            raise InputError(f"{self.name}: poses: {error}") from error


def read_session(folder: str | Path) -> Session:
    """Return the session in a folder, with the board detected in its images.

    Raises:
        FileNotFoundError: session.toml, the pose file or the images were not found.
        FactError, InputError: A key is wrong, an image is unreadable, image sizes differ, or no view shows the board.
            The message states the file.
    """
    warn_of_two_opencvs()
    place = Path(folder)
    if not (place / "session.toml").is_file():
        raise FileNotFoundError(f"{place / 'session.toml'}: no such file. Create it, or choose another folder")
    data, source = read_fact("calibration", place / "session.toml")
    fact = parse(SessionFact, data, source)
    legacy, lost, tags = None, list[str](), dict[str, int]()
    if fact.episode is not None:
        episode = str(place / fact.episode)
        frames, values = _episode_joints(source, fact, episode)
        views, lost, width, height, legacy, tags = _detect(shots_of_episode(episode, fact.camera, frames), fact.board)
    elif fact.points is not None:
        if fact.width is None or fact.height is None:
            raise InputError(f"{source}: points is given without the size of the images. Add width and height")
        views, width, height = read_points(place / fact.points, fact.board), fact.width, fact.height
    else:
        views, lost, width, height, legacy, tags = _detect(shots_of_folder(place / fact.images), fact.board)
    names, rows = list(views), np.zeros((len(views), 0))
    if fact.episode is not None:
        rows = values[[i for i, t in enumerate(frames) if frame_name(t) in views]]
    elif fact.poses_file is not None:
        if fact.poses is None:
            raise InputError(f"{source}: poses_file needs [poses]. Add [poses] with of, length, angle and rotation")
        posed, values = read_poses(place / fact.poses_file, fact.poses.width(fact.kinematics()))
        own, theirs = _by_plain_name(views, source), _by_plain_name(posed, str(place / fact.poses_file))
        lost += [f"{name} (no pose)" for plain, name in own.items() if plain not in theirs]
        names = [own[plain] for plain in theirs if plain in own]
        if views and not names:
            raise InputError(
                f"{place}: no usable view: the board was found in {len(views)} images, all without a pose. The views "
                f"are {_some(views)}, but poses_file names {_some(posed)}. Give both the same names"
            )
        rows = values[[i for i, plain in enumerate(theirs) if plain in own]]
    if not names:
        raise InputError(
            f"{place}: no usable view: the board was found in {len(views)} images. Check the table [board]"
        )
    kept = tuple(views[name] for name in names)
    return Session(str(place), fact, width, height, kept, rows, tuple(lost), legacy, tags)


def _by_plain_name(names: Iterable[str], source: str) -> dict[str, str]:
    """Return the names of views by plain name: without blanks around it, folder and ending of an image file."""
    plain: dict[str, str] = {}
    for name in names:
        short = re.split(r"[/\\\\]", name.strip())[-1]
        short = short[: -len(Path(short).suffix)] if Path(short).suffix.lower() in SUFFIXES else short
        if short in plain:
            raise InputError(f"{source}: '{plain[short]}' and '{name}' name the same view. Keep one of the two")
        plain[short] = name
    return plain


def _some(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in [*names][:3]) + (", ..." if len(names) > 3 else "")


def _episode_joints(source: str, fact: SessionFact, episode: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the N frames of an episode that are views, and their joints (N, k) in the episode's unit."""
    extra = " and ".join(key for key in ("points", "poses_file") if getattr(fact, key) is not None)
    if extra:
        raise InputError(
            f"{source}: episode and {extra} are both given, but an episode already contains images and poses. "
            f"Remove {extra}"
        )
    if fact.columns is None or fact.poses is None or fact.poses.of != "joints":
        missing = "columns (the columns of qpos that contain the joints)"
        if fact.columns is not None:
            missing = '[poses] with of = "joints" and angle = "rad" or "deg"'
        raise InputError(f"{source}: poses cannot be computed from the episode's joints. Add {missing}")
    arm = fact.kinematics()
    needed = fact.poses.width(arm)
    if arm is None or len(fact.columns) != needed:
        raise InputError(
            f"{source}: columns lists {len(fact.columns)} columns, but arm {fact.arm} has {needed} joints. List one "
            f"column per joint"
        )
    with open_episode(episode) as recorded:
        qpos = np.asarray(recorded.qpos, dtype=np.float64)
    last = max(fact.columns)
    if last >= qpos.shape[1]:
        raise InputError(
            f"{source}: columns contains {last}, but qpos has columns 0 to {qpos.shape[1] - 1}. Choose among these"
        )
    q = qpos[:, list(fact.columns)]
    frames = fact.frames or standstills(joint_values(arm, q, fact.poses.angle))
    if not frames:
        raise InputError(
            f"{episode}: the arm never stands still for {STILL_FRAMES} frames. Let it rest at each view, or list "
            f"frames in session.toml"
        )
    if max(frames) >= len(q):
        raise InputError(
            f"{source}: frames contains {max(frames)}, but the episode has frames 0 to {len(q) - 1}. Choose among these"
        )
    return frames, q[list(frames)]


def _detect(
    shots: Iterable[Shot], board: Board
) -> tuple[dict[str, View], list[str], int, int, bool | None, dict[str, int]]:
    """Return the views by name, the names of images without a board, width, height (px), ChArUco layout, orientations.

    The layout is that of most images, see `Session.legacy`; for the orientations see `Session.orientations`.
    """
    views: dict[str, View] = {}
    lost: list[str] = []
    layouts: list[bool] = []
    tags: dict[str, int] = {}
    first: Shot | None = None
    for shot in shots:
        first = first or shot
        (height, width), (high, wide) = first.image.shape, shot.image.shape
        if (high, wide) != (height, width):
            raise InputError(
                f"{shot.where} is {wide}x{high}, but {first.where} is {width}x{height}. Use images of one camera at "
                f"one resolution"
            )
        tags |= {shot.name: shot.orientation} if shot.orientation != 1 else {}
        detection = board.detect(shot.image)
        if detection is None:
            lost.append(shot.name)
            continue
        views[shot.name] = View.of(shot.name, board, detection)
        layouts.append(detection.legacy)
    legacy = (sum(layouts) * 2 > len(layouts)) if layouts else None
    return views, lost, width, height, legacy, tags
