"""DeiT-LT: student, teachers, analyses."""

import re
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.augment.batch_mixing import PixelErasing
from lt_pipeline.augment.config import TimmCropView
from lt_pipeline.augment.decoded import EvaluationView
from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.augment.randaugment import seeded
from lt_pipeline.augment.timm_view import TimmView
from lt_pipeline.data.longtail import descending_class_map, select
from lt_pipeline.evaluation.accuracy import class_recalls, top_k_accuracy
from lt_pipeline.losses.margins import ldam_loss, ldam_margins
from lt_pipeline.losses.paco import frequency_prior, paco_loss
from lt_pipeline.losses.reweighting import effective_number_weights
from lt_pipeline.losses.token_distillation import class_token_loss, distillation_token_loss
from lt_pipeline.methods.deit_lt.config import DeitLt, DistillationConfig, StudentStageConfig
from lt_pipeline.methods.deit_lt.measures import attention_distance, disagreement, feature_rank, token_similarity
from lt_pipeline.methods.deit_lt.student import phase
from lt_pipeline.methods.deit_lt.teacher import ContrastiveTask, FrozenTeacher, teacher_input, teacher_network
from lt_pipeline.models.complexity import parameter_count
from lt_pipeline.models.distilled_vit import DistilledViT, build_distilled_vit
from lt_pipeline.models.heads import CosineClassifier
from lt_pipeline.models.paco import ContrastiveNetwork
from lt_pipeline.models.resnet_cifar import resnet_cifar
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import OptimizerConfig
from lt_pipeline.training.optim import build_optimizer
from lt_pipeline.training.sam import at_worst_neighbour, sam_radius
from lt_pipeline.training.samplers import repeated_order
from lt_pipeline.training.schedule import cosine, multistep_warmup, step_cosine
from lt_pipeline.training.task import Batch
from tests.parity.adapters.ltcore import _counts

Params = dict[str, Any]
Tensors = dict[str, Tensor]
STUDENT = StudentStageConfig()


def part(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def one(value: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Return a scalar as the fixtures hold it, with shape [1]."""
    return torch.as_tensor(value, dtype=dtype).detach().reshape(1)


# --- data and input ---------------------------------------------------------------------------------------------------------------------


def cifar_lt_counts(params: Params, _: Tensors) -> dict[str, Any]:
    return {"counts": _profile(params, params["num_classes"], params["n_total"])}


def cifar_lt_subset(params: Params, tensors: Tensors) -> dict[str, Any]:
    targets = tensors["in.targets"].numpy()
    counts = _profile(params, params["num_classes"], len(targets))
    indices = select(targets, counts, "shuffle", params["seed"])
    return {"counts": counts, "indices": indices, "targets": targets[indices]}


def _profile(params: Params, num_classes: int, total: int) -> Any:
    return _counts(params, num_classes, total)


def class_map(params: Params, tensors: Tensors) -> dict[str, Any]:
    targets = tensors["in.targets"].numpy()
    counts = np.bincount(targets, minlength=params["num_classes"])
    order = descending_class_map(counts)
    return {"class_map": order, "targets": order[targets], "cls_num_list": np.bincount(order[targets], minlength=len(counts))}


def class_weights(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return {"weights": effective_number_weights(tensors["in.counts"], params["beta"])}


def ra_sampler(params: Params, _: Tensors) -> dict[str, Any]:
    """The engine deals one order to the ranks, every world-th element each; the epoch's length is that of ``Repeated``."""
    assert params["shuffle"]
    size, world = params["dataset_len"], params["num_replicas"]
    order = repeated_order(size, params["num_repeats"], params["epoch"])[params["rank"] :: world]
    kept = (size // 256 * 256 or size) // world
    return {"indices": order[:kept], "num_selected": one(kept)}


def mixup(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    """timm's mixer; where its box is a pixel larger (odd side, quirk) the fixture's draws are applied with timm's own functions."""
    from timm.data.mixup import Mixup, mixup_target

    assert params["mode"] == "batch"
    images, labels = tensors["in.images"].clone(), tensors["in.labels"]
    if params.get("quirk") == "official":
        top, bottom, left, right = tensors["in.box"].tolist()
        assert tensors["in.use_cutmix"].item()
        images[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        return {
            "images": images,
            "targets": mixup_target(labels, params["num_classes"], tensors["in.lam"].item(), params["label_smoothing"]),
        }
    mixer = Mixup(
        params["mixup_alpha"],
        params["cutmix_alpha"],
        prob=params["prob"],
        switch_prob=params["switch_prob"],
        label_smoothing=params["label_smoothing"],
        num_classes=params["num_classes"],
    )
    with seeded(params["numpy_seed"]):
        mixed, targets = mixer(images, labels)
    return {"images": mixed, "targets": targets}


def resize_for_teacher(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert params["interpolation"] == "bicubic"
    return {"images": teacher_input(tensors["in.images"], params["size"], params["antialias"])}


def train_transform(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    """Our three steps in a row: the view, normalisation, erasing, here with the draws of one seed going through all of them."""
    size = params["input_size"]
    view = TimmCropView(size=size, test_resize=size, policy=params["auto_augment"], interpolation=params["interpolation"])
    from timm.data.random_erasing import RandomErasing

    assert (params["re_mode"], params["re_count"]) == ("pixel", 1) and PixelErasing(params["re_prob"]).probability == 0.25
    with seeded(params["seed"]):
        pixels = TimmView(view).draw(tensors["in.image"].numpy())
        image = Normalise(STUDENT.mean, STUDENT.std)(pixels[None])[0].contiguous()
        return {"image": RandomErasing(params["re_prob"], mode="pixel", max_count=1, device="cpu")(image)}


def eval_transform(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    size = params["input_size"]
    view = TimmCropView(size=size, test_resize=int(256 / 224 * size) if size > 32 else size)
    return {"image": Normalise(STUDENT.mean, STUDENT.std)(EvaluationView(view)(tensors["in.image"].numpy())[None])[0]}


# --- student ----------------------------------------------------------------------------------------------------------------------------


def student(params: Params, tensors: Tensors, dtype: torch.dtype = torch.float32, image_size: int | None = None) -> DistilledViT:
    """Return the network of a fixture with its weights."""
    model = DistilledViT(
        params["num_classes"], params["embed_dim"], params["depth"], params["num_heads"], params["img_size"], params["patch_size"], 0.0
    ).to(dtype)
    if tensors:
        model.vit.load_state_dict(part(tensors, "state."))
    return model


def vit_forward(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    model = student(params, tensors)
    images = tensors["in.images"].clone().requires_grad_()
    outputs = model(images)
    first, second = outputs["expert_logits"]
    loss = (first**2).mean() + 2 * (second**2).mean()
    loss.backward()
    features = outputs["features"].detach().numpy()
    return {
        "logits_cls": first,
        "logits_dist": second,
        "logits_avg": outputs["logits"],
        "cos_cls_dist": torch.from_numpy(token_similarity(*features)),
        "loss": one(loss),
        "grad.images": images.grad,
        "grad.dist_token": model.vit.dist_token.grad,
        "grad.pos_embed": model.vit.pos_embed.grad,
    }


def vit_param_count(params: Params, _: Tensors) -> dict[str, Any]:
    assert params["model"] == "deit_base_distilled_patch16_224"
    model = build_distilled_vit("deit_base", params["num_classes"], drop_path=params["drop_path_rate"])
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) or 0.0 for block in model.vit.blocks]
    return {
        "num_params": one(parameter_count(model)),
        "num_tokens": one(model.vit.pos_embed.shape[1]),
        "drop_path": torch.tensor(rates, dtype=torch.float64),
    }


def param_groups(params: Params, _: Tensors) -> dict[str, Any]:
    model = student(params, {})
    config = STUDENT.optimizer.model_copy(update={"weight_decay": params["weight_decay"]})
    optimizer = build_optimizer(config, model.named_parameters())
    assert tuple(optimizer.defaults["betas"]) == tuple(params["betas"]) and optimizer.defaults["eps"] == params["eps"]
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    named = dict(model.vit.named_parameters())
    return {"weight_decay": torch.tensor([decays[id(named[name])] for name in params["names"]], dtype=torch.float64)}


def fusion(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    logits = torch.stack([tensors["in.logits_cls"], tensors["in.logits_dist"]]).mean(0)
    return {
        "logits": logits,
        "pred_avg": logits.argmax(1),
        "pred_cls": tensors["in.logits_cls"].argmax(1),
        "pred_dist": tensors["in.logits_dist"].argmax(1),
    }


def head_metrics(params: Params, tensors: Tensors) -> dict[str, Any]:
    labels, classes = tensors["in.labels"].numpy(), params["num_classes"]
    first, second = tensors["in.logits_cls"].numpy(), tensors["in.logits_dist"].numpy()
    start, end = params["categories"]
    rows = []
    for logits in ((first + second) / 2, first, second):
        recall = class_recalls(labels, logits.argmax(1) == labels, classes)
        groups = [np.nanmean(recall[group]) for group in (slice(0, start), slice(start, end), slice(end, None))]
        rows.append([top_k_accuracy(logits, labels, 1), top_k_accuracy(logits, labels, 5), *groups])
    columns = 100 * torch.tensor(rows, dtype=torch.float64).T
    return dict(zip(("acc1", "acc5", "head", "med", "tail"), columns, strict=True))


# --- losses and schedules ---------------------------------------------------------------------------------------------------------------


def distill_loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    first, second = (tensors[f"in.{name}"].clone().requires_grad_() for name in ("logits_cls", "logits_dist"))
    base, distillation = _terms(params, tensors, first, second)
    loss = base + distillation
    gradients = torch.autograd.grad(loss, (first, second))
    return {
        "loss": one(loss),
        "base": one(base),
        "distill": one(distillation),
        "grad.logits_cls": gradients[0],
        "grad.logits_dist": gradients[1],
    }


def _terms(params: Params, tensors: Tensors, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    target, weights = tensors["in.labels"], tensors["in.class_weights"]
    assert target.is_floating_point() == (params["base"] == "soft_target_ce")
    base = class_token_loss(first, target)
    if params["type"] == "none":
        distillation = class_token_loss(second, target, weights if params["weighted"] else None)
    else:
        answer = tensors["in.teacher_logits"].to(second.dtype)
        if params["map_targets"]:  # the project trains its teachers in the student's label space; the map is a renumbering of columns
            answer = answer[:, tensors["in.class_map"].argsort()]
        distillation = distillation_token_loss(
            second, answer, params["type"], params.get("tau", 1.0), weights if params["weighted"] else None
        )
    return (1 - params["alpha"]) * base, params["alpha"] * distillation


def distill_loss_multicrop(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    """Several crops are rows of one batch; the teacher sees the global ones, or all."""
    seen = len(tensors["in.logits_dist"]) if params["teacher_on_local"] else params["num_global"] * params["batch"]
    first, second = (tensors[f"in.{name}"].clone().requires_grad_() for name in ("logits_cls", "logits_dist"))
    given = tensors | {"in.teacher_logits": tensors["in.teacher_logits"][:seen]}
    base, distillation = _terms({"map_targets": False, **params}, given, first, second[:seen])
    gradients = torch.autograd.grad(base + distillation, (first, second))
    return {
        "loss": one(base + distillation),
        "base": one(base),
        "distill": one(distillation),
        "grad.logits_cls": gradients[0],
        "grad.logits_dist": gradients[1],
    }


def vit_pos_interp(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    model = student(params, tensors)
    first, second = model(tensors["in.images"])["expert_logits"]
    return {"pos_embed": model.positions(params["input_size"]), "logits_cls": first, "logits_dist": second}


def loss_schedule(params: Params, _: Tensors) -> dict[str, Any]:
    drw = params["drw"] if params["weighted_distillation"] else -1
    config = DistillationConfig(
        reweight_epoch=drw, mix_when_reweighted=params["mixup_in_drw"], reweight_class_token=params["weighted_base"]
    )
    phases = [phase(config, epoch) for epoch in range(1, params["epochs"] + 1)]
    return {
        "mixup_active": torch.tensor([int(one.mixes) for one in phases]),
        "base_soft_targets": torch.tensor([int(one.mixes) for one in phases]),
        "distill_weighted": torch.tensor([int(one.reweights) for one in phases]),
        "base_weighted": torch.tensor([int(one.reweights_class_token) for one in phases]),
    }


def lr_schedule(params: Params, _: Tensors) -> dict[str, Any]:
    """The official loop around our schedule: it asks for a rate at the first micro-batch of each group and at the epoch's last; without
    accumulation only after each epoch."""
    steps, every = params["steps_per_epoch"], params["accum_iter"]
    lr = params["base_lr"] * params["batch_size"] * params["world_size"] / 512
    ends = [int((k + 1) % every == 0 or k == steps - 1) for k in range(steps)]
    rows = [[_rate(params, lr, time) for time in official_times(epoch, steps, every)] for epoch in params["probe_epochs"]]
    return {
        "scaled_lr": one(lr, torch.float64),
        "lr": torch.tensor(rows, dtype=torch.float64),
        "optimizer_step": torch.tensor([ends] * len(rows)),
    }


def official_times(epoch: int, steps: int, every: int) -> list[float]:
    """Return the fraction of epochs whose rate is in force at each micro-batch."""
    if every == 1:
        return [float(max(epoch - 1, 0))] * steps
    return [epoch + (k if k == steps - 1 else k - k % every) / steps for k in range(steps)]


def _rate(params: Params, lr: float, time: float) -> float:
    return step_cosine(time, lr, params["epochs"], params["min_lr"], params["warmup_epochs"], params["warmup_lr"])


def train_epoch(params: Params, tensors: Tensors) -> dict[str, Any]:
    """The official loop of one epoch around our network, losses, optimizer and schedule."""
    model = student(params, tensors, torch.float64)
    optimizer = build_optimizer(STUDENT.optimizer.model_copy(update={"weight_decay": params["weight_decay"]}), model.named_parameters())
    steps, every = len(tensors["in.images"]), params["accum_iter"]
    losses, rates = [], [_rate(params, params["lr"], time) for time in official_times(params["epoch"], steps, every)]
    for k in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rates[k]
        given = {f"in.{name}": tensors[f"in.{name}"][k] for name in ("labels", "teacher_logits")}
        given["in.class_weights"] = tensors["in.class_weights"]
        first, second = model(tensors["in.images"][k])["expert_logits"]
        base, distillation = _terms({**params, "type": "hard"}, given, first, second)
        losses.append([(base + distillation).item(), base.item(), distillation.item()])
        ((base + distillation) / every).backward()
        if (k + 1) % every == 0 or k == steps - 1:
            optimizer.step()
            optimizer.zero_grad()
    weights = {f"param.{name}": value for name, value in model.vit.state_dict().items()}
    return {"losses": torch.tensor(losses, dtype=torch.float64), "lr": torch.tensor(rates, dtype=torch.float64), **weights}


# --- teachers ---------------------------------------------------------------------------------------------------------------------------


def teacher_ldam_loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    margins = ldam_margins(tensors["in.counts"], params["max_m"])
    logits = tensors["in.logits"].clone().requires_grad_()
    weights = tensors["in.class_weights"] if params["weighted"] else None
    loss = ldam_loss(params["s"] * logits, tensors["in.labels"], margins, params["s"], weights)
    (gradient,) = torch.autograd.grad(loss, logits)
    return {"loss": one(loss), "margins": margins, "grad.logits": gradient}


def teacher_normed_linear(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    fresh = CosineClassifier(params["in_features"], params["num_classes"], scale=1.0)
    norms = fresh.weight.detach().norm(dim=0)
    fresh.load_state_dict({"weight": tensors["state.weight"]})
    features = tensors["in.features"].clone().requires_grad_()
    logits = fresh(features)
    gradients = torch.autograd.grad((logits**2).mean(), (features, fresh.weight))
    return {"logits": logits, "grad.features": gradients[0], "grad.weight": gradients[1], "init_column_norm": norms}


def teacher_sam_step(params: Params, tensors: Tensors) -> dict[str, Any]:
    x, labels = tensors["in.x"], tensors["in.labels"]
    layer = nn.Linear(x.shape[-1], len(tensors["state.bias"])).double()
    layer.load_state_dict(part(tensors, "state."))
    config = OptimizerConfig(lr=params["lr"], momentum=params["momentum"], weight_decay=params["weight_decay"], nesterov=False)
    optimizer = build_optimizer(config, layer.named_parameters())
    losses: list[list[float]] = [[], []]
    weights, biases = [], []
    for k in range(params["steps"]):
        first = F.cross_entropy(layer(x[k]), labels[k])
        first.backward()
        with at_worst_neighbour(list(layer.parameters()), params["rho"], params["adaptive"]):
            second = F.cross_entropy(layer(x[k]), labels[k])
            second.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses[0].append(first.item())
        losses[1].append(second.item())
        weights.append(layer.weight.detach().clone())
        biases.append(layer.bias.detach().clone())
    first_loss, second_loss = torch.tensor(losses, dtype=torch.float64)
    return {"loss_first": first_loss, "loss_second": second_loss, "weight": torch.stack(weights), "bias": torch.stack(biases)}


def teacher_ldam_schedule(params: Params, _: Tensors) -> dict[str, Any]:
    epochs = range(params["epochs"])
    if params["lr_schedule"] == "step":
        lr = [multistep_warmup(epoch, params["lr"], (160, 180), 0.01, 5) for epoch in epochs]
    else:
        lr = [cosine(epoch, params["lr"], params["epochs"]) for epoch in epochs]
    config = OptimizerConfig(sam_rho=params["rho"])
    if params["rho_schedule"] == "step":
        rhos, borders = (params["rho_steps"], (5, 60, 75)) if params["rho_steps"] else ((0.05, 0.1, 0.5, 0.6), (5, 160, 180))
        config = OptimizerConfig(sam_rho=rhos[0], sam_milestones=borders, sam_rhos=tuple(rhos[1:]))
    rho = [sam_radius(config, Clock(epoch, 1, params["epochs"])) for epoch in epochs]
    beta = [0.9999 if phase(DistillationConfig(reweight_epoch=params["drw_epoch"]), epoch + 1).reweights else 0.0 for epoch in epochs]
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in (("lr", lr), ("rho", rho), ("beta", beta))}


def teacher_paco_schedule(params: Params, _: Tensors) -> dict[str, Any]:
    lr, warmup, epochs = params["lr"], params["warmup_epochs"], params["epochs"]
    if params["lr_schedule"] == "step":
        rates = [multistep_warmup(epoch, lr, (321, 361), 0.1, warmup, overshoots=True) for epoch in range(epochs)]
    else:
        rates = [cosine(epoch + 1, lr, epochs + 1, 0.0, warmup) for epoch in range(epochs)]
    return {"lr": torch.tensor(rates, dtype=torch.float64)}


def teacher_paco_loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    features, logits = (tensors[f"in.{name}"].clone().requires_grad_() for name in ("features", "logits"))
    prior = frequency_prior(tensors["in.counts"])
    options = {name: params[name] for name in ("alpha", "beta", "gamma", "temperature")}
    loss = paco_loss(features, tensors["in.labels"], logits, prior, **options)
    gradients = torch.autograd.grad(loss, (features, logits))
    return {"loss": one(loss), "grad.features": gradients[0], "grad.logits": gradients[1]}


def teacher_moco_step(params: Params, tensors: Tensors) -> dict[str, Any]:
    stage = DeitLt().teacher.model_copy(
        update={
            "loss": DeitLt().teacher.loss.model_copy(
                update={
                    "kind": "paco",
                    "dimension": params["dim"],
                    "queue_size": params["queue_size"],
                    "momentum": params["momentum"],
                }
            )
        }
    )
    network = _contrastive(params, tensors, "query_encoder", "classifier")
    task = ContrastiveTask(network, stage.loss, [1] * params["num_classes"])
    task.memory.key.load_state_dict(_contrastive(params, tensors, "key_encoder", "key_classifier").state_dict())
    task.memory.queue.copy_(tensors["state.queue"])
    task.memory.queue_labels.copy_(tensors["state.queue_labels"])
    task.memory.pointer.copy_(tensors["state.queue_ptr"])
    labels = tensors["in.labels"]
    batch = Batch((tensors["in.images_query"], tensors["in.images_key"]), labels, torch.arange(len(labels)))
    task.train()
    others, all_labels = task._keys_and_queue(batch)
    outputs = task.model(batch.views[0])
    key = task.memory.key
    return {
        "features": torch.cat([outputs["projections"], others]),
        "labels": all_labels,
        "logits": outputs["logits"],
        "queue": task.memory.queue,
        "queue_labels": task.memory.queue_labels,
        "queue_ptr": task.memory.pointer,
        "key_encoder.conv1.weight": key.network.stem.conv.weight,
        "key_classifier.weight": key.network.expert0.classifier.weight,
    }


def teacher_paco_inference(params: Params, tensors: Tensors) -> dict[str, Any]:
    network = _contrastive(params, tensors, "query_encoder", "classifier").eval()
    facts = _facts(params["num_classes"])
    teacher = FrozenTeacher(network.network, DistillationConfig(teacher_size=None), facts, facts)
    logits = teacher(tensors["in.images"])["logits"]
    return {"logits": logits, "teacher_label": logits.argmax(1)}


def teacher_resnet_forward(params: Params, tensors: Tensors) -> dict[str, Any]:
    cosine_head, classes = params["use_norm"], params["num_classes"]
    network = resnet_cifar(classes, 1, params["blocks"], cosine_head=cosine_head, scale=1.0)
    network.load_state_dict(ours(part(tensors, "state."), head="fc"))
    loss = DeitLt().teacher.loss.model_copy(update={"kind": "ldam" if cosine_head else "cross_entropy"})
    whole = teacher_network(DeitLt().teacher.model_copy(update={"loss": loss}), classes)
    return {"logits": network.eval()(tensors["in.images"])["logits"], "resnet32_num_params": one(parameter_count(whole))}


def _facts(classes: int) -> Any:
    from lt_pipeline.methods.facts import DataFacts

    names = tuple(str(label) for label in range(classes))
    return DataFacts(class_names=names, train_counts=(1,) * classes, image_shape=None, mean=STUDENT.mean, std=STUDENT.std)


def _contrastive(params: Params, tensors: Tensors, encoder: str, classifier: str) -> ContrastiveNetwork:
    network = ContrastiveNetwork(resnet_cifar(params["num_classes"], 1, params["blocks"], cosine_head=False), params["dim"])
    state = part(tensors, f"state.{encoder}.")
    projection = {name: state.pop(name) for name in list(state) if name.startswith("fc.")}
    network.projection.load_state_dict(_counters({name.removeprefix("fc."): value for name, value in projection.items()}))
    head = {f"expert0.classifier.{name}": value for name, value in part(tensors, f"state.{classifier}.").items()}
    network.network.load_state_dict(ours(state) | head)
    return network


def ours(state: Tensors, head: str | None = None) -> Tensors:
    """Return the weights of a CIFAR ResNet under our names."""
    renamed = {}
    for name, value in _counters(state).items():
        name = re.sub(r"^(conv|bn)1\.", r"stem.\1.", name)
        name = re.sub(r"^layer1\.(\d+)\.", r"stage1.block\1.", name)
        name = re.sub(r"^layer([23])\.(\d+)\.", r"expert0.stage\1.block\2.", name)
        renamed[name if head is None else re.sub(rf"^{head}\.", "expert0.classifier.", name)] = value
    return renamed


def _counters(state: Tensors) -> Tensors:
    return {name: value.reshape(()) if name.endswith("num_batches_tracked") else value for name, value in state.items()}


# --- analyses ---------------------------------------------------------------------------------------------------------------------------


def rank(params: Params, tensors: Tensors) -> dict[str, Any]:
    number, effective = feature_rank(tensors["in.features"].numpy(), params["threshold"], params["center"])
    return {"rank": one(number), "effective_rank": one(effective, torch.float64)}


def distance(params: Params, tensors: Tensors) -> dict[str, Any]:
    grid = tuple(params["grid"])
    attention = tensors["in.attention"].numpy()
    return {"distance": attention_distance(attention, grid, params["patch_size"], params["num_prefix"], params["renormalize"])}


def diversity(params: Params, tensors: Tensors) -> dict[str, Any]:
    cosines = token_similarity(tensors["in.cls_features"].numpy(), tensors["in.dist_features"].numpy(), params["eps"])
    different = disagreement(tensors["in.logits_cls"].numpy(), tensors["in.logits_dist"].numpy())
    return {"cosine": cosines, "cosine_mean": one(cosines.mean()), "disagreement": one(different)}


COMPONENTS = {
    "deit_lt.cifar_lt_counts": cifar_lt_counts,
    "deit_lt.cifar_lt_subset": cifar_lt_subset,
    "deit_lt.class_map": class_map,
    "deit_lt.class_weights": class_weights,
    "deit_lt.ra_sampler": ra_sampler,
    "deit_lt.mixup": mixup,
    "deit_lt.teacher_resize": resize_for_teacher,
    "deit_lt.train_transform": train_transform,
    "deit_lt.eval_transform": eval_transform,
    "deit_lt.vit_forward": vit_forward,
    "deit_lt.vit_param_count": vit_param_count,
    "deit_lt.param_groups": param_groups,
    "deit_lt.fusion": fusion,
    "deit_lt.head_metrics": head_metrics,
    "deit_lt.distill_loss": distill_loss,
    "deit_lt.distill_loss_multicrop": distill_loss_multicrop,
    "deit_lt.vit_pos_interp": vit_pos_interp,
    "deit_lt.loss_schedule": loss_schedule,
    "deit_lt.lr_schedule": lr_schedule,
    "deit_lt.train_epoch": train_epoch,
    "deit_lt.teacher.ldam_loss": teacher_ldam_loss,
    "deit_lt.teacher.normed_linear": teacher_normed_linear,
    "deit_lt.teacher.sam_step": teacher_sam_step,
    "deit_lt.teacher.ldam_schedule": teacher_ldam_schedule,
    "deit_lt.teacher.paco_schedule": teacher_paco_schedule,
    "deit_lt.teacher.paco_loss": teacher_paco_loss,
    "deit_lt.teacher.moco_step": teacher_moco_step,
    "deit_lt.teacher.paco_inference": teacher_paco_inference,
    "deit_lt.teacher.resnet_forward": teacher_resnet_forward,
    "deit_lt.analysis.feature_rank": rank,
    "deit_lt.analysis.attention_distance": distance,
    "deit_lt.analysis.token_diversity": diversity,
}
NOT_IMPLEMENTED: dict[str, str] = {}
