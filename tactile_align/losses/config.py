"""What the alignment loss is made from."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HSAConfig(_Config):
    """The alignment loss."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight beside the action loss; 0 switches alignment off."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """kappa, or where it starts when learnt."""
    learn_temperature: bool = False
    """Learn kappa in log space between its bounds."""
    temperature_bounds: tuple[float, float] = (0.01, 0.5)
    symmetric: bool = False
    """Also contrast each region with all touches; the original contrasts one way."""
    min_gap: Annotated[int, Field(ge=0)] = 20
    """Moments of one episode fewer frames apart than this are no rivals: they show the same contact."""
    require_contact: bool = True
    """Leave moments without contact out: all their touches look alike, so each would be a false rival."""
    region_rivals: Annotated[int, Field(ge=0, le=8)] = 0
    """Other regions of the same image (shifted boxes) as further rivals of each touch."""
