# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Which pairs of a text and an image are computed together: tiles of the whole grid, and batches of like lengths.

A tile is what is computed, written and done as a whole. Its texts and images are of like lengths, and its batches more
so, which leaves almost nothing to pad.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


# A tile has a 64th of all pairs within these bounds, or as many more as keep the tiles below so many.
TILE_PAIRS, MOST_TILES = (256, 1024), 4096
# What a further batch costs, in positions (words and regions): the weights are read once more. Of the base model on one
# core with AMX, forwards of 4 to 64 pairs of 20 words and 24 regions take about 0.1 s and 50 ms for each pair in fp32,
# and 0.07 s and 12 ms in bf16.
BATCH_POSITIONS, HALF_BATCH_POSITIONS = 100, 300


@dataclass(frozen=True)
class Tiles:
    """All pairs as a grid of tiles. Along both sides items stand by length, so that those of a tile are alike.

    Args:
        texts: numbers of the texts of each row of tiles.
        images: numbers of the images of each column.
        size: texts and images of a tile; the last row and column may have fewer.
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
            groups = [
                [order[start : start + count] for start in range(0, len(order), count)]
                for order, count in zip(orders, size)
            ]
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

    def places(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For texts, then for images: which row or column of tiles each item is in, and where there, both [items]."""
        for groups in (self.texts, self.images):
            counts, order = [len(group) for group in groups], np.concatenate(groups)
            of_items, places = np.empty_like(order), np.empty_like(order)
            of_items[order] = np.repeat(np.arange(len(groups)), counts)
            places[order] = np.concatenate([np.arange(count) for count in counts])
            yield of_items, places


def spans(sizes: Sequence[int], limit: int) -> list[range]:
    """Runs of consecutive items whose sizes sum up to at most `limit`; no size is above it."""
    found, start, total = [], 0, 0
    for number, size in enumerate(sizes):
        if total + size > limit:
            found.append(range(start, number))
            start, total = number, 0
        total += size
    return [*found, range(start, len(sizes))]


def cheap_batches(
    text: np.ndarray, vision: np.ndarray, batch_size: int, batch_positions: int = BATCH_POSITIONS
) -> Iterator[np.ndarray]:
    """Pairs in batches of like lengths, which cost least to compute.

    Unlike those of training (`lengths.like_lengths`), batches may be of any size up to `batch_size`: all pairs are
    halved, along the stream in which that costs least, and the halves again, until they fit into a batch and another
    half would save less padding than a batch costs.

    Args:
        text, vision: lengths of the text and of the image of each pair, both [pairs].
        batch_size: pairs of a batch, at most.
        batch_positions: what a batch costs beside its positions, in positions.

    Returns:
        Numbers of pairs, an array for each batch.
    """

    def cost(numbers: np.ndarray) -> int:
        longest = int(text[numbers].max() + vision[numbers].max())
        return len(numbers) * longest + math.ceil(len(numbers) / batch_size) * batch_positions

    waiting = [np.arange(len(text))]
    while waiting:
        numbers = waiting.pop()
        count, halves = len(numbers), None
        least = cost(numbers) if count <= batch_size else math.inf
        for lengths in (text, vision):
            ordered = numbers[np.argsort(lengths[numbers], kind="stable")]
            # In the middle, where that fills batches, or where lengths change beside it.
            ranked, middle = lengths[ordered], count // 2
            cuts = {middle, round(middle / batch_size) * batch_size}
            cuts |= {int(np.searchsorted(ranked, ranked[middle], side)) for side in ("left", "right")}
            for cut in sorted(cuts):
                if not count / 4 <= cut <= 3 * count / 4:
                    continue
                both = cost(ordered[:cut]) + cost(ordered[cut:])
                if both < least:
                    halves, least = (ordered[:cut], ordered[cut:]), both
        if halves is None:
            yield numbers
        else:
            waiting += reversed(halves)
