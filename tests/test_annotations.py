"""Official annotation files, written small by hand, become rows; what is wrong in them is named."""

import gzip
import json
import logging
import os
import pickle

import datasets
import pytest

from modeling_vilbert.annotations import CLASS_NAMES, NAMES, READERS, check_rows


def write(path, *values):
    """JSON of one value, or a line for each of several; gzipped by suffix."""
    text = "\n".join(map(json.dumps, values)) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(task, *files, split=None):
    """Rows, which pass the checks and can be made a data set of."""
    rows = READERS[task](files, split)
    check_rows(rows, task)
    assert all(isinstance(row["id"], str) and row.keys() == rows[0].keys() for row in rows)
    assert datasets.Dataset.from_list(rows).to_list() == json.loads(json.dumps(rows))
    return rows


def without(record, *fields):
    return {field: value for field, value in record.items() if field not in fields}


def says(*parts):
    """What a message holds, in this order."""
    return ".*".join(
        part.replace("\\", "\\\\").replace("[", r"\[").replace("(", r"\(").replace("+", r"\+") for part in parts
    )


def test_every_task_has_a_reader():
    assert set(READERS) == set(
        "vqa gqa genome_qa vcr_answer vcr_rationale refcoco refcoco+ refcocog flickr30k_grounding visual7w "
        "guesswhat_answers guesswhat_pointing retrieval_flickr30k retrieval_coco nlvr2 snli_ve visual_dialog foil "
        "hateful_memes".split()
    )
    assert set(CLASS_NAMES) <= set(READERS)


# Answers

VQA_QUESTIONS = {
    "info": {"version": "2.0"},
    "task_type": "Open-Ended",
    "data_type": "mscoco",
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": 139, "question": "How many dogs?", "question_id": 139001},
    ],
}
HUMANS = ["down", "Down", "at table", "skateboard", "down.", "table", "down", "at table", "the", "skateboard"]


def vqa_annotation(question_id, answers):
    return {
        "question_type": "none of the above",
        "multiple_choice_answer": answers[0],
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": number}
            for number, answer in enumerate(answers, 1)
        ],
        "image_id": question_id // 1000,
        "answer_type": "other",
        "question_id": question_id,
    }


VQA_ANNOTATIONS = {
    "info": {},
    # In another order, and of one question more.
    "annotations": [
        vqa_annotation(139001, ["two"] * 9 + ["1"]),
        vqa_annotation(7000, ["no"] * 10),
        vqa_annotation(262148000, HUMANS),
    ],
}


@pytest.mark.parametrize("questions_first", [True, False])
def test_vqa(tmp_path, questions_first):
    files = [write(tmp_path / "a.json", VQA_QUESTIONS), write(tmp_path / "b.json.gz", VQA_ANNOTATIONS)]
    rows = read("vqa", *(files if questions_first else files[::-1]))
    scores = [dict(zip(row.pop("answers"), row.pop("scores"))) for row in rows]
    assert rows == [
        {"id": "262148000", "image_id": "262148", "text": "Where is he looking?", "human_answers": HUMANS},
        {"id": "139001", "image_id": "139", "text": "How many dogs?", "human_answers": ["two"] * 9 + ["1"]},
    ]
    # Of "the" nothing is left.
    assert scores[0] == pytest.approx({"down": 1.0, "at table": 0.6, "skateboard": 0.6, "table": 0.3})
    assert scores[1] == pytest.approx({"2": 1.0, "1": 0.3})


def test_vqa_test_questions_have_no_answers(tmp_path):
    rows = read("vqa", write(tmp_path / "questions.json", VQA_QUESTIONS))
    assert rows[1] == {
        "id": "139001",
        "image_id": "139",
        "text": "How many dogs?",
        "answers": None,
        "scores": None,
        "human_answers": None,
    }


GQA = {
    "02930152": {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (2486325)"}],
        "entailed": ["02930160"],
        "equivalent": ["02930152"],
        "question": "Is the sky dark?",
        "imageId": "2354786",
        "isBalanced": True,
        "groups": {"global": None, "local": "06-sky_dark"},
        "answer": "yes",
        "semanticStr": "select: sky (2486325)->verify color: dark [0]",
        "annotations": {"answer": {}, "question": {"2": "2486325"}, "fullAnswer": {"2": "2486325"}},
        "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
        "fullAnswer": "Yes, the sky is dark.",
    },
    "07333408": {"question": "What is in front of the fence?", "imageId": "n161313", "answer": "T-Shirt"},
}


def test_gqa(tmp_path):
    rows = [
        {"id": "02930152", "image_id": "2354786", "text": "Is the sky dark?", "answers": ["yes"], "scores": [1.0]},
        {
            "id": "07333408",
            "image_id": "n161313",
            "text": "What is in front of the fence?",
            "answers": ["T-Shirt"],
            "scores": [1.0],
        },
    ]
    assert read("gqa", write(tmp_path / "questions.json", GQA)) == rows
    parts = [write(tmp_path / f"{name}.json", {name: fields}) for name, fields in GQA.items()]
    assert read("gqa", *parts) == rows
    test = write(tmp_path / "submission.json", {name: without(fields, "answer") for name, fields in GQA.items()})
    assert read("gqa", test) == [{**row, "answers": None, "scores": None} for row in rows]


GENOME_QA = [
    {
        "id": 1,
        "qas": [
            {
                "a_objects": [],
                "question": "What color is the clock?",
                "image_id": 1,
                "qa_id": 986768,
                "answer": "Green.",
                "q_objects": [],
            },
            {
                "a_objects": [],
                "question": "Who is on the bench?",
                "image_id": 1,
                "qa_id": 986777,
                "answer": "A man's wife.",
                "q_objects": [],
            },
        ],
    },
    {"id": 2, "qas": []},
]


def test_genome_qa(tmp_path):
    assert read("genome_qa", write(tmp_path / "question_answers.json", GENOME_QA)) == [
        {
            "id": "986768",
            "image_id": "1",
            "text": "What color is the clock?",
            "answers": ["green"],
            "scores": [1.0],
        },
        {
            "id": "986777",
            "image_id": "1",
            "text": "Who is on the bench?",
            "answers": ["man's wife"],
            "scores": [1.0],
        },
    ]


# Classes

SNLI_VE = [
    {
        "annotator_labels": ["neutral"],
        "captionID": "3416050480.jpg#4",
        "gold_label": "neutral",
        "pairID": "3416050480.jpg#4r1n",
        "sentence1": "A person on a horse jumps over a broken down airplane.",
        "sentence2": "A person is training his horse for a competition.",
        "Flickr30K_ID": "3416050480",
    },
    {
        "gold_label": "-",
        "pairID": "3416050480.jpg#4r1c",
        "sentence2": "A person is at a diner.",
        "Flikr30kID": "3416050480.jpg",
    },
]


def test_snli_ve(tmp_path):
    rows = [
        {
            "id": "3416050480.jpg#4r1n",
            "image_id": "3416050480",
            "text": "A person is training his horse for a competition.",
            "label": "neutral",
        },
        {
            "id": "3416050480.jpg#4r1c",
            "image_id": "3416050480",
            "text": "A person is at a diner.",
            "label": None,
        },
    ]
    assert read("snli_ve", write(tmp_path / "snli_ve_dev.jsonl", *SNLI_VE)) == rows
    test = [without(record, "gold_label") for record in SNLI_VE]
    assert read("snli_ve", write(tmp_path / "test.jsonl.gz", *test)) == [{**row, "label": None} for row in rows]


NLVR2 = [
    {
        "validation": {"57": "True"},
        "sentence": "An image shows one leather case.",
        "left_url": "https://example.org/l.jpg",
        "writer": 2,
        "label": "False",
        "synset": "pencil case",
        "right_url": "https://example.org/r.jpg",
        "query": "pencil cases17",
        "identifier": "train-10171-0-0",
    },
    {"sentence": "There are two.", "label": "True", "identifier": "train-10171-0-1"},
]


def test_nlvr2(tmp_path):
    images = ["train-10171-0-img0", "train-10171-0-img1"]
    rows = [
        {
            "id": "train-10171-0-0",
            "image_id": images,
            "text": "An image shows one leather case.",
            "label": "False",
        },
        {"id": "train-10171-0-1", "image_id": images, "text": "There are two.", "label": "True"},
    ]
    assert read("nlvr2", write(tmp_path / "train.json", *NLVR2)) == rows
    hidden = write(tmp_path / "test2.json", *(without(record, "label") for record in NLVR2))
    assert read("nlvr2", hidden) == [{**row, "label": None} for row in rows]


FOIL = {
    "info": {},
    "images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}],
    "licenses": [],
    "annotations": [
        {
            "caption": "A man with a red helmet.",
            "foil": False,
            "foil_id": 0,
            "foil_word": "ORIG",
            "id": 770337,
            "image_id": 391895,
            "target_word": "ORIG",
        },
        {
            "caption": "A man with a red backpack.",
            "foil": True,
            "foil_id": 0,
            "foil_word": "backpack",
            "id": 770337,
            "image_id": 391895,
            "target_word": "helmet",
        },
    ],
}


def test_foil(tmp_path):
    assert read("foil", write(tmp_path / "foilv1.0_test_2017.json", FOIL)) == [
        {"id": "770337-0-original", "image_id": "391895", "text": "A man with a red helmet.", "label": "original"},
        {"id": "770337-0-foil", "image_id": "391895", "text": "A man with a red backpack.", "label": "foil"},
    ]


MEMES = [
    {"id": 42953, "img": "img/42953.png", "label": 0, "text": "its their character not their color that matters"},
    {"id": 1235, "img": "img/01235.png", "label": 1, "text": "a mean text"},
]


def test_hateful_memes(tmp_path):
    rows = [
        {"id": "42953", "image_id": "42953", "text": MEMES[0]["text"], "label": "not hateful"},
        {"id": "1235", "image_id": "01235", "text": "a mean text", "label": "hateful"},
    ]
    assert read("hateful_memes", write(tmp_path / "train.jsonl", *MEMES)) == rows
    test = write(tmp_path / "test_seen.jsonl", *(without(record, "label") for record in MEMES))
    assert read("hateful_memes", test) == [{**row, "label": None} for row in rows]


# Choices

VCR = {
    "movie": "1054_Harry_Potter_and_the_prisoner_of_azkaban",
    "objects": ["person", "person", "car", "person"],
    "interesting_scores": [0],
    "answer_likelihood": "possible",
    "img_fn": "lsmdc_1054_Harry_Potter/1054_00.01.46.736-00.01.50.168@0.jpg",
    "metadata_fn": "lsmdc_1054_Harry_Potter/1054_00.01.46.736-00.01.50.168@0.json",
    "answer_orig": "No, 1 and 2 are angry.",
    "question_orig": "Why is 1 in the 3?",
    "rationale_orig": "1 is frowning.",
    "question": ["Why", "is", [0], "in", "the", [2], "?"],
    "question_match_fold": "train-0",
    "question_match_index": 0,
    "question_number": 0,
    "answer_choices": [
        ["No", ",", [0, 3], "are", "angry", "."],
        [[3], "is", "shy", "."],
        ["Yes", "."],
        ["No", "."],
    ],
    "answer_label": 1,
    "answer_match_iter": [3, 0, 2, 1],
    "answer_sources": [3287, 0, 10184, 2260],
    "rationale_choices": [[[0], "is", "frowning", "."], [[1], "sits", "."], ["It", "rains", "."], ["So", "."]],
    "rationale_label": 0,
    "rationale_match_iter": [1, 0, 2, 3],
    "rationale_sources": [1921, 0, 9750, 25743],
    "img_id": "train-0",
    "img_fn_orig": "",
    "annot_id": "train-17",
    "match_fold": "train-0",
    "match_index": 0,
}


def test_vcr(tmp_path):
    file = write(tmp_path / "train.jsonl", VCR)
    (row,) = read("vcr_answer", file)
    text = row["text"].split()
    first, third = text[2], row["text_pair"][1].split()[0]
    assert {first, third} <= set(NAMES) and first != third
    assert row == {
        "id": "train-17",
        "image_id": VCR["img_fn"],
        "question_id": "train-17",
        "text": f"Why is {first} in the car ?",
        "text_pair": [f"No , {first} {third} are angry .", f"{third} is shy .", "Yes .", "No ."],
        "label": 1,
    }
    (rationale,) = read("vcr_rationale", file)
    second = rationale["text_pair"][1].split()[0]
    assert second in NAMES and len({first, second, third}) == 3
    assert rationale == {
        "id": "train-17",
        "image_id": VCR["img_fn"],
        "question_id": "train-17",
        "text": f"Why is {first} in the car ? [SEP] {third} is shy .",
        "text_pair": [f"{first} is frowning .", f"{second} sits .", "It rains .", "So ."],
        "label": 0,
    }
    # Names belong to the annotation, and are not the same ones everywhere.
    assert read("vcr_answer", file) == [row]
    others = write(tmp_path / "more.jsonl", *({**VCR, "annot_id": f"train-{number}"} for number in range(30)))
    assert len({row["text"] for row in read("vcr_answer", others)}) > 10


def test_vcr_test_split_asks_for_reasons_of_every_answer(tmp_path):
    file = write(tmp_path / "test.jsonl", without(VCR, "answer_label", "rationale_label"))
    (row,) = read("vcr_answer", file)
    assert row["label"] is None
    rows = read("vcr_rationale", file)
    assert [row["id"] for row in rows] == [f"train-17-a{number}" for number in range(4)]
    assert [row["text"] for row in rows] == [f"{row['text']} [SEP] {answer}" for answer in row["text_pair"]]
    assert all(row["question_id"] == "train-17" and row["label"] is None for row in rows)


def test_vcr_persons_have_different_names_even_in_a_crowd(tmp_path):
    crowd = {**VCR, "objects": ["person"] * 100, "question": [[number] for number in range(100)]}
    (row,) = read("vcr_answer", write(tmp_path / "crowd.jsonl", {**crowd, "answer_choices": [["a"]] * 4}))
    names = [name for name in row["text"].split() if name in NAMES]
    suffixed = row["text"].replace(" 2", "_2").replace(" 3", "_3").split()
    assert len(names) == 100 and len(set(suffixed)) == 100


VISDIAL = {
    "version": "1.0",
    "split": "val",
    "data": {
        "questions": ["is it sunny", "any people", "how many dogs", "is it big", "what color"],
        "answers": ["yes", "no", "two", "brown"],
        "dialogs": [
            {
                "image_id": 378466,
                "caption": "a dog runs",
                "dialog": [
                    {"question": 0, "answer": 0, "gt_index": 2, "answer_options": [1, 2, 0]},
                    {"question": 1, "answer": 1, "gt_index": 0, "answer_options": [1, 2, 3]},
                    {"question": 2, "answer": 2, "gt_index": 1, "answer_options": [3, 2, 0]},
                    {"question": 3, "answer": 1, "gt_index": 1, "answer_options": [0, 1, 2]},
                    {"question": 4, "answer": 3, "gt_index": 0, "answer_options": [3, 1, 0]},
                ],
            }
        ],
    },
}
DENSE = [{"image_id": 378466, "round_id": 3, "gt_relevance": [0.0, 1.0, 0.4]}]


def test_visual_dialog(tmp_path):
    dialogues, dense = write(tmp_path / "visdial_1.0_val.json", VISDIAL), write(tmp_path / "dense.json", DENSE)
    rows = read("visual_dialog", dense, dialogues)
    assert rows[0] == {
        "id": "378466-1",
        "image_id": "378466",
        "dialog_id": "378466",
        "round": 1,
        "text": "is it sunny [SEP] a dog runs",
        "text_pair": ["no", "two", "yes"],
        "label": 2,
        "relevance": None,
    }
    assert rows[2]["text"] == "how many dogs [SEP] a dog runs [SEP] any people no [SEP] is it sunny yes"
    assert (
        rows[4]["text"] == "what color [SEP] a dog runs [SEP] is it big no [SEP] how many dogs two [SEP] any people no"
    )
    assert [row["label"] for row in rows] == [2, 0, 1, 1, 0]
    assert [row["round"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["relevance"] for row in rows] == [None, None, [0.0, 1.0, 0.4], None, None]
    # The training split's sample names it otherwise.
    dense = write(tmp_path / "sample.json", [{"image_id": 378466, "round_id": 3, "relevance": [0, 1, 0.4]}])
    assert read("visual_dialog", dialogues, dense) == rows
    assert all(row["relevance"] is None for row in READERS["visual_dialog"]([dialogues]))


def visdial(turns):
    (dialog,) = VISDIAL["data"]["dialogs"]
    return {**VISDIAL, "data": {**VISDIAL["data"], "dialogs": [{**dialog, "dialog": turns}]}}


def test_visual_dialog_test_split(tmp_path):
    test = visdial([{"question": 0, "answer": 0}, {"question": 1, "answer_options": [1, 2, 3]}])
    assert read("visual_dialog", write(tmp_path / "visdial_1.0_test.json", test)) == [
        {
            "id": "378466-2",
            "image_id": "378466",
            "dialog_id": "378466",
            "round": 2,
            "text": "any people [SEP] a dog runs [SEP] is it sunny yes",
            "text_pair": ["no", "two", "brown"],
            "label": None,
            "relevance": None,
        }
    ]


# Captions

FLICKR_LINES = [
    {"sentences": ["Two young guys.", "Two men."], "id": 0, "img_path": "1000092795.jpg"},
    {"sentences": ["A child."], "id": 1, "img_path": "1000268201.jpg"},
]
FLICKR_ROWS = [
    {"id": "1000092795-0", "image_id": "1000092795", "text": "Two young guys."},
    {"id": "1000092795-1", "image_id": "1000092795", "text": "Two men."},
    {"id": "1000268201-0", "image_id": "1000268201", "text": "A child."},
]


def karpathy(split, texts, **fields):
    return {
        **fields,
        "split": split,
        "imgid": 0,
        "sentids": list(range(len(texts))),
        "sentences": [{"tokens": text.split(), "raw": text, "imgid": 0, "sentid": i} for i, text in enumerate(texts)],
    }


KARPATHY_COCO = {
    "images": [
        karpathy("test", ["A man.", "A bike."], filename="COCO_val2014_000000391895.jpg", cocoid=391895),
        karpathy("train", ["A girl."], filename="COCO_val2014_000000522418.jpg", cocoid=522418),
        karpathy("restval", ["A cake."], filename="COCO_val2014_000000184613.jpg", cocoid=184613),
    ],
    "dataset": "coco",
}


@pytest.mark.parametrize("count", [1, 2])
def test_retrieval_in_lines(tmp_path, count):
    file = write(tmp_path / "all_data_final_train_2014.jsonline", *FLICKR_LINES[:count])
    assert read("retrieval_flickr30k", file) == FLICKR_ROWS[: count + 1]
    lines = [{"sentences": ["A man."], "id": 391895, "img_path": "COCO_val2014_000000391895.jpg"}] * count
    assert (
        READERS["retrieval_coco"]([write(tmp_path / "coco.jsonline", *lines)])
        == [{"id": "391895-0", "image_id": "391895", "text": "A man."}] * count
    )


@pytest.mark.parametrize("indent", [None, 1])
def test_retrieval_in_karpathys_file(tmp_path, indent):
    flickr = {
        "images": [
            karpathy("train", ["Two young guys.", "Two men."], filename="1000092795.jpg"),
            karpathy("val", ["No."], filename="10002456.jpg"),
            karpathy("train", ["A child."], filename="1000268201.jpg"),
        ],
        "dataset": "flickr30k",
    }
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps(flickr, indent=indent))
    assert read("retrieval_flickr30k", file, split="train") == FLICKR_ROWS
    file.write_text(json.dumps(KARPATHY_COCO, indent=indent))
    assert read("retrieval_coco", file, split="test") == [
        {"id": "391895-0", "image_id": "391895", "text": "A man."},
        {"id": "391895-1", "image_id": "391895", "text": "A bike."},
    ]
    assert [row["image_id"] for row in read("retrieval_coco", file, split="train+restval")] == ["522418", "184613"]


# A box

REFS = [
    {
        "sent_ids": [0, 1],
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "ann_id": 1719310,
        "ref_id": 0,
        "image_id": 581857,
        "split": "train",
        "sentences": [
            {"tokens": ["the", "lady"], "raw": "THE LADY", "sent_id": 0, "sent": "the lady"},
            {"tokens": ["blue"], "sent_id": 1, "sent": "blue"},
        ],
        "category_id": 1,
    },
    {
        "sent_ids": [7],
        "file_name": "COCO_train2014_000000000009_0.jpg",
        "ann_id": 3,
        "ref_id": 1,
        "image_id": 9,
        "split": "testA",
        "sentences": [{"tokens": ["man"], "raw": "man", "sent_id": 7, "sent": "man"}],
        "category_id": 1,
    },
]
INSTANCES = {
    "info": {},
    "images": [{"id": 581857, "height": 427, "width": 640, "file_name": "COCO_train2014_000000581857.jpg"}],
    "licenses": [],
    "annotations": [
        {"segmentation": [[1, 2]], "area": 1.5, "iscrowd": 0, "image_id": 9, "bbox": [1, 2, 3, 4], "id": 3},
        {"iscrowd": 0, "image_id": 581857, "bbox": [103.93, 299.99, 134.22, 177.42], "id": 1719310},
    ],
    "categories": [{"supercategory": "person", "id": 1, "name": "person"}],
}


@pytest.mark.parametrize("task", ["refcoco", "refcoco+", "refcocog"])
@pytest.mark.parametrize("protocol", [0, 2])
def test_refcoco(tmp_path, task, protocol):
    refs = tmp_path / "refs(unc).p"
    refs.write_bytes(pickle.dumps(REFS, protocol))
    instances = write(tmp_path / "instances.json", INSTANCES)
    box = [103.93, 299.99, 103.93 + 134.22, 299.99 + 177.42]
    assert read(task, instances, refs, split="train") == [
        {"id": "0", "image_id": "581857", "text": "THE LADY", "box": box},
        {"id": "1", "image_id": "581857", "text": "blue", "box": box},
    ]
    assert read(task, refs, instances, split="testA") == [
        {"id": "7", "image_id": "9", "text": "man", "box": [1.0, 2.0, 4.0, 6.0]}
    ]


def test_a_pickle_of_python_2(tmp_path):
    """What `cPickle.dump(refs, file, 2)` wrote: text as bytes, and numbers of any length."""
    text = pickle.dumps(REFS, 2)
    # BINUNICODE of 4 bytes length -> SHORT_BINSTRING, as Python 2 wrote a str.
    text = text.replace(b"X\x06\x00\x00\x00ann_id", b"U\x06ann_id").replace(
        b"X\x08\x00\x00\x00THE LADY", b"U\x08TH\xc9 LADY"
    )
    refs, instances = tmp_path / "refs(unc).p", write(tmp_path / "instances.json", INSTANCES)
    refs.write_bytes(text)
    assert read("refcoco", refs, instances, split="train")[0]["text"] == "TH\xc9 LADY"


def test_a_pickle_cannot_run_anything(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.system, ("touch harm",)

    refs, instances = tmp_path / "refs(unc).p", write(tmp_path / "instances.json", INSTANCES)
    refs.write_bytes(pickle.dumps([Harm()]))
    with pytest.raises(ValueError, match=says("refs(unc", "system")):
        READERS["refcoco"]([refs, instances], "train")
    assert not (tmp_path / "harm").exists()


SENTENCES = """\
[/EN#1/people Two young guys] with [/EN#2/bodyparts/other shaggy hair] look at [/EN#3/scene the yard] .
[/EN#0/notvisual Who] knows [/EN#4/people them] ?
"""
BOXES = """\
<annotation>
  <filename>36979.jpg</filename>
  <size><width>500</width><height>375</height><depth>3</depth></size>
  <object><name>1</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>101</xmax><ymax>201</ymax></bndbox></object>
  <object><name>2</name><name>4</name>
    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>31</xmax><ymax>41</ymax></bndbox></object>
  <object><name>1</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object>
  <object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object>
</annotation>
"""


@pytest.fixture
def flickr(tmp_path):
    for folder, suffix, text in (("Sentences", "txt", SENTENCES), ("Annotations", "xml", BOXES)):
        (tmp_path / folder).mkdir()
        for name in ("36979", "65567"):
            (tmp_path / folder / f"{name}.{suffix}").write_text(text)
    return tmp_path


def test_flickr30k_grounding(flickr):
    rows = read("flickr30k_grounding", flickr / "Annotations", flickr / "Sentences")
    assert rows[:3] == [
        {"id": "36979-0-0", "image_id": "36979", "text": "Two young guys", "box": [10.0, 20.0, 100.0, 200.0]},
        {"id": "36979-0-1", "image_id": "36979", "text": "shaggy hair", "box": [0.0, 0.0, 30.0, 40.0]},
        {"id": "36979-1-1", "image_id": "36979", "text": "them", "box": [0.0, 0.0, 30.0, 40.0]},
    ]
    assert [row["image_id"] for row in rows] == ["36979"] * 3 + ["65567"] * 3
    (flickr / "val.txt").write_text("65567\n")
    assert read("flickr30k_grounding", flickr / "val.txt", flickr / "Sentences", flickr / "Annotations") == rows[3:]


# Pointing

VISUAL7W = {
    "dataset": "v7w-pointing",
    "images": [
        {
            "split": "train",
            "image_id": 2407890,
            "filename": "v7w_2407890.jpg",
            "qa_pairs": [
                {
                    "qa_id": 100,
                    "question": "Which is the brown bread?",
                    "multiple_choices": [1000, 7, 60],
                    "answer": 99,
                    "image_id": 2407890,
                    "type": "which",
                }
            ],
        },
        {"split": "val", "image_id": 5, "filename": "v7w_5.jpg", "qa_pairs": []},
    ],
    "boxes": [
        {"box_id": number, "image_id": 2407890, "x": x, "y": 1, "width": 10, "height": 5, "name": "bread"}
        for x, number in enumerate([1000, 7, 60, 99])
    ],
}


def test_visual7w(tmp_path):
    file = write(tmp_path / "dataset_v7w_pointing.json", VISUAL7W)
    assert read("visual7w", file, split="train") == [
        {
            "id": "100",
            "image_id": "v7w_2407890",
            "text": "Which is the brown bread?",
            "candidates": [[1.0, 1.0, 11.0, 6.0], [2.0, 1.0, 12.0, 6.0], [3.0, 1.0, 13.0, 6.0], [0.0, 1.0, 10.0, 6.0]],
            "label": 2,
        }
    ]
    assert READERS["visual7w"]([file], "val") == []


GUESSWHAT = [
    {
        "status": "success",
        "picture": {"file_name": "COCO_train2014_000000489209.jpg"},
        "id": 2417,
        "qas": [
            {"answer": "No", "question": "Is it a person?", "id": 4967},
            {"answer": "N/A", "question": "Is it left?", "id": 4968},
        ],
        "objects": [
            {
                "category": "bottle",
                "area": 17.5,
                "iscrowd": False,
                "object_id": 1090,
                "bbox": [10, 20, 5.5, 6],
                "category_id": 44,
                "id": 1090,
                "segment": [[1, 2]],
            },
            {"category": "cup", "area": 9, "bbox": [0, 0, 3, 3], "category_id": 47, "id": 86},
        ],
        "object_id": 1090,
        "image": {"id": 489209, "width": 640, "height": 427, "file_name": "COCO_train2014_000000489209.jpg"},
    }
]
GUESSWHAT.append(
    {
        **GUESSWHAT[0],
        "id": 2418,
        "status": "failure",
        "object_id": 86,
        "qas": [{"answer": "Yes", "question": "Cup?", "id": 5001}],
    }
)


@pytest.mark.parametrize("name", ["guesswhat.train.jsonl", "guesswhat.train.jsonl.gz"])
def test_guesswhat(tmp_path, name):
    file = write(tmp_path / name, *GUESSWHAT)
    assert read("guesswhat_pointing", file) == [
        {
            "id": "2417",
            "image_id": "489209",
            "text": "start Is it a person? answer No stop start Is it left? answer N/A stop",
            "candidates": [[0.0, 0.0, 3.0, 3.0], [10.0, 20.0, 15.5, 26.0]],
            "label": 1,
        }
    ]
    bottle = {"image_id": "489209", "text_pair": "bottle", "focus": [10.0, 20.0, 15.5, 26.0]}
    cup = {"image_id": "489209", "text_pair": "cup", "focus": [0.0, 0.0, 3.0, 3.0]}
    assert read("guesswhat_answers", file) == [
        {"id": "4967", "text": "Is it a person?", "label": "No", **bottle},
        {"id": "4968", "text": "Is it left?", "label": "N/A", **bottle},
        {"id": "5001", "text": "Cup?", "label": "Yes", **cup},
    ]


# Files that are wrong: the file, the line or record, the field, and what came


@pytest.mark.parametrize(
    "task, values, parts",
    [
        ("snli_ve", [SNLI_VE[0], without(SNLI_VE[1], "sentence2")], ["line 2", "field sentence2: it is missing"]),
        ("snli_ve", [without(SNLI_VE[0], "Flickr30K_ID")], ["line 1", "field Flickr30K_ID"]),
        (
            "snli_ve",
            [SNLI_VE[0], without(SNLI_VE[1], "gold_label")],
            ["line 2", "gold_label", "1 of 2 records have it"],
        ),
        ("snli_ve", [{**SNLI_VE[0], "gold_label": "maybe"}], ["gold_label", "one of ['contradiction'", "got 'maybe'"]),
        ("snli_ve", [[]], ["line 1", "must be an object with named fields, got []"]),
        ("nlvr2", [{**NLVR2[0], "label": 1}], ["line 1", "label", "one of ['False', 'True'], got 1"]),
        ("nlvr2", [NLVR2[0], without(NLVR2[1], "label")], ["line 2", "label", "1 of 2 records"]),
        ("nlvr2", [{**NLVR2[0], "identifier": "train"}], ["identifier", "got 'train'"]),
        ("nlvr2", [{**NLVR2[0], "sentence": ["a"]}], ["sentence: it must be text, got ['a']"]),
        ("hateful_memes", [{**MEMES[0], "label": 2}], ["line 1", "label", "from 0 to 1, got 2"]),
        ("hateful_memes", [{**MEMES[0], "label": True}], ["label", "got True"]),
        ("hateful_memes", [{**MEMES[0], "id": [1]}], ["field id: it must be a number or text, got [1]"]),
        ("hateful_memes", [MEMES[0], without(MEMES[1], "label")], ["line 2", "label", "1 of 2"]),
        ("foil", [without(FOIL, "annotations")], ["annotations: it is missing; there are: info"]),
        ("foil", [{**FOIL, "annotations": [{**FOIL["annotations"][0], "foil": "no"}]}], ["annotations[0]", "got 'no'"]),
        ("gqa", [{"5": {"question": "?", "answer": "a"}}], ["record '5', field imageId: it is missing"]),
        ("gqa", [{**GQA, "5": {"question": "?", "imageId": "1"}}], ["record '5', field answer", "2 of 3 records"]),
        ("gqa", [{"5": "?"}], ["record '5'", "got '?'"]),
        ("gqa", [[]], ["it must be an object with named fields"]),
        ("genome_qa", [{}], ["it must be a list of records, got {}"]),
        ("genome_qa", [[{"id": 1}]], ["record [0], field qas: it is missing"]),
        ("genome_qa", [[{"qas": [{"qa_id": 1, "image_id": 1, "question": "?"}]}]], ["[0].qas[0]", "answer"]),
        ("vcr_answer", [{**VCR, "question": ["Is", [4], "?"]}], ["line 1, field question", "from 0 to 3", "got [4]"]),
        ("vcr_answer", [{**VCR, "answer_choices": [["a"], "b"]}], ["answer_choices[1]: it must be a list, got 'b'"]),
        ("vcr_answer", [{**VCR, "answer_choices": [["a"], [None]]}], ["answer_choices[1]", "got None"]),
        ("vcr_answer", [{**VCR, "answer_label": 4}], ["answer_label", "from 0 to 3, got 4"]),
        ("vcr_answer", [{**VCR, "objects": ["car", 1]}], ["objects[1]: it must be text, got 1"]),
        ("vcr_answer", [VCR, without(VCR, "answer_label")], ["line 2, field answer_label"]),
        ("vcr_rationale", [{**VCR, "rationale_label": -1}], ["rationale_label", "got -1"]),
        ("vcr_rationale", [without(VCR, "rationale_choices")], ["rationale_choices: it is missing"]),
        ("visual_dialog", [{}], ["it holds none of these: dialogues, dense annotations"]),
        ("visual_dialog", [DENSE], ["files must have dialogues among them"]),
        ("visual_dialog", [visdial([{"question": 5}])], ["data.dialogs[0].dialog[0], field question", "0 to 4, got 5"]),
        (
            "visual_dialog",
            [visdial([{"question": 0, "answer": 0, "answer_options": [0, 9], "gt_index": 0}])],
            ["answer_options[1]", "0 to 3, got 9"],
        ),
        (
            "visual_dialog",
            [visdial([{"question": 0, "answer": 0, "answer_options": [0, 1], "gt_index": 2}])],
            ["gt_index", "0 to 1, got 2"],
        ),
        ("visual_dialog", [visdial([{"question": 0, "answer": 0, "gt_index": 0}])], ["answer_options: it is missing"]),
        ("visual_dialog", [visdial([{"question": 0}, {"question": 1}])], ["dialog[0], field answer: it is missing"]),
        (
            "visual_dialog",
            [
                visdial(
                    [
                        {"question": 0, "answer": 0, "answer_options": [0], "gt_index": 0},
                        {"question": 1, "answer": 0, "answer_options": [0]},
                    ]
                )
            ],
            ["dialog[1], field gt_index", "1 of 2"],
        ),
        ("retrieval_coco", [{"sentences": ["a"], "img_path": "a.jpg"}], ["line 1, field id: it is missing"]),
        ("retrieval_flickr30k", [{"sentences": [1], "img_path": "a.jpg"}], ["line 1, field sentences[0]", "got 1"]),
        ("guesswhat_pointing", [{**GUESSWHAT[0], "object_id": 5}], ["line 1, field object_id: object 5 is not among"]),
        ("guesswhat_answers", [{**GUESSWHAT[0], "object_id": 5}], ["line 1, field object_id: object 5 is not among"]),
        (
            "guesswhat_answers",
            [{**GUESSWHAT[0], "qas": [{"question": "?", "id": 1, "answer": "Perhaps"}]}],
            ["line 1, qas[0], field answer", "got 'Perhaps'"],
        ),
        (
            "guesswhat_pointing",
            [{**GUESSWHAT[0], "objects": [{"id": 1090, "bbox": [1, 2, 3]}]}],
            ["line 1, objects[0], field bbox: it must be 4 numbers, got 3"],
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, task, values, parts):
    file = write(tmp_path / "some.json", *values)
    with pytest.raises(ValueError, match=says("some.json", *parts) if "files must" not in parts[0] else says(*parts)):
        READERS[task]([file])


@pytest.mark.parametrize(
    "questions, annotations, parts",
    [
        ({"questions": []}, {"answers": []}, ["b.json: it holds none of these: questions, annotations"]),
        (VQA_ANNOTATIONS, VQA_ANNOTATIONS, ["files must have questions among them", "b.json"]),
        (
            VQA_QUESTIONS,
            {"annotations": VQA_ANNOTATIONS["annotations"][:2]},
            ["a.json, record questions[0], field question_id: question 262148000 has no annotation"],
        ),
        (
            VQA_QUESTIONS,
            {"annotations": VQA_ANNOTATIONS["annotations"][:1] * 2},
            ["b.json, record annotations[1]", "question 139001 has two annotations"],
        ),
        (
            VQA_QUESTIONS,
            {"annotations": [vqa_annotation(139001, ["a"] * 10), vqa_annotation(262148000, ["a", "b"])]},
            ["b.json, record annotations[1], field answers", "got 2"],
        ),
        (
            {"questions": [{"image_id": 1, "question_id": 139001}]},
            VQA_ANNOTATIONS,
            ["a.json, record questions[0], field question: it is missing"],
        ),
        (
            {"questions": [{"image_id": 1, "question": "?", "question_id": 5}]},
            {"annotations": [{"question_id": 5, "answers": [{"answer": 3}]}]},
            ["b.json, record annotations[0].answers[0], field answer: it must be text, got 3"],
        ),
    ],
)
def test_what_is_wrong_in_vqa_is_named(tmp_path, questions, annotations, parts):
    files = [write(tmp_path / "a.json", questions), write(tmp_path / "b.json", annotations)]
    with pytest.raises(ValueError, match=says(*parts)):
        READERS["vqa"](files)


@pytest.mark.parametrize(
    "refs, instances, parts",
    [
        (
            [{**REFS[0], "ann_id": 4}],
            INSTANCES,
            ["refs.p, record [0], field ann_id: annotation 4 is not in", "inst.json"],
        ),
        ([without(REFS[0], "ref_id", "sentences")], INSTANCES, ["record [0], field sentences"]),
        ([without(REFS[0], "split")], INSTANCES, ["record [0], field split: it is missing"]),
        (
            [{**REFS[0], "sentences": [{"sent_id": 3}]}],
            INSTANCES,
            ["record [0].sentences[0], field raw: it is missing"],
        ),
        (
            REFS,
            {"annotations": [{"id": 1719310, "bbox": [1, 2, 3, "4"]}]},
            ["inst.json, record annotations[0], field bbox"],
        ),
        (REFS, {}, ["inst.json: it holds none of these: refs, instances"]),
        (REFS, [], ["files must have instances among them"]),
    ],
)
def test_what_is_wrong_in_refcoco_is_named(tmp_path, refs, instances, parts):
    (tmp_path / "refs.p").write_bytes(pickle.dumps(refs, 2))
    with pytest.raises(ValueError, match=says(*parts)):
        READERS["refcoco"]([tmp_path / "refs.p", write(tmp_path / "inst.json", instances)], "train")


@pytest.mark.parametrize(
    "change, parts",
    [
        ({"answer": 3}, ["images[0].qa_pairs[0], field answer: box 3 is not among"]),
        ({"multiple_choices": [1000, 7, 5]}, ["field multiple_choices: box 5 is not among"]),
        ({"multiple_choices": [1000, 7, 99]}, ["field multiple_choices", "none the answer, 99; got 1000, 7, 99"]),
        ({"multiple_choices": [7, 7, 60]}, ["field multiple_choices", "must be different boxes"]),
        ({"multiple_choices": []}, ["field multiple_choices"]),
        ({"question": None}, ["field question: it is missing"]),
    ],
)
def test_what_is_wrong_in_visual7w_is_named(tmp_path, change, parts):
    image = VISUAL7W["images"][0]
    images = [{**image, "qa_pairs": [{**image["qa_pairs"][0], **change}]}]
    file = write(tmp_path / "v7w.json", {**VISUAL7W, "images": images})
    with pytest.raises(ValueError, match=says("v7w.json", *parts)):
        READERS["visual7w"]([file], "train")


@pytest.mark.parametrize(
    "place, text, parts",
    [
        ("Sentences/36979.txt", "A dog .\n[/EN#5 a cat] sits", ["36979.txt, record line 2: a phrase must be"]),
        ("Sentences/36979.txt", "[/EN#5/animals a cat sits", ["36979.txt, record line 1: a phrase must be"]),
        ("Annotations/36979.xml", "<annotation><object>", ["36979.xml: it cannot be read as XML"]),
        ("Annotations/36979.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', ["36979.xml", "document type"]),
        ("Annotations/36979.xml", '<!DOCTYPE a SYSTEM "file:///etc/hosts"><a/>', ["36979.xml", "document type"]),
        ("Annotations/36979.xml", BOXES.replace("<xmin>11", "<xmin>"), ["object[0].bndbox, field xmin", "got ''"]),
        ("Annotations/36979.xml", BOXES.replace("<ymax>201</ymax>", ""), ["object[0].bndbox, field ymax", "got None"]),
        ("train.txt", "36979\n1\n", ["train.txt, record '1'", "Sentences has no file of this image"]),
        ("Annotations/7.xml", None, ["Annotations has no file of this image"]),
    ],
)
def test_what_is_wrong_in_flickr30k_is_named(flickr, place, text, parts):
    files = [flickr / "Sentences", flickr / "Annotations"]
    if text is None:
        (flickr / "Sentences" / "7.txt").write_text("[/EN#1/people A man] .")
    else:
        (flickr / place).write_text(text)
    if "/" not in place:
        files.append(flickr / place)
    with pytest.raises(ValueError, match=says(*parts)):
        READERS["flickr30k_grounding"](files)


def test_flickr30k_needs_both_folders(flickr):
    with pytest.raises(ValueError, match="files must have Annotations among them"):
        READERS["flickr30k_grounding"]([flickr / "Sentences"])
    (flickr / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: it holds none of these: Sentences, Annotations"):
        READERS["flickr30k_grounding"]([flickr / "Sentences", flickr / "empty"])


def test_damaged_files_are_named(tmp_path):
    missing, cut, zipped = (tmp_path / name for name in ("missing.jsonl", "cut.jsonl", "cut.jsonl.gz"))
    cut.write_text(json.dumps(NLVR2[0]) + "\n" + json.dumps(NLVR2[1])[:20])
    zipped.write_bytes(gzip.compress(b"x" * 1000)[:-9])
    for file, part in ((missing, "cannot be read"), (cut, "record line 2: it is no JSON"), (zipped, "cannot be read")):
        with pytest.raises(ValueError, match=says(file.name, part)):
            READERS["nlvr2"]([file])
    cut.write_bytes(b'{"sentence": "caf\xe9"}')
    with pytest.raises(ValueError, match=says("cut.jsonl, record line 1: it is no JSON", "utf-8")):
        READERS["nlvr2"]([cut])
    refs = tmp_path / "refs.p"
    refs.write_bytes(pickle.dumps(REFS, 2)[:50])
    with pytest.raises(ValueError, match=says("refs.p: it is no JSON, and no pickle")):
        READERS["refcoco"]([refs, write(tmp_path / "instances.json", INSTANCES)], "train")


@pytest.mark.parametrize("task", sorted(set(READERS) - {"refcoco", "refcoco+", "refcocog", "visual7w"}))
def test_a_split_that_no_file_can_have(tmp_path, task):
    file = write(tmp_path / "lines.jsonl", FLICKR_LINES[0])
    with pytest.raises(ValueError, match=f"split must be None for {task}.*got 'train'"):
        READERS[task]([file], "train")


@pytest.mark.parametrize("split", [None, "dev", "train+dev"])
def test_a_split_that_is_not_there(tmp_path, split):
    file = write(tmp_path / "dataset_coco.json", KARPATHY_COCO)
    with pytest.raises(ValueError, match=says("split must be one of ['restval', 'test', 'train']", f"got {split!r}")):
        READERS["retrieval_coco"]([file], split)


@pytest.mark.parametrize("task", READERS)
def test_no_files(task):
    with pytest.raises(ValueError, match="files must name at least one file"):
        READERS[task]([])


def test_a_single_path_and_text_will_do(tmp_path):
    file = write(tmp_path / "train.json", *NLVR2)
    assert READERS["nlvr2"](file) == READERS["nlvr2"]([str(file)]) == READERS["nlvr2"]([file])


# Rows that are wrong

BOX = {"id": "1", "image_id": "9", "text": "the left one", "box": [0.0, 0.0, 4.0, 0.0]}
POINTING = {"id": "1", "image_id": "9", "text": "which", "candidates": [[0.0, 0.0, 1.0, 1.0]] * 4, "label": 3}
CHOICE = {"id": "1", "image_id": "9", "text": "why", "text_pair": ["a", "b"], "label": 1}
ANSWERS = {"id": "1", "image_id": "9", "text": "what", "answers": ["a", "b"], "scores": [1, 0.3]}
CLASS = {"id": "1", "image_id": "9", "text": "it is", "text_pair": "cup", "label": "Yes", "focus": [0.0, 0.0, 1.0, 1.0]}
INFINITE, NAN = float("inf"), float("nan")


def test_rows_that_are_right():
    for row in (BOX, POINTING, CHOICE, ANSWERS, CLASS):
        check_rows([row, {**row, "id": "2"}], "guesswhat_answers")
        truth = {column: None for column in ("label", "answers", "scores") if column in row}
        check_rows([{**row, **truth}], "a test split")


@pytest.mark.parametrize(
    "row, change, problem",
    [
        (BOX, {"text": " \n"}, "the text has no words"),
        (BOX, {"text": None}, "the text has no words"),
        (BOX, {"box": [5.0, 0.0, 4.0, 1.0]}, "a box is upside down or not finite"),
        (BOX, {"box": [0.0, 2.0, 4.0, 1.0]}, "a box is upside down or not finite"),
        (BOX, {"box": [0.0, 0.0, NAN, 1.0]}, "a box is upside down or not finite"),
        (BOX, {"box": [-INFINITE, 0.0, 1.0, 1.0]}, "a box is upside down or not finite"),
        (BOX, {"box": [0.0, 0.0, 1.0]}, "a box is upside down or not finite"),
        (CLASS, {"focus": [5.0, 0.0, 4.0, 1.0]}, "a box is upside down or not finite"),
        (CLASS, {"text_pair": ""}, "a choice is missing or has no words"),
        (CLASS, {"label": "Maybe"}, "the label is none of ['Yes', 'No', 'N/A']"),
        (
            POINTING,
            {"candidates": [*POINTING["candidates"], [0.0, 1.0, 1.0, 0.0]]},
            "a box is upside down or not finite",
        ),
        (POINTING, {"candidates": [], "label": None}, "there are no choices"),
        (POINTING, {"candidates": None, "label": None}, "there are no choices"),
        (POINTING, {"label": 4}, "the label is the number of no choice"),
        (POINTING, {"label": -1}, "the label is the number of no choice"),
        (CHOICE, {"label": 2}, "the label is the number of no choice"),
        (CHOICE, {"label": True}, "the label is the number of no choice"),
        (CHOICE, {"text_pair": [], "label": None}, "there are no choices"),
        (CHOICE, {"text_pair": None, "label": None}, "a choice is missing or has no words"),
        (CHOICE, {"text_pair": ["a", None]}, "a choice is missing or has no words"),
        (CHOICE, {"text_pair": ["a", " "]}, "a choice is missing or has no words"),
        (ANSWERS, {"scores": [1.0]}, "the scores are not one from 0 to 1 for each answer"),
        (ANSWERS, {"scores": None}, "the scores are not one from 0 to 1 for each answer"),
        (ANSWERS, {"scores": [1.0, 1.5]}, "the scores are not one from 0 to 1 for each answer"),
        (ANSWERS, {"scores": [1.0, NAN]}, "the scores are not one from 0 to 1 for each answer"),
    ],
)
def test_wrong_rows_are_named(row, change, problem):
    rows = [{**row, **(change if number % 2 else {}), "id": f"n{number}"} for number in range(14)]
    with pytest.raises(ValueError) as error:
        check_rows(rows, "guesswhat_answers")
    ids = "'n1', 'n3', 'n5', 'n7', 'n9' and 2 more"
    assert str(error.value) == f"guesswhat_answers: {problem} in 7 of 14 rows: {ids}."


def test_all_that_is_wrong_is_said_at_once():
    rows = [{**BOX, "id": "5"}, {**BOX, "id": "5", "text": ""}, {**BOX, "box": [9, 0, 1, 1]}]
    with pytest.raises(ValueError) as error:
        check_rows(rows, "mine")
    assert str(error.value) == (
        "mine: the id occurs more than once in 1 of 3 rows: '5'. the text has no words in 1 of 3 rows: '5'. "
        "a box is upside down or not finite in 1 of 3 rows: '1'."
    )


def test_an_empty_split():
    with pytest.raises(ValueError, match="mine: the split is empty"):
        check_rows([], "mine")
    with pytest.raises(ValueError, match="mine: the split is empty"):
        check_rows(datasets.Dataset.from_list([]), "mine")


def test_long_texts_are_warned_of():
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("modeling_vilbert.annotations")
    logger.addHandler(handler)
    long = "word " * 600
    try:
        check_rows([BOX, {**BOX, "id": "2", "text": "word " * 599}], "mine")
        assert not messages
        check_rows([BOX, {**BOX, "id": "2", "text": long}, {**CHOICE, "id": "3", "text_pair": [long, "b"]}], "mine")
    finally:
        logger.removeHandler(handler)
    assert messages == ["mine: a text has 600 words or more, and will be cut, in 2 of 3 rows: '2', '3'."]
