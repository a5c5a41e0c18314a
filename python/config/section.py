"""The base class of all configuration sections."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One table of the configuration. Unknown keys, values of the wrong type, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
