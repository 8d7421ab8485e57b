"""P2OT and SP2OT: parameters, memory, head choice, no labels, interruption."""

import shutil
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lt_pipeline.augment.config import PadCropView, TimmCropView
from lt_pipeline.data.images import PackedImages
from lt_pipeline.data.split import ImageSet
from lt_pipeline.errors import LongTailError
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.p2ot.config import BankConfig, LabelsConfig, P2ot, SemanticConfig, Sp2ot
from lt_pipeline.methods.p2ot.labels import Labeller
from lt_pipeline.methods.p2ot.stages import build_network, build_task
from lt_pipeline.methods.p2ot.task import SelfLabelling
from lt_pipeline.models.clustering import ClusterNetwork, cosine_head
from lt_pipeline.models.clustering_config import ClusterModelConfig
from lt_pipeline.pipelines.inference import build_network as network_of
from lt_pipeline.training.checkpoint import Checkpoint
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import StageConfig, TrainerConfig
from lt_pipeline.training.features import Features
from lt_pipeline.training.loop import Job, Result, train
from lt_pipeline.training.state import Workspace
from lt_pipeline.training.task import Batch
from lt_pipeline.transport import neighbour_graph

N, D, K = 120, 6, 4


def vectors(seed: int = 0) -> np.ndarray:
    """Four directions with 60, 30, 20 and 10 members."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(K), [60, 30, 20, 10])
    return (8 * np.eye(K, D)[labels] + generator.normal(size=(N, D))).astype(np.float32)


def features(draws: int = 2) -> Features:
    plain = vectors()
    noise = np.random.default_rng(1).normal(size=(2, draws, N, D)).astype(np.float32)
    return Features(plain, plain[::3], plain + 0.3 * noise, "known")


def settings(kind: type[P2ot] = P2ot, **changes: object) -> P2ot:
    stage = P2ot().clustering.model_copy(update={"batch_size": 24, "epochs": 4, "views": (PadCropView(padding=0, flip=0),) * 2})
    labels = SemanticConfig(semantic_weight=2.0, neighbours=5, majorizations=10) if kind is Sp2ot else LabelsConfig()
    model = ClusterModelConfig(backbone="pixels", train="heads", heads=2)
    values = {"model": model, "labels": labels, "bank": BankConfig(batches=3, from_epoch=1), "clustering": stage} | changes
    return kind(clusters=K, **values)


FACTS = DataFacts(class_names=tuple("abcd"), train_counts=(0,) * K, image_shape=(1, 2, 3), mean=(0, 0, 0), std=(1, 1, 1))


def job(folder: Path, config: P2ot, labels: np.ndarray, seed: int = 0, stop_at: int = -1) -> Job:
    known = features()
    graph = neighbour_graph(torch.from_numpy(known.train), 5) if isinstance(config, Sp2ot) else None
    images = ImageSet(PackedImages(np.zeros((N, 1, 1, 3), np.uint8)), np.arange(N), labels, [str(row) for row in range(N)])
    build = partial(_interrupted, config, known, graph, stop_at) if stop_at >= 0 else partial(_built, config, known, graph)
    trainer = TrainerConfig(device="cpu", threads=1, compile=False, save_seconds=0)
    stage = config.clustering.model_copy(update={"views": config.clustering.views[:1]})
    return Job("p2ot.clustering", build, stage, trainer, seed, K, FACTS.mean, FACTS.std, images, {}, Workspace(folder), {"seed": seed})


def _built(config: P2ot, known: Features, graph: object) -> SelfLabelling:
    return build_task(config, "clustering", FACTS, {}, known, graph)


class Interrupted(SelfLabelling):
    stop_at: int

    def forward(self, batch: Batch, clock: Clock) -> dict[str, torch.Tensor]:
        if clock.step == self.stop_at:
            raise KeyboardInterrupt
        return super().forward(batch, clock)


def _interrupted(config: P2ot, known: Features, graph: object, stop_at: int) -> SelfLabelling:
    task = _built(config, known, graph)
    task.__class__ = Interrupted
    assert isinstance(task, Interrupted)
    task.stop_at = stop_at
    return task


def same(one: Result, other: Result) -> bool:
    pairs = [(one.selections[name], other.selections[name]) for name in ("last", "score")]
    return one.history == other.history and all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)


@pytest.mark.parametrize("kind", [P2ot, Sp2ot])
def test_labels_do_not_reach_training_and_an_interrupted_run_ends_in_the_same_bits(tmp_path: Path, kind: type[P2ot]) -> None:
    config = settings(kind, bank=BankConfig(batches=3, from_epoch=int(kind is P2ot)))
    labels = np.random.default_rng(0).integers(0, K, N)
    whole = train(job(tmp_path / "whole", config, labels))
    permuted = train(job(tmp_path / "permuted", config, np.random.default_rng(1).permutation(labels)))
    assert same(whole, permuted)
    for stop in (2, 13):  # in the first epoch and after the memory is used
        folder = tmp_path / f"stopped{stop}"
        with pytest.raises(KeyboardInterrupt):
            train(job(folder, config, labels, stop_at=stop))
        assert same(whole, train(job(folder, config, labels)))
        shutil.rmtree(folder.with_name(f"{folder.name}.training"))
    other = train(job(tmp_path / "other", config, labels, seed=1))
    assert not same(whole, other)


def test_it_finds_the_clusters_of_separated_features(tmp_path: Path) -> None:
    from lt_pipeline.evaluation.clustering import score_clusters

    config = settings(clustering=settings().clustering.model_copy(update={"epochs": 30}))
    config = config.model_copy(update={"clustering": config.clustering.model_copy(update={"optimizer": fast()})})
    result = train(job(tmp_path, config, np.full(N, -1)))
    network = build_network(config, "clustering", FACTS)
    network.load_state_dict(result.selections["score"])
    with torch.no_grad():
        found = network.eval().experts[0](torch.from_numpy(vectors())).argmax(1)
    assert score_clusters(found, np.repeat(np.arange(K), [60, 30, 20, 10]), K, K).macro_accuracy > 0.9
    masses = [row["mass"] for row in result.history]
    assert masses == sorted(masses) and masses[-1] > 0.99


def fast() -> object:
    from lt_pipeline.training.config import OptimizerConfig

    return OptimizerConfig(kind="adam", lr=0.02, weight_decay=0.0)


def task_of(config: P2ot) -> SelfLabelling:
    torch.manual_seed(0)
    network = ClusterNetwork(nn.Flatten(), [cosine_head(D, K) for _ in range(config.model.heads)])
    return SelfLabelling(network, config, Labeller(config.labels), K)


def batch_at(start: int, size: int = 24) -> Batch:
    rows = torch.from_numpy(vectors()[start : start + size])
    return Batch((rows, rows + 0.1), torch.full((size,), -1), torch.arange(start, start + size))


def test_the_memory_is_filled_before_training_where_it_is_used_from_the_start() -> None:
    task = task_of(settings(bank=BankConfig(batches=3, from_epoch=0)))
    task.begin(iter([batch_at(24 * number) for number in range(5)]))
    bank = task.memory.bank(0)
    assert bank.positions.tolist() == list(range(72)) and int(bank.pointer) == 0
    torch.testing.assert_close(bank.rows[24:48], task.model.heads[0](batch_at(24).views[0]).detach())
    late = task_of(settings())
    late.begin(repeat(batch_at(0)))  # never read: used from the second epoch on
    assert not late.memory.bank(0).rows.any()


def test_both_views_use_the_same_slots_and_rows_sum_to_the_mass() -> None:
    task = task_of(settings(bank=BankConfig(batches=3, from_epoch=0)))
    task.begin(iter([batch_at(24 * number) for number in range(3)]))
    clock = Clock(0, 5, 4)
    task(batch_at(96), clock)
    bank = task.memory.bank(1)
    assert int(bank.pointer) == 24 and bank.positions[:24].tolist() == list(range(96, 120))
    torch.testing.assert_close(bank.rows[:24], task.model.heads[1](batch_at(96).views[1]).detach())  # the second view came last
    mass = task.labeller.mass(clock)
    labels, converged = task.labeller.solve(bank.rows, None, mass, torch.zeros(K + 1, dtype=torch.float64))
    assert converged and labels.sum(1).max() <= 1 + 1e-6 and labels.sum(1).mean() == pytest.approx(mass, abs=1e-6)


def test_the_head_with_the_lowest_loss_answers() -> None:
    task, clock = task_of(settings()), Clock(19, 5, 4)
    task.memory.losses.copy_(torch.tensor([8.0, 6.0]))
    task.memory.steps.fill_(2)
    task.memory.sizes[1] = torch.tensor([10, 0, 10, 0])
    figures = task.epoch_figures(clock)
    assert int(task.model.chosen) == 1 == figures["head"]
    assert figures["score"] == pytest.approx(3 / task.labeller.mass(clock))
    assert figures["empty_clusters"] == 2 and figures["entropy"] == pytest.approx(0.5)
    assert not task.memory.losses.any() and not task.memory.steps.any() and not task.memory.sizes.any()


def test_what_cannot_be_clustered_is_refused() -> None:
    known = features()
    with pytest.raises(LongTailError, match="120 training images cannot make 200 clusters"):
        build_task(settings(model=ClusterModelConfig(backbone="pixels", train="heads", clusters=(200,))), "clustering", FACTS, {}, known)
    with pytest.raises(LongTailError, match="memory of 10 batches of 24 holds 240 rows, more than the 120"):
        build_task(settings(bank=BankConfig(batches=10)), "clustering", FACTS, {}, known)
    with pytest.raises(LongTailError, match=r"(?i)nan|finite"):
        Labeller(LabelsConfig()).solve(torch.full((3, K), torch.nan), None, 0.5, torch.zeros(K + 1, dtype=torch.float64))
    for change in ({"mass_start": 0.0}, {"mass_end": 1.5}, {"epsilon": 0.0}, {"gamma": -1.0}, {"mass_start": 0.5, "mass_end": 0.2}):
        with pytest.raises(ValueError, match=r"mass|greater|less"):
            LabelsConfig(**change)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"views": (PadCropView(),)}, "two views"),
        ({"accumulate": 2}, "accumulate must be 1"),
        ({"sampler": {"kind": "class_balanced", "drop_last": True}}, "need labels"),
        ({"sampler": {"kind": "uniform"}}, "drop_last"),
        ({"optimizer": {"kind": "adam", "sam_rho": 0.1}}, "sam_rho"),
    ],
)
def test_stages_that_do_not_fit_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        P2ot(clustering=StageConfig.model_validate(P2ot().clustering.model_dump() | change))


def test_heads_on_pixels_are_as_wide_as_what_the_view_shows() -> None:
    whole, half = settings(), settings()
    half = half.model_copy(update={"clustering": half.clustering.model_copy(update={"views": (TimmCropView(size=5, test_resize=5),) * 2})})
    assert build_network(whole, "clustering", FACTS)(torch.zeros(2, 3, 1, 2))["logits"].shape == (2, K)
    assert build_network(half, "clustering", FACTS)(torch.zeros(2, 3, 5, 5))["logits"].shape == (2, K)
    sizes_vary = FACTS.model_copy(update={"image_shape": None})
    assert build_network(half, "clustering", sizes_vary)(torch.zeros(2, 3, 5, 5))["logits"].shape == (2, K)
    with pytest.raises(LongTailError, match="needs images of one size"):
        build_network(whole, "clustering", sizes_vary)


@pytest.mark.parametrize("selection", ["score", "last"])
def test_new_images_go_to_the_clusters_of_the_selected_epoch(selection: str) -> None:
    config = settings(selection=selection)
    states = {name: build_network(config, "clustering", FACTS).state_dict() for name in ("last", "score")}
    facts = {"method": "p2ot", "stage": "clustering", "settings": config.model_dump(mode="json"), "data": FACTS.model_dump(mode="json")}
    found = network_of(Checkpoint(states, facts)).state_dict()
    assert all(torch.equal(found[name], states[selection][name]) for name in found)
