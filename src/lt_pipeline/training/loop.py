"""The one training loop."""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.data.split import ImageSet
from lt_pipeline.errors import LongTailError
from lt_pipeline.progress import progress
from lt_pipeline.ranks import highest, rank, summed, world_size
from lt_pipeline.training.allocator import keep_freed_memory
from lt_pipeline.training.checkpoint import State, portable
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import StageConfig, TrainerConfig
from lt_pipeline.training.distributed import run_ranks
from lt_pipeline.training.feed import Chunk, Feed, build_feed
from lt_pipeline.training.inference import autocast, choose_device, memory_format, run_model, wants_compilation, warn_if_slow
from lt_pipeline.training.optim import build_optimizer
from lt_pipeline.training.randomness import derive_seed
from lt_pipeline.training.sam import at_worst_neighbour, sam_radius, statistics_held
from lt_pipeline.training.samplers import build_sampler
from lt_pipeline.training.schedule import learning_rate
from lt_pipeline.training.state import TrainingState, Workspace
from lt_pipeline.training.task import Batch, Task

logger = logging.getLogger(__name__)
_GO_ON, _SAVE, _STOP = range(3)


@dataclass(frozen=True)
class Job:
    """Everything one stage needs, picklable so that ranks can receive it.

    Attributes:
        name: of the stage, as ``method.stage``; seeds its random numbers and titles its progress.
        build: makes the task on the CPU; weights drawn inside come from the seed.
        stage: length, optimizer, schedule, sampler, views.
        trainer: machine settings.
        seed: of everything random.
        num_classes: C.
        mean: normalisation per channel, of values in [0, 1].
        std: likewise.
        train: the training split.
        monitors: further splits on which the best epoch is kept, by selection name.
        workspace: where state and checkpoint lie.
        fingerprint: JSON-able; a saved state continues only under an equal one.
    """

    name: str
    build: Callable[[], Task]
    stage: StageConfig
    trainer: TrainerConfig
    seed: int
    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: ImageSet
    monitors: dict[str, ImageSet]
    workspace: Workspace
    fingerprint: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """A finished stage: weights by selection, history rows (one an epoch) and timing."""

    selections: dict[str, State]
    history: list[dict[str, float]]
    timing: dict[str, Any]


def train(job: Job) -> Result:
    """Run a stage from its start, or from where an interrupted run of the same settings left it, to its end.

    The result does not depend on how often the stage was interrupted: on the CPU it is bit-identical. The training state stays on disk until
    :meth:`Workspace.clear`.

    Raises:
        LongTailError: if another run trains here, settings differ from the unfinished run's, the loss is not finite, memory or disk is full.
        SystemExit: 143 after SIGTERM and 130 after SIGINT, with the state saved.
    """
    with job.workspace.lock():
        state = _unfinished(job)
        if state is None or not state.facts["finished"]:
            if job.trainer.processes * job.trainer.nodes > 1:
                run_ranks(_train_rank, job, trainer=job.trainer)
            else:
                _train_rank(job)
            state = job.workspace.load()
    if state is None:
        raise LongTailError(
            f"Stage {job.name} ended without a state in {job.workspace.folder}; rank 0 must share this machine's file system."
        )
    selections = {"last": state.part("average") or state.part("model")}
    selections |= {name: state.part(f"best/{name}") for name in state.facts["best"]}
    return Result(selections, state.facts["history"], state.facts["timing"])


def _unfinished(job: Job) -> TrainingState | None:
    if job.trainer.resume == "never":
        job.workspace.clear()
        return None
    state = job.workspace.load()
    if state is not None and state.facts["fingerprint"] != job.fingerprint:
        raise LongTailError(
            f"An unfinished run with other settings lies in {job.workspace.folder} ({difference(state.facts['fingerprint'], job.fingerprint)}). "
            "Use the same settings to continue it, or trainer.resume=never to start over."
        )
    return state


def difference(old: Any, new: Any, path: str = "") -> str:
    """Return the first differing entry of two JSON-able trees in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    return f"{path}: {old} before, {new} now"


def _train_rank(job: Job) -> None:
    try:
        _Run(job).run()
    except torch.OutOfMemoryError as error:
        raise LongTailError(
            f"Out of memory in {job.name} with {job.stage.batch_size} images a step: raise accumulate (same result, less memory), "
            "lower batch_size, or use trainer.precision=bf16."
        ) from error


@dataclass
class _Epoch:
    """Sums over the running epoch; part of the saved state."""

    terms: dict[str, float] = field(default_factory=dict)
    images: int = 0


class _Run:
    """One rank's run of a job."""

    def __init__(self, job: Job) -> None:
        self.job, self.stage = job, job.stage
        keep_freed_memory()
        if job.trainer.threads:
            torch.set_num_threads(job.trainer.threads)
        self.device = choose_device(job.trainer.device)
        warn_if_slow(self.device, job.trainer.precision)
        if job.trainer.precision == "fp16" and max(self.stage.optimizer.sam_rho, *self.stage.optimizer.sam_rhos, 0) > 0:
            raise LongTailError(f"{job.name}: optimizer.sam_rho goes with trainer.precision fp32 or bf16, not with fp16.")
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = not job.trainer.deterministic
            torch.backends.cudnn.deterministic = job.trainer.deterministic
        torch.manual_seed(derive_seed(job.seed, job.name, "weights"))
        self.layout = memory_format(self.device, job.trainer)
        self.task = job.build().to(self.device).to(memory_format=self.layout)
        self.task.train()
        self.optimizer = build_optimizer(self.stage.optimizer, self.task.named_parameters())
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=job.trainer.precision == "fp16")
        self.average = (
            AveragedModel(self.task.model, multi_avg_fn=get_ema_multi_avg_fn(self.stage.ema_decay), use_buffers=True)
            if self.stage.ema_decay
            else None
        )
        self.sampler = build_sampler(self.stage.sampler, job.train.labels, job.num_classes, derive_seed(job.seed, job.name, "sampler"))
        self.sampler_state = self.sampler.state()
        batch = self.stage.batch_size
        self.epoch_images = self.sampler.length // batch * batch if self.stage.sampler.drop_last else self.sampler.length
        if not self.epoch_images:
            raise LongTailError(
                f"{job.name} has {self.sampler.length} images an epoch, less than one batch of {batch}: lower batch_size, "
                "or set sampler.drop_last=false."
            )
        self.steps_per_epoch = math.ceil(self.epoch_images / batch)
        if wants_compilation(job.trainer, self.device, self.stage.epochs * self.steps_per_epoch):
            self.task.model.compile(dynamic=False)  # an epoch has two batch sizes; each gets a graph of its own
        self.step = 0
        self.epoch = _Epoch()
        self.history: list[dict[str, float]] = []
        self.best: dict[str, tuple[float, State]] = {}
        self.seconds = 0.0
        self.stop_signal = 0

    def run(self) -> None:
        """Train from the saved position to the end of the stage and save the finished state."""
        job = self.job
        state = job.workspace.load() if job.trainer.resume == "auto" else None
        if state is not None:
            self._restore(state)
            logger.info("%s continues at step %d of %d.", job.name, self.step, self._clock().total_steps)
        forward: nn.Module = self.task
        if world_size() > 1:
            forward = DistributedDataParallel(self.task, device_ids=[self.device] if self.device.type == "cuda" else None)
        feed = build_feed(job.train, self.stage.views, Normalise(job.mean, job.std), self.device, self.layout, job.trainer.workers)
        if state is None:
            self._begin(feed)
        total = self.stage.epochs * self.epoch_images
        with self._signals(), progress(job.name, total, self._seen()) if rank() == 0 else nullcontext(lambda *_: None) as advance:
            while self._clock().epoch < self.stage.epochs:
                self._run_epoch(forward, feed, advance)
        self._save(finished=True)

    def _clock(self) -> Clock:
        return Clock(self.step, self.steps_per_epoch, self.stage.epochs)

    def _seen(self) -> int:
        return self._clock().epoch * self.epoch_images + self._clock().step_in_epoch * self.stage.batch_size

    def _begin(self, feed: Feed) -> None:
        """Show the task the first batches; the sampler stays where it is."""
        position = self.sampler.state()
        plan = self._plan(self.sampler.order(0)[: self.epoch_images], 0)
        self.sampler.restore(position)
        torch.manual_seed(derive_seed(self.job.seed, self.job.name, "begin", rank()))
        self.task.begin(feed.batches([chunk for parts in plan for chunk, _ in parts]))
        self.task.train()

    def _run_epoch(self, forward: nn.Module, feed: Feed, advance: Callable[..., None]) -> None:
        saved = started = time.monotonic()
        self.sampler_state = self.sampler.state()
        order = self.sampler.order(self._clock().epoch)[: self.epoch_images]
        plan = self._plan(order, self._clock().step_in_epoch)
        batches = feed.batches([chunk for parts in plan for chunk, _ in parts])
        for parts in plan:
            clock = self._clock()
            lr = learning_rate(self.stage.schedule, self.stage.optimizer.lr, clock)
            size = min(self.stage.batch_size, self.epoch_images - clock.step_in_epoch * self.stage.batch_size)
            self._optimize(forward, [(next(batches), share) for _, share in parts], size, clock, lr)
            self.step += 1
            self.epoch.images += size
            advance(size, f"epoch {clock.epoch_number}/{self.stage.epochs}")
            if self.step % self.steps_per_epoch == 0:
                self._end_epoch(clock, lr)
            now = time.monotonic()
            wish = _STOP if self.stop_signal else _SAVE if now - saved >= self.job.trainer.save_seconds else _GO_ON
            if (decision := highest(wish)) != _GO_ON:
                self.seconds += now - started
                self._save(finished=False)
                started = saved = time.monotonic()
            if decision == _STOP:
                logger.warning("%s stopped on a signal; the same command continues at step %d.", self.job.name, self.step)
                raise SystemExit(128 + (self.stop_signal or signal.SIGTERM))
        self.seconds += time.monotonic() - started

    def _plan(self, order: np.ndarray, first_step: int) -> list[list[tuple[Chunk, float]]]:
        """Return this rank's chunks for each step left of the epoch, each with its share of the step's gradient.

        A global batch is dealt to accumulate x world parts, so that copies of one image in a row go to different ones; each rank takes every
        world-th part. Shares over all ranks add up to 1.
        """
        job, batch, parts = self.job, self.stage.batch_size, self.stage.accumulate * world_size()
        plan = []
        for start in range(first_step * batch, len(order), batch):
            step = self._clock().epoch * self.steps_per_epoch + start // batch
            whole = order[start : start + batch]
            # a last batch with fewer images than parts goes whole to every part: the same mean gradient, and no rank stands idle
            pieces = [whole[part::parts] for part in range(parts)] if len(whole) >= parts else [whole] * parts
            images = sum(map(len, pieces))
            plan.append(
                [
                    (Chunk(pieces[part], (job.seed, job.name, "augment", step, part)), len(pieces[part]) / images)
                    for part in range(rank(), parts, world_size())
                ]
            )
        return plan

    def _optimize(self, forward: nn.Module, batches: Sequence[tuple[Batch, float]], size: int, clock: Clock, lr: float) -> None:
        """Take one optimizer step over ``size`` images; each batch comes with its share of the gradient."""
        config = self.stage.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        for losses, share in self._backward(forward, batches, clock):
            self._account(losses, share * size, clock)
        if rho := sam_radius(config, clock):
            held = statistics_held(self.task) if config.sam_statistics == "first" else nullcontext()
            trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            with held, at_worst_neighbour(trained, rho, config.sam_adaptive), self._second_pass():
                for losses, _ in self._backward(forward, batches, clock):
                    self._expect_finite(losses, clock)
        if config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.task.parameters(), config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.task.model)

    def _backward(
        self, forward: nn.Module, batches: Sequence[tuple[Batch, float]], clock: Clock
    ) -> Iterator[tuple[dict[str, float], float]]:
        """Gather the gradient of one step; yield each batch's loss terms and share once they are known, before its backward pass."""
        torch.manual_seed(derive_seed(self.job.seed, self.job.name, "step", clock.step, rank()))  # both passes of a step draw the same
        for number, (batch, share) in enumerate(batches, start=1):
            with self._gradient_sync(forward, last=number == self.stage.accumulate):
                with autocast(self.device, self.job.trainer.precision):
                    losses = forward(batch, clock)
                terms = torch.stack([term.float() for term in losses.values()])
                yield dict(zip(losses, terms.tolist(), strict=True)), share
                self.scaler.scale(terms.sum() * (share * world_size())).backward()  # ranks are averaged, shares are to be summed

    @contextmanager
    def _second_pass(self) -> Iterator[None]:
        self.task.second_pass = True
        try:
            yield
        finally:
            self.task.second_pass = False

    @staticmethod
    def _gradient_sync(forward: nn.Module, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last or not isinstance(forward, DistributedDataParallel) else forward.no_sync()

    def _account(self, terms: dict[str, float], images: float, clock: Clock) -> None:
        """Add the terms to the epoch's sums."""
        self._expect_finite(terms, clock)
        for name, value in terms.items():
            self.epoch.terms[name] = self.epoch.terms.get(name, 0.0) + value * images

    def _expect_finite(self, terms: dict[str, float], clock: Clock) -> None:
        for name, value in terms.items():
            if not math.isfinite(value):
                raise LongTailError(
                    f"The loss of {self.job.name} is not finite: term '{name}' at step {clock.step + 1} (epoch {clock.epoch_number}). "
                    "The last good state is kept; lower optimizer.lr, lengthen the warm-up or use trainer.precision=fp32."
                )

    def _end_epoch(self, clock: Clock, lr: float) -> None:
        self._gather_terms()
        means = {name: value / self.epoch.images for name, value in self.epoch.terms.items()}
        row = {"epoch": float(clock.epoch_number), "lr": lr, "loss": sum(means.values())} | {
            f"loss/{name}": value for name, value in means.items()
        }
        figures = self.task.epoch_figures(clock)
        model = self.average.module if self.average is not None else self.task.model
        for name, images in self.job.monitors.items():
            outputs = run_model(model, images, self.stage.views[0], self.job.mean, self.job.std, self.job.trainer)
            row[f"{name}/accuracy"] = float((outputs["logits"].argmax(-1) == images.labels).mean())
            self._keep_best(name, row[f"{name}/accuracy"], model)
        if "score" in figures:
            self._keep_best("score", -figures["score"], model)
        row |= figures
        self.task.train()
        self.history.append(row)
        self.epoch = _Epoch()

    def _keep_best(self, selection: str, merit: float, model: nn.Module) -> None:
        if selection not in self.best or merit > self.best[selection][0]:
            self.best[selection] = (merit, portable(model.state_dict()))

    def _gather_terms(self) -> None:
        """Sum the epoch's terms over the ranks; rank 0 alone holds them while the epoch goes on, for it alone saves them."""
        names = sorted(self.epoch.terms)
        sums = summed([self.epoch.terms[name] for name in names], self.device)
        self.epoch.terms = dict(zip(names, sums, strict=True))

    def _save(self, finished: bool) -> None:
        self._gather_terms()
        if rank() != 0:
            self.epoch.terms = dict.fromkeys(self.epoch.terms, 0.0)
            return
        tensors = {f"model/{name}": tensor for name, tensor in self.task.model.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average/{name}": tensor for name, tensor in self.average.module.state_dict().items()}
        for name, (_, state) in self.best.items():
            tensors |= {f"best/{name}/{key}": tensor for key, tensor in state.items()}
        if not finished:
            for number, values in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{number}/{key}": tensor for key, tensor in values.items() if isinstance(tensor, Tensor)}
            tensors |= {f"memory/{name}": tensor for name, tensor in self.task.memory.state_dict().items()}
        facts = {
            "fingerprint": self.job.fingerprint,
            "finished": finished,
            "step": self.step,
            # at an epoch's end the sampler itself has moved on; inside one the epoch's order is drawn again from where it began
            "sampler": self.sampler.state() if self._clock().step_in_epoch == 0 else self.sampler_state,
            "terms": self.epoch.terms,
            "images": self.epoch.images,
            "history": self.history,
            "best": {name: score for name, (score, _) in self.best.items()},
            "averaged": int(self.average.n_averaged) if self.average is not None else 0,
            "scaler": self.scaler.state_dict(),
            "timing": self._timing(),
        }
        self.job.workspace.save(TrainingState(tensors, facts))

    def _restore(self, state: TrainingState) -> None:
        facts = state.facts
        self.task.model.load_state_dict(state.part("model"))
        self.task.memory.load_state_dict(state.part("memory"))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for key, tensor in state.part("optimizer").items():
            number, name = key.split("/")
            parameter = parameters[int(number)]
            # the layout of the parameter keeps the fused kernels on the path they took before
            like = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
            self.optimizer.state[parameter][name] = like.copy_(tensor)
        if self.average is not None:
            self.average.module.load_state_dict(state.part("average"))
            self.average.n_averaged.fill_(facts["averaged"])
        self.best = {name: (score, state.part(f"best/{name}")) for name, score in facts["best"].items()}
        self.scaler.load_state_dict(facts["scaler"])
        self.sampler.restore(facts["sampler"])
        self.step, self.history, self.seconds = facts["step"], facts["history"], facts["timing"]["seconds"]
        self.epoch = _Epoch(facts["terms"] if rank() == 0 else dict.fromkeys(facts["terms"], 0.0), facts["images"])

    def _timing(self) -> dict[str, Any]:
        images = self._seen()
        hardware = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return {
            "seconds": self.seconds,
            "images": images,
            "images_per_second": images / self.seconds if self.seconds else 0.0,
            "steps_per_epoch": self.steps_per_epoch,
            "device": hardware,
            "precision": self.job.trainer.precision,
            "processes": world_size(),
        }

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note SIGTERM and SIGINT so that the loop can save and leave between two steps."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _: object) -> None:
            self.stop_signal = number

        former = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
