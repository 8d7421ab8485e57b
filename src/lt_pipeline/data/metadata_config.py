"""Parameters of the metadata: which columns beside an image a network sees, and how they become numbers."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lt_pipeline.config import Config

Period = Literal["month", "hour", "day_of_year", "weekday"]
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_ -]*$"


class LocationGroup(Config):
    """Latitude and longitude in degrees, as a point on the unit sphere: (x, y, z)."""

    kind: Literal["location"] = "location"
    name: str = Field("location", pattern=_NAME)
    latitude: str = "latitude"
    longitude: str = "longitude"
    zero_is_missing: bool = False
    """Whether a coordinate of exactly 0 counts as missing, as in MetaFormer's code."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Latitude, longitude."""
        return self.latitude, self.longitude


class TimeGroup(Config):
    """A date, or date and time, as points on circles: (sin, cos) of each period."""

    kind: Literal["time"] = "time"
    name: str = Field("time", pattern=_NAME)
    column: str = "date"
    periods: tuple[Period, ...] = Field(("month", "hour"), min_length=1)
    """Of a date without a time the hour is missing. Of a time with an offset from UTC the offset is ignored: the local hour is what counts."""
    reading: Literal["checked", "published", "published_days"] = "checked"
    """``checked`` takes dates, ISO 8601 or ``format``, and no others. MetaFormer's code takes what starts like ``digits-digits-digits
    digits:digits:digits`` without looking at ranges, or for iNaturalist 2017 (``published_days``) like ``digits-digits-digits`` and then never an
    hour; all else is missing to it."""
    format: str | None = None
    """Of the dates, in the codes of strptime, where they are not ISO 8601: ``%d.%m.%Y``."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The one."""
        return (self.column,)

    @model_validator(mode="after")
    def _published_has_no_format(self) -> "TimeGroup":
        if self.format and self.reading != "checked":
            raise ValueError(f"format goes with reading=checked, not with reading={self.reading}")
        return self


class NumericGroup(Config):
    """Numbers, standardised by mean and standard deviation of the training part."""

    kind: Literal["numeric"] = "numeric"
    name: str = Field(pattern=_NAME)
    columns: tuple[str, ...] = Field(min_length=1)
    """``*`` in a name stands for any characters."""


class CategoricalGroup(Config):
    """Words, each column as one number per word of the training part: 1 for the word, 0 for the others.

    The first layer that a network puts on these numbers is a learned embedding of the words.
    """

    kind: Literal["categorical"] = "categorical"
    name: str = Field(pattern=_NAME)
    columns: tuple[str, ...] = Field(min_length=1)
    max_categories: int = Field(1000, ge=2)
    """Of one column; more is more likely an identity than a category."""


class AttributesGroup(Config):
    """Numbers as they are: yes and no as 1 and 0, or any vector, from several columns or from one that holds lists."""

    kind: Literal["attributes"] = "attributes"
    name: str = Field("attributes", pattern=_NAME)
    columns: tuple[str, ...] = Field(("attributes",), min_length=1)
    """``*`` in a name stands for any characters."""


class TextGroup(Config):
    """Embeddings of texts that were computed before, one vector an image or one for each of T tokens."""

    kind: Literal["text"] = "text"
    name: str = Field("text", pattern=_NAME)
    file: str
    """``.npy`` of float16 or float32: [n, d], [n, T, d], or [n, captions, T, d], of which ``caption`` is taken."""
    ids: str
    """Text file with the image (``sample_id``) of each of the n rows, one a line."""
    caption: int = Field(0, ge=0)

    @property
    def columns(self) -> tuple[str, ...]:
        """None: the table of images has nothing to do with it."""
        return ()


DeclaredGroup = Annotated[
    LocationGroup | TimeGroup | NumericGroup | CategoricalGroup | AttributesGroup | TextGroup, Field(discriminator="kind")
]


class MetadataConfig(Config):
    """What is known about an image beside its pixels; without groups, nothing that a network sees."""

    groups: tuple[DeclaredGroup, ...] = ()
    """In the order of the vector. Each is one token, or T of them, to a network, and one row of the masking curve."""
    table: str | None = None
    """CSV or Parquet with a row for each image, where the source has no columns of its own; images without a row have no metadata."""
    key: str = "image"
    """Its column that names the image (the manifest's ``sample_id``; of a folder the path in it); of a table for prediction too."""
    missing: tuple[str, ...] = ("", "unknown")
    """Words that say that a value is missing, beside empty cells, in lower case."""
    on_bad_value: Literal["error", "missing"] = "error"
    """What to do about an impossible coordinate, a date that cannot be read, a word where a number should be."""
    report_by: tuple[str, ...] = ()
    """Columns for each of whose values the report tells the accuracy; networks need not see them."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "MetadataConfig":
        names = [group.name for group in self.groups]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two groups are called '{twice[0]}'; give one of them another name")
        return self


class MetadataGroup(Config):
    """A group as the training part has it; it travels with the checkpoint, so that prediction encodes as training did."""

    declared: DeclaredGroup
    width: int = Field(ge=1)
    """Numbers of an image, or of each of its tokens."""
    tokens: int = Field(1, ge=1)
    columns: tuple[str, ...] = ()
    """Where it declares a pattern, what that stood for."""
    mean: tuple[float, ...] = ()
    """Of each numeric column."""
    std: tuple[float, ...] = ()
    """Likewise."""
    categories: tuple[tuple[str, ...], ...] = ()
    """Of each categorical column."""
    missing: tuple[str, ...] = ()
    on_bad_value: Literal["error", "missing"] = "error"

    @property
    def name(self) -> str:
        """As declared."""
        return self.declared.name

    @property
    def kind(self) -> str:
        """As declared."""
        return self.declared.kind
