"""APA."""

import re
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from lt_pipeline.losses.binary import binary_cross_entropy, gumbel_cross_entropy, gumbel_scores
from lt_pipeline.losses.classification import soft_cross_entropy
from lt_pipeline.losses.inverse_frequency import inverse_image_frequency
from lt_pipeline.models import activations
from lt_pipeline.models.activations import AGLU, APA
from lt_pipeline.models.adaptive import build_adaptive
from lt_pipeline.models.blocks import Bottleneck
from lt_pipeline.models.gates import CBAM, ChannelGate, SpatialGate, SqueezeExcitation
from lt_pipeline.models.heads import SquashedCosineClassifier
from lt_pipeline.training.config import OptimizerConfig
from lt_pipeline.training.optim import build_optimizer
from lt_pipeline.training.schedule import cosine
from tests.parity.adapters import shike
from tests.parity.adapters.ltcore import load_state, with_gradient

Params = dict[str, Any]
Tensors = dict[str, Tensor]
ACTIVATIONS: dict[str, Any] = {"apa": APA, "sigmoid": nn.Sigmoid}


def activation(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    function = activations.aglu if params["linear"] else activations.apa
    dtype = getattr(torch, params.get("dtype", "float32"))
    z, lambda_, kappa = (tensors[f"in.{name}"].clone() for name in ("z", "lambda", "kappa"))
    leaves = [leaf.requires_grad_() for leaf in (z.to(dtype), lambda_, kappa)]
    y = function(*leaves, params["lambda_grad"], params["lambda_floor"])
    assert y.dtype == dtype
    y.backward(tensors["in.grad_output"].to(dtype))
    assert leaves[0].grad is not None and leaves[0].grad.dtype == dtype
    return {"y": y.float(), **{f"grad.{name}": leaf.grad.float() for name, leaf in zip(("z", "lambda", "kappa"), leaves, strict=True)}}


def _ours(name: str) -> str:
    """Return our name of a weight of the fixtures."""
    name = re.sub(r"^(stage1)\.(\d+)\.", r"\1.block\2.", name)
    name = re.sub(r"^(stage[234])\.(\d+)\.", r"expert0.\1.block\2.", name)
    name = re.sub(r"^head\.", "expert0.classifier.", name)
    name = re.sub(r"(^|\.)attn\.", r"\1gate.", name)
    return re.sub(r"\.lambda$", ".lambda_", f".{name}")[1:]


def _load(module: nn.Module, tensors: Tensors) -> None:
    load_state(module, {f"state.{_ours(name[6:])}": tensor for name, tensor in tensors.items() if name.startswith("state.")})


def _run(module: nn.Module, params: Params, tensors: Tensors) -> dict[str, Tensor]:
    """Return output, gradients and statistics of one call, under the names of the fixtures."""
    _load(module, tensors)
    module.train(params["train"])
    x = tensors["in.x"].clone().requires_grad_()
    y = module(x)
    y.backward(tensors["in.grad_output"])
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    names = [name[6:] for name in tensors if name.startswith("state.")]
    gradients = {f"grad.{name}": parameters[_ours(name)].grad for name in names if _ours(name) in parameters}
    return {"y": y, "grad.x": x.grad, **gradients, **{f"state.{name}": buffers[_ours(name)] for name in names if _ours(name) in buffers}}


def se_gate(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    adaptive = APA if params["activation"] == "apa" else None
    assert params["layer_norm"] == (adaptive is not None)
    return _run(SqueezeExcitation(params["channels"], params["reduction"], adaptive, params["dropout"]), params, tensors)


def channel_gate(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert params["pools"] == ["avg", "max"]
    return _run(ChannelGate(params["channels"], params["reduction"], ACTIVATIONS[params["activation"]], params["dropout"]), params, tensors)


def spatial_gate(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return _run(SpatialGate(ACTIVATIONS[params["activation"]], params["kernel_size"], params["bn_momentum"]), params, tensors)


def cbam(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    kinds = [ACTIVATIONS[params[f"{part}_activation"]] if params[part] else None for part in ("channel", "spatial")]
    return _run(CBAM(params["channels"], params["reduction"], *kinds, params["dropout"]), params, tensors)


def _gate_of(names: set[str], reduction: int, dropout: float) -> Any:
    """Return what makes the gate whose weights have these names."""
    if not any(".attn." in f".{name}" for name in names):
        return None
    present = {part: any(f"attn.{part}." in name for name in names) for part in ("channel", "spatial")}
    if any(present.values()):
        kinds = [
            (APA if any(f"attn.{part}.act.lambda" in name for name in names) else nn.Sigmoid) if present[part] else None for part in present
        ]
        return lambda channels: CBAM(channels, reduction, *kinds, dropout)
    return lambda channels: SqueezeExcitation(channels, reduction, APA if any("attn.act." in name for name in names) else None, dropout)


def bottleneck(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    names = {name[6:] for name in tensors if name.startswith("state.")}
    hidden = partial(AGLU, floor="relu_eps", lambda_grad=params["lambda_grad"]) if "act1.lambda" in names else nn.ReLU
    block = Bottleneck(
        params["in_channels"],
        params["planes"],
        params["stride"],
        params["groups"],
        params["width_per_group"],
        activation=hidden,
        gate=_gate_of(names, params["reduction"], params["dropout"]),
    )
    assert params["expansion"] == block.expansion
    return _run(block, params, tensors)


def cosine_classifier(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    scale = 5.0 if params["learnable"] else params["scale"]
    head = SquashedCosineClassifier(params["in_features"], params["num_classes"], scale, params["learnable"])
    load_state(head, tensors)
    x = tensors["in.x"].clone().requires_grad_()
    logits = head(x)
    logits.backward(tensors["in.grad_output"])
    return {"logits": logits, "grad.x": x.grad, **{f"grad.{name}": parameter.grad for name, parameter in head.named_parameters()}}


def iif_weights(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return {variant: inverse_image_frequency(tensors["in.class_counts"], variant) for variant in params["variants"]}


def iif_inference(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    logits = tensors["in.logits"] + inverse_image_frequency(tensors["in.class_counts"], params["variant"])
    return {"logits": logits, "prediction": logits.argmax(1)}


def soft_ce(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert params["reduction"] == "mean"
    counts = tensors.get("in.class_counts")
    weight = counts.sum() / counts.float() if params["class_weighted"] and counts is not None else None
    return with_gradient(
        tensors["in.logits"], lambda logits: soft_cross_entropy(logits, tensors["in.targets"], params["label_smoothing"], weight)
    )


def bce(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return with_gradient(
        tensors["in.logits"],
        lambda logits: binary_cross_entropy(logits, tensors["in.target_probs"], params["label_smoothing"], params["reduction"]),
    )


def gumbel_bce(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert params["background_index"] == params["num_classes"]
    target = F.one_hot(tensors["in.labels"], params["num_classes"] + 1)[:, :-1].float()
    result = with_gradient(
        tensors["in.logits"], lambda logits: gumbel_cross_entropy(logits, target, tensors["in.weights"], params["clamp"])
    )
    return {**result, "scores": gumbel_scores(tensors["in.logits"])}


def _mixed(transform: Any, tensors: Tensors) -> dict[str, Tensor]:
    images, targets = transform(tensors["in.images"], tensors["in.targets"])
    return {"images": images, "targets": targets}


def mixup(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    transform = v2.MixUp(num_classes=params["num_classes"])
    with mock.patch.object(transform, "_dist") as drawn:
        drawn.sample.return_value = params["lambda"]
        return _mixed(transform, tensors)


def cutmix(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    transform = v2.CutMix(num_classes=params["num_classes"])
    centre = [torch.tensor([params["center_x"]]), torch.tensor([params["center_y"]])]
    with mock.patch.object(transform, "_dist") as drawn, mock.patch("torch.randint", side_effect=centre):
        drawn.sample.return_value = params["lambda"]
        return _mixed(transform, tensors)


def lr_schedule(params: Params, _: Tensors) -> dict[str, Tensor]:
    assert (params["schedule"], params["warmup_method"]) == ("cosine", "linear")
    base, warmup = params["base_lr"], params["warmup_epochs"]
    rates = [
        cosine(epoch, base, params["epochs"], params["eta_min"], warmup, params["warmup_factor"] * base)
        for epoch in range(params["epochs"])
    ]
    return {"lr": torch.tensor(rates, dtype=torch.float64)}


def class_map(_: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.data.longtail import descending_class_map

    return {"class_map": descending_class_map(tensors["in.class_counts"].numpy())}


def ra_sampler(params: Params, _: Tensors) -> dict[str, Any]:
    """Our ranks share one order, of which the loop deals every world-th element to each."""
    from lt_pipeline.training.samplers import Repeated

    assert params["shuffle"]
    sampler = Repeated(params["dataset_size"], params["repetitions"], params["seed"])
    return {"indices": sampler.order(params["epoch"])[params["rank"] :: params["num_replicas"]]}


def shot_accuracy(params: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.data.shots import shot_masks
    from lt_pipeline.evaluation.accuracy import class_recalls, masked_mean

    counts = tensors["in.class_counts"].numpy()
    labels = tensors["in.labels"].numpy()
    recalls = class_recalls(labels, labels == tensors["in.predictions"].numpy(), len(counts))
    masks = shot_masks(counts, "strict", params["many_above"], params["few_below"])
    assert params["unit"] == "fraction"
    return {name: torch.tensor(masked_mean(recalls, mask), dtype=torch.float64).nan_to_num() for name, mask in masks.items()}


def topk_accuracy(params: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.evaluation.accuracy import top_k_accuracy

    targets = tensors["in.targets"].argmax(1) if params["soft_targets"] else tensors["in.targets"]
    shares = {"acc1": 1, "acck": params["k"]}
    return {name: 100 * top_k_accuracy(tensors["in.logits"].numpy(), targets.numpy(), k) for name, k in shares.items()}


def calibration(params: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.evaluation.calibration import expected_calibration_error, reliability_bins

    assert params["right_closed"]
    correct = (tensors["in.labels"] == tensors["in.predictions"]).numpy()
    bins = reliability_bins(tensors["in.confidences"].numpy(), correct, params["num_bins"])
    filled = bins[bins["count"] > 0]
    return {
        "bin_accuracy": torch.tensor(bins["accuracy"].to_numpy()).nan_to_num(),
        "bin_confidence": torch.tensor(bins["confidence"].to_numpy()).nan_to_num(),
        "bin_count": torch.tensor(bins["count"].to_numpy()),
        "ece": torch.tensor(expected_calibration_error(bins), dtype=torch.float64),
        "mce": torch.tensor((filled["accuracy"] - filled["confidence"]).abs().max(), dtype=torch.float64),
    }


def _network(params: Params, lambda_grad: str = "exact") -> nn.Module:
    head = {"lr_cosine": "learned_cosine"}.get(params["head"], params["head"])
    return build_adaptive(
        "resnet32",
        params["num_classes"],
        params["attention"],
        params["hidden_activation"],
        params["channel_activation"],
        params["spatial_activation"],
        lambda_grad,
        "relu_eps",
        params["dropout"],
        head,
        params.get("cosine_scale", 16.0) or 16.0,
        params["blocks"],
    )


def model_forward(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    model = _network(params)
    _load(model, tensors)
    return {"logits": model.train(params["train"])(tensors["in.images"])["logits"]}


def train_step(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    model = _network(params, params["lambda_grad"])
    _load(model, tensors)
    model.train()
    settings = OptimizerConfig(lr=params["lr"], momentum=params["momentum"], weight_decay=params["weight_decay"], nesterov=False)
    assert params["no_decay"] == ["lambda", "kappa"]
    optimizer = build_optimizer(settings, model.named_parameters())
    loss = soft_cross_entropy(model(tensors["in.images"])["logits"], tensors["in.target_probs"], params["label_smoothing"])
    loss.backward()
    names = {name[6:]: _ours(name[6:]) for name in tensors if name.startswith("state.")}
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    after = model.state_dict()
    return {
        "loss": loss,
        **{f"grad_norm.{theirs}": gradients[ours].norm() for theirs, ours in names.items() if ours in gradients},
        **{f"grad.{theirs}": gradients[ours] for theirs, ours in names.items() if ours in gradients},
        **{f"state.{theirs}": after[ours] for theirs, ours in names.items()},
    }


def param_count(params: Params, _: Tensors) -> dict[str, Tensor]:
    attention, backbone = params["model"].split("_")[:2]
    head = {"lr_cosine": "learned_cosine"}.get(params["head"], params["head"])
    adaptive = params["apa"]
    with torch.device("meta"):
        model = build_adaptive(
            backbone,
            params["num_classes"],
            {"se": "se", "cb": "cbam"}[attention],
            "aglu" if adaptive else "relu",
            "apa" if adaptive else "sigmoid",
            "apa" if params["apa_spatial"] else "sigmoid",
            head=head,
        )
    named = dict(model.named_parameters())
    shapes = {kind: [name for name in named if name.endswith(kind)] for kind in ("lambda_", "kappa")}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)]
    in_norms = sum(parameter.numel() for module in norms for parameter in module.parameters())
    total = sum(parameter.numel() for parameter in named.values())
    spared = sum(named[name].numel() for names in shapes.values() for name in names)
    last = [parameter for name, parameter in named.items() if ".stage4." in name or name.endswith("classifier.weight")]
    counts = {
        "total": total,
        "lambda": sum(named[name].numel() for name in shapes["lambda_"]),
        "kappa": sum(named[name].numel() for name in shapes["kappa"]),
        "norm_layers": len(norms),
        "norm_params": in_norms,
        "decay_group": total - in_norms - spared,
        "trainable_finetune": sum(parameter.numel() for parameter in last),
    }
    return {name: torch.tensor(count) for name, count in counts.items()}


COMPONENTS = {
    "apa.apa": lambda params, tensors: activation({**params, "linear": False}, tensors),
    "apa.aglu": lambda params, tensors: activation({**params, "linear": True}, tensors),
    "apa.lowp": activation,
    "apa.se_gate": se_gate,
    "apa.channel_gate": channel_gate,
    "apa.spatial_gate": spatial_gate,
    "apa.cbam": cbam,
    "apa.bottleneck": bottleneck,
    "apa.cosine_classifier": cosine_classifier,
    "apa.iif_weights": iif_weights,
    "apa.iif_inference": iif_inference,
    "apa.soft_ce": soft_ce,
    "apa.bce": bce,
    "apa.gumbel_bce": gumbel_bce,
    "apa.mixup": mixup,
    "apa.cutmix": cutmix,
    "apa.lr_schedule": lr_schedule,
    "apa.class_counts": shike.class_counts,
    "apa.subset_indices": shike.subset_indices,
    "apa.class_map": class_map,
    "apa.cutout": shike.cutout,
    "apa.ra_sampler": ra_sampler,
    "apa.shot_accuracy": shot_accuracy,
    "apa.topk_accuracy": topk_accuracy,
    "apa.calibration": calibration,
    "apa.model_forward": model_forward,
    "apa.train_step": train_step,
    "apa.param_count": param_count,
}
NOT_IMPLEMENTED: dict[str, str] = {}
