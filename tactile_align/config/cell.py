"""Options of the simulated cell in which policies act."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from tactile_align.facts import Strict

TaskName = Literal["lift", "feel", "look", "sort"]
"""Closed-loop tasks; see `simulation.cell_tasks`."""
Recorded = Literal["expert", "regrasp", "mixed", "tour", "lift", "feel", "look", "sort", "look-play", "sort-play"]
"""Kinds of recordings; see `simulation.record.simulate`."""
Touch = Literal["true", "shuffle", "zero"]
"""Touch that a policy gets in roll-outs; see `diagnostics.rollout.play`."""


class CellOptions(Strict):
    """Options of the cell of the closed-loop tasks, for recordings and for roll-outs.

    Recordings of other tasks take `relaxation` only.

    Only options that differ from their defaults are stored, so that files stay readable when an option is added.
    The last three do not change the cell. They change the rig that a policy is given, see `cell.Cell.policy_rig`.
    """

    clutter: bool = False
    """Draw random colours of bench and object, a random lamp and further objects on the bench. False: the same colours
    and lamp in all episodes, and an empty bench."""
    random_units: bool | None = None
    """Use another gel unit in each episode: exchanged lamp colours, another gain and another tint. None: as the task
    states."""
    visible_marks: bool | None = None
    """Paint the relief of the object, which only the gel feels, as marks on the faces that cameras see. None: as the
    task states."""
    stripe_mm: Annotated[float, Field(gt=0, le=4)] | None = None
    """Paint the marks as stripes of this width along the relief's lines, as far apart as they are wide, mm. None: one
    mark on each line of the relief."""
    mark_contrast: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Contrast of the marks with the object. 1: dark blue. 0: the object's own colour."""
    camera_noise: Annotated[float, Field(ge=0, le=20)] = 0.0
    """Standard deviation of the noise of camera images, grey levels."""
    relaxation: bool = False
    """Let the gel recover slowly after a contact, by another law in each episode; see `gel.Relaxation.draw`. False: it
    recovers at once."""
    occlude: bool = False
    """Cover 60 % of the sensor's box in each moving camera's image, from the pad's end on, with a grey rectangle."""
    two_ways: bool = False
    """Let the expert grasp the block in one of two ways, drawn by a coin for each demonstration: with the gripper along
    the block, or turned by 90 degrees more. Roll-outs of a policy do not change."""
    box_offset_px: float = 0.0
    """Shift of all boxes to the right, px of the camera's raw frames. The policy's rig gets a principal point that is
    wrong by this shift."""
    rig_error_mm: float = 0.0
    """Error of each moving camera's position in the policy's rig, along the camera's x, mm."""
    rig_error_deg: float = 0.0
    """Error of each moving camera's orientation in the policy's rig, about the camera's y, degrees."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {key: value for key, value in dump(self).items() if getattr(self, key) != fields[key].default}
