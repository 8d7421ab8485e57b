import math

import pytest
import torch
import torch.nn.functional as F

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.paco import frequency_prior, paco_loss

B, K, C, D = 3, 5, 4, 6
COUNTS = [40, 10, 4, 1]


def draws() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    features = F.normalize(torch.randn(2 * B + K, D, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(C, (2 * B + K,), generator=generator)
    return features, labels, torch.randn(B, C, generator=generator, dtype=torch.float64), frequency_prior(COUNTS).double()


def test_it_is_the_formula_written_out() -> None:
    features, labels, logits, prior = draws()
    alpha, beta, gamma, temperature, total = 0.07, 1.3, 0.8, 0.3, 0.0
    for i in range(B):
        scores = [float(logits[i, c] + prior[c]) for c in range(C)]
        pairs = {j: float(features[i] @ features[j]) / temperature for j in range(len(features)) if j != i}
        denominator = math.log(sum(map(math.exp, scores)) + gamma * sum(map(math.exp, pairs.values())))
        weighted = beta * (scores[labels[i]] - denominator)
        same = [j for j in pairs if labels[j] == labels[i]]
        weighted += alpha * sum(pairs[j] - denominator for j in same)
        total -= weighted / (beta + alpha * len(same)) / B
    assert paco_loss(features, labels, logits, prior, alpha, beta, gamma, temperature).item() == pytest.approx(total, rel=1e-9)


def test_gradients() -> None:
    features, labels, logits, prior = draws()
    assert torch.autograd.gradcheck(lambda f, z: paco_loss(f, labels, z, prior), (features.requires_grad_(), logits.requires_grad_()))


def test_large_logits_stay_finite() -> None:
    features, labels, logits, prior = draws()
    assert paco_loss(features.float(), labels, 1e4 * logits.float(), prior.float(), temperature=0.01).isfinite()


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(LongTailError, match="Class 1 has 0 training images"):
        frequency_prior([3, 0])
