# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What `benchmark.py` measures on: inputs from a seed, models, and how their work is counted.

Useful FLOPs are those of matrix multiplications that the model executes on real positions: counted on inputs without
padding, in eager attention, by torch's `FlopCounterMode`. Padding, heads that nobody asked and vocabulary logits of
words that are not masked do not count, and neither does what a model skips, so that skipping cannot raise a share.
Gradients count when they are computed.

Lengths are positions: [CLS] and [SEP] count as words, the whole image as a region.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    LxmertConfig,
    LxmertForQuestionAnswering,
    PreTrainedModel,
    VisualBertConfig,
    VisualBertForQuestionAnswering,
)

from modeling_vilbert import ViLBertConfig, ViLBertForQuestionAnswering
from modeling_vilbert.lengths import like_lengths


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Example = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Ranges are (lowest, highest), both inclusive."""

    small: bool = False
    feature_size: int = 2048
    answers: int = 3129
    square: int = 2048
    # Forward and training step.
    batch: int = 8
    tokens: int = 23
    regions: int = 101
    # Visual question answering.
    questions: int = 192
    question_batch: int = 32
    question_regions: tuple[int, int] = (11, 101)
    # Pre-training, with the paper's batch for one device: how many captions batches are chosen from, and how many run.
    captions: int = 3200
    caption_batch: int = 64
    caption_batches: int = 5
    caption_limits: tuple[int, int] = (36, 37)
    # Retrieval, in one process and shared by several; the original's limits, and `ImageTextScorer`'s batch.
    texts: int = 24
    images: int = 32
    shared_texts: int = 48
    shared_images: int = 64
    pair_batch: int = 256
    text_words: tuple[int, int] = (5, 30)
    image_regions: tuple[int, int] = (10, 36)
    # Work is repeated until it has taken so many seconds in each round.
    least_seconds: float = 3.0


BASE = Sizes()
SMALL = Sizes(
    small=True, feature_size=16, answers=31, square=128, batch=2, tokens=9, regions=11, questions=24, question_batch=8,
    question_regions=(3, 11), captions=40, caption_batch=4, texts=6, images=7, shared_texts=6, shared_images=7,
    pair_batch=8, least_seconds=0.0,
)  # fmt: skip


# Inputs

# What stands at padding; 0 elsewhere.
PADDING = {"labels": -100}
OF_REGIONS = ("region_features", "region_locations", "region_attention_mask", "region_targets", "masked_regions")


def random_regions(count: int, sizes: Sizes, generator: torch.Generator) -> Example:
    corners = torch.rand(count, 2, 2, generator=generator).sort(1).values.flatten(1)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return {
        "region_features": torch.rand(count, sizes.feature_size, generator=generator),
        "region_locations": torch.cat([corners, area[:, None]], 1),
        "region_attention_mask": torch.ones(count, dtype=torch.long),
    }


def random_words(count: int, vocab_size: int, generator: torch.Generator) -> Example:
    return {
        "input_ids": torch.randint(5, vocab_size, (count,), generator=generator),
        "attention_mask": torch.ones(count, dtype=torch.long),
    }


def collate(examples: Sequence[Example], limits: tuple[int, int] | None = None) -> Example:
    """Examples -> a batch, padded to so many words and regions; None: to the longest."""
    lengths = [(len(one["input_ids"]), len(one["region_features"])) for one in examples]
    words, regions = limits or np.max(lengths, 0).tolist()
    batch = {}
    for name, first in examples[0].items():
        if first.dim() == 0:
            batch[name] = torch.stack([one[name] for one in examples])
            continue
        shape = (len(examples), regions if name in OF_REGIONS else words, *first.shape[1:])
        batch[name] = first.new_full(shape, PADDING.get(name, 0))
        for row, one in zip(batch[name], examples):
            row[: len(one[name])] = one[name]
    return batch


def in_order(count: int, batch_size: int) -> list[list[int]]:
    """Numbers of examples, batch after batch, as they come."""
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]


def by_length(examples: Sequence[Example], batch_size: int) -> list[list[int]]:
    """Batches of like numbers of words and of regions."""
    words, regions = (np.array([len(one[name]) for one in examples]) for name in ("input_ids", "region_features"))
    return [numbers.tolist() for numbers in like_lengths(words, regions, batch_size)]


# Models


def vilbert_config(small: bool, feature_size: int = 2048, **fields) -> ViLBertConfig:
    """Base: 12 text, 6 vision and 6 co-attention layers, 768 and 1024 wide, as released."""
    if not small:
        return ViLBertConfig(vision_config={"feature_size": feature_size}, **fields)
    text = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 48}
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return ViLBertConfig(
        text_config={**text, "vocab_size": 211},
        vision_config={**vision, "feature_size": feature_size, "num_region_classes": 13},
        coattention_hidden_size=16, coattention_num_attention_heads=2, **fields,
    )  # fmt: skip


def new_model(model_class: type[PreTrainedModel], config: Any, dtype: str, attention: str) -> PreTrainedModel:
    config._attn_implementation = attention
    torch.manual_seed(0)
    return model_class(config).to(DTYPES[dtype]).eval()


def answering_model(name: str, sizes: Sizes, dtype: str, attention: str) -> PreTrainedModel:
    """A model with a VQA head: "ViLBERT", "LXMERT" or "VisualBERT", base size."""
    narrow = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 48, "vocab_size": 211}
    if name == "ViLBERT":
        config = vilbert_config(sizes.small, sizes.feature_size, num_labels=sizes.answers)
        return new_model(ViLBertForQuestionAnswering, config, dtype, attention)
    if name == "LXMERT":
        few = {**narrow, "l_layers": 2, "x_layers": 1, "r_layers": 1} if sizes.small else {}
        config = LxmertConfig(visual_feat_dim=sizes.feature_size, num_qa_labels=sizes.answers, **few)
        return new_model(LxmertForQuestionAnswering, config, dtype, attention)
    few = {**narrow, "num_hidden_layers": 2} if sizes.small else {}
    config = VisualBertConfig(visual_embedding_dim=sizes.feature_size, num_labels=sizes.answers, **few)
    return new_model(VisualBertForQuestionAnswering, config, dtype, attention)


# Model -> its attention implementations. Transformers' two have theirs written out, and no other.
MODELS = {"ViLBERT": ("eager", "sdpa"), "LXMERT": ("eager",), "VisualBERT": ("eager",)}


def answering_inputs(name: str, batch: Example, dtype: str) -> Example:
    """A batch under the model's own names, masks included, as its processor would give them."""
    features = batch["region_features"].to(DTYPES[dtype])
    locations = batch["region_locations"].to(DTYPES[dtype])
    words = {field: batch[field] for field in ("input_ids", "attention_mask")}
    mask = batch["region_attention_mask"]
    if name == "ViLBERT":
        return {**words, "region_features": features, "region_locations": locations, "region_attention_mask": mask}
    if name == "LXMERT":
        return {
            **words,
            "visual_feats": features,
            "visual_pos": locations[..., :4],
            "visual_attention_mask": mask.to(DTYPES[dtype]),
        }
    return {**words, "visual_embeds": features, "visual_attention_mask": mask}


def answer_logits(outputs: Any) -> torch.Tensor:
    logits = outputs.question_answering_score if hasattr(outputs, "question_answering_score") else outputs.logits
    return logits.flatten(1)


# Useful FLOPs


def count_flops(run: Callable[[], Any]) -> int:
    """Those of the matrix multiplications in one run; fused attention on a CPU would count as none."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def in_eager(model: PreTrainedModel, run: Callable[[], Any]) -> int:
    """`count_flops` of a run of the model, in eager attention."""
    implementation = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        return count_flops(run)
    finally:
        model.config._attn_implementation = implementation


def flops_by_length(model: PreTrainedModel, sizes: Sizes, run: Callable[[Example], Any]) -> Callable[[int, int], float]:
    """(words, regions) of one example -> FLOPs of a run on it alone.

    They are a polynomial of both lengths, of degree 2 (attention), so that six examples tell all.
    """
    shapes = [(4, 5), (8, 5), (4, 11), (8, 11), (12, 7), (6, 17)]
    counted = [in_eager(model, lambda shape=shape: run(one_example(model, sizes, *shape))) for shape in shapes]
    coefficients = np.linalg.solve(np.array([polynomial(*shape) for shape in shapes]), np.array(counted, float))
    return lambda words, regions: float(np.dot(polynomial(words, regions), coefficients))


def polynomial(words: int, regions: int) -> list[float]:
    return [1.0, words, regions, words**2, regions**2, words * regions]


def one_example(model: PreTrainedModel, sizes: Sizes, words: int, regions: int) -> Example:
    generator = torch.Generator().manual_seed(0)
    vocab_size = model.config.get_text_config().vocab_size
    example = {**random_words(words, vocab_size, generator), **random_regions(regions, sizes, generator)}
    return collate([example])


def flops_of(examples: Sequence[Example], flops: Callable[[int, int], float]) -> float:
    return sum(flops(len(one["input_ids"]), len(one["region_features"])) for one in examples)
