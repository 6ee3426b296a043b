# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Composed scenes through the readers of the official files. Every text is judged anew here: out of its words and the
facts of its scene, by code that shares nothing with the code that wrote it."""

import functools
import importlib
import itertools
import json
import math
import re
import subprocess
import sys
from collections import Counter
from random import Random

import numpy as np
import pytest
from conftest import EXAMPLES
from PIL import Image

from modeling_vilbert.annotations import READERS
from modeling_vilbert.regions import open_regions


sys.path.insert(0, str(EXAMPLES))
scenes = importlib.import_module("scenes")
scene_facts = importlib.import_module("scene_facts")
scene_texts = importlib.import_module("scene_texts")

SPLITS = ("train", "val", "test")
COLOURS = "red green blue yellow purple orange".split()
SHAPES = "circle square triangle star cross diamond".split()
COLOUR, SHAPE, SIZE = "|".join(COLOURS), "|".join(SHAPES), "small|large"
RELATION = "left of|right of|above|below"
NAME = f"(?:{COLOUR}) (?:{SHAPE})"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return scenes.compose(tmp_path_factory.mktemp("scenes") / "all", train=90, val=40, test=60)


@pytest.fixture(scope="module")
def facts(folder):
    """Every name of an image -> its things."""
    stored = json.loads((folder / "scenes.json").read_text())
    things = {scene["image_id"]: scene["things"] for scene in stored["scenes"]}
    return {name: things[number] for name, number in stored["names"].items()}


@pytest.fixture(scope="module")
def rows(folder):
    @functools.cache
    def read(task, split):
        found = READERS[task](*scenes.scene_files(folder, task, split))
        assert found, (task, split)
        return found

    return read


# The judge


def centre(thing):
    x1, y1, x2, y2 = thing["box"]
    return (x1 + x2) / 2, (y1 + y2) / 2


def clearly(distance):
    """Whether a distance is positive. Nothing may be said of short ones."""
    return None if abs(distance) < 12 else distance > 0


def lies(thing, relation, other):
    (x, y), (other_x, other_y) = centre(thing), centre(other)
    return clearly(
        {"left of": other_x - x, "right of": x - other_x, "above": other_y - y, "below": y - other_y}[relation]
    )


def lies_between(thing, first, second):
    """By angles: seen from the thing, the two are in opposite directions, and neither is near."""
    point, start, end = (np.array(centre(one)) for one in (thing, first, second))
    line = (end - start) / np.linalg.norm(end - start)
    along, length = (point - start) @ line, np.linalg.norm(end - start)
    off = np.linalg.norm(point - start - along * line)
    if length / 5 <= along <= 4 * length / 5 and off <= 12:
        return True
    return False if not 0 < along < length or off >= 24 else None


def fit(things, words):
    """The things that every word but "shape" and "object" is true of."""
    words = [word for word in words.split() if word not in ("a", "an", "the", "shape", "object")]
    return [one for one in things if all(word in (one["colour"], one["shape"], one["size"]) for word in words)]


def singular(words):
    return words.removesuffix("es") if words.endswith("crosses") else words.removesuffix("s")


def only(things):
    assert len(things) == 1, things
    return things[0]


def pointed_at(things, noun, rest):
    """The one thing that a noun and a relation pick out of several of that noun."""
    between = re.fullmatch(f"between the ({NAME}) and the ({NAME})", rest)
    if between:
        anchors = [only(fit(things, name)) for name in between.groups()]
        judge = functools.partial(lies_between, first=anchors[0], second=anchors[1])
    else:
        relation, name = re.fullmatch(f"({RELATION}) the ({NAME})", rest).groups()
        anchors = [only(fit(things, name))]
        judge = functools.partial(lies, relation=relation, other=anchors[0])
    candidates = [one for one in fit(things, noun) if one not in anchors]
    assert len(candidates) > 1
    verdicts = [judge(one) for one in candidates]
    assert verdicts.count(True) == 1 and verdicts.count(False) == len(candidates) - 1
    return candidates[verdicts.index(True)]


def outermost(things, word, noun):
    axis, sign = {"leftmost": (0, 1), "rightmost": (0, -1), "topmost": (1, 1), "bottommost": (1, -1)}[word]
    first, second, *_ = sorted(fit(things, noun), key=lambda one: sign * centre(one)[axis])
    assert clearly(sign * (centre(second)[axis] - centre(first)[axis]))
    return first


def referent(things, text):
    """What an expression means; others are like it in part."""
    text = text.removeprefix("the ")
    if " that is " in text:
        return pointed_at(things, *text.split(" that is "))
    word, _, noun = text.partition(" ")
    if word.endswith("most"):
        return outermost(things, word, noun)
    thing, words = only(fit(things, text)), text.split()
    assert any(fit([other], word) for other in things if other is not thing for word in words if word != "shape")
    return thing


def holds(things, text):
    """Of a statement: True, False, "absent" if it is about something that is not there, or None if it is not clear."""
    text = text.removesuffix(" .")
    between = re.fullmatch(r"(an? .+) is between (an? .+) and (an? .+)", text)
    if between:
        found = [fit(things, words) for words in between.groups()]
        return lies_between(*map(only, found)) if all(found) else "absent"
    parts = re.fullmatch(rf"(.+?) is ({RELATION}) ((?:an?|the) .+?)(?: and ({RELATION}) (an? .+))?", text)
    if parts:
        subject, *pairs = parts.groups()
        found = [fit(things, words) for words in (subject, pairs[1], pairs[3]) if words]
        if not all(found):
            return "absent"
        verdicts = [lies(only(found[0]), one, only(other)) for one, other in zip(pairs[::2], found[1:])]
        return None if None in verdicts else all(verdicts)
    words, state = re.fullmatch(rf"the (.+) is ({COLOUR}|{SIZE})", text).groups()
    found = fit(things, words)
    return bool(fit([only(found)], state)) if found else "absent"


def half(thing, word):
    x, y = centre(thing)
    return clearly({"left": 64 - x, "right": x - 64, "upper": 48 - y, "lower": y - 48}[word])


def in_half(things, words, name):
    """The one thing of those words that is in the half; the others are clearly in the other."""
    verdicts = [(half(one, name), one) for one in fit(things, words)]
    assert len(verdicts) > 1 and None not in [verdict for verdict, _ in verdicts]
    return only([one for verdict, one in verdicts if verdict])


def yes_or_no(verdict):
    assert verdict is not None
    return "yes" if verdict else "no"


# Question -> its answer, by the first pattern that fits.
QUESTIONS = [
    (
        r"what colou?r is the (\w+ shape|\w+) ((?:left|right|above|below|between).+)",
        lambda t, *a: pointed_at(t, *a)["colour"],
    ),
    (r"what shape is ((?:left|right|above|below|between).+)", lambda t, rest: pointed_at(t, "shape", rest)["shape"]),
    (r"what color is the (\w+) in the (\w+) half", lambda t, *a: in_half(t, *a)["colour"]),
    (r"what shape is the (\w+ object) in the (\w+) half", lambda t, *a: in_half(t, *a)["shape"]),
    (r"what color is (?:the )?(.+)", lambda t, words: only(fit(t, words))["colour"]),
    (r"what shape is the (.+)", lambda t, words: only(fit(t, words))["shape"]),
    (r"what shape is (\w+) and (\w+)", lambda t, *words: only(fit(t, " ".join(words)))["shape"]),
    (r"is there (an? .+)", lambda t, words: yes_or_no(fit(t, words))),
    (r"are there both (.+) and (.+)", lambda t, *words: yes_or_no(all(fit(t, one) for one in words))),
    (rf"is the ({NAME}) small or large", lambda t, words: only(fit(t, words))["size"]),
    (
        rf"is the ({NAME}) ({RELATION}) or ({RELATION}) the ({NAME})",
        lambda t, one, a, b, other: next(
            word.split()[0] for word in (a, b) if lies(only(fit(t, one)), word, only(fit(t, other)))
        ),
    ),
    (
        rf"is the ({NAME}) ({RELATION}) the ({NAME})",
        lambda t, one, word, other: yes_or_no(lies(only(fit(t, one)), word, only(fit(t, other)))),
    ),
    (
        rf"are the ({NAME}) and the ({NAME}) the same size",
        lambda t, one, other: yes_or_no(only(fit(t, one))["size"] == only(fit(t, other))["size"]),
    ),
    (rf"on which side is the ({NAME})", lambda t, words: "left" if half(only(fit(t, words)), "left") else "right"),
    (r"how many (.+) are there", lambda t, words: str(len(fit(t, singular(words))))),
]


def answer(things, question):
    question = question.lower().rstrip(" ?")
    for pattern, judge in QUESTIONS:
        found = re.fullmatch(pattern, question)
        if found:
            return judge(things, *found.groups())
    raise AssertionError(f"no pattern fits {question!r}")


def answer_about(things, thing, question):
    """Yes, No or N/A to a question of a guessing game about a thing."""
    words = question.removeprefix("is it ").rstrip("?")
    names = {True: "Yes", False: "No"}
    alike = re.fullmatch("the same (color|size) as the (.+)", words)
    if alike:
        field = alike[1].replace("color", "colour")
        others = fit(things, alike[2])
        return names[only(others)[field] == thing[field]] if others else "N/A"
    placed = re.fullmatch(f"({RELATION}) the ({NAME})", words)
    if placed:
        others = fit(things, placed[2])
        if others == [thing]:
            # Nothing lies left of itself.
            return "No"
        return names[lies(thing, placed[1], only(others))] if others else "N/A"
    halves = re.fullmatch("in the (.+) half", words)
    if halves:
        return names[half(thing, halves[1])]
    return names[bool(fit([thing], words))]


# What is said is so


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", ["vqa", "gqa", "genome_qa"])
def test_answers(task, split, rows, facts):
    for row in rows(task, split):
        truth = answer(facts[row["image_id"]], row["text"])
        assert row["answers"][int(np.argmax(row["scores"]))] == truth and max(row["scores"]) == 1, row
        if task == "vqa":
            assert len(row["human_answers"]) == 10 and row["human_answers"].count(truth) >= 8
    if task == "vqa":
        # People differ, so that scores between nothing and all occur.
        assert 0.2 < np.mean([len(row["answers"]) > 1 for row in rows(task, split)]) < 0.8


@pytest.mark.parametrize("split", SPLITS)
def test_choices_of_vcr(split, rows, facts):
    for row in rows("vcr_answer", split):
        things, question = facts[row["image_id"]], row["text"].rstrip(" ?")
        choices = [choice.removesuffix(" .") for choice in row["text_pair"]]
        if question.startswith("what color"):
            right = [answer(things, row["text"]) == choice.split()[-1] for choice in choices]
        else:
            relation, name = re.fullmatch(f"what is ({RELATION}) the ({NAME})", question).groups()
            found = [fit(things, choice) for choice in choices]
            right = [bool(one) and lies(only(one), relation, only(fit(things, name))) for one in found]
        assert right == [number == row["label"] for number in range(4)], row
        assert len(set(choices)) == 4
    for row in rows("vcr_rationale", split):
        things = facts[row["image_id"]]
        verdicts = [holds(things, choice) for choice in row["text_pair"]]
        assert [verdict is True for verdict in verdicts] == [number == row["label"] for number in range(4)], row
        assert None not in verdicts
        # None stands out: each word stands in all four, or in two.
        for words in zip(*(choice.split() for choice in row["text_pair"]), strict=True):
            assert set(Counter(words).values()) in ({4}, {2}), row


@pytest.mark.parametrize("split", SPLITS)
def test_dialogues(split, rows, facts):
    judged = 0
    for row in rows("visual_dialog", split):
        things = facts[row["image_id"]]
        question, caption, *before = row["text"].split(" [SEP] ")
        assert holds(things, caption) is True and len(row["text_pair"]) == len(set(row["text_pair"])) == 10
        if question.startswith("is it "):
            topic = next(one for one in before if one.startswith("what color is the "))
            thing = only(fit(things, topic.split()[4]))
            truth = answer_about(things, thing, question).lower()
        else:
            truth = answer(things, question)
        assert row["text_pair"][row["label"]] == truth, row
        if row["relevance"] is not None:
            judged += 1
            longer = {"yes": "yes indeed", "no": "not at all"}.get(truth)
            for choice, relevance in zip(row["text_pair"], row["relevance"]):
                also = choice == longer or (
                    choice != truth and choice.startswith(("it is", "there")) and truth in choice
                )
                assert relevance == (1 if choice == truth else 0.5 if also else 0)
    assert judged == (0 if split == "train" else len({row["dialog_id"] for row in rows("visual_dialog", split)}))
    rounds = Counter(row["dialog_id"] for row in rows("visual_dialog", split))
    assert set(rounds.values()) <= {3, 4, 5}


@pytest.mark.parametrize("split", SPLITS)
def test_boxes(split, rows, facts):
    for task in ("refcoco", "refcoco+", "refcocog"):
        for row in rows(task, split):
            assert referent(facts[row["image_id"]], row["text"])["box"] == row["box"], row
            assert task != "refcoco+" or not re.search(f"most|{RELATION}|between", row["text"])
    for row in rows("flickr30k_grounding", split):
        assert only(fit(facts[row["image_id"]], row["text"]))["box"] == row["box"], row
    for row in rows("visual7w", split):
        things = facts[row["image_id"]]
        text = row["text"].rstrip("?")
        if text.startswith("which object is the "):
            thing = referent(things, text.removeprefix("which object is "))
        else:
            thing = pointed_at(things, *re.fullmatch("which (.+?) is (.+)", text).groups())
        assert thing["box"] == row["candidates"][row["label"]]
        boxes = [one["box"] for one in things]
        assert len(row["candidates"]) == 4 and all(box in boxes for box in row["candidates"])


@pytest.mark.parametrize("split", SPLITS)
def test_guessing_games(split, rows, facts):
    for row in rows("guesswhat_answers", split):
        things = facts[row["image_id"]]
        thing = only([one for one in things if one["box"] == row["focus"]])
        assert thing["shape"] == row["text_pair"]
        assert answer_about(things, thing, row["text"]) == row["label"], row
    for row in rows("guesswhat_pointing", split):
        things = facts[row["image_id"]]
        assert [one["box"] for one in things] == row["candidates"]
        turns = re.findall(r"start (.+?\?) answer (Yes|No) stop", row["text"])
        assert 3 <= len(turns) <= 5
        left = list(things)
        for question, said in turns:
            left = [one for one in left if answer_about(things, one, question) == said]
        assert left == [things[row["label"]]], row


@pytest.mark.parametrize("split", SPLITS)
def test_captions(split, rows, facts):
    for task in ("retrieval_flickr30k", "retrieval_coco"):
        found = rows(task, split)
        assert all(count == 2 for count in Counter(row["image_id"] for row in found).values())
        images = list(dict.fromkeys(row["image_id"] for row in found))
        others = []
        for row in found:
            assert 6 <= len(row["text"].split()) <= 14
            assert holds(facts[row["image_id"]], row["text"]) is True, row
            others.append(sum(holds(facts[image], row["text"]) is True for image in images) - 1)
        # A caption fits hardly any other image.
        assert np.mean(others) < 0.01 * len(images)


@pytest.mark.parametrize("split", SPLITS)
def test_statements(split, rows, facts):
    for row in rows("snli_ve", split):
        verdict = holds(facts[row["image_id"]], row["text"])
        assert {True: "entailment", False: "contradiction", "absent": "neutral"}[verdict] == row["label"], row
    for row in rows("foil", split):
        verdict = holds(facts[row["image_id"]], row["text"])
        assert (verdict is True, verdict is None) == (row["label"] == "original", False), row
    for one, other in zip(*[iter(rows("foil", split))] * 2):
        words, exchanged = one["text"].split(), other["text"].split()
        # "a" and "an" go with the word after them.
        pairs = [pair for pair in zip(words, exchanged, strict=True) if pair[0] != pair[1]]
        assert len([pair for pair in pairs if set(pair) != {"a", "an"}]) == 1
    for row in rows("hateful_memes", split):
        name = re.search(NAME, row["text"])[0]
        assert row["label"] == ("hateful" if fit(facts[row["image_id"]], name) else "not hateful")


NUMBERS = "two three four five six seven eight nine ten".split()
PAIRS = [
    (
        r"the (left|right) image contains (an? .+)",
        lambda a, b, side, words: bool(fit(a if side == "left" else b, words)),
    ),
    (
        r"there is (an? .+) in one of the two images",
        lambda a, b, words: bool(fit(a, words)) != bool(fit(b, words)),
    ),
    (r"both images contain (.+)", lambda a, b, words: all(fit(one, words) for one in (a, b))),
    (
        r"one image contains (.+) and the other contains (.+)",
        lambda a, b, one, two: bool(fit(a, one) and fit(b, two) or fit(b, one) and fit(a, two)),
    ),
    (
        r"there are exactly (\w+) (.+) in the two images",
        lambda a, b, number, words: len(fit(a + b, singular(words))) == NUMBERS.index(number) + 2,
    ),
    (
        r"the (left|right) image contains more (.+) than the (?:left|right) image",
        lambda a, b, side, words: (len(fit(a, singular(words))) > len(fit(b, singular(words)))) == (side == "left"),
    ),
    (r"in the (left|right) image , (.+)", lambda a, b, side, text: holds(a if side == "left" else b, text)),
]


@pytest.mark.parametrize("split", SPLITS)
def test_pairs(split, rows, facts):
    used = Counter()
    for row in rows("nlvr2", split):
        left, right = (facts[name] for name in row["image_id"])
        pattern, judge = next(one for one in PAIRS if re.fullmatch(one[0], row["text"]))
        verdict = judge(left, right, *re.fullmatch(pattern, row["text"]).groups())
        assert str(verdict) == row["label"], row
        used[pattern] += 1
    assert len(used) == len(PAIRS)


# Splits, words, balance


def texts_of(row):
    """All that is said in a row, together with what belongs to it."""
    pair = row.get("text_pair")
    choices = pair if isinstance(pair, list) else []
    return [row["text"], " / ".join(choices)]


def combinations(text):
    """Every colour and shape that stands beside a relation in a text."""
    found = set()
    for clause in re.split(r" \[SEP\] | / |\?", text):
        for relation in RELATION.split("|"):
            for before in re.findall(rf"({NAME}) (?:is )?(?:(?:{RELATION}) or )?{relation}", clause):
                found.add((before, relation))
            for after in re.findall(rf"{relation} (?:or (?:{RELATION}) )?(?:the|an?) (?:(?:{SIZE}) )?({NAME})", clause):
                found.add((after, relation))
            # Of two relations, the second is also of the first thing.
            if re.search(rf"and {relation} an? ", clause):
                found.add((re.search(NAME, clause)[0], relation))
        if "between" in clause:
            subject = re.search(rf"({NAME}) is between", clause)
            names = re.findall(NAME, clause.partition("between")[2])
            found |= {(name, "between") for name in [*names[:2], *([subject[1]] if subject else [])]}
    return found


def test_combinations_of_a_relation_are_kept_for_val_and_test(rows):
    held_out = {(f"{colour} {shape}", relation) for colour, shape, relation in scene_facts.HELD_OUT}
    # Of 6 x 6 x 5 combinations.
    assert 0.12 < len(held_out) / 180 < 0.18
    seen = {split: set() for split in SPLITS}
    spoken = Counter()
    for task, split in itertools.product(READERS, SPLITS):
        for row in rows(task, split):
            for text in texts_of(row):
                said = combinations(text)
                seen[split] |= said
                if said:
                    assert (split == "train") != bool(said & held_out), (task, text)
                    spoken[task, split] += 1
    assert not seen["train"] & held_out
    assert held_out <= seen["val"] | seen["test"]
    for task in "vqa gqa vcr_answer vcr_rationale refcocog visual7w retrieval_coco snli_ve foil nlvr2".split():
        assert all(spoken[task, split] > 5 for split in SPLITS), task


def test_splits_share_no_image(rows, facts):
    for task in READERS:
        images = {
            split: {name for row in rows(task, split) for name in [row["image_id"]]}
            if task != "nlvr2"
            else {name for row in rows(task, split) for name in row["image_id"]}
            for split in SPLITS
        }
        assert not images["train"] & images["val"] and not (images["train"] | images["val"]) & images["test"]
    things = {json.dumps(one) for one in facts.values()}
    assert len(things) == 90 + 40 + 60


def test_ids_are_unique_and_rows_alike(rows):
    for task, split in itertools.product(READERS, SPLITS):
        found = rows(task, split)
        assert len({row["id"] for row in found}) == len(found)
        assert all(row.keys() == found[0].keys() for row in found)


def test_every_word_is_a_token(rows):
    tokenizer = scenes.word_tokenizer()
    assert len(tokenizer) < 300
    words = set()
    for task, split in itertools.product(READERS, SPLITS):
        for row in rows(task, split):
            words.update(" ".join([*texts_of(row), *row.get("answers", [])]).split())
            words.update([row["text_pair"]] if isinstance(row.get("text_pair"), str) else [])
    tokens = {token for word in words for token in tokenizer.tokenize(word)}
    assert "[UNK]" not in tokens and not [token for token in tokens if token.startswith("##")]
    # Others are spelled.
    assert tokenizer.tokenize("Zebra") == ["z", "##e", "##b", "##r", "##a"]
    assert tokenizer("a red circle", "is it?").tokens()[-2:] == ["?", "[SEP]"]


@pytest.mark.parametrize("split", SPLITS)
def test_classes_are_even(split, rows):
    for task, most in {
        "snli_ve": 1 / 3,
        "foil": 0.5,
        "hateful_memes": 0.5,
        "nlvr2": 0.5,
        "guesswhat_answers": 0.45,
    }.items():
        counts = Counter(row["label"] for row in rows(task, split))
        assert max(counts.values()) / counts.total() <= most + 1e-9, (task, counts)
    # Of questions with two answers words give away half.
    answers = Counter(row["answers"][0] for row in rows("gqa", split))
    assert max(answers.values()) / answers.total() < 0.2
    dialogs = Counter(row["text_pair"][row["label"]] for row in rows("visual_dialog", split))
    assert (dialogs["yes"] + dialogs["no"]) / dialogs.total() < 0.45
    answers = Counter(row["answers"][int(np.argmax(row["scores"]))] for row in rows("vqa", split))
    assert abs(answers["yes"] - answers["no"]) <= 2
    numbers = [answers[number] for number in "01234"]
    assert min(numbers) >= 0.6 * max(numbers)


def test_words_alone_tell_little():
    """Naive Bayes over words and their pairs, trained on half of the texts, is near chance on the other half."""
    drawn = [scenes.new_scene("train", number, seed=1) for number in range(700)]
    told = {
        "snli_ve": lambda item: [(item["hypothesis"], item["label"])],
        "foil": lambda item: [(item["caption"], "original"), (item["foil"], "foil")],
        "hateful_memes": lambda item: [(item["text"], item["label"])],
        "nlvr2": lambda item: [(sentence["text"], sentence["label"]) for sentence in item["sentences"]],
        "vqa": lambda item: [(item["question"], item["answer"])] * (item["answer"] in ("yes", "no")),
        "guesswhat_answers": lambda item: [tuple(turn) for turn in item["turns"] if "as the" in turn[0]],
    }
    for task, tell in told.items():
        said = [pair for item in scene_texts.ITEMS[task](drawn, Random(task)) for pair in tell(item)]
        half = len(said) // 2
        counts = {label: Counter() for _, label in said}
        for text, label in said[:half]:
            counts[label].update(grams(text))
        right = 0
        for text, label in said[half:]:
            scores = {
                one: sum(math.log((count[gram] + 1) / (count.total() + 1000)) for gram in grams(text))
                for one, count in counts.items()
            }
            right += max(scores, key=scores.get) == label
        assert right / half < 1 / len(counts) + 0.07, (task, right / half)


def grams(text):
    words = text.split()
    return words + list(zip(words, words[1:]))


# Images and regions


def test_images_show_the_facts(folder, facts):
    palette = np.array([scene_facts.COLOURS[colour] for colour in COLOURS])
    for name in list(facts)[::7]:
        if not name.isdigit():
            continue
        image = Image.open(folder / "images" / f"{name}.png")
        assert image.size == (128, 96) and 3 <= len(facts[name]) <= 6
        pixels = np.asarray(image, float)
        distances = np.linalg.norm(pixels[:, :, None] - palette, axis=-1)
        for thing, other in itertools.permutations(facts[name], 2):
            (x1, y1, x2, y2), box = thing["box"], other["box"]
            assert x2 <= box[0] or box[2] <= x1 or y2 <= box[1] or box[3] <= y1
            assert (thing["colour"], thing["shape"]) != (other["colour"], other["shape"])
        for thing in facts[name]:
            x1, y1, x2, y2 = thing["box"]
            assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 96
            assert (x2 - x1 > 22) == (thing["size"] == "large")
            inside = distances[y1:y2, x1:x2].min(-1) < 60
            middle = distances[(y1 + y2) // 2 - 2 : (y1 + y2) // 2 + 2, (x1 + x2) // 2 - 2 : (x1 + x2) // 2 + 2]
            assert COLOURS[middle.mean((0, 1)).argmin()] == thing["colour"]
            assert seen_shape(inside) == thing["shape"], (name, thing)


def seen_shape(inside):
    """A shape by its share of the box, by its corners, and by the middles of its sides."""
    height, width = inside.shape
    corners = [inside[y, x] for y, x in ((1, 1), (1, -2), (-2, 1), (-2, -2))]
    share = inside.mean()
    if all(corners):
        return "square"
    if corners[2] and corners[3]:
        return "triangle"
    if share > 0.7:
        return "circle"
    # A cross has broad arms that end bluntly; a star's lower middle is open.
    if inside[1, width // 2 - width // 8] and inside[1, width // 2 + width // 8 - 1] and share > 0.5:
        return "cross"
    return "star" if not inside[-2, width // 2] else "diamond"


def test_regions_are_what_a_detector_might_find(folder, facts, rows):
    detected, true = open_regions(folder / "regions"), open_regions(folder / "objects")
    assert set(detected) == set(true) == set(facts)
    for task, split in itertools.product(READERS, SPLITS):
        for row in rows(task, split):
            names = row["image_id"] if isinstance(row["image_id"], list) else [row["image_id"]]
            assert all(name in facts for name in names)
    nothing = 0
    for name, things in facts.items():
        found, objects = detected[name], true[name]
        assert found.image_size == objects.image_size == (128, 96) and found.source == objects.source == scenes.SOURCE
        assert objects.boxes.tolist() == [thing["box"] for thing in things] and objects.scores is None
        assert objects.labels == [f"{thing['colour']} {thing['shape']}" for thing in things]
        assert found.class_probs.shape == (len(found), scenes.REGION_CLASSES) == (len(found), 37)
        np.testing.assert_allclose(found.class_probs.sum(1), 1, atol=2e-3)
        classes = found.class_probs.argmax(1)
        assert [scenes.CLASSES[number] for number in classes] == found.labels
        nothing += (classes == 0).sum()
        for thing, label in zip(things, objects.labels):
            (place,) = [number for number, other in enumerate(found.labels) if other == label]
            assert np.abs(found.boxes[place] - thing["box"]).max() <= 2
            assert 0.84 < found.class_probs[place].max() == pytest.approx(found.scores[place], abs=1e-3)
        assert len(found) - len(things) == (classes == 0).sum() <= 2
        for box in found.boxes[classes == 0]:
            for x1, y1, x2, y2 in (thing["box"] for thing in things):
                assert x2 <= box[0] or box[2] <= x1 or y2 <= box[1] or box[3] <= y1
    assert 0.5 < nothing / len(facts) < 1.3


def test_features_are_a_look_at_the_pixels(folder, facts):
    number = next(iter(facts))
    image = Image.open(folder / "images" / f"{number}.png")
    for store in ("regions", "objects"):
        regions = open_regions(folder / store)[number]
        assert regions.features.shape == (len(regions), scenes.FEATURE_SIZE) == (len(regions), 192)
        assert np.abs(regions.features).max() <= 1
        for box, feature in zip(regions.boxes, regions.features):
            seen = (
                np.asarray(image.crop([round(float(side)) for side in box]).resize((8, 8)), float).ravel() / 127.5 - 1
            )
            assert np.corrcoef(seen, feature)[0, 1] > 0.8
    # The same under all names of an image.
    stored = open_regions(folder / "regions")
    np.testing.assert_array_equal(stored[number].features, stored[f"v7w_{number}"].features)


# Making them


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import scenes; scenes.compose('one', 9, 8, 8, seed=3)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    one = contents(tmp_path / "one")
    assert one == contents(scenes.compose(tmp_path / "two", 9, 8, 8, seed=3))
    assert one != contents(scenes.compose(tmp_path / "three", 9, 8, 8, seed=4))
    # More scenes leave the first ones as they are.
    more = contents(scenes.compose(tmp_path / "four", 12, 8, 8, seed=3))
    images = [name for name in one if name.parts[0] == "images"]
    assert len(images) == 25 and all(more[name] == one[name] for name in images)


def test_what_is_there_is_not_made_again(folder, tmp_path):
    before = (folder / "scenes.json").stat().st_mtime_ns
    assert scenes.compose(folder, train=90, val=40, test=60) == folder
    assert (folder / "scenes.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds other scenes"):
        scenes.compose(folder, train=91, val=40, test=60)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="something else"):
        scenes.compose(tmp_path)


@pytest.mark.parametrize(
    "sizes, named", [({"train": 7}, "train must be"), ({"seed": -1}, "seed must be"), ({"test": 10**6}, "test must be")]
)
def test_bad_numbers_are_named(sizes, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        scenes.compose(tmp_path / "new", **sizes)


@pytest.mark.parametrize("task, split, named", [("vqa2", "train", "task must be"), ("vqa", "dev", "split must be")])
def test_unknown_files_are_named(task, split, named, folder):
    with pytest.raises(ValueError, match=named):
        scenes.scene_files(folder, task, split)


def test_the_command(tmp_path, monkeypatch):
    command = ["scenes.py", "--output", "new", "--train", "8", "--val", "8", "--test", "12"]
    result = subprocess.run(
        [sys.executable, EXAMPLES / command[0], *command[1:], "--picture", "all.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert all(task in result.stdout for task in READERS)
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*command, "--seed", "1"])
    with pytest.raises(SystemExit, match="holds other scenes"):
        scenes.main()
