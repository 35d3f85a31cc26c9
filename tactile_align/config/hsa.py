"""Configuration of the alignment loss."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict

READ_BY_MSE = ("weight", "kind", "min_gap", "exclude_same_contact", "require_contact", "touch_ceiling")
"""Fields that kind = "mse" uses. Of these, min_gap, exclude_same_contact and touch_ceiling are used only for the logged
value `r1/VIEW`, the share of touches in a view whose own region is the most similar one."""


class HSAConfig(Strict):
    """Options of the alignment loss, which compares touch features with image region features."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the alignment loss relative to the action loss. 0: the alignment loss is switched off."""
    kind: Literal["hsa", "mse"] = "hsa"
    """Kind of loss. hsa: contrastive loss. mse: squared distance within pairs, without negatives or temperature; use it
    only to debug a training that fails."""
    pairs: Literal["true", "permuted", "two_crops"] = "true"
    """What the loss compares in training steps; permuted and two_crops are controls of true. true: each touch with the
    region of its own moment. permuted: each touch with the region of another moment, in a new permutation at each step,
    among the valid rows of a process (and of a micro-batch). Rows whose touch and region are of one contact, or
    otherwise no negatives of each other, are not used, and negatives also exclude the moment of the touch, so the loss
    stays at chance, except that region_negatives, finger_negative and camera_negative can be told from the sensor's box
    without any touch. Validation uses true pairs. two_crops: two random augmentations (`augment`) of the same image
    region, without any touch; touch facts only choose the moments (require_contact) and the negatives
    (exclude_same_contact). The touch tower gets no gradient from this loss; it stays as it is, unless the policy trains
    it or it is also the vision tower. Validation compares the plain region with one augmentation."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature kappa of the contrastive loss. If kappa is learnt or scheduled, this is its initial value."""
    learn_temperature: bool = False
    """Learn the temperature kappa in log space, within `temperature_bounds`."""
    temperature_bounds: tuple[float, float] = (0.01, 0.5)
    """Smallest and largest value of a learnt temperature kappa."""
    temperature_final: Annotated[float, Field(gt=0)] | None = None
    """Final value of the temperature kappa in a schedule. None: no schedule."""
    temperature_steps: Annotated[int, Field(ge=0)] = 0
    """Number of training steps in which the temperature kappa goes from `temperature` to `temperature_final`, linearly
    in log kappa."""
    symmetric: bool = False
    """Also contrast each region with all touches, and average both losses. The original implementation only contrasts
    each touch with all regions."""
    min_gap: Annotated[int, Field(ge=0)] = 20
    """Smallest distance in time between two moments of one episode that are used as negatives of each other, frames.
    Closer moments may show the same contact."""
    exclude_same_contact: bool = True
    """Exclude moments of one contact as negatives of each other, also if they are `min_gap` or more apart, because they
    show the same touch."""
    require_contact: bool = True
    """Exclude moments without contact from the loss. Their touch images all look the same, so they would be false
    negatives of each other."""
    touch_ceiling: Annotated[float, Field(gt=-1, lt=1)] | None = None
    """Largest cosine similarity between the downsampled touch images of two moments that are used as negatives of each
    other. More similar touches may be false negatives. None: no limit."""
    region_negatives: Annotated[int, Field(ge=0, le=8)] = 0
    """Number of shifted boxes in the same image that are used as additional negatives of each touch."""
    finger_negative: bool = False
    """Use the box of the other finger in the same image as an additional negative, where that box is visible and not
    behind the sensor's box. If the rig has no sensor on the other finger, the sensor's box is mirrored."""
    camera_negative: bool = False
    """Use a region in each other camera's image of the same moment as an additional negative. The region is the box of
    another sensor, or a region beside the box of the same sensor. Needs views of at least two cameras."""
    hardness: Annotated[float, Field(ge=0)] = 0.0
    """Parameter beta of the weights of the negatives, e^(beta s / kappa), where s is the cosine similarity to the touch
    and kappa the temperature. Larger values emphasise the most similar negatives. 0: all negatives have equal
    weight."""
    hardest: Annotated[int, Field(ge=1)] | None = None
    """Use only this many negatives of each touch, the most similar ones. None: use all negatives."""
    bank: Annotated[int, Field(ge=0)] = 0
    """Size of the memory bank: the number of past pairs that are used as additional negatives. A touch is compared with
    the regions of past pairs, and a region with their touches. A slowly updated copy of the encoders computes all
    features that a touch or region is compared with, its own partner included. They get no gradient, so that
    symmetric = true is needed to train both encoders. 0: no bank."""
    bank_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Momentum of the encoder copy that fills the memory bank: at each step, copy = momentum * copy + (1 - momentum) *
    encoder. The copy lags by about 1 / (1 - momentum) steps. If it moves faster, old features in the bank differ from
    new ones, and the loss can fall without any alignment."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """Number of rows of the similarity matrix that are computed at a time. It changes the memory use, not the loss.
    None: chosen automatically."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "HSAConfig":
        steps, final = self.temperature_steps, self.temperature_final
        if final is not None and (self.learn_temperature or steps < 1):
            steps_needed = f"needs temperature_steps of at least 1; got {steps}"
            needed = "needs learn_temperature = false; got true" if self.learn_temperature else steps_needed
            raise InputError(f"temperature_final = {final} {needed}. Change this value, or omit temperature_final")
        if steps and final is None:
            raise InputError(
                f"temperature_steps = {steps} needs temperature_final, the final value of the schedule. Set "
                f"temperature_final, or set temperature_steps = 0"
            )
        if self.bank and not self.symmetric:
            raise InputError(
                f"bank = {self.bank} needs symmetric = true; got false. With a bank, candidates get no gradient, so "
                f"the region features would get none. Set symmetric = true, or set bank = 0"
            )
        if self.pairs == "two_crops" and self.touch_ceiling is not None:
            raise InputError(
                f"touch_ceiling = {self.touch_ceiling:g} compares touches, but pairs = 'two_crops' uses none. Omit "
                f"touch_ceiling, or set pairs = 'true'"
            )
        # Options that MSE ignores must keep their defaults.
        usual = {name: field.default for name, field in type(self).model_fields.items() if name not in READ_BY_MSE}
        changed = [name for name, value in usual.items() if getattr(self, name) != value]
        if self.kind == "mse" and changed:
            raise InputError(
                f"kind = 'mse' ignores these options, so they must keep their default values; got "
                f"{', '.join(f'{name} = {getattr(self, name)}' for name in changed)}. Omit them "
                f"(defaults: {', '.join(f'{name} = {usual[name]}' for name in changed)}), or set kind = 'hsa'"
            )
        return self

    @property
    def looks_beside(self) -> bool:
        """Whether image regions other than the sensor's box, of the same moment, are used as negatives."""
        return self.region_negatives > 0 or self.finger_negative or self.camera_negative
