# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Many tasks at once: one trunk, a head for each, and a step for one task after another.

Source: Lu et al., "12-in-1", CVPR 2020, section 3.2 (round robin, dynamic stop-and-go).

Reading order: when a task stops and goes on; which task a step trains; `MultiTaskTrainer`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from .data_collators import Batch, SampleDraws
from .training import ViLBertTrainer


# Stop and go


@dataclass
class StopAndGo:
    """Whether a task has had enough: it stops when its score no longer rises, and goes on when it falls.

    The rule of 12-in-1's code. A score above `best * (1 + threshold)` is a new best one; another is a bad one. More
    than `patience` bad ones in a row stop the task. A stopped task goes on when a score is below
    `best * (1 - continue_threshold)`. After either, the next `cooldown` scores are not counted as bad.

    Args:
        patience: bad scores in a row that are borne.
        threshold: relative rise that counts.
        continue_threshold: relative fall from the best that lets a stopped task go on.
        cooldown: scores after a change that are not counted.

    Example:

    ```python
    >>> from modeling_vilbert import StopAndGo
    >>> task = StopAndGo()
    >>> [task.update(score) for score in (50, 60, 60.01, 60.02, 59)]
    [False, False, False, True, False]

    ```
    """

    patience: int = 1
    threshold: float = 0.001
    continue_threshold: float = 0.005
    cooldown: int = 1
    best: float | None = None
    bad: int = 0
    cooling: int = 0
    stopped: bool = False

    def update(self, score: float) -> bool:
        """Take the score of an evaluation (higher is better, at least 0), and return whether the task is stopped."""
        if not score >= 0:
            raise ValueError(f"score must be a number of at least 0, got {score}.")
        if self.best is None or score > self.best * (1 + self.threshold):
            self.best, self.bad = score, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.bad = 0
        if self.bad > self.patience:
            self.stopped, self.cooling, self.bad = True, self.cooldown, 0
        elif self.stopped and score < self.best * (1 - self.continue_threshold):
            self.stopped, self.cooling, self.bad = False, self.cooldown, 0
        return self.stopped


# Which task a step trains


ORDERS = ("round_robin", "proportional", "temperature")


class TaskBatches(torch.utils.data.Sampler):
    """Batches of one task each, as indices into the tasks' data sets laid one after another.

    A step trains one task: with "round_robin" the tasks in turn, otherwise one drawn with a chance in proportion to
    `size ** (1 / temperature)`. A stopped task is visited in every `gap`-th of its turns only (or drawn so much less
    often), and the others take its place: the number of steps stays. A task's examples come in a new order in every
    pass; a batch may reach from one pass into the next.

    What is drawn is a function of the arguments and of `stopped`, whatever came of earlier epochs is replayed. So a
    run that is resumed draws what an undisturbed one does.

    Args:
        sizes: task -> number of examples.
        batch_sizes: task -> examples of a batch, on one process.
        steps_per_epoch: optimizer steps until the tasks that rest are looked up anew.
        order: one of `ORDERS`; "proportional" is "temperature" with a temperature of 1.
        temperature: above 1, small tasks are drawn more often than their size says.
        gap: see above.
        batches_per_step: accumulated batches.
        processes, rank: how many processes share a step's batches, and which of them this is.
        seed: of all orders.

    Attributes:
        epoch: which epoch the next iteration is.
        stopped: for each epoch, the tasks that rest in it.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        batch_sizes: Mapping[str, int],
        steps_per_epoch: int,
        order: str = "round_robin",
        temperature: float = 1.0,
        gap: int = 4,
        batches_per_step: int = 1,
        processes: int = 1,
        rank: int = 0,
        seed: int = 0,
    ):
        if order not in ORDERS:
            raise ValueError(f"order must be one of {list(ORDERS)}, got {order!r}.")
        for name, value in (("temperature", temperature), ("gap", gap), ("steps_per_epoch", steps_per_epoch)):
            if value < (1 if name != "temperature" else 1e-6):
                raise ValueError(f"{name} must be at least 1 (temperature: above 0), got {value!r}.")
        if empty := [task for task, size in sizes.items() if size == 0]:
            raise ValueError(f"sizes: the training data of {empty} are empty.")
        self.sizes, self.batch_sizes, self.steps_per_epoch = dict(sizes), dict(batch_sizes), steps_per_epoch
        self.order, self.gap, self.batches_per_step = order, gap, batches_per_step
        self.processes, self.rank, self.seed = processes, rank, seed
        chances = np.array([*sizes.values()], float) ** (1 / (1.0 if order == "proportional" else temperature))
        self.chances = chances / chances.sum()
        starts = np.cumsum([0, *sizes.values()])
        self.starts = dict(zip(sizes, starts.tolist()))
        self.epoch = 0
        self.stopped: list[list[str]] = []
        self._passes: dict[str, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch * self.batches_per_step

    def __iter__(self) -> Iterator[list[int]]:
        for task, visit in self.steps(self.epoch):
            size = self.batch_sizes[task]
            first = visit * self.batches_per_step * self.processes * size
            for batch in range(self.batches_per_step):
                start = first + (batch * self.processes + self.rank) * size
                yield [self._example(task, place) for place in range(start, start + size)]

    def steps(self, epoch: int) -> list[tuple[str, int]]:
        """The task of each step of an epoch, and how often it was visited before."""
        tasks, visits, turn, steps = list(self.sizes), dict.fromkeys(self.sizes, 0), 0, []
        for number in range(epoch + 1):
            rest = set(self.stopped[number]) if number < len(self.stopped) else set()
            if self.order == "round_robin":
                names = []
                while len(names) < self.steps_per_epoch:
                    task = tasks[turn % len(tasks)]
                    if task not in rest or turn // len(tasks) % self.gap == 0:
                        names.append(task)
                    turn += 1
            else:
                chances = self.chances / np.array([self.gap if task in rest else 1 for task in tasks])
                drawn = np.random.default_rng([self.seed, number])
                names = drawn.choice(tasks, self.steps_per_epoch, p=chances / chances.sum()).tolist()
            steps = []
            for task in names:
                steps.append((task, visits[task]))
                visits[task] += 1
        return steps

    def passes(self, task: str, epochs: int) -> int:
        """How often so many epochs go through a task's examples, had no task ever rested."""
        share = 1 / len(self.sizes) if self.order == "round_robin" else self.chances[list(self.sizes).index(task)]
        visited = epochs * self.steps_per_epoch * share
        return int(visited * self.batches_per_step * self.processes * self.batch_sizes[task] / self.sizes[task])

    def _example(self, task: str, place: int) -> int:
        number, place = divmod(place, self.sizes[task])
        known = self._passes.get(task)
        if known is None or known[0] != number:
            order = np.random.default_rng([self.seed, self.starts[task], number]).permutation(self.sizes[task])
            known = self._passes[task] = (number, order)
        return self.starts[task] + int(known[1][place])


@dataclass
class TaskData:
    """What `MultiTaskTrainer` needs of a task.

    Args:
        train: training examples, dicts.
        collator: examples -> batch.
        evaluation: examples to evaluate on.
        compute_metrics: as `Trainer` takes it; its first number is the task's score, the higher the better.
        batch_size: examples of a batch. Default: `per_device_train_batch_size`.
        loss_scale: factor of the loss. 12-in-1's is the task's learning rate over the least of all tasks'.
    """

    train: Any
    collator: Callable[[list[dict]], Batch]
    evaluation: Any = None
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None
    batch_size: int | None = None
    loss_scale: float = 1.0


class TaskExamples(torch.utils.data.Dataset):
    """The examples of tasks one after another, each with its task."""

    def __init__(self, datasets: Mapping[str, Any]):
        self.datasets = dict(datasets)
        self.ends = np.cumsum([len(dataset) for dataset in self.datasets.values()])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> dict[str, Any]:
        which = int(np.searchsorted(self.ends, number, side="right"))
        task = list(self.datasets)[which]
        dataset = self.datasets[task]
        return {**dataset[int(number - self.ends[which] + len(dataset))], "task": task}


class _TaskCollator(SampleDraws):
    """Batches of one task, by the collator of that task, with its name."""

    def __init__(self, collators: Mapping[str, Callable]):
        super().__init__()
        self.collators = dict(collators)

    def set_epoch(self, epoch: int):
        super().set_epoch(epoch)
        for collator in self.collators.values():
            if isinstance(collator, SampleDraws):
                collator.set_epoch(epoch)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        task = examples[0]["task"]
        return {**self.collators[task](examples), "task": task}


class TaskProgress(TrainerCallback, ExportableState):
    """Which tasks rest, and why; saved with every checkpoint."""

    def __init__(self, batches: TaskBatches, controllers: Mapping[str, StopAndGo]):
        self.batches, self.controllers = batches, dict(controllers)
        self.scores: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.evaluated: dict[str, int] = {}
        self._save_later = False

    def state(self) -> dict:
        return {
            "args": {},
            "attributes": {
                "stopped": self.batches.stopped,
                "scores": self.scores,
                "metrics": self.metrics,
                "evaluated": self.evaluated,
                "controllers": {task: asdict(controller) for task, controller in self.controllers.items()},
            },
        }

    def on_train_begin(self, args, state, control, **kwargs):
        self.batches.stopped, self.scores, self.metrics, self.evaluated = [], {}, {}, {}
        self.controllers = {
            task: StopAndGo(
                controller.patience, controller.threshold, controller.continue_threshold, controller.cooldown
            )
            for task, controller in self.controllers.items()
        }
        saved = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step and saved:
            found = saved["attributes"]
            if found["controllers"].keys() != self.controllers.keys():
                raise ValueError(
                    f"The checkpoint is of a run in which {sorted(found['controllers'])} stop and go, and now "
                    f"{sorted(self.controllers)} do: go on with the same tasks and stop_and_go."
                )
            self.batches.stopped, self.scores, self.metrics, self.evaluated = (
                found[name] for name in ("stopped", "scores", "metrics", "evaluated")
            )
            # In our order: what is saved as JSON comes back sorted.
            self.controllers = {task: StopAndGo(**found["controllers"][task]) for task in self.controllers}

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        epoch = int(state.epoch or 0)
        self.batches.epoch = epoch
        if len(self.batches.stopped) == epoch:
            self.batches.stopped.append([task for task, controller in self.controllers.items() if controller.stopped])

    def on_step_end(self, args, state, control, **kwargs):
        # At the end of an epoch the evaluation comes first: a checkpoint must know what it decided.
        if control.should_save and state.global_step % self.batches.steps_per_epoch == 0:
            control.should_save, self._save_later = False, True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._save_later:
            control.should_save, self._save_later = True, False

    def due(self, task: str, state) -> bool:
        """Whether a task's examples were gone through once more since it was last evaluated, or training is over."""
        passes = self.batches.passes(task, int(state.epoch or 0))
        return passes > self.evaluated.get(task, -1) or state.global_step >= state.max_steps

    def take(self, task: str, metrics: dict[str, float], score: float | None, state):
        """What an evaluation of a task has found; the score is None without metrics of its own."""
        # Not how long it took.
        self.metrics |= {name: x for name, x in metrics.items() if not name.endswith(("_runtime", "_per_second"))}
        self.evaluated[task] = self.batches.passes(task, int(state.epoch or 0))
        if score is not None:
            self.scores[task] = score
            if task in self.controllers:
                self.controllers[task].update(score)


class MultiTaskTrainer(ViLBertTrainer):
    """Trains a `ViLBertForMultiTask` on many tasks at once, a task a step.

    An epoch of the Trainer is `steps_per_epoch` steps. With `eval_strategy="epoch"`, a task is evaluated after the
    first epoch, after each in which its examples were gone through once more, and at the end; the metrics are called
    `eval_<task>_<metric>`, and `eval_score` is the mean of the tasks' scores. In training all are the latest of each
    task, and any may be `metric_for_best_model`.

    Args:
        model: a `ViLBertForMultiTask` whose `config.tasks` has the names of `tasks`.
        args: of Trainer.
        tasks: name -> its `TaskData`.
        order, temperature, gap: as in `TaskBatches`.
        steps_per_epoch: default: so many that the task of the fewest batches is gone through once, with all tasks in
            turn.
        stop_and_go: the rule by which tasks rest, one for each task with a score; None: none ever rests. When all rest,
            training ends.
        **settings: those of Trainer.

    Raises:
        ValueError: for tasks that the model does not have, or without examples.
    """

    def __init__(
        self,
        model,
        args: TrainingArguments,
        tasks: Mapping[str, TaskData],
        order: str = "round_robin",
        temperature: float = 1.0,
        gap: int = 4,
        steps_per_epoch: int | None = None,
        stop_and_go: StopAndGo | None = None,
        **settings,
    ):
        if unknown := [task for task in tasks if task not in model.config.tasks] or not tasks:
            raise ValueError(
                f"tasks must be of {list(model.config.tasks)} (config.tasks), got {list(tasks)}: {unknown}."
            )
        if args.restore_callback_states_from_checkpoint:
            raise ValueError(
                "restore_callback_states_from_checkpoint must be false: which tasks rest is restored without it."
            )
        if args.train_sampling_strategy != "random":
            raise ValueError(
                f"train_sampling_strategy must be 'random', got {args.train_sampling_strategy!r}: which examples come "
                "together is said by order and by the tasks."
            )
        self.tasks = dict(tasks)
        evaluated = {task: data for task, data in tasks.items() if data.evaluation is not None}
        super().__init__(
            model,
            args,
            _TaskCollator({task: data.collator for task, data in tasks.items()}),
            TaskExamples({task: data.train for task, data in tasks.items()}),
            {task: TaskExamples({task: data.evaluation}) for task, data in evaluated.items()} or None,
            **settings,
        )
        sizes = {task: len(data.train) for task, data in tasks.items()}
        batch_sizes = {task: data.batch_size or args.per_device_train_batch_size for task, data in tasks.items()}
        together = args.gradient_accumulation_steps * args.world_size
        least = min(-(-sizes[task] // (batch_sizes[task] * together)) for task in tasks)
        self.batches = TaskBatches(
            sizes,
            batch_sizes,
            steps_per_epoch or max(least, 1) * len(tasks),
            order,
            temperature,
            gap,
            args.gradient_accumulation_steps,
            args.world_size,
            args.process_index,
            args.seed,
        )
        scored = [task for task, data in evaluated.items() if data.compute_metrics is not None]
        self.progress = TaskProgress(
            self.batches, {task: replace(stop_and_go) for task in scored} if stop_and_go is not None else {}
        )
        self.add_callback(self.progress)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        # The batches are this process's own already.
        return torch.utils.data.DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            persistent_workers=self.args.dataloader_persistent_workers,
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch: dict | None = None):
        scale = self.tasks[inputs["task"]].loss_scale
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # As it is in evaluation.
        if not model.training:
            return found
        return (scale * found[0], found[1]) if return_outputs else scale * found

    def evaluate(
        self,
        eval_dataset: str | Mapping[str, TaskData] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate a task by its name, all (in training: all that are due), or by other `TaskData`: name -> that."""
        own = eval_dataset is None or isinstance(eval_dataset, str)
        if own:
            chosen = {task: data for task, data in self.tasks.items() if eval_dataset in (None, task)}
            chosen = {task: data for task, data in chosen.items() if data.evaluation is not None}
        else:
            chosen = dict(eval_dataset)
        if not chosen or not chosen.keys() <= self.tasks.keys():
            raise ValueError(
                f"eval_dataset must be of {list(self.tasks)} that have examples to evaluate on, got {eval_dataset!r}."
            )

        in_training = own and self.is_in_train
        metrics, scores = {}, {}
        for task, data in chosen.items():
            if in_training and not self.progress.due(task, self.state):
                continue
            measured = self._measure_by(data)
            examples = TaskExamples({task: data.evaluation})
            found = super().evaluate(examples, ignore_keys, f"{metric_key_prefix}_{task}")
            metrics |= found
            if measured:
                scores[task] = measured[0]
            if in_training:
                self.progress.take(task, found, scores.get(task), self.state)
        controllers = self.progress.controllers.values()
        if in_training and controllers and all(controller.stopped for controller in controllers):
            # No task would ever fall and go on.
            self.control.should_training_stop = True
        if in_training:
            # The best model may be known by the metric of a task that was not due.
            metrics, scores = {**self.progress.metrics, **metrics}, self.progress.scores
        if scores:
            combined = {f"{metric_key_prefix}_score": sum(scores.values()) / len(scores)}
            self.log(combined)
            # Callbacks have seen each task's metrics, once; one may stop the training by their mean.
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, combined)
            metrics |= combined
        return metrics

    def _measure_by(self, data: TaskData) -> list[float]:
        """Have the next evaluation use the metrics of a task, and put its first number into the list returned."""
        scores: list[float] = []

        def measure(prediction: EvalPrediction) -> dict[str, float]:
            metrics = data.compute_metrics(prediction)
            scores.append(float(next(iter(metrics.values()))))
            return metrics

        self.compute_metrics = None if data.compute_metrics is None else measure
        return scores
