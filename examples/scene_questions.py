# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What tasks ask about composed scenes: a function a task, from the scenes of a split to items, as in `scene_texts`.

Answers are drawn first and the questions afterwards, so that no answer of a kind of question is more frequent than
another, as far as the scenes have them.
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
    Scene,
    Thing,
    draw_captions,
    is_in_half,
    is_placed,
    may_say,
    mentions_of,
    only_one,
    shared,
    with_article,
)


YES_NO = ("yes", "no")

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
    """Of VCR: tokens, in which [0] is the first thing. It is about `thing`, which lies beside `anchor`, if any."""

    thing: Thing
    anchor: Thing | None
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
    return Question(thing, None, None, ["what", "color", "is", [place[thing]], "?"], right, wrong)


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
            return Question(thing, anchor, RELATIONS[relation][0], text, answer, random.sample(wrong, 3))
    return None


def four_rationales(
    scene: Scene, random: Random, question: Question, place: Mapping[Thing, int]
) -> tuple[list, list[list]] | None:
    """What size a thing has, beside what it is, and how: two of the three are exchanged, in each of the four ways."""
    thing, found = question.thing, []
    told = [one for one in (thing, question.anchor) if one is not None]
    # What the question names is there: it would be the right one.
    for anchor in [one for one in scene.things if one not in told]:
        for name, (axis, _) in RELATIONS.items():
            if axis != question.known_axis and is_placed(thing, name, anchor):
                others = [
                    colour
                    for colour in COLOURS
                    if not scene.counts[colour, anchor.shape]
                    and all(shared((colour, anchor.shape), one.kind) == shared(anchor.kind, one.kind) for one in told)
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


def game_questions(scene: Scene) -> list[tuple[str, list[bool | None]]]:
    """Questions with their answers for each thing."""
    things = scene.things
    questions = [(f"is it {with_article(shape)}?", [thing.shape == shape for thing in things]) for shape in SHAPES]
    questions += [(f"is it {colour}?", [thing.colour == colour for thing in things]) for colour in COLOURS]
    questions += [(f"is it {size}?", [thing.size == size for thing in things]) for size in SIZES]
    questions += [(f"is it in the {half}?", [is_in_half(thing, half) for thing in things]) for half in HALVES]
    for anchor in things:
        for name in RELATIONS:
            if may_say(scene.split, mentions_of(name, anchor.kind)):
                truths = [is_placed(thing, name, anchor) if thing is not anchor else False for thing in things]
                questions.append((f"is it {name} the {anchor.name}?", truths))
    return questions


def play(scene: Scene, target: Thing, questions: list, random: Random) -> list[tuple[str, str]] | None:
    """Questions and answers, each of which rules something out as long as more than one thing is left."""
    own = scene.things.index(target)
    left, turns, asked = set(range(len(scene.things))), [], set()
    while len(turns) < 5 and (len(left) > 1 or len(turns) < 3):
        useful = []
        for text, truths in questions:
            kept = {one for one in left if truths[one] == truths[own]}
            clear = None not in [truths[one] for one in left]
            # Of the anchor itself nobody would ask where it lies.
            fitting = clear and text not in asked and not text.endswith(f"the {target.name}?")
            if fitting and (len(left) == 1 or len(kept) < len(left)):
                useful.append((text, truths[own], kept))
        if not useful:
            return None
        text, truth, left = random.choice(useful)
        asked.add(text)
        turns.append((text, "Yes" if truth else "No"))
    return turns if len(left) == 1 else None
