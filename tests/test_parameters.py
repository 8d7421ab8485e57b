"""Every environment's parameters are valid, and what is not is said with the nearest name."""

from pathlib import Path

import pytest
import yaml

from lt_pipeline.data.config import BenchmarkConfig
from lt_pipeline.errors import LongTailError
from lt_pipeline.io.config_loader import ProjectConfigLoader
from lt_pipeline.parameters import check_parameters, imbalance_name
from tests.conftest import ROOT

ENVIRONMENTS = sorted(folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir() and folder.name not in ("base", "local"))


def loader(environment: str, **runtime: object) -> ProjectConfigLoader:
    return ProjectConfigLoader(
        str(ROOT / "conf"),
        environment,
        base_env="base",
        default_run_env="digits_lt",
        merge_strategy={"parameters": "soft"},
        runtime_params=runtime,
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_parameters_of_every_environment_are_valid(environment: str) -> None:
    parameters = check_parameters(loader(environment)["parameters"])
    assert parameters.benchmark.name == environment
    assert parameters.ride_distilled.teacher.epochs == parameters.ride.experts.epochs


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_how_it_is_run(recipe: Path) -> None:
    run = yaml.safe_load(recipe.read_text())["run"]
    parameters = check_parameters(loader(run["env"], **run["params"])["parameters"])
    assert hasattr(parameters, run["pipeline"]) and parameters.run
    assert f"kedro run --config=recipes/{recipe.name}" in recipe.read_text()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_parameter_files_are_plain_yaml(environment: str) -> None:
    for path in (ROOT / "conf" / environment).rglob("*.yml"):
        assert "${" not in path.read_text(), f"DVC reads {path}, which must be plain YAML"


def test_the_published_cifar_recipe_is_what_the_environment_says() -> None:
    ride = check_parameters(loader("cifar100_lt")["parameters"]).ride
    assert (ride.experts.epochs, ride.experts.batch_size, ride.experts.optimizer.lr, ride.experts.optimizer.weight_decay) == (
        200,
        128,
        0.1,
        5e-4,
    )
    schedule = ride.experts.schedule
    assert (schedule.kind, schedule.milestones, schedule.gamma, schedule.warmup_epochs) == ("multistep", (160, 180), 0.01, 5)
    assert (ride.loss.diversity, ride.loss.temperature_spread, ride.loss.reweight_epoch) == (-0.45, 0.05, 160)
    assert (ride.router.epochs, ride.router.batch_size, ride.router.optimizer.lr, ride.router.sampler.kind) == (
        5,
        512,
        0.01,
        "class_balanced",
    )
    distilled = check_parameters(loader("cifar100_lt")["parameters"]).ride_distilled
    assert (distilled.experts.schedule.warmup_epochs, distilled.teacher.schedule.warmup_epochs) == (20, 5)
    assert distilled.distillation.teacher_experts == 6


def test_catalog_paths_speak_of_the_parameters() -> None:
    config = loader("cifar100_lt", seed=3, run="wide", benchmark={"imbalance_factor": 50, "selection": "first"})
    path = config["catalog"]["{method}.metrics"]["filepath"]
    assert path == "data/08_reporting/cifar100_lt/exp50-first/{method}/seed3-wide/metrics.json"


@pytest.mark.parametrize(
    ("benchmark", "name"),
    [
        ({"profile": "natural"}, "natural"),
        ({"profile": "exp", "imbalance_factor": 100}, "exp100"),
        ({"profile": "step", "imbalance_factor": 12.5, "subsample_seed": 2}, "step12.5-subset2"),
        ({"profile": "exp", "validation_fraction": 0.1}, "exp100-val0.1-seed7"),
        ({"profile": "natural", "validation_fraction": 0.1}, "natural-val0.1-seed7"),
        ({"profile": "exp", "max_per_class": 40}, "exp100-max40"),
    ],
)
def test_everything_that_changes_the_split_changes_the_path(benchmark: dict[str, object], name: str) -> None:
    assert imbalance_name(BenchmarkConfig.model_validate(benchmark), seed=7) == name


def test_all_problems_are_named_at_once() -> None:
    parameters = loader("digits_lt", ride={"experts": {"epoch": 3, "batch_size": 0}}, sed=1)["parameters"]
    with pytest.raises(LongTailError) as error:
        check_parameters(parameters)
    text = str(error.value)
    assert "'ride.experts.epoch' is unknown. Did you mean 'ride.experts.epochs'?" in text
    assert "'ride.experts.batch_size'" in text
    assert "'sed' is unknown. Did you mean 'seed'?" in text


def test_an_unknown_environment_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(LongTailError, match="Did you mean 'places_lt'"):
        loader("place_lt")


def test_a_source_taken_as_it_is_states_no_imbalance() -> None:
    assert BenchmarkConfig(profile="natural", imbalance_factor=50).stated_imbalance is None
    assert BenchmarkConfig(profile="exp", imbalance_factor=50).stated_imbalance == 50
