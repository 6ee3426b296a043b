# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The official annotation files of the transfer tasks -> rows: a list of plain dicts, all with the same keys.

Every row has an `id` and an `image_id`, both text. What else it has is said beside the readers. Where a file tells no
truth, as those of most test splits, the columns of the truth are None.

Sources: the layouts of the data sets' authors; Lu et al., "12-in-1", CVPR 2020, for what its code makes of them.

Reading order: readers, a kind of task at a time (those about boxes in `box_annotations.py`); `READERS`; `check_rows`.
How files are opened and fields asked for: `annotation_records.py`.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .annotation_records import (
    FileReader,
    Record,
    Row,
    as_paths,
    check_all_or_none,
    check_no_split,
    files_by_kind,
    has_list,
    list_of_records,
    of_split,
    read_json,
    read_lines,
    read_table,
    starts_with_record,
)
from .box_annotations import (
    GUESSWHAT_ANSWERS,
    guesswhat_answers_rows,
    guesswhat_pointing_rows,
    read_flickr30k_grounding,
    read_refcoco,
    read_visual7w,
)
from .metrics import normalize_answer, soft_targets, some_ids


logger = logging.get_logger(__name__)

# Task -> names of its classes, in the order of the head's outputs: 12-in-1's where it has the task.
CLASS_NAMES = {
    "snli_ve": ("contradiction", "neutral", "entailment"),
    "nlvr2": ("False", "True"),
    "guesswhat_answers": GUESSWHAT_ANSWERS,
    "foil": ("original", "foil"),
    "hateful_memes": ("not hateful", "hateful"),
}
# How many questions and answers before a question of Visual Dialog go with it.
ROUNDS_BEFORE = 3
# Persons in VCR are numbers. A text needs names, and these tell nothing about who has them.
NAMES = tuple(
    "Alex Avery Blake Cameron Casey Charlie Dakota Dana Devon Drew Eli Finley Frankie Harley Hayden Jamie Jesse Jordan "
    "Kelly Kendall Kerry Kim Lee Leslie Logan Morgan Parker Pat Quinn Reese Riley Robin Rowan Sage Sam Shannon Sidney "
    "Skyler Stacy Taylor Terry Tracy".split()
)
# A longer text is cut by any model.
MOST_WORDS = 600


# Answers: `text`, `answers`, `scores`; VQA also `human_answers`


def read_vqa(files: Sequence[Path], split: str | None = None) -> list[Row]:
    """VQA (v1, v2): questions and, but for the test splits, their annotations, in any order.

    Answers are normalised and scored as in the official evaluation. `human_answers` are as they were given.
    """
    check_no_split("vqa", split)
    kinds = {"questions": has_list("questions"), "annotations": has_list("annotations")}
    found = files_by_kind(files, kinds, read_json, needed=("questions",))
    annotations: dict[str, Record] = {}
    for file, value in found["annotations"]:
        for record in Record(file, None, value).records("annotations"):
            if annotations.setdefault(record.id("question_id"), record) is not record:
                raise record.error("question_id", f"question {record.id('question_id')} has two annotations.")

    rows = []
    for file, value in found["questions"]:
        for record in Record(file, None, value).records("questions"):
            name = record.id("question_id")
            row = {"id": name, "image_id": record.id("image_id"), "text": record.text("question")}
            if found["annotations"] and name not in annotations:
                raise record.error("question_id", f"question {name} has no annotation.")
            rows.append({**row, **_vqa_answers(annotations.get(name))})
    return rows


def _vqa_answers(annotation: Record | None) -> Row:
    if annotation is None:
        return {"answers": None, "scores": None, "human_answers": None}
    human_answers = [answer.text("answer") for answer in annotation.records("answers")]
    try:
        # An answer of articles and punctuation alone is nothing once it is normalised.
        scores = {answer: score for answer, score in soft_targets(human_answers).items() if answer}
    except ValueError as error:
        raise annotation.error("answers", str(error)) from error
    return {"answers": list(scores), "scores": list(scores.values()), "human_answers": human_answers}


def _gqa_records(file: Path) -> Iterator[Record]:
    for name, fields in read_table(file).fields.items():
        yield Record(file, repr(name), {**fields, "id": name} if isinstance(fields, Mapping) else fields)


def _gqa_rows(record: Record) -> Iterator[Row]:
    known = record.has("answer")
    yield {
        "id": record.id("id"),
        "image_id": record.id("imageId"),
        "text": record.text("question"),
        "answers": [record.text("answer")] if known else None,
        "scores": [1.0] if known else None,
    }


def _genome_records(file: Path) -> Iterator[Record]:
    for image in list_of_records(file, read_json(file)):
        yield from image.records("qas")


def _genome_rows(record: Record) -> Iterator[Row]:
    # In the form of VQA's answers, with which it shares a head. Nothing may be left of one.
    answers = [answer for answer in [normalize_answer(record.text("answer"))] if answer]
    yield {
        "id": record.id("qa_id"),
        "image_id": record.id("image_id"),
        "text": record.text("question"),
        "answers": answers,
        "scores": [1.0] * len(answers),
    }


# Classes: `text`, `label`


def _snli_ve_rows(record: Record) -> Iterator[Row]:
    label = None
    # "-": its judges did not agree.
    if record.has("gold_label") and record.text("gold_label") != "-":
        label = record.one_of("gold_label", CLASS_NAMES["snli_ve"])
    yield {
        "id": record.id("pairID"),
        # Editions of the data set spell it in these ways.
        "image_id": record.stem(record.first_of("Flickr30K_ID", "Flikr30kID", "Flickr30kID")),
        "text": record.text("sentence2"),
        "label": label,
    }


def _nlvr2_rows(record: Record) -> Iterator[Row]:
    name = record.id("identifier")
    pair, dash, _ = name.rpartition("-")
    if not dash:
        raise record.error("identifier", f"it must be split-set-pair-sentence, got {name!r}.")
    yield {
        "id": name,
        "image_id": [f"{pair}-img0", f"{pair}-img1"],
        "text": record.text("sentence"),
        "label": record.one_of("label", CLASS_NAMES["nlvr2"]) if record.has("label") else None,
    }


def _foil_records(file: Path) -> Iterator[Record]:
    return read_table(file).records("annotations")


def _foil_rows(record: Record) -> Iterator[Row]:
    label = CLASS_NAMES["foil"][record.flag("foil")]
    yield {
        # A caption and the one made of it have the same `id`.
        "id": f"{record.id('id')}-{record.id('foil_id')}-{label}",
        "image_id": record.id("image_id"),
        "text": record.text("caption"),
        "label": label,
    }


def _hateful_memes_rows(record: Record) -> Iterator[Row]:
    label = CLASS_NAMES["hateful_memes"][record.index("label", 2)] if record.has("label") else None
    yield {"id": record.id("id"), "image_id": record.stem("img"), "text": record.text("text"), "label": label}


# Choices: `text`, `text_pair` (a list), `label` (which of it)


def _vcr_answer_rows(record: Record) -> Iterator[Row]:
    words = _VCRWords(record)
    yield {
        "id": record.id("annot_id"),
        "image_id": record.text("img_fn"),
        "question_id": record.id("annot_id"),
        "text": words.text("question"),
        "text_pair": words.choices("answer_choices"),
        "label": _vcr_label(record, "answer_label", "answer_choices"),
    }


def _vcr_rationale_rows(record: Record) -> Iterator[Row]:
    """A row with the right answer; where it is not told, one with each answer."""
    words, name = _VCRWords(record), record.id("annot_id")
    question, answers = words.text("question"), words.choices("answer_choices")
    right = _vcr_label(record, "answer_label", "answer_choices")
    for number in range(len(answers)) if right is None else [right]:
        yield {
            "id": name if right is not None else f"{name}-a{number}",
            "image_id": record.text("img_fn"),
            "question_id": name,
            "text": f"{question} [SEP] {answers[number]}",
            "text_pair": words.choices("rationale_choices"),
            "label": _vcr_label(record, "rationale_label", "rationale_choices"),
        }


def _vcr_label(record: Record, field: str, choices: str) -> int | None:
    return record.index(field, len(record.values(choices))) if record.has(field) else None


class _VCRWords:
    """The texts of a record of VCR, with words where they name objects by number.

    An object's word is its class. A person's is a name: another for each person that is spoken of, and the same in all
    texts of the record, whichever task asks.
    """

    def __init__(self, record: Record):
        self.record, self.words = record, dict(enumerate(record.texts("objects")))
        start = zlib.crc32(record.id("annot_id").encode())
        for count, number in enumerate(self._persons()):
            again = count // len(NAMES)
            self.words[number] = NAMES[(start + count) % len(NAMES)] + (f" {again + 1}" if again else "")

    def text(self, field: str) -> str:
        return self._said(field, self.record.values(field))

    def choices(self, field: str) -> list[str]:
        return [self._said(f"{field}[{number}]", tokens) for number, tokens in enumerate(self.record.values(field))]

    def _persons(self) -> Iterable[int]:
        """Numbers of persons in the order in which they are spoken of."""
        texts = [self.record.get("question")]
        for field in ("answer_choices", "rationale_choices"):
            texts += self.record.values(field) if self.record.has(field) else []
        tags = [token for tokens in texts if isinstance(tokens, list) for token in tokens if isinstance(token, list)]
        numbers = [number for tag in tags for number in tag if isinstance(number, int)]
        return dict.fromkeys(number for number in numbers if self.words.get(number) == "person")

    def _said(self, field: str, tokens: Any) -> str:
        if not isinstance(tokens, list):
            raise self.record.error(field, f"it must be a list, got {tokens!r:.60}.")
        said = []
        for token in tokens:
            if isinstance(token, str):
                said.append(token)
            elif isinstance(token, list) and all(isinstance(number, int) and number in self.words for number in token):
                said += [self.words[number] for number in token]
            else:
                problem = f"it must hold words, and lists of numbers from 0 to {len(self.words) - 1} (objects), got "
                raise self.record.error(field, f"{problem}{token!r:.60}.")
        return " ".join(said)


def read_visual_dialog(files: Sequence[Path], split: str | None = None) -> list[Row]:
    """Visual Dialog (v0.9, v1.0): dialogues and, if there are any, dense annotations, in any order.

    A row for each question that has answers to choose from. `text` is the question, the caption, and the last three
    questions and answers, the latest first: what matters least is last, where long texts are cut. `round` counts from
    1. `relevance` has a number for each choice where judges gave one.
    """
    check_no_split("visual_dialog", split)
    kinds = {
        "dialogues": lambda value: isinstance(value, Mapping) and "data" in value,
        "dense annotations": lambda value: isinstance(value, list),
    }
    found = files_by_kind(files, kinds, read_json, needed=("dialogues",))
    dense = {
        (record.id("image_id"), record.id("round_id")): record
        for file, value in found["dense annotations"]
        for record in list_of_records(file, value)
    }
    rows, asked = [], []
    for file, value in found["dialogues"]:
        data = Record(file, None, value).record("data")
        questions, answers = data.texts("questions"), data.texts("answers")
        for dialog in data.records("dialogs"):
            name, turns, before = dialog.id("image_id"), list(dialog.records("dialog")), []
            for number, turn in enumerate(turns, 1):
                question = questions[turn.index("question", len(questions))]
                # Test dialogues have choices for their last question only.
                if turn.has("answer_options") or turn.has("gt_index"):
                    choices = [answers[option] for option in turn.indices("answer_options", len(answers))]
                    asked.append(turn)
                    rows.append(
                        {
                            "id": f"{name}-{number}",
                            "image_id": name,
                            "dialog_id": name,
                            "round": number,
                            "text": " [SEP] ".join([question, dialog.text("caption"), *before[:ROUNDS_BEFORE]]),
                            "text_pair": choices,
                            "label": turn.index("gt_index", len(choices)) if turn.has("gt_index") else None,
                            "relevance": _relevance(dense.pop((name, str(number)), None), len(choices)),
                        }
                    )
                if turn.has("answer") or number < len(turns):
                    before.insert(0, f"{question} {answers[turn.index('answer', len(answers))]}")
    check_all_or_none(asked, "gt_index")
    for (name, number), record in dense.items():
        raise record.error("round_id", f"no dialogue of image {name} has choices in round {number}.")
    return rows


def _relevance(record: Record | None, count: int) -> list[float] | None:
    return None if record is None else record.numbers(record.first_of("gt_relevance", "relevance"), count)


# Captions: `text`, a row for each


def read_captions(task: str, files: Sequence[Path], split: str | None = None) -> list[Row]:
    """12-in-1's lines of `img_path`, `sentences` and `id`, a file a split; or Karpathy's file of all splits."""
    rows, is_coco = [], task == "retrieval_coco"
    for file in as_paths(files):
        if "sentences" in starts_with_record(file):
            check_no_split(f"{task} in lines of JSON", split)
            for record in read_lines(file):
                name = record.id("id") if is_coco else record.stem("img_path")
                rows += _captions(name, record.texts("sentences"))
        else:
            for image in of_split(file, read_table(file).records("images"), split):
                name = image.id("cocoid") if is_coco else image.stem("filename")
                rows += _captions(name, [sentence.text("raw") for sentence in image.records("sentences")])
    return rows


def _captions(image: str, texts: Sequence[str]) -> list[Row]:
    return [{"id": f"{image}-{number}", "image_id": image, "text": text} for number, text in enumerate(texts)]


# Task -> its reader. A reader takes the files, and a split where a file holds several.
READERS: dict[str, Callable[..., list[Row]]] = {
    "vqa": read_vqa,
    "gqa": FileReader("gqa", _gqa_records, _gqa_rows, truth=("answer",)),
    "genome_qa": FileReader("genome_qa", _genome_records, _genome_rows),
    "vcr_answer": FileReader("vcr_answer", read_lines, _vcr_answer_rows, truth=("answer_label",)),
    "vcr_rationale": FileReader(
        "vcr_rationale", read_lines, _vcr_rationale_rows, truth=("answer_label", "rationale_label")
    ),
    "refcoco": read_refcoco,
    "refcoco+": read_refcoco,
    "refcocog": read_refcoco,
    "flickr30k_grounding": read_flickr30k_grounding,
    "visual7w": read_visual7w,
    "guesswhat_answers": FileReader("guesswhat_answers", read_lines, guesswhat_answers_rows),
    "guesswhat_pointing": FileReader("guesswhat_pointing", read_lines, guesswhat_pointing_rows),
    "retrieval_flickr30k": partial(read_captions, "retrieval_flickr30k"),
    "retrieval_coco": partial(read_captions, "retrieval_coco"),
    "nlvr2": FileReader("nlvr2", read_lines, _nlvr2_rows, truth=("label",)),
    "snli_ve": FileReader("snli_ve", read_lines, _snli_ve_rows, truth=("gold_label",)),
    "visual_dialog": read_visual_dialog,
    "foil": FileReader("foil", _foil_records, _foil_rows),
    "hateful_memes": FileReader("hateful_memes", read_lines, _hateful_memes_rows, truth=("label",)),
}


# Checks


def check_rows(rows: Sequence[Mapping[str, Any]], name: str):
    """Raise a ValueError that names the rows with which no training or evaluation should begin.

    Of texts of 600 words or more the log says that they will be cut.

    Args:
        rows: of one of the `READERS`, or of one's own.
        name: what to call them in messages. That of a task of `CLASS_NAMES` also says which labels there are.

    Raises:
        ValueError: if there are no rows, ids occur twice, texts or choices are missing or have no words, labels are
            out of range, scores are not one from 0 to 1 for each answer, or boxes are upside down or not finite.

    Example:

    ```python
    >>> from modeling_vilbert.annotations import check_rows
    >>> row = {"id": "7", "image_id": "139", "text": "the left one", "box": [10.0, 0.0, 4.0, 8.0]}
    >>> check_rows([row], "my expressions")
    Traceback (most recent call last):
    ValueError: my expressions: a box is upside down or not finite in 1 of 1 rows: '7'.

    ```
    """
    if not len(rows):
        raise ValueError(f"{name}: the split is empty, it has no rows.")
    counts = Counter(row["id"] for row in rows)
    found: dict[str, list[str]] = {"the id occurs more than once": [one for one, n in counts.items() if n > 1]}
    numbers = Counter(len(row["text_pair"]) for row in rows if isinstance(row.get("text_pair"), list))
    usual = numbers.most_common(1)[0][0] if numbers else None
    long = []
    for row in rows:
        for problem in _problems(row, CLASS_NAMES.get(name)):
            found.setdefault(problem, []).append(row["id"])
        choices = row.get("text_pair")
        if isinstance(choices, list) and len(choices) not in (0, usual):
            found.setdefault(f"there are not {usual} choices, as in most rows,", []).append(row["id"])
        if any(isinstance(text, str) and len(text.split()) >= MOST_WORDS for text in _texts(row)):
            long.append(row["id"])
    if long:
        logger.warning(
            f"{name}: a text has {MOST_WORDS} words or more, and will be cut, in {len(long)} of {len(rows)} rows: "
            f"{some_ids(long)}."
        )
    problems = [f"{what} in {len(ids)} of {len(rows)} rows: {some_ids(ids)}." for what, ids in found.items() if ids]
    if problems:
        raise ValueError(f"{name}: {' '.join(problems)}")


def _texts(row: Mapping[str, Any]) -> list[Any]:
    """The text, and all choices or the second text."""
    pair = row.get("text_pair", [])
    return [row.get("text"), *(pair if isinstance(pair, list) else [pair])]


def _problems(row: Mapping[str, Any], class_names: Collection[str] | None) -> Iterator[str]:
    """What is wrong with a row, each thing once."""
    text, *others = _texts(row)
    if not _has_words(text):
        yield "the text has no words"
    if not all(map(_has_words, others)):
        yield "a choice is missing or has no words"
    choices = next((row[column] for column in ("candidates", "text_pair") if isinstance(row.get(column), list)), None)
    if choices == [] or ("candidates" in row and choices is None):
        yield "there are no choices"

    label = row.get("label")
    if isinstance(label, str):
        if class_names is not None and label not in class_names:
            yield f"the label is none of {list(class_names)}"
    elif label is not None and (isinstance(label, bool) or not 0 <= label < len(choices or ())):
        yield "the label is the number of no choice"
    if row.get("answers") is not None:
        scores = row.get("scores") or []
        if len(scores) != len(row["answers"]) or not all(0 <= score <= 1 for score in scores):
            yield "the scores are not one from 0 to 1 for each answer"

    boxes = [row[column] for column in ("box", "focus") if row.get(column) is not None]
    if not all(map(_is_box, [*boxes, *(row.get("candidates") or [])])):
        yield "a box is upside down or not finite"


def _has_words(text: Any) -> bool:
    return isinstance(text, str) and bool(text.split())


def _is_box(box: Sequence[float]) -> bool:
    return len(box) == 4 and all(map(math.isfinite, box)) and box[0] <= box[2] and box[1] <= box[3]
