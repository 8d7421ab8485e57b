"""MetaFormer: network, masking, mixing, training step, checkpoints, schedules."""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from lt_pipeline.augment.batch_mixing import MixupCutmix
from lt_pipeline.losses.classification import soft_cross_entropy
from lt_pipeline.methods.metaformer.config import MaskingConfig, MetaformerStageConfig, ScalingConfig, scaled_rates
from lt_pipeline.methods.metaformer.masking import mask_metadata, masked_images, masked_share
from lt_pipeline.models.complexity import parameter_count
from lt_pipeline.models.metadata_encoder import MetadataEncoder, MetadataShape
from lt_pipeline.models.metafg.attention import PatchEmbedding, RelativeAttention, TransformerBlock, relative_position_index, table_rows
from lt_pipeline.models.metafg.convolution import MBConv, Stem, stochastic_depth
from lt_pipeline.models.metafg.network import Aggregation, Architecture, MetaFG, build_metafg, drop_rates
from lt_pipeline.models.metafg.published import is_loaded
from lt_pipeline.models.metafg.resize import resize_bias_table, resized_state
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import Schedule, StepCosineSchedule, StepDecaySchedule, StepLinearSchedule
from lt_pipeline.training.optim import build_optimizer
from lt_pipeline.training.schedule import learning_rate
from tests.parity.adapters.ltcore import load_state, with_gradient
from tests.parity.adapters.metaformer_data import COMPONENTS as DATA

Params = dict[str, Any]
Tensors = dict[str, Tensor]


def cast(value: Tensor, params: Params) -> Tensor:
    return value.to(getattr(torch, params.get("dtype", "float32"))) if value.is_floating_point() else value


def run(module: nn.Module, params: Params, tensors: Tensors, *names: str, output: Any = None) -> dict[str, Tensor]:
    """Outputs, gradients of inputs and weights, and running statistics of one call of a module."""
    load_state(module, tensors)
    module.to(getattr(torch, params["dtype"])).train(params["training"])
    inputs = {name: cast(tensors[f"in.{name}"], params).requires_grad_() for name in names}
    result = module(*inputs.values()) if output is None else output(inputs)
    outputs = result if isinstance(result, dict) else {"output": result}
    cotangent = tensors.get("in.grad_output")
    if cotangent is not None:
        (outputs.get("logits", outputs.get("output")) * cast(cotangent, params)).sum().backward()
    return {
        **outputs,
        **{f"grad.{name}": value.grad for name, value in inputs.items() if value.grad is not None},
        **{f"grad.state.{name}": weight.grad for name, weight in module.named_parameters() if weight.grad is not None},
        **({f"state.{name}": tensor.clone() for name, tensor in module.state_dict().items()} if params["training"] else {}),
    }


# --- losses and mixing ------------------------------------------------------------------------------------------------------------------


def loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    smoothing = params["smoothing"] if params["kind"] == "label_smoothing" else 0.0
    return with_gradient(cast(tensors["in.logits"], params), lambda logits: soft_cross_entropy(logits, tensors["in.targets"], smoothing))


def mixup_target(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    labels = tensors["in.labels"]
    mixed = mix(torch.zeros(len(labels), 3, 4, 4), labels, params["num_classes"], params["smoothing"], params["lam"], None)
    return {"targets": mixed[1]}


def mix_batch(params: Params, tensors: Tensors) -> dict[str, Any]:
    assert (params["kind"] == "cutmix") == (params["box"] is not None)
    images, targets, lam = mix(
        tensors["in.images"].clone(), tensors["in.labels"], params["num_classes"], params["smoothing"], params["lam_drawn"], params["box"]
    )
    return {"images": images, "targets": targets, "lam": torch.tensor(lam, dtype=torch.float64), "meta": tensors["in.meta"]}


def mix(images: Tensor, labels: Tensor, classes: int, smoothing: float, lam: float, box: list[int] | None) -> tuple[Tensor, Tensor, float]:
    """Our mixing with its draws replaced by the recorded ones."""
    area = images.shape[-2] * images.shape[-1]
    used = lam if box is None else 1 - (box[1] - box[0]) * (box[3] - box[2]) / area
    with (
        patch("timm.data.mixup.Mixup._params_per_batch", return_value=(lam, box is not None)),
        patch("timm.data.mixup.cutmix_bbox_and_lam", return_value=(box, used)),
    ):
        mixed, targets = MixupCutmix(classes, smoothing=smoothing)(images, labels)
    return mixed, targets, used


# --- metadata ---------------------------------------------------------------------------------------------------------------------------


def masking(params: Params) -> MaskingConfig:
    return MaskingConfig(kind=params["mask_type"], start=params["mask_prob"], floored=params.get("quirk") != "official")


def meta_mask_schedule(params: Params, _: Tensors) -> dict[str, Tensor]:
    shares = [masked_share(masking(params), epoch, params["total_epochs"]) for epoch in params["epochs"]]
    masked = [[masked_images(share, images) for images in params["batch_sizes"]] for share in shares]
    return {"ratio": torch.tensor(shares, dtype=torch.float64), "masked": torch.tensor(masked)}


def meta_mask(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    meta = tensors["in.meta"]
    if params["training"]:
        meta = mask_metadata(meta, masked_share(masking(params), params["epoch"], params["total_epochs"]), tensors["in.permutation"])
    shape = MetadataShape((meta.shape[-1],), meta.shape[1] if meta.ndim == 3 else 1)
    ((seen,), _) = shape.split(meta, len(meta), meta)
    return {"meta": seen}


def meta_encoder(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return run(MetadataEncoder(params["meta_dim"], params["dim"]), params, tensors, "meta")


# --- blocks -----------------------------------------------------------------------------------------------------------------------------


def stem(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return run(Stem(params["dim"]), params, tensors, "image")


def mbconv(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert (params["se_ratio"], params["bn_eps"], params["bn_momentum"]) == (0.25, 0.01, 0.1)
    block = MBConv(params["in_channels"], params["out_channels"], params["stride"], params["expand_ratio"])
    return run(block, params, tensors, "x")


def depth(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    x = tensors["in.x"]
    return {"output": stochastic_depth(x, params["drop_prob"], tensors["in.uniform"]) if params["training"] else x}


def overlap_patch_embed(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert (params["kernel"], params["stride"], params["padding"]) == (3, 2, 1)
    return run(PatchEmbedding(params["in_channels"], params["out_channels"]), params, tensors, "x")


def position_index(params: Params, _: Tensors) -> dict[str, Tensor]:
    assert table_rows(params["height"], params["width"]) == params["table_rows"]
    return {"index": relative_position_index(params["height"], params["width"], params["extra_tokens"])}


def relative_attention(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    assert not params["qkv_bias"]
    module = RelativeAttention(params["dim"], params["num_heads"], (params["height"], params["width"]), params["extra_tokens"])
    return run(module, params, tensors, "tokens")


def transformer_block(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    first, extra = params["stride"] == 2, sorted(name[3:] for name in tensors if name.startswith("in.extra."))
    grid, channels = (params["height"], params["width"]), params["in_dim"] if first else None
    block = TransformerBlock(params["dim"], params["num_heads"], grid, params["extra_tokens"], int(params["mlp_ratio"]), 0.0, channels)

    def output(inputs: Tensors) -> Tensor:
        tokens = [inputs[name].expand(len(inputs["x"]), -1, -1) for name in extra]
        result: Tensor = block(inputs["x"], torch.cat(tokens, 1) if first else None)
        return result

    return run(block, params, tensors, "x", *extra, output=output)


def token_aggregation(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    module = Aggregation(params["dim3"], params["dim4"], params["only_last_cls"])
    names = ["cls4"] if params["only_last_cls"] else ["cls3", "cls4"]
    return run(module, params, tensors, *names, output=lambda inputs: module(inputs.get("cls3", inputs["cls4"]), inputs["cls4"]))


# --- whole networks ---------------------------------------------------------------------------------------------------------------------


def network(params: Params, image_size: int | None = None) -> MetaFG:
    architecture = Architecture(
        tuple(params["conv_dims"]),
        tuple(params["attn_dims"]),
        tuple(params["conv_depths"][1:]),
        tuple(params["attn_depths"]),
        params["num_heads"],
        params["expand_ratio"],
    )
    size = image_size or params["image_size"]
    return MetaFG(architecture, params["num_classes"], size, metadata_shape(params), last_only=params["only_last_cls"])


def metadata_shape(params: Params) -> MetadataShape:
    groups = tuple(params["meta_dims"])
    return MetadataShape(groups, (params["extra_tokens"] - 1) if len(groups) == 1 else 1)


def model(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return run(network(params), params, tensors, *(name for name in ("image", "meta") if f"in.{name}" in tensors))


def train_step(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    """The official loop of one epoch around our network, masking, loss, optimizer and schedule."""
    net = network(params)
    load_state(net, tensors)
    net.to(torch.float64).train()
    schedule = StepCosineSchedule(final_lr=params["min_lr"], warmup_epochs=params["warmup_epochs"], warmup_start=params["warmup_lr"])
    recipe = MetaformerStageConfig().optimizer
    assert (recipe.momentum, 0.999) == tuple(params["betas"]) and params["eps"] == 1e-8
    config = recipe.model_copy(update={"lr": params["lr"], "weight_decay": params["weight_decay"], "clip_norm": params["clip_grad"]})
    optimizer = build_optimizer(config, net.named_parameters())
    steps, epochs, accumulated = params["iterations"], params["epochs"], max(params["accumulation_steps"], 1)

    def rate(index: int) -> float:
        return learning_rate(schedule, params["lr"], Clock(max(index, 0), steps, epochs))

    def set_rate(index: int) -> float:
        for group in optimizer.param_groups:
            group["lr"] = rate(index) * group["lr_factor"]
        return rate(index)

    behind = schedule.model_copy(update={"one_behind": True})
    lr_start = learning_rate(behind, params["lr"], Clock(params["epoch"] * steps, steps, epochs))
    lr_end = set_rate(params["epoch"] * steps - 1)
    losses, norms = [], []
    share = masked_share(MaskingConfig(), params["epoch"], epochs)
    for number, images in enumerate(tensors["in.images"]):
        metadata = None
        if "in.meta" in tensors:
            metadata = mask_metadata(tensors["in.meta"][number].double(), share, tensors["in.permutations"][number])
        smoothing = 0.1 if params["loss"] == "label_smoothing" else 0.0
        value = soft_cross_entropy(net(images.double(), metadata)["logits"], tensors["in.targets"][number], smoothing)
        (value / accumulated).backward()
        losses.append(value.detach() / accumulated)
        norms.append(nn.utils.clip_grad_norm_(net.parameters(), params["clip_grad"]))
        if (number + 1) % accumulated == 0:
            optimizer.step()
            optimizer.zero_grad()
            lr_end = set_rate(params["epoch"] * steps + number)
    return {
        "loss": torch.stack(losses),
        "grad_norm": torch.stack(norms),
        "lr_start": torch.tensor(lr_start, dtype=torch.float64),
        "lr_end": torch.tensor(lr_end, dtype=torch.float64),
        **{f"state.{name}": tensor for name, tensor in net.state_dict().items()},
    }


def resized_model(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    target = params["target_image_size"]
    state = {name.removeprefix("state."): tensor for name, tensor in tensors.items() if name.startswith("state.")}
    resized = {f"state.{name}": tensor for name, tensor in resized_state(state, target, rule(params)).items()}
    inputs = {name: tensor for name, tensor in tensors.items() if name.startswith("in.")}
    return run(network(params, target), params, resized | inputs, *(name for name in ("image", "meta") if f"in.{name}" in tensors))


def config_stats(params: Params, _: Tensors) -> dict[str, Any]:
    shape, side = metadata_shape(params), params["image_size"]
    net = build_metafg(f"metafg_{params['size']}", params["num_classes"], side, shape, last_only=params["only_last_cls"]).eval()
    shapes: dict[str, Tensor] = {}
    for name in ("stage1", "stage2", "stage3", "stage4"):
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: shapes.update({f"shape.{name}": torch.tensor(out.shape)})
        )
    logits = net(torch.zeros(params["batch"], 3, side, side))["logits"]
    decayed = decay_groups(net)[0]
    return {
        "parameters": torch.tensor(parameter_count(net)),
        "parameters_by_part": torch.tensor([parameter_count(net.get_submodule(part)) for part in params["parts"]]),
        "parameters_without_decay": torch.tensor(sum(p.numel() for name, p in net.named_parameters() if name not in decayed)),
        "running_stats": torch.tensor(sum(b.numel() for name, b in net.named_buffers() if "running" in name)),
        "shape.logits": torch.tensor(logits.shape),
        **shapes,
    }


def decay_groups(net: nn.Module) -> tuple[set[str], set[str]]:
    """The names of the parameters that the recipe's optimizer decays, and of the others."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = build_optimizer(MetaformerStageConfig().optimizer, net.named_parameters()).param_groups
    split = {
        decayed: {names[id(p)] for group in groups if (group["weight_decay"] > 0) == decayed for p in group["params"]}
        for decayed in (True, False)
    }
    return split[True], split[False]


def weight_decay_groups(params: Params, _: Tensors) -> dict[str, Tensor]:
    shape = MetadataShape(tuple(params["meta_dims"]))
    stage = max(sum(name.endswith("attn.bias_table") and name.startswith("stage3") for name in params["names"]), 1)
    conv = tuple(sum(name.startswith(f"stage{n}.") and name.endswith("project.weight") for name in params["names"]) for n in (1, 2))
    last = sum(name.endswith("attn.bias_table") and name.startswith("stage4") for name in params["names"])
    with torch.device("meta"):
        net = MetaFG(Architecture((8, 8, 8), (8, 8), conv, (stage, last), 2), 3, 32, shape, last_only=params["only_last_cls"])
    decayed, spared = decay_groups(net)
    assert set(params["names"]) <= decayed | spared, set(params["names"]) - decayed - spared
    return {"decayed": torch.tensor([name in decayed for name in params["names"]])}


def init_std(params: Params, _: Tensors) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = build_metafg(f"metafg_{params['size']}", params["num_classes"], params["image_size"], MetadataShape(tuple(params["meta_dims"])))
    state = net.state_dict()
    constants = [state[name] for name in params["constant_names"]]
    assert all((tensor == tensor.flatten()[0]).all() for tensor in constants)
    return {
        "std": torch.stack([state[name].double().std() for name in params["names"]]),
        "constant": torch.stack([tensor.flatten()[0].double() for tensor in constants]),
    }


# --- checkpoints and schedules ----------------------------------------------------------------------------------------------------------


def rule(params: Params) -> Any:
    return "published" if params["quirk"] == "official" else params["quirk"]


def position_bias_resize(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    stride = {3: 16, 4: 32}[params["stage"]]
    assert len(tensors["in.table"]) == table_rows(*[params["source_image_size"] // stride] * 2)
    return {"table": resize_bias_table(tensors["in.table"], params["target_image_size"] // stride, rule(params))}


def checkpoint_filter(params: Params, _: Tensors) -> dict[str, Tensor]:
    kept = [is_loaded(name, head=not params["drop_head"], metadata=not params["drop_meta"]) for name in params["names"]]
    return {"keep": torch.tensor(kept)}


def lr_schedule(params: Params, _: Tensors) -> dict[str, Tensor]:
    rates = ScalingConfig(lr=params["base_lr"], warmup_lr=params["warmup_lr"], min_lr=params["min_lr"])
    images = params["batch_size"] * params["world_size"] * max(params["accumulation_steps"], 1)
    lr, warmup_lr, min_lr = scaled_rates(rates, images)
    warmup = {"warmup_epochs": params["warmup_epochs"], "warmup_start": warmup_lr}
    schedule: Schedule
    match params["schedule"]:
        case "cosine":
            schedule = StepCosineSchedule(final_lr=min_lr, **warmup)
        case "linear":
            schedule = StepLinearSchedule(final_factor=params["linear_min_rate"], **warmup)
        case _:
            schedule = StepDecaySchedule(decay_epochs=params["decay_epochs"], gamma=params["decay_rate"], **warmup)
    steps, epochs = params["iterations_per_epoch"], params["epochs"]
    first = learning_rate(schedule.model_copy(update={"one_behind": True}), lr, Clock(0, steps, epochs))
    values = [learning_rate(schedule, lr, Clock(index, steps, epochs)) for index in params["iterations"]]
    return {
        "scaled": torch.tensor([lr, warmup_lr, min_lr], dtype=torch.float64),
        "initial": torch.tensor(first, dtype=torch.float64),
        "lr": torch.tensor(values, dtype=torch.float64),
    }


def drop_path_rates(params: Params, _: Tensors) -> dict[str, Tensor]:
    blocks = sum(params["conv_depths"][1:]) + sum(params["attn_depths"])
    return {"rates": torch.tensor(drop_rates(blocks, params["drop_path_rate"]), dtype=torch.float64)}


NETWORK = {
    "metaformer.loss": loss,
    "metaformer.mixup_target": mixup_target,
    "metaformer.mix_batch": mix_batch,
    "metaformer.meta_mask_schedule": meta_mask_schedule,
    "metaformer.meta_mask": meta_mask,
    "metaformer.meta_encoder": meta_encoder,
    "metaformer.stem": stem,
    "metaformer.mbconv": mbconv,
    "metaformer.stochastic_depth": depth,
    "metaformer.overlap_patch_embed": overlap_patch_embed,
    "metaformer.relative_position_index": position_index,
    "metaformer.relative_attention": relative_attention,
    "metaformer.transformer_block": transformer_block,
    "metaformer.token_aggregation": token_aggregation,
    "metaformer.model": model,
    "metaformer.train_step": train_step,
    "metaformer.resized_model": resized_model,
    "metaformer.config_stats": config_stats,
    "metaformer.weight_decay_groups": weight_decay_groups,
    "metaformer.init_std": init_std,
    "metaformer.position_bias_resize": position_bias_resize,
    "metaformer.checkpoint_filter": checkpoint_filter,
    "metaformer.lr_schedule": lr_schedule,
    "metaformer.drop_path_rates": drop_path_rates,
}
COMPONENTS = NETWORK | DATA
NOT_IMPLEMENTED: dict[str, str] = {}
