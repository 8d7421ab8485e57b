"""Components shared by the methods."""

from typing import Any

import torch
from torch import Tensor

from lt_pipeline.losses.classification import cross_entropy, focal_loss, log_prior, logit_adjusted_cross_entropy, tau_normalise
from lt_pipeline.losses.margins import LdamDrw, ldam_margins
from lt_pipeline.losses.reweighting import effective_number_weights
from lt_pipeline.models.heads import CosineClassifier
from lt_pipeline.models.resnet_cifar import resnet_cifar

Params = dict[str, Any]
Tensors = dict[str, Tensor]


def with_gradient(logits: Tensor, loss: Any, name: str = "logits") -> dict[str, Tensor]:
    """Return the loss (the sum of its terms) and its gradient with respect to a copy of the input."""
    leaf = logits.clone().requires_grad_()
    value = loss(leaf)
    total = sum(value.values()) if isinstance(value, dict) else value
    (gradient,) = torch.autograd.grad(total, leaf)
    return {"loss": total.detach(), f"grad.{name}": gradient}


def load_state(module: torch.nn.Module, tensors: Tensors) -> None:
    """Load ``state.*``; nothing but the batch norms' step counters may be missing."""
    state = {name.removeprefix("state."): tensor for name, tensor in tensors.items() if name.startswith("state.")}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing


def _counts(params: Params, num_classes: int, total: int) -> Any:
    from lt_pipeline.data.longtail import class_counts

    profile, factor = params["imb_type"], params["imb_factor"]
    if profile not in ("exp", "step"):
        profile, factor = "balanced", 1.0
    return class_counts(num_classes, total, profile, factor, params.get("reverse", False))


def class_counts(params: Params, _: Tensors) -> dict[str, Any]:
    return {"counts": _counts(params, params["num_classes"], params["total_images"])}


def cifar_subsample(params: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.data.longtail import select

    targets = tensors["in.targets"].numpy()
    indices = select(targets, _counts(params, params["num_classes"], len(targets)), params["selection"], params["seed"])
    return {"indices": indices, "targets": targets[indices]}


def margins(params: Params, _: Tensors) -> dict[str, Tensor]:
    return {"margins": ldam_margins(params["counts"], params["max_m"])}


def weights(params: Params, _: Tensors) -> dict[str, Tensor]:
    return {"weights": effective_number_weights(params["counts"], params["beta"])}


def ldam(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    loss = LdamDrw(params["counts"], params["max_m"], params["s"], params["reweight_epoch"])
    return with_gradient(tensors["in.logits"], lambda logits: loss(logits, tensors["in.target"], params["epoch"]))


def weighted_cross_entropy(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    weight = effective_number_weights(params["counts"], params["beta"]) if params["reweight"] else None
    return with_gradient(tensors["in.logits"], lambda logits: cross_entropy(logits, tensors["in.target"], weight))


def focal(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    weight = None if params["class_weights"] is None else torch.tensor(params["class_weights"])
    return with_gradient(tensors["in.logits"], lambda logits: focal_loss(logits, tensors["in.target"], params["gamma"], weight))


def logit_adjusted(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    prior = log_prior(params["counts"], params["tau"], params["form"], params["eps"])
    result = with_gradient(tensors["in.logits"], lambda logits: logit_adjusted_cross_entropy(logits, tensors["in.target"], prior))
    return {"adjusted": tensors["in.logits"] + prior, **result}


def balanced_sampler(params: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.training.samplers import ClassBalanced

    sampler = ClassBalanced(tensors["in.targets"].numpy(), params["num_classes"], params["retain_epoch_size"], params["seed"])
    return {"length": torch.tensor(sampler.length), "epoch1": torch.tensor(sampler.epoch()), "epoch2": torch.tensor(sampler.epoch())}


def shot_accuracy(params: Params, tensors: Tensors) -> dict[str, Any]:
    from lt_pipeline.evaluation import accuracy

    result = accuracy.shot_accuracy(
        tensors["in.train_counts"].numpy(),
        tensors["in.target"].numpy(),
        tensors["in.pred"].numpy(),
        params["convention"],
        params["num_classes"],
    )
    return {name: getattr(result, name) for name in ("acc_per_class", "many", "medium", "few", "overall", "class_mean", "group_sizes")}


def lr_schedule(params: Params, _: Tensors) -> dict[str, Any]:
    from lt_pipeline.training.schedule import cosine, multistep_warmup

    epochs = range(params["epochs"])
    if params["kind"] == "cosine":
        rates = [cosine(epoch, params["base_lr"], params["T_max"], params["eta_min"]) for epoch in epochs]
    else:
        steps = [params[name] for name in ("step1", "step2", "step3") if name in params]
        rates = [multistep_warmup(epoch, params["base_lr"], steps, params["gamma"], params["warmup_epoch"]) for epoch in epochs]
    return {"lr": torch.tensor(rates, dtype=torch.float64)}


def cosine_classifier(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    head = CosineClassifier(*tensors["state.weight"].shape, scale=params["s"])
    load_state(head, tensors)
    x = tensors["in.x"].clone().requires_grad_()
    logits = head(x)
    gradients = torch.autograd.grad((logits * tensors["in.cotangent"]).sum(), (x, head.weight))
    return {"logits": logits, "grad.x": gradients[0], "grad.weight": gradients[1]}


def tau_norm(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return {"weight": tau_normalise(tensors["in.weight"], params["tau"])}


def resnet(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    model = resnet_cifar(params["num_classes"], 1, params["blocks"], params["stage_dims"], params["cosine_head"], params["s"])
    load_state(model, {_in_branch(name): tensor for name, tensor in tensors.items()})
    model.train(params["mode"] == "train")
    outputs = model(tensors["in.images"])
    torch.nn.functional.cross_entropy(outputs["logits"], tensors["in.target"]).backward()
    return {
        "logits": outputs["logits"],
        "feature": outputs["features"][0],
        "grad.stem.conv.weight": model.stem.conv.weight.grad,
        "grad.classifier.weight": model.expert0.classifier.weight.grad,
        "stem.bn.running_mean": model.stem.bn.running_mean,
    }


def _in_branch(name: str) -> str:
    """A plain network is one branch on the trunk."""
    own = ("state.stage2.", "state.stage3.", "state.classifier.")
    return name.replace("state.", "state.expert0.", 1) if name.startswith(own) else name


COMPONENTS = {
    "ltcore.class_counts": class_counts,
    "ltcore.cifar_subsample": cifar_subsample,
    "ltcore.ldam_margins": margins,
    "ltcore.effective_number_weights": weights,
    "ltcore.ldam_loss": ldam,
    "ltcore.cross_entropy": weighted_cross_entropy,
    "ltcore.focal_loss": focal,
    "ltcore.logit_adjusted_ce": logit_adjusted,
    "ltcore.balanced_sampler": balanced_sampler,
    "ltcore.shot_accuracy": shot_accuracy,
    "ltcore.lr_schedule": lr_schedule,
    "ltcore.cosine_classifier": cosine_classifier,
    "ltcore.tau_norm": tau_norm,
    "ltcore.resnet_cifar": resnet,
}
NOT_IMPLEMENTED: dict[str, str] = {}
