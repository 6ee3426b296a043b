# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Fine-tune ViLBERT on any of the transfer tasks: questions, choices, grounding, retrieval, pairs, entailment, ...

    pip install ".[examples]"
    python examples/finetune.py --task refcoco+                     # on composed scenes, in a minute on two CPU cores
    python examples/finetune.py --task vqa --model runs/pretrain    # from a pre-trained model
    python examples/finetune.py --task vqa --model FOLDER --regions STORE \
        --annotations v2_OpenEnded_mscoco_train2014_questions.json v2_mscoco_train2014_annotations.json \
        --eval_annotations v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json

1. Annotations in their official layout, or composed scenes in the same layout. `--regions` are stores of any format
   that `open_regions` reads; for tasks about given boxes, two of them: the detected and the given ones.
2. Training: `ViLBertTrainer` with what the papers used for the task; all of Trainer's arguments are this script's.
3. The task's own metrics on `--eval_annotations`, or on composed scenes with combinations that training never had;
   `--text_only` trains and evaluates without the images, to see what the words give away.
   `--evaluate_only` measures `--model` as it is.
4. In `--output_dir`: the model, its processor, `results.json`, and the submission file of a task that has one.
"""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scenes import scene_files
from small_model import SceneOptions, composed, of_first_images, parse, processor_of, small_config
from transformers import AutoConfig, TrainingArguments, set_seed

from modeling_vilbert import ViLBertForMultiTask, ViLBertTrainer, open_regions
from modeling_vilbert.annotations import CLASS_NAMES
from modeling_vilbert.configuration_vilbert import TWELVE_IN_ONE_TASKS
from modeling_vilbert.heads_vilbert import check_task_token
from modeling_vilbert.metrics import METRICS, Predictions
from modeling_vilbert.submissions import write_submission
from modeling_vilbert.tasks import MODELS, TASKS, labels_of, prepare_task, read_rows


# About relations and numbers of composed things, and about two images: with larger steps of the trunk, what it has
# learned in pre-training is lost before the new head has learned to read it.
SLOW_TO_LEARN = ("gqa", "nlvr2", "vcr_rationale")


@dataclass
class Options(SceneOptions):
    task: str = field(default="vqa", metadata={"choices": list(TASKS), "help": "which task"})
    annotations: list[str] = field(default_factory=list, metadata={"help": "official files; default: composed scenes"})
    split: str | None = field(default=None, metadata={"help": "which rows of files of several splits"})
    eval_annotations: list[str] = field(default_factory=list, metadata={"help": "the same, to evaluate on"})
    eval_split: str | None = field(default=None, metadata={"help": "the same, to evaluate on"})
    regions: list[str] = field(default_factory=list, metadata={"help": "stores of regions of the images"})
    eval_regions: list[str] = field(
        default_factory=list, metadata={"help": "the same, to evaluate on; default: --regions"}
    )
    model: str | None = field(
        default=None, metadata={"help": "folder of a model to start from; default: a small new one"}
    )
    most_answers: int | None = field(
        default=None, metadata={"help": "keep so many answers; default: of real data as in 12-in-1, 3129 of VQA"}
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "of the head; default: as in 12-in-1, 1e-4 but for grounding (composed scenes: see the code)"
        },
    )
    text_only: bool = field(default=False, metadata={"help": "show nothing of the images"})
    evaluate_only: bool = field(default=False, metadata={"help": "train nothing: evaluate --model as it is"})


def defaults_of(options: Options) -> dict[str, Any]:
    """Trainer's arguments: the papers' for real data, others for a small model and a short run."""
    row = TASKS[options.task]
    output = {"output_dir": f"runs/finetune/{options.task}"}
    if options.annotations:
        return output | {
            "learning_rate": row.learning_rate,
            "num_train_epochs": row.epochs,
            "per_device_train_batch_size": row.batch_size,
            "adam_epsilon": 1e-6,
        }
    slow = options.task in SLOW_TO_LEARN
    return output | {
        "learning_rate": 4e-4 if slow else 1e-3,
        "max_steps": 600 if slow else 300,
        # An example of these holds several pairs of text and image.
        "per_device_train_batch_size": {"choice": 16, "matching": 16, "images": 32}.get(row.head, 64),
        "per_device_eval_batch_size": {"choice": 16, "matching": 4, "images": 32}.get(row.head, 64),
    }


def head_learning_rate(options: Options) -> float | None:
    if options.head_learning_rate is not None:
        return options.head_learning_rate
    if options.annotations:
        # The original's rule is for classifiers; the score of a region is none.
        return None if TASKS[options.task].head == "grounding" else 1e-4
    return 3e-3 if options.task in SLOW_TO_LEARN else None


def read_data(options: Options, arguments: TrainingArguments) -> tuple[list, Any, list, Any]:
    """Rows and regions to train on, and to evaluate on."""
    if options.annotations:
        train = read_rows(options.task, options.annotations, options.split)
        test = read_rows(options.task, options.eval_annotations, options.eval_split)
        return train, open_regions(options.regions), test, open_regions(options.eval_regions or options.regions)
    folder = composed(options, arguments)
    train, test = (read_rows(options.task, *scene_files(folder, options.task, split)) for split in ("train", "test"))
    if TASKS[options.task].head == "matching":
        test = of_first_images(test)
    given = TASKS[options.task].given_boxes
    store = open_regions([folder / "regions", folder / "objects"] if given else folder / "regions")
    return train, store, test, store


def fits(task: str, labels: list[str] | None, id2label: dict[Any, str], count: int) -> bool:
    """Whether a trained head of so many outputs, and these names if it has any, is one for the task.

    Classes have fixed names, also where nobody wrote them down. Of answers the order is known by their names alone.
    """
    names = [name for _, name in sorted((int(number), name) for number, name in id2label.items())]
    named = bool(names) and names[0] != "LABEL_0"
    if labels is None:
        return True
    if task in CLASS_NAMES:
        return names == labels if named else count == len(labels)
    return named


def trained_model(options: Options, labels: list[str] | None) -> Any:
    """The saved model with its head for such a task, or None if it has none."""
    config, model_class = AutoConfig.from_pretrained(options.model), MODELS[TASKS[options.task].head]
    if model_class.__name__ in (config.architectures or ()):
        if fits(options.task, labels, config.id2label, config.num_labels):
            return model_class.from_pretrained(options.model)
    elif "ViLBertForMultiTask" in (config.architectures or ()):
        rows = {name: row for name, row in config.tasks.items() if row["head"] == TASKS[options.task].head}
        # The task's own first.
        for name in sorted(rows, key=lambda name: name != options.task):
            if fits(options.task, labels, rows[name].get("id2label", {}), rows[name].get("num_labels", 1)):
                return ViLBertForMultiTask.from_pretrained(options.model).as_task_model(name)
    return None


def new_model(options: Options, labels: list[str] | None) -> tuple[Any, list[str] | None]:
    """The model, and the names of its outputs: those that it was trained with, if it was for a task of this kind."""
    model_class, fields = MODELS[TASKS[options.task].head], {"id2label": dict(enumerate(labels or ["score"]))}
    if options.model is None:
        return model_class(small_config(**fields)), labels
    if (model := trained_model(options, labels)) is not None:
        if labels is not None and model.config.id2label[0] != "LABEL_0":
            return model, list(model.config.id2label.values())
        model.config.id2label = fields["id2label"]
        return model, labels
    if options.evaluate_only:
        sys.exit(
            f"{sys.argv[0]}: --evaluate_only: {options.model} has no head that is known to be for {options.task}. "
            "Answers are known by their names: vilbert convert --labels."
        )
    return model_class.from_pretrained(options.model, ignore_mismatched_sizes=True, **fields), labels


def task_token(config: Any, task: str) -> int | None:
    """What the model calls the task, or else 12-in-1."""
    if not config.num_task_tokens:
        return None
    token = config.tasks.get(task, {}).get("task_token", TASKS[task].task_token)
    check_task_token(config, token)
    return token


def chance(task: str, predictions: Predictions) -> float:
    """What the task's first metric gives to random scores, or to the same best guess for all, whichever is more."""
    drawn, shape = np.random.default_rng(0), predictions.logits.shape

    def score(logits: np.ndarray) -> float:
        return next(iter(METRICS[task](replace(predictions, logits=logits)).values()))

    # One after the other: those of VQA take gigabytes.
    scores = [score(drawn.standard_normal(shape, np.float32)) for _ in range(10)]
    if TASKS[task].head not in ("question_answering", "classification", "images"):
        return float(np.mean(scores))
    labels = predictions.labels
    known = labels[labels >= 0] if labels.ndim == 1 else labels
    frequency = known.mean(0) if labels.ndim == 2 else np.bincount(known, minlength=predictions.logits.shape[1])
    constant = np.broadcast_to(frequency.astype(np.float32), shape)
    return max(float(np.mean(scores)), score(constant))


def check(options: Options):
    """Before anything is read."""
    needed = ("eval_annotations", "regions")
    if options.annotations and (missing := [f"--{name}" for name in needed if not getattr(options, name)]):
        sys.exit(f"{sys.argv[0]}: --annotations needs {' and '.join(missing)}.")
    if options.evaluate_only and options.model is None:
        sys.exit(f"{sys.argv[0]}: --evaluate_only needs --model, which is evaluated.")
    of_files = (*needed, "eval_regions")
    if not options.annotations and (idle := [f"--{name}" for name in of_files if getattr(options, name)]):
        sys.exit(f"{sys.argv[0]}: {' and '.join(idle)} go with --annotations, which are missing.")


def most_answers(options: Options) -> int | None:
    if options.most_answers is None and options.annotations:
        return TWELVE_IN_ONE_TASKS.get(options.task, {}).get("num_labels")
    return options.most_answers


def main():
    options, arguments = parse(Options, defaults_of)
    check(options)
    set_seed(arguments.seed)
    train, train_regions, test, test_regions = read_data(options, arguments)
    model, labels = new_model(options, labels_of(options.task, train, most_answers(options)))
    data = prepare_task(
        options.task,
        processor_of(options.model),
        labels,
        train,
        train_regions,
        test,
        test_regions,
        blind=options.text_only,
        by_length=arguments.train_sampling_strategy == "group_by_length",
        seed=arguments.seed,
        task_token=task_token(model.config, options.task),
    )
    trainer = ViLBertTrainer(
        model,
        arguments,
        data.collator,
        data.train,
        data.evaluation,
        processing_class=data.collator.processor,
        compute_metrics=data.compute_metrics,
        head_learning_rate=head_learning_rate(options),
    )
    if not options.evaluate_only:
        trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
        trainer.save_model()

    predicted = trainer.predict(data.evaluation, metric_key_prefix="test")
    if not trainer.is_world_process_zero():
        return
    folder = Path(arguments.output_dir)
    results = {name.removeprefix("test_"): value for name, value in predicted.metrics.items()}
    predictions = data.predictions(predicted)
    write_submission(options.task, predictions, folder)
    if predicted.label_ids is not None:
        metric = next(iter(METRICS[options.task](predictions)))
        results |= {"metric": metric, "score": results[metric], "chance": chance(options.task, predictions)}
    results |= {
        "task": options.task,
        "examples": {"train": len(train), "test": len(test)},
        "steps": trainer.state.global_step,
        "text_only": options.text_only,
        "composed": not options.annotations,
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"{TASKS[options.task].title}, {'composed scenes' if results['composed'] else 'own files'}:")
    for name, value in results.items():
        print(f"  {name:<28}{value:.4f}" if isinstance(value, float) else f"  {name:<28}{value}")


if __name__ == "__main__":
    main()
