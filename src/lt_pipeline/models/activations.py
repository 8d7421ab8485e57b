"""Adaptive parametric activations: APA for gates and AGLU for hidden layers (Alexandridis et al., ECCV 2024, arXiv 2407.08567).

``apa(z) = (lambda e^(-kappa z) + 1)^(-1/lambda)`` and ``aglu(z) = z apa(z)``, each with one learned lambda (asymmetry) and kappa (slope). The
published formula keeps four tensors of the input's size for the backward pass; this one keeps the input and computes the rest again, in float32
or better whatever the input's type.

One definition of the maths (``activations_maths``) serves each form. On a CPU it runs tile by tile, so that intermediate results stay in the cache,
or, for large inputs, compiled by inductor into one pass over memory (``activations_tiles``). Inside ``torch.compile`` it is traced over the whole
tensor. On CUDA a Triton kernel (``activations_cuda``) repeats it.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError, nearest
from lt_pipeline.models.activations_maths import slopes, value
from lt_pipeline.models.activations_tiles import backward_tiled, forward_tiled

LambdaGrad = Literal["exact", "official"]
Floor = Literal["clamp", "relu_eps"]

LAMBDA_FLOOR = 1e-4
"""The smallest lambda of the ``clamp`` floor."""
RELU_EPS = 1e-8
"""What the ``relu_eps`` floor adds to max(lambda, 0)."""


def apa(z: Tensor, lambda_: Tensor, kappa: Tensor, lambda_grad: LambdaGrad = "exact", floor: Floor = "clamp") -> Tensor:
    """Return the adaptive parametric activation ``(lambda e^(-kappa z) + 1)^(-1/lambda)``, between 0 and 1.

    Args:
        z: any shape and floating type; the output has both, and the memory format.
        lambda_: the raw parameter, (1,) or, for ``z`` of [B, C, H, W], (1, C, 1, 1); the floor is applied here. Below it the gradient is zero.
        kappa: the slope, shaped like ``lambda_``; any sign.
        lambda_grad: ``official`` is the same as ``exact`` here: the published gates are differentiated automatically.
        floor: ``clamp`` is max(lambda, 1e-4), ``relu_eps`` is max(lambda, 0) + 1e-8.

    Raises:
        LongTailError: parameters per channel do not fit ``z``.
    """
    return _activate(z, lambda_, kappa, False, False, floor)


def aglu(z: Tensor, lambda_: Tensor, kappa: Tensor, lambda_grad: LambdaGrad = "exact", floor: Floor = "clamp") -> Tensor:
    """Return ``z * apa(z)``; arguments and errors as for ``apa``.

    ``lambda_grad="official"`` replaces the derivative in lambda by that of the published code, ``-z p sig(ln lambda - kappa z) / lambda^2``. It
    lacks the logarithmic term, has the opposite sign and grows like 1/lambda; it is here to repeat published runs.
    """
    return _activate(z, lambda_, kappa, True, lambda_grad == "official", floor)


class APA(nn.Module):
    """``apa`` with its parameters ``lambda_`` and ``kappa``, drawn uniformly.

    Args:
        channels: C for one pair of parameters a channel, shape (1, C, 1, 1); None for one pair, shape (1,).
        lambda_init: bounds of the uniform distribution of lambda.
        kappa_init: bounds of that of kappa.
        floor: see ``apa``.
        lambda_grad: see ``aglu``.
    """

    linear = False

    def __init__(
        self,
        channels: int | None = None,
        lambda_init: tuple[float, float] = (0.0, 1.0),
        kappa_init: tuple[float, float] = (0.0, 1.0),
        floor: Floor = "clamp",
        lambda_grad: LambdaGrad = "exact",
    ) -> None:
        super().__init__()
        shape = (1,) if channels is None else (1, channels, 1, 1)
        self.channels, self.floor, self.lambda_grad = channels, floor, lambda_grad
        self.lambda_ = nn.Parameter(torch.empty(shape).uniform_(*lambda_init))
        self.kappa = nn.Parameter(torch.empty(shape).uniform_(*kappa_init))

    def forward(self, z: Tensor) -> Tensor:
        """Return the activation of ``z``: same shape, type and memory format."""
        return _activate(z, self.lambda_, self.kappa, self.linear, self.lambda_grad == "official", self.floor)

    def extra_repr(self) -> str:
        """Describe the activation in one line."""
        return f"channels={self.channels}, floor={self.floor}, lambda_grad={self.lambda_grad}"


class AGLU(APA):
    """``aglu`` with its parameters; arguments as for ``APA``. It takes the place of ReLU, SiLU or GELU in hidden layers."""

    linear = True

    def __init__(
        self,
        channels: int | None = None,
        lambda_init: tuple[float, float] = (0.0, 1.0),
        kappa_init: tuple[float, float] = (0.8, 1.2),
        floor: Floor = "clamp",
        lambda_grad: LambdaGrad = "exact",
    ) -> None:
        super().__init__(channels, lambda_init, kappa_init, floor, lambda_grad)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": functools.partial(nn.ReLU, inplace=True),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "aglu": AGLU,
    "apa": APA,
}
"""What makes a fresh module of each named activation."""


def build_activation(name: str) -> nn.Module:
    """Return a fresh module of the activation called ``name``.

    Raises:
        LongTailError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise LongTailError(f"Unknown activation '{name}'.{nearest(name, ACTIVATIONS)} Known: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


_TIMM_NAMES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.SiLU: ("Swish", "SwishMe"),
    nn.GELU: ("GELU", "GELUTanh", "QuickGELU"),
    nn.Hardswish: ("HardSwish", "HardSwishMe"),
    nn.Mish: ("Mish", "MishMe", "HardMish", "HardMishMe"),
}
"""timm's own versions of torch's activations. Its PReLU is a subclass of torch's."""


def replace_activations(
    model: nn.Module,
    activation: str | Callable[[], nn.Module] = "aglu",
    replaced: tuple[type[nn.Module], ...] = (
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.PReLU,
        nn.ELU,
        nn.SiLU,
        nn.GELU,
        nn.Hardswish,
        nn.Mish,
    ),
) -> int:
    """Put a fresh activation in the place of every hidden one of ``model``, in place, and return how many were replaced.

    A module that the model calls at several places (the one ReLU of torchvision's residual blocks) is one site with one pair of parameters. Call it
    before an optimizer is made. Gates (sigmoid, hard sigmoid, tanh) stay unless ``replaced`` names them.

    Args:
        model: any timm or torchvision model, or another module whose activations are modules.
        activation: a name of ``ACTIVATIONS`` or what makes a fresh module; its parameters go to the device of their neighbours and keep their
            type, float32, also in a model of half precision.
        replaced: the classes to replace, with their subclasses and timm's own versions of them.

    Raises:
        LongTailError: an unknown name, a model that has none of these activations, or one that is itself an activation and so has no parent.
    """
    if isinstance(activation, str):
        build_activation(activation)
    make = functools.partial(build_activation, activation) if isinstance(activation, str) else activation
    wanted = replaced + _timm_versions(replaced)
    looked_for = ", ".join(kind.__name__ for kind in replaced)
    if isinstance(model, wanted):
        raise LongTailError(
            f"The model is a bare {type(model).__name__}, which nothing holds: wrap it in nn.Sequential or build the new one directly."
        )
    first = next(model.parameters(), None)
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, wanted):
                near = next(parent.parameters(), first)
                fresh = make() if near is None else make().to(near.device)
                setattr(parent, name, fresh.train(child.training))
                count += 1
    if not count:
        raise LongTailError(
            f"{type(model).__name__} has no activation module to replace (looked for {looked_for} and timm's versions of them): name its classes in "
            "'replaced', or the model calls its activations as functions."
        )
    return count


def _timm_versions(replaced: tuple[type[nn.Module], ...]) -> tuple[type[nn.Module], ...]:
    try:
        from timm import layers
    except ImportError:  # a model without timm has none of its classes
        return ()
    found = [getattr(layers, name, None) for kind in replaced for name in _TIMM_NAMES.get(kind, ())]
    return tuple(kind for kind in found if kind is not None)


def _activate(z: Tensor, lambda_: Tensor, kappa: Tensor, linear: bool, official: bool, floor: Floor) -> Tensor:
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return _composite(z, lambda_, kappa, linear, floor)
    if lambda_.numel() > 1 and (z.dim() != lambda_.dim() or z.shape[1] != lambda_.shape[1]):
        raise LongTailError(f"An activation of {lambda_.shape[1]} channels needs [B, {lambda_.shape[1]}, H, W], not {list(z.shape)}.")
    if torch.is_grad_enabled() and (z.requires_grad or lambda_.requires_grad or kappa.requires_grad):
        return _Activation.apply(z, lambda_, kappa, linear, official, floor)
    with torch.no_grad():
        return _forward(z, lambda_, kappa, linear, floor)


def _composite(z: Tensor, lambda_: Tensor, kappa: Tensor, linear: bool, floor: Floor) -> Tensor:
    """The formula in operators that every exporter knows; gradients come from automatic differentiation."""
    kind = torch.float64 if z.dtype == torch.float64 else torch.float32
    wide, lam = z.to(kind), lambda_.to(kind)
    lam = lam.clamp(min=LAMBDA_FLOOR) if floor == "clamp" else lam.relu() + RELU_EPS
    p = torch.exp(-F.softplus(torch.log(lam) - kappa.to(kind) * wide) / lam)
    return (wide * p if linear else p).to(z.dtype)


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, lambda_: Tensor, kappa: Tensor, linear: bool, official: bool, floor: Floor) -> Tensor:
        ctx.save_for_backward(z, lambda_, kappa)
        ctx.options = linear, official, floor
        return _forward(z, lambda_, kappa, linear, floor)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        # once_differentiable alone lets create_graph pass in silence where g itself needs no gradient.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError("APA and AGLU have no second derivative: call backward or grad without create_graph.")
        z, lambda_, kappa = ctx.saved_tensors
        with torch.no_grad():
            return *_backward(g, z, lambda_, kappa, *ctx.options), None, None, None


def _forward(z: Tensor, lambda_: Tensor, kappa: Tensor, linear: bool, floor: Floor) -> Tensor:
    lam, _ = _floored(lambda_, z.dtype, floor)
    kap = kappa.to(lam.dtype)
    if not torch.compiler.is_compiling():
        if z.device.type == "cpu":
            return forward_tiled(z, lam, kap, linear)
        if (kernels := _cuda_kernels(z, lam, kap)) is not None:
            return kernels.forward(z, lam, kap, linear)
    if lam.numel() == kap.numel() == 1:
        lam, kap = lam.view(()), kap.view(())  # z may have no dimension
    return value(z, lam, kap, linear).to(z.dtype)


def _backward(
    g: Tensor, z: Tensor, lambda_: Tensor, kappa: Tensor, linear: bool, official: bool, floor: Floor
) -> tuple[Tensor, Tensor, Tensor]:
    lam, above = _floored(lambda_, z.dtype, floor)
    kap = kappa.to(lam.dtype)
    shape = torch.broadcast_shapes(lam.shape, kap.shape)
    tracing = torch.compiler.is_compiling()
    if z.device.type == "cpu" and not tracing:
        by_z, by_lambda, by_kappa = backward_tiled(g, z, lam, kap, linear, official)
    elif not tracing and (kernels := _cuda_kernels(z, lam, kap)) is not None:
        by_z, by_lambda, by_kappa = kernels.backward(g, z, lam, kap, linear, official)
    else:
        by_z, by_lambda, by_kappa = slopes(g, z, lam, kap, linear, official)
        by_z = by_z.to(z.dtype).view_as(z)
        if z.dim() == 4:  # a first stage of short sums
            by_lambda, by_kappa = by_lambda.sum((2, 3), keepdim=True), by_kappa.sum((2, 3), keepdim=True)
    by_lambda = torch.where(above, by_lambda.sum_to_size(shape) / lam.to(by_lambda.dtype) ** 2, 0)
    by_kappa = by_kappa.sum_to_size(shape) / lam.to(by_kappa.dtype)
    return by_z, by_lambda.sum_to_size(lambda_.shape).to(lambda_.dtype), by_kappa.sum_to_size(kappa.shape).to(kappa.dtype)


def _floored(lambda_: Tensor, kind: torch.dtype, floor: Floor) -> tuple[Tensor, Tensor]:
    """Return lambda above its floor in the type of the arithmetic, and where it lay above: the gradient passes only there."""
    lam = lambda_.to(torch.float64 if kind == torch.float64 else torch.float32)
    if floor == "clamp":
        return lam.clamp(min=LAMBDA_FLOOR), lam > LAMBDA_FLOOR
    return lam.relu() + RELU_EPS, lam > 0


def _cuda_kernels(z: Tensor, lam: Tensor, kap: Tensor) -> Any:
    """Return the module of Triton kernels where it serves: CUDA, one pair of parameters, not float64."""
    if z.device.type != "cuda" or z.dtype == torch.float64 or lam.numel() > 1 or kap.numel() > 1:
        return None
    return _import_kernels()


@functools.cache
def _import_kernels() -> Any:
    try:
        from lt_pipeline.models import activations_cuda
    except ImportError:  # torch without Triton
        return None
    return activations_cuda
