# %% [markdown]
# # The layers below Kedro, from a notebook
# Kedro says what runs and where things lie; everything else is plain PyTorch and pandas.
# This file opens as a notebook in Jupyter (with jupytext) and in VS Code.

# %%
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from lt_pipeline.data.config import BenchmarkConfig, SourceConfig
from lt_pipeline.data.sources import ingest
from lt_pipeline.data.split import class_statistics, image_set, make_split
from lt_pipeline.evaluation.accuracy import shot_accuracy
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.ride.config import Ride
from lt_pipeline.methods.ride.stages import build_network, build_task
from lt_pipeline.training.checkpoint import load_into
from lt_pipeline.training.config import StageConfig, TrainerConfig
from lt_pipeline.training.inference import run_model
from lt_pipeline.training.loop import Job, train
from lt_pipeline.training.state import Workspace

EPOCHS = 2

# %% A long-tailed split of scikit-learn's digits
manifest, images = ingest(SourceConfig(kind="digits", image_size=16))
benchmark = BenchmarkConfig(name="digits_lt", profile="exp", imbalance_factor=20, mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35))
split = make_split(manifest, benchmark, seed=0)
statistics = class_statistics(split)
facts = DataFacts(
    class_names=statistics.names,
    train_counts=tuple(int(count) for count in statistics.counts),
    image_shape=images.shape,
    mean=benchmark.mean,
    std=benchmark.std,
)

# %% Two epochs of RIDE's experts
settings = Ride.model_validate({"experts": {"batch_size": 32, "optimizer": {"lr": 0.05}}})
stage: StageConfig = settings.experts.model_copy(update={"epochs": EPOCHS})
trainer = TrainerConfig()
with TemporaryDirectory() as folder:
    result = train(
        Job(
            name="ride.experts",
            build=partial(build_task, settings, "experts", facts, {}),
            stage=stage,
            trainer=trainer,
            seed=0,
            num_classes=facts.num_classes,
            mean=facts.mean,
            std=facts.std,
            train=image_set(images, split, "train"),
            monitors={},
            workspace=Workspace(Path(folder) / "experts"),
            fingerprint={},
        )
    )

# %% What the ensemble says about the test part
network = build_network(settings, "experts", facts)
load_into(network, result.selections["last"], "The notebook's model")
test = image_set(images, split, "test")
outputs = run_model(network, test, stage.views[0], facts.mean, facts.std, trainer)
accuracy = shot_accuracy(statistics.counts, test.labels, outputs["logits"].argmax(1), num_classes=facts.num_classes)
print(f"{accuracy.overall:.1%} after {EPOCHS} epochs; loss by epoch: {[round(row['loss'], 2) for row in result.history]}")
