"""The paper's analyses of a trained student, for the report."""

from typing import Any

import numpy as np
import torch
from torch import nn

from lt_pipeline.augment.config import View
from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.data.split import ImageSet
from lt_pipeline.methods.deit_lt.measures import attention_distance, disagreement, feature_rank, token_similarity
from lt_pipeline.methods.deit_lt.start import class_balanced_rows
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.models.distilled_vit import CLASS_TOKEN, DISTILLATION_TOKEN, PREFIX_TOKENS, DistilledViT, observed
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.feed import evaluation_batches
from lt_pipeline.training.inference import choose_device, memory_format

_IMAGES, _BATCH = 512, 64
_VARIANCE = 0.99


@torch.inference_mode()
def analyse_tokens(model: nn.Module, images: ImageSet, view: View, facts: DataFacts, trainer: TrainerConfig) -> dict[str, Any]:
    """Return, JSON-able, what 512 images (as even over classes as can be) show of a student: see :mod:`~lt_pipeline.methods.deit_lt.measures`.

    ``rank`` and ``effective_rank`` [blocks] of each token, ``attention_distance`` [blocks][heads] in pixels, ``similarity`` of the two
    tokens after the last norm and ``disagreement`` of their heads.
    """
    assert isinstance(model, DistilledViT)
    device = choose_device(trainer.device)
    model = model.to(device).eval()
    chosen = class_balanced_rows(images.labels, facts.num_classes, _IMAGES)[:_IMAGES]
    sample = ImageSet(images.images, images.rows[chosen], images.labels[chosen], [images.sample_ids[row] for row in chosen])
    grid, patch = model.vit.patch_embed.grid_size, model.vit.patch_embed.patch_size[0]
    layout, normalise = memory_format(device, trainer), Normalise(facts.mean, facts.std)
    features: list[np.ndarray] = []  # [blocks, 2, b, D] of each batch
    distances: list[np.ndarray] = []  # [blocks, heads], times b
    tokens_last, logits = [], []
    for batch in evaluation_batches(sample, view, normalise, device, _BATCH, layout, trainer.workers):
        with observed(model) as (tokens, attention):
            outputs = model(batch)
        features.append(np.stack([block[:, :PREFIX_TOKENS].transpose(0, 1).float().cpu().numpy() for block in tokens]))
        distances.append(
            len(batch) * np.stack([attention_distance(a.float().cpu().numpy(), grid, patch, PREFIX_TOKENS) for a in attention])
        )
        tokens_last.append(outputs["features"].float().cpu().numpy())
        logits.append(outputs["expert_logits"].float().cpu().numpy())
    by_block, last, answers = np.concatenate(features, 2), np.concatenate(tokens_last, 1), np.concatenate(logits, 1)
    ranks = {
        name: [feature_rank(block[token], _VARIANCE) for block in by_block]
        for name, token in (("CLS", CLASS_TOKEN), ("DIST", DISTILLATION_TOKEN))
    }
    return {
        "images": len(chosen),
        "variance": _VARIANCE,
        "rank": {name: [rank for rank, _ in values] for name, values in ranks.items()},
        "effective_rank": {name: [effective for _, effective in values] for name, values in ranks.items()},
        "attention_distance": (np.sum(distances, axis=0) / len(chosen)).tolist(),
        "similarity": float(token_similarity(last[CLASS_TOKEN], last[DISTILLATION_TOKEN]).mean()),
        "disagreement": disagreement(answers[CLASS_TOKEN], answers[DISTILLATION_TOKEN]),
    }
