"""All parameters of the project as one typed tree, checked as a whole before anything runs."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, create_model, field_validator

from lt_pipeline.config import Config
from lt_pipeline.data.config import BenchmarkConfig, SourceConfig
from lt_pipeline.data.metadata_config import MetadataConfig
from lt_pipeline.errors import LongTailError, nearest
from lt_pipeline.methods import METHODS
from lt_pipeline.training.config import ProtocolConfig, TrainerConfig


class PredictConfig(Config):
    """What the predict pipeline reads."""

    images: str | None = None
    """Folder of images, searched recursively."""
    metadata: str | None = None
    """CSV or Parquet with the metadata that the network was trained with, found by the column ``metadata.key`` (a path in the folder); null
    predicts from pixels alone."""
    text_files: dict[str, tuple[str, str]] = Field(default_factory=dict)
    """Embeddings and names of these images for each metadata group of texts, as (file, ids)."""
    method: str = "ride"
    """Whose checkpoint of this environment, seed and name is used."""
    checkpoint: str | None = None
    """Checkpoint folder of a final stage, if it is another one."""
    threshold: float | None = Field(None, ge=0, le=1)
    """Routing threshold; null takes the one the method was configured with."""
    on_bad_image: str = Field("error", pattern="^(error|skip)$")
    on_bad_value: Literal["error", "missing"] = "error"
    """What to do about metadata that do not fit their column."""

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"there is no method '{name}', but {', '.join(METHODS)}.{nearest(name, METHODS)}".rstrip("."))
        return name


class _Common(Config):
    seed: int = Field(0, ge=0)
    """Of everything random in training; the long-tailed subset has its own seed in ``benchmark``."""
    run: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    """A name for this run; it becomes part of the output path, so that runs with other settings stand side by side."""
    source: SourceConfig
    benchmark: BenchmarkConfig
    metadata: MetadataConfig = MetadataConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    trainer: TrainerConfig = TrainerConfig()
    predict: PredictConfig = PredictConfig()


def parameters_class() -> type[Config]:
    """Return the class of the whole tree: the common blocks and one block per method."""
    methods: dict[str, Any] = {name: (method.settings_class(), method.settings_class()()) for name, method in METHODS.items()}
    return create_model("Parameters", __base__=_Common, **methods)


def check_parameters(values: Mapping[str, Any]) -> Config:
    """Validate the merged parameters of a run.

    Raises:
        LongTailError: listing every unknown key (with the nearest known one) and every value out of range.
    """
    schema = parameters_class()
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        problems = [_sentence(problem, schema) for problem in error.errors()]
        raise LongTailError("Invalid parameters: " + " ".join(dict.fromkeys(problems))) from error


def imbalance_name(benchmark: BenchmarkConfig, seed: int) -> str:
    """Return a short name of everything that decides which images are in the split; a part of every output path."""
    parts = [benchmark.profile if benchmark.profile == "natural" else f"{benchmark.profile}{benchmark.imbalance_factor:g}"]
    if benchmark.profile != "natural":
        parts += ["first"] if benchmark.selection == "first" else []
        parts += [f"subset{benchmark.subsample_seed}"] if benchmark.subsample_seed else []
        parts += [f"max{benchmark.max_per_class}"] if benchmark.max_per_class else []
    parts += [f"species{benchmark.species}"] if benchmark.species else []
    if benchmark.labels:
        parts += [f"labels{hashlib.blake2b(f'{benchmark.labels} {benchmark.labels_column}'.encode(), digest_size=4).hexdigest()}"]
    parts += ["sorted"] if benchmark.class_order == "descending" else []
    parts += [f"val{benchmark.validation_fraction:g}-seed{seed}"] if benchmark.validation_fraction else []
    return "-".join(parts)


def _sentence(problem: Any, schema: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"'{path}' is unknown.{nearest(path, _paths(schema))}"
    given = f", not {problem['input']!r}" if isinstance(problem["input"], str | int | float | bool) else ""
    return f"'{path}': {problem['msg'].removeprefix('Value error, ')[:1].lower()}{problem['msg'].removeprefix('Value error, ')[1:]}{given}."


def _paths(schema: Any, prefix: str = "") -> Iterator[str]:
    for name, field in schema.model_fields.items():
        yield prefix + name
        for inner in _models(field.annotation):
            yield from _paths(inner, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]
