from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from lt_pipeline.augment.config import PadCropView, TimmCropView
from lt_pipeline.errors import LongTailError
from lt_pipeline.methods.deit_lt.config import DeitLt, DistillationConfig
from lt_pipeline.methods.deit_lt.measures import attention_distance, feature_rank
from lt_pipeline.methods.deit_lt.stages import analyse, before_training, build_network, build_task, frozen_teacher
from lt_pipeline.methods.deit_lt.start import check_classes, class_balanced_rows
from lt_pipeline.methods.deit_lt.student import phase
from lt_pipeline.methods.deit_lt.teacher import FrozenTeacher, teacher_input
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.parameters import check_parameters
from lt_pipeline.training.checkpoint import Checkpoint
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.loop import Job, train
from lt_pipeline.training.state import Workspace
from lt_pipeline.training.task import Batch
from tests.conftest import ROOT
from tests.test_parameters import loader
from tests.training.toy import toy_images

FACTS = DataFacts(class_names=("a", "b", "c", "d"), train_counts=(30, 12, 7, 4), image_shape=(8, 8, 3), mean=(0.5,) * 3, std=(0.25,) * 3)
CPU = TrainerConfig(device="cpu", threads=1, save_seconds=0.0, compile=False)
SGD = {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": False}
PLAIN = TimmCropView(size=8, test_resize=8, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
"""A view without chance."""


def settings(teacher: dict[str, Any] | None = None, student: dict[str, Any] | None = None, **distillation: Any) -> DeitLt:
    """A micro ViT on 8x8 images, behind a real ResNet-32."""
    return DeitLt.model_validate(
        {
            "teacher": {"epochs": 1, "batch_size": 8, "views": [{"kind": "pad_crop", "padding": 1}], **(teacher or {})},
            "student": {
                "epochs": 2,
                "batch_size": 8,
                "accumulate": 1,
                "sampler": {"kind": "uniform", "drop_last": True},
                "views": [PLAIN],
                "model": {"backbone": "deit_micro", "image_size": 8, "patch_size": 4, "drop_path": 0.0},
                "distillation": {"reweight_epoch": 1, "teacher_size": None, **distillation},
                **(student or {}),
            },
        }
    )


PACO = {
    "loss": {"kind": "paco", "queue_size": 16, "dimension": 8},
    "sampler": {"drop_last": True},
    "views": [PadCropView(padding=1), TimmCropView(size=8, test_resize=8, blur=0.5, grey=0.2, color_jitter=(0.4, 0.4, 0.4, 0.1))],
}


def checkpoint(config: DeitLt, facts: DataFacts = FACTS) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint({"last": build_network(config, "teacher", facts).state_dict()}, {"data": facts.model_dump(mode="json")})


def job(folder: Path, config: DeitLt, stage: str, build: Any = None) -> Job:
    previous = {"teacher": checkpoint(config)} if stage == "student" else {}
    return Job(
        name=f"deit_lt.{stage}",
        build=build or (lambda: build_task(config, stage, FACTS, previous)),
        stage=getattr(config, stage),
        trainer=CPU,
        seed=0,
        num_classes=4,
        mean=FACTS.mean,
        std=FACTS.std,
        train=toy_images(),
        monitors={},
        workspace=Workspace(folder),
        fingerprint={},
    )


def batch(size: int = 6, side: int = 8, views: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        tuple(torch.randn(size, 3, side, side, generator=generator) for _ in range(views)), torch.arange(size) % 4, torch.arange(size)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"student": {"model": {"image_size": 230}}}, r"image_size \(230\) must be a multiple of patch_size \(16\)"),
        ({"student": {"model": {"image_size": 112}}}, "views give images of 224 pixels, model.image_size is 112"),
        ({"student": {"accumulate": 3}}, r"batch_size \(1024\) must be a multiple of accumulate \(3\)"),
        ({"student": {"scaling": {"base_lr": 5e-4, "images": 1024}}}, "optimizer.lr is 0.00025, but .* is 0.001"),
        ({"student": {"distillation": {"kind": "soft"}}}, "set reweight_epoch=-1"),
        ({"teacher": {"loss": {"kind": "paco"}}}, "image's and the key's view"),
        ({"teacher": {**PACO, "sampler": {"drop_last": False}}}, "accumulate=1 and sampler.drop_last=true"),
        ({"teacher": {**PACO, "batch_size": 12}}, r"queue_size \(16\) must be a multiple of batch_size \(12\)"),
    ],
)
def test_contradictions_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DeitLt.model_validate(values)


def test_the_published_cifar_recipe_is_what_the_environment_says() -> None:
    student = check_parameters(loader("cifar100_lt")["parameters"]).deit_lt.student
    assert (student.epochs, student.batch_size, student.optimizer.lr, student.optimizer.weight_decay) == (1200, 1024, 2.5e-4, 0.05)
    assert (student.distillation.reweight_epoch, student.distillation.teacher_size) == (1100, 32)
    assert student.model == DeitLt().student.model and student.views == DeitLt().student.views


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes").glob("deit_lt*.yml")))
def test_recipes_are_what_their_names_say(recipe: str) -> None:
    run = yaml.safe_load((ROOT / "recipes" / recipe).read_text())["run"]
    parameters = check_parameters(loader(run["env"], **run["params"])["parameters"])
    if "paco" in recipe:
        assert parameters.deit_lt.teacher.loss.kind == "paco"
    else:
        assert parameters.deit_lt.student.epochs <= 300


def test_the_phases_follow_from_the_epoch_alone() -> None:
    cifar = DistillationConfig(reweight_epoch=10)
    assert phase(cifar, 10) == (True, False, False) and phase(cifar, 11) == (False, True, False)
    large = DistillationConfig(reweight_epoch=10, mix_when_reweighted=True, reweight_class_token=True)
    assert phase(large, 11) == (True, True, True)
    assert phase(DistillationConfig(reweight_epoch=-1), 10**6) == (True, False, False)


def test_the_teacher_stays_as_it_is() -> None:
    config = settings(erasing=0.0)
    task = build_task(config, "student", FACTS, {"teacher": checkpoint(config)})
    assert isinstance(task.teacher, FrozenTeacher)
    before = {name: value.clone() for name, value in task.teacher.state_dict().items()}
    task.train()
    terms = task(batch(), Clock(0, 1, 2))
    sum(terms.values()).backward()
    assert terms.keys() == {"class_token", "distillation_token"}
    assert not task.teacher.network.training and not any(p.requires_grad for p in task.teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in task.teacher.state_dict().items())
    assert all(p.grad is not None for p in task.model.parameters())


def test_training_leaves_the_batch_alone() -> None:
    """SAM and accumulation look at a batch twice; erasing and mixing work in place."""
    config, given = settings(erasing=1.0), batch()
    before = given.views[0].clone()
    build_task(config, "student", FACTS, {"teacher": checkpoint(config)})(given, Clock(0, 1, 2))
    assert torch.equal(given.views[0], before)


def test_without_a_teacher_both_tokens_learn_the_labels() -> None:
    task = build_task(settings(kind="none", erasing=0.0, mixup=0.0, cutmix=0.0), "student", FACTS, {})
    assert task.teacher is None
    terms = task(batch(), Clock(0, 1, 2))
    logits = task.model(batch().views[0])["expert_logits"]
    expected = torch.nn.functional.cross_entropy(logits[1], batch().labels, label_smoothing=0.1)
    torch.testing.assert_close(terms["distillation_token"], 0.5 * expected)
    assert task.epoch_figures(Clock(0, 1, 2)).keys() == {"token_similarity"}


@pytest.mark.parametrize(("side", "size"), [(224, 32), (96, 32), (40, 8)])
def test_every_nth_pixel_is_the_bicubic(side: int, size: int) -> None:
    images = torch.randn(1, 3, side, side)
    expected = torch.nn.functional.interpolate(images, (size, size), mode="bicubic", align_corners=False, antialias=False)
    torch.testing.assert_close(teacher_input(images, size), expected, rtol=0, atol=1e-5)


def test_the_teachers_own_normalisation_can_be_given_back() -> None:
    own = FACTS.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (0.3, 0.2, 0.1)})
    pixels = torch.rand(2, 3, 8, 8)
    seen = {}

    class Spy(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            seen["images"] = images
            return {"logits": torch.zeros(len(images), 4)}

    def normalised(facts: DataFacts) -> torch.Tensor:
        return (pixels - torch.tensor(facts.mean).view(3, 1, 1)) / torch.tensor(facts.std).view(3, 1, 1)

    FrozenTeacher(Spy(), DistillationConfig(teacher_size=None, teacher_norm="teacher"), FACTS, own)(normalised(FACTS))
    torch.testing.assert_close(seen["images"], normalised(own))
    FrozenTeacher(Spy(), DistillationConfig(teacher_size=None), FACTS, own)(normalised(FACTS))
    torch.testing.assert_close(seen["images"], normalised(FACTS))


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(LongTailError, match="same classes in another order: its class 0 is 'b', the student's is 'a'"):
        check_classes(FACTS.model_copy(update={"class_names": ("b", "a", "c", "d")}), FACTS)
    config = settings()
    with pytest.raises(LongTailError, match="knows other classes: 3 from 'a' on, the student 4"):
        three = FACTS.model_copy(update={"class_names": ("a", "b", "x"), "train_counts": (30, 12, 7)})
        frozen_teacher(config, FACTS, checkpoint(config, three))


def test_a_teacher_that_answers_by_chance_is_refused_and_a_good_one_is_not(tmp_path: Path) -> None:
    config = settings({"epochs": 6, "optimizer": {"lr": 0.02, "nesterov": False}, "schedule": {"kind": "cosine"}}, teacher_norm="teacher")
    with pytest.raises(LongTailError, match="of clean training images right"):
        before_training(config, "student", FACTS, {"teacher": checkpoint(config)}, toy_images(), CPU)
    trained = train(job(tmp_path, config, "teacher")).selections["last"]
    before_training(config, "student", FACTS, {"teacher": Checkpoint({"last": trained}, checkpoint(config).facts)}, toy_images(), CPU)


def test_steps_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(LongTailError, match="odd number"):
        before_training(settings(student={"batch_size": 9}), "student", FACTS, {}, toy_images(), CPU)
    with pytest.raises(LongTailError, match=r"53 images an epoch in steps of 8"):
        odd = settings(student={"sampler": {"kind": "uniform"}})
        before_training(odd, "student", FACTS, {}, toy_images(), CPU)
    with pytest.raises(LongTailError, match="choose a multiple of 3"):
        before_training(settings(), "teacher", FACTS, {}, toy_images(), CPU.model_copy(update={"processes": 3}))


def test_steps_and_rates_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        before_training(settings(student={"optimizer": SGD}, kind="none"), "student", FACTS, {}, toy_images(), CPU)
    assert "student: 6 steps an epoch, 12 in all; 8 images a step (8 at a time on 1 process(es))" in caplog.text


def test_accumulated_steps_are_large_steps(tmp_path: Path) -> None:
    """Images that are not mixed or erased: the mean over a step does not depend on how it is divided."""
    states = []
    for accumulate in (1, 4):
        config = settings(student={"accumulate": accumulate, "optimizer": SGD}, reweight_epoch=-1, erasing=0.0, mixup=0.0, cutmix=0.0)
        states.append(train(job(tmp_path / str(accumulate), config, "student")).selections["last"])
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=1e-6, msg=name)


def test_the_second_pass_of_sam_meets_the_same_keys_and_queue() -> None:
    config = settings(PACO)
    task = build_task(config, "teacher", FACTS, {})
    task.train()
    given = batch(8, views=2)
    first = task(given, Clock(0, 1, 1))["contrast"]
    memory = {name: value.clone() for name, value in task.memory.state_dict().items()}
    task.second_pass = True
    second = task(given, Clock(0, 1, 1))["contrast"]
    torch.testing.assert_close(first, second)
    assert all(torch.equal(value, task.memory.state_dict()[name]) for name, value in memory.items())
    task.second_pass = False
    task(given, Clock(1, 1, 1))
    assert task.memory.pointer.item() == 0 and not torch.equal(memory["queue"], task.memory.queue)


@pytest.mark.parametrize(("kind", "stage"), [("ldam", "teacher"), ("paco", "teacher"), ("ldam", "student")])
def test_interrupted_stages_end_in_the_same_bits(tmp_path: Path, kind: str, stage: str) -> None:
    teacher = {**(PACO if kind == "paco" else {}), "epochs": 2, "optimizer": {"lr": 0.01, "nesterov": False, "sam_rho": 0.1}}
    config = settings(teacher)
    whole, previous = train(job(tmp_path / "whole", config, stage)), {"teacher": checkpoint(config)}

    def build() -> Any:
        task = build_task(config, stage, FACTS, previous)
        forward = task.forward

        def interrupted(given: Batch, clock: Clock) -> dict[str, torch.Tensor]:
            if clock.step == 8:
                raise KeyboardInterrupt
            return forward(given, clock)

        task.forward = interrupted
        return task

    with pytest.raises(KeyboardInterrupt):
        train(job(tmp_path / "cut", config, stage, build))
    resumed = train(job(tmp_path / "cut", config, stage))
    assert all(torch.equal(value, resumed.selections["last"][name]) for name, value in whole.selections["last"].items())
    assert whole.history == resumed.history


def test_a_cross_entropy_teacher_is_reweighted_late() -> None:
    task = build_task(settings({"loss": {"kind": "cross_entropy", "reweight_epoch": 1}}), "teacher", FACTS, {})
    task.eval()
    early, late = (task(batch(), Clock(step, 1, 2))["classification"] for step in (0, 1))
    assert not torch.isclose(early, late)


def test_the_analyses_are_of_every_block() -> None:
    config = settings()
    found = analyse(config, build_network(config, "student", FACTS), toy_images(), PLAIN, FACTS, CPU)
    assert len(found["rank"]["CLS"]) == len(found["effective_rank"]["DIST"]) == len(found["attention_distance"]) == 4
    assert all(len(heads) == 3 and min(heads) > 0 for heads in found["attention_distance"])
    assert -1 <= found["similarity"] <= 1 and 0 <= found["disagreement"] <= 1 and found["images"] == 53


def test_measures_of_known_matrices() -> None:
    flat = torch.zeros(10, 4).numpy()
    assert feature_rank(flat) == (0, 0.0)
    orthogonal = torch.eye(4).repeat(3, 1).numpy()
    rank, effective = feature_rank(orthogonal, 0.99, center=False)
    assert rank == 4 and effective == pytest.approx(4.0)
    itself = torch.eye(6).expand(1, 1, 6, 6).numpy()
    assert attention_distance(itself, (2, 2), 8) == pytest.approx([0.0])
    everywhere = torch.full((1, 1, 6, 6), 1 / 6).numpy()
    assert attention_distance(everywhere, (2, 2), 8) == pytest.approx([(8 + 8 + 8 * 2**0.5) / 4])


def test_the_check_looks_at_every_class_alike() -> None:
    labels = toy_images().labels
    rows = class_balanced_rows(labels, 4, 12)
    assert [int((labels[rows] == label).sum()) for label in range(4)] == [3, 3, 3, 3]
