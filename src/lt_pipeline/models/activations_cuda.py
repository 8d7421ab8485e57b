# Triton's types are not Python's.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
"""The adaptive parametric activation as two Triton kernels: one pass over memory forward, one backward with a two-stage reduction.

The maths is that of ``activations_maths.slopes``, in float32; parameters are read on the device, and nothing waits for it. The interpreter of
Triton runs it on a CPU (``TRITON_INTERPRET=1``), which is how it is tested.
"""

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt_pipeline.models.activations_maths import ARTANH_32, laid_out_like

BLOCK = 2048
"""Elements of one program."""

C0, C1, C2, C3 = (tl.constexpr(value) for value in ARTANH_32)


@triton.jit
def _parts(z, lam, kap):
    u = tl.log(lam) - kap * z
    e = tl.exp(-tl.abs(u))
    t = e / (2.0 + e)
    s = t * t
    cubic = s * t * ((C0 + C1 * s) + (s * s) * (C2 + C3 * s))
    return e, t, cubic, tl.maximum(u, 0.0)


@triton.jit
def _forward_kernel(z_ptr, out_ptr, lam_ptr, kap_ptr, count, LINEAR: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    z = tl.load(z_ptr + at, mask=at < count, other=0.0).to(tl.float32)
    lam, kap = tl.load(lam_ptr), tl.load(kap_ptr)
    _, t, cubic, positive = _parts(z, lam, kap)
    value = tl.exp(-(positive + (2.0 * t + cubic)) / lam)
    if LINEAR:
        value = tl.where(value == 0.0, 0.0, z * value)
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=at < count)


@triton.jit
def _backward_kernel(
    g_ptr,
    z_ptr,
    out_ptr,
    sums_ptr,
    lam_ptr,
    kap_ptr,
    count,
    programs,
    LINEAR: tl.constexpr,
    OFFICIAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    # Outside the tensor g is zero, and with it every term of the sums.
    g = tl.load(g_ptr + at, mask=at < count, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + at, mask=at < count, other=0.0).to(tl.float32)
    lam, kap = tl.load(lam_ptr), tl.load(kap_ptr)
    e, t, cubic, positive = _parts(z, lam, kap)
    gp = g * tl.exp(-(positive + (2.0 * t + cubic)) / lam)
    y = 1.0 / (1.0 + e)
    ye = y * e
    step = tl.minimum(y - ye, positive)
    sigmoid = ye + step
    slope = sigmoid * (kap / lam)
    if LINEAR:
        by_z = gp * (1.0 + slope * z)
        gp = gp * z
    else:
        by_z = gp * slope
    by_lambda = -gp * sigmoid if LINEAR and OFFICIAL else gp * ((cubic + t * ye) + (positive - step))
    tl.store(out_ptr + at, by_z.to(out_ptr.dtype.element_ty), mask=at < count)
    tl.store(sums_ptr + program, tl.sum(by_lambda, axis=0))
    tl.store(sums_ptr + programs + program, tl.sum(gp * (z * sigmoid), axis=0))


def forward(z: Tensor, lam: Tensor, kap: Tensor, linear: bool) -> Tensor:
    """Return the activation of ``z``, in its type and memory format; ``lam`` (above its floor) and ``kap`` hold one float32 each."""
    out = torch.empty_like(z)
    count = z.numel()
    if count:
        with _device_of(z):
            _forward_kernel[(triton.cdiv(count, BLOCK),)](laid_out_like(z, out), out, lam, kap, count, LINEAR=linear, BLOCK=BLOCK)
    return out


def backward(g: Tensor, z: Tensor, lam: Tensor, kap: Tensor, linear: bool, official: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient in z, and in float64 [1] that in lambda times lambda^2 and that in kappa times lambda."""
    out = torch.empty_like(z)
    count = z.numel()
    programs = triton.cdiv(count, BLOCK)
    sums = torch.empty(2, programs, device=z.device, dtype=torch.float32)
    if count:
        with _device_of(z):
            _backward_kernel[(programs,)](
                laid_out_like(g, out),
                laid_out_like(z, out),
                out,
                sums,
                lam,
                kap,
                count,
                programs,
                LINEAR=linear,
                OFFICIAL=official,
                BLOCK=BLOCK,
            )
    by_lambda, by_kappa = sums.sum(1, keepdim=True, dtype=torch.float64)
    return out, by_lambda, by_kappa


def _device_of(z: Tensor) -> contextlib.AbstractContextManager[object]:
    """Launch on the device of ``z``, not on the current one; on a CPU only the interpreter gets here."""
    return torch.cuda.device_of(z) if z.is_cuda else contextlib.nullcontext()
