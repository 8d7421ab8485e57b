"""Configuration in which a catalog path can speak of parameters."""

from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

from lt_pipeline.data.config import BenchmarkConfig
from lt_pipeline.errors import LongTailError, nearest
from lt_pipeline.methods import METHODS
from lt_pipeline.parameters import check_parameters, imbalance_name


class ProjectConfigLoader(OmegaConfigLoader):
    """An OmegaConf loader with resolvers for catalog paths, fed by the merged parameters, runtime ones included.

    ``${benchmark:}`` is the benchmark's name, ``${imbalance:}`` names what decides the split, ``${run:}`` is ``seed<N>`` with the run's name
    behind it if it has one; ``${checkpoint:}`` is what the predict pipeline reads. So each parameter is stated once, and runs with another
    split, seed or name never share a path.
    """

    def __init__(self, conf_source: str, env: str | None = None, **kwargs: Any) -> None:
        super().__init__(conf_source, env, **kwargs)
        self._check_environment(env)

    def __getitem__(self, key: str) -> Any:
        """Resolve a part of the configuration; resolvers are global in OmegaConf, so each loader binds its own before it needs them."""
        resolvers = {
            "benchmark": lambda: self._benchmark().name,
            "imbalance": self._imbalance,
            "run": self._run,
            "checkpoint": self._checkpoint,
        }
        for name, resolver in resolvers.items():
            OmegaConf.register_new_resolver(name, resolver, replace=True)
        return super().__getitem__(key)

    def _check_environment(self, env: str | None) -> None:
        known = sorted(
            folder.name for folder in Path(self.conf_source).iterdir() if folder.is_dir() and folder.name not in ("base", "local")
        )
        if env is not None and env not in known:
            raise LongTailError(f"Unknown environment '{env}'; there are {', '.join(known)}.{nearest(env, known)}")

    @cached_property
    def _parameters(self) -> Any:
        """Read and checked once: every catalog path asks for them, and each reading takes a tenth of a second."""
        return check_parameters(self["parameters"])

    def _benchmark(self) -> BenchmarkConfig:
        benchmark: BenchmarkConfig = self._parameters.benchmark
        return benchmark

    def _imbalance(self) -> str:
        return imbalance_name(self._benchmark(), self._parameters.seed)

    def _run(self) -> str:
        parameters = self._parameters
        return f"seed{parameters.seed}" + (f"-{parameters.run}" if parameters.run else "")

    def _checkpoint(self) -> str:
        predict = self._parameters.predict
        stage = METHODS[predict.method].final_stage
        default = f"data/06_models/{self._benchmark().name}/{self._imbalance()}/{predict.method}/{self._run()}/{stage}"
        return predict.checkpoint or default
