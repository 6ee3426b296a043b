# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Does relevance find what matters? Measured on models that answer questions about shapes.

    python examples/visual_question_answering.py
    python examples/explain.py                                    # one shape an image: easy-VQA

    python examples/pretrain.py
    python examples/finetune.py --task vqa --model runs/pretrain --max_steps 600
    python examples/explain.py --model runs/finetune/vqa --scenes runs/scenes/2000-200 --k 1   # three to six shapes

Over 500 questions that the model was not trained on it ranks the regions of each image: by relevance; by raw attention
as Chefer et al. (2021) compare with it, of the last layer where the answer is read, a mean over heads; by raw attention
of all words, a mean over layers, too; and at random. It prints how often the first region is on the shape that is asked
about, which share of the map all such regions have, and what hiding the first k regions from the model costs the
answer. Then the same for a model with random weights, and two pictures.

Of easy-VQA the regions are the 16 cells of a grid, and those that overlap the shape are on it. Of composed scenes they
are what a detector might have found, and those with an IoU of at least 0.5 are on it; the questions are those for the
colour or the shape of one thing. Each region's features are of that region alone, so that only regions on the shape
tell of it. The table also says how many answers stay when none of them is left.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import easy_vqa
import numpy as np
import torch
from PIL import Image
from scenes import image_file, read_facts, scene_files
from torchvision.ops import box_iou
from tqdm.auto import tqdm
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor, set_seed

import modeling_vilbert  # noqa: F401  (makes the Auto classes know ViLBERT)
from modeling_vilbert import Explanation, Regions, explain, open_regions
from modeling_vilbert.tasks import read_rows


class Asked(NamedTuple):
    """A question, the regions of its image, and which of them [N] are on the shape that it asks about."""

    picture: Path
    question: str
    regions: Regions
    on_shape: np.ndarray


# One shape an image

# A pixel belongs to the shape if one of its channels differs from the background's by so much.
THRESHOLD = 20


def shape_pixels(path: str) -> np.ndarray:
    """[height, width] bool. The background is the most frequent colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    colors, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    return np.abs(pixels - colors[counts.argmax()]).max(-1) > THRESHOLD


def overlaps(regions: Regions, shape: np.ndarray) -> np.ndarray:
    """[N] bool, true where a box holds any pixel of the shape."""
    return np.array([shape[y1:y2, x1:x2].any() for x1, y1, x2, y2 in regions.boxes.round().astype(int)])


def drawn_of(everything: list, count: int, seed: int) -> list:
    return [everything[number] for number in np.random.default_rng(seed).permutation(len(everything))[:count]]


def about_easy_vqa(processor: Any, count: int, seed: int) -> list[Asked]:
    paths = easy_vqa.get_test_image_paths()
    drawn = drawn_of(list(zip(*easy_vqa.get_test_questions(), strict=True)), count, seed)
    pictures = [paths[image] for _, _, image in drawn]
    return [
        Asked(Path(picture), question, regions, overlaps(regions, shape_pixels(picture)))
        for picture, (question, _, _), regions in zip(pictures, drawn, processor.to_regions(pictures), strict=True)
    ]


# Several shapes an image

# A region is on a thing if it overlaps its box by so much.
LEAST_IOU = 0.5


def about_scenes(folder: Path, count: int, seed: int) -> list[Asked]:
    """Of the splits "val" and "test", questions for the colour or the shape of the one thing that they name."""
    facts, store = read_facts(folder), open_regions(folder / "regions")
    things = {scene["image_id"]: scene["things"] for scene in facts["scenes"]}
    rows = [row for split in ("val", "test") for row in read_rows("vqa", *scene_files(folder, "vqa", split))]
    found = []
    for row in rows:
        image, words = facts["names"][row["image_id"]], row["text"].rstrip("?").split()
        if words[0] != "what":
            continue
        (thing,) = (one for one in things[image] if one["colour"] in words or one["shape"] in words)
        regions = store[row["image_id"]]
        ious = box_iou(torch.as_tensor(regions.boxes), torch.tensor([thing["box"]], dtype=torch.float32))
        on_shape = (ious[:, 0] >= LEAST_IOU).numpy()
        # A detector may have missed it.
        if on_shape.any():
            found.append(Asked(image_file(folder, image), row["text"], regions, on_shape))
    return drawn_of(found, count, seed)


# Measuring

RELEVANCE, LAST_LAYER, ALL_WORDS, CHANCE = (
    "relevance",
    "raw attention, last layer",
    "raw attention, all words",
    "chance",
)


def maps(explanation: Explanation) -> dict[str, np.ndarray]:
    """What there is to rank regions by, [R] with the whole image."""
    looks = explanation.attention["text_to_vision"]
    return {
        RELEVANCE: explanation.relevance["regions"],
        LAST_LAYER: looks[-1, :, 0].mean(0),
        ALL_WORDS: looks.mean((0, 1, 2)),
    }


def margin_without(explanation: Explanation, model: torch.nn.Module, inputs: dict, hidden: np.ndarray) -> float:
    """The target's logit above the best other's, without these regions, also in the mean that is the whole image."""
    inputs = {name: value.clone() for name, value in inputs.items()}
    inputs["region_attention_mask"][0, hidden + 1] = 0
    seen = inputs["region_attention_mask"][0].bool()
    seen[0] = False
    inputs["region_features"][0, 0] = inputs["region_features"][0, seen].mean(0)
    with torch.inference_mode():
        logits = model(**inputs).logits[0]
    target = list(model.config.id2label.values()).index(explanation.target)
    return (logits[target] - logits[torch.arange(len(logits)) != target].max()).item()


def measure(model: torch.nn.Module, processor: Any, examples: list[Asked], k: int) -> dict[str, np.ndarray]:
    """How often the first region is on the shape, and what hiding regions costs."""
    rows = []
    for _, question, regions, on_shape in tqdm(examples, desc="Questions"):
        inputs = processor(images=regions, text=question, return_tensors="pt")
        explanation = explain(model, inputs, regions, processor=processor)
        blind = margin_without(explanation, model, inputs, np.flatnonzero(on_shape))
        row = {"same without the shape": blind > 0}
        for name, ranked_by in maps(explanation).items():
            ranked = replace(explanation, relevance={**explanation.relevance, "regions": ranked_by})
            draws = 5 if name == RELEVANCE else 1
            faith = ranked.faithfulness(model, inputs, k=k, draws=draws, measure="margin")
            row |= figures(name, on_shape, ranked_by[1:]) | {f"{name}: lost": faith.relevant_drop}
            if name == RELEVANCE:
                row |= {f"{CHANCE}: lost": faith.random_mean, "spread": faith.random_spread, "margin": faith.score}
        rows.append(row | {f"{CHANCE}: first": on_shape.mean(), f"{CHANCE}: share": on_shape.mean()})
    return {name: np.array([row[name] for row in rows], float) for name in rows[0]}


def figures(name: str, on_shape: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Both [N]: whether the first region is on the shape, and which share of the weights those on it have."""
    share = weights[on_shape].sum() / weights.sum()
    return {f"{name}: first": on_shape[weights.argmax()], f"{name}: share": share}


def print_table(name: str, found: dict[str, np.ndarray], k: int):
    count = len(found["margin"])
    print(f"\n{name}, {count} questions; mean margin of the answer {found['margin'].mean():.2f}")
    columns = f"{'first on shape':>16}{'share on shape':>16}{f'margin lost without first {k}':>34}"
    print(f"{'regions ranked by':<26}{columns}")
    for row in (RELEVANCE, LAST_LAYER, ALL_WORDS, CHANCE):
        lost = found[f"{row}: lost"]
        # Of the mean over questions.
        error = lost.std() / count**0.5
        places = f"{found[f'{row}: first'].mean():>16.1%}{found[f'{row}: share'].mean():>16.1%}"
        print(f"{row:<26}{places}{lost.mean():>25.3f} ± {error:.3f}")
    print(f"Spread of the draws of {k} random regions: {found['spread'].mean():.3f}.")
    same = found["same without the shape"].mean()
    print(f"Without any region on the shape, {same:.1%} of the answers are the same.")
    wins = (found[f"{RELEVANCE}: lost"] > found[f"{CHANCE}: lost"]).mean()
    print(f"The {k} most relevant regions cost more than random ones in {wins:.1%} of the questions.")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=Path("runs/visual_question_answering"), help="folder of the model"
    )
    parser.add_argument("--scenes", type=Path, help="folder of composed scenes to ask about; default: easy-VQA")
    parser.add_argument("--output", type=Path, default=Path("runs/explain"), help="folder of the pictures")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--k", type=int, default=3, help="regions to hide; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn questions and the random weights")
    options = parser.parse_args()
    if not (options.model / "config.json").exists():
        parser.error(f"--model: no model in {options.model}. --help says how to train one.")
    if options.scenes and not (options.scenes / "scenes.json").exists():
        parser.error(f"--scenes: no composed scenes in {options.scenes}. examples/finetune.py makes them.")
    if options.questions < 1:
        parser.error(f"--questions must be at least 1, got {options.questions}.")
    return options


def main():
    options = parse_options()
    options.output.mkdir(parents=True, exist_ok=True)
    set_seed(options.seed)
    processor = AutoProcessor.from_pretrained(options.model)
    model = AutoModelForVisualQuestionAnswering.from_pretrained(options.model).eval()
    examples = (
        about_scenes(options.scenes, options.questions, options.seed)
        if options.scenes
        else about_easy_vqa(processor, options.questions, options.seed)
    )

    print_table("Trained", measure(model, processor, examples, options.k), options.k)
    untrained = type(model)(model.config).eval()
    print_table("Random weights", measure(untrained, processor, examples, options.k), options.k)

    if options.scenes:
        path, question, regions, _ = max(examples, key=lambda one: len(one.regions.boxes))
    else:
        paths, question = easy_vqa.get_test_image_paths(), "what color is the shape?"
        path = paths[min(paths)]
        regions = processor.to_regions(path)
    inputs = processor(images=regions, text=question, return_tensors="pt")
    explanation = explain(model, inputs, regions, processor=processor)
    explanation.plot(path).savefig(options.output / "relevance.png", dpi=90)
    explanation.plot(path, kind="attention").savefig(options.output / "attention.png", dpi=90)
    explanation.to_json(options.output / "explanation.json", image=path)
    print(f"\nPictures of “{question}” are in {options.output}.")


if __name__ == "__main__":
    main()
