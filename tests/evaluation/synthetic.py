"""Predictions as a three-expert model with a router would give them: better on frequent classes, experts that disagree, cost per depth."""

import numpy as np
import pandas as pd

from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.evaluation.routing import route


def ride_like(
    classes: int = 100, per_class: int = 100, experts: int = 3, factor: float = 100, seed: int = 0, names: list[str] | None = None, **facts
) -> Predictions:
    rng = np.random.default_rng(seed)
    largest = 500 if classes > 10 else 140
    counts = (largest * factor ** (-np.arange(classes) / (classes - 1))).astype(int)
    labels = np.repeat(np.arange(classes), per_class)
    n = len(labels)
    strength = 2.0 + 2.2 * (counts / counts.max()) ** 0.35
    neighbour = (labels + rng.integers(1, 4, n)) % classes
    shared = rng.normal(size=(n, classes))
    difficulty = rng.gamma(2.0, 0.5, n)
    expert_logits = np.stack([shared + rng.normal(scale=0.7, size=(n, classes)) for _ in range(experts)])
    expert_logits[:, np.arange(n), labels] += strength[labels] * 2 / (0.6 + difficulty)
    expert_logits[:, np.arange(n), neighbour] += rng.exponential(1.6, (experts, n))
    expert_logits = (1.6 * expert_logits).astype(np.float32)
    top = np.sort(expert_logits[0], axis=1)
    scores = np.stack([2.5 - (top[:, -1] - top[:, -2]) + rng.normal(scale=0.6, size=n) for _ in range(experts - 1)], axis=1).astype(
        np.float32
    )
    logits, used = route(expert_logits, scores, 0.5)
    return Predictions(
        sample_ids=np.array([f"test/{i:05d}" for i in range(n)]),
        labels=labels,
        logits=logits,
        expert_logits=expert_logits,
        router_scores=scores,
        experts_used=used,
        macs_per_depth=np.array([5.05e7, 7.63e7, 1.0218e8, 1.28e8][:experts]),
        facts={
            "method": "ride",
            "benchmark": f"cifar{classes}_lt",
            "imbalance_factor": factor,
            "seed": seed,
            "split_hash": "3f9a0c17be55d201",
            "protocol": "last epoch",
            "precision": "fp32",
            "class_names": names or [f"class {i}" for i in range(classes)],
            "train_counts": counts.tolist(),
            "shot_convention": "strict",
            "shot_many": 100,
            "shot_few": 20,
            "router_threshold": 0.5,
            **facts,
        },
    )


def history(epochs: int = 200, router_epochs: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    epoch = np.arange(1, epochs + 1)
    decay = 12 * np.exp(-epoch / 40) + 1.5
    rate = np.where(epoch > 0.9 * epochs, 1e-5, np.where(epoch > 0.8 * epochs, 1e-3, 0.1)) * np.minimum(1, epoch / 5)
    experts = pd.DataFrame(
        {
            "stage": "experts",
            "epoch": epoch,
            "loss/classification": decay + rng.normal(scale=0.15, size=epochs),
            "loss/diversity": -0.6 * (1 - np.exp(-epoch / 30)) + rng.normal(scale=0.02, size=epochs),
            "lr": rate,
        }
    )
    step = np.arange(1, router_epochs + 1)
    router = pd.DataFrame(
        {
            "stage": "router",
            "epoch": step,
            "loss/routing": 1.4 * np.exp(-step / 3) + 0.9,
            "lr": 0.01 * (1 + np.cos(np.pi * (step - 1) / router_epochs)) / 2,
        }
    )
    return pd.concat([experts, router], ignore_index=True)
