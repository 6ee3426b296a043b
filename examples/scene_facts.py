# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What is true of a composed scene: its things, how they lie, words that pick one of them out, and captions.

A scene is a canvas with three to six things, no two of the same colour and shape. Two rules hold for all texts:

1. What is nearly undecided is not said: of two centres, one is left of the other by at least `MARGIN` pixels, or
   neither "left of" nor "right of" is used for them.
2. Some combinations of a colour, a shape and a relation, `HELD_OUT`, are kept from every text of the training split.
   What is said of relations in the other splits has at least one of them.

Reading order: words; `Thing`, relations, `Scene`; words that pick out; captions.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import permutations
from random import Random
from typing import NamedTuple


# As red, green and blue.
COLOURS = {
    "red": (202, 28, 56),
    "green": (44, 152, 72),
    "blue": (46, 92, 214),
    "yellow": (250, 224, 62),
    "purple": (134, 62, 176),
    "orange": (240, 122, 24),
}
# With their plurals.
SHAPES = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
    "diamond": "diamonds",
}
SIZES = ("small", "large")
WIDTH, HEIGHT = 128, 96

# Relation -> the axis it is about (0 is x, which grows to the right; 1 is y, which grows downwards), and its sign.
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
EXTREMES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "bottommost": (1, 1)}
HALVES = {"left half": (0, -1), "right half": (0, 1), "upper half": (1, -1), "lower half": (1, 1)}
# Pixels between two centres, or between a centre and the middle of the canvas.
MARGIN = 12
# What lies between two others is off the line through them by so much at most; at twice that, it is not between them.
NEAR_LINE = 12

Kind = tuple[str, str]
# A thing's colour and shape, and a relation that it stands beside in a text.
Mention = tuple[str, str, str]


# Facts


@dataclass(frozen=True)
class Thing:
    """One shape on the canvas; `box` is (x1, y1, x2, y2) in pixels."""

    colour: str
    shape: str
    size: str
    box: tuple[int, int, int, int]

    @property
    def kind(self) -> Kind:
        return self.colour, self.shape

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


class Relation(NamedTuple):
    """That `subject` is `relation` `anchor`, which is clearly so or clearly not."""

    subject: Thing
    relation: str
    anchor: Thing
    holds: bool

    @property
    def text(self) -> str:
        return f"{self.subject.name} is {self.relation} the {self.anchor.name}"


class Pointing(NamedTuple):
    """Words that pick out one thing among several: a `noun` for all of them, and the `rest`, "left of the red star"."""

    thing: Thing
    noun: str
    rest: str
    mentions: tuple[Mention, ...]


def is_held_out(colour: str, shape: str, relation: str) -> bool:
    """Whether this combination is kept from the training split: one shape of each colour for each relation, 1 in 6."""
    places = list(COLOURS).index(colour), list(SHAPES).index(shape), [*RELATIONS, "between"].index(relation)
    return sum(places) % len(SHAPES) == 0


HELD_OUT = frozenset(
    (colour, shape, relation)
    for colour in COLOURS
    for shape in SHAPES
    for relation in [*RELATIONS, "between"]
    if is_held_out(colour, shape, relation)
)


@cache
def may_say(split: str, mentions: tuple[Mention, ...]) -> bool:
    """Whether a text of this split may hold these combinations, each of a thing and a relation beside it."""
    held_out = [mention in HELD_OUT for mention in mentions]
    if split == "train":
        return not any(held_out)
    return any(held_out) or not held_out


@cache
def mentions_of(relation: str, *kinds: Kind) -> tuple[Mention, ...]:
    return tuple((*kind, relation) for kind in kinds)


@dataclass(frozen=True)
class Scene:
    """An image as a list of things. What it says of relations is only what its split may say."""

    image_id: int
    split: str
    things: tuple[Thing, ...]

    @cached_property
    def counts(self) -> Counter:
        """Colour, shape, size, and each pair of them -> how many there are."""
        counts = Counter()
        for thing in self.things:
            counts.update([thing.colour, thing.shape, thing.size, thing.kind])
            counts.update([(thing.size, thing.shape), (thing.size, thing.colour)])
        return counts

    @cached_property
    def absent(self) -> list[Kind]:
        """Kinds that are not in the picture, though their colour is, and their shape."""
        seen_colours = [colour for colour in COLOURS if self.counts[colour]]
        seen_shapes = [shape for shape in SHAPES if self.counts[shape]]
        kinds = [(colour, shape) for colour in seen_colours for shape in seen_shapes]
        return [kind for kind in kinds if not self.counts[kind]] or self.all_absent

    @cached_property
    def all_absent(self) -> list[Kind]:
        return [(colour, shape) for colour in COLOURS for shape in SHAPES if not self.counts[colour, shape]]

    def absent_like(self, kind: Kind, other: Kind) -> list[Kind]:
        """Kinds that are not in the picture, and share colour or shape with `other` exactly if `kind` does."""
        key = other, shared(kind, other)
        if key not in self._absent_like:
            self._absent_like[key] = [new for new in self.all_absent if shared(new, other) == key[1]]
        return self._absent_like[key]

    @cached_property
    def _absent_like(self) -> dict:
        return {}

    @cached_property
    def relations(self) -> list[Relation]:
        found = []
        for subject, anchor in permutations(self.things, 2):
            for relation in RELATIONS:
                holds = is_placed(subject, relation, anchor)
                if holds is not None and may_say(self.split, mentions_of(relation, subject.kind, anchor.kind)):
                    found.append(Relation(subject, relation, anchor, holds))
        return found

    @cached_property
    def between(self) -> list[tuple[Thing, Thing, Thing]]:
        """The first of each three is clearly between the others."""
        return [
            three
            for three in permutations(self.things, 3)
            if is_between(*three) and may_say(self.split, mentions_of("between", *(thing.kind for thing in three)))
        ]

    @cached_property
    def captions(self) -> dict[str, list["Caption"]]:
        return all_captions(self)

    @cached_property
    def pointings(self) -> list[Pointing]:
        return list(all_pointings(self))


def is_placed(subject: Thing, relation: str, anchor: Thing) -> bool | None:
    """Whether `subject` is left of, right of, above or below `anchor`; None if it is not clear."""
    axis, sign = RELATIONS[relation]
    distance = sign * (subject.centre[axis] - anchor.centre[axis])
    return distance > 0 if abs(distance) >= MARGIN else None


def is_between(middle: Thing, first: Thing, second: Thing) -> bool | None:
    """Whether the centre of `middle` is near the line from `first` to `second`, and not near its ends."""
    (x, y), (x1, y1), (x2, y2) = middle.centre, first.centre, second.centre
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    along = ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length**2
    off = abs((x - x1) * (y2 - y1) - (y - y1) * (x2 - x1)) / length
    if 0.2 <= along <= 0.8 and off <= NEAR_LINE:
        return True
    return False if along <= 0 or along >= 1 or off >= 2 * NEAR_LINE else None


def is_in_half(thing: Thing, half: str) -> bool | None:
    axis, sign = HALVES[half]
    distance = sign * (thing.centre[axis] - (WIDTH, HEIGHT)[axis] / 2)
    return distance > 0 if abs(distance) >= MARGIN else None


def shared(kind: Kind, other: Kind) -> tuple[bool, bool]:
    """Whether two kinds share their colour, and whether their shape."""
    return kind[0] == other[0], kind[1] == other[1]


def with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def all_pointings(scene: Scene) -> Iterator[Pointing]:
    """What one relation picks out: "circle left of the red star", where another circle is not left of it."""
    nouns = {"shape": list(scene.things)}
    for thing in scene.things:
        nouns.setdefault(thing.shape, []).append(thing)
        nouns.setdefault(f"{thing.colour} shape", []).append(thing)
    for noun, things in nouns.items():
        for anchor in scene.things:
            others = [thing for thing in things if thing is not anchor]
            for relation in RELATIONS:
                mentions = mentions_of(relation, anchor.kind)
                thing = only_one(others, [is_placed(other, relation, anchor) for other in others])
                if thing is not None and may_say(scene.split, mentions):
                    yield Pointing(thing, noun, f"{relation} the {anchor.name}", mentions)
        for first, second in permutations(scene.things, 2):
            others = [thing for thing in things if thing is not first and thing is not second]
            mentions = mentions_of("between", first.kind, second.kind)
            thing = only_one(others, [is_between(other, first, second) for other in others])
            if thing is not None and may_say(scene.split, mentions):
                yield Pointing(thing, noun, f"between the {first.name} and the {second.name}", mentions)


def only_one(things: Sequence[Thing], truths: Sequence[bool | None]) -> Thing | None:
    """The one of several things of which something is true, if it is clearly false of all others."""
    if len(things) < 2 or None in truths or truths.count(True) != 1:
        return None
    return things[truths.index(True)]


def attributes(scene: Scene) -> list[tuple[Thing, str]]:
    """Each thing with the shortest words of two attributes that pick it out, where others share one of the two."""
    found, counts = [], scene.counts
    for thing in scene.things:
        if counts[thing.colour] > 1 or counts[thing.shape] > 1:
            found.append((thing, thing.name))
        if counts[thing.size, thing.shape] == 1 and counts[thing.shape] > 1:
            found.append((thing, f"{thing.size} {thing.shape}"))
        if counts[thing.size, thing.colour] == 1 and counts[thing.colour] > 1:
            found.append((thing, f"{thing.size} {thing.colour} shape"))
    return found


def extremes(scene: Scene) -> list[tuple[Thing, str]]:
    """Each thing with words like "leftmost circle"; there are other circles, further right by `MARGIN` at least."""
    found = []
    groups = {noun: [thing for thing in scene.things if thing.shape == noun] for noun in SHAPES}
    groups |= {f"{noun} shape": [thing for thing in scene.things if thing.colour == noun] for noun in COLOURS}
    for noun, things in groups.items():
        for word, (axis, sign) in EXTREMES.items():
            ranked = sorted(things, key=lambda thing: sign * thing.centre[axis], reverse=True)
            if len(ranked) > 1 and sign * (ranked[0].centre[axis] - ranked[1].centre[axis]) >= MARGIN:
                found.append((ranked[0], f"{word} {noun}"))
    return found


# Captions


class Noun(NamedTuple):
    size: str | None
    colour: str
    shape: str

    @property
    def text(self) -> str:
        return with_article(" ".join(word for word in self if word))


@dataclass(frozen=True)
class Caption:
    """Two or three things and how they lie; the first is the subject of every relation."""

    nouns: tuple[Noun, ...]
    relations: tuple[str, ...]

    @property
    def parts(self) -> list[str | Noun]:
        """Words, and nouns where things are named."""
        if self.relations == ("between",):
            return [self.nouns[0], "is between", self.nouns[1], "and", self.nouns[2]]
        parts = [self.nouns[0], f"is {self.relations[0]}", self.nouns[1]]
        return parts + [f"and {self.relations[1]}", self.nouns[2]] if len(self.relations) > 1 else parts

    @property
    def text(self) -> str:
        return " ".join(part if isinstance(part, str) else part.text for part in self.parts)

    @property
    def mentions(self) -> tuple[Mention, ...]:
        kinds = [noun[1:] for noun in self.nouns]
        if self.relations == ("between",):
            return mentions_of("between", *kinds)
        return sum((mentions_of(one, kinds[0], kind) for one, kind in zip(self.relations, kinds[1:])), ())

    def holds(self, scene: Scene) -> bool | None:
        """Whether all of it is true of the scene; None if it is not clear."""
        things = []
        for noun in self.nouns:
            found = [thing for thing in scene.things if thing.kind == noun[1:] and noun.size in (None, thing.size)]
            if not found:
                return False
            # No two things of a scene are of one kind.
            things.append(found[0])
        if self.relations == ("between",):
            return is_between(*things)
        truths = [is_placed(things[0], relation, other) for relation, other in zip(self.relations, things[1:])]
        return None if None in truths else all(truths)

    def replace(self, number: int, field: str, word: str) -> "Caption":
        nouns = list(self.nouns)
        nouns[number] = nouns[number]._replace(**{field: word})
        return Caption(tuple(nouns), self.relations)


def all_captions(scene: Scene) -> dict[str, list[Caption]]:
    """Every true caption that the split may use, by form; none has more than 14 words."""
    nouns = {thing: Noun(None, *thing.kind) for thing in scene.things}
    sized = {thing: Noun(thing.size, *thing.kind) for thing in scene.things}
    pairs = [Caption((sized[one], sized[other]), (name,)) for one, name, other, holds in scene.relations if holds]
    between = [
        Caption((sized[middle], nouns[first], nouns[second]), ("between",)) for middle, first, second in scene.between
    ]
    forks = []
    for subject in scene.things:
        placed: tuple[list, list] = ([], [])
        for anchor in scene.things:
            for name, (axis, _) in RELATIONS.items():
                if anchor is not subject and is_placed(subject, name, anchor):
                    placed[axis].append((name, anchor))
        # One relation sideways and one up or down: each can then be turned round without an unlikely text.
        for sideways in placed[0]:
            for upright in placed[1]:
                if sideways[1] is not upright[1]:
                    for one, two in ((sideways, upright), (upright, sideways)):
                        fork = Caption((nouns[subject], nouns[one[1]], nouns[two[1]]), (one[0], two[0]))
                        if may_say(scene.split, fork.mentions):
                            forks.append(fork)
    return {form: found for form, found in (("pair", pairs), ("fork", forks), ("between", between)) if found}


def draw_captions(scene: Scene, random: Random, count: int) -> list[Caption]:
    """So many different captions (a scene has 6); most name three things, which few other scenes have together."""
    drawn: list[Caption] = []
    while len(drawn) < count:
        forms = list(scene.captions)
        form = random.choices(forms, [{"pair": 1, "fork": 3, "between": 1}[form] for form in forms])[0]
        caption = random.choice(scene.captions[form])
        if caption not in drawn:
            drawn.append(caption)
    return drawn
