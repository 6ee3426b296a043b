# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The transfer tasks, a row each: what head they need, how long texts are, and what the papers trained them with.

Sources: Lu et al., "ViLBERT", NeurIPS 2019, section 4; Lu et al., "12-in-1", CVPR 2020, sections 3 and 4.

Reading order: `TASKS`; labels and models of a task; `prepare_task`, which makes of rows and regions what a trainer
needs.
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import EvalPrediction
from transformers.utils import logging

from .annotation_records import as_paths
from .annotations import CLASS_NAMES, READERS, check_rows
from .caption_groups import CaptionRanking, ViLBertRetrievalCollator, similar_images
from .data_collators import ViLBertTaskCollator
from .heads_vilbert import (
    ViLBertForImageAndTextRetrieval,
    ViLBertForImagesAndTextClassification,
    ViLBertForMultipleChoice,
    ViLBertForQuestionAnswering,
    ViLBertForSequenceClassification,
    ViLBertForVisualGrounding,
    ViLBertTaskModel,
)
from .lengths import REGIONS, TOKENS, add_lengths, like_lengths
from .metrics import METRICS, Predictions, some_ids
from .multitask_training import TaskData
from .optional_packages import need
from .processing_vilbert import ViLBertProcessor
from .regions import join_regions
from .regions_vilbert import Regions


logger = logging.get_logger(__name__)

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """A row of `TASKS`.

    Args:
        title: what people call it.
        images: where its images are from; in tasks of the same images, one id is one image.
        head: a key of `heads_vilbert.HEADS`.
        max_tokens, max_regions: longest text and most regions of an image (the whole image not counted).
        batch_size, learning_rate, epochs: what the papers trained with.
        task_token: its index in 12-in-1's table of task tokens.
        drawn_choices: how many of the choices a training example shows; None shows all.
        neighbors: how many similar images hard negatives are drawn from.
        given_boxes: whether the annotated boxes have to be among the regions.
    """

    title: str
    images: str
    head: str
    max_tokens: int
    max_regions: int
    batch_size: int
    learning_rate: float
    epochs: int
    task_token: int
    drawn_choices: int | None = None
    neighbors: int | None = None
    given_boxes: bool = False


_ANSWERS, _CLASSES, _BOXES = "question_answering", "classification", "grounding"

# Hateful Memes is in neither paper: settings are those of the like-sized entailment; its token is a free one.
# fmt: off
TASKS: dict[str, Task] = {
    "vqa": Task("VQA v2", "coco", _ANSWERS, 23, 100, 128, 4e-5, 20, 1),
    "genome_qa": Task("Visual Genome QA", "genome", _ANSWERS, 26, 100, 128, 4e-5, 20, 2),
    "visual_dialog": Task("Visual Dialog", "coco", "choice", 50, 100, 64, 4e-5, 20, 3, drawn_choices=4),
    "visual7w": Task("Visual7W pointing", "genome", _BOXES, 20, 199, 256, 2e-5, 20, 4, given_boxes=True),
    "vcr_answer": Task("VCR Q->A", "movies", "choice", 60, 100, 64, 2e-5, 10, 5, given_boxes=True),
    "vcr_rationale": Task("VCR QA->R", "movies", "choice", 80, 100, 64, 2e-5, 10, 6, given_boxes=True),
    "retrieval_coco": Task("Retrieval, COCO", "coco", "matching", 30, 100, 128, 2e-5, 20, 7, neighbors=100),
    "retrieval_flickr30k": Task("Retrieval, Flickr30k", "flickr", "matching", 30, 100, 128, 2e-5, 20, 8, neighbors=100),
    "refcoco": Task("RefCOCO", "coco", _BOXES, 20, 100, 256, 2e-5, 20, 9),
    "refcoco+": Task("RefCOCO+", "coco", _BOXES, 20, 100, 256, 2e-5, 20, 10),
    "refcocog": Task("RefCOCOg", "coco", _BOXES, 20, 100, 256, 2e-5, 20, 11),
    "nlvr2": Task("NLVR2", "nlvr2", "images", 40, 100, 64, 2e-5, 20, 12),
    "snli_ve": Task("SNLI-VE", "flickr", _CLASSES, 56, 100, 256, 2e-5, 20, 13),
    "guesswhat_answers": Task("GuessWhat, answers", "coco", _CLASSES, 25, 100, 256, 4e-5, 20, 14, given_boxes=True),
    "gqa": Task("GQA", "genome", _ANSWERS, 26, 100, 128, 4e-5, 20, 15),
    "foil": Task("FOIL", "coco", _CLASSES, 20, 100, 256, 4e-5, 20, 16),
    "guesswhat_pointing": Task("GuessWhat, pointing", "coco", _BOXES, 256, 305, 64, 2e-5, 20, 17, given_boxes=True),
    "flickr30k_grounding": Task("Flickr30k Entities", "flickr", _BOXES, 24, 199, 256, 2e-6, 20, 18),
    "hateful_memes": Task("Hateful Memes", "memes", _CLASSES, 128, 100, 128, 2e-5, 20, 19),
}
# fmt: on

MODELS: dict[str, type[ViLBertTaskModel]] = {
    model.head_type: model
    for model in (
        ViLBertForQuestionAnswering,
        ViLBertForSequenceClassification,
        ViLBertForImagesAndTextClassification,
        ViLBertForMultipleChoice,
        ViLBertForImageAndTextRetrieval,
        ViLBertForVisualGrounding,
    )
}


def find_task(name: str) -> Task:
    """The row of a task, or a ValueError that lists all."""
    if name not in TASKS:
        raise ValueError(f"task must be one of {sorted(TASKS)}, got {name!r}.")
    return TASKS[name]


def read_rows(name: str, files: str | Path | Sequence[str | Path], split: str | None = None) -> list[dict]:
    """The rows of a split out of its official annotation files, checked.

    Args:
        name: of the task.
        files: one or several, as the data set's authors gave them out; `annotations.READERS` says which.
        split: which rows to take, for files of several splits (RefCOCO, Karpathy's, Visual7W).

    Raises:
        ValueError: for files of another layout, and for rows that cannot be trained on; they are named.
    """
    find_task(name)
    rows = READERS[name](as_paths(files), split)
    check_rows(rows, name)
    return rows


def labels_of(name: str, rows: Rows, most: int | None = None) -> list[str] | None:
    """The names of a task's outputs: its classes, or the answers of `rows`, the most given first; None without any.

    Args:
        most: so many answers are kept; 12-in-1 knows 3,129 of VQA and 1,533 of GQA.

    Example:

    ```python
    >>> from modeling_vilbert.tasks import labels_of
    >>> labels_of("gqa", [{"answers": ["red"]}, {"answers": ["blue"]}, {"answers": ["blue"]}])
    ['blue', 'red']
    >>> labels_of("snli_ve", [])
    ['contradiction', 'neutral', 'entailment']

    ```
    """
    task = find_task(name)
    if name in CLASS_NAMES:
        return list(CLASS_NAMES[name])
    if task.head != _ANSWERS:
        return None
    counts = Counter()
    for row in rows:
        counts.update(dict(zip(row["answers"] or (), row.get("scores") or [1.0] * len(row["answers"] or ()))))
    if not counts:
        raise ValueError(f"rows of {name} hold no answer to learn.")
    return [answer for answer, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]]


def head_of(name: str, labels: Sequence[str] | None) -> dict[str, Any]:
    """The entry of `config.tasks` of a `ViLBertForMultiTask`."""
    task = find_task(name)
    head = {"head": task.head, "num_labels": len(labels) if labels else 1, "task_token": task.task_token}
    # Keys are text, as in the JSON file that it will be saved to.
    return head | ({"id2label": {str(number): label for number, label in enumerate(labels)}} if labels else {})


def clean_split(
    train: Mapping[str, Rows], test: Mapping[str, Rows], genome_to_coco: Mapping[str, str] | None = None
) -> dict[str, list]:
    """The training rows of many tasks without those whose image is a test image of any task (12-in-1, section 3.3).

    Without it, what a model has seen in one task's training is what it is tested on in another.

    Args:
        train, test: task -> rows. Ids are compared among tasks of the same images (`Task.images`).
        genome_to_coco: id in Visual Genome -> id in COCO. Half of Visual Genome's images are COCO's under other
            numbers; its `image_data.json` knows them. Default: the two are taken for strangers.

    Raises:
        ValueError: if no training row of a task is left.

    Example:

    ```python
    >>> from modeling_vilbert.tasks import clean_split
    >>> train = {"vqa": [{"image_id": "1"}, {"image_id": "2"}], "nlvr2": [{"image_id": ["1", "3"]}]}
    >>> clean_split(train, {"refcoco": [{"image_id": "2"}]})
    {'vqa': [{'image_id': '1'}], 'nlvr2': [{'image_id': ['1', '3']}]}

    ```
    """

    def images(task: str, row: Mapping[str, Any]) -> set[tuple[str, str]]:
        found, image_id = set(), row["image_id"]
        for name in image_id if isinstance(image_id, list) else [image_id]:
            # Visual7W's file names have the number of Visual Genome.
            key = (find_task(task).images, name.removeprefix("v7w_"))
            if key[0] == "genome" and key[1] in (genome_to_coco or {}):
                key = ("coco", genome_to_coco[key[1]])
            found.add(key)
        return found

    tested = {image for task, rows in test.items() for row in rows for image in images(task, row)}
    clean = {task: [row for row in rows if tested.isdisjoint(images(task, row))] for task, rows in train.items()}
    if emptied := [task for task, rows in clean.items() if train[task] and not rows]:
        raise ValueError(f"train: every row of {emptied} is about a test image.")
    return clean


@dataclass
class PreparedTask(TaskData):
    """A `TaskData` that `prepare_task` has made, and what its examples to evaluate on are about.

    Args:
        name: of the task.
        labels: names of the head's outputs.
        rows: annotations of the examples to evaluate on.
    """

    name: str = ""
    labels: Sequence[str] | None = None
    rows: Rows | None = None

    def __post_init__(self):
        if self.rows is not None:
            self.compute_metrics = self.measure

    def predictions(self, prediction: EvalPrediction) -> Predictions:
        """What a trainer predicted (`trainer.predict(data.evaluation)`), beside the rows that it is about."""
        logits, labels = prediction.predictions, prediction.label_ids
        if isinstance(self.evaluation, CaptionRanking):
            logits, labels = self.evaluation.matrix(logits), None
        return Predictions(logits, labels, self.rows, self.labels or ())

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """The task's metrics of what a trainer predicted."""
        return METRICS[self.name](self.predictions(prediction))


def prepare_task(
    name: str,
    processor: ViLBertProcessor,
    labels: Sequence[str] | None,
    train: Rows | None = None,
    train_regions: Mapping[str, Regions] | None = None,
    evaluation: Rows | None = None,
    evaluation_regions: Mapping[str, Regions] | None = None,
    blind: bool = False,
    by_length: bool = False,
    seed: int = 0,
    task_token: int | None = None,
    **settings,
) -> PreparedTask:
    """Rows of annotations and stores of regions -> data sets, collator and metrics of a task, for a trainer.

    Args:
        name: of the task.
        processor: its tokenizer and image processor; for a task of more regions than it takes, with that many.
        labels: names of the head's outputs, in order; of `labels_of`, or of a trained model's config.
        train, evaluation: rows of `read_rows`.
        train_regions, evaluation_regions: image id -> `Regions`, of `open_regions`. For tasks about given boxes, those
            are among the regions: `open_regions([detected, given])`.
        blind: show nothing of the images.
        by_length: count tokens and regions of the training examples, for `train_sampling_strategy="group_by_length"`,
            and evaluate like lengths together (`rows` are in that order). Not for retrieval, whose examples are groups
            with other texts and images.
        seed: of what is drawn: negatives, choices.
        task_token: for a model of this task alone that has task tokens; 12-in-1's are in `TASKS`.
        **settings: further fields of `TaskData`.

    Raises:
        ValueError: if the store lacks an image, or labels do not fit the head; ids and numbers are named. If the memes
            to evaluate on are all of one class, of which no ROC curve can be drawn.
    """
    task = find_task(name)
    if by_length and task.head == "matching":
        raise ValueError(f"by_length must be False for {name}: texts and images of a group are drawn in training.")
    for split, rows in (("train", train), ("evaluation", evaluation)):
        if rows is not None and not len(rows):
            raise ValueError(f"{split} of {name} is empty.")
    if task.head == _ANSWERS and not labels:
        raise ValueError(f"labels of {name} must name the answers of the head, got none: labels_of makes them of rows.")
    processor = _with_regions(processor, task.max_regions)
    label2id = {label: number for number, label in enumerate(labels)} if labels else None
    common = {
        "label2id": label2id,
        "max_tokens": task.max_tokens,
        "blind": blind,
        "seed": seed,
        "task_token": task_token,
    }
    for rows in (train, evaluation):
        if rows is not None and label2id is not None:
            _check_labels(name, rows, label2id)
    if name == "hateful_memes" and evaluation is not None:
        _check_two_classes(name, evaluation)
    lengths = {"processor": processor, "max_tokens": task.max_tokens} if by_length else None
    # With all regions at hand before the first is read.
    train_set = None if train is None else _joined(train, train_regions, lengths, task.drawn_choices)
    examples = None if evaluation is None else _joined(evaluation, evaluation_regions, lengths)
    if by_length and evaluation is not None:
        tokens, regions = (np.array(examples.with_format(None)[name]) for name in (TOKENS, REGIONS))
        order = np.concatenate(like_lengths(tokens, regions, batch_size=8))
        examples, evaluation = examples.select(order), [evaluation[number] for number in order]
    collator = ViLBertTaskCollator(processor, **common)
    if task.head == "matching":
        if evaluation is not None:
            examples = CaptionRanking(evaluation, evaluation_regions)
        if train is not None:
            near = similar_images(train_regions, {row["image_id"] for row in train}, task.neighbors)
            collator = ViLBertRetrievalCollator(processor, train, train_regions, near, **common)
    return PreparedTask(train_set, collator, examples, name=name, labels=labels, rows=evaluation, **settings)


def _with_regions(processor: ViLBertProcessor, count: int) -> ViLBertProcessor:
    most = processor.image_processor.max_regions
    if most is None or most >= count:
        return processor
    processor = copy.copy(processor)
    processor.image_processor = copy.copy(processor.image_processor)
    processor.image_processor.max_regions = count
    return processor


def _joined(
    rows: Rows,
    regions: Mapping[str, Regions],
    lengths: dict[str, Any] | None = None,
    drawn_choices: int | None = None,
) -> Any:
    """Rows with their regions, and their lengths if wanted; columns without a value in any row are left out."""
    empty = {column for column in rows[0] if all(row[column] is None for row in rows)}
    kept = [{column: value for column, value in row.items() if column not in empty} for row in rows]
    dataset = need("datasets").Dataset.from_list(kept)
    if drawn_choices is not None and "label" not in empty:
        dataset = dataset.add_column("drawn_choices", [drawn_choices] * len(rows))
    if lengths is not None:
        dataset = add_lengths(dataset, store=regions, **lengths)
    return join_regions(dataset, regions)


def _check_labels(name: str, rows: Rows, label2id: Mapping[str, int]):
    """Raise a ValueError for class names that the head does not have, warn of answers that it cannot give."""
    if "answers" in rows[0]:
        lost = [row["id"] for row in rows if row["answers"] and not label2id.keys() & set(row["answers"])]
        if len(lost) == len(rows):
            raise ValueError(f"labels of {name}: not one of {len(rows)} rows has an answer that the head knows.")
        if lost:
            logger.warning(
                f"{name}: no answer of {len(lost)} of {len(rows)} rows is among the {len(label2id)} that the head "
                f"knows; they count as wrong: {some_ids(lost)}."
            )
        return
    unknown = [row for row in rows if isinstance(row.get("label"), str) and row["label"] not in label2id]
    if unknown:
        raise ValueError(
            f"labels of {name} must be of {list(label2id)}; {len(unknown)} of {len(rows)} rows have others: "
            + ", ".join(f"{row['id']!r} {row['label']!r}" for row in unknown[:5])
            + "."
        )


def _check_two_classes(name: str, rows: Rows):
    given = [row["label"] for row in rows if row.get("label") is not None]
    if len(set(given)) == 1:
        raise ValueError(
            f"evaluation of {name} must have both classes for a ROC curve; all {len(given)} rows with a label are "
            f"{given[0]!r}."
        )
