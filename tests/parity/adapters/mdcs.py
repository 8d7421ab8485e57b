"""MDCS."""

from typing import Any

import torch
from torch import Tensor

from lt_pipeline.augment.policies import MAGNITUDES, apply_operation, apply_policy
from lt_pipeline.augment.randaugment import randaugment_operation
from lt_pipeline.losses.self_distillation import adjusted_logits, consistency_loss, consistency_weight, diversity_loss, expert_priors
from lt_pipeline.methods.mdcs.config import ConsistencyConfig
from lt_pipeline.methods.mdcs.stages import ConsistencyTask
from lt_pipeline.models.complexity import parameter_count
from lt_pipeline.models.registry import build_experts
from lt_pipeline.models.resnet_cifar import resnet_cifar
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.schedule import cosine, multistep_warmup
from lt_pipeline.training.task import Batch
from tests.parity.adapters.ltcore import load_state, with_gradient
from tests.parity.augmentation import cut_all, picture, planes, policy_rows

Params = dict[str, Any]
Tensors = dict[str, Tensor]


def adjusted(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    priors = expert_priors(params["counts"], params["exponents"], params["eps"])
    return {"adjusted_logits": adjusted_logits(tensors["in.expert_logits"], priors)}


def loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert params["temperature"] == 1
    target, priors = tensors["in.target"], expert_priors(params["counts"], params["exponents"], params["eps"])
    weight = consistency_weight(params["epoch"], params["kl_factor"], params["kl_warmup_epochs"])

    def parts(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        both = adjusted_logits(logits, priors)
        divergence, confident = consistency_loss(*both.chunk(2, dim=1), target)
        return both, diversity_loss(both, target.repeat(2)), divergence, confident

    def total(logits: Tensor) -> Tensor:
        _, diversity, divergence, _ = parts(logits)
        return diversity.sum() + weight * divergence.sum()

    both, diversity, divergence, confident = parts(tensors["in.expert_logits"])
    return {
        **with_gradient(tensors["in.expert_logits"], total, name="expert_logits"),
        "adjusted_logits": both,
        "cross_entropy": diversity,
        "kl": divergence,
        "confident_mask": confident.to(torch.int64),
    }


def kl_weight(params: Params, _: Tensors) -> dict[str, Tensor]:
    weights = [consistency_weight(epoch, params["kl_factor"], params["kl_warmup_epochs"]) for epoch in range(1, params["epochs"] + 1)]
    return {"weight": torch.tensor(weights, dtype=torch.float64)}


def schedule(params: Params, _: Tensors) -> dict[str, Tensor]:
    """The optimizer multiplies the rate of the stage by each group's factor; the schedules are linear in it."""
    epochs = range(params["epochs"])
    if params["kind"] == "cosine":
        rates = [[cosine(epoch, base, params["T_max"], params["eta_min"]) for base in params["base_lr"]] for epoch in epochs]
    else:
        steps = [params[name] for name in ("step1", "step2", "step3") if name in params]
        options = (steps, params["gamma"], params.get("warmup_epoch", 0))
        rates = [[multistep_warmup(epoch, base, *options) for base in params["base_lr"]] for epoch in epochs]
    return {"lr": torch.tensor(rates, dtype=torch.float64)}


def cifar_experts(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    model = resnet_cifar(
        params["num_classes"], params["num_experts"], params["blocks"], params["stage_dims"], params["cosine_head"], params["s"]
    )
    load_state(model, tensors)
    model.train(params["mode"] == "train")
    weak, strong = tensors["in.images"].chunk(2)
    settings = ConsistencyConfig()
    task = ConsistencyTask(model, expert_priors(params["loss_counts"], settings.exponents), settings, mixed=True)
    seen: dict[str, Tensor] = {}
    hook = model.register_forward_hook(lambda _module, _inputs, outputs: seen.update(outputs))
    labels = tensors["in.target"]
    value = sum(task(Batch((weak, strong), labels, labels), Clock(params["epoch"] - 1, 1, 400)).values())
    hook.remove()
    value.backward()
    return {
        "expert_logits": seen["expert_logits"],
        "mean_logits": seen["logits"],
        "features": seen["features"].transpose(0, 1),
        "loss": value,
        "stem.bn.running_mean": model.stem.bn.running_mean,
        **{f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()},
    }


def param_count(params: Params, _: Tensors) -> dict[str, Tensor]:
    backbone = params["arch"].removesuffix("Model").lower()
    with torch.device("meta"):
        model = build_experts(backbone, params["num_classes"], params["num_experts"], params["reduce_dimension"], params["use_norm"])
    return {"used": torch.tensor(parameter_count(model))}


def cutout(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return cut_all(tensors["in.image"], params["centers"], params["length"])


def autoaug_policy(params: Params, _: Tensors) -> dict[str, Tensor]:
    rows = torch.tensor(policy_rows(params["ops"]), dtype=torch.float64)[params["rows"]].view(-1, 2, 3)
    return {"prob": rows[..., 0], "op": rows[..., 1].long(), "magnitude_index": rows[..., 2].long()}


def autoaug_op(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert MAGNITUDES[params["op"]][params["magnitude_index"]] == params["magnitude"]
    return picture(apply_operation(planes(tensors["in.image"]), params["op"], params["magnitude"], params["sign"]))


def autoaug_apply(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    applied = torch.tensor([[params["apply_first"], params["apply_second"]]])
    sign = torch.tensor([[params["sign_first"], params["sign_second"]]])
    return picture(apply_policy(planes(tensors["in.image"]), torch.tensor([params["row"]]), applied, sign))


def randaug_op(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    name = params["op"].removesuffix("Tpu")  # timm's Posterize is the fixtures' PosterizeTpu
    image = randaugment_operation(tensors["in.image"], name, params["level"], params["negate"], params["resample"], params["fill"])
    return {"image": image}


def places_class_map(params: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.data.longtail import descending_class_map

    counts = torch.bincount(tensors["in.targets"], minlength=params["num_classes"])
    mapping = torch.from_numpy(descending_class_map(counts.numpy()))
    mapped = mapping[tensors["in.targets"]]
    return {"class_map": mapping, "mapped_targets": mapped, "counts": torch.bincount(mapped, minlength=params["num_classes"])}


COMPONENTS = {
    "mdcs.adjusted_logits": adjusted,
    "mdcs.loss": loss,
    "mdcs.kl_weight": kl_weight,
    "mdcs.schedule": schedule,
    "mdcs.cifar_experts": cifar_experts,
    "mdcs.param_count": param_count,
    "mdcs.cutout": cutout,
    "mdcs.autoaug_policy": autoaug_policy,
    "mdcs.autoaug_op": autoaug_op,
    "mdcs.autoaug_apply": autoaug_apply,
    "mdcs.randaug_op": randaug_op,
    "mdcs.places_class_map": places_class_map,
}
NOT_IMPLEMENTED: dict[str, str] = {}
