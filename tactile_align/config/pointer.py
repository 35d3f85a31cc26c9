"""Configuration of the contact pointer, which predicts where a sensor will touch next."""

from typing import Annotated

from pydantic import Field

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
