"""Config of the alignment loss."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict

READ_BY_MSE = ("weight", "kind", "min_gap", "require_contact", "touch_ceiling")
"""Fields that kind = "mse" uses; the gap and the ceiling serve the metric `r1/VIEW`."""


class HSAConfig(Strict):
    """The alignment loss."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the alignment loss relative to the action loss; 0 switches it off."""
    kind: Literal["hsa", "mse"] = "hsa"
    """Kind of loss. mse pulls pairs together without negatives or temperature, only to find out which part fails."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature kappa; its initial value when it is learnt or scheduled."""
    learn_temperature: bool = False
    """Learn kappa, in log space, within `temperature_bounds`."""
    temperature_bounds: tuple[float, float] = (0.01, 0.5)
    """Smallest and largest value of a learnt kappa."""
    temperature_final: Annotated[float, Field(gt=0)] | None = None
    """Last value of kappa in a schedule; None: no schedule."""
    temperature_steps: Annotated[int, Field(ge=0)] = 0
    """Length of the schedule of kappa, training steps; it runs evenly in log kappa."""
    symmetric: bool = False
    """Also contrast each region with all touches; the original contrasts only each touch with all regions."""
    min_gap: Annotated[int, Field(ge=0)] = 20
    """Smallest distance between two moments of one episode that are negatives of each other, frames; closer moments
    show the same contact."""
    require_contact: bool = True
    """Leave out moments without contact: their touches all look alike, so that each would be a false negative."""
    touch_ceiling: Annotated[float, Field(gt=-1, lt=1)] | None = None
    """Largest cosine between the coarse patterns of two touches that are negatives of each other; None: no limit."""
    region_negatives: Annotated[int, Field(ge=0, le=8)] = 0
    """Number of shifted boxes in the same image that are further negatives of each touch."""
    finger_negative: bool = False
    """Use the other finger's box in the same image as a further negative, where it is visible and not behind the
    sensor's box. If the rig has no sensor on that finger, its box is the mirror image of the sensor's."""
    camera_negative: bool = False
    """Use a region of each other camera among the views at the same moment as a further negative: the box of another
    sensor, or a region beside the box of the same sensor."""
    hardness: Annotated[float, Field(ge=0)] = 0.0
    """beta: negatives are weighted by e^(beta s / kappa), so that the most similar ones count most; 0: equally."""
    hardest: Annotated[int, Field(ge=1)] | None = None
    """Number of the most similar negatives of each touch that count; None: all negatives count."""
    bank: Annotated[int, Field(ge=0)] = 0
    """Number of past regions kept as further negatives, encoded by a slowly updated copy of the towers; 0: none."""
    bank_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Share of its weights that the copy for the bank keeps at each step."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """Number of rows computed at a time; None: chosen automatically. It changes the memory used, not the loss."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "HSAConfig":
        steps, final = self.temperature_steps, self.temperature_final
        if final is not None and (self.learn_temperature or steps < 1):
            raise InputError(
                f"temperature_final needs temperature_steps of at least 1 and learn_temperature = false; got {steps} "
                f"steps and learn_temperature = {self.learn_temperature}"
            )
        if steps and final is None:
            raise InputError(
                f"temperature_steps = {steps} needs temperature_final, the last value of the schedule. Set it, or set "
                f"temperature_steps = 0"
            )
        # Options that MSE ignores must keep their defaults.
        usual = {name: field.default for name, field in type(self).model_fields.items() if name not in READ_BY_MSE}
        changed = [name for name, value in usual.items() if getattr(self, name) != value]
        if self.kind == "mse" and changed:
            raise InputError(
                f"kind = 'mse' needs the options of negatives and temperature at their defaults; got "
                f"{', '.join(f'{name} = {getattr(self, name)}' for name in changed)}. Leave them out "
                f"({', '.join(f'{name} = {usual[name]}' for name in changed)}), or set kind = 'hsa'"
            )
        return self

    @property
    def looks_beside(self) -> bool:
        """Whether other regions of the same moment are negatives."""
        return self.region_negatives > 0 or self.finger_negative or self.camera_negative
