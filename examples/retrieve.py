# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Rank captions with images and images with captions, and see how fast.

    pip install ".[examples]"
    python examples/pretrain.py && python examples/retrieve.py      # composed scenes, zero-shot by the alignment head
    python examples/retrieve.py --model FOLDER --captions dataset_flickr30k.json --layout flickr30k --split test \\
        --regions STORE
    torchrun --nproc-per-node 2 examples/retrieve.py                # processes that share the pairs

1. Captions and the images that they are of.
2. Pairs a second, of some captions with all images: the plain loop over `model(**processor(...))`, which pads every
   batch to its longest, and `ImageTextScorer`, in turns on the same pairs. Both from captions and regions to scores.
   Several processes leave it out.
3. All captions with all images, into `scores.npy` in `--output`. A run that was killed goes on when it is called again.
4. Recall in both directions, and what is found for one caption.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from scenes import compose, scene_files
from small_model import LAYOUTS, read_captions_of
from transformers import AutoProcessor

from modeling_vilbert import ImageTextScorer, ViLBertMatchingPipeline, model_loader, open_regions
from modeling_vilbert.metrics import Predictions, retrieval_recall
from modeling_vilbert.tasks import read_rows


ROUNDS = 3


def plain_scores(model, processor, texts: list[str], images: list, batch_size: int) -> np.ndarray:
    """Each text with all images, batch after batch."""
    pairs, scores = [(text, image) for text in texts for image in images], []
    with torch.inference_mode():
        for start in range(0, len(pairs), batch_size):
            batch_texts, batch_images = zip(*pairs[start : start + batch_size])
            inputs = processor(images=list(batch_images), text=list(batch_texts), return_tensors="pt")
            scores.append(model(**inputs.to(model.device)).logits[:, 0].float().cpu())
    return torch.cat(scores).view(len(texts), len(images)).numpy()


def compare(model, processor, texts: list[str], images: list, batch_size: int):
    """Print how many pairs a second the plain loop and the scorer make, and how far their scores are apart."""
    # Zero-shot, the plain loop gets the same head.
    single = model.as_retrieval() if hasattr(model, "as_retrieval") else model
    scorer = ImageTextScorer(model, processor, batch_size=batch_size)
    ways = {
        "plain padded loop": lambda: plain_scores(single, processor, texts, images, batch_size),
        "ImageTextScorer": lambda: scorer.score(texts, images, progress=False),
    }
    seconds, scores = {name: [] for name in ways}, {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            scores[name] = way()
            seconds[name].append(time.perf_counter() - start)
    pairs = len(texts) * len(images)
    print(f"{len(texts)} captions x {len(images)} images, median of {ROUNDS} rounds in turns:")
    for name, taken in seconds.items():
        print(f"  {name:<20}{pairs / statistics.median(taken):>10,.0f} pairs/s")
    plain, own = scores.values()
    print(f"  greatest difference of a score: {np.abs(plain - own).max():.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/pretrain"), help="default: %(default)s")
    parser.add_argument("--captions", nargs="*", default=[], help="caption files; default: composed scenes")
    parser.add_argument("--layout", choices=LAYOUTS, default="coco", help="of the caption files; default: %(default)s")
    parser.add_argument("--regions", nargs="*", default=[], help="stores of regions of their images")
    parser.add_argument("--split", help="which rows of files of several splits")
    parser.add_argument("--scenes", type=Path, default=Path("runs/scenes"), help="folder of the composed scenes")
    parser.add_argument("--train_scenes", type=int, default=2000)
    parser.add_argument("--test_scenes", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("runs/retrieve"), help="folder; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=5000, help="about so many to compare, in one process; 0: none")
    parser.add_argument("--batch_size", type=int, default=128, help="pairs that go through the model together")
    parser.add_argument("--bf16", action="store_true", help="compute in bf16")
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        sys.exit(f"{sys.argv[0]}: --model {options.model} holds no model. python examples/pretrain.py trains one.")

    if options.captions and not options.regions:
        parser.error("--captions needs --regions, the stores of their images' regions.")

    processes = PartialState(cpu=not torch.accelerator.is_available())

    # 1. Captions and images
    if options.captions:
        rows, store = read_captions_of(options.captions, options.layout, options.split), open_regions(options.regions)
    else:
        sizes = {"train": options.train_scenes, "val": options.test_scenes, "test": options.test_scenes}
        with processes.main_process_first():
            folder = compose(options.scenes / f"{options.train_scenes}-{options.test_scenes}", **sizes, seed=0)
        rows = read_rows("retrieval_coco", *scene_files(folder, "retrieval_coco", "test"))
        store = open_regions(folder / "regions")
    texts = [row["text"] for row in rows]
    images = {name: store[name] for name in dict.fromkeys(row["image_id"] for row in rows)}

    processor = AutoProcessor.from_pretrained(options.model)
    model = model_loader(ViLBertMatchingPipeline).from_pretrained(options.model).eval()
    model = model.to(processes.device, torch.bfloat16 if options.bf16 else None)

    # 2. Pairs a second
    if options.pairs and processes.num_processes == 1:
        count = min(max(options.pairs // len(images), 1), len(texts))
        some = np.random.default_rng(0).choice(len(texts), count, replace=False)
        compare(model, processor, [texts[number] for number in some], list(images.values()), options.batch_size)

    # 3. All pairs
    scorer = ImageTextScorer(model, processor, batch_size=options.batch_size)
    scores = scorer.score(texts, images, output=options.output / "scores.npy")
    if not processes.is_main_process:
        return

    # 4. What that is good for
    print(f"{len(texts)} captions, {len(images)} images, {scores.size:,} pairs in {options.output / 'scores.npy'}:")
    for name, value in retrieval_recall(Predictions(scores, None, rows)).items():
        print(f"  {name:<32}{value:8.3f}")
    print(f"  {'chance of text_to_image_recall@1':<32}{1 / len(images):8.3f}")
    print(f"{texts[0]!r}, of image {rows[0]['image_id']}:")
    for name, score in scorer.rank(texts[0], images, top_k=3):
        print(f"  {score:8.3f}  {name}")


if __name__ == "__main__":
    main()
