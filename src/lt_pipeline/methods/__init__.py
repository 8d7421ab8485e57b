"""The methods, by name. Reading this list imports no torch; a method's code loads when it trains or predicts."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from lt_pipeline.config import Config
from lt_pipeline.errors import LongTailError, nearest


@dataclass(frozen=True)
class Method:
    """Where a method's parts are and in which order its stages build on each other.

    Attributes:
        name: pipeline, namespace and parameter block.
        settings: ``module:class`` of the pydantic parameters; each stage is a field of its own, a ``StageConfig``.
        code: module with ``build_task(settings, stage, facts, previous) -> Task`` and ``build_network(settings, stage, facts) -> nn.Module``.
        stages: each stage with the earlier stages whose checkpoints it starts from; the last one is what predicts.
        routed: whether the network decides per image how many experts to ask.
        metadata: whether its network takes what is known about an image beside the pixels.
        experts: what the experts are called in tables, where they have names.
        first_images: benchmarks whose published cells keep the first n images of each class, where the field shuffles.
    """

    name: str
    settings: str
    code: str
    stages: Mapping[str, tuple[str, ...]]
    routed: bool = False
    metadata: bool = False
    experts: tuple[str, ...] = ()
    first_images: frozenset[str] = frozenset()

    @property
    def final_stage(self) -> str:
        """The stage whose network predicts."""
        return list(self.stages)[-1]

    def settings_class(self) -> type[Config]:
        """Import and return the parameter class."""
        module, name = self.settings.split(":")
        settings: type[Config] = getattr(importlib.import_module(module), name)
        return settings

    def load(self) -> ModuleType:
        """Import and return the method's code."""
        return importlib.import_module(self.code)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "ride",
            "lt_pipeline.methods.ride.config:Ride",
            "lt_pipeline.methods.ride.stages",
            {"experts": (), "router": ("experts",)},
            routed=True,
        ),
        Method(
            "ride_distilled",
            "lt_pipeline.methods.ride.config:RideDistilled",
            "lt_pipeline.methods.ride.stages",
            {"teacher": (), "experts": ("teacher",), "router": ("experts",)},
            routed=True,
        ),
        Method(
            "shike",
            "lt_pipeline.methods.shike.config:Shike",
            "lt_pipeline.methods.shike.stages",
            {"representation": (), "classifier": ("representation",)},
            first_images=frozenset({"cifar10_lt", "cifar100_lt"}),
        ),
        Method("mdcs", "lt_pipeline.methods.mdcs.config:Mdcs", "lt_pipeline.methods.mdcs.stages", {"experts": ()}),
        Method(
            "deit_lt",
            "lt_pipeline.methods.deit_lt.config:DeitLt",
            "lt_pipeline.methods.deit_lt.stages",
            {"teacher": (), "student": ("teacher",)},
            experts=("CLS token", "DIST token"),
        ),
        Method("apa", "lt_pipeline.methods.apa.config:Apa", "lt_pipeline.methods.apa.stages", {"classifier": ()}),
        Method("p2ot", "lt_pipeline.methods.p2ot.config:P2ot", "lt_pipeline.methods.p2ot.stages", {"clustering": ()}),
        Method("sp2ot", "lt_pipeline.methods.p2ot.config:Sp2ot", "lt_pipeline.methods.p2ot.stages", {"clustering": ()}),
        Method(
            "metaformer",
            "lt_pipeline.methods.metaformer.config:Metaformer",
            "lt_pipeline.methods.metaformer.stages",
            {"classifier": ()},
            metadata=True,
        ),
        Method(
            "baseline",
            "lt_pipeline.methods.baseline.config:Baseline",
            "lt_pipeline.methods.baseline.stages",
            {"classifier": ()},
        ),
    )
}


def get_method(name: str) -> Method:
    """Return the method called ``name``.

    Raises:
        LongTailError: if there is none, naming the nearest.
    """
    if name not in METHODS:
        raise LongTailError(f"Unknown method '{name}'; there are {', '.join(METHODS)}.{nearest(name, METHODS)}")
    return METHODS[name]
