# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What each task says about composed scenes: a function a task, from the scenes of a split to items.

Items are plain dicts of texts, boxes and the truth; `scene_annotations` writes them in the layouts of the published
data sets. What is true of a scene, and what its split may say: `scene_facts`.

True and false texts are worded alike. Truth is drawn first and the text afterwards, from texts that are as frequent
among the true as among the false: where a thing is replaced by one that is not in the picture, the new one shares with
its neighbour what the old one shared. So a model that sees no image stays near chance.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations, product
from random import Random
from typing import Any, NamedTuple

from scene_facts import (
    COLOURS,
    HALVES,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    SIZES,
    Caption,
    Kind,
    Scene,
    Thing,
    attributes,
    draw_captions,
    extremes,
    is_in_half,
    is_placed,
    may_say,
    mentions_of,
    only_one,
    shared,
    with_article,
)


YES_NO = ("yes", "no")
NUMBERS = "zero one two three four five six seven eight nine ten".split()

Item = dict[str, Any]


class Evenly:
    """Draws an answer that was given least so far, then one of the texts that have it."""

    def __init__(self):
        self.given = Counter()

    def pick(self, random: Random, kind: str, candidates: Iterable[tuple[str, Any]]) -> tuple[str, Any] | None:
        """One of the pairs of an answer and a text, or None if there are none. Answers are even within a `kind`."""
        by_answer: dict[str, list] = {}
        for answer, text in candidates:
            by_answer.setdefault(answer, []).append(text)
        if not by_answer:
            return None
        least = min(self.given[kind, answer] for answer in by_answer)
        answer = random.choice([answer for answer in by_answer if self.given[kind, answer] == least])
        self.given[kind, answer] += 1
        return answer, random.choice(by_answer[answer])


def yes_or_no(truth: bool) -> str:
    return "yes" if truth else "no"


# Captions


def retrieval(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Two captions an image."""
    return [
        {"image_id": scene.image_id, "captions": [caption.text for caption in draw_captions(scene, random, 2)]}
        for scene in scenes
    ]


def flickr30k_grounding(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Two captions an image, in parts; a part is a text, or a text and the number of the thing it names."""
    items = []
    for scene in scenes:
        number = {thing.kind: place for place, thing in enumerate(scene.things)}
        captions = [
            [part if isinstance(part, str) else [part.text, number[part[1:]]] for part in caption.parts]
            for caption in draw_captions(scene, random, 2)
        ]
        boxes = [list(thing.box) for thing in scene.things]
        items.append({"image_id": scene.image_id, "captions": captions, "boxes": boxes})
    return items


def foil(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Two captions an image, each with one in which a word is exchanged so that it is false."""
    items = []
    for scene in scenes:
        found = []
        for caption in draw_captions(scene, random, 4):
            exchanged = [one for one in exchanges(caption) if one[0].holds(scene) is False]
            exchanged = [one for one in exchanged if may_say(scene.split, one[0].mentions)]
            if exchanged:
                # What is exchanged first, so that colours, of which there are more, do not crowd out relations.
                field = random.choice(sorted({one[1] for one in exchanged}))
                false, _, target_word, foil_word = random.choice([one for one in exchanged if one[1] == field])
                words = {"target_word": target_word, "foil_word": foil_word}
                found.append({"image_id": scene.image_id, "caption": caption.text, "foil": false.text, **words})
        items += found[:2]
    return items


def exchanges(caption: Caption) -> Iterator[tuple[Caption, str, str, str]]:
    """The caption with one word exchanged: the new caption, what of it, the old word and the new.

    Nouns that share no colour or shape share none afterwards, and the other way round.
    """
    for number, noun in enumerate(caption.nouns):
        others = [other for place, other in enumerate(caption.nouns) if place != number]
        for field, words in (("colour", COLOURS), ("shape", SHAPES)):
            taken = [getattr(other, field) for other in others]
            old = getattr(noun, field)
            for new in words:
                if old not in taken and new not in taken and new != old:
                    yield caption.replace(number, field, new), field, old, new
        if noun.size:
            new = SIZES[1 - SIZES.index(noun.size)]
            yield caption.replace(number, "size", new), "size", noun.size, new
    for number, old in enumerate(caption.relations):
        if old in OPPOSITE:
            relations = list(caption.relations)
            relations[number] = OPPOSITE[old]
            new = OPPOSITE[old]
            yield Caption(caption.nouns, tuple(relations)), "relation", old.split()[0], new.split()[0]


# Questions with an answer in words


def ask(
    random: Random, evenly: Evenly, scene: Scene, kinds: Mapping[str, Iterable[tuple[str, str]]], times: int = 1
) -> list[Item]:
    """So many different questions of each kind for which there are as many."""
    items = []
    for kind, candidates in kinds.items():
        left = list(candidates)
        for _ in range(times):
            if found := evenly.pick(random, kind, left):
                left = [one for one in left if one[1] != found[1]]
                items.append({"image_id": scene.image_id, "kind": kind, "question": found[1], "answer": found[0]})
    return items


def counting(scene: Scene) -> list[tuple[str, str]]:
    """Up to four of a shape or of a colour, or none; with the number as digits."""
    words = [(shape, plural) for shape, plural in SHAPES.items()]
    words += [(colour, f"{colour} shapes") for colour in COLOURS]
    return [(str(scene.counts[word]), noun) for word, noun in words if scene.counts[word] <= 4]


def vqa(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Colours, shapes, presence, relations and numbers; ten people answer, and one or two of them may be wrong."""
    evenly, items = Evenly(), []
    for scene in scenes:
        counts = scene.counts
        kinds = {
            "colour": [
                (thing.colour, f"what color is the {thing.shape}?")
                for thing in scene.things
                if counts[thing.shape] == 1
            ],
            "shape": [
                (thing.shape, f"what shape is the {thing.colour} object?")
                for thing in scene.things
                if counts[thing.colour] == 1
            ],
            "presence": [("yes", f"is there {with_article(thing.name)}?") for thing in scene.things]
            + [("no", f"is there {with_article(' '.join(kind))}?") for kind in scene.absent],
            "relation": [(yes_or_no(one.holds), f"is the {one.text.replace(' is ', ' ')}?") for one in scene.relations],
            "number": [(answer, f"how many {noun} are there?") for answer, noun in counting(scene)],
        }
        items += ask(random, evenly, scene, kinds)
    pools = {"colour": list(COLOURS), "shape": list(SHAPES), "number": list("01234")}
    for item in items:
        wrong = [answer for answer in pools.get(item["kind"], YES_NO) if answer != item["answer"]]
        humans = [item["answer"]] * 10
        for place in random.sample(range(10), random.choice([0, 0, 1, 2])):
            humans[place] = random.choice(wrong)
        item["human_answers"] = humans
    return items


def gqa(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Questions that take two steps: find one thing by where it is, then tell something of it.

    Of those with only two answers there is one an image, since words alone give away half of them.
    """
    evenly, items = Evenly(), []
    for scene in scenes:
        relative = [one for one in scene.pointings if "between" not in one.rest]
        choices = []
        for subject, anchor in permutations(scene.things, 2):
            for names in (("left of", "right of"), ("above", "below")):
                mentions = sum((mentions_of(name, subject.kind, anchor.kind) for name in names), ())
                held = [name for name in names if is_placed(subject, name, anchor)]
                if held and may_say(scene.split, mentions):
                    question = f"is the {subject.name} {names[0]} or {names[1]} the {anchor.name}?"
                    choices.append((held[0].split()[0], question))
        open_kinds = {
            "colour by relation": [
                (one.thing.colour, f"what color is the {one.noun} {one.rest}?")
                for one in relative
                if one.noun.split()[0] not in COLOURS
            ],
            "shape by relation": [
                (one.thing.shape, f"what shape is {one.rest}?") for one in relative if one.noun == "shape"
            ],
            "colour by half": [
                (thing.colour, f"what color is the {thing.shape} in the {half}?")
                for thing, half in alone_in_half(scene, "shape")
            ],
            "shape by half": [
                (thing.shape, f"what shape is the {thing.colour} object in the {half}?")
                for thing, half in alone_in_half(scene, "colour")
            ],
        }
        two_answers = {
            "relation": choices,
            "size": [(thing.size, f"is the {thing.name} small or large?") for thing in scene.things],
            "both": list(both_present(scene, random)),
        }
        kind = random.choice([kind for kind, candidates in two_answers.items() if candidates])
        items += ask(random, evenly, scene, open_kinds, times=2)
        items += ask(random, evenly, scene, {kind: two_answers[kind]})
    return items


def alone_in_half(scene: Scene, field: str) -> list[tuple[Thing, str]]:
    """Each thing in a half of the image whose others of its colour, or shape, are clearly in the other half."""
    found = []
    for thing, half in product(scene.things, HALVES):
        alike = [one for one in scene.things if getattr(one, field) == getattr(thing, field)]
        if only_one(alike, [is_in_half(one, half) for one in alike]) is thing:
            found.append((thing, half))
    return found


def both_present(scene: Scene, random: Random) -> Iterator[tuple[str, str]]:
    """Whether two things are there: for every pair that is, one in which one of the two is not."""
    for first, second in permutations(scene.things, 2):
        absent = scene.absent_like(second.kind, first.kind)
        if absent:
            pair = [with_article(first.name), with_article(" ".join(random.choice(absent)))]
            random.shuffle(pair)
            yield "yes", f"are there both {with_article(first.name)} and {with_article(second.name)}?"
            yield "no", f"are there both {pair[0]} and {pair[1]}?"


def genome_qa(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Short questions about attributes, numbers and places."""
    evenly, items = Evenly(), []
    for scene in scenes:
        counts = scene.counts
        kinds = {
            "colour": [
                (thing.colour, f"what color is the {thing.size} {thing.shape}?")
                for thing in scene.things
                if counts[thing.size, thing.shape] == 1
            ],
            "shape": [
                (thing.shape, f"what shape is {thing.size} and {thing.colour}?")
                for thing in scene.things
                if counts[thing.size, thing.colour] == 1
            ],
            "number": [(str(len(scene.things)), "how many shapes are there?")],
            "side": [
                (half.split()[0], f"on which side is the {thing.name}?")
                for thing in scene.things
                for half in ("left half", "right half")
                if is_in_half(thing, half)
            ],
            "size": [
                (yes_or_no(one.size == other.size), f"are the {one.name} and the {other.name} the same size?")
                for one, other in permutations(scene.things, 2)
            ],
        }
        items += ask(random, evenly, scene, kinds)
    return items


# Choices


class Question(NamedTuple):
    """Of VCR: tokens, in which [0] is the first thing; the question is about `thing`, and tells of one axis or none."""

    thing: Thing
    known_axis: int | None
    text: list
    right: list
    wrong: list[list]


def vcr(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Questions with four answers and four rationales, one right of each; up to six an image."""
    evenly, items = Evenly(), []
    for scene in scenes:
        place = {thing: number for number, thing in enumerate(scene.things)}
        questions = [colour_question(scene, random, evenly, place) for _ in range(2)]
        questions += [place_question(scene, random, place) for _ in range(4)]
        asked: list[list] = []
        for question in questions:
            if question is None or question.text in asked:
                continue
            if rationales := four_rationales(scene, random, question, place):
                asked.append(question.text)
                answers, answer_label = shuffled(random, question.right, question.wrong)
                rationales, rationale_label = shuffled(random, *rationales)
                items.append(
                    {
                        "image_id": scene.image_id,
                        "objects": [one.shape for one in scene.things],
                        "question": question.text,
                        "answers": answers,
                        "answer_label": answer_label,
                        "rationales": rationales,
                        "rationale_label": rationale_label,
                    }
                )
    return items


def colour_question(scene: Scene, random: Random, evenly: Evenly, place: Mapping[Thing, int]) -> Question | None:
    found = evenly.pick(
        random, "colour", [(thing.colour, thing) for thing in scene.things if scene.counts[thing.shape] == 1]
    )
    if found is None:
        return None
    colour, thing = found
    wrong = [one for one in random.sample(list(COLOURS), len(COLOURS)) if one != colour]
    # Colours of the picture are the harder choices.
    wrong.sort(key=lambda one: not scene.counts[one])
    right, *wrong = [["it", "is", one, "."] for one in (colour, *wrong[:3])]
    return Question(thing, None, ["what", "color", "is", [place[thing]], "?"], right, wrong)


def place_question(scene: Scene, random: Random, place: Mapping[Thing, int]) -> Question | None:
    anchored = [(relation, anchor) for relation in RELATIONS for anchor in scene.things]
    anchored = [one for one in anchored if may_say(scene.split, mentions_of(one[0], one[1].kind))]
    for relation, anchor in random.sample(anchored, len(anchored)):
        others = [thing for thing in scene.things if thing is not anchor]
        right = [thing for thing in others if is_placed(thing, relation, anchor)]
        if not right:
            continue
        thing = random.choice(right)
        wrong = [["the", one.colour, [place[one]], "."] for one in others if is_placed(one, relation, anchor) is False]
        # All of one sort, so that the right one does not stand out.
        if len(wrong) < 3:
            wrong = [["the", *kind, "."] for kind in scene.absent_like(thing.kind, anchor.kind)]
        if len(wrong) >= 3:
            text = ["what", "is", *relation.split(), "the", anchor.colour, [place[anchor]], "?"]
            answer = ["the", thing.colour, [place[thing]], "."]
            return Question(thing, RELATIONS[relation][0], text, answer, random.sample(wrong, 3))
    return None


def four_rationales(
    scene: Scene, random: Random, question: Question, place: Mapping[Thing, int]
) -> tuple[list, list[list]] | None:
    """What size a thing has, beside what it is, and how: two of the three are exchanged, in each of the four ways."""
    thing, found = question.thing, []
    for anchor in scene.things:
        for name, (axis, _) in RELATIONS.items():
            if anchor is not thing and axis != question.known_axis and is_placed(thing, name, anchor):
                others = [
                    colour
                    for colour in COLOURS
                    if not scene.counts[colour, anchor.shape]
                    and shared((colour, anchor.shape), thing.kind) == shared(anchor.kind, thing.kind)
                ]
                found += [(name, anchor, colour) for colour in others]
    random.shuffle(found)
    for name, anchor, colour in found:
        fields = {"size": (thing.size, SIZES[1 - SIZES.index(thing.size)])}
        fields |= {"relation": (name, OPPOSITE[name]), "colour": (anchor.colour, colour)}
        exchanged = random.sample(list(fields), 2)
        options = [values if field in exchanged else values[:1] for field, values in fields.items()]
        said = list(product(*options))
        kinds = [(beside, anchor.shape) for beside in options[2]]
        if may_say(scene.split, sum((mentions_of(word, thing.kind, *kinds) for word in options[1]), ())):
            right, *wrong = [
                ["the", size, thing.colour, [place[thing]], "is", *word.split(), "the", beside, [place[anchor]], "."]
                for size, word, beside in said
            ]
            return right, wrong
    return None


def shuffled(random: Random, right: Any, wrong: Sequence[Any]) -> tuple[list, int]:
    """The choices in random order, and the place of the right one."""
    choices = list(wrong)
    label = random.randint(0, len(choices))
    choices.insert(label, right)
    return choices, label


def visual_dialog(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """A caption and three to five rounds; "it" is what the round before was about. Ten answers to choose from.

    What was said before tells no answer, and hardly hints at one.
    """
    evenly, items = Evenly(), []
    for scene in scenes:
        subject, caption = subject_and_caption(scene, random, evenly)
        told = [noun[1:] for noun in caption.nouns]
        rounds: list[tuple[str, str]] = []

        new = [thing for thing in scene.things if thing.kind not in told and thing is not subject]
        shapes = [(one.shape, f"what shape is the {one.colour} object") for one in new if scene.counts[one.colour] == 1]
        if found := evenly.pick(random, "shape", shapes):
            rounds.append(found[::-1])
        if subject:
            rounds.append((f"what color is the {subject.shape}", subject.colour))
            sizes = [(yes_or_no(subject.size == size), f"is it {size}") for size in SIZES]
            placed = [
                (yes_or_no(holds), f"is it {relation} the {thing.name}")
                for thing in scene.things
                for relation in RELATIONS
                if thing.kind in told
                and may_say(scene.split, mentions_of(relation, thing.kind))
                and (holds := is_placed(subject, relation, thing)) is not None
            ]
            kind, candidates = random.choice([("size", sizes), ("relation", placed or sizes)])
            rounds.append(evenly.pick(random, kind, candidates)[::-1])
        # Of what the caption names there is one at least, whatever is asked.
        named = {noun for colour, shape in told for noun in (f"{colour} shapes", SHAPES[shape])}
        numbers = [(number, f"how many {noun} are there") for number, noun in counting(scene) if noun in named]
        for _ in range(max(1, 3 - len(rounds))):
            if found := evenly.pick(random, "number", numbers):
                rounds.append(found[::-1])
                numbers.remove(found)
        if len(rounds) >= 3:
            said = [
                {"question": question, "answer": answer, **answer_options(random, answer)}
                for question, answer in rounds
            ]
            items.append({"image_id": scene.image_id, "caption": caption.text, "rounds": said})
    return items


def subject_and_caption(scene: Scene, random: Random, evenly: Evenly) -> tuple[Thing | None, Caption]:
    """What to talk about, the only one of its shape, if there is one; and a caption about other things.

    The colours of a scene often repeat: only three times in ten may those of the caption hint at the subject's.
    """
    captions = scene.captions.get("pair") or draw_captions(scene, random, 1)
    alike, apart = [], []
    for caption in captions:
        for thing in scene.things:
            if scene.counts[thing.shape] == 1 and thing.kind not in [noun[1:] for noun in caption.nouns]:
                hinted = thing.colour in [noun.colour for noun in caption.nouns]
                (alike if hinted else apart).append((thing.colour, (thing, caption)))
    found = evenly.pick(random, "colour", alike if random.random() < 0.3 else apart)
    return found[1] if found else (None, random.choice(captions))


# Answers of dialogues, those of a question together, and a longer way to say each.
DIALOG_ANSWERS = [
    {"yes": "yes indeed", "no": "not at all"},
    {colour: f"it is {colour}" for colour in COLOURS},
    {shape: f"it is {with_article(shape)}" for shape in SHAPES},
    {str(number): f"{'there is' if number == 1 else 'there are'} {number}" for number in range(5)},
]


def answer_options(random: Random, answer: str) -> Item:
    """Five answers in both forms. People say the short one; judges were half content with the longer one, too."""
    alike = next(pool for pool in DIALOG_ANSWERS if answer in pool)
    longer = {short: long for pool in DIALOG_ANSWERS for short, long in pool.items()}
    wrong = random.sample([other for other in alike if other != answer], min(4, len(alike) - 1))
    wrong += random.sample([other for other in longer if other not in alike], 4 - len(wrong))
    options = [form for one in (answer, *wrong) for form in (one, longer[one])]
    random.shuffle(options)
    relevance = [1.0 if option == answer else 0.5 if option == longer[answer] else 0.0 for option in options]
    return {"options": options, "label": options.index(answer), "relevance": relevance}


# Boxes


def references(found: Iterable[tuple[Thing, str]], scene: Scene, random: Random, count: int) -> list[Item]:
    """Up to `count` things, each with up to two of the texts that pick it out."""
    by_thing: dict[Thing, list[str]] = {}
    for thing, text in found:
        by_thing.setdefault(thing, []).append(text)
    things = random.sample(sorted(by_thing, key=scene.things.index), min(count, len(by_thing)))
    return [
        {
            "image_id": scene.image_id,
            "object": scene.things.index(thing),
            "sentences": random.sample(by_thing[thing], min(2, len(by_thing[thing]))),
            "boxes": [list(one.box) for one in scene.things],
            "categories": [one.shape for one in scene.things],
        }
        for thing in things
    ]


def refcoco(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Words like "red circle", "small circle", "leftmost circle", where others share a part of it."""
    return [item for one in scenes for item in references(attributes(one) + extremes(one), one, random, 2)]


def refcoco_plus(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """As `refcoco`, without words of place."""
    return [item for one in scenes for item in references(attributes(one), one, random, 2)]


def refcocog(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Words like "the circle that is left of the red star"."""
    return [
        item
        for scene in scenes
        for item in references(
            [(one.thing, f"the {one.noun} that is {one.rest}") for one in scene.pointings], scene, random, 2
        )
    ]


def visual7w(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Which of four boxes; scenes of three things have no question."""
    items = []
    for scene in scenes:
        if len(scene.things) < 4:
            continue
        plain = [(thing, f"which object is the {words}?") for thing, words in attributes(scene)]
        related = [(one.thing, f"which {one.noun} is {one.rest}?") for one in scene.pointings]
        for found in (plain, related):
            if found:
                thing, question = random.choice(found)
                wrong = random.sample([one for one in scene.things if one is not thing], 3)
                items.append(
                    {
                        "image_id": scene.image_id,
                        "question": question,
                        "object": scene.things.index(thing),
                        "others": [scene.things.index(one) for one in wrong],
                        "boxes": [list(one.box) for one in scene.things],
                        "categories": [one.shape for one in scene.things],
                    }
                )
    return items


# Guessing games


def game(scene: Scene, target: Thing, turns: list[tuple[str, str]], status: str = "success") -> Item:
    return {
        "image_id": scene.image_id,
        "object": scene.things.index(target),
        "boxes": [list(thing.box) for thing in scene.things],
        "categories": [thing.shape for thing in scene.things],
        "turns": [list(turn) for turn in turns],
        "status": status,
    }


def guesswhat_answers(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Questions about one thing: yes, no, or N/A if they compare it with something that is not in the picture."""
    evenly, items = Evenly(), []
    answers = {True: "Yes", False: "No"}
    for scene in scenes:
        target = random.choice(scene.things)
        own = [(answers[target.colour == colour], f"is it {colour}?") for colour in COLOURS]
        sizes = [(answers[target.size == size], f"is it {size}?") for size in SIZES]
        halves = [
            (answers[holds], f"is it in the {half}?")
            for half in HALVES
            if (holds := is_in_half(target, half)) is not None
        ]
        plain = random.choice([own, sizes, halves or sizes])

        placed, alike = [], []
        for other in scene.things:
            if other is target:
                continue
            absent = random.choice(scene.absent_like(other.kind, target.kind) or [None])
            for relation in RELATIONS:
                holds = is_placed(target, relation, other)
                if holds is not None and may_say(scene.split, mentions_of(relation, other.kind)):
                    placed.append((answers[holds], f"is it {relation} the {other.name}?"))
                if absent and may_say(scene.split, mentions_of(relation, absent)):
                    placed.append(("N/A", f"is it {relation} the {' '.join(absent)}?"))
            for word, same in (("color", other.colour == target.colour), ("size", other.size == target.size)):
                if scene.counts[other.shape] == 1:
                    alike.append((answers[same], f"is it the same {word} as the {other.shape}?"))
        alike += [
            ("N/A", f"is it the same {word} as the {shape}?")
            for shape in SHAPES
            for word in ("color", "size")
            if not scene.counts[shape]
        ]
        turns = [evenly.pick(random, "own", plain), evenly.pick(random, "alike", alike)]
        turns += [evenly.pick(random, "placed", placed) for _ in range(2)]
        turns = list(dict.fromkeys(turn[::-1] for turn in turns if turn is not None))
        random.shuffle(turns)
        items.append(game(scene, target, turns))
    return items


def guesswhat_pointing(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Three to five questions, after which only one thing is left. A few games were given up, as in the real ones."""
    items = []
    for scene in scenes:
        questions = game_questions(scene)
        target = random.choice(scene.things)
        for _ in range(20):
            turns = play(scene, target, questions, random)
            if turns is not None:
                given_up = random.random() < 0.03
                items.append(
                    game(scene, target, turns[:-1] if given_up else turns, "failure" if given_up else "success")
                )
                break
    return items


def game_questions(scene: Scene) -> dict[str, list[tuple[str, list[bool | None]]]]:
    """Questions by what they are about, with their answers for each thing."""
    things = scene.things
    placed = []
    for anchor, name in product(things, RELATIONS):
        if may_say(scene.split, mentions_of(name, anchor.kind)):
            truths = [is_placed(thing, name, anchor) if thing is not anchor else False for thing in things]
            placed.append((f"is it {name} the {anchor.name}?", truths))
    return {
        "shape": [(f"is it {with_article(one)}?", [thing.shape == one for thing in things]) for one in SHAPES],
        "colour": [(f"is it {one}?", [thing.colour == one for thing in things]) for one in COLOURS],
        "size": [(f"is it {one}?", [thing.size == one for thing in things]) for one in SIZES],
        "half": [(f"is it in the {one}?", [is_in_half(thing, one) for thing in things]) for one in HALVES],
        "relation": placed,
    }


def play(scene: Scene, target: Thing, questions: dict[str, list], random: Random) -> list[tuple[str, str]] | None:
    """Questions and answers, each of which rules something out as long as more than one thing is left."""
    own = scene.things.index(target)
    left, turns, asked = set(range(len(scene.things))), [], set()
    while len(turns) < 5 and (len(left) > 1 or len(turns) < 3):
        useful: dict[str, list] = {}
        for kind, of_kind in questions.items():
            for text, truths in of_kind:
                kept = {one for one in left if truths[one] == truths[own]}
                clear = None not in [truths[one] for one in left]
                # Of the anchor itself nobody would ask where it lies.
                fitting = clear and text not in asked and not text.endswith(f"the {target.name}?")
                if fitting and (len(left) == 1 or len(kept) < len(left)):
                    useful.setdefault(kind, []).append((text, truths[own], kept))
        if not useful:
            return None
        # What it is about first, so that relations, of which there are most, do not crowd out the rest.
        text, truth, left = random.choice(useful[random.choice(list(useful))])
        asked.add(text)
        turns.append((text, "Yes" if truth else "No"))
    return turns if len(left) == 1 else None


# Statements


def snli_ve(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """An entailed, a neutral and a contradicted hypothesis an image.

    Neutral is what looking does not decide: it speaks of something that is not in the picture.
    """
    items = []
    for scene in scenes:
        caption = draw_captions(scene, random, 1)[0].text
        for label in ("entailment", "neutral", "contradiction"):
            forms = [form for form in (of_places(scene, random), of_sizes(scene), of_colours(scene)) if form[label]]
            hypothesis = random.choice(random.choice(forms)[label])
            items.append({"image_id": scene.image_id, "caption": caption, "hypothesis": hypothesis, "label": label})
    return items


def of_places(scene: Scene, random: Random) -> dict[str, list[str]]:
    labels = {True: "entailment", False: "contradiction"}
    texts: dict[str, list[str]] = {"entailment": [], "neutral": [], "contradiction": []}
    for one in scene.relations:
        texts[labels[one.holds]].append(f"the {one.text}")
    for subject, anchor in permutations(scene.things, 2):
        for relation in RELATIONS:
            kinds = [subject.kind, anchor.kind]
            missing = random.randint(0, 1)
            absent = scene.absent_like(kinds[missing], kinds[1 - missing])
            if absent:
                kinds[missing] = random.choice(absent)
                if may_say(scene.split, mentions_of(relation, *kinds)):
                    texts["neutral"].append(f"the {' '.join(kinds[0])} is {relation} the {' '.join(kinds[1])}")
    return texts


def of_sizes(scene: Scene) -> dict[str, list[str]]:
    other = dict(zip(SIZES, SIZES[::-1]))
    return {
        "entailment": [f"the {thing.name} is {thing.size}" for thing in scene.things],
        "neutral": [f"the {' '.join(kind)} is {size}" for kind in scene.absent for size in SIZES],
        "contradiction": [f"the {thing.name} is {other[thing.size]}" for thing in scene.things],
    }


def of_colours(scene: Scene) -> dict[str, list[str]]:
    single = [thing for thing in scene.things if scene.counts[thing.size, thing.shape] == 1]
    missing = [(size, shape) for size in SIZES for shape in SHAPES if not scene.counts[size, shape]]
    return {
        "entailment": [f"the {thing.size} {thing.shape} is {thing.colour}" for thing in single],
        "neutral": [f"the {size} {shape} is {colour}" for size, shape in missing for colour in COLOURS],
        "contradiction": [
            f"the {thing.size} {thing.shape} is {colour}"
            for thing in single
            for colour in COLOURS
            if colour != thing.colour
        ],
    }


MEMES = (
    "nobody likes the {}",
    "the {} should go away",
    "who let the {} in ?",
    "look how silly the {} is",
)


def hateful_memes(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """The same unkind words twice an image: hateful if the one they are about is in the picture, else about nobody."""
    items = []
    for scene in scenes:
        pair = [(1, random.choice(scene.things).name), (0, " ".join(random.choice(scene.absent)))]
        random.shuffle(pair)
        for label, name in pair:
            items.append({"image_id": scene.image_id, "text": random.choice(MEMES).format(name), "label": label})
    return items


# Pairs of images


def nlvr2(scenes: Sequence[Scene], random: Random) -> list[Item]:
    """Each image as the left one of a pair, with two true and two false sentences; a false one for each of its form."""
    items = []
    for number, left in enumerate(scenes):
        for _ in range(50):
            right = random.choice(scenes)
            forms = random.sample(PAIR_FORMS, 2)
            found = [form(left, right, random) if right is not left else None for form in forms]
            if None not in found and len({text for pair in found for text in pair}) == 4:
                sentences = [sentence for pair in found for sentence in zip(pair, (True, False))]
                random.shuffle(sentences)
                items.append(
                    {
                        "pair": number,
                        "image_ids": [left.image_id, right.image_id],
                        "sentences": [{"text": text, "label": label} for text, label in sentences],
                    }
                )
                break
    return items


def named(kinds: Sequence[Kind], random: Random) -> str:
    return with_article(" ".join(random.choice(kinds)))


def in_one_only(left: Scene, right: Scene) -> list[Kind]:
    return [
        thing.kind
        for one, other in ((left, right), (right, left))
        for thing in one.things
        if not other.counts[thing.kind]
    ]


def in_neither(left: Scene, right: Scene) -> list[Kind]:
    """Kinds that one image might have: it has their colour, and their shape."""
    return [kind for kind in left.absent + right.absent if not left.counts[kind] and not right.counts[kind]]


def contained_in_one(left: Scene, right: Scene, random: Random) -> tuple[str, str] | None:
    """False where neither image contains it."""
    single, absent = in_one_only(left, right), in_neither(left, right)
    if not single or not absent:
        return None
    return tuple(f"there is {named(kinds, random)} in one of the two images" for kinds in (single, absent))


def contained_in_side(left: Scene, right: Scene, random: Random) -> tuple[str, str] | None:
    """False where only the other image contains it, or neither."""
    absent = in_neither(left, right)
    sides = {"left": (left, right), "right": (right, left)}
    texts = []
    for truth in (True, False):
        side = random.choice(list(sides))
        this, other = sides[side] if truth else sides[side][::-1]
        kinds = [thing.kind for thing in this.things if not other.counts[thing.kind]]
        if not truth and random.random() < 0.5:
            kinds = absent
        if not kinds:
            return None
        texts.append(f"the {side} image contains {named(kinds, random)}")
    return tuple(texts)


def contained_in_both(left: Scene, right: Scene, random: Random) -> tuple[str, str] | None:
    """False where only one contains it, or neither."""
    common = [thing.kind for thing in left.things if right.counts[thing.kind]]
    other = random.choice([in_one_only, in_neither])(left, right)
    if not common or not other:
        return None
    return tuple(f"both images contain {named(kinds, random)}" for kinds in (common, other))


def contained_in_each(left: Scene, right: Scene, random: Random) -> tuple[str, str] | None:
    """False where one image has both things, and the other neither."""
    only_left = [thing.kind for thing in left.things if not right.counts[thing.kind]]
    only_right = [thing.kind for thing in right.things if not left.counts[thing.kind]]
    apart = [(one, other) for one in only_left for other in only_right]
    apart += [(other, one) for one, other in apart]
    together = [pair for only in (only_left, only_right) for pair in permutations(only, 2)]
    random.shuffle(apart)
    for pair in apart:
        alike = [one for one in together if shared(*one) == shared(*pair)]
        if alike:
            named = [[with_article(" ".join(kind)) for kind in kinds] for kinds in (pair, random.choice(alike))]
            return tuple(f"one image contains {one} and the other contains {other}" for one, other in named)
    return None


def counted_together(left: Scene, right: Scene, random: Random) -> tuple[str, str] | None:
    """The false number is the true one of something else, so that no number tells."""
    words = random.choice([SHAPES, {colour: f"{colour} shapes" for colour in COLOURS}])
    totals = {word: left.counts[word] + right.counts[word] for word in words}
    pairs = [(one, other) for one, other in permutations(words, 2) if totals[one] > 1 and totals[other] > 1]
    pairs = [(one, other) for one, other in pairs if totals[one] != totals[other]]
    if not pairs:
        return None
    one, other = random.choice(pairs)
    return tuple(f"there are exactly {NUMBERS[totals[word]]} {words[one]} in the two images" for word in (one, other))


def more_in_one(left: Scene, right: Scene, random: Random) -> tuple[str, str] | None:
    words = SHAPES | {colour: f"{colour} shapes" for colour in COLOURS}
    uneven = [word for word in words if left.counts[word] != right.counts[word]]
    if not uneven:
        return None
    texts = []
    for truth in (True, False):
        word = random.choice(uneven)
        sides = ["left", "right"] if (left.counts[word] > right.counts[word]) == truth else ["right", "left"]
        texts.append(f"the {sides[0]} image contains more {words[word]} than the {sides[1]} image")
    return tuple(texts)


def placed_in_one(left: Scene, right: Scene, random: Random) -> tuple[str, str] | None:
    texts = []
    for truth in (True, False):
        side = random.choice(["left", "right"])
        scene = left if side == "left" else right
        found = [one.text for one in scene.relations if one.holds == truth]
        if not found:
            return None
        texts.append(f"in the {side} image , the {random.choice(found)}")
    return tuple(texts)


# What is said of two images; what is seen at a glance more often than what has to be counted or compared.
PAIR_FORMS = [
    *(contained_in_one, contained_in_side, contained_in_both) * 2,
    *(contained_in_each, more_in_one, counted_together, placed_in_one),
]

# Task -> what makes its items. VCR's two tasks are about the same questions.
ITEMS = {
    "vqa": vqa,
    "gqa": gqa,
    "genome_qa": genome_qa,
    "vcr": vcr,
    "visual_dialog": visual_dialog,
    "refcoco": refcoco,
    "refcoco+": refcoco_plus,
    "refcocog": refcocog,
    "flickr30k_grounding": flickr30k_grounding,
    "visual7w": visual7w,
    "guesswhat_answers": guesswhat_answers,
    "guesswhat_pointing": guesswhat_pointing,
    "retrieval_flickr30k": retrieval,
    "retrieval_coco": retrieval,
    "nlvr2": nlvr2,
    "snli_ve": snli_ve,
    "foil": foil,
    "hateful_memes": hateful_memes,
}
