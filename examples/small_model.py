# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The small ViLBERT that the examples train on composed scenes, and what they all ask on the command line."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from scenes import CLASSES, FEATURE_SIZE, SOURCE, compose, word_tokenizer
from transformers import AutoProcessor, AutoTokenizer, HfArgumentParser, TrainingArguments

from modeling_vilbert import ViLBertConfig, ViLBertImageProcessor, ViLBertProcessor
from modeling_vilbert.search import caption_rows, read_captions
from modeling_vilbert.tasks import read_rows


@dataclass
class SceneOptions:
    scenes: str = field(default="runs/scenes", metadata={"help": "folder of the composed scenes; made where missing"})
    train_scenes: int = field(default=2000, metadata={"help": "composed scenes to train on"})
    test_scenes: int = field(default=200, metadata={"help": "composed scenes to choose by, and as many to test on"})


def small_config(**fields: Any) -> ViLBertConfig:
    """128 wide, 3 text and 2 vision layers, 2 co-attentions; 1.2 million parameters.

    In so short a run, dropout costs more than it gives, and larger initial weights than N(0, 0.02) learn sooner.
    """
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256, **no_dropout}
    defaults = {
        "text_config": {"num_hidden_layers": 3, "vocab_size": len(word_tokenizer()), **sizes},
        "vision_config": {
            "num_hidden_layers": 2,
            "feature_size": FEATURE_SIZE,
            "feature_source": SOURCE,
            "num_region_classes": len(CLASSES),
            **sizes,
        },
        "coattention_hidden_size": 128,
        "coattention_num_attention_heads": 4,
        "fusion_dropout": 0.0,
        "initializer_range": 0.05,
        # So short sequences are slower with PyTorch's fused attention.
        "attn_implementation": "eager",
    }
    return ViLBertConfig(**{**defaults, **fields})


def new_processor(max_regions: int = 100) -> ViLBertProcessor:
    return ViLBertProcessor(ViLBertImageProcessor(max_regions=max_regions), word_tokenizer())


def processor_of(model: str | None, text_model: str | None = None, max_regions: int = 100) -> ViLBertProcessor:
    """That of a saved model, one with the words of a BERT, or a new one for composed scenes."""
    if model is not None:
        return AutoProcessor.from_pretrained(model)
    if text_model is not None:
        return ViLBertProcessor(
            ViLBertImageProcessor(max_regions=max_regions), AutoTokenizer.from_pretrained(text_model)
        )
    return new_processor(max_regions)


def composed(options: SceneOptions, arguments: TrainingArguments) -> Path:
    """The folder of the composed scenes that the options ask for; few of them for a run that is cut short."""
    cut_short = 0 < arguments.max_steps < 50
    train, test = (40, 12) if cut_short else (options.train_scenes, options.test_scenes)
    return compose(Path(options.scenes) / f"{train}-{test}", train=train, val=test, test=test, seed=0)


def of_first_images(captions: list[dict], count: int = 100) -> list[dict]:
    """The captions of so many images: as many pairs to rank as fit into a short run."""
    images = set(list(dict.fromkeys(row["image_id"] for row in captions))[:count])
    return [row for row in captions if row["image_id"] in images]


# Where captions are: COCO's numbers, Flickr30k's file names, or {image id: caption or captions}.
LAYOUTS = ("coco", "flickr30k", "plain")


def read_captions_of(files: Sequence[str], layout: str, split: str | None = None) -> list[dict[str, Any]]:
    """A row for each caption of one's own files."""
    if layout != "plain":
        return read_rows(f"retrieval_{layout}", files, split)
    if split is not None:
        sys.exit(f"{sys.argv[0]}: --split is of files of several splits, and those of --layout plain have none.")
    pairs = [pair for file in files for pair in caption_rows(read_captions(file))]
    return [{"id": str(number), "image_id": image, "text": text} for number, (image, text) in enumerate(pairs)]


def parse(options_type: type, defaults: Callable[[Any], dict[str, Any]]) -> tuple[Any, TrainingArguments]:
    """The example's options and Trainer's, both from one command line.

    `defaults` makes Trainer's out of the example's; what the command line says comes before them.
    """
    common = {
        "use_cpu": not torch.cuda.is_available(),
        "report_to": ["none"],
        "logging_steps": 50,
        "save_strategy": "no",
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
    }
    try:
        parser = HfArgumentParser(options_type, add_help=False, allow_abbrev=False)
        options, _ = parser.parse_args_into_dataclasses(return_remaining_strings=True)
        parser = HfArgumentParser((options_type, TrainingArguments), allow_abbrev=False)
        parser.set_defaults(**{**common, **defaults(options)})
        options, arguments = parser.parse_args_into_dataclasses()
    except ValueError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    # Trainer looks for the last checkpoint only where this is no text.
    words = {"true": True, "false": False}
    resume = arguments.resume_from_checkpoint
    arguments.resume_from_checkpoint = words.get((resume or "").lower(), resume)
    return options, arguments
