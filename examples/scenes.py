# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Composed scenes: images of several shapes, and for every task annotation files as the published data sets have them.

    python examples/scenes.py --output runs/scenes --picture runs/scenes.png

Three to six shapes on a canvas of 128 x 96 pixels. Whatever a text says of them is true or false by construction, so
all tasks can be tried from end to end in minutes, with the readers, metrics and models that read the real data. What
a model scores here tells whether it can learn such things, and nothing about photos.

1. Scenes are drawn: images, and `scenes.json` with the facts.
2. Texts are made of the facts (`scene_texts.py`, `scene_questions.py`) and written in official layouts
   (`scene_annotations.py`).
3. Two stores of regions are written: `regions`, what a detector might have found, with class distributions; and
   `objects`, the true boxes. The features of a region are its own pixels.

Splits are "train", "val" (to choose by) and "test". All comes from the seed: the same bytes each time. 2,600 scenes
take about 20 s on one core.

From other examples: `compose` and `scene_files` for the data, `word_tokenizer` for a vocabulary of its few words.
"""

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw
from scene_annotations import FILES, OF_ALL_SPLITS, WRITERS, nlvr2_names, vcr_name, visual7w_name, write_json
from scene_facts import COLOURS, HEIGHT, SHAPES, SIZES, WIDTH, Kind, Scene, Thing
from scene_texts import ITEMS, NUMBERS, Item
from transformers import BertTokenizer

from modeling_vilbert.annotations import READERS
from modeling_vilbert.regions import Regions, RegionStore, open_regions, write_regions


SPLITS = ("train", "val", "test")
# Image ids are numbers of six digits, the first of which tells the split.
FIRST_IDS = {"train": 100_000, "val": 200_000, "test": 300_000}
# Sides in pixels, smallest and largest.
SIDES = {"small": (16, 19), "large": (27, 32)}
# Free pixels around each shape.
GAP = 3

FEATURE_SIDE = 8
FEATURE_SIZE = 3 * FEATURE_SIDE**2
SOURCE = f"{FEATURE_SIDE} x {FEATURE_SIDE} pixels, composed scenes"
# The detector's classes; the background is column 0, as in the features of the field.
CLASSES = ["background"] + [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
REGION_CLASSES = len(CLASSES)

# Every word of every text, but for those of `scene_texts`' tables.
WORDS = """
    a above all an and answer are as at away below between both bottommost color contain contains exactly go half how
    image images in indeed is it left leftmost let likes look lower many more n no nobody not object of on or other
    right rightmost same shape shapes should side silly size start stop than that the there topmost upper what which
    who yes
"""
PUNCTUATION = ".,:;?!'-/()[]#+&"


# Scenes


def new_scene(split: str, number: int, seed: int) -> Scene:
    """The scene of this number, always the same."""
    random = Random(f"{seed} {split} {number}")
    while True:
        things = place(random, choose_kinds(random))
        if things is not None:
            scene = Scene(FIRST_IDS[split] + number, split, things)
            # Several tasks need captions, and what the split may say leaves few of small scenes.
            if sum(map(len, scene.captions.values())) >= 6:
                return scene


def choose_kinds(random: Random) -> list[Kind]:
    """Three to six colours with shapes, all different. Often one colour or shape comes several times."""
    count = random.randint(3, 6)
    colours, shapes = random.sample(list(COLOURS), 3), random.sample(list(SHAPES), 3)
    kinds = []
    theme = random.choice(["colour", "shape", "colour", "shape", None])
    times = min(count, random.choice([2, 3, 4, 4, 4]))
    if theme == "colour":
        kinds = [(colours[0], shape) for shape in random.sample(list(SHAPES), times)]
    elif theme == "shape":
        kinds = [(colour, shapes[0]) for colour in random.sample(list(COLOURS), times)]
    rest = [(colour, shape) for colour in colours for shape in shapes if (colour, shape) not in kinds]
    kinds += random.sample(rest, count - len(kinds))
    random.shuffle(kinds)
    return kinds


def place(random: Random, kinds: Sequence[Kind]) -> tuple[Thing, ...] | None:
    """Things with a place for each, or None if there was no room."""
    things: list[Thing] = []
    for colour, shape in kinds:
        size = random.choice(SIZES)
        for _ in range(50):
            side = random.randint(*SIDES[size])
            x, y = random.randint(GAP, WIDTH - GAP - side), random.randint(GAP, HEIGHT - GAP - side)
            box = (x, y, x + side, y + side)
            if not any(overlap(box, thing.box, GAP) for thing in things):
                things.append(Thing(colour, shape, size, box))
                break
        else:
            return None
    return tuple(things)


def overlap(one: Sequence[float], other: Sequence[float], gap: float) -> bool:
    """Whether two boxes come nearer to each other than `gap` pixels."""
    return all(one[axis] < other[axis + 2] + gap and other[axis] < one[axis + 2] + gap for axis in (0, 1))


# Images


def outline(shape: str) -> list[tuple[float, float]]:
    """Corners in the unit square, all of whose sides they touch."""
    if shape == "star":
        angles = np.pi * (np.arange(10) / 5 - 0.5)
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * np.where(np.arange(10) % 2, 0.42, 1)[:, None]
        points = (points - points.min(0)) / (points.max(0) - points.min(0))
        return [tuple(point) for point in points.tolist()]
    a, b = 0.32, 0.68
    return {
        "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
        "triangle": [(0.5, 0), (1, 1), (0, 1)],
        "diamond": [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)],
        "cross": [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)],
    }[shape]


def draw(scene: Scene, seed: int) -> Image.Image:
    """The image: a light, uneven ground, shapes of not quite even colours, and noise over it all."""
    generator = np.random.default_rng([seed, scene.image_id])
    # Drawn so many times larger and shrunk, which smooths the edges.
    scale = 4
    ground = 228 + generator.normal(0, 9, (5, 7, 1)) + generator.normal(0, 3, (5, 7, 3))
    ground = ground.clip(200, 250).astype(np.uint8)
    image = Image.fromarray(ground).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    for thing in scene.things:
        x1, y1, x2, y2 = thing.box
        width, height = x2 - x1, y2 - y1
        mask = Image.new("L", (scale * width, scale * height))
        if thing.shape == "circle":
            ImageDraw.Draw(mask).ellipse((0, 0, scale * width - 1, scale * height - 1), fill=255)
        else:
            corners = [(x * (scale * width - 1), y * (scale * height - 1)) for x, y in outline(thing.shape)]
            ImageDraw.Draw(mask).polygon(corners, fill=255)
        mask = mask.resize((width, height), Image.Resampling.BOX)
        colour = np.clip(np.array(COLOURS[thing.colour]) + generator.uniform(-9, 9, 3), 0, 255)
        image.paste(tuple(colour.astype(int).tolist()), (x1, y1), mask)
    noisy = np.asarray(image) + generator.normal(0, 7, (HEIGHT, WIDTH, 3))
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


# Regions


def look(image: Image.Image, boxes: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] -> features [N, 192]: the pixels of each, shrunk to 8 x 8, from -1 to 1."""
    size, features = (FEATURE_SIDE, FEATURE_SIDE), np.empty((len(boxes), FEATURE_SIZE), np.float32)
    for row, box in zip(features, boxes.tolist()):
        row[:] = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box), np.float32).ravel() / 127.5 - 1
    return features


def detect(scene: Scene, image: Image.Image, seed: int) -> dict:
    """What a detector might find, as fields of `Regions`: boxes a little off, in any order, and some of nothing."""
    generator = np.random.default_rng([seed, scene.image_id, 1])
    boxes = np.array([thing.box for thing in scene.things], np.float32)
    boxes += generator.uniform(-2, 2, boxes.shape)
    nothing = []
    for _ in range(generator.integers(0, 3)):
        for _ in range(20):
            width, height = generator.uniform(14, 34, 2)
            x, y = generator.uniform(0, WIDTH - width), generator.uniform(0, HEIGHT - height)
            box = (x, y, x + width, y + height)
            if not any(overlap(box, thing.box, 0) for thing in scene.things):
                nothing.append(box)
                break
    boxes = np.concatenate([boxes, np.array(nothing, np.float32).reshape(-1, 4)])
    boxes = boxes.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])

    labels = [thing.name for thing in scene.things] + ["background"] * len(nothing)
    classes = np.array([CLASSES.index(label) for label in labels])
    probs = generator.dirichlet(np.ones(len(CLASSES)), len(boxes))
    rows = np.arange(len(boxes))
    probs[rows, classes] = 0
    sure = generator.uniform(0.85, 0.95, len(boxes))
    probs *= ((1 - sure) / probs.sum(1))[:, None]
    probs[rows, classes] = sure
    # A box of nothing is kept for the little that it looks like something.
    scores = np.where(classes > 0, sure, 1 - sure)

    order = generator.permutation(len(boxes))
    return {
        "boxes": boxes[order],
        "features": look(image, boxes[order]),
        "class_probs": probs[order].astype(np.float32),
        "labels": [labels[place] for place in order],
        "scores": scores[order].astype(np.float32),
    }


def given(scene: Scene, image: Image.Image) -> dict:
    """The true boxes in the order of things, as fields of `Regions`."""
    boxes = np.array([thing.box for thing in scene.things], np.float32)
    return {"boxes": boxes, "features": look(image, boxes), "labels": [thing.name for thing in scene.things]}


def image_names(image_ids: Sequence[int], pairs: dict[str, Sequence[Item]]) -> dict[str, int]:
    """Every name that an image has in the data sets' layouts -> its number."""
    names = {}
    for image_id in image_ids:
        names |= dict.fromkeys([str(image_id), vcr_name(image_id), visual7w_name(image_id)], image_id)
    for split, items in pairs.items():
        for item in items:
            names |= dict(zip(nlvr2_names(split, item["pair"]), item["image_ids"]))
    return names


def records(found: dict[int, dict], names: dict[str, int]) -> Iterator[Regions]:
    """The regions of each image under all its names."""
    for name, image_id in names.items():
        yield Regions(**found[image_id], image_size=(WIDTH, HEIGHT), image_id=name, source=SOURCE)


# Words


def word_tokenizer() -> BertTokenizer:
    """A tokenizer with a token for each word of the texts; words that they do not have are spelled."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = {*WORDS.split(), *NUMBERS, *COLOURS, *SHAPES, *SHAPES.values(), *SIZES}
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PUNCTUATION, *letters, *(f"##{one}" for one in letters)]
    tokens += sorted(words - set(tokens))
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}, model_max_length=512)


# All of it


def compose(folder: str | Path, train: int = 2000, val: int = 300, test: int = 300, seed: int = 0) -> Path:
    """Compose so many scenes a split, with everything about them, into a folder; nothing is done if that is there.

    Args:
        folder: to be made. It gets `images`, `annotations`, `regions`, `objects`, and `scenes.json` at last.
        train, val, test: numbers of scenes, at least 8, so that there is something for each task. More scenes leave
            the first ones as they are.
        seed: of everything.

    Returns:
        The folder.

    Raises:
        ValueError: for numbers out of range, or a folder that holds anything else.
    """
    folder, sizes = Path(folder), {"train": train, "val": val, "test": test}
    for split, size in sizes.items():
        if not 8 <= size <= 100_000:
            raise ValueError(f"{split} must be from 8 to 100000 scenes, got {size!r}.")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed!r}.")
    settings = {**sizes, "seed": seed}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if settings_of(folder) == settings:
            return folder
        raise ValueError(f"folder {folder} holds other scenes than {settings} or something else; remove it.")

    scenes = {split: [new_scene(split, number, seed) for number in range(size)] for split, size in sizes.items()}
    items = {
        task: {split: make(scenes[split], Random(f"{seed} {split} {task}")) for split in SPLITS}
        for task, make in ITEMS.items()
    }
    for task, write in WRITERS.items():
        (folder / "annotations" / task).mkdir(parents=True)
        write(folder / "annotations" / task, items[task], (WIDTH, HEIGHT))

    (folder / "images").mkdir()
    detected, true = {}, {}
    for scene in (scene for split in SPLITS for scene in scenes[split]):
        image = draw(scene, seed)
        # Noise cannot be compressed.
        image.save(image_file(folder, scene.image_id), compress_level=1)
        detected[scene.image_id] = detect(scene, image, seed)
        true[scene.image_id] = given(scene, image)
    names = image_names(list(detected), items["nlvr2"])
    for name, found in (("regions", detected), ("objects", true)):
        write_regions(records(found, names), folder / name, dtype="float16")

    facts = [asdict(scene) for split in SPLITS for scene in scenes[split]]
    # Last, since it says that all is there.
    write_json(folder / "scenes.json", {"settings": settings, "names": names, "scenes": facts})
    return folder


def settings_of(folder: Path) -> dict | None:
    try:
        return read_facts(folder)["settings"]
    except (OSError, ValueError, KeyError):
        return None


def read_facts(folder: Path) -> dict:
    """`settings`, `scenes` (each with what is in it), and `names` (every name of an image -> its number)."""
    return json.loads((folder / "scenes.json").read_text(encoding="utf-8"))


def image_file(folder: Path, image_id: int) -> Path:
    return folder / "images" / f"{image_id}.png"


def scene_files(folder: str | Path, task: str, split: str) -> tuple[list[Path], str | None]:
    """What the reader of a task takes: its files, and the split's name if the files are of all splits.

    Args:
        folder: that of `compose`.
        task: a key of `modeling_vilbert.annotations.READERS`.
        split: "train", "val" or "test".
    """
    if task not in FILES:
        raise ValueError(f"task must be one of {sorted(FILES)}, got {task!r}.")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {list(SPLITS)}, got {split!r}.")
    name, files, splits = FILES[task]
    paths = [Path(folder) / "annotations" / name / file.format(splits[split]) for file in files]
    if task == "visual_dialog" and split == "train":
        # Only the others were judged.
        paths = paths[:1]
    return paths, splits[split] if task in OF_ALL_SPLITS else None


# A look at it

INK, TRUE = "#1f2430", "#1b7a50"
MARKS = ["#d6006c", "#0069c0", "#8e5a00", "#5e35b1", "#00796b"]


def contact_sheet(folder: str | Path, path: str | Path, split: str = "test"):
    """Draw twelve cards into `path`: images with the regions that were found, and what some tasks say about them."""
    from matplotlib.figure import Figure

    folder = Path(folder)
    store, names = open_regions(folder / "regions"), read_facts(folder)["names"]
    # Task -> image, or pair of images -> its rows.
    rows: dict[str, dict[tuple, list]] = {}
    for task, reader in READERS.items():
        for row in reader(*scene_files(folder, task, split)):
            image = row["image_id"]
            images = tuple(names[one] for one in (image if isinstance(image, list) else [image]))
            rows.setdefault(task, {}).setdefault(images, []).append(row)
    # Three pairs, and nine images of which most is said, with a third of their texts each.
    pairs = [(images, [("nlvr2", row) for row in found[:3]]) for images, found in rows.pop("nlvr2").items()][:3]
    tasks, single = list(rows), []
    for images in sorted(rows["retrieval_coco"], key=lambda one: -sum(one in of_task for of_task in rows.values()))[:9]:
        chosen = [task for task in tasks[len(single) % 3 :: 3] if images in rows[task]]
        single.append((images, [(task, rows[task][images][len(single) % len(rows[task][images])]) for task in chosen]))

    figure = Figure(figsize=(21, 20), facecolor="white")
    figure.text(
        0.01,
        0.983,
        f"Composed scenes, split {split!r}. Dotted: regions that were found. Beside: some tasks' texts, and the truth.",
        fontsize=14,
        color=INK,
    )
    for number, (images, said) in enumerate(single + pairs):
        card = (0.01 + number % 3 * 0.333, 0.73 - number // 3 * 0.243, 0.318, 0.235)
        draw_card(figure, card, folder, images, store, said)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def draw_card(figure, card: tuple, folder: Path, images: tuple, store: RegionStore, said: list[tuple[str, dict]]):
    """`card`: (x, y, width, height) in the figure. One image with texts beside it, or two with texts below."""
    from matplotlib.patches import Rectangle

    x, y, width, height = card
    beside = len(images) == 1
    for place, image in enumerate(images):
        side = (0.45 if beside else 0.48) * width
        below = 0 if beside else 0.06
        axes = figure.add_axes((x + place * (side + 0.008), y + below, side, height - below), anchor="NW")
        axes.imshow(Image.open(image_file(folder, image)), extent=(0, WIDTH, HEIGHT, 0))
        axes.set(xticks=[], yticks=[], xlabel=f"image {image}")
        axes.spines[:].set_visible(False)
        for x1, y1, x2, y2 in store[image].boxes:
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=INK, linestyle=":"))
        for place_of_mark, box in enumerate(box for _, row in said if (box := true_box(row)) is not None):
            # Around one another, where several are of the same thing.
            off = 1 + 1.5 * place_of_mark
            corner, size = (box[0] - off, box[1] - off), (box[2] - box[0] + 2 * off, box[3] - box[1] + 2 * off)
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=MARKS[place_of_mark], linewidth=2.2))

    place = (x + 0.47 * width, y, 0.53 * width, height) if beside else (x, y + 0.015, width, 0.07)
    words = figure.add_axes(place, xlim=(0, 1), ylim=(place[3], 0))
    words.set_axis_off()
    at, line, columns, marks = 0.0, 0.0098, 50 if beside else 90, iter(MARKS)
    for task, row in said:
        text, truth = text_and_truth(row)
        colour = TRUE if true_box(row) is None else next(marks)
        for piece, of_piece in ((f"{task}: {text}", INK), (truth, colour)):
            for wrapped in textwrap.wrap(piece, columns):
                words.text(0, at, wrapped, color=of_piece, fontsize=10, va="top")
                at += line
        at += line / 2


def true_box(row: dict) -> list[float] | None:
    return row["candidates"][row["label"]] if "candidates" in row else row.get("box")


def text_and_truth(row: dict) -> tuple[str, str]:
    """What a row asks or says, and the truth, as far as there are words for it."""
    text = row["text"]
    if true_box(row) is not None:
        return text, "the box of this colour"
    if "answers" in row:
        return text, ", ".join(f"{answer} ({score:g})" for answer, score in zip(row["answers"], row["scores"]))
    if isinstance(row.get("text_pair"), list):
        right = row["text_pair"][row["label"]]
        wrong = [choice for number, choice in enumerate(row["text_pair"]) if number != row["label"]]
        return text, f"{right}   [not: {' | '.join(wrong[:3])}]"
    if "focus" in row:
        box = ", ".join(f"{side:.0f}" for side in row["focus"])
        return f"{text} (It is the {row['text_pair']} at {box}.)", row["label"]
    return text, row.get("label", "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/scenes"), help="folder to make")
    parser.add_argument("--train", type=int, default=2000, help="scenes to train with; default: %(default)s")
    parser.add_argument("--val", type=int, default=300, help="scenes to choose by; default: %(default)s")
    parser.add_argument("--test", type=int, default=300, help="scenes to test with; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="file to draw some scenes into, with their texts")
    options = parser.parse_args()

    started = time.perf_counter()
    try:
        compose(options.output, options.train, options.val, options.test, options.seed)
    except ValueError as error:
        sys.exit(str(error))
    print(f"Scenes are in {options.output} after {time.perf_counter() - started:.0f} s.")
    print(f"\n{'rows':<20}" + "".join(f"{split:>8}" for split in SPLITS))
    for task, reader in READERS.items():
        counts = [len(reader(*scene_files(options.output, task, split))) for split in SPLITS]
        print(f"{task:<20}" + "".join(f"{count:>8}" for count in counts))
    if options.picture:
        contact_sheet(options.output, options.picture)
        print(f"\nSome of them: {options.picture}.")


if __name__ == "__main__":
    main()
