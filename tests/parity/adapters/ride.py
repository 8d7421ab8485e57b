"""RIDE."""

import re
from typing import Any

import torch
from torch import Tensor

from lt_pipeline.losses.distillation import DistilledRideLoss
from lt_pipeline.losses.diversity import RideLoss, class_temperature
from lt_pipeline.losses.margins import ldam_margins
from lt_pipeline.losses.reweighting import effective_number_weights, reweighting_active
from lt_pipeline.losses.soft_target import soft_target_ride_loss
from lt_pipeline.models.complexity import macs, parameter_count
from lt_pipeline.models.registry import build_experts, build_router
from lt_pipeline.models.resnet_cifar import resnet_cifar
from lt_pipeline.models.resnet_imagenet import resnet_imagenet
from lt_pipeline.models.router import RoutedExperts, Router, route, routing_loss, routing_targets
from tests.parity.adapters.ltcore import load_state, with_gradient

Params = dict[str, Any]
Tensors = dict[str, Tensor]


def diversity_temperature(params: Params, _: Tensors) -> dict[str, Tensor]:
    temperature = class_temperature(params["counts"], params["reweight_factor"], params["base_diversity_temperature"])
    return {"temperature": temperature, "mean": temperature.mean()}


def _loss(params: Params) -> RideLoss:
    collaborative = params.get("quirk") == "official" and params["additional_diversity_factor"] == 0
    return RideLoss(
        params["counts"],
        max_margin=params["max_m"],
        scale=params["s"],
        diversity=params["additional_diversity_factor"],
        temperature_spread=params["reweight_factor"],
        base_temperature=params["base_diversity_temperature"],
        reweight_epoch=params["reweight_epoch"] if params["reweight"] else -1,
        base_factor=params["base_loss_factor"],
        base="collaborative" if collaborative else "individual",
    )


def loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    ride = _loss(params)
    return with_gradient(
        tensors["in.expert_logits"], lambda logits: ride(logits, tensors["in.target"], params["epoch"]), name="expert_logits"
    )


def distill_loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert params["ride_loss_factor"] == 1
    total = "official" if params["quirk"] == "official" else "once"
    distilled = DistilledRideLoss(_loss(params), params["distill_temperature"], params["additional_distill_loss_factor"], total)
    return with_gradient(
        tensors["in.expert_logits"],
        lambda logits: distilled(logits, tensors["in.teacher_logits"], tensors["in.target"], params["epoch"]),
        name="expert_logits",
    )


def schedule(params: Params, _: Tensors) -> dict[str, Any]:
    from lt_pipeline.training.schedule import multistep_warmup

    epochs = range(params["epochs"])
    steps = (params["step1"], params["step2"])
    rates = [multistep_warmup(epoch, params["base_lr"], steps, params["gamma"], params["warmup_epoch"]) for epoch in epochs]
    active = [int(reweighting_active(epoch + 1, params["reweight_epoch"])) for epoch in epochs]
    return {"lr": torch.tensor(rates, dtype=torch.float64), "reweight_active": torch.tensor(active)}


def _router(params: Params, tensors: Tensors) -> tuple[Router, Tensor, Tensor]:
    logits, maps = tensors["in.expert_logits"], tensors["in.expert_features"]
    hidden = tensors["state.hidden0.weight"].shape[0]
    router = Router(params["num_experts"], maps.shape[2], logits.shape[2], params["top_choices"], hidden, params["shared_output"])
    load_state(router, tensors)
    return router, logits, maps.mean((3, 4))


def router_scores(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    router, logits, features = _router(params, tensors)
    return {"scores": router(logits, features)}


def router_loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    router, logits, features = _router(params, tensors)
    targets = routing_targets(logits, tensors["in.target"])
    value = routing_loss(router(logits, features), targets, params["pos_weight"])
    value.backward()
    gradients = {f"grad.{name}": parameter.grad for name, parameter in router.named_parameters()}
    return {"loss": value, "mean_logits": logits.mean(0), "help_target": targets.long(), **gradients}


def router_infer(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    router, logits, features = _router(params, tensors)
    rows = torch.arange(logits.shape[1])
    with torch.no_grad():
        routed = route(lambda index, kept: (logits[index, kept], features[index, kept]), router, rows, params["threshold"])
    return {"logits": routed["logits"], "num_experts": routed["experts_used"]}


def cifar_experts(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    model = resnet_cifar(
        params["num_classes"], params["num_experts"], params["blocks"], params["stage_dims"], params["cosine_head"], params["s"]
    )
    load_state(model, tensors)
    model.train(params["mode"] == "train")
    outputs = model(tensors["in.images"])
    ride = RideLoss(params["loss_counts"], diversity=params["additional_diversity_factor"], reweight_epoch=params["reweight_epoch"])
    value = sum(ride(outputs["expert_logits"], tensors["in.target"], params["epoch"]).values())
    value.backward()
    return {
        **_predictions(outputs),
        "loss": value,
        "stem.bn.running_mean": model.stem.bn.running_mean,
        "stem.bn.running_var": model.stem.bn.running_var,
        **{f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()},
    }


def imagenet_experts(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    model = resnet_imagenet(
        params["num_classes"],
        params["num_experts"],
        params["blocks"],
        params["stage_dims"],
        bottleneck=params["block"] != "basic",
        groups=params["groups"],
        width_per_group=params["width_per_group"],
        cosine_head=params["cosine_head"],
        scale=params["s"],
        share_stage3=params["share_stage3"],
    )
    load_state(model, tensors)
    with torch.no_grad():
        return _predictions(model.eval()(tensors["in.images"].float() / 255))


def _predictions(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "expert_logits": outputs["expert_logits"],
        "mean_logits": outputs["logits"],
        "features": outputs["features"].transpose(0, 1),
    }


def _named(params: Params) -> Any:
    """Build the network behind the label of an official class."""
    label = re.fullmatch(r"(ResNe[X]?t\d+)(EA)?Model", params["arch"])
    assert label, f"unknown arch {params['arch']}"
    backbone = label[1].lower()
    model = build_experts(backbone, params["num_classes"], params["num_experts"], params["reduce_dimension"], params["use_norm"])
    return RoutedExperts(model, build_router(backbone, model, params["top_choices_num"])) if label[2] else model


def param_count(params: Params, _: Tensors) -> dict[str, Tensor]:
    model = _named(params)
    statistics = [buffer.numel() for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
    return {
        "total": torch.tensor(parameter_count(model)),
        "trainable": torch.tensor(parameter_count(model, trainable=True)),
        "bn_buffers": torch.tensor(sum(statistics)),
    }


def conv_and_head_macs(params: Params, _: Tensors) -> dict[str, Tensor]:
    return {"conv_and_head_macs": torch.tensor(macs(_named(params), (params["input_size"], params["input_size"])))}


def expected_macs(params: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.evaluation import routing

    return {"expected": routing.expected_macs(params["percent"], tensors["in.macs_per_depth"].numpy())}


def soft_target_loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    active = reweighting_active(params["epoch"], params["reweight_epoch"])  # 0-based here, compared in the same way
    counts, base = params["counts"], params["base_diversity_temperature"]
    return with_gradient(
        tensors["in.expert_cosines"],
        lambda cosines: soft_target_ride_loss(
            cosines,
            tensors["in.target"],
            tensors["in.soft_target"],
            ldam_margins(counts, params["max_m"]),
            params["s"],
            effective_number_weights(counts) if active else None,
            class_temperature(counts, params["reweight_factor"], base) if active else base,
            params["additional_diversity_factor"],
        ),
        name="expert_cosines",
    )


COMPONENTS = {
    "ride.diversity_temperature": diversity_temperature,
    "ride.loss": loss,
    "ride.distill_loss": distill_loss,
    "ride.schedule": schedule,
    "ride.router_scores": router_scores,
    "ride.router_loss": router_loss,
    "ride.router_infer": router_infer,
    "ride.cifar_experts": cifar_experts,
    "ride.imagenet_experts": imagenet_experts,
    "ride.param_count": param_count,
    "ride.macs": conv_and_head_macs,
    "ride.expected_macs": expected_macs,
    "ride.soft_target_loss": soft_target_loss,
}
NOT_IMPLEMENTED = {"ride.swin_param_count": "the project has no Swin backbone (README of the fixtures: optional component)"}
