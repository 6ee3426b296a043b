# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What a model predicted -> the official numbers of each task; one table, `METRICS`.

Sources: the evaluation scripts of the data sets (VQA, GQA, NLVR2, VCR, Visual Dialog); Lu et al., "12-in-1", CVPR 2020,
for the others.

Reading order: `Predictions`, and which of its rows have a truth; answers; classes; choices; regions; captions and
images; the table. The files that evaluation servers take are in `submissions.py`.

Shapes: N examples, L labels (answers, classes or choices), R regions, M images.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .heads_vilbert import IGNORE
from .optional_packages import need


# A region is the right one if it overlaps the true box by more than this (IoU).
OVERLAP = 0.5
# The k of "recall at k": how often the right one is among the first k.
RECALLS = (1, 5, 10)


@dataclass(eq=False)
class Predictions:
    """What a model said about a data set, beside the truth.

    Args:
        logits: [N, L] or [N, R]; for retrieval [N captions, M images], where images stand in order of first occurrence
            in `rows`. Choices and regions that do not exist may hold any number: `rows` and `labels` tell them.
        labels: as a collator makes them. Soft scores [N, L]; classes [N] (or one-hot [N, L]), -100 where there is no
            truth; overlaps (IoU) of regions [N, R], -100 at those that cannot be chosen. None for a test set: that
            does for submission files, not for metrics. Retrieval needs none.
        rows: the N annotation rows (without regions), in the same order.
        names: L names of answers or classes.

    Raises:
        ValueError: if there are no predictions, lengths differ, or a logit is NaN or infinite.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_vilbert.metrics import METRICS, Predictions
    >>> rows = [{"id": "1"}, {"id": "2"}]
    >>> predictions = Predictions(np.array([[0.1, 0.9], [0.2, 0.8]]), np.array([1, 0]), rows, ["original", "foil"])
    >>> METRICS["foil"](predictions)
    {'accuracy': 0.5}

    ```
    """

    logits: np.ndarray
    labels: np.ndarray | None
    rows: Sequence[dict]
    names: Sequence[str] = ()

    def __post_init__(self):
        self.logits = np.asarray(self.logits)
        if self.labels is not None:
            self.labels = np.asarray(self.labels)
        if self.logits.ndim != 2:
            raise ValueError(f"logits must be of shape [N, L], got {list(self.logits.shape)}.")
        lengths = {"logits": self.logits, "labels": self.labels, "rows": self.rows}
        lengths = {name: len(value) for name, value in lengths.items() if value is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"logits, labels and rows must be of equal length, got {lengths}.")
        # Read once: rows of a `datasets.Dataset` are made anew whenever they are asked for.
        self.rows = list(self.rows)
        if not self.logits.size:
            raise ValueError(f"logits must hold at least one prediction, got shape {list(self.logits.shape)}.")
        # Minus infinity is what cannot be chosen.
        broken = (np.isnan(self.logits) | np.isposinf(self.logits)).any(axis=1)
        if broken.any():
            raise ValueError(f"logits must be numbers; NaN or infinite are those of {some_ids(self.ids(broken))}.")

    def ids(self, which: np.ndarray) -> list[str]:
        """The ids of the rows for which `which`, bool [N], is true."""
        return [str(self.rows[number].get("id", number)) for number in np.flatnonzero(which)]

    def column(self, name: str) -> list[Any]:
        """A column of the rows; a ValueError if one lacks it."""
        missing = np.array([name not in row for row in self.rows])
        if missing.any():
            raise ValueError(f"rows must hold {name!r}; it is missing in those of {some_ids(self.ids(missing))}.")
        return [row[name] for row in self.rows]

    def answers(self) -> list[str]:
        """The name with the greatest logit, of each row."""
        if len(self.names) != self.logits.shape[1]:
            raise ValueError(
                f"names must hold one name for each of the {self.logits.shape[1]} logits, got {len(self.names)}."
            )
        return [self.names[int(index)] for index in self.logits.argmax(axis=1)]

    def choices(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits [N, L] with minus infinity beyond the last choice of a row, and the number of choices [N]."""
        width = self.logits.shape[1]
        counts = np.array([width if row.get("text_pair") is None else len(row["text_pair"]) for row in self.rows])
        if counts.max() > width or counts.min() < 1:
            wrong = (counts > width) | (counts < 1)
            raise ValueError(
                f"rows must have 1 to {width} choices, as there are logits; see {some_ids(self.ids(wrong))}."
            )
        return np.where(np.arange(width) < counts[:, None], self.logits, -np.inf), counts

    def images(self) -> tuple[list[str], np.ndarray]:
        """For retrieval: the M images that the columns of the logits stand for, and which is each caption's, [N]."""
        columns: dict[str, int] = {}
        own = np.array([columns.setdefault(image_id, len(columns)) for image_id in self.column("image_id")])
        if len(columns) != self.logits.shape[1]:
            raise ValueError(f"logits must have a column an image: {len(columns)} in rows, got {self.logits.shape[1]}.")
        return list(columns), own


def some_ids(ids: Iterable[Hashable], count: int = 5) -> str:
    """The first few of many ids, for messages."""
    ids = [str(name) for name in ids]
    named = ", ".join(repr(name) for name in ids[:count])
    return named + (f" and {len(ids) - count} more" if len(ids) > count else "")


def _labels(predictions: Predictions) -> np.ndarray:
    if predictions.labels is None:
        raise ValueError("labels must be given for a metric, got None. Without them, write a submission file.")
    return predictions.labels


def _scores(predictions: Predictions) -> np.ndarray:
    """Labels that are soft scores or overlaps, of the logits' shape."""
    labels = _labels(predictions)
    if labels.shape != predictions.logits.shape:
        raise ValueError(
            f"labels must be of the logits' shape {list(predictions.logits.shape)}, got {list(labels.shape)}."
        )
    return labels


def _with_truth(predictions: Predictions, column: str) -> np.ndarray:
    """Numbers of the rows whose truth, in that column, is known; rows without such a column count as known."""
    return _some_of([row.get(column, True) is not None for row in predictions.rows])


def _some_of(known: Sequence[bool] | np.ndarray) -> np.ndarray:
    if not np.any(known):
        raise ValueError("rows must hold the truth for a metric; it is None in all. Write a submission file instead.")
    return np.flatnonzero(known)


def _mean(values: np.ndarray | Sequence[float]) -> float:
    return float(np.mean(values))


# Answers

# The tables of the VQA evaluation.
NUMBERS = {word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}
NUMBERS["none"] = "0"
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
# Each word is found with one of its apostrophes left out. The last entry is the wrong way round in the official table.
CONTRACTIONS = {
    word[: place.start()] + word[place.end() :]: word for word in CONTRACTED for place in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")


@lru_cache(maxsize=2**16)
def normalize_answer(answer: str) -> str:
    """An answer as the VQA evaluation compares it.

    Lower case; no articles; numbers up to ten as digits, and "none" as 0; apostrophes put back into contractions; no
    period unless a digit follows. Marks (`PUNCTUATION`) become spaces, but vanish where one of the same kind has a
    space beside it, or where a comma stands between digits; apostrophes and colons stay.

    Example:

    ```python
    >>> from modeling_vilbert.metrics import normalize_answer
    >>> [normalize_answer(answer) for answer in ("A T-shirt.", "two, I dont know", "1,000", "3:18", "2.5")]
    ['t shirt', "2 i don't know", '1000', '3:18', '2.5']

    ```
    """
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    is_number = COMMA_IN_NUMBER.search(answer) is not None
    # What stands beside a mark is seen in the answer as it came, whatever has become of other marks.
    fates = {mark: "" if is_number or f"{mark} " in answer or f" {mark}" in answer else " " for mark in PUNCTUATION}
    answer = PERIOD.sub("", answer.translate(str.maketrans(fates)))
    words = [NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_targets(human_answers: Sequence[str]) -> dict[str, float]:
    """What each normalised answer scores in the VQA evaluation, given what humans answered.

    The evaluation leaves out each human in turn, takes min(1, matches among the others / 3), and averages. With ten
    humans, an answer of one, two, three, or at least four scores 0.3, 0.6, 0.9 and 1: also the targets that
    VQA models train on. Answers that nobody gave score 0.

    Args:
        human_answers: as they are in the annotations, ten in VQA; at least four, since no answer can be wholly right
            with fewer.

    Raises:
        ValueError: for fewer than four.

    Example:

    ```python
    >>> from modeling_vilbert.metrics import soft_targets
    >>> soft_targets(["net"] * 6 + ["the netting", "netting", "mesh", "Net"])
    {'net': 1.0, 'netting': 0.6, 'mesh': 0.3}

    ```
    """
    humans = len(human_answers)
    if humans < 4:
        raise ValueError(
            f"human_answers must be at least four (VQA has ten), got {humans}: {list(human_answers)!r:.100}."
        )
    counts = Counter(map(normalize_answer, human_answers))
    return {
        answer: (count * min(count - 1, 3) + (humans - count) * min(count, 3)) / (3 * humans)
        for answer, count in counts.items()
    }


def vqa_accuracy(predictions: Predictions) -> dict[str, float]:
    """The accuracy of the VQA evaluation, by the rows' `human_answers`.

    Where all ten humans agree, the official script does not normalise. Here answers are always normalised, as training
    targets are: otherwise "t shirt" would be wrong where ten humans said "t-shirt".

    Returns:
        `accuracy`; `soft_accuracy`, the score of the given answer among the labels, as 12-in-1 validates: less than the
        accuracy where humans' answers are not among the labels.
    """
    known = _with_truth(predictions, "human_answers")
    human_answers, answers = predictions.column("human_answers"), predictions.answers()
    scores = []
    for number in known:
        targets = soft_targets(human_answers[number])
        scores.append(targets.get(normalize_answer(answers[number]), 0.0))
    return {"accuracy": _mean(scores), "soft_accuracy": soft_accuracy(predictions)["accuracy"]}


def soft_accuracy(predictions: Predictions) -> dict[str, float]:
    """The mean soft score, by labels [N, L], of the answer with the greatest logit."""
    scores, known = _scores(predictions), _with_truth(predictions, "answers")
    given = np.take_along_axis(scores, predictions.logits.argmax(axis=1)[:, None], axis=1)[:, 0]
    return {"accuracy": _mean(given[known])}


def gqa_accuracy(predictions: Predictions) -> dict[str, float]:
    """How often the answer is the row's answer, letter by letter; one that has no label is never right."""
    known, answers = _with_truth(predictions, "answers"), predictions.answers()
    truth = predictions.column("answers")
    return {"accuracy": _mean([answers[number] in truth[number][:1] for number in known])}


# Classes


def _classes(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows with a label, and their classes."""
    labels, width = _labels(predictions), predictions.logits.shape[1]
    if labels.ndim == 2 and labels.shape[1] == width:
        # One-hot; without a truth nothing is above 0.
        labels = np.where(labels.max(axis=1) > 0, labels.argmax(axis=1), IGNORE)
    if labels.ndim != 1:
        raise ValueError(
            f"labels must be classes [{len(labels)}] or [{len(labels)}, {width}], got {list(labels.shape)}."
        )
    wrong = (labels != IGNORE) & ~np.isin(labels, np.arange(width))
    if wrong.any():
        raise ValueError(
            f"labels must be whole numbers within 0 to {width - 1}, or {IGNORE} where there is none; see "
            f"{some_ids(predictions.ids(wrong))}."
        )
    known = _some_of(labels != IGNORE)
    return known, labels[known].astype(int)


def class_accuracy(predictions: Predictions) -> dict[str, float]:
    """How often the class with the greatest logit is the label; rows without a label are left out."""
    known, classes = _classes(predictions)
    return {"accuracy": _mean(predictions.logits[known].argmax(axis=1) == classes)}


def nlvr2_accuracy(predictions: Predictions) -> dict[str, float]:
    """Accuracy, and consistency: the share of sentences that are judged rightly with all of their image pairs.

    Ids are the data set's identifiers, `split-set-pair-sentence`; pairs of the same set and sentence belong together.

    Raises:
        ValueError: for an id of another form.
    """
    known, classes = _classes(predictions)
    right = predictions.logits[known].argmax(axis=1) == classes
    ids = [str(name) for name in predictions.column("id")]
    sentences: dict[tuple[str, ...], bool] = {}
    for number, is_right in zip(known, right):
        parts = ids[number].split("-")
        if len(parts) < 4:
            raise ValueError(f"id must be split-set-pair-sentence, as in dev-850-0-1, got {ids[number]!r}.")
        sentence = (*parts[:2], *parts[3:])
        sentences[sentence] = sentences.get(sentence, True) and bool(is_right)
    return {"accuracy": _mean(right), "consistency": _mean(list(sentences.values()))}


def hateful_memes_scores(predictions: Predictions) -> dict[str, float]:
    """The area under the ROC curve, which is what the challenge ranks by, and accuracy; class 1 is "hateful".

    Raises:
        ValueError: if the logits are not of two classes, or labels are all of one.
    """
    known, classes = _classes(predictions)
    if predictions.logits.shape[1] != 2 or len(set(classes.tolist())) != 2:
        raise ValueError(
            f"The ROC curve needs two classes, got {predictions.logits.shape[1]} logits and labels "
            f"{sorted(set(classes.tolist()))}."
        )
    probabilities = softmax(predictions.logits[known])[:, 1]
    roc_auc = need("sklearn.metrics").roc_auc_score(classes, probabilities)
    return {"roc_auc": float(roc_auc), **class_accuracy(predictions)}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits [N, L] -> probabilities, in double precision; minus infinity becomes 0."""
    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


# Choices


def _choices_right(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    known, classes = _classes(predictions)
    logits, counts = predictions.choices()
    beyond = classes >= counts[known]
    if beyond.any():
        ids = [predictions.rows[number].get("id", number) for number in known[beyond]]
        raise ValueError(f"labels must be the index of a choice; those of {some_ids(ids)} are beyond the last.")
    return known, logits[known].argmax(axis=1) == classes


def choice_accuracy(predictions: Predictions) -> dict[str, float]:
    """How often the choice with the greatest logit is the right one; a row has as many choices as its `text_pair`."""
    return {"accuracy": _mean(_choices_right(predictions)[1])}


def vcr_joint(answer: Predictions, rationale: Predictions) -> dict[str, float]:
    """VCR's Q->AR: how often both the answer, and the rationale given the right answer, are right.

    Args:
        answer: of Q->A.
        rationale: of QA->R with the right answer in the question; rows are joined by `question_id`, in any order.

    Returns:
        `accuracy` (Q->AR), `answer_accuracy` (Q->A), `rationale_accuracy` (QA->R).

    Raises:
        ValueError: if a question has no partner, or comes twice.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_vilbert.metrics import Predictions, vcr_joint
    >>> rows = [{"id": name, "question_id": name} for name in ("val-0", "val-1")]
    >>> answer = Predictions(np.eye(4)[[2, 1]], np.array([2, 1]), rows)
    >>> rationale = Predictions(np.eye(4)[[3, 0]], np.array([3, 3]), rows[::-1])
    >>> vcr_joint(answer, rationale)
    {'accuracy': 0.5, 'answer_accuracy': 1.0, 'rationale_accuracy': 0.5}

    ```
    """
    parts = []
    for name, predictions in (("answer", answer), ("rationale", rationale)):
        known, right = _choices_right(predictions)
        questions = predictions.column("question_id")
        ids = [questions[number] for number in known]
        twice = [question for question, count in Counter(ids).items() if count > 1]
        if twice:
            raise ValueError(f"{name} must hold a question once; more often come {some_ids(twice)}.")
        parts.append(dict(zip(ids, right)))
    answers, rationales = parts
    for name, lone in (
        ("rationale", answers.keys() - rationales.keys()),
        ("answer", rationales.keys() - answers.keys()),
    ):
        if lone:
            raise ValueError(f"{name} must hold the same questions as its partner; it lacks {some_ids(sorted(lone))}.")
    return {
        "accuracy": _mean([right and rationales[question] for question, right in answers.items()]),
        "answer_accuracy": _mean(list(answers.values())),
        "rationale_accuracy": _mean(list(rationales.values())),
    }


def visual_dialog_ranking(predictions: Predictions) -> dict[str, float]:
    """Where the human's answer is among the options of a round, and how relevant the first options are.

    A rank of 1 is the best; an option of equal logit counts as before the human's. NDCG, where rows hold `relevance`,
    compares the first k options with the best ones possible, k being the number of options with any relevance; options
    of equal logit share their places. A round without a relevant option has no NDCG and is left out.

    Returns:
        `mrr` (mean reciprocal rank), `recall@1`, `recall@5`, `recall@10`, `mean_rank`, and `ndcg` if any row has it.

    Raises:
        ValueError: if `relevance` is not one number for each option.
    """
    known, classes = _classes(predictions)
    logits, counts = predictions.choices()
    own = logits[known, classes][:, None]
    ranks = (logits[known] >= own).sum(axis=1)
    scores = {"mrr": _mean(1 / ranks), **_recalls(ranks), "mean_rank": _mean(ranks)}

    gains = []
    for row, row_logits, count in zip(predictions.rows, logits, counts):
        relevance = row.get("relevance")
        if relevance is None:
            continue
        if len(relevance) != count:
            raise ValueError(
                f"relevance of {row.get('id')!r} must be {count} numbers, one an option, got {len(relevance)}."
            )
        relevant = np.count_nonzero(relevance)
        if relevant:
            ndcg_score = need("sklearn.metrics").ndcg_score
            gains.append(ndcg_score([relevance], [row_logits[:count]], k=relevant))
    return {**scores, "ndcg": _mean(gains)} if gains else scores


def _recalls(ranks: np.ndarray, prefix: str = "") -> dict[str, float]:
    return {f"{prefix}recall@{k}": _mean(ranks <= k) for k in RECALLS}


# Regions


def offered_regions(predictions: Predictions) -> np.ndarray:
    """Logits [N, R] with minus infinity at regions that cannot be chosen: those whose label is -100."""
    offered = (predictions.logits if predictions.labels is None else _scores(predictions)) != IGNORE
    return np.where(offered, predictions.logits, -np.inf)


def _chosen(predictions: Predictions) -> np.ndarray:
    """The overlap of the region with the greatest logit, [N]; -100 where there is nothing to choose."""
    chosen = offered_regions(predictions).argmax(axis=1)
    return np.take_along_axis(_scores(predictions), chosen[:, None], axis=1)[:, 0]


def grounding_accuracy(predictions: Predictions) -> dict[str, float]:
    """How often the chosen region overlaps the true box by more than 0.5 (IoU).

    Returns:
        `accuracy`; `upper_bound`, the share of rows in which any region does: no model can be better on these regions.
    """
    labels, known = _scores(predictions), _with_truth(predictions, "box")
    return {
        "accuracy": _mean(_chosen(predictions)[known] > OVERLAP),
        "upper_bound": _mean(labels[known].max(axis=1) > OVERLAP),
    }


def pointing_accuracy(predictions: Predictions) -> dict[str, float]:
    """How often the candidate with the greatest logit is the right one: the one that overlaps the true box most."""
    labels, known = _scores(predictions), _with_truth(predictions, "label")
    chosen, best = _chosen(predictions)[known], labels[known].max(axis=1)
    return {"accuracy": _mean((chosen == best) & (best > OVERLAP))}


# Captions and images


def retrieval_ranks(scores: np.ndarray, images: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far down the right image is for each caption, and the right caption for each image.

    Ranks begin at 1. Of an image's captions the best one counts. Ties are counted pessimistically: a wrong one of equal
    score is before the right one, so that a model that scores everything alike is last.

    Args:
        scores: [N captions, M images].
        images: N indices, the image of each caption. Every image must have a caption.

    Returns:
        Ranks of images for captions, [N], and of captions for images, [M].

    Raises:
        ValueError: if there is not one index a caption, or an image has no caption.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_vilbert.metrics import retrieval_ranks
    >>> for ranks in retrieval_ranks(np.array([[5, 9], [8, 1], [3, 4]]), [0, 0, 1]):
    ...     print(ranks.tolist())
    [2, 1, 1]
    [1, 2]

    ```
    """
    scores, images = np.asarray(scores), np.asarray(images)
    count, width = scores.shape
    if images.shape != (count,):
        raise ValueError(f"images must be one index for each of {count} captions, got shape {list(images.shape)}.")
    if sorted(set(images.tolist())) != list(range(width)):
        raise ValueError(
            f"images must be indices of all the {width} columns of scores, got {len(set(images.tolist()))}."
        )
    own = scores[np.arange(count), images]
    of_images = (scores >= own[:, None]).sum(axis=1)
    of_captions = np.empty(width, int)
    for image in range(width):
        mine = images == image
        # Other captions of the same image are right, too: they are not before it.
        of_captions[image] = 1 + (scores[~mine, image] >= own[mine].max()).sum()
    return of_images, of_captions


def retrieval_recall(predictions: Predictions) -> dict[str, float]:
    """Recall at 1, 5 and 10, and median and mean rank, in both directions; see `retrieval_ranks`.

    The median rank is that of the original code, a whole number: floor(median of ranks from 0) + 1.

    Returns:
        `text_to_image_recall@1` and so on (an image is looked for), and `image_to_text_...` (a caption is).

    Raises:
        ValueError: if there are not as many columns of logits as images in `rows`.
    """
    _, images = predictions.images()
    scores = {}
    for direction, ranks in zip(("text_to_image", "image_to_text"), retrieval_ranks(predictions.logits, images)):
        scores |= _recalls(ranks, f"{direction}_")
        scores[f"{direction}_median_rank"] = float(np.floor(np.median(ranks - 1)) + 1)
        scores[f"{direction}_mean_rank"] = _mean(ranks)
    return scores


# The first number of each is the one by which the best model is chosen.
METRICS: dict[str, Callable[[Predictions], dict[str, float]]] = {
    "vqa": vqa_accuracy,
    "gqa": gqa_accuracy,
    "genome_qa": soft_accuracy,
    "snli_ve": class_accuracy,
    "foil": class_accuracy,
    "hateful_memes": hateful_memes_scores,
    "guesswhat_answers": class_accuracy,
    "nlvr2": nlvr2_accuracy,
    "vcr_answer": choice_accuracy,
    "vcr_rationale": choice_accuracy,
    "visual_dialog": visual_dialog_ranking,
    "retrieval_flickr30k": retrieval_recall,
    "retrieval_coco": retrieval_recall,
    "refcoco": grounding_accuracy,
    "refcoco+": grounding_accuracy,
    "refcocog": grounding_accuracy,
    "flickr30k_grounding": grounding_accuracy,
    "visual7w": pointing_accuracy,
    "guesswhat_pointing": pointing_accuracy,
}
