"""Parameters of the data: where images come from, and which of them make the benchmark."""

from typing import Literal

from pydantic import Field, model_validator

from lt_pipeline.config import Config

SourceKind = Literal[
    "digits",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "parquet",
    "list_files",
    "folder",
    "table",
    "inaturalist",
    "cub200",
    "nabirds",
    "aircraft",
    "cars",
    "flowers",
]
Triple = tuple[float, float, float]


class SourceConfig(Config):
    """Where the images are and how to read them."""

    kind: SourceKind = "folder"
    """``digits`` ships with scikit-learn; ``parquet`` holds encoded images in a column; ``list_files`` are ``path label`` lines beside an image
    root; ``folder`` is a class-folder tree; ``table`` is a CSV or Parquet manifest of image files; the others are data sets as published."""
    root: str | None = None
    """Folder that holds everything; no path may leave it."""
    download: bool = False
    """Fetch CIFAR or Fashion-MNIST through torchvision when ``root`` lacks it."""
    files: tuple[str, ...] = ()
    """Parquet files, or the one table, relative to ``root``; all Parquet files of ``root`` when empty."""
    lists: dict[Literal["train", "val", "test"], str] = Field(default_factory=dict)
    """List files by part, relative to ``root`` or absolute."""
    image_column: str = "image"
    """Encoded bytes or ``{bytes, path}`` (parquet), or the path of an image file (table)."""
    label_column: str | None = "label"
    """null says that there are no labels: for clustering. A ``folder`` needs no class folders then."""
    class_name_column: str | None = None
    split_column: str | None = "split"
    """Column with train, val or test; without it (or when null) all rows are train and a test part is cut off."""
    id_column: str | None = None
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of each class that becomes the test part where the source has none."""
    test_per_class: int | None = Field(None, ge=1)
    """Images of each class that become the test part instead of a share, as for ImageNet-R in clustering papers."""
    split_seed: int = Field(0, ge=0)
    """Of that cut."""
    image_size: int | None = Field(None, ge=4, le=4096)
    """Side in pixels of the square that images are brought to when packed (short side resized, centre cropped); null keeps given sizes."""
    on_bad_image: Literal["error", "skip"] = "error"
    max_pixels: int = Field(100_000_000, ge=1, le=178_956_970)
    """Larger images are refused as decompression bombs; Pillow itself refuses beyond the upper limit."""

    @model_validator(mode="after")
    def _root_where_needed(self) -> "SourceConfig":
        if self.kind == "list_files" and self.root is not None and "train" not in self.lists:
            raise ValueError("source.lists needs at least a train list")
        return self


class BenchmarkConfig(Config):
    """Which images are trained on, how results are grouped, how pixels are normalised."""

    name: str = Field("my_images", pattern=r"^[a-z0-9_]+$")
    """Part of every output path."""
    profile: Literal["exp", "step", "natural"] = "natural"
    """Exponential or step profile cut out of a balanced source, or the source as it is."""
    imbalance_factor: float = Field(100.0, ge=1)
    """Largest over smallest class; not used when natural."""
    selection: Literal["shuffle", "first"] = "shuffle"
    """The published rule (legacy seeded shuffle per class), or the first images of each class (SHIKE)."""
    subsample_seed: int = Field(0, ge=0)
    """Of the published rule; all papers use 0."""
    max_per_class: int | None = Field(None, ge=1)
    """Images of the largest class; null takes the mean class size of the balanced source."""
    species: int | None = None
    """Thin the 8,142 species of iNaturalist 2018 to 2000, 1000, 500, 200 or 100 as clustering papers do; null keeps all classes."""
    labels: str | None = None
    """CSV or Parquet table with ``sample_id`` and other labels, such as the assignments of a clustering; images that it does not have are left
    out. A source that was long-tailed already then wants ``profile: natural``."""
    labels_column: str = "cluster"
    """Of that table."""
    class_order: Literal["source", "descending"] = "source"
    """Labels as the source has them, or renumbered so that class 0 has the most training images (MDCS, APA on list files)."""
    validation_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of each class that is cut from train for validation."""
    shot_convention: Literal["strict", "inclusive"] = "strict"
    """strict: many > shot_many, few < shot_few; inclusive: many >= shot_many, few <= shot_few."""
    shot_many: int = Field(100, ge=1)
    shot_few: int = Field(20, ge=1)
    rank_groups: tuple[int, int] | None = None
    """Head, mid and tail by rank of the training counts, as DeiT-LT reports them: how many classes come before mid and before tail; beside
    the shot groups, where given."""
    mean: Triple = (0.485, 0.456, 0.406)
    """Of the normalisation, per channel, of values in [0, 1]."""
    std: Triple = (0.229, 0.224, 0.225)

    @property
    def stated_imbalance(self) -> float | None:
        """The factor that was asked for, None where the source is taken as it is."""
        return None if self.profile == "natural" else self.imbalance_factor

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> "BenchmarkConfig":
        if self.shot_few > self.shot_many:
            raise ValueError(f"shot_few ({self.shot_few}) must not exceed shot_many ({self.shot_many})")
        if self.rank_groups is not None and not 0 < self.rank_groups[0] < self.rank_groups[1]:
            raise ValueError(f"rank_groups must be two rising numbers of classes above 0, not {self.rank_groups}")
        if min(self.std) <= 0:
            raise ValueError("every std must be above 0")
        return self
