"""Contacts ahead of each moment: where a sensor will touch next, as pixels of the image of this moment.

The joints of a later row and the calibration give the place of a later contact, and so a target without a label.
"""

from dataclasses import dataclass, replace

import numpy as np
from array_api_compat import array_namespace

from tactile_align.datasets.contact import contacts
from tactile_align.geometry.frames import Array, invert
from tactile_align.geometry.images import ImageMap
from tactile_align.projection.episode_boxes import ViewBoxes


@dataclass(frozen=True)
class Ahead:
    """Next K contacts of one sensor in T moments of one view, the nearest first.

    The first contact of a moment in contact is the present one.

    Attributes:
        points: (T, K, 2) place of the contact in the image of the moment, px; nan where `known` is False.
        known: (T, K) bool, whether there is a k-th contact within the horizon and its place has a pixel in the image.
        done: (T, K) bool, whether there is no k-th contact within the horizon; False where `done_known` is False.
        done_known: (T, K) bool, whether the recording tells if there is a k-th contact within the horizon.
        onsets: (T, K) int64 row in which the contact begins; -1 if there is none within the horizon.
        depth: (T, K) distance of the place from the camera along its axis, metres; nan where `known` is False.
    """

    points: np.ndarray
    known: np.ndarray
    done: np.ndarray
    done_known: np.ndarray
    onsets: np.ndarray
    depth: np.ndarray

    def through(self, image_map: ImageMap) -> "Ahead":
        """Return the contacts in an image that `image_map` makes of the present image; see `moved`."""
        points, known = moved(self.points, self.known, image_map)
        return replace(self, points=points, known=known, depth=np.where(known, self.depth, np.nan))

    def counts(self) -> dict[str, int]:
        """Return how many of the T * K entries are of which kind.

        known: `points` has a pixel. no pixel: the contact exists, but its place is out of the image, or its onset is
        not recorded. done: there is no such contact. unknown: the recording does not tell.
        """
        there = self.onsets >= 0
        kinds = {"known": self.known, "no pixel": there & ~self.known, "done": self.done, "unknown": ~self.done_known}
        return {name: int(which.sum()) for name, which in kinds.items()}


def contacts_ahead(
    view: ViewBoxes, qpos: np.ndarray, contact: np.ndarray, *, horizon: int, most: int, complete: bool
) -> Ahead:
    """Return the next contacts of a sensor in each frame of an episode, in pixels of the camera's stored images.

    The place of a contact is the centre of the sensor's pad in the row in which the contact begins, at the held
    opening, in the frame of the arm's base. The camera is where it was when it took the frame.

    A contact that begins in row 0 has no place, because its onset is not recorded. In an episode without any contact
    nothing is known, because contacts that cannot be determined look the same.

    Args:
        view: Result of `episode_boxes` for the T frames of the episode.
        qpos: (T, D) raw state: joint and gripper readings, D numbers.
        contact: (T,) bool, whether the sensor touches something.
        horizon: Number of rows in which a later contact must begin.
        most: Number of contacts, K.
        complete: Whether the recording ends because the task is done, so that no contact follows its last row. If not,
            the absence of a contact is known only where the recording goes on for the horizon.
    """
    rig, sensor, camera = view.rig, view.rig.sensor(view.sensor), view.rig.camera(view.camera)
    rows, number = np.arange(len(qpos)), contacts(contact)
    begins = np.flatnonzero(number > np.concatenate(([-1], np.maximum.accumulate(number)[:-1])))
    following = (np.searchsorted(begins, rows, side="right") - np.asarray(contact, bool))[:, None] + np.arange(most)
    if not len(begins):
        nowhere, none = np.full((*following.shape, 2), np.nan), np.zeros(following.shape, bool)
        return Ahead(nowhere, none, none, none, np.full(following.shape, -1), nowhere[..., 0])
    which = np.minimum(following, len(begins) - 1)
    there = (following < len(begins)) & (begins[which] <= rows[:, None] + horizon)
    told = there | complete | (rows + horizon < len(rows))[:, None]

    arm = rig.sensor_arm(view.sensor)
    still = f"{arm}/base" if arm else "world"
    opening = None if view.opening is None else view.opening[begins]
    T_still_sensor = rig.T_from_to(still, sensor.parent, qpos[begins], opening) @ sensor.T_parent_this
    places = T_still_sensor[:, :3, :3] @ np.asarray(sensor.pad.center_m) + T_still_sensor[:, :3, 3]
    T_camera_still = invert(camera.T_parent_this) @ rig.T_from_to(camera.parent, still, view.qpos, view.opening)
    seen = np.einsum("tij,tkj->tki", T_camera_still[:, :3, :3], places[which]) + T_camera_still[:, None, :3, 3]
    points, valid = camera.stored.project(seen)
    stored = ImageMap.identity(camera.stored.width, camera.stored.height)
    points, known = moved(points, np.asarray(valid) & there & (begins[which] > 0), stored)
    depth = np.where(known, seen[..., 2], np.nan)
    return Ahead(points, known, told & ~there, told, np.where(there, begins[which], -1), depth)


def moved(points: Array, known: Array, image_map: ImageMap) -> tuple[Array, Array]:
    """Return points (..., 2), px, in the image that `image_map` makes, and whether each is known there (...).

    A point that the map moves out of the image is not known there, and is nan. `known` (...) states whether each point
    is known before; batch axes of the map match the leading axes.
    """
    xp = array_namespace(points)
    there = image_map.apply(xp.astype(points, xp.float64))
    u, v = there[..., 0] + 0.5, there[..., 1] + 0.5
    known = known & (u >= 0) & (u <= image_map.width) & (v >= 0) & (v <= image_map.height)
    there = xp.where(known[..., None], there, xp.full_like(there, float("nan")))
    return xp.astype(there, points.dtype), known
