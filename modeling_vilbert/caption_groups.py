# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Captions and images in groups: a caption with wrong partners to learn from, and with every image to be ranked.

Sources: Lu et al., "ViLBERT", NeurIPS 2019, section 4; Lu et al., "12-in-1", CVPR 2020, section 3.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .data_collators import Batch, ViLBertTaskCollator, check_captions
from .heads_vilbert import IGNORE
from .optional_packages import need
from .processing_vilbert import ViLBertProcessor
from .regions_vilbert import Regions


class ViLBertRetrievalCollator(ViLBertTaskCollator):
    """Captions -> groups of four pairs, the right one first: the image and its caption; the image and another's
    caption; another image and the caption; the image and a caption of one that looks like it.

    Args:
        captions: all rows of the split, with `image_id` and `text`: a list of dicts, or a `datasets.Dataset`.
        store: image id -> `Regions`.
        hard_negatives: image id -> ids of images that look like it, as `similar_images` finds them. Default: any image.
        **settings: those of `ViLBertTaskCollator`.

    A call takes B examples with `image_id`, `text` and `regions`; `labels` are all 0. Text inputs are [B, 4, T],
    region inputs [B, 4, R, ...].
    """

    def __init__(
        self,
        processor: ViLBertProcessor,
        captions: Sequence[Mapping[str, Any]],
        store: Mapping[str, Regions],
        hard_negatives: Mapping[str, Sequence[str]] | None = None,
        **settings,
    ):
        super().__init__(processor, **settings)
        check_captions(captions)
        self.captions, self.store, self.hard_negatives = captions, store, hard_negatives or {}
        self._of_image: dict[str, list[int]] = {}
        for number in range(len(captions)):
            self._of_image.setdefault(captions[number]["image_id"], []).append(number)
        self._images = list(self._of_image)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        # In evaluation, `CaptionRanking` has grouped them.
        return super().__call__([self._group(one) if isinstance(one["text"], str) else one for one in examples])

    def _group(self, example: Mapping[str, Any]) -> dict[str, Any]:
        image_id, text, regions = example["image_id"], example["text"], example["regions"]
        drawn = self.draws(example, image_id, text)
        near = [name for name in self.hard_negatives.get(image_id, ()) if name in self._of_image and name != image_id]
        own = {self.captions[number]["text"] for number in self._of_image[image_id]}
        return {
            "id": example.get("id"),
            "text": [text, self._other_text(own, self._images, drawn), text, self._other_text(own, near, drawn)],
            "regions": [regions, regions, self.store[self._other_image(image_id, text, drawn)], regions],
            "label": 0,
        }

    def _other_text(self, own: set[str], images: Sequence[str], drawn: np.random.Generator) -> str:
        """A caption of one of the images, or of any, that is none of the `own`."""
        for attempt in range(1000):
            pool = images if len(images) and attempt < 10 else self._images
            captions = self._of_image[pool[drawn.integers(len(pool))]]
            text = self.captions[captions[drawn.integers(len(captions))]]["text"]
            if text not in own:
                return text
        raise ValueError(f"captions: hardly any is another than {sorted(own)[:3]}.")

    def _other_image(self, image_id: str, text: str, drawn: np.random.Generator) -> str:
        """An image without that caption."""
        for _ in range(1000):
            other = self._images[drawn.integers(len(self._images))]
            if other != image_id and all(self.captions[number]["text"] != text for number in self._of_image[other]):
                return other
        raise ValueError(f"captions: hardly any image is without {text!r}.")


def similar_images(store: Mapping[str, Regions], images: Iterable[str], count: int = 100) -> dict[str, list[str]]:
    """For each of the images the `count` others whose mean features are nearest (Euclidean), the nearest first.

    Where hard negatives of retrieval come from.
    """
    names = sorted(set(images))
    means, empty = [], []
    for name in names:
        features = store[name].features
        if len(features):
            means.append(features.mean(0, dtype=np.float32))
        else:
            empty.append(name)
    if empty:
        raise ValueError(f"{len(empty)} of {len(names)} images have no region: {', '.join(map(repr, empty[:5]))}.")
    means = np.stack(means)
    neighbors = need("sklearn.neighbors").NearestNeighbors(n_neighbors=min(count + 1, len(names))).fit(means)
    found = neighbors.kneighbors(means, return_distance=False)
    return {name: [names[place] for place in row if names[place] != name][:count] for name, row in zip(names, found)}


class CaptionRanking(torch.utils.data.Dataset):
    """Every caption with every image, to be ranked: an example is a caption and so many of the images.

    Args:
        captions: rows with `image_id` and `text`.
        store: image id -> `Regions`.
        images_per_example: how many of the images an example holds, which is what a batch of one holds in memory.

    Attributes:
        images: ids of the M images, in order of their first caption.

    An example has `text`, `regions` (a list), and `label`: where the caption's image is in that list, or -100. The last
    images of a caption may stand there twice, to fill its last example. `matrix` puts logits together again. The loss
    of an example without the right image is 0: with several examples a caption, a mean of losses says little.
    """

    def __init__(
        self, captions: Sequence[Mapping[str, Any]], store: Mapping[str, Regions], images_per_example: int = 50
    ):
        self.captions, self.store = captions, store
        self.images = list(dict.fromkeys(captions[number]["image_id"] for number in range(len(captions))))
        self.images_per_example = min(images_per_example, len(self.images))
        self._examples_per_caption = -(-len(self.images) // self.images_per_example)
        self._place = {name: place for place, name in enumerate(self.images)}

    def __len__(self) -> int:
        return len(self.captions) * self._examples_per_caption

    def __getitem__(self, number: int) -> dict[str, Any]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        number, part = divmod(number, self._examples_per_caption)
        row, start = self.captions[number], self._start(part)
        place = self._place[row["image_id"]] - start
        images = self.images[start : start + self.images_per_example]
        return {
            "id": row.get("id"),
            "text": [row["text"]] * len(images),
            "regions": [self.store[name] for name in images],
            "label": place if 0 <= place < len(images) else IGNORE,
        }

    def matrix(self, logits: np.ndarray) -> np.ndarray:
        """Logits of all examples [len(self), images_per_example] -> [captions, M]."""
        parts = logits.reshape(len(self.captions), self._examples_per_caption, self.images_per_example)
        scores = np.empty((len(self.captions), len(self.images)), logits.dtype)
        for part in range(self._examples_per_caption):
            start = self._start(part)
            scores[:, start : start + self.images_per_example] = parts[:, part]
        return scores

    def _start(self, part: int) -> int:
        return min(part * self.images_per_example, len(self.images) - self.images_per_example)
