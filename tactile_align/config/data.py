"""Which episodes a run trains on, and in which cameras its sensors are looked for."""

from typing import Annotated

from pydantic import Field

from tactile_align.facts import Strict

MOST_AHEAD_M = 0.2
"""Upper bound on the thickness of a grasped object, m."""


class DataConfig(Strict):
    """One folder of episodes."""

    path: str
    """Folder or file of HDF5 episodes."""
    rig: str
    """Name or path of the rig that recorded them."""
    layout: str | None = None
    """Name or path of the episode layout; None recognises it."""


class ViewConfig(Strict):
    """One camera in which a sensor is looked for."""

    camera: str
    """Camera stream."""
    sensor: str
    """Sensor of the rig whose box is projected into it."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of this view's loss: 1.0 for a wrist camera, 0.5 for a third-person one."""
    zoom: Annotated[float, Field(ge=1.0)] | None = None
    """None: the encoder sees the whole frame. Else it sees a cut-out with this many times the box's longer side."""
    ahead_m: Annotated[float, Field(ge=0.0, lt=MOST_AHEAD_M)] = 0.0
    """How far in front of the pad, along its normal, the box is put, metres: towards what the sensor touches. 0: on the
    sensor. The box keeps its size."""
