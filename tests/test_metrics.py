"""The official numbers of each task, by published cases, hand computed ones and slow twins; the files for servers."""

import csv
import json
import math
import random

import numpy as np
import pytest

from modeling_vilbert.metrics import (
    METRICS,
    Predictions,
    normalize_answer,
    retrieval_ranks,
    soft_targets,
    vcr_joint,
)
from modeling_vilbert.submissions import SUBMISSIONS, write_vcr


def predictions(logits, labels=None, names=(), **columns) -> Predictions:
    """Rows with ids "r0", "r1", ..., and the given columns."""
    logits = np.array(logits, np.float32)
    columns = {"id": [f"r{number}" for number in range(len(logits))], **columns}
    rows = [{name: values[number] for name, values in columns.items()} for number in range(len(logits))]
    return Predictions(logits, None if labels is None else np.array(labels), rows, names)


def chosen(indices, width: int) -> np.ndarray:
    """Logits [N, width] that are greatest at the indices."""
    return np.eye(width)[list(indices)]


# Answers

# The pairs that other implementations of the VQA evaluation are tested with, then one for each rule.
NORMALIZED = {
    "n/a": "n",
    "no one": "no 1",
    "0-0": "0 0",
    "02/12/2011": "02 12 2011",
    "20+": "20",
    "6 fifty-five": "6 fifty 5",
    "8 - 2": "8 2",
    "none": "0",
    "": "",
    "a": "",
    "june 29, 2013": "june 29 2013",
    "t-shirt": "t shirt",
    "streamers_and_fake_records": "streamers and fake records",
    "blueberry, strawberry and banana": "blueberry strawberry and banana",
    "hammer time!": "hammer time",
    "???": "",
    "someone": "someone",
    " The\nDOG\t": "dog",
    "an apple on the table": "apple on table",
    "Ten": "10",
    "eleven": "eleven",
    # Periods stay before digits only.
    "U.S.A.": "usa",
    "2.5": "2.5",
    ".5": ".5",
    "5.": "5",
    # A comma between digits makes all marks vanish.
    "1,000": "1000",
    "1,000-2,000": "10002000",
    "red,blue": "red blue",
    # A space beside one mark makes all of its kind vanish, but not the others.
    "t-shirt - red/blue": "tshirt red blue",
    "dont": "don't",
    "don't shoot": "don't shoot",
    "they'dve": "they'd've",
    "youd've": "you'd've",
    "twas": "'twas",
    "lets": "lets",
    "somebody'd": "somebodyd",
    "3:18": "3:18",
}


@pytest.mark.parametrize("answer", NORMALIZED, ids=repr)
def test_normal_form(answer):
    assert normalize_answer(answer) == NORMALIZED[answer]


DONT_SHOOT = ["don't shoot"] * 2 + [
    "shooting",
    "stop",
    "stop",
    "surrender",
    "i surrender",
    "surrender",
    "hands up",
    "gun",
]
YELLOW_AND_BLUE = [
    "yellow, blue, purple",
    "yellow, blue, purple, and white",
    "purple, blue, yellow, white, and gray",
    "yellow, blue, purple and white",
    "purple, blue, white, yellow",
    "yellow, purple, blue, white",
    "yellow and blue",
    "purple blue yellow",
    "yellow, blue, purple",
    "purple, blue, and yellow",
]
# Published, but for the last two: (given answer, answers of ten humans, accuracy).
ACCURACIES = [
    ("down", ["down"] * 7 + ["at table", "stakeboard", "table"], 1.0),
    ("none", ["panther", "none", "leather", "dog", "cat", "none", "none", "none", "none", "dog"], 1.0),
    ("a", ["a"] * 10, 1.0),
    ("1", ["3", "3", "3", "1", "3", "3", "3", "1", "1", "1"], 1.0),
    ("100", ["about 100", "100", "0", "0", "thousands", "1", "0", "100", "many", "unknown"], 0.6),
    ("3:18", ["10:20", "10:00", "10:20", "10 19", "10:19", "10:20", "10 19", "3:18", "10:20", "10:19"], 0.3),
    ("don't shoot", DONT_SHOOT, 0.6),
    ("toilet paper", ["toilet paper", "nothing"] * 3 + ["paper", "handle", "toilet bowl cleaner", "valve"], 0.9),
    ("yellow and blue", YELLOW_AND_BLUE, 0.3),
    ("gun", ["knife"] * 10, 0.0),
    ("t shirt", ["t-shirt"] * 10, 1.0),
]


@pytest.mark.parametrize("answer, human_answers, expected", ACCURACIES, ids=[case[0] for case in ACCURACIES])
def test_vqa_accuracy_of_published_cases(answer, human_answers, expected):
    scores = METRICS["vqa"](
        predictions([[1, 0]], [[0.25, 0.0]], [answer, "other"], human_answers=[human_answers], answers=[[answer]])
    )
    assert scores["accuracy"] == expected
    assert scores["soft_accuracy"] == 0.25


def leave_one_out(answer: str, human_answers: list[str]) -> float:
    """The definition, word for word."""
    scores = []
    for left_out in range(len(human_answers)):
        others = [other for number, other in enumerate(human_answers) if number != left_out]
        matches = [other for other in others if normalize_answer(other) == normalize_answer(answer)]
        scores.append(min(1, len(matches) / 3))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("humans", [4, 7, 10])
def test_soft_targets_are_the_leave_one_out_average(humans):
    draw = random.Random(humans)
    for _ in range(200):
        given = [draw.choice(["red", "Red", "the red", "two", "2", "dog", "t-shirt", "t shirt"]) for _ in range(humans)]
        targets = soft_targets(given)
        assert set(targets) == {normalize_answer(answer) for answer in given}
        for answer, score in targets.items():
            assert score == pytest.approx(leave_one_out(answer, given), abs=1e-12)


def test_soft_targets_of_ten_humans():
    assert list(soft_targets(["b"] + ["c"] * 2 + ["d"] * 3 + ["e"] * 4).values()) == [0.3, 0.6, 0.9, 1.0]
    with pytest.raises(ValueError, match=r"human_answers must be at least four \(VQA has ten\), got 1: \['red'\]"):
        soft_targets(["red"])


def test_vqa_accuracy_is_a_mean_over_questions_with_a_truth():
    humans = [["red"] * 10, ["red"] * 3 + ["blue"] * 7, None]
    scores = METRICS["vqa"](
        predictions(chosen([0, 0, 1], 2), [[1, 0], [0.9, 1], [0, 0]], ["red", "blue"], human_answers=humans)
    )
    assert scores["accuracy"] == pytest.approx((1 + 0.9) / 2)


def test_soft_accuracy_of_published_cases():
    logits = [[0.35, 0.25, 0.1, 0.1, 0.2], [0.1, 0.6, 0.1, 0.2, 0.0]]
    labels = np.zeros((2, 5))
    labels[0, 0], labels[1, 3] = 1 / 3, 2 / 3
    others = np.zeros((2, 5))
    others[:, 4] = 1 / 3, 2 / 3
    metric = METRICS["genome_qa"]
    assert metric(predictions(logits, labels))["accuracy"] == pytest.approx((1 / 3) / 2)
    four_calls = predictions(logits * 4, np.concatenate([labels, labels, others, others]))
    assert metric(four_calls)["accuracy"] == pytest.approx((1 / 3 + 1 / 3) / 8)
    unequal = np.zeros((3, 5))
    unequal[:2, 0], unequal[2, 3] = 1, 1 / 3
    assert metric(predictions([logits[0], *logits], unequal))["accuracy"] == pytest.approx(2 / 3)


def test_gqa_accuracy_counts_answers_without_a_label_as_wrong():
    given = predictions(
        chosen([1, 0, 1, 0], 2), np.zeros((4, 2)), ["yes", "no"], answers=[["no"], ["no"], ["umbrella"], None]
    )
    assert METRICS["gqa"](given) == {"accuracy": 1 / 3}


# Classes


@pytest.mark.parametrize("task", ["snli_ve", "foil", "guesswhat_answers"])
def test_class_accuracy_leaves_out_rows_without_a_label(task):
    logits = chosen([0, 2, 1, 1], 3)
    assert METRICS[task](predictions(logits, [0, 2, 0, -100])) == {"accuracy": 2 / 3}
    assert METRICS[task](predictions(logits, [[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]])) == {"accuracy": 2 / 3}


def test_hateful_memes_of_a_published_case():
    logits = [[-0.9332, 0.8149], [-0.8391, 0.6797], [-0.7235, 0.7220], [-0.9043, 0.3078]]
    targets = [[0, 1], [1, 0], [1, 0], [0, 1]]
    for labels in (targets, np.argmax(targets, axis=1)):
        scores = METRICS["hateful_memes"](predictions(logits, labels))
        assert scores == {"roc_auc": 0.5, "accuracy": 0.5} and next(iter(scores)) == "roc_auc"


def test_roc_auc_is_the_share_of_pairs_in_the_right_order():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(31, 2)), generator.integers(0, 2, 31)
    margins = logits[:, 1] - logits[:, 0]
    pairs = [(one, other) for one in margins[labels == 1] for other in margins[labels == 0]]
    expected = sum(one > other for one, other in pairs) / len(pairs)
    assert METRICS["hateful_memes"](predictions(logits, labels))["roc_auc"] == pytest.approx(expected)


def test_nlvr2_consistency_is_over_sentences():
    # Sentence 0 of set 7 with three pairs, of which one is wrong; sentence 1, right; the same set of another split.
    ids = ["dev-7-0-0", "dev-7-1-0", "dev-7-2-0", "dev-7-0-1", "test1-7-1-0"]
    given = predictions(chosen([1, 0, 1, 1, 0], 2), [1, 0, 0, 1, 0], id=ids)
    assert METRICS["nlvr2"](given) == {"accuracy": 4 / 5, "consistency": 2 / 3}
    with pytest.raises(ValueError, match="id must be split-set-pair-sentence, as in dev-850-0-1, got 'dev-7'"):
        METRICS["nlvr2"](predictions([[1, 0]], [0], id=["dev-7"]))


# Choices


def test_choices_beyond_the_last_are_never_chosen():
    # A trainer pads with -100, which is more than a bad logit.
    logits = [[-300.0, -200.0, -100.0], [3, 1, 2]]
    given = predictions(logits, [1, 0], text_pair=[["a", "b"], ["a", "b", "c"]])
    assert METRICS["vcr_answer"](given) == METRICS["vcr_rationale"](given) == {"accuracy": 1.0}
    assert METRICS["visual_dialog"](given)["recall@1"] == 1.0
    with pytest.raises(ValueError, match="labels must be the index of a choice; those of 'r0' are beyond the last"):
        METRICS["vcr_answer"](predictions(logits, [2, 0], text_pair=[["a", "b"], ["a", "b", "c"]]))
    with pytest.raises(ValueError, match="rows must have 1 to 3 choices, as there are logits; see 'r1'"):
        METRICS["vcr_answer"](predictions(logits, [0, 0], text_pair=[["a", "b"], ["a"] * 4]))


def test_vcr_joint():
    questions = ["val-0", "val-1", "val-2", "val-3"]
    answer = predictions(chosen([0, 1, 2, 3], 4), [0, 1, 0, 0], question_id=questions)
    # In another order: right, wrong, right, wrong for questions 0 to 3.
    rationale = predictions(chosen([1, 2, 0, 1], 4), [2, 2, 3, 1], question_id=[questions[n] for n in (3, 2, 1, 0)])
    expected = {"accuracy": 1 / 4, "answer_accuracy": 2 / 4, "rationale_accuracy": 2 / 4}
    assert vcr_joint(answer, rationale) == expected

    fewer = predictions(chosen([1, 2], 4), [1, 2], question_id=["val-0", "val-9"])
    with pytest.raises(ValueError, match="rationale must hold the same .* it lacks 'val-1', 'val-2', 'val-3'"):
        vcr_joint(answer, fewer)
    with pytest.raises(ValueError, match="answer must hold the same .* it lacks 'val-9'"):
        vcr_joint(predictions(chosen([1], 4), [1], question_id=["val-0"]), fewer)
    twice = predictions(chosen([1, 2], 4), [1, 2], question_id=["val-0", "val-0"])
    with pytest.raises(ValueError, match="answer must hold a question once; more often come 'val-0'"):
        vcr_joint(twice, fewer)


def test_visual_dialog_by_hand():
    logits = [[0.1, 0.9, 0.5, 0.3], [0.4, 0.3, 0.2, 0.1], [0.7, 0.7, 0.0, 0.0]]
    relevance = [[0.0, 0.0, 1.0, 0.5], None, [0.0, 0.0, 0.0, 0.0]]
    scores = METRICS["visual_dialog"](predictions(logits, [2, 0, 0], relevance=relevance))
    # Ranks 2, 1, and 2 for a tie.
    assert scores["mrr"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert scores["recall@1"] == pytest.approx(1 / 3) and scores["recall@5"] == scores["recall@10"] == 1
    assert scores["mean_rank"] == pytest.approx(5 / 3)
    # The first two of the first round are options 1 and 2, of relevance 0 and 1; the best would be 1 and 0.5.
    assert scores["ndcg"] == pytest.approx((1 / math.log2(3)) / (1 + 0.5 / math.log2(3)))
    assert "ndcg" not in METRICS["visual_dialog"](predictions(logits, [2, 0, 0], relevance=[None] * 3))
    with pytest.raises(ValueError, match="relevance of 'r1' must be 4 numbers, one an option, got 3"):
        METRICS["visual_dialog"](predictions(logits, [2, 0, 0], relevance=[None, [0, 0, 1], None]))


def test_visual_dialog_ranking_by_sorting():
    generator = np.random.default_rng(1)
    logits, labels = generator.normal(size=(23, 100)), generator.integers(0, 100, 23)
    relevance = generator.choice([0, 0, 0, 0, 0.2, 0.4, 1.0], (23, 100)).tolist()
    scores = METRICS["visual_dialog"](predictions(logits, labels, relevance=relevance))
    ranks, gains = [], []
    for row, label, relevant in zip(logits.astype(np.float32), labels, relevance):
        order = sorted(range(100), key=lambda option: -row[option])
        ranks.append(order.index(label) + 1)
        k = sum(value != 0 for value in relevant)
        gained = sum(relevant[option] / math.log2(place + 2) for place, option in enumerate(order[:k]))
        best = sum(value / math.log2(place + 2) for place, value in enumerate(sorted(relevant, reverse=True)[:k]))
        gains.append(gained / best)
    assert scores == pytest.approx(
        {
            "mrr": sum(1 / rank for rank in ranks) / 23,
            **{f"recall@{k}": sum(rank <= k for rank in ranks) / 23 for k in (1, 5, 10)},
            "mean_rank": sum(ranks) / 23,
            "ndcg": sum(gains) / 23,
        }
    )


def test_recalls_of_ten_among_a_hundred():
    # One target is first, three are among the first five, eight among ten.
    logits = np.tile(np.arange(100, 0, -1), (10, 1))
    labels = np.array([1, 3, 5, 6, 7, 8, 9, 10, 11, 100]) - 1
    scores = METRICS["visual_dialog"](predictions(logits, labels))
    assert [scores[f"recall@{k}"] for k in (1, 5, 10)] == [0.1, 0.3, 0.8]


# Regions


@pytest.mark.parametrize("task", ["refcoco", "refcoco+", "refcocog", "flickr30k_grounding"])
def test_grounding(task):
    logits = [
        [9.0, 2.0, 1.0, -100.0],  # the best cannot be chosen; the next is right
        [0.0, 5.0, 1.0, 2.0],  # an overlap of 0.5 is not enough; another region's would have been
        [0.0, 5.0, 1.0, 2.0],  # no region is right
        [-300.0, -200.0, -100.0, -100.0],  # padding looks better than regions
        [1.0, 2.0, 3.0, 4.0],  # nothing to choose
        [1.0, 2.0, 3.0, 4.0],  # no truth
    ]
    labels = [
        [-100, 0.51, 0, -100],
        [0, 0.5, 0.8, 0],
        [0, 0, 0, 0],
        [0, 0.9, -100, -100],
        [-100] * 4,
        [0, 0, 0, 0],
    ]
    box = [[0, 0, 9, 9]] * 5 + [None]
    scores = METRICS[task](predictions(logits, labels, box=box))
    assert scores == {"accuracy": 2 / 5, "upper_bound": 3 / 5} and next(iter(scores)) == "accuracy"


@pytest.mark.parametrize("task", ["visual7w", "guesswhat_pointing"])
def test_pointing(task):
    logits = [[9, 1, 2, 3], [0, 3, 2, 1], [0, 3, 2, 1], [0, 1, 2, 3], [0, 0, 0, 1]]
    labels = [
        [-100, 0, 0, 1],
        [-100, 0.6, 1, 0],  # another candidate that overlaps is not the right one
        [-100, 0, 0, 0],  # none is
        [-100, -100, 1, -100],
        [-100, 0, 0, 0],  # no truth
    ]
    scores = METRICS[task](predictions(logits, labels, label=[2, 1, 0, 0, None]))
    assert scores == {"accuracy": 2 / 4}


# Captions and images


def slow_ranks(scores: np.ndarray, images: list[int]) -> tuple[list[int], list[int]]:
    """By sorting, what is wrong before what is right among equals."""
    of_images, of_captions = [], []
    for caption, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda image: (-row[image], image == images[caption]))
        of_images.append(order.index(images[caption]) + 1)
    for image in range(scores.shape[1]):
        order = sorted(range(len(scores)), key=lambda caption: (-scores[caption, image], images[caption] == image))
        of_captions.append(min(order.index(caption) + 1 for caption, own in enumerate(images) if own == image))
    return of_images, of_captions


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("captions, images", [(1, 1), (7, 7), (23, 5), (40, 13)])
def test_retrieval_ranks_are_those_of_sorting(captions, images, ties):
    generator = np.random.default_rng(captions)
    own = generator.permutation([*range(images), *generator.integers(0, images, captions - images)]).tolist()
    for _ in range(20):
        scores = generator.integers(0, 4, (captions, images)) if ties else generator.normal(size=(captions, images))
        found = retrieval_ranks(scores, own)
        assert [ranks.tolist() for ranks in found] == list(slow_ranks(scores, own))


def test_retrieval_numbers():
    # Five captions of three images, of which the first comes twice; ranks of images 1, 3, 2, 1, 1.
    image_ids = ["b", "b", "a", "c", "c"]
    logits = [[9, 1, 2], [0, 2, 1], [5, 4, 1], [1, 2, 3], [0, 0, 5]]
    scores = METRICS["retrieval_coco"](predictions(logits, image_id=image_ids))
    assert next(iter(scores)) == "text_to_image_recall@1"
    assert scores == pytest.approx(
        {
            "text_to_image_recall@1": 3 / 5,
            "text_to_image_recall@5": 1,
            "text_to_image_recall@10": 1,
            "text_to_image_median_rank": 1,
            "text_to_image_mean_rank": 8 / 5,
            "image_to_text_recall@1": 1,
            "image_to_text_recall@5": 1,
            "image_to_text_recall@10": 1,
            "image_to_text_median_rank": 1,
            "image_to_text_mean_rank": 1,
        }
    )


def test_median_rank_is_a_whole_number():
    # Ranks 1, 2, 3, 4: the median from 0 is 1.5, of which the floor counts.
    logits = np.tile([4.0, 3.0, 2.0, 1.0], (4, 1))
    scores = METRICS["retrieval_flickr30k"](predictions(logits, image_id=list("abcd")))
    assert (scores["text_to_image_median_rank"], scores["text_to_image_mean_rank"]) == (2, 2.5)


def test_a_model_that_scores_everything_alike_is_last():
    scores = METRICS["retrieval_flickr30k"](predictions(np.zeros((20, 20)), image_id=[str(n) for n in range(20)]))
    assert scores["text_to_image_mean_rank"] == scores["image_to_text_mean_rank"] == 20
    assert scores["text_to_image_recall@10"] == scores["image_to_text_recall@10"] == 0


def test_retrieval_refuses_scores_that_do_not_fit():
    with pytest.raises(ValueError, match="logits must have a column an image: 1 in rows, got 3"):
        METRICS["retrieval_coco"](predictions(np.zeros((2, 3)), image_id=["a", "a"]))
    with pytest.raises(ValueError, match=r"images must be one index for each of 2 captions, got shape \[3\]"):
        retrieval_ranks(np.zeros((2, 3)), [0, 1, 2])
    with pytest.raises(ValueError, match="images must be indices of all the 3 columns of scores, got 2"):
        retrieval_ranks(np.zeros((2, 3)), [0, 1])


# All metrics


def complete(task: str, with_labels: bool = True) -> Predictions:
    """Predictions of six examples that fit the task, with all columns."""
    generator = np.random.default_rng(2)
    width = {"nlvr2": 2, "foil": 2, "hateful_memes": 2, "snli_ve": 3, "guesswhat_answers": 3}.get(task, 4)
    logits, names = generator.normal(size=(6, width)), [f"name {number}" for number in range(width)]
    columns = {"id": [f"test-{number}-0-1" for number in range(6)], "image_id": [str(number) for number in range(6)]}
    labels = np.arange(6) % width
    if task in ("vqa", "gqa", "genome_qa"):
        labels = generator.choice([0, 0.3, 1], (6, width))
        columns |= {"answers": [["name 1"]] * 6, "human_answers": [["name 1"] * 10] * 6}
    elif task in ("visual7w", "guesswhat_pointing", "flickr30k_grounding") or task.startswith("refcoco"):
        labels = generator.choice([-100, 0, 0.7, 1], (6, width))
        columns |= {"box": [[0, 0, 1, 1]] * 6, "label": [0] * 6}
    elif task.startswith("retrieval"):
        columns["image_id"] = ["4", "4", "0", "1", "1", "2"]
    elif task in ("vcr_answer", "vcr_rationale", "visual_dialog"):
        columns |= {"text_pair": [list("abcd")] * 6, "round": [3] * 6, "relevance": [[0, 1, 0, 0.5]] * 6}
    if task in ("vqa", "visual_dialog"):
        columns["id"] = [str(number) for number in range(6)]
    if not with_labels:
        labels = None
        columns |= {name: [None] * 6 for name in ("answers", "human_answers", "box", "label", "relevance")}
    return predictions(logits, labels, names, **columns)


@pytest.mark.parametrize("task", METRICS)
def test_numbers_are_shares_or_ranks(task):
    scores = METRICS[task](complete(task))
    for name, value in scores.items():
        assert type(value) is float, name
        assert value >= 1 if name.endswith("rank") else 0 <= value <= 1, name
    assert not next(iter(scores)).endswith("rank")


@pytest.mark.parametrize("task", [task for task in METRICS if not task.startswith("retrieval")])
def test_metrics_need_a_truth(task):
    with pytest.raises(ValueError, match="labels must be given for a metric, got None|rows must hold the truth"):
        METRICS[task](complete(task, with_labels=False))


def test_a_truth_that_is_missing_everywhere():
    with pytest.raises(ValueError, match="rows must hold the truth for a metric; it is None in all"):
        METRICS["snli_ve"](predictions(np.zeros((2, 3)), [-100, -100]))
    with pytest.raises(ValueError, match="rows must hold the truth for a metric; it is None in all"):
        METRICS["refcoco"](predictions(np.zeros((2, 3)), np.zeros((2, 3)), box=[None, None]))


ROWS = [{"id": f"q{number}"} for number in range(8)]
BROKEN = np.zeros((8, 3))
BROKEN[1:, 2] = np.nan


@pytest.mark.parametrize(
    "logits, labels, rows, message",
    [
        (BROKEN, None, ROWS, "NaN or infinite are those of 'q1', 'q2', 'q3', 'q4', 'q5' and 2 more"),
        ([[0, 1], [0, np.inf]], None, ROWS[:2], "NaN or infinite are those of 'q1'"),
        (np.zeros((0, 3)), np.zeros(0), [], r"at least one prediction, got shape \[0, 3\]"),
        (np.zeros(3), np.zeros(3), ROWS[:3], r"must be of shape \[N, L\], got \[3\]"),
        (np.zeros((2, 3)), np.zeros(3), ROWS[:2], "of equal length, got {'logits': 2, 'labels': 3, 'rows': 2}"),
        (np.zeros((2, 3)), None, ROWS[:3], "of equal length, got {'logits': 2, 'rows': 3}"),
    ],
)
def test_broken_predictions(logits, labels, rows, message):
    with pytest.raises(ValueError, match=message):
        Predictions(np.array(logits), labels, rows)


@pytest.mark.parametrize(
    "task, given, message",
    [
        ("snli_ve", predictions([[0, 1, 2]], [3]), "whole numbers within 0 to 2, or -100 .* see 'r0'"),
        ("snli_ve", predictions([[0, 1, 2]], [0.5]), "whole numbers within 0 to 2"),
        ("snli_ve", predictions([[0, 1, 2]], [[0, 1]]), r"classes \[1\] or \[1, 3\], got \[1, 2\]"),
        ("genome_qa", predictions([[0, 1, 2]], [1]), r"the logits' shape \[1, 3\], got \[1\]"),
        ("refcoco", predictions([[0, 1, 2]], [[1, 0]]), r"the logits' shape \[1, 3\], got \[1, 2\]"),
        ("gqa", predictions([[0, 1, 2]], [[1, 0, 0]], ["a"]), "one name for each of the 3 logits, got 1"),
        ("gqa", predictions([[0, 1]], [[1, 0]], ["a", "b"]), "rows must hold 'answers'; it is missing in .* 'r0'"),
        ("vqa", predictions([[0, 1]], [[1, 0]], ["a", "b"]), "rows must hold 'human_answers'"),
        ("hateful_memes", predictions([[0, 1], [1, 0]], [1, 1]), r"two classes, got 2 logits and labels \[1\]"),
        ("hateful_memes", predictions([[0, 1, 2], [1, 0, 0]], [1, 0]), "two classes, got 3 logits"),
    ],
)
def test_labels_that_do_not_fit(task, given, message):
    with pytest.raises(ValueError, match=message):
        METRICS[task](given)


# Files for servers


def read_csv(path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("task", SUBMISSIONS)
@pytest.mark.parametrize("with_labels", [False, True])
def test_submissions_need_no_labels(task, with_labels, tmp_path):
    path = tmp_path / "new" / "file"
    SUBMISSIONS[task](complete(task, with_labels), path)
    assert path.stat().st_size and [file.name for file in path.parent.iterdir()] == ["file"]
    assert task in METRICS


def test_answer_files(tmp_path):
    path = tmp_path / "answers.json"
    SUBMISSIONS["vqa"](predictions([[0, 1], [1, 0]], None, ["yes", "café"], id=["262148000", "9"]), path)
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"question_id": 262148000, "answer": "café"},
        {"question_id": 9, "answer": "yes"},
    ]
    SUBMISSIONS["gqa"](predictions([[0, 1]], None, ["yes", "no"], id=["201307251"]), path)
    assert json.loads(path.read_text()) == [{"questionId": "201307251", "prediction": "no"}]
    with pytest.raises(ValueError, match="id must be a whole number for this file, got 'r0'"):
        SUBMISSIONS["vqa"](predictions([[0, 1]], None, ["yes", "no"]), path)


def test_nlvr2_file_as_the_official_script_reads_it(tmp_path):
    path = tmp_path / "nlvr2.csv"
    ids = ["test1-0-1-0", "test1-0-2-0"]
    SUBMISSIONS["nlvr2"](predictions([[0, 1], [1, 0]], None, ["False", "True"], id=ids), path)
    lines = [line.strip().split(",") for line in path.read_text().splitlines()]
    assert {identifier: prediction for identifier, prediction in lines} == dict(zip(ids, ["True", "False"]))


def test_class_files(tmp_path):
    path = tmp_path / "classes.csv"
    given = predictions([[0, math.log(3)], [math.log(3), 0]], None, ["not hateful", "hateful"], id=["01243", "16395"])
    SUBMISSIONS["hateful_memes"](given, path)
    header, *lines = read_csv(path)
    assert header == ["id", "proba", "label"]
    assert [(line[0], round(float(line[1]), 6), line[2]) for line in lines] == [
        ("01243", 0.75, "1"),
        ("16395", 0.25, "0"),
    ]
    names = ["contradiction", "neutral", "entailment"]
    SUBMISSIONS["snli_ve"](predictions([[0, 0, 1]], None, names, id=["4705552913.jpg#2r1n"]), path)
    assert read_csv(path) == [["pairID", "prediction"], ["4705552913.jpg#2r1n", "entailment"]]


def test_visual_dialog_file(tmp_path):
    path = tmp_path / "ranks.json"
    given = predictions(
        [[0.1, 0.9, 0.5, 0.5], [1, 2, -100, -100]],
        image_id=["568676", "12"],
        round=[10, 1],
        text_pair=[list("abcd"), list("ab")],
    )
    SUBMISSIONS["visual_dialog"](given, path)
    assert json.loads(path.read_text()) == [
        {"image_id": 568676, "round_id": 10, "ranks": [4, 1, 2, 3]},
        {"image_id": 12, "round_id": 1, "ranks": [2, 1]},
    ]


def test_region_file(tmp_path):
    path = tmp_path / "regions.json"
    logits, columns = [[3, 2, 1], [-300, -200, -100]], {"image_id": ["581857", "7"]}
    SUBMISSIONS["refcoco"](predictions(logits, **columns), path)
    expected = [{"id": "r0", "image_id": "581857", "target": 0}, {"id": "r1", "image_id": "7", "target": 1}]
    assert json.loads(path.read_text()) == expected
    SUBMISSIONS["refcoco+"](predictions(logits, [[-100, 0.75, 0], [0.5, 0, -100]], **columns), path)
    assert json.loads(path.read_text()) == [{**expected[0], "target": 1, "IOU": 0.75}, {**expected[1], "IOU": 0.0}]


def test_retrieval_file(tmp_path):
    path = tmp_path / "images.json"
    scores = np.random.default_rng(0).normal(size=(30, 30))
    images = [f"image {number}" for number in range(30)]
    SUBMISSIONS["retrieval_coco"](predictions(scores, image_id=images), path)
    entries = json.loads(path.read_text())
    assert [entry["id"] for entry in entries] == [f"r{number}" for number in range(30)]
    for entry, row in zip(entries, scores.astype(np.float32)):
        assert entry["image_ids"] == sorted(images, key=lambda name: -row[images.index(name)])[:20]


def vcr_rationales(questions: list[str], logits: np.ndarray) -> Predictions:
    """Four rows for each question, answers in reverse order."""
    pairs = [(question, given) for question in questions for given in (3, 2, 1, 0)]
    return predictions(
        logits, id=[f"{question}-a{given}" for question, given in pairs], question_id=[pair[0] for pair in pairs]
    )


def test_vcr_file(tmp_path):
    path = tmp_path / "vcr.csv"
    generator = np.random.default_rng(3)
    answer_logits, rationale_logits = generator.normal(size=(2, 4)), generator.normal(size=(8, 4))
    answer = predictions(answer_logits, question_id=["test-1", "test-0"])
    write_vcr(answer, vcr_rationales(["test-0", "test-1"], rationale_logits), path)
    header, *lines = read_csv(path)
    assert header[:6] == ["annot_id", "answer_0", "answer_1", "answer_2", "answer_3", "rationale_conditioned_on_a0_0"]
    assert len(header) == 21 and header[-1] == "rationale_conditioned_on_a3_3"
    assert [line[0] for line in lines] == ["test-1", "test-0"]
    groups = np.array([line[1:] for line in lines], float).reshape(2, 5, 4)
    np.testing.assert_allclose(groups.sum(-1), 1)
    expected = np.concatenate([answer_logits[:, None], rationale_logits.reshape(2, 4, 4)[::-1, ::-1]], axis=1)
    expected = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    np.testing.assert_allclose(groups, expected, atol=1e-6)


@pytest.mark.parametrize(
    "answers, rationales, message",
    [
        (["test-0", "test-1"], ["test-0"], "rationale lacks the partners of 'test-1-a0', 'test-1-a1', 'test-1-a2'"),
        (["test-0"], ["test-0", "test-1"], "answer lacks the partners of 'test-1-a0'"),
        (
            ["test-0", "test-0"],
            ["test-0"],
            r"answer must hold a question \(and a given answer\) once; more often come 'test-0'",
        ),
    ],
)
def test_vcr_file_of_questions_without_partner(answers, rationales, message, tmp_path):
    path = tmp_path / "vcr.csv"
    answer = predictions(np.zeros((len(answers), 4)), question_id=answers)
    with pytest.raises(ValueError, match=message):
        write_vcr(answer, vcr_rationales(rationales, np.zeros((4 * len(rationales), 4))), path)
    with pytest.raises(ValueError, match='ids of rationale must end in "-a0" to "-a3".* got \'r0\''):
        write_vcr(predictions(np.zeros((1, 4)), question_id=["test-0"]), answer, path)
    assert not path.exists()


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "answers.json"
    path.write_text("old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("modeling_vilbert.submissions.os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        SUBMISSIONS["gqa"](complete("gqa", with_labels=False), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
