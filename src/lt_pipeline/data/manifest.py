"""What a manifest and a split look like; the catalog holds every one against these schemas."""

import pandera.pandas as pa

_PARTS = ["train", "val", "test"]
_common = {
    "sample_id": pa.Column(str, unique=True),
    "split": pa.Column(str, pa.Check.isin(_PARTS)),
    "label": pa.Column("int64", pa.Check.ge(0)),
    "class_name": pa.Column(str),
    "digest": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{16}$")),
}
_metadata = {r"meta\..+": pa.Column(regex=True, required=False, nullable=True)}

Manifest = pa.DataFrameSchema(
    {
        **_common,
        "file": pa.Column(str),  # relative to the source's root, "" for built-in data
        "row": pa.Column("int64", pa.Check.ge(-1)),  # in that file, -1 where a file is one image
        # of a source that lacks rows: the rank inside the class of the complete set, after the published shuffle and in file order; -1 unknown
        "lt_rank": pa.Column("int64", pa.Check.ge(-1), required=False),
        "first_rank": pa.Column("int64", pa.Check.ge(-1), required=False),
        **_metadata,
    },
    strict=True,
    name="manifest",
)
"""One row an image; row i is image i of the store. ``digest`` is BLAKE2b-64 of the stored bytes, of the pixels for arrays."""

Split = pa.DataFrameSchema(
    {**_common, "image": pa.Column("int64", pa.Check.ge(0), unique=True), **_metadata},
    strict=True,
    name="split",
)
"""The chosen rows in training order; ``image`` is the row of the manifest. Its hash does not see metadata."""
