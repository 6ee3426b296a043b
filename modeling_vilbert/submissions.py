# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Predictions -> the files that evaluation servers and official scripts take; one table, `SUBMISSIONS`.

Sources: the sites of the challenges; for tasks without a server, what 12-in-1 writes. Labels are not needed.

Shapes: N examples, L labels (answers, classes or choices), R regions, M images.
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .metrics import Predictions, offered_regions, softmax, some_ids


# How many images are written for a caption.
RETRIEVED = 20
VCR_CHOICES = 4


def write_vqa(predictions: Predictions, path: str | Path):
    """`[{"question_id": 262148000, "answer": "down"}, ...]`.

    Raises:
        ValueError: if an id is not a whole number, which the server needs.
    """
    rows = zip(_whole_numbers(predictions, "id"), predictions.answers())
    _write_json(path, [{"question_id": number, "answer": answer} for number, answer in rows])


def write_gqa(predictions: Predictions, path: str | Path):
    """`[{"questionId": "201307251", "prediction": "no"}, ...]`."""
    rows = zip(_ids(predictions), predictions.answers())
    _write_json(path, [{"questionId": name, "prediction": answer} for name, answer in rows])


def write_nlvr2(predictions: Predictions, path: str | Path):
    """A line `dev-850-0-1,True` for each pair of images, without a header, as the official script reads it."""
    _write_csv(path, zip(_ids(predictions), predictions.answers()))


def write_snli_ve(predictions: Predictions, path: str | Path):
    """Columns `pairID,prediction`. There is no server, and no official format."""
    _write_csv(path, [("pairID", "prediction"), *zip(_ids(predictions), predictions.answers())])


def write_hateful_memes(predictions: Predictions, path: str | Path):
    """Columns `id,proba,label`: the probability that it is hateful, and whether that is the likelier.

    Raises:
        ValueError: if the logits are not of two classes.
    """
    if predictions.logits.shape[1] != 2:
        raise ValueError(f"logits must be of two classes, got {predictions.logits.shape[1]}.")
    probabilities, classes = softmax(predictions.logits)[:, 1].tolist(), predictions.logits.argmax(axis=1).tolist()
    _write_csv(path, [("id", "proba", "label"), *zip(_ids(predictions), probabilities, classes)])


def write_visual_dialog(predictions: Predictions, path: str | Path):
    """`[{"image_id": 568676, "round_id": 1, "ranks": [41, 2, ...]}, ...]`: the rank, from 1, of each answer option.

    Raises:
        ValueError: if an image id or a round is not a whole number.
    """
    logits, counts = predictions.choices()
    images, rounds = _whole_numbers(predictions, "image_id"), _whole_numbers(predictions, "round")
    entries = []
    for image, number, row, count in zip(images, rounds, logits, counts):
        # Every rank once, whatever the ties.
        order = np.argsort(-row[:count], kind="stable")
        entries.append({"image_id": image, "round_id": number, "ranks": (np.argsort(order) + 1).tolist()})
    _write_json(path, entries)


def write_vcr(answer: Predictions, rationale: Predictions, path: str | Path):
    """VCR's table: a row for each question, with probabilities of answers, and of rationales given each answer.

    Columns are `annot_id`, `answer_0` to `answer_3`, and `rationale_conditioned_on_a0_0` to `..._a3_3`.

    Args:
        answer: of Q->A, a row for each question.
        rationale: of QA->R, four rows for each question, one for each answer that may be in the question: ids end in
            "-a0" to "-a3". Rows are joined by `question_id`, in any order.
        path: of the file, which appears when it is whole.

    Raises:
        ValueError: if a question does not have one row of answers and four of rationales, each of four choices.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from modeling_vilbert.metrics import Predictions
    >>> from modeling_vilbert.submissions import write_vcr
    >>> answer = Predictions(np.zeros((1, 4)), None, [{"id": "test-0", "question_id": "test-0"}])
    >>> rows = [{"id": f"test-0-a{number}", "question_id": "test-0"} for number in range(4)]
    >>> file = Path(tempfile.mkdtemp()) / "vcr.csv"
    >>> write_vcr(answer, Predictions(np.zeros((4, 4)), None, rows), file)
    >>> file.read_text().splitlines()[1][:26]
    'test-0,0.25,0.25,0.25,0.25'

    ```
    """
    answers = dict(_vcr_probabilities(answer, "answer"))
    rationales = dict(_vcr_probabilities(rationale, "rationale"))
    wanted = {(question, number) for question, _ in answers for number in range(VCR_CHOICES)}
    for name, lone in (("rationale", wanted - rationales.keys()), ("answer", rationales.keys() - wanted)):
        if lone:
            ids = [f"{question}-a{number}" for question, number in sorted(lone)]
            raise ValueError(f"{name} lacks the partners of {some_ids(ids)}.")
    groups = ["answer", *(f"rationale_conditioned_on_a{number}" for number in range(VCR_CHOICES))]
    lines = [["annot_id", *(f"{group}_{choice}" for group in groups for choice in range(VCR_CHOICES))]]
    for (question, _), probabilities in answers.items():
        given = [p for number in range(VCR_CHOICES) for p in rationales[question, number]]
        lines.append([question, *probabilities, *given])
    _write_csv(path, lines)


def _vcr_probabilities(predictions: Predictions, name: str) -> list[tuple[tuple[str, int | None], list[float]]]:
    """(question, the answer that is given with it) -> probabilities of the choices."""
    logits, counts = predictions.choices()
    if logits.shape[1] != VCR_CHOICES or (counts != VCR_CHOICES).any():
        raise ValueError(
            f"{name} must have {VCR_CHOICES} choices a row, got {logits.shape[1]} logits, {min(counts)} choices."
        )
    keys = []
    for row_id, question in zip(_ids(predictions), predictions.column("question_id")):
        given = re.search(r"-a([0-3])$", row_id) if name == "rationale" else None
        if name == "rationale" and given is None:
            raise ValueError(f'ids of rationale must end in "-a0" to "-a3", the answer that is given, got {row_id!r}.')
        keys.append((str(question), int(given[1]) if given else None))
    twice = [question for (question, _), count in Counter(keys).items() if count > 1]
    if twice:
        raise ValueError(f"{name} must hold a question (and a given answer) once; more often come {some_ids(twice)}.")
    return list(zip(keys, softmax(logits).tolist()))


def write_regions(predictions: Predictions, path: str | Path):
    """`[{"id": "12", "image_id": "581857", "target": 7}, ...]`, as 12-in-1 writes; with labels also the overlap, `IOU`.

    `target` is the chosen region's index among the model's inputs, where 0 is the whole image.
    """
    logits = offered_regions(predictions)
    entries = []
    for number, (name, image, target) in enumerate(
        zip(_ids(predictions), predictions.column("image_id"), logits.argmax(axis=1).tolist())
    ):
        entries.append({"id": name, "image_id": image, "target": target})
        if predictions.labels is not None:
            entries[-1]["IOU"] = float(predictions.labels[number, target])
    _write_json(path, entries)


def write_retrieval(predictions: Predictions, path: str | Path):
    """`[{"id": "0", "image_ids": ["4705552913", ...]}, ...]`: for each caption the best 20 images, the best first.

    Raises:
        ValueError: if there are not as many columns of logits as images in `rows`.
    """
    images, _ = predictions.images()
    best = np.argsort(-predictions.logits, axis=1, kind="stable")[:, :RETRIEVED]
    entries = [
        {"id": name, "image_ids": [images[column] for column in columns]}
        for name, columns in zip(_ids(predictions), best.tolist())
    ]
    _write_json(path, entries)


# VCR's file needs the predictions of two tasks: `write_vcr`.
SUBMISSIONS: dict[str, Callable[[Predictions, Path], None]] = {
    "vqa": write_vqa,
    "gqa": write_gqa,
    "snli_ve": write_snli_ve,
    "hateful_memes": write_hateful_memes,
    "nlvr2": write_nlvr2,
    "visual_dialog": write_visual_dialog,
    "retrieval_flickr30k": write_retrieval,
    "retrieval_coco": write_retrieval,
    "refcoco": write_regions,
    "refcoco+": write_regions,
    "refcocog": write_regions,
}


# Whose file is no JSON.
_CSV = {"nlvr2", "snli_ve", "hateful_memes"}


def write_submission(task: str, predictions: Predictions, folder: str | Path) -> Path | None:
    """Write the file of a task into a folder, as `submission.json` or `submission.csv`; None for a task without one."""
    if task not in SUBMISSIONS:
        return None
    path = Path(folder) / f"submission.{'csv' if task in _CSV else 'json'}"
    SUBMISSIONS[task](predictions, path)
    return path


def _ids(predictions: Predictions) -> list[str]:
    return [str(name) for name in predictions.column("id")]


def _whole_numbers(predictions: Predictions, column: str) -> list[int]:
    values = predictions.column(column)
    wrong = np.array([re.fullmatch(r"\d+", str(value)) is None for value in values])
    if wrong.any():
        found = [value for value, is_wrong in zip(values, wrong) if is_wrong]
        raise ValueError(f"{column} must be a whole number for this file, got {some_ids(found)}.")
    return [int(value) for value in values]


def _write_json(path: str | Path, entries: list[dict[str, Any]]):
    _write(path, json.dumps(entries, ensure_ascii=False))


def _write_csv(path: str | Path, lines: Iterable[Iterable[Any]]):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    _write(path, text.getvalue())


def _write(path: str | Path, text: str):
    """A file appears under its name when it is whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
