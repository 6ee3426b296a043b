# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What each task says about composed scenes: a function a task, from the scenes of a split to items.

Items are plain dicts of texts, boxes and the truth; `scene_annotations` writes them in the layouts of the published
data sets. What is true of a scene, and what its split may say: `scene_facts`.

True and false texts are worded alike. Truth is drawn first and the text afterwards, from texts that are as frequent
among the true as among the false: where a thing is replaced by one that is not in the picture, the new one shares with
its neighbour what the old one shared. So a model that sees no image stays near chance.

Here: captions, expressions for boxes, statements of one image and of two. In `scene_questions`: questions, choices and
guessing games. `ITEMS` at the end has all.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from random import Random

from scene_facts import (
    COLOURS,
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
    may_say,
    mentions_of,
    shared,
    with_article,
)
from scene_questions import (
    Item,
    genome_qa,
    gqa,
    guesswhat_answers,
    guesswhat_pointing,
    vcr,
    visual_dialog,
    vqa,
)


NUMBERS = "zero one two three four five six seven eight nine ten".split()


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
