"""The one stage of MetaFormer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lt_pipeline.augment.batch_mixing import MixupCutmix, PixelErasing
from lt_pipeline.losses.classification import log_prior, soft_cross_entropy
from lt_pipeline.losses.diversity import divergence_to_mean
from lt_pipeline.losses.reweighting import effective_number_weights, reweighting_active
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.metaformer.config import MaskingConfig, Metaformer, MetaformerLossConfig
from lt_pipeline.methods.metaformer.masking import mask_metadata, masked_share
from lt_pipeline.models.backbones import load_backbone
from lt_pipeline.models.metadata_encoder import MetadataShape
from lt_pipeline.models.metadata_fusion import FusedNetwork, MetadataExperts
from lt_pipeline.models.metafg.network import build_metafg
from lt_pipeline.models.metafg.published import load_metafg
from lt_pipeline.models.registry import experts_network, prepare
from lt_pipeline.training.checkpoint import Checkpoint
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch, Task


def build_network(settings: Metaformer, stage: str, facts: DataFacts) -> nn.Module:
    """Return the untrained network; without metadata in the data it is the plain one.

    Raises:
        LongTailError: if there is no such backbone, or it cannot take the metadata as asked.
    """
    model, metadata, classes = settings.model, metadata_shape(facts), facts.num_classes
    match model.kind:
        case "metafg":
            one = model.metafg
            return build_metafg(one.backbone, classes, one.image_size, metadata, one.drop_path, one.last_only, one.checkpointed)
        case "timm":
            return FusedNetwork(model.timm.backbone, classes, metadata, model.timm.fusion == "tokens")
    return MetadataExperts(experts_network(model.experts, classes), metadata)


def build_task(settings: Metaformer, stage: str, facts: DataFacts, previous: Mapping[str, Checkpoint]) -> Task:
    """Return the task; there is no earlier stage.

    Raises:
        LongTailError: if a class has no training image or the initial weights do not fit.
    """
    network: Any = build_network(settings, stage, facts)
    model, metafg = settings.model, settings.model.metafg
    if model.kind == "metafg" and metafg.weights:
        load_metafg(network, metafg.weights, "head" in metafg.keep, "metadata" in metafg.keep, metafg.resize)
    elif model.kind == "timm" and model.timm.weights:
        load_backbone(network.backbone, model.timm.weights)
    elif model.kind == "experts":
        prepare(network.network, model.experts)
    return MetadataTask(network, settings.loss, settings.masking, facts.train_counts)


def metadata_shape(facts: DataFacts) -> MetadataShape:
    """Return the groups of numbers that come beside each image."""
    return MetadataShape(tuple(group.width for group in facts.metadata), max((group.tokens for group in facts.metadata), default=1))


class MetadataTask(Task):
    """Mixed images with the metadata of their first part, some of it hidden."""

    prior: Tensor | None
    weights: Tensor | None

    def __init__(self, model: nn.Module, loss: MetaformerLossConfig, masking: MaskingConfig, counts: Sequence[int]) -> None:
        super().__init__()
        self.model, self.loss, self.masking = model, loss, masking
        self.erase = PixelErasing(loss.erasing)
        self.mix = MixupCutmix(len(counts), loss.mixup, loss.cutmix, loss.smoothing)
        self.register_buffer("prior", log_prior(counts) if loss.kind == "balanced_softmax" else None, persistent=False)
        weights = effective_number_weights(counts) if loss.reweight_epoch >= 0 else None
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``classification``, summed over the experts where there are several, and then ``diversity``.

        Raises:
            LongTailError: if images are mixed and the batch is odd.
        """
        images, target = self.mix(self.erase(batch.views[0].clone()), batch.labels)
        outputs = self._answers(images, batch.metadata, clock)
        logits = outputs["expert_logits"] if "expert_logits" in outputs else outputs["logits"].unsqueeze(0)
        adjusted = logits if self.prior is None else logits + self.prior
        weights = self.weights if reweighting_active(clock.epoch_number, self.loss.reweight_epoch) else None
        losses = [soft_cross_entropy(one, target, weight=weights) for one in adjusted]
        terms = {"classification": torch.stack(losses).sum()}
        if len(logits) > 1 and self.loss.diversity:
            terms["diversity"] = self.loss.diversity * divergence_to_mean(adjusted)
        return terms

    def _answers(self, images: Tensor, metadata: Tensor | None, clock: Clock) -> dict[str, Tensor]:
        if not self.model.takes_metadata or metadata is None:
            plain: dict[str, Tensor] = self.model(images)
            return plain
        share = masked_share(self.masking, clock.epoch, clock.epochs)
        outputs: dict[str, Tensor] = self.model(images, mask_metadata(metadata, share))
        return outputs
