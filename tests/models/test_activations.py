import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck

from lt_pipeline.errors import LongTailError
from lt_pipeline.models import activations_maths, activations_tiles
from lt_pipeline.models.activations import ACTIVATIONS, AGLU, APA, Floor, LambdaGrad, aglu, apa, build_activation, replace_activations

BOTH = pytest.mark.parametrize("function", [apa, aglu])


def pair(lambda_: float, kappa: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.tensor([lambda_], dtype=dtype, requires_grad=True), torch.tensor([kappa], dtype=dtype, requires_grad=True)


def formula(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    return torch.exp(-F.softplus(torch.log(lambda_) - kappa * z) / lambda_)


@BOTH
@pytest.mark.parametrize("lambda_", [0.05, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("kappa", [-1.1, 0.9])
def test_gradients(function: Callable[..., Tensor], lambda_: float, kappa: float) -> None:
    z = (3 * torch.randn(2, 3, 2, 2, dtype=torch.float64)).requires_grad_()
    assert gradcheck(function, (z, *pair(lambda_, kappa, torch.float64)))
    channels = [(value * torch.linspace(0.8, 1.2, 3, dtype=torch.float64).view(1, 3, 1, 1)).requires_grad_() for value in (lambda_, kappa)]
    assert gradcheck(function, (z, *channels))


@pytest.mark.parametrize("lambda_", [2e-4, 1e-2, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("kappa", [-0.7, 1.1])
def test_float32_is_as_exact_as_float64(lambda_: float, kappa: float) -> None:
    z = torch.linspace(-50, 50, 6001)
    g = torch.randn(6001).abs() * z.sign()  # every term of the sum for lambda is then positive: none of its relative error is cancellation
    results = []
    for dtype in (torch.float32, torch.float64):
        x, parameters = z.to(dtype).requires_grad_(), pair(lambda_, kappa, torch.float32)
        wide = [parameter.to(dtype) for parameter in parameters]
        y = aglu(x, *wide) if dtype == torch.float32 else x * formula(x, *wide)
        results.append((y, *torch.autograd.grad(y, (x, *wide), g.to(dtype))))
    for ours, exact in zip(*results, strict=True):
        assert ((ours.double() - exact).abs() / (1e-3 + exact.abs())).max() < 3e-4
    torch.testing.assert_close(results[0][2].double(), results[1][2], rtol=1e-5, atol=0)


def test_special_cases() -> None:
    z = torch.linspace(-20, 20, 401)
    torch.testing.assert_close(apa(z, *pair(1, 1)), torch.sigmoid(z))
    torch.testing.assert_close(aglu(z, *pair(1, 1)), F.silu(z))
    torch.testing.assert_close(aglu(z, *pair(1, 1.702)), z * torch.sigmoid(1.702 * z))
    wide = z.double()
    torch.testing.assert_close(apa(wide, *pair(1e-4, 1, torch.float64)), torch.exp(-torch.exp(-wide)), rtol=0, atol=1e-4)
    torch.testing.assert_close(apa(z, *pair(0.5, 0)), torch.full_like(z, 1.5**-2))
    torch.testing.assert_close(apa(z, *pair(0.3, -0.8)), apa(-z, *pair(0.3, 0.8)))
    torch.testing.assert_close(aglu(z, *pair(1, 200)), F.relu(z), rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(z=st.floats(-30, 30), low=st.floats(1e-3, 5), more=st.floats(1e-2, 5))
def test_the_gate_rises_with_lambda_between_0_and_1(z: float, low: float, more: float) -> None:
    x = torch.tensor([z])
    below, above = apa(x, *pair(low, 1)), apa(x, *pair(low + more, 1))
    assert 0 <= below <= above * (1 + 1e-5) and above <= 1


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lambda_", [1e-4, 1.1e-4, 0.5])
@pytest.mark.parametrize("kappa", [-1.3, 0.0, 1.0])
def test_everything_is_finite_and_of_the_right_type(
    function: Callable[..., Tensor], dtype: torch.dtype, lambda_: float, kappa: float
) -> None:
    z = torch.cat([torch.linspace(-1e4, 1e4, 801), torch.linspace(-20, 20, 801), torch.zeros(1)]).to(dtype).requires_grad_()
    parameters = pair(lambda_, kappa)
    y = function(z, *parameters)
    y.sum().backward()
    assert y.dtype == dtype and z.grad is not None and z.grad.dtype == dtype
    assert y.isfinite().all() and z.grad.isfinite().all()
    for parameter in parameters:
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()


@pytest.mark.parametrize("floor", ["clamp", "relu_eps"])
def test_infinite_inputs(floor: Floor) -> None:
    y = aglu(torch.tensor([-torch.inf, torch.inf]), *pair(0.5, 1), floor=floor)
    assert y[0] == 0 and y[1] == torch.inf
    assert aglu(torch.tensor([torch.nan]), *pair(0.5, 1)).isnan().all()


@pytest.mark.parametrize("lambda_grad", ["exact", "official"])
@pytest.mark.parametrize(("floor", "lambda_", "effective"), [("clamp", 1e-4, 1e-4), ("clamp", -1.0, 1e-4), ("relu_eps", -0.3, 1e-8)])
def test_below_the_floor_lambda_has_no_gradient(floor: Floor, lambda_: float, effective: float, lambda_grad: LambdaGrad) -> None:
    z = torch.randn(100)
    parameters = pair(lambda_, 1.0)
    y = aglu(z, *parameters, lambda_grad, floor)
    y.sum().backward()
    assert parameters[0].grad == 0 and parameters[1].grad != 0
    torch.testing.assert_close(y.double(), z.double() * formula(z.double(), *pair(effective, 1.0, torch.float64)), rtol=1e-3, atol=1e-5)


def test_the_official_gradient_of_lambda_is_the_published_one() -> None:
    z = torch.tensor([1.0], dtype=torch.float64)
    for value, wrong, true in ((1.0, -0.73, 0.036), (-1.0, 0.62, -0.22)):  # the example of the specification
        for lambda_grad, expected in (("official", wrong), ("exact", true)):
            parameters = pair(0.3, 1.1, torch.float64)
            aglu(value * z, *parameters, lambda_grad).backward()
            assert parameters[0].grad is not None and abs(parameters[0].grad.item() - expected) < 6e-3
    gates = []
    for lambda_grad in ("official", "exact"):
        parameters = pair(0.3, 1.1)
        apa(torch.randn(5, generator=torch.Generator().manual_seed(0)), *parameters, lambda_grad).sum().backward()
        gates.append(parameters[0].grad)
    torch.testing.assert_close(*gates)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    channels=st.booleans(),
    layout=st.sampled_from(["plain", "channels_last", "sliced", "transposed"]),
    linear=st.booleans(),
)
def test_tiles_give_what_the_whole_tensor_gives(shape: list[int], channels: bool, layout: str, linear: bool) -> None:
    z = torch.randn(shape)
    if layout == "channels_last":
        z = z.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        z = torch.randn([*shape[:3], 2 * shape[3]])[..., ::2]
    elif layout == "transposed":
        z = z.transpose(0, 3)
    size = (1, z.shape[1], 1, 1) if channels else (1,)
    lam, kap, g = torch.rand(size) + 0.1, torch.randn(size), torch.randn(z.shape)
    whole = activations_maths.slopes(g, z, lam, kap, linear, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activations_tiles, "ROW", 8)
        patch.setattr(activations_tiles, "TILE", 32)
        y = activations_tiles.forward_tiled(z, lam, kap, linear)
        tiled = activations_tiles.backward_tiled(g, z, lam, kap, linear, False)
    torch.testing.assert_close(y, activations_maths.value(z, lam, kap, linear))
    torch.testing.assert_close(tiled[0], whole[0])
    for ours, terms in zip(tiled[1:], whole[1:], strict=True):
        torch.testing.assert_close(ours, terms.double().sum_to_size(size), rtol=0, atol=1e-6 * terms.abs().sum().item())


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4097)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    z, module = torch.randn(shape, requires_grad=True), AGLU()
    y = module(z)
    y.sum().backward()
    assert y.shape == shape and z.grad is not None and z.grad.shape == shape
    torch.testing.assert_close(y, z * formula(z, module.lambda_.clamp(min=1e-4), module.kappa).view(shape))


@pytest.mark.parametrize("channels", [None, 6])
def test_channels_last_is_kept(channels: int | None) -> None:
    z = torch.randn(2, 6, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = AGLU(channels)(z)
    (grad,) = torch.autograd.grad(y.square().sum(), z)
    assert y.is_contiguous(memory_format=torch.channels_last) and grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_input_is_kept(dtype: torch.dtype) -> None:
    z, module, kept = torch.randn(4, 8, 16, 16).to(dtype).requires_grad_(), AGLU(), []

    def pack(saved: Tensor) -> Tensor:
        kept.append(saved)
        return saved

    before = z.detach().clone()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        module(z).sum().backward()
    assert sum(saved.untyped_storage().nbytes() for saved in kept) == z.untyped_storage().nbytes() + 8
    assert any(saved.data_ptr() == z.data_ptr() for saved in kept)
    assert torch.equal(before, z)


def test_a_second_derivative_is_refused() -> None:
    z = torch.randn(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(AGLU()(z).sum(), z, create_graph=True)


def test_without_gradients() -> None:
    z, module = torch.randn(2, 3, 4, 4), AGLU()
    with torch.no_grad():
        y = module(z)
    assert not y.requires_grad
    torch.testing.assert_close(y, module(z).detach(), rtol=0, atol=0)
    module.requires_grad_(False)
    assert not module(z).requires_grad
    x = z.clone().requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None and module.lambda_.grad is None


def test_the_exported_formula_is_the_same() -> None:
    model, z = nn.Sequential(AGLU(), APA(channels=3, floor="relu_eps")), torch.randn(2, 3, 4, 4)
    program = torch.export.export(model, (z,))
    torch.testing.assert_close(program.module()(z), model(z))


def test_a_compiled_model_sees_through_it() -> None:
    model = nn.Sequential(AGLU(), APA(channels=3))
    z = torch.randn(2, 3, 4, 4)
    model(z).sum().backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(z).sum().backward()
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_compiled_form_falls_back(fails: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def compiler(work: Callable[..., object], **_: object) -> Callable[..., object]:
        def run(*args: object) -> object:
            calls.append(work)
            if fails:
                raise RuntimeError("no C++ compiler")
            return work(*args)

        return run

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(activations_tiles, "PIECE", 2 * activations_tiles.ROW)
    monkeypatch.setattr(activations_tiles, "_compiled", None)
    activations_tiles._compile.cache_clear()
    module, z = AGLU(), torch.randn(4 * activations_tiles.ROW + 5, requires_grad=True)
    expected = torch.autograd.grad(module(z).square().sum(), (z, *module.parameters()))
    assert not calls  # too small to compile unless asked
    activations_tiles.set_compiled(True)
    actual = torch.autograd.grad(module(z).square().sum(), (z, *module.parameters()))
    activations_tiles._compile.cache_clear()
    assert len(calls) == (1 if fails else 4) and ("no C++ compiler" in caplog.text) == fails
    torch.testing.assert_close(actual, expected)


@pytest.mark.slow
@BOTH
def test_the_compiled_form(function: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations_tiles, "_compiled", False)
    z = torch.randn(activations_tiles.PIECE + 5000, requires_grad=True)
    parameters = pair(0.3, 0.9)
    expected = torch.autograd.grad(function(z, *parameters).square().sum(), (z, *parameters))
    activations_tiles.set_compiled(True)
    actual = torch.autograd.grad(function(z, *parameters).square().sum(), (z, *parameters))
    assert activations_tiles._compiled or not shutil.which("c++")
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


TRITON = """
import torch
from lt_pipeline.models import activations_cuda, activations_tiles
torch.manual_seed(0)
for linear, official, dtype in ((True, False, torch.float32), (True, True, torch.float32), (False, False, torch.float16)):
    z, g = (torch.randn(2, 3, 25, 29).to(dtype).contiguous(memory_format=layout) for layout in (torch.channels_last, torch.contiguous_format))
    lam, kap = torch.tensor([0.4]), torch.tensor([-0.9])
    ours = activations_cuda.forward(z, lam, kap, linear), *activations_cuda.backward(g, z, lam, kap, linear, official)
    theirs = activations_tiles.forward_tiled(z, lam, kap, linear), *activations_tiles.backward_tiled(g, z, lam, kap, linear, official)
    torch.testing.assert_close(ours, theirs, rtol=2e-3 if dtype == torch.float16 else 1e-5, atol=1e-4)
    assert ours[0].stride() == ours[1].stride() == z.stride()
print("done")
"""


@pytest.mark.slow
def test_the_cuda_kernel_under_the_interpreter() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "done", result.stderr


def test_modules_start_where_they_should() -> None:
    torch.manual_seed(0)
    drawn = [AGLU(channels=64) for _ in range(4)]
    for module in drawn:
        assert module.lambda_.shape == module.kappa.shape == (1, 64, 1, 1)
        assert module.lambda_.min() >= 0 and module.lambda_.max() <= 1 and module.kappa.min() >= 0.8 and module.kappa.max() <= 1.2
    gate = APA(kappa_init=(-1, 0))
    assert gate.lambda_.shape == (1,) and -1 <= gate.kappa.item() <= 0
    assert {name for name, _ in gate.named_parameters()} == {"lambda_", "kappa"}


def test_channels_that_do_not_fit() -> None:
    with pytest.raises(LongTailError, match="4 channels"):
        AGLU(channels=4)(torch.randn(2, 3, 5, 5))
    with pytest.raises(LongTailError, match="4 channels"):
        AGLU(channels=4)(torch.randn(2, 4))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_named_activation_runs(name: str) -> None:
    module = build_activation(name)
    assert module is not build_activation(name) and module(torch.randn(3)).shape == (3,)


def test_an_unknown_name() -> None:
    with pytest.raises(LongTailError, match="Did you mean 'aglu'"):
        build_activation("agllu")
    with pytest.raises(LongTailError, match="Unknown activation"):
        replace_activations(nn.Sequential(nn.ReLU()), "agllu")


@pytest.mark.parametrize(("name", "count"), [("resnet18", 17), ("efficientnet_b0", 49), ("vit_tiny_patch16_224", 12)])
def test_timm_models(name: str, count: int) -> None:
    timm = pytest.importorskip("timm")
    size = {"img_size": 64} if name.startswith("vit") else {}
    model = timm.create_model(name, pretrained=False, num_classes=5, **size)
    assert replace_activations(model) == count
    sites = [module for module in model.modules() if isinstance(module, AGLU)]
    assert len(sites) == len({id(site.lambda_) for site in sites}) == count
    assert not any(isinstance(module, nn.ReLU | nn.SiLU | nn.GELU) for module in model.modules())
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(site.lambda_.grad is not None and site.kappa.grad.isfinite().all() for site in sites)


def test_replacing_keeps_what_it_should() -> None:
    from timm.layers.activations import GELUTanh, Sigmoid, Swish

    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Swish(), GELUTanh(), Sigmoid()), nn.Sigmoid()).to("meta", torch.float16).eval()
    assert replace_activations(model, lambda: APA(floor="relu_eps")) == 2
    assert [type(module) for module in model[1]] == [APA, APA, Sigmoid] and isinstance(model[2], nn.Sigmoid)
    assert model[1][0].lambda_.device.type == "meta" and model[1][0].lambda_.dtype == torch.float32 and not model[1][0].training
    assert replace_activations(model, "gelu", (nn.Sigmoid,)) == 1


def test_nothing_to_replace() -> None:
    with pytest.raises(LongTailError, match=r"no activation module to replace.*ReLU"):
        replace_activations(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(LongTailError, match="bare ReLU"):
        replace_activations(nn.ReLU())
