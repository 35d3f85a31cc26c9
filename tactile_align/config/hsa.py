"""What the alignment loss is made from."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict

READ_BY_MSE = ("weight", "kind", "min_gap", "require_contact", "touch_ceiling")
"""What the loss without negatives may be given: `r1/VIEW` asks for the gap and the ceiling too."""


class HSAConfig(Strict):
    """The alignment loss."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight beside the action loss; 0 switches alignment off."""
    kind: Literal["hsa", "mse"] = "hsa"
    """mse pulls pairs together without negatives or temperature: only for finding out what is broken."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """kappa, or where it starts when learnt or scheduled."""
    learn_temperature: bool = False
    """Learn kappa in log space between its bounds."""
    temperature_bounds: tuple[float, float] = (0.01, 0.5)
    temperature_final: Annotated[float, Field(gt=0)] | None = None
    """Where a schedule of kappa ends; None for none."""
    temperature_steps: Annotated[int, Field(ge=0)] = 0
    """Training steps that schedule takes, evenly in log kappa."""
    symmetric: bool = False
    """Also contrast each region with all touches; the original contrasts one way."""
    min_gap: Annotated[int, Field(ge=0)] = 20
    """Moments of one episode fewer frames apart than this are no negatives: they show the same contact."""
    require_contact: bool = True
    """Leave moments without contact out: all their touches look alike, so each would be a false negative."""
    touch_ceiling: Annotated[float, Field(gt=-1, lt=1)] | None = None
    """Touches whose coarse patterns have a cosine above this are no negatives; None for no such rule."""
    region_negatives: Annotated[int, Field(ge=0, le=8)] = 0
    """Other regions of the same image (shifted boxes) as further negatives of each touch."""
    finger_negative: bool = False
    """Also the other finger's box in the same image, where it is in sight and not behind the sensor's box. Without a
    sensor of its own in the rig that finger is taken to be the mirror image of the sensor's."""
    camera_negative: bool = False
    """Also a region of each other camera among the views at the same moment: the box of its sensor, or beside the box
    where it is the same sensor, whose own box is the touch's pair there."""
    hardness: Annotated[float, Field(ge=0)] = 0.0
    """beta: weighs negatives by e^(beta s / kappa), so that the most similar ones count most; 0 weighs all alike."""
    hardest: Annotated[int, Field(ge=1)] | None = None
    """Only this many most similar negatives of each touch count; None: all."""
    bank: Annotated[int, Field(ge=0)] = 0
    """Past regions kept as further negatives, made by a following copy of the towers; 0 for none."""
    bank_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Share of its own weights that copy keeps at each step."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """Rows worked on at a time; None chooses. Memory only: the value does not change."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "HSAConfig":
        if self.temperature_final is not None and (self.learn_temperature or self.temperature_steps < 1):
            raise InputError(
                "temperature_final needs temperature_steps of at least 1 and learn_temperature = false; got "
                f"{self.temperature_steps} steps and learn_temperature = {self.learn_temperature}"
            )
        if self.temperature_steps and self.temperature_final is None:
            raise InputError(
                f"temperature_steps needs temperature_final, where the schedule ends; got {self.temperature_steps} "
                f"steps to nowhere. State temperature_final, or set temperature_steps = 0"
            )
        if self.kind == "mse":
            self._only_pairs()
        return self

    def _only_pairs(self) -> None:
        """Refuse options that MSE would ignore, where they differ from their defaults."""
        fields = type(self).model_fields.items()
        usual = {name: field.default for name, field in fields if name not in READ_BY_MSE}
        given = [name for name, value in usual.items() if getattr(self, name) != value]
        if given:
            raise InputError(
                f"kind = 'mse' needs the options of negatives and temperature at their defaults; got "
                f"{', '.join(f'{name} = {getattr(self, name)}' for name in given)}. Leave them out "
                f"({', '.join(f'{name} = {usual[name]}' for name in given)}), or set kind = 'hsa'"
            )

    @property
    def looks_beside(self) -> bool:
        """Whether other regions of the same moment are negatives."""
        return self.region_negatives > 0 or self.finger_negative or self.camera_negative
