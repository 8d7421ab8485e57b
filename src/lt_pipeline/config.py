"""Typed parameters: what every parameter block of the project is made of."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen block of parameters that refuses unknown keys and non-finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
