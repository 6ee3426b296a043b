# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Which pairs of a text and an image are computed together: tiles of the whole grid, and batches of like lengths.

A tile is what is computed, written and done as a whole. Its texts and images are of like lengths, and the pairs of a
batch more so.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


# A tile has a 64th of all pairs within these bounds, or as many more as keep the tiles below so many.
TILE_PAIRS, MOST_TILES = (256, 1024), 4096


@dataclass(frozen=True)
class Tiles:
    """All pairs as a grid of tiles. Along both sides items stand by length, so that those of a tile are alike.

    Args:
        texts: numbers of the texts of each row of tiles.
        images: numbers of the images of each column.
        size: texts and images of a tile, at most; rows are alike in size, and so are columns.
    """

    texts: list[np.ndarray]
    images: list[np.ndarray]
    size: tuple[int, int]

    @classmethod
    def plan(cls, lengths: Sequence[np.ndarray], nbytes: Sequence[np.ndarray], budget: int, fine: bool) -> "Tiles":
        """
        Args:
            lengths: positions of each text, and of each image.
            nbytes: bytes that are kept of each text, and of each image.
            budget: bytes that a tile's texts and images may take together.
            fine: with about `TILE_PAIRS` pairs. Otherwise as many as the budget allows.

        Raises:
            ValueError: if the budget is below what one text and one image take.
        """
        size = tuple(map(len, lengths))
        if fine:
            pairs, (least, most) = size[0] * size[1], TILE_PAIRS
            pairs = max(min(max(pairs // 64, least), most), pairs // MOST_TILES)
            # As large a share of the texts as of the images, so that both are alike.
            share = math.sqrt(min(1.0, pairs / (size[0] * size[1])))
            rows = min(max(round(size[0] * share), 1), size[0])
            columns = min(math.ceil(pairs / rows), size[1])
            size = (min(max(pairs // columns, 1), size[0]), columns)
        orders = [np.argsort(of_side, kind="stable") for of_side in lengths]
        while True:
            groups = [np.array_split(order, math.ceil(len(order) / count)) for order, count in zip(orders, size)]
            needed = [max(int(of_side[group].sum()) for group in rows) for of_side, rows in zip(nbytes, groups)]
            if sum(needed) <= budget:
                return cls(*groups, size)
            if size == (1, 1):
                raise ValueError(
                    f"memory_budget must be at least {sum(needed):,} bytes, which the longest text ({needed[0]:,}) and "
                    f"the image of most regions ({needed[1]:,}) take, got {budget:,}."
                )
            halved = max((0, 1), key=lambda side: (size[side] > 1, needed[side]))
            size = tuple(math.ceil(count / 2) if side == halved else count for side, count in enumerate(size))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.texts), len(self.images)

    def number(self, row: int, column: int) -> int:
        return row * len(self.images) + column

    def pairs(self, row: int, column: int) -> int:
        return len(self.texts[row]) * len(self.images[column])

    def positions(self, lengths: Sequence[np.ndarray], row: int, column: int) -> int:
        """Of all pairs of a tile, words and regions together; `lengths` as of `plan`."""
        (texts, images), (of_texts, of_images) = (self.texts[row], self.images[column]), lengths
        return int(of_texts[texts].sum()) * len(images) + int(of_images[images].sum()) * len(texts)

    def places(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For texts, then for images: which row or column of tiles each item is in, and where there, both [items]."""
        for groups in (self.texts, self.images):
            counts, order = [len(group) for group in groups], np.concatenate(groups)
            of_items, places = np.empty_like(order), np.empty_like(order)
            of_items[order] = np.repeat(np.arange(len(groups)), counts)
            places[order] = np.concatenate([np.arange(count) for count in counts])
            yield of_items, places


def shares(costs: Sequence[float], count: int) -> list[list[int]]:
    """Numbers of jobs for each of `count` workers, of about the same cost: the largest first, to who has least."""
    found, sums = [[] for _ in range(count)], [0.0] * count
    for job in sorted(range(len(costs)), key=lambda job: -costs[job]):
        least = sums.index(min(sums))
        found[least].append(job)
        sums[least] += costs[job]
    return [sorted(jobs) for jobs in found]


def spans(sizes: Sequence[int], limit: int) -> list[range]:
    """Runs of consecutive items whose sizes sum up to at most `limit`; no size is above it."""
    found, start, total = [], 0, 0
    for number, size in enumerate(sizes):
        if total + size > limit:
            found.append(range(start, number))
            start, total = number, 0
        total += size
    return [*found, range(start, len(sizes))]


def like_batches(text: np.ndarray, vision: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Pairs in batches of about the same size, by the length of the text, then by that of the image, so that attention
    has little to pad.

    Args:
        text, vision: lengths of the text and of the image of each pair, both [pairs].
        batch_size: pairs of a batch, at most.

    Returns:
        Numbers of pairs, an array for each batch.
    """
    order = np.lexsort((vision, text))
    return np.array_split(order, math.ceil(len(order) / batch_size))
