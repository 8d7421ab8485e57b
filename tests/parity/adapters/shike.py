"""SHIKE."""

import re
from typing import Any

import torch
from torch import Tensor

from lt_pipeline.augment.policies import MAGNITUDES, apply_operation
from lt_pipeline.losses.classification import log_prior, soft_cross_entropy
from lt_pipeline.losses.knowledge_transfer import assembled_teacher, knowledge_transfer
from lt_pipeline.methods.shike.config import TransferConfig
from lt_pipeline.methods.shike.stages import ClassifierTask, RepresentationTask, balanced_softmax
from lt_pipeline.models.complexity import parameter_count
from lt_pipeline.models.depth_fusion import AlignBranch, build_depth_fused, depth_of_expert
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.heads import CosineClassifier
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import OptimizerConfig
from lt_pipeline.training.optim import build_optimizer
from lt_pipeline.training.schedule import cosine
from lt_pipeline.training.task import Batch
from tests.parity.adapters.ltcore import load_state, with_gradient
from tests.parity.augmentation import cut_all, picture, planes, policy_rows

Params = dict[str, Any]
Tensors = dict[str, Tensor]


def loss_stage1(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    logits, target = tensors["in.logits"], tensors["in.targets"]
    weights = {"transfer_weight": params["dkt_weight"], "mutual_weight": params["mutual_weight"]}
    assert params["target_fill"] == -30
    options = {"reduction": params["kl_reduction"], "detach_teacher": params["detach_teacher"]}
    terms = knowledge_transfer(logits, target, **options, transfer_weight=1, mutual_weight=1)
    return {
        **with_gradient(logits, lambda leaf: knowledge_transfer(leaf, target, **weights, **options)),
        "ce": terms["classification"],
        "dkt": terms["transfer"],
        "mutual": terms["mutual"],
        "avg_logits": logits.mean(0),
    }


def dkt_teacher(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert params["target_fill"] == -30
    teacher, hardest = assembled_teacher(tensors["in.logits"], tensors["in.targets"])
    return {"teacher_logits": teacher, "teacher_probs": teacher.softmax(1), "hardest_index": hardest}


def loss_stage2(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    prior = log_prior(tensors["in.class_counts"])
    result = with_gradient(tensors["in.logits"], lambda logits: balanced_softmax(logits, tensors["in.targets"], prior))
    return {**result, "avg_logits": tensors["in.logits"].mean(0)}


def soft_ce(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return with_gradient(
        tensors["in.logits"], lambda logits: soft_cross_entropy(logits, tensors["in.target_probs"], reduction=params["reduction"])
    )


def normed_linear(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    head = CosineClassifier(params["in_features"], params["num_classes"], params["scale"])
    load_state(head, tensors)
    x = tensors["in.x"].clone().requires_grad_()
    logits = head(x)
    logits.backward(tensors["in.grad_output"])
    return {"logits": logits, "grad.x": x.grad, "grad.weight": head.weight.grad}


def align_branch(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    branch = AlignBranch(params["in_channels"], params["depth"])
    load_state(branch, {re.sub(r"^state\.", "state.step", name): tensor for name, tensor in tensors.items()})
    branch.train(params["train"])
    assert [isinstance(step.act, torch.nn.ReLU) for step in branch] == params["relu_after"]
    x = tensors["in.x"].clone().requires_grad_()
    y = branch(x)
    y.backward(tensors["in.grad_output"])
    return {
        "y": y,
        "grad.x": x.grad,
        **{f"grad.{name.removeprefix('step')}": parameter.grad for name, parameter in branch.named_parameters()},
        **{f"state.{name.removeprefix('step')}": buffer for name, buffer in branch.named_buffers()},
    }


def _ours(name: str) -> str:
    """Return our name of a fixture's weight; both kinds of heads are called ``classifier``."""
    name = re.sub(r"^(stage\d)\.(\d+)\.", r"\1.block\2.", name)
    name = re.sub(r"^experts\.(\d+)\.deep\.(\d+)\.", r"expert\1.last.block\2.", name)
    name = re.sub(r"^experts\.(\d+)\.align\.(\d+)\.", r"expert\1.align.step\2.", name)
    name = re.sub(r"^experts\.(\d+)\.head(_rebalanced)?\.", r"expert\1.classifier.", name)
    return name.replace(".shortcut.", ".downsample.")


def _model(params: Params, tensors: Tensors, rebalanced: bool) -> MultiExpert:
    unused = ".head." if rebalanced else ".head_rebalanced."
    model = build_depth_fused("resnet32", params["num_classes"], params["num_experts"], scale=params["scale"], blocks=params["blocks"])
    states = {name.removeprefix("state."): tensor for name, tensor in tensors.items() if name.startswith("state.") and unused not in name}
    load_state(model, {f"state.{_ours(name)}": tensor for name, tensor in states.items()})
    return model


def model_forward(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    outputs = _model(params, tensors, params["rebalanced_head"]).train(params["train"])(tensors["in.images"])
    return {"logits": outputs["expert_logits"], "features": outputs["features"]}


def train_step(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    rebalanced = params["stage"] == 2
    model = _model(params, tensors, rebalanced)
    prior = log_prior(tensors["in.class_counts"])
    task = ClassifierTask(model, prior, freeze_statistics=False) if rebalanced else RepresentationTask(model, TransferConfig())
    task.train()
    settings = OptimizerConfig(lr=params["lr"], momentum=params["momentum"], weight_decay=params["weight_decay"], nesterov=False)
    optimizer = build_optimizer(settings, task.named_parameters())
    value = sum(task(Batch((tensors["in.images"],), tensors["in.targets"], tensors["in.targets"]), Clock(0, 1, 200)).values())
    value.backward()
    norms = {name: torch.zeros(()) if one.grad is None else one.grad.norm() for name, one in model.named_parameters()}
    optimizer.step()
    after, result = model.state_dict(), {"loss": value}
    unused = ".head." if rebalanced else ".head_rebalanced."
    for name, tensor in tensors.items():
        if name.startswith("state."):
            short = name.removeprefix("state.")
            # the head of the other stage is not part of our model, so nothing can move it
            result[name] = tensor if unused in name else after[_ours(short)]
            result[f"grad_norm.{short}"] = torch.zeros(()) if unused in name else norms.get(_ours(short), torch.zeros(()))
    return result


def param_count(params: Params, _: Tensors) -> dict[str, Tensor]:
    backbone = {"cifar_resnet": "resnet32"}.get(params["arch"], params["arch"])
    blocks = params["blocks"] if backbone == "resnet32" else None
    model = build_depth_fused(backbone, params["num_classes"], params["num_experts"], blocks=blocks)
    experts: Any = model.experts
    heads = sum(parameter_count(expert.classifier) for expert in experts)
    parts = {
        "deep": sum(parameter_count(expert.last) for expert in experts),
        "align": sum(parameter_count(expert.align) for expert in experts),
        "heads": heads,
        "total": parameter_count(model) + heads,  # the official model carries both kinds of heads
        "trainable_stage2": heads,
    }
    parts["shared"] = parameter_count(model) - parts["deep"] - parts["align"] - heads
    depths = [depth_of_expert(index, 2 if backbone == "resnet32" else 3)[1] for index in range(params["num_experts"])]
    return {**{name: torch.tensor(count) for name, count in parts.items()}, "expert_depths": torch.tensor(depths)}


def lr_schedule(params: Params, _: Tensors) -> dict[str, Tensor]:
    """The official warm-up is given by a base and a peak; its straight line starts one step below the base."""
    peak, base, warmup = params["warmup_lr"], params["base_lr"], params["warmup_epochs"]
    start = base - (peak - base) / (warmup - 1)
    rates = [cosine(epoch, peak, params["t_max"], params["eta_min"], warmup, start) for epoch in range(params["epochs"])]
    return {"lr": torch.tensor([[rate * factor for factor in params["group_multipliers"]] for rate in rates], dtype=torch.float64)}


def class_counts(params: Params, _: Tensors) -> dict[str, Any]:
    from lt_pipeline.data import longtail

    profile, factor = params["imb_type"], params["imb_factor"]
    if profile not in ("exp", "step"):
        profile, factor = "balanced", 1.0
    counts = longtail.class_counts(params["num_classes"], params["max_per_class"] * params["num_classes"], profile, factor)
    return {"counts": counts}


def subset_indices(params: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.data import longtail

    targets = tensors["in.targets"].numpy()
    each = len(targets) // params["num_classes"]
    selection = {"first_n": "first", "legacy_numpy_shuffle": "shuffle"}[params["selection"]]
    counts = class_counts({**params, "max_per_class": each}, {})["counts"]
    indices = longtail.select(targets, counts, selection, params.get("seed", 0))
    return {"indices": indices, "targets": targets[indices]}


def cutout(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return cut_all(tensors["in.image"], tensors["in.centers"].tolist(), params["length"])


def autoaugment_table(params: Params, _: Tensors) -> dict[str, Tensor]:
    names = params["op_order"]
    table = [list(MAGNITUDES[name]) for name in names] if params["part"] == "magnitudes" else policy_rows(names)
    return {"table": torch.tensor(table[slice(*params["rows"])], dtype=torch.float64)}


def autoaugment_op(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    magnitude = MAGNITUDES[params["op"]][params["level"]]
    return picture(apply_operation(planes(tensors["in.image"]), params["op"], magnitude, params["sign"], fill=params["fill"]))


def ensemble(params: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.evaluation.accuracy import top_k_accuracy

    logits, targets = tensors["in.logits"].mean(0), tensors["in.targets"].numpy()
    shares = {name: 100 * top_k_accuracy(logits.numpy(), targets, k) for name, k in (("acc1", 1), ("acck", params["k"]))}
    return {"logits": logits, **shares}


COMPONENTS = {
    "shike.loss_stage1": loss_stage1,
    "shike.dkt_teacher": dkt_teacher,
    "shike.loss_stage2": loss_stage2,
    "shike.soft_ce": soft_ce,
    "shike.normed_linear": normed_linear,
    "shike.align_branch": align_branch,
    "shike.model_forward": model_forward,
    "shike.train_step": train_step,
    "shike.param_count": param_count,
    "shike.lr_schedule": lr_schedule,
    "shike.class_counts": class_counts,
    "shike.subset_indices": subset_indices,
    "shike.cutout": cutout,
    "shike.autoaugment_table": autoaugment_table,
    "shike.autoaugment_op": autoaugment_op,
    "shike.ensemble": ensemble,
}
NOT_IMPLEMENTED: dict[str, str] = {}
