# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The official annotation files of tasks about boxes -> rows: expressions and what they refer to, and questions.

Boxes are (x1, y1, x2, y2) in pixels; `candidates` are in the order of their numbers, and `label` is which of them.

Reading order: RefCOCO; Flickr30k Entities; Visual7W; GuessWhat?!. Table of all readers: `annotations.py`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .annotation_records import (
    Record,
    Row,
    as_paths,
    check_no_split,
    files_by_kind,
    has_list,
    list_of_records,
    of_split,
    read_pickle_or_json,
    read_table,
    read_text,
    read_xml,
)
from .region_records import RecordError


# What can be answered in GuessWhat?!, in 12-in-1's order.
GUESSWHAT_ANSWERS = ("Yes", "No", "N/A")
# "[/EN#12/people/other Two young guys]": an entity's number, its types, a phrase.
PHRASE = re.compile(r"\[/EN#(\d+)/\S+ ([^][]*)\]")


# A box: `text`, `box`


def read_refcoco(files: Sequence[Path], split: str | None = None) -> list[Row]:
    """RefCOCO, RefCOCO+ and RefCOCOg: refs(....p) and instances.json, in any order; a row for each expression."""
    kinds = {"refs": lambda value: isinstance(value, list), "instances": has_list("annotations")}
    found = files_by_kind(files, kinds, read_pickle_or_json, needed=("refs", "instances"))
    annotations = {
        record.id("id"): record
        for file, value in found["instances"]
        for record in Record(file, None, value).records("annotations")
    }
    rows = []
    for file, value in found["refs"]:
        for ref in of_split(file, list_of_records(file, value), split):
            if ref.id("ann_id") not in annotations:
                instances = ", ".join(str(file) for file, _ in found["instances"])
                raise ref.error("ann_id", f"annotation {ref.id('ann_id')} is not in {instances}.")
            box = annotations[ref.id("ann_id")].box("bbox")
            for sentence in ref.records("sentences"):
                text = sentence.text(sentence.first_of("raw", "sent"))
                rows.append({"id": sentence.id("sent_id"), "image_id": ref.id("image_id"), "text": text, "box": box})
    return rows


def read_flickr30k_grounding(files: Sequence[Path], split: str | None = None) -> list[Row]:
    """Flickr30k Entities: the folders Sentences and Annotations, and lists of image ids (train.txt) if not all are
    wanted, in any order.

    A row for each phrase whose entity has a box; of several boxes, the first, as in 12-in-1.
    """
    check_no_split("flickr30k_grounding", split)
    kinds = {
        "Sentences": lambda value: isinstance(value, dict) and any(file.suffix == ".txt" for file in value.values()),
        "Annotations": lambda value: isinstance(value, dict) and any(file.suffix == ".xml" for file in value.values()),
        "a list of images": lambda value: isinstance(value, str),
    }
    found = files_by_kind(files, kinds, _folder_or_text, needed=("Sentences", "Annotations"))
    (annotations, boxes_of), (sentences, texts_of) = found["Annotations"][0], found["Sentences"][0]
    images = [(name, file) for file, text in found["a list of images"] for name in text.split()]
    rows = []
    for image, file in images or [(name, sentences) for name in texts_of]:
        for folder, inside in ((sentences, texts_of), (annotations, boxes_of)):
            if image not in inside:
                raise RecordError(file, repr(image), None, f"{folder} has no file of this image.")
        boxes = _first_boxes(boxes_of[image])
        for number, sentence in enumerate(read_text(texts_of[image]).splitlines()):
            phrases = PHRASE.findall(sentence)
            if len(phrases) != sentence.count("[/EN#"):
                problem = f"a phrase must be [/EN#<entity>/<type> <words>], and not all are: {sentence!r:.60}."
                raise RecordError(texts_of[image], f"line {number + 1}", None, problem)
            for place, (entity, phrase) in enumerate(phrases):
                if entity in boxes:
                    name = f"{image}-{number}-{place}"
                    rows.append({"id": name, "image_id": image, "text": phrase, "box": boxes[entity]})
    return rows


def _folder_or_text(path: Path) -> dict[str, Path] | str:
    """A folder's files by image id, or what a file says."""
    if not path.is_dir():
        return read_text(path)
    return {file.stem: file for file in sorted(path.iterdir()) if file.suffix in (".txt", ".xml")}


def _first_boxes(file: Path) -> dict[str, list[float]]:
    """Entity -> its first box."""
    boxes: dict[str, list[float]] = {}
    for number, thing in enumerate(read_xml(file).iter("object")):
        box = thing.find("bndbox")
        if box is None:
            # The whole scene, or nothing that can be seen.
            continue
        corners = []
        for side in ("xmin", "ymin", "xmax", "ymax"):
            try:
                # Pixels are counted from 1 here.
                corners.append(float(box.findtext(side)) - 1)
            except (TypeError, ValueError) as error:
                problem = f"it must be a number of pixels, got {box.findtext(side)!r}."
                raise RecordError(file, f"object[{number}].bndbox", side, problem) from error
        for name in thing.findall("name"):
            boxes.setdefault((name.text or "").strip(), corners)
    return boxes


# Pointing: `text`, `candidates`, `label`


def read_visual7w(files: Sequence[Path], split: str | None = None) -> list[Row]:
    """Visual7W's pointing questions, dataset_v7w_pointing.json: the right box among four."""
    rows = []
    for file in as_paths(files):
        table = read_table(file)
        boxes = {record.id("box_id"): record for record in table.records("boxes")}
        for image in of_split(file, table.records("images"), split):
            name = image.stem("filename") if image.has("filename") else f"v7w_{image.id('image_id')}"
            for question in image.records("qa_pairs"):
                right, others = question.id("answer"), question.ids("multiple_choices")
                numbers = sorted({right, *others}, key=_by_number)
                if not others or len(numbers) != len(others) + 1:
                    problem = f"they must be different boxes, and none the answer, {right}; got {', '.join(others)}."
                    raise question.error("multiple_choices", problem)
                rows.append(
                    {
                        "id": question.id("qa_id"),
                        "image_id": name,
                        "text": question.text("question"),
                        "candidates": [_visual7w_box(question, boxes, number) for number in numbers],
                        "label": numbers.index(right),
                    }
                )
    return rows


def _visual7w_box(question: Record, boxes: Mapping[str, Record], number: str) -> list[float]:
    if number not in boxes:
        field = "answer" if number == question.id("answer") else "multiple_choices"
        raise question.error(field, f"box {number} is not among the file's boxes.")
    x, y, width, height = (boxes[number].number(side) for side in ("x", "y", "width", "height"))
    return [x, y, x + width, y + height]


def _by_number(name: str) -> tuple[int, str]:
    """Sorts whole numbers that are text as numbers."""
    return len(name), name


def guesswhat_pointing_rows(record: Record) -> Iterator[Row]:
    """All that was said in a game that ended well, and the objects the other player might have thought of."""
    if record.text("status") != "success":
        return
    objects, target = _objects(record)
    numbers, turns = sorted(objects, key=_by_number), record.records("qas")
    yield {
        "id": record.id("id"),
        "image_id": record.record("image").id("id"),
        "text": " ".join(f"start {turn.text('question')} answer {turn.text('answer')} stop" for turn in turns),
        "candidates": [objects[number].box("bbox") for number in numbers],
        "label": numbers.index(target),
    }


# A question about a box: `text`, `focus` (the box), `text_pair` (its category), `label` (the answer)


def guesswhat_answers_rows(record: Record) -> Iterator[Row]:
    """Each question of a game, however it ended, with the object that the answering player thought of."""
    objects, target = _objects(record)
    for turn in record.records("qas"):
        yield {
            "id": turn.id("id"),
            "image_id": record.record("image").id("id"),
            "text": turn.text("question"),
            "text_pair": objects[target].text("category"),
            "focus": objects[target].box("bbox"),
            "label": turn.one_of("answer", GUESSWHAT_ANSWERS),
        }


def _objects(record: Record) -> tuple[dict[str, Record], str]:
    """The objects of a game by number, and which is thought of."""
    objects = {thing.id("id"): thing for thing in record.records("objects")}
    if record.id("object_id") not in objects:
        raise record.error("object_id", f"object {record.id('object_id')} is not among the {len(objects)} of the game.")
    return objects, record.id("object_id")
