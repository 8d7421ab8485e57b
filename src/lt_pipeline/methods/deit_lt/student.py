"""The student's stage."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.augment.batch_mixing import MixupCutmix, PixelErasing
from lt_pipeline.losses.reweighting import effective_number_weights, reweighting_active
from lt_pipeline.losses.token_distillation import class_token_loss, distillation_token_loss
from lt_pipeline.methods.deit_lt.config import DistillationConfig
from lt_pipeline.models.distilled_vit import CLASS_TOKEN, DISTILLATION_TOKEN, DistilledViT
from lt_pipeline.ranks import summed
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch, Task


class Phase(NamedTuple):
    """What an epoch of the student does."""

    mixes: bool
    """Images are mixed and labels smoothed; otherwise the class token learns plain labels."""
    reweights: bool
    """Class weights act on the distillation token."""
    reweights_class_token: bool
    """They act on the class token too."""


def phase(config: DistillationConfig, epoch: int) -> Phase:
    """Return what ``epoch`` (1-based) does; a function of the epoch alone, so a resumed run cannot miss the change."""
    late = reweighting_active(epoch, config.reweight_epoch)
    return Phase(mixes=config.mix_when_reweighted or not late, reweights=late, reweights_class_token=late and config.reweight_class_token)


class DistillationTask(Task):
    """The class token learns the mixed labels, the distillation token the teacher's answer to the same mixed images."""

    model: DistilledViT

    def __init__(self, model: DistilledViT, teacher: nn.Module | None, config: DistillationConfig, counts: Sequence[int]) -> None:
        super().__init__()
        self.model, self.teacher, self.config = model, teacher, config
        self.erase = PixelErasing(config.erasing)
        self.mix = MixupCutmix(len(counts), config.mixup, config.cutmix, config.smoothing)
        self.register_buffer("weights", effective_number_weights(counts), persistent=False)
        self.memory.register_buffer("sums", torch.zeros(3, dtype=torch.float64))

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``class_token`` and ``distillation_token``, each with its share.

        Raises:
            LongTailError: if images are mixed and the batch is odd.
        """
        config, now = self.config, phase(self.config, clock.epoch_number)
        images, target = self.erase(batch.views[0].clone()), batch.labels
        if now.mixes:
            images, target = self.mix(images, target)
        outputs = self.model(images)
        logits, weights = outputs["expert_logits"], self.get_buffer("weights")
        base = class_token_loss(logits[CLASS_TOKEN], target, weights if now.reweights_class_token else None)
        if self.teacher is None:
            late = weights if now.reweights and not target.is_floating_point() else None
            distillation, right = class_token_loss(logits[DISTILLATION_TOKEN], target, late), None
        else:
            answer = self.teacher(images)["logits"]
            right = answer.argmax(-1) == batch.labels
            distillation = distillation_token_loss(
                logits[DISTILLATION_TOKEN],
                answer,
                "soft" if config.kind == "soft" else "hard",
                config.temperature,
                weights if now.reweights else None,
            )
        self._note(outputs["features"], right)
        return {"class_token": (1 - config.alpha) * base, "distillation_token": config.alpha * distillation}

    @torch.no_grad()
    def _note(self, features: Tensor, right: Tensor | None) -> None:
        """Add up how similar the tokens are and how often the teacher names the image's own class."""
        similarity = F.cosine_similarity(features[CLASS_TOKEN], features[DISTILLATION_TOKEN], eps=1e-6)
        agreed = similarity.new_zeros(()) if right is None else right.sum()
        self.memory.get_buffer("sums").add_(
            torch.stack([similarity.sum().double(), agreed.double(), similarity.new_tensor(len(similarity)).double()])
        )

    def epoch_figures(self, clock: Clock) -> dict[str, float]:
        """Return ``token_similarity``, the mean cosine of the two tokens, and ``teacher_accuracy`` on the images as they were trained on."""
        sums = self.memory.get_buffer("sums")
        similarity, agreed, images = summed(sums.tolist(), sums.device)
        sums.zero_()
        figures = {"token_similarity": similarity / images}
        return figures if self.teacher is None else figures | {"teacher_accuracy": agreed / images}
