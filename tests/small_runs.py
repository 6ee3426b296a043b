"""Small trainings that several tests run, also as a script on several processes: `torchrun ... small_runs.py KIND OUT`.

They are without dropout, so that one process and two compute the same.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from tiny import tiny_config, tiny_inputs
from transformers import TrainerCallback, TrainingArguments

from modeling_vilbert import (
    MultiTaskTrainer,
    TaskData,
    ViLBertForMultiTask,
    ViLBertForPreTraining,
    ViLBertTrainer,
)


TASKS = {
    "vqa": {"head": "question_answering", "num_labels": 5},
    "grounding": {"head": "grounding"},
    "entailment": {"head": "classification", "num_labels": 3},
}


def config_without_dropout(**fields):
    config = tiny_config(fusion_dropout=0.0, **fields)
    for stream in (config.text_config, config.vision_config):
        stream.hidden_dropout_prob = stream.attention_probs_dropout_prob = 0.0
    return config


def examples(count: int, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    inputs = tiny_inputs(batch=count, seed=seed)
    return [{name: value[number] for name, value in inputs.items()} for number in range(count)]


def pretraining_examples(count: int) -> list[dict[str, torch.Tensor]]:
    """Some of which have much to predict and some nothing."""
    draw = torch.Generator().manual_seed(2)
    found = examples(count)
    for number, one in enumerate(found):
        share = (0.0, 0.2, 0.9)[number % 3]
        words, regions = one["input_ids"], one["region_attention_mask"]
        predicted = torch.rand(words.shape, generator=draw) < share
        one["labels"] = torch.where(predicted & one["attention_mask"].bool(), words, -100)
        one["masked_regions"] = (torch.rand(regions.shape, generator=draw) < share) & regions.bool()
        one["region_targets"] = torch.rand(len(regions), 9, generator=draw).softmax(-1)
        one["alignment_labels"] = torch.tensor((0, 1, -100)[number % 3])
    return found


def stack(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([one[name] for one in batch]) for name in batch[0]}


def task_data(size: int = 1) -> dict[str, TaskData]:
    """`size`: how many times as large batches are."""
    draw = torch.Generator().manual_seed(3)
    vqa, grounding, entailment = examples(22, 1), examples(12, 2), examples(9, 3)
    for one in vqa:
        one["labels"] = torch.rand(5, generator=draw)
    for one in grounding:
        one["labels"] = torch.rand(5, generator=draw)
    for one in entailment:
        one["labels"] = torch.randint(0, 3, (), generator=draw)
    data = {"vqa": vqa, "grounding": grounding, "entailment": entailment}
    return {
        task: TaskData(
            found,
            without_task,
            evaluation=found[:7],
            compute_metrics=Accuracy(),
            batch_size=size * (2 + number),
            loss_scale=1.0 + number,
        )
        for number, (task, found) in enumerate(data.items())
    }


def without_task(batch: list[dict]) -> dict[str, torch.Tensor]:
    return stack([{name: value for name, value in one.items() if name != "task"} for one in batch])


class Accuracy:
    """A number from 0 to 1 that every step changes."""

    def __call__(self, prediction) -> dict[str, float]:
        return {"accuracy": 1 / (1 + np.abs(prediction.predictions[:, 0]).mean())}


class Losses(TrainerCallback):
    """The loss of every step."""

    def __init__(self):
        self.steps: list[tuple[int, float]] = []

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            self.steps.append((state.global_step, logs["loss"]))


def arguments(folder, **settings) -> TrainingArguments:
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": 8,
        "max_steps": 20,
        "seed": 5,
    }
    return TrainingArguments(**{**defaults, **settings})


def pretraining(folder, callbacks=(), resume=None, **settings) -> tuple[ViLBertTrainer, list]:
    torch.manual_seed(0)
    model, losses = ViLBertForPreTraining(config_without_dropout()), Losses()
    trainer = ViLBertTrainer(
        model, arguments(folder, **settings), stack, pretraining_examples(48), callbacks=[losses, *callbacks]
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, losses.steps


def many_tasks(folder, callbacks=(), resume=None, order="round_robin", stop_and_go=None, size=1, **settings):
    torch.manual_seed(0)
    model, losses = ViLBertForMultiTask(config_without_dropout(tasks=TASKS)), Losses()
    trainer = MultiTaskTrainer(
        model,
        arguments(folder, **settings),
        task_data(size),
        order,
        steps_per_epoch=6,
        stop_and_go=stop_and_go,
        callbacks=[losses, *callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, losses.steps


def main():
    kind, output = sys.argv[1], Path(sys.argv[2])
    settings = {"per_device_train_batch_size": 4}
    if kind == "fsdp":
        settings |= {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["ViLBertLayer"]}}
    trainer, losses = (many_tasks if kind == "tasks" else pretraining)(output, **settings)
    metrics = trainer.evaluate() if kind == "tasks" else {}
    if trainer.is_world_process_zero():
        output.mkdir(parents=True, exist_ok=True)
        (output / "losses.json").write_text(json.dumps(losses))
        (output / "metrics.json").write_text(json.dumps(metrics))
    # All is written. Gloo's threads may still run, and would abort a process that clears up behind them.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
