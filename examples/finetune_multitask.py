# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Train one ViLBERT on many tasks at once, as 12-in-1 did: task tokens, a task a step, tasks that stop and go.

    pip install ".[examples]"
    python examples/finetune_multitask.py --tasks vqa refcoco+ nlvr2 snli_ve
    python examples/finetune_multitask.py --tasks vqa gqa --order temperature --temperature 2 --stop_and_go false

1. Composed scenes in the official layouts of all tasks. No image that is a test image of one task is trained on in
   another (`clean_split`).
2. Training: `MultiTaskTrainer`; all of Trainer's arguments are this script's. Every epoch is a turn through the task of
   the fewest batches; with `--save_strategy epoch`, `--resume_from_checkpoint true` goes on where a run was stopped.
3. In `--output_dir`: the model with a head for each task, its processor, `results.json` with the metrics of held-out
   combinations, and which tasks rested in which epoch.

For data of your own, read rows with `read_rows` and regions with `open_regions`, as `read_data` does here.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from scenes import scene_files
from small_model import SceneOptions, composed, parse, processor_of, small_config
from transformers import set_seed

from modeling_vilbert import MultiTaskTrainer, StopAndGo, TaskData, ViLBertForMultiTask, open_regions
from modeling_vilbert.multitask_training import ORDERS
from modeling_vilbert.tasks import TASKS, clean_split, head_of, labels_of, prepare_task, read_rows


@dataclass
class Options(SceneOptions):
    tasks: list[str] = field(
        default_factory=lambda: ["vqa", "gqa", "refcoco+", "retrieval_coco", "nlvr2", "snli_ve"],
        metadata={"help": "which tasks", "choices": list(TASKS)},
    )
    model: str | None = field(
        default=None, metadata={"help": "folder of a model to start from; default: a small new one"}
    )
    head_learning_rate: float | None = field(
        default=3e-3, metadata={"help": "of the heads, which are new; --learning_rate is the trunk's"}
    )
    order: str = field(default="round_robin", metadata={"choices": list(ORDERS), "help": "which task comes next"})
    temperature: float = field(default=1.0, metadata={"help": "above 1, small tasks come more often"})
    stop_and_go: bool = field(default=True, metadata={"help": "let tasks rest that do not get better"})
    task_tokens: bool = field(default=True, metadata={"help": "tell the model by a token which task it is"})


def read_data(options: Options, arguments) -> tuple[dict[str, list], dict[str, list], dict[str, list], dict]:
    """Rows to train on, to choose by and to test on, and the regions of all images, by task."""
    folder = composed(options, arguments)
    train, val, test = (
        {task: read_rows(task, *scene_files(folder, task, split)) for task in options.tasks}
        for split in ("train", "val", "test")
    )
    detected, with_given = open_regions(folder / "regions"), open_regions([folder / "regions", folder / "objects"])
    stores = {task: with_given if TASKS[task].given_boxes else detected for task in options.tasks}
    clean = clean_split(train, test)
    removed = sum(map(len, train.values())) - sum(map(len, clean.values()))
    print(f"{removed} training rows left out: their images are test images of another task.")
    return clean, val, test, stores


def main():
    options, arguments = parse(
        Options,
        lambda options: {
            "output_dir": "runs/finetune_multitask",
            "num_train_epochs": 8,
            "learning_rate": 4e-4,
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 16,
            "eval_strategy": "epoch",
        },
    )
    set_seed(arguments.seed)
    train, val, test, stores = read_data(options, arguments)
    labels = {task: labels_of(task, rows) for task, rows in train.items()}
    fields = {
        "tasks": {task: head_of(task, labels[task]) for task in options.tasks},
        "num_task_tokens": 20 if options.task_tokens else 0,
    }
    if options.model is None:
        model = ViLBertForMultiTask(small_config(**fields))
    else:
        model = ViLBertForMultiTask.from_pretrained(options.model, ignore_mismatched_sizes=True, **fields)
    processor = processor_of(options.model)
    least = min(TASKS[task].learning_rate for task in options.tasks)

    def prepared(task: str, evaluation: list) -> TaskData:
        # The papers' learning rates say how much a task's loss weighs.
        scale = TASKS[task].learning_rate / least
        store = stores[task]
        return prepare_task(
            task, processor, labels[task], train[task], store, evaluation, store, seed=arguments.seed, loss_scale=scale
        )

    trainer = MultiTaskTrainer(
        model,
        arguments,
        {task: prepared(task, val[task]) for task in options.tasks},
        options.order,
        options.temperature,
        stop_and_go=StopAndGo() if options.stop_and_go else None,
        processing_class=processor,
        head_learning_rate=options.head_learning_rate,
    )
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model()

    metrics = trainer.evaluate({task: prepared(task, test[task]) for task in options.tasks}, metric_key_prefix="test")
    results = {
        task: {
            name.removeprefix(f"test_{task}_"): value
            for name, value in metrics.items()
            if name.startswith(f"test_{task}_")
        }
        for task in options.tasks
    }
    if trainer.is_world_process_zero():
        report = {"test": results, "steps": trainer.state.global_step, "resting": trainer.batches.stopped}
        (Path(arguments.output_dir) / "results.json").write_text(json.dumps(report, indent=2) + "\n")
        print(f"\n{'Test, composed scenes with unseen combinations':<50}{'metric':<28}{'value':>8}")
        for task, metrics in results.items():
            name, value = next((name, value) for name, value in metrics.items() if name != "loss")
            print(f"{TASKS[task].title:<50}{name:<28}{value:>8.3f}")


if __name__ == "__main__":
    main()
