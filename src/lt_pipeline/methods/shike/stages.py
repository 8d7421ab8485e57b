"""The stages of SHIKE: representation, classifier."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from lt_pipeline.losses.classification import log_prior, logit_adjusted_cross_entropy
from lt_pipeline.losses.knowledge_transfer import knowledge_transfer
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.shike.config import Shike, TransferConfig
from lt_pipeline.models.activations import build_activation
from lt_pipeline.models.depth_fusion import build_depth_fused
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.registry import prepare
from lt_pipeline.training.checkpoint import Checkpoint, load_into
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch, Task


def build_network(settings: Shike, stage: str, facts: DataFacts) -> MultiExpert:
    """Return the untrained network; both stages have the same, each with classifiers of its own."""
    model = settings.model
    return build_depth_fused(
        model.backbone,
        facts.num_classes,
        model.experts,
        model.cosine_head,
        model.scale,
        model.align_conv,
        model.align_relu,
        activation=partial(build_activation, model.activation),
    )


def build_task(settings: Shike, stage: str, facts: DataFacts, previous: Mapping[str, Checkpoint]) -> Task:
    """Return the task of a stage; ``classifier`` starts from the checkpoint of ``representation``.

    Raises:
        LongTailError: if a class has no training image or the earlier checkpoint does not fit.
    """
    network = build_network(settings, stage, facts)
    if stage == "representation":
        return RepresentationTask(prepare(network, settings.model), settings.loss)
    fresh = {name: tensor for name, tensor in network.state_dict().items() if ".classifier." in name}
    load_into(network, {**previous["representation"].state, **fresh}, "The checkpoint of stage 'representation'")
    return ClassifierTask(network, log_prior(facts.train_counts), settings.classifier.freeze_statistics)


class RepresentationTask(Task):
    """Every expert learns from the labels, from the others and from the assembled teacher."""

    def __init__(self, model: nn.Module, loss: TransferConfig) -> None:
        super().__init__()
        self.model, self.options = model, loss.model_dump()

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``classification``, ``transfer`` and ``mutual``."""
        return knowledge_transfer(self.model(batch.views[0])["expert_logits"], batch.labels, **self.options)


class ClassifierTask(Task):
    """Fresh classifiers on the frozen network, under balanced softmax, summed over the experts (section 3.4)."""

    def __init__(self, model: MultiExpert, prior: Tensor, freeze_statistics: bool) -> None:
        super().__init__()
        self.model, self.freeze_statistics = model, freeze_statistics
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".classifier." in name)
        self.register_buffer("prior", prior, persistent=False)

    def train(self, mode: bool = True) -> "ClassifierTask":
        """Set the mode; batch norm stays in evaluation mode where its statistics are frozen."""
        super().train(mode)
        if self.freeze_statistics:
            self.model.eval()
        return self

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``classification``."""
        logits = self.model(batch.views[0])["expert_logits"]
        return {"classification": balanced_softmax(logits, batch.labels, self.get_buffer("prior"))}


def balanced_softmax(expert_logits: Tensor, target: Tensor, prior: Tensor) -> Tensor:
    """Return balanced softmax (Ren et al., NeurIPS 2020, eq. 3) averaged over the batch and summed over the experts of expert_logits [M, B, C]."""
    return torch.stack([logit_adjusted_cross_entropy(logits, target, prior) for logits in expert_logits]).sum()
