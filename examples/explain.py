# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Does relevance find what matters? Measured on the model that `visual_question_answering.py` has trained.

    python examples/visual_question_answering.py
    python examples/explain.py

Over 500 test questions of easy-VQA it ranks the 16 cells of each image in three ways: by relevance, by raw attention
(of all words, a mean over layers and heads) and at random. It prints how often the first cell overlaps the shape, which
share of the map all such cells have, and what hiding the first three cells from the model costs the answer. Then the
same for a model with random weights, and two pictures.

Each cell's features are of that cell alone, so that only cells on the shape tell of it. The table also says how many
answers stay when none of them is left.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import easy_vqa
import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor, set_seed

import modeling_vilbert  # noqa: F401  (makes the Auto classes know ViLBERT)
from modeling_vilbert import Explanation, Regions, explain


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


def margin_without(explanation: Explanation, model: torch.nn.Module, inputs: dict, cells: np.ndarray) -> float:
    """The target's logit above the best other's, without these cells, also in the mean that is the whole image."""
    inputs = {name: value.clone() for name, value in inputs.items()}
    inputs["region_attention_mask"][0, cells + 1] = 0
    seen = inputs["region_attention_mask"][0].bool()
    seen[0] = False
    inputs["region_features"][0, 0] = inputs["region_features"][0, seen].mean(0)
    with torch.inference_mode():
        logits = model(**inputs).logits[0]
    target = model.config.label2id[explanation.target]
    return (logits[target] - logits[torch.arange(len(logits)) != target].max()).item()


def measure(model: torch.nn.Module, processor, examples: list[tuple], k: int) -> dict[str, np.ndarray]:
    """Over (path, question, regions): how often the first cell overlaps the shape, and what hiding cells costs."""
    rows = []
    for path, question, regions in tqdm(examples, desc="Questions"):
        inputs = processor(images=regions, text=question, return_tensors="pt")
        explanation = explain(model, inputs, regions, processor=processor)
        on_shape = overlaps(regions, shape_pixels(path))
        faith = explanation.faithfulness(model, inputs, k=k, draws=5, measure="margin")
        blind = margin_without(explanation, model, inputs, np.flatnonzero(on_shape))
        raw = explanation.attention["text_to_vision"].mean((0, 1, 2))
        relevance = explanation.relevant("vision")[1:]
        ranked_by_raw = replace(explanation, relevance={**explanation.relevance, "regions": raw})
        raw_faith = ranked_by_raw.faithfulness(model, inputs, k=k, draws=1, measure="margin")

        rows.append(
            {
                "relevance overlaps": on_shape[relevance.argmax()],
                "raw attention overlaps": on_shape[raw[1:].argmax()],
                "chance overlaps": on_shape.mean(),
                "relevance share": relevance[on_shape].sum() / relevance.sum(),
                "raw attention share": raw[1:][on_shape].sum() / raw[1:].sum(),
                "chance share": on_shape.mean(),
                "relevance drop": faith.relevant_drop,
                "raw attention drop": raw_faith.relevant_drop,
                "chance drop": faith.random_mean,
                "chance spread": faith.random_spread,
                "margin": faith.score,
                "same without the shape": blind > 0,
            }
        )
    return {name: np.array([row[name] for row in rows], float) for name in rows[0]}


def print_table(name: str, found: dict[str, np.ndarray], k: int):
    count = len(found["margin"])
    print(f"\n{name}, {count} questions; mean margin of the answer {found['margin'].mean():.2f}")
    columns = f"{'first on shape':>16}{'share on shape':>16}{f'margin lost without first {k}':>34}"
    print(f"{'cells ranked by':<18}{columns}")
    for row in ("relevance", "raw attention", "chance"):
        drops = found[f"{row} drop"]
        # Of the mean over questions.
        error = drops.std() / count**0.5
        places = f"{found[f'{row} overlaps'].mean():>16.1%}{found[f'{row} share'].mean():>16.1%}"
        print(f"{row:<18}{places}{drops.mean():>25.3f} ± {error:.3f}")
    print(f"Spread of the draws of {k} random cells: {found['chance spread'].mean():.3f}.")
    same = found["same without the shape"].mean()
    print(f"Without any cell that overlaps the shape, {same:.1%} of the answers are the same.")
    wins = (found["relevance drop"] > found["chance drop"]).mean()
    print(f"The {k} most relevant cells cost more than random ones in {wins:.1%} of the questions.")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=Path("runs/visual_question_answering"), help="folder of the model"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/explain"), help="folder of the pictures")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--k", type=int, default=3, help="cells to hide; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn questions and the random weights")
    options = parser.parse_args()
    if not (options.model / "config.json").exists():
        parser.error(f"--model: no model in {options.model}. Run examples/visual_question_answering.py first.")
    if options.questions < 1:
        parser.error(f"--questions must be at least 1, got {options.questions}.")
    return options


def main():
    options = parse_options()
    options.output.mkdir(parents=True, exist_ok=True)
    set_seed(options.seed)
    processor = AutoProcessor.from_pretrained(options.model)
    model = AutoModelForVisualQuestionAnswering.from_pretrained(options.model).eval()
    paths, everything = easy_vqa.get_test_image_paths(), list(zip(*easy_vqa.get_test_questions(), strict=True))
    drawn = np.random.default_rng(options.seed).permutation(len(everything))[: options.questions]
    questions, _, images = zip(*(everything[number] for number in drawn), strict=True)
    drawn_paths = [paths[image] for image in images]
    examples = list(zip(drawn_paths, questions, processor.to_regions(drawn_paths), strict=True))

    print_table("Trained", measure(model, processor, examples, options.k), options.k)
    untrained = type(model)(model.config).eval()
    print_table("Random weights", measure(untrained, processor, examples, options.k), options.k)

    path, question = paths[min(paths)], "what color is the shape?"
    regions = processor.to_regions(path)
    inputs = processor(images=regions, text=question, return_tensors="pt")
    explanation = explain(model, inputs, regions, processor=processor)
    explanation.plot(path).savefig(options.output / "relevance.png", dpi=90)
    explanation.plot(path, kind="attention").savefig(options.output / "attention.png", dpi=90)
    explanation.to_json(options.output / "explanation.json", image=path)
    print(f"\nPictures of “{question}” are in {options.output}.")


if __name__ == "__main__":
    main()
