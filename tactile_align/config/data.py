"""Config of the data of a run: its episodes, and the views, pairs of a camera and a sensor."""

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
    """Name or path of the episode layout; None: it is recognised."""


class ViewConfig(Strict):
    """A view: a camera and a sensor whose box is projected into its images."""

    camera: str
    """Name of the camera stream."""
    sensor: str
    """Name of the sensor in the rig."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the view in the alignment loss; usual are 1.0 for a wrist camera and 0.5 for a third-person camera."""
    zoom: Annotated[float, Field(ge=1.0)] | None = None
    """Side of the cut-out that the encoder sees, as a factor on the longer side of the box; None: the whole frame."""
    ahead_m: Annotated[float, Field(ge=0.0, lt=MOST_AHEAD_M)] = 0.0
    """Distance of the box in front of the pad, along the pad's normal, m; 0: on the sensor. The box keeps its size."""
