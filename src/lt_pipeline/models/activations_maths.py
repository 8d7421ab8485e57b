"""The maths of the adaptive parametric activations, once for every form in which they run (``activations`` says what they are)."""

import torch
from torch import Tensor

ARTANH_64 = tuple(2 / (2 * n + 3) for n in range(16))
"""Coefficients in s of (2 artanh(t) / t - 2) / s, s = t^2 <= 1/9: the Taylor series, to 1e-17."""
ARTANH_32 = (0.6666663885116577, 0.40007561445236206, 0.28236618638038635, 0.2685149908065796)
"""The same for float32: interpolated at Chebyshev nodes of [0, 1/9], to 2e-8 of the logarithm."""


def value(z: Tensor, lambda_: Tensor, kappa: Tensor, linear: bool) -> Tensor:
    """Return the activation in the type of ``lambda_``, which is above its floor; ``lambda_`` and ``kappa`` broadcast with ``z``."""
    z = z.to(lambda_.dtype)
    u, _, t, cubic = _logistic_parts(z, lambda_, kappa)
    p = cubic.add_(t, alpha=2).add_(u.relu_()).mul_(-1 / lambda_).exp_()
    # The smallest number in the place of -inf: -inf * 0 is NaN, its limit 0.
    return p.mul_(z.clamp(min=torch.finfo(z.dtype).min)) if linear else p


def slopes(g: Tensor, z: Tensor, lambda_: Tensor, kappa: Tensor, linear: bool, official: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return per element the gradient in z, the gradient in lambda times lambda^2, and that in kappa times lambda.

    The factors are left to the sums: 1/lambda^2 is up to 1e8. No ``where``: it costs as much as three exponentials on a CPU.
    """
    g, z = g.to(lambda_.dtype), z.to(lambda_.dtype)
    u, e, t, cubic = _logistic_parts(z, lambda_, kappa)
    positive = u.relu_()
    gp = torch.add(cubic, t, alpha=2).add_(positive).mul_(-1 / lambda_).exp_().mul_(g)
    # sigmoid(u) is y e for u < 0 and y e + tanh(u / 2) above, where 0 <= tanh(u / 2) = y - y e < u.
    y = (1 + e).reciprocal_()
    ye = e.mul_(y)
    step = torch.minimum(y.sub_(ye), positive)
    # softplus(u) - sigmoid(u): ln(1 + e) - y e = y e t + cubic adds positive terms where the difference would cancel.
    excess = cubic.add_(t.mul_(ye)).add_(positive.sub_(step))
    sigmoid = ye.add_(step)
    by_z = sigmoid * (kappa / lambda_)
    if linear:
        by_z, gp = by_z.mul_(z).add_(1).mul_(gp), gp.mul(z)
    else:
        by_z = by_z.mul_(gp)
    by_lambda = -gp * sigmoid if linear and official else excess.mul_(gp)
    return by_z, by_lambda, sigmoid.mul_(z).mul_(gp)


def _logistic_parts(z: Tensor, lambda_: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u = ln lambda - kappa z, e = exp(-|u|), t = e / (2 + e) and the rest of ln(1 + e) = 2 artanh t = 2 t + rest.

    The rest is t^3 times a short polynomial in t^2 <= 1/9. That is as exact as log1p, costs a fifth, and softplus(u) = max(u, 0) + ln(1 + e).
    """
    u = torch.addcmul(torch.log(lambda_), kappa, z, value=-1)
    e = u.abs().neg_().exp_()
    t = e / (2 + e)
    s = t * t
    c = ARTANH_64 if u.dtype == torch.float64 else ARTANH_32
    terms, power = [(s * odd).add_(even) for even, odd in zip(c[::2], c[1::2], strict=True)], s
    while len(terms) > 1:  # Estrin's scheme: a shorter chain of dependent operations than Horner's
        power = power * power
        terms = [odd.mul_(power).add_(even) for even, odd in zip(terms[::2], terms[1::2], strict=True)]
    return u, e, t, terms[0].mul_(s.mul_(t))


def laid_out_like(x: Tensor, out: Tensor) -> Tensor:
    """Return ``x``, copied only if its strides are not those of ``out``, which is dense in memory."""
    return x if x.stride() == out.stride() else torch.empty_like(out, dtype=x.dtype).copy_(x)
