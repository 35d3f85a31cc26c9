"""Configuration of the contact pointer, which predicts where a sensor will touch next."""

from typing import Annotated

from pydantic import Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict


class PointerOptions(Strict):
    """Options of the contact pointer and of its targets, the contacts ahead of each moment."""

    views: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the [[views]] in whose images the pointer points. Such a view shows the whole frame (no zoom), because
    a crop at the sensor does not contain the place of a later contact."""
    horizon: Annotated[int, Field(ge=1)] = 45
    """Number of rows after a moment in which a contact must begin to be a target."""
    most: Annotated[int, Field(ge=1)] = 3
    """Number of contacts ahead, the nearest first. The first contact of a moment in contact is the present one."""
    complete: bool = True
    """Whether each episode ends because its task is done, so that no contact follows its last row. False: episodes may
    be cut off, and the absence of a contact is known only where the recording goes on for the horizon."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the pointer's loss in the total loss."""
    done_weight: Annotated[float, Field(gt=0)] = 0.25
    """Weight of the loss of done, relative to the losses of the map and of the offset."""
    sigma_tokens: Annotated[float, Field(gt=0)] = 0.75
    """Standard deviation of the target of the map, a Gaussian around the place of the contact, in tokens."""
    width: Annotated[int, Field(ge=8)] = 128
    """Number of elements of the queries and keys, and of the hidden layers."""
    history: bool = False
    """Give the query of each contact the place of the contact before it. In training, these are the true places."""
    history_noise_px: Annotated[float, Field(ge=0)] = 2.0
    """Standard deviation of the random error that training adds to the true earlier places, px of the encoder's image.
    Only for `history`."""
    touch: bool = False
    """Give the queries the mean token of the sensor's touch image."""
    memory: bool = False
    """Add a recurrent memory of the image at the earlier contacts to the query of each contact."""

    @model_validator(mode="after")
    def _views_differ(self) -> "PointerOptions":
        if twice := sorted({view for view in self.views if self.views.count(view) > 1}):
            raise InputError(
                f"pointer.views has {', '.join(twice)} several times, but the pointer points once in each. Name each "
                f"once"
            )
        return self

    @model_validator(mode="after")
    def _contacts_before_exist(self) -> "PointerOptions":
        if self.most < 2 and (used := [name for name in ("history", "memory") if getattr(self, name)]):
            raise InputError(
                f"pointer.{used[0]} = true needs contacts before the last, so pointer.most must be at least 2; got "
                f"{self.most}. Raise pointer.most, or set pointer.{used[0]} = false"
            )
        if self.history_noise_px != 2.0 and not self.history:
            raise InputError(
                f"pointer.history_noise_px = {self.history_noise_px:g} changes nothing, because pointer.history is "
                f"false. Set pointer.history = true, or omit history_noise_px"
            )
        return self
