# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Items of composed scenes -> annotation files in the layouts of the published data sets, and which files are whose.

A writer takes a folder and the items of every split, as the functions of `scene_texts` make them. It knows layouts and
nothing of scenes. The readers of `modeling_vilbert.annotations` read what it writes as they read the official files.

Image ids are whole numbers, unique over splits; as in the data sets, VCR, Visual7W and NLVR2 have names of their own:
`vcr_name`, `visual7w_name` and `nlvr2_names`.

Reading order: names of images; a writer a data set; `WRITERS` and `FILES`.
"""

import gzip
import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


Item = dict[str, Any]
# Split -> its items.
Items = Mapping[str, Sequence[Item]]

# What the data sets call our splits "train", "val" and "test".
GUESSWHAT_SPLITS = {"train": "train", "val": "valid", "test": "test"}
NLVR2_SPLITS = {"train": "train", "val": "dev", "test": "test1"}
SNLI_VE_SPLITS = {"train": "train", "val": "dev", "test": "test"}
# Those of RefCOCO and RefCOCO+ have two test splits: testA is of people, testB of anything else.
REFCOCO_SPLITS = {"train": "train", "val": "val", "test": "testB"}

# Names of images


def vcr_name(image_id: int) -> str:
    return f"composed_scenes/{image_id}.png"


def visual7w_name(image_id: int) -> str:
    return f"v7w_{image_id}"


def nlvr2_pair(split: str, pair: int) -> str:
    return f"{NLVR2_SPLITS[split]}-{pair}-0"


def nlvr2_names(split: str, pair: int) -> tuple[str, str]:
    """The left and the right image of a pair."""
    return f"{nlvr2_pair(split, pair)}-img0", f"{nlvr2_pair(split, pair)}-img1"


# Files


def write_json(path: Path, value: Any):
    path.write_text(json.dumps(value), encoding="utf-8", newline="\n")


def write_lines(path: Path, values: Iterable[Any]):
    path.write_bytes(_lines(values))


def write_zipped_lines(path: Path, values: Iterable[Any]):
    """As the others, the same bytes each time: no file name and no date."""
    path.write_bytes(gzip.compress(_lines(values), mtime=0))


def _lines(values: Iterable[Any]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def width_and_height(box: Sequence[int]) -> list[int]:
    """(x1, y1, x2, y2) -> [x, y, width, height]."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


# Questions


def write_vqa(folder: Path, items: Items, size: tuple[int, int]):
    number = 0
    for split, of_split in items.items():
        questions, annotations = [], []
        for item in of_split:
            number += 1
            ids = {"image_id": item["image_id"], "question_id": number}
            questions.append({**ids, "question": item["question"]})
            annotations.append(
                {
                    **ids,
                    "question_type": " ".join(item["question"].split()[:2]),
                    "answer_type": {"yes": "yes/no", "no": "yes/no"}.get(
                        item["answer"], "number" if item["answer"].isdigit() else "other"
                    ),
                    "multiple_choice_answer": item["answer"],
                    "answers": [
                        {"answer": answer, "answer_confidence": "yes", "answer_id": place}
                        for place, answer in enumerate(item["human_answers"], 1)
                    ],
                }
            )
        head = {"info": {}, "license": {}, "data_type": "composed scenes", "data_subtype": split}
        questions = {**head, "task_type": "Open-Ended", "questions": questions}
        write_json(folder / f"v2_OpenEnded_{split}_questions.json", questions)
        write_json(folder / f"v2_{split}_annotations.json", {**head, "annotations": annotations})


def write_gqa(folder: Path, items: Items, size: tuple[int, int]):
    number = 0
    for split, of_split in items.items():
        questions = {}
        for item in of_split:
            number += 1
            questions[f"{number:08d}"] = {
                "imageId": str(item["image_id"]),
                "question": item["question"],
                "answer": item["answer"],
                "fullAnswer": item["answer"],
                "isBalanced": True,
                "types": {"detailed": item["kind"]},
            }
        write_json(folder / f"{split}_balanced_questions.json", questions)


def write_genome_qa(folder: Path, items: Items, size: tuple[int, int]):
    number = 0
    for split, of_split in items.items():
        images: dict[int, list] = {}
        for item in of_split:
            number += 1
            question = {
                "qa_id": number,
                "image_id": item["image_id"],
                # Its people write sentences.
                "question": item["question"].capitalize(),
                "answer": f"{item['answer'].capitalize()}.",
                "q_objects": [],
                "a_objects": [],
            }
            images.setdefault(item["image_id"], []).append(question)
        write_json(folder / f"question_answers_{split}.json", [{"id": one, "qas": qas} for one, qas in images.items()])


def write_vcr(folder: Path, items: Items, size: tuple[int, int]):
    for split, of_split in items.items():
        lines = []
        for number, item in enumerate(of_split):
            lines.append(
                {
                    "annot_id": f"{split}-{number}",
                    "img_id": f"{split}-{item['image_id']}",
                    "img_fn": vcr_name(item["image_id"]),
                    "metadata_fn": vcr_name(item["image_id"]).replace(".png", ".json"),
                    "movie": "composed_scenes",
                    "objects": item["objects"],
                    "question": item["question"],
                    "answer_choices": item["answers"],
                    "answer_label": item["answer_label"],
                    "rationale_choices": item["rationales"],
                    "rationale_label": item["rationale_label"],
                }
            )
        write_lines(folder / f"{split}.jsonl", lines)


def write_visual_dialog(folder: Path, items: Items, size: tuple[int, int]):
    """Judges (`dense_annotations`) looked at one round of each dialogue."""
    for split, of_split in items.items():
        questions, answers = {}, {}
        dialogs, dense = [], []
        for number, item in enumerate(of_split):
            rounds = [
                {
                    "question": questions.setdefault(one["question"], len(questions)),
                    "answer": answers.setdefault(one["answer"], len(answers)),
                    "answer_options": [answers.setdefault(option, len(answers)) for option in one["options"]],
                    "gt_index": one["label"],
                }
                for one in item["rounds"]
            ]
            dialogs.append({"image_id": item["image_id"], "caption": item["caption"], "dialog": rounds})
            judged = number % len(rounds)
            relevance = item["rounds"][judged]["relevance"]
            dense.append({"image_id": item["image_id"], "round_id": judged + 1, "gt_relevance": relevance})
        data = {"questions": list(questions), "answers": list(answers), "dialogs": dialogs}
        write_json(folder / f"visdial_1.0_{split}.json", {"version": "1.0", "split": split, "data": data})
        if split != "train":
            write_json(folder / f"visdial_1.0_{split}_dense_annotations.json", dense)


# Boxes


def category_names(items: Items) -> list[str]:
    """Numbered from 1, as in COCO."""
    return sorted({name for of_split in items.values() for item in of_split for name in item["categories"]})


def write_refcoco(folder: Path, items: Items, size: tuple[int, int], name: str = "unc", test: str = "testB"):
    refs, images, annotations, numbers = [], {}, [], {}
    categories = category_names(items)
    sentences = 0
    for split, of_split in items.items():
        for item in of_split:
            image_id = item["image_id"]
            file_name = f"COCO_train2014_{image_id:012d}.jpg"
            if image_id not in images:
                images[image_id] = {"id": image_id, "file_name": file_name, "width": size[0], "height": size[1]}
                for place, (box, category) in enumerate(zip(item["boxes"], item["categories"])):
                    numbers[image_id, place] = len(annotations) + 1
                    x, y, width, height = width_and_height(box)
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": image_id,
                            "category_id": categories.index(category) + 1,
                            "bbox": [x, y, width, height],
                            "area": width * height,
                            "iscrowd": 0,
                            "segmentation": [],
                        }
                    )
            said = []
            for text in item["sentences"]:
                said.append({"sent_id": sentences, "sent": text, "raw": text, "tokens": text.split()})
                sentences += 1
            refs.append(
                {
                    "ref_id": len(refs),
                    "ann_id": numbers[image_id, item["object"]],
                    "image_id": image_id,
                    "category_id": categories.index(item["categories"][item["object"]]) + 1,
                    "file_name": file_name,
                    "split": test if split == "test" else split,
                    "sent_ids": [sentence["sent_id"] for sentence in said],
                    "sentences": said,
                }
            )
    # The official files were pickled by Python 2.
    (folder / f"refs({name}).p").write_bytes(pickle.dumps(refs, protocol=2))
    names = [{"id": number, "name": name, "supercategory": "shape"} for number, name in enumerate(categories, 1)]
    instances = {"images": list(images.values()), "annotations": annotations, "categories": names}
    write_json(folder / "instances.json", {"info": {}, "licenses": [], **instances})


def write_refcocog(folder: Path, items: Items, size: tuple[int, int]):
    write_refcoco(folder, items, size, name="umd", test="test")


def write_flickr30k_grounding(folder: Path, items: Items, size: tuple[int, int]):
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir()
    entity = 0
    for split, of_split in items.items():
        for item in of_split:
            first, lines = entity + 1, []
            entity += len(item["boxes"])
            for caption in item["captions"]:
                parts = [
                    part if isinstance(part, str) else f"[/EN#{first + part[1]}/other {part[0]}]" for part in caption
                ]
                lines.append(f"{' '.join(parts)} .")
            text = "".join(f"{line}\n" for line in lines).encode()
            (folder / "Sentences" / f"{item['image_id']}.txt").write_bytes(text)
            xml = [f"<annotation><filename>{item['image_id']}.jpg</filename>"]
            xml.append(f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>")
            for number, box in enumerate(item["boxes"], first):
                # Pixels are counted from 1 there.
                sides = "".join(f"<{side}>{at + 1}</{side}>" for side, at in zip(("xmin", "ymin", "xmax", "ymax"), box))
                xml.append(f"<object><name>{number}</name><bndbox>{sides}</bndbox></object>")
            text = "\n".join([*xml, "</annotation>\n"]).encode()
            (folder / "Annotations" / f"{item['image_id']}.xml").write_bytes(text)
        (folder / f"{split}.txt").write_bytes("".join(f"{item['image_id']}\n" for item in of_split).encode())


def write_visual7w(folder: Path, items: Items, size: tuple[int, int]):
    images: dict[int, dict] = {}
    boxes, first_box, questions = [], {}, 0
    for split, of_split in items.items():
        for item in of_split:
            image_id = item["image_id"]
            if image_id not in images:
                file_name = f"{visual7w_name(image_id)}.jpg"
                images[image_id] = {"image_id": image_id, "filename": file_name, "split": split, "qa_pairs": []}
                first_box[image_id] = len(boxes)
                for box, name in zip(item["boxes"], item["categories"]):
                    sides = dict(zip(("x", "y", "width", "height"), width_and_height(box)))
                    boxes.append({"box_id": len(boxes), "image_id": image_id, "name": name, **sides})
            questions += 1
            images[image_id]["qa_pairs"].append(
                {
                    "qa_id": questions,
                    "image_id": image_id,
                    "type": "which",
                    "question": item["question"],
                    "answer": first_box[image_id] + item["object"],
                    "multiple_choices": [first_box[image_id] + other for other in item["others"]],
                }
            )
    value = {"dataset": "Visual7W", "images": list(images.values()), "boxes": boxes}
    write_json(folder / "dataset_v7w_pointing.json", value)


def write_guesswhat(folder: Path, items: Items, size: tuple[int, int]):
    games = turns = objects = 0
    categories = category_names(items)
    for split, of_split in items.items():
        lines = []
        for item in of_split:
            games += 1
            image_id, things, qas = item["image_id"], [], []
            file_name = f"COCO_train2014_{image_id:012d}.jpg"
            for box, category in zip(item["boxes"], item["categories"]):
                x, y, width, height = width_and_height(box)
                things.append(
                    {
                        "id": objects + len(things) + 1,
                        "category": category,
                        "category_id": categories.index(category) + 1,
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "segment": [],
                    }
                )
            for question, answer in item["turns"]:
                turns += 1
                qas.append({"id": turns, "question": question, "answer": answer})
            lines.append(
                {
                    "id": games,
                    "status": item["status"],
                    "questioner_id": 0,
                    "image": {"id": image_id, "width": size[0], "height": size[1], "file_name": file_name},
                    "object_id": objects + item["object"] + 1,
                    "objects": things,
                    "qas": qas,
                }
            )
            objects += len(things)
        write_zipped_lines(folder / f"guesswhat.{GUESSWHAT_SPLITS[split]}.jsonl.gz", lines)


# Captions


def write_retrieval_flickr30k(folder: Path, items: Items, size: tuple[int, int]):
    """The lines of 12-in-1."""
    for split, of_split in items.items():
        lines = [
            {"id": str(number), "img_path": f"{item['image_id']}.jpg", "sentences": item["captions"]}
            for number, item in enumerate(of_split)
        ]
        write_lines(folder / f"all_data_final_{split}.jsonline", lines)


def write_retrieval_coco(folder: Path, items: Items, size: tuple[int, int]):
    """The file of Karpathy and Li."""
    images, sentences = [], 0
    for split, of_split in items.items():
        for item in of_split:
            number, said = len(images), []
            for text in item["captions"]:
                said.append({"imgid": number, "sentid": sentences, "raw": text, "tokens": text.split()})
                sentences += 1
            images.append(
                {
                    "cocoid": item["image_id"],
                    "imgid": number,
                    "filepath": "train2014",
                    "filename": f"COCO_train2014_{item['image_id']:012d}.jpg",
                    "split": split,
                    "sentids": [sentence["sentid"] for sentence in said],
                    "sentences": said,
                }
            )
    write_json(folder / "dataset_coco.json", {"dataset": "coco", "images": images})


def write_foil(folder: Path, items: Items, size: tuple[int, int]):
    number = 0
    for split, of_split in items.items():
        annotations = []
        for item in of_split:
            number += 1
            ids = {"id": number, "foil_id": number, "image_id": item["image_id"]}
            annotations.append(
                {**ids, "caption": item["caption"], "foil": False, "target_word": "ORIG", "foil_word": "ORIG"}
            )
            words = {"target_word": item["target_word"], "foil_word": item["foil_word"]}
            annotations.append({**ids, "caption": item["foil"], "foil": True, **words})
        image_ids = dict.fromkeys(item["image_id"] for item in of_split)
        images = [{"id": one, "file_name": f"{one}.jpg", "width": size[0], "height": size[1]} for one in image_ids]
        write_json(folder / f"foilv1.0_{split}.json", {"info": {}, "images": images, "annotations": annotations})


# Statements


def write_nlvr2(folder: Path, items: Items, size: tuple[int, int]):
    for split, of_split in items.items():
        lines = []
        for item in of_split:
            left, right = (f"{name}.png" for name in nlvr2_names(split, item["pair"]))
            for number, sentence in enumerate(item["sentences"]):
                lines.append(
                    {
                        "identifier": f"{nlvr2_pair(split, item['pair'])}-{number}",
                        "sentence": sentence["text"],
                        "label": str(sentence["label"]),
                        "left_url": left,
                        "right_url": right,
                    }
                )
        write_lines(folder / f"{NLVR2_SPLITS[split]}.json", lines)


def write_snli_ve(folder: Path, items: Items, size: tuple[int, int]):
    for split, of_split in items.items():
        lines = []
        for number, item in enumerate(of_split):
            image = str(item["image_id"])
            lines.append(
                {
                    "Flickr30K_ID": image,
                    "captionID": f"{image}.jpg#0",
                    "pairID": f"{image}.jpg#0r{number}{item['label'][0]}",
                    "sentence1": item["caption"],
                    "sentence2": item["hypothesis"],
                    "gold_label": item["label"],
                    "annotator_labels": [item["label"]],
                }
            )
        write_lines(folder / f"snli_ve_{SNLI_VE_SPLITS[split]}.jsonl", lines)


def write_hateful_memes(folder: Path, items: Items, size: tuple[int, int]):
    number = 0
    for split, of_split in items.items():
        lines = []
        for item in of_split:
            number += 1
            image = f"img/{item['image_id']}.png"
            lines.append({"id": number, "img": image, "label": item["label"], "text": item["text"]})
        write_lines(folder / f"{split}.jsonl", lines)


# Name of a task's items -> its writer. Each writes into a folder of that name.
WRITERS = {
    "vqa": write_vqa,
    "gqa": write_gqa,
    "genome_qa": write_genome_qa,
    "vcr": write_vcr,
    "visual_dialog": write_visual_dialog,
    "refcoco": write_refcoco,
    "refcoco+": write_refcoco,
    "refcocog": write_refcocog,
    "flickr30k_grounding": write_flickr30k_grounding,
    "visual7w": write_visual7w,
    "guesswhat_answers": write_guesswhat,
    "guesswhat_pointing": write_guesswhat,
    "retrieval_flickr30k": write_retrieval_flickr30k,
    "retrieval_coco": write_retrieval_coco,
    "nlvr2": write_nlvr2,
    "snli_ve": write_snli_ve,
    "foil": write_foil,
    "hateful_memes": write_hateful_memes,
}

_ALL_SPLITS = {"train": "train", "val": "val", "test": "test"}
# Task -> its folder, its files (with the data set's name of the split), and the splits' names.
FILES = {
    "vqa": ("vqa", ["v2_OpenEnded_{}_questions.json", "v2_{}_annotations.json"], _ALL_SPLITS),
    "gqa": ("gqa", ["{}_balanced_questions.json"], _ALL_SPLITS),
    "genome_qa": ("genome_qa", ["question_answers_{}.json"], _ALL_SPLITS),
    "vcr_answer": ("vcr", ["{}.jsonl"], _ALL_SPLITS),
    "vcr_rationale": ("vcr", ["{}.jsonl"], _ALL_SPLITS),
    "visual_dialog": ("visual_dialog", ["visdial_1.0_{}.json", "visdial_1.0_{}_dense_annotations.json"], _ALL_SPLITS),
    "refcoco": ("refcoco", ["refs(unc).p", "instances.json"], REFCOCO_SPLITS),
    "refcoco+": ("refcoco+", ["refs(unc).p", "instances.json"], REFCOCO_SPLITS),
    "refcocog": ("refcocog", ["refs(umd).p", "instances.json"], _ALL_SPLITS),
    "flickr30k_grounding": ("flickr30k_grounding", ["Sentences", "Annotations", "{}.txt"], _ALL_SPLITS),
    "visual7w": ("visual7w", ["dataset_v7w_pointing.json"], _ALL_SPLITS),
    "guesswhat_answers": ("guesswhat_answers", ["guesswhat.{}.jsonl.gz"], GUESSWHAT_SPLITS),
    "guesswhat_pointing": ("guesswhat_pointing", ["guesswhat.{}.jsonl.gz"], GUESSWHAT_SPLITS),
    "retrieval_flickr30k": ("retrieval_flickr30k", ["all_data_final_{}.jsonline"], _ALL_SPLITS),
    "retrieval_coco": ("retrieval_coco", ["dataset_coco.json"], _ALL_SPLITS),
    "nlvr2": ("nlvr2", ["{}.json"], NLVR2_SPLITS),
    "snli_ve": ("snli_ve", ["snli_ve_{}.jsonl"], SNLI_VE_SPLITS),
    "foil": ("foil", ["foilv1.0_{}.json"], _ALL_SPLITS),
    "hateful_memes": ("hateful_memes", ["{}.jsonl"], _ALL_SPLITS),
}
# Files of all splits: their readers have to be told which.
OF_ALL_SPLITS = {"refcoco", "refcoco+", "refcocog", "visual7w", "retrieval_coco"}
