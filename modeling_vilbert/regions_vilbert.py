# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The record of an image's regions: boxes, features, and where they come from.

Shapes: N regions, F feature size, C detector classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Box format -> its four columns as (x1, y1, x2, y2), in pixels.
BOX_FORMATS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, ...]]] = {
    "xyxy": lambda b: (b[:, 0], b[:, 1], b[:, 2], b[:, 3]),
    "xywh": lambda b: (b[:, 0], b[:, 1], b[:, 0] + b[:, 2], b[:, 1] + b[:, 3]),
    "cxcywh": lambda b: (
        b[:, 0] - b[:, 2] / 2,
        b[:, 1] - b[:, 3] / 2,
        b[:, 0] + b[:, 2] / 2,
        b[:, 1] + b[:, 3] / 2,
    ),
}

# Detectors round boxes outwards, and some count the last pixel in: by so many pixels a box may leave its image.
SLACK = 1.0


@dataclass(eq=False)
class Regions:
    """The regions of one image.

    Args:
        boxes: [N, 4] in pixels, (x1, y1, x2, y2) once constructed. They may leave the image by one pixel.
        features: [N, F], floats, of any backbone.
        image_size: (width, height) of the image in pixels.
        class_probs: [N, C], the detector's class distribution of each region.
        labels: N names or ids of what the detector saw.
        scores: [N], the detector's confidence, by which the best regions are kept.
        image_id: what the image is called.
        source: which detector, layer and box count made the features.
        attributes: N names or ids of what the detector says of them, such as "red".
        attribute_scores: [N], the detector's confidence in them.
        box_format: how `boxes` are given: "xyxy", "xywh" (corner and size) or "cxcywh" (centre and size).

    Raises:
        ValueError: if an array is of another shape, holds NaN or infinity, or a box is upside down or outside.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_vilbert import Regions
    >>> regions = Regions([[10, 20, 30, 40]], np.ones((1, 8)), image_size=(100, 80), box_format="xywh")
    >>> regions.boxes.tolist(), len(regions)
    ([[10.0, 20.0, 40.0, 60.0]], 1)

    ```
    """

    boxes: np.ndarray
    features: np.ndarray
    image_size: tuple[int, int]
    class_probs: np.ndarray | None = None
    labels: Sequence | None = None
    scores: np.ndarray | None = None
    image_id: Any = None
    source: str | None = None
    attributes: Sequence | None = None
    attribute_scores: np.ndarray | None = None
    box_format: InitVar[str] = "xyxy"

    def __post_init__(self, box_format: str):
        if box_format not in BOX_FORMATS:
            raise ValueError(f"box_format must be one of {list(BOX_FORMATS)}, got {box_format!r}.")
        self.boxes = self._floats("boxes", self.boxes, (None, 4), np.float32)
        count = len(self.boxes)
        self.boxes = np.stack(BOX_FORMATS[box_format](self.boxes), -1)
        self.features = self._floats("features", self.features, (count, None))
        if self.class_probs is not None:
            self.class_probs = self._floats("class_probs", self.class_probs, (count, None))
        for name in ("scores", "attribute_scores"):
            if getattr(self, name) is not None:
                setattr(self, name, self._floats(name, getattr(self, name), (count,)))
        for name in ("labels", "attributes"):
            names = getattr(self, name)
            if names is not None and len(names) != count:
                raise ValueError(f"{name}{self._where()} must be {count}, one for each box, got {len(names)}.")

        size = _array(self.image_size)
        if (
            size is None
            or size.shape != (2,)
            or size.dtype.kind not in "fiu"
            or not (np.isfinite(size) & (size > 0)).all()
        ):
            raise ValueError(
                f"image_size{self._where()} must be a width and a height in pixels, got {self.image_size!r}."
            )
        self.image_size = tuple(size.tolist())
        self._check_boxes()

    def __len__(self) -> int:
        return len(self.boxes)

    def locations(self) -> np.ndarray:
        """[N, 5]: (x1/w, y1/h, x2/w, y2/h, share of the image's area), the encoding that ViLBERT reads."""
        width, height = self.image_size
        scaled = self.boxes / np.array([width, height, width, height], np.float32)
        area = (scaled[:, 2] - scaled[:, 0]) * (scaled[:, 3] - scaled[:, 1])
        return np.concatenate([scaled, area[:, None]], 1)

    def _where(self) -> str:
        return "" if self.image_id is None else f" of image {self.image_id!r}"

    def _floats(self, name: str, value: Any, shape: tuple[int | None, ...], dtype: type | None = None) -> np.ndarray:
        array = _array(value)
        if array is None:
            raise ValueError(f"{name}{self._where()} must be an array, got rows of unequal lengths.")
        if array.ndim != len(shape) or any(want is not None and want != got for want, got in zip(shape, array.shape)):
            wanted = ", ".join("any" if want is None else str(want) for want in shape)
            raise ValueError(f"{name}{self._where()} must have shape [{wanted}], got {list(array.shape)}.")
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{name}{self._where()} must hold numbers, got dtype {array.dtype}.")
        if dtype is not None or array.dtype.kind != "f":
            array = array.astype(dtype or np.float32)
        if not np.isfinite(array).all():
            rows = np.unique(np.argwhere(~np.isfinite(array))[:, 0])
            raise ValueError(f"{name}{self._where()} hold NaN or infinity, in rows {rows[:10].tolist()}.")
        return array

    def _check_boxes(self):
        x1, y1, x2, y2 = self.boxes.T
        width, height = self.image_size
        for problem, wrong in (
            ("upside down (x2 < x1 or y2 < y1)", (x2 < x1) | (y2 < y1)),
            (
                f"outside their image of {width} x {height} pixels",
                (x1 < -SLACK) | (y1 < -SLACK) | (x2 > width + SLACK) | (y2 > height + SLACK),
            ),
        ):
            if wrong.any():
                first = int(np.argmax(wrong))
                raise ValueError(
                    f"boxes{self._where()}: {int(wrong.sum())} of {len(wrong)} are {problem}, the first is number "
                    f"{first}: {self.boxes[first].tolist()} as (x1, y1, x2, y2). Is box_format the right one of "
                    f"{list(BOX_FORMATS)}, and are they pixels?"
                )
        if within_a_pixel(self):
            logger.warning_once(
                "The boxes of an image lie within one pixel. If they are shares of the image, multiply them by its "
                "width and height, or give image_size=(1, 1)."
            )


def within_a_pixel(regions: Regions) -> bool:
    """Whether boxes are probably shares of an image that is said to have more pixels than one."""
    return len(regions) > 1 and min(regions.image_size) > 2 and bool(regions.boxes.max() <= 1)


def concatenate_regions(records: Sequence[Regions]) -> Regions:
    """The regions of one image from several records, such as a detector's and given ones, in their order.

    Regions without a score count as certain beside those that have one: they get 1, or the greatest score of the
    others if that is more. Class distributions, labels and attributes stay if all records have them (and the
    distributions one width); a record without any region is not asked. The source names each of theirs, the image id
    is that of the first.

    Raises:
        ValueError: if there is no record, or they differ in image size or in the width of their features.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_vilbert.regions_vilbert import Regions, concatenate_regions
    >>> found = Regions([[0, 0, 50, 80]], np.ones((1, 8)), image_size=(100, 80), scores=[0.5], source="a detector")
    >>> given = Regions([[5, 5, 9, 9]], np.ones((1, 8)), image_size=(100, 80), source="given boxes")
    >>> both = concatenate_regions([found, given])
    >>> both.boxes.tolist(), both.scores.tolist(), both.source
    ([[0.0, 0.0, 50.0, 80.0], [5.0, 5.0, 9.0, 9.0]], [0.5, 1.0], 'a detector + given boxes')

    ```
    """
    if len(records) == 0:
        raise ValueError("records must be the regions of an image from at least one place, got none.")
    first, filled = records[0], [record for record in records if len(record)] or records[:1]
    for what, group, value_of in (
        ("image sizes", records, lambda record: record.image_size),
        ("feature widths", filled, lambda record: record.features.shape[1]),
    ):
        for other in group:
            if value_of(other) != value_of(group[0]):
                raise ValueError(
                    f"records must be of one image, seen in one way; their {what} differ: {value_of(group[0])} of "
                    f"image {group[0].image_id!r} ({group[0].source}), {value_of(other)} of image "
                    f"{other.image_id!r} ({other.source})."
                )

    joined = {name: np.concatenate([getattr(record, name) for record in filled]) for name in ("boxes", "features")}
    for name in ("class_probs", "attribute_scores", "labels", "attributes"):
        values = [getattr(record, name) for record in filled]
        if any(value is None for value in values):
            continue
        if name in ("labels", "attributes"):
            joined[name] = [
                item for value in values for item in (value.tolist() if hasattr(value, "tolist") else value)
            ]
        elif len({value.shape[1:] for value in values}) == 1:
            joined[name] = np.concatenate(values)
    known = [record.scores for record in filled if record.scores is not None]
    if known:
        certain = np.concatenate(known).max(initial=1)
        scores = (np.full(len(one), certain, np.float32) if one.scores is None else one.scores for one in filled)
        joined["scores"] = np.concatenate(list(scores))
    sources = dict.fromkeys(record.source for record in records if record.source is not None)
    return Regions(**joined, image_size=first.image_size, image_id=first.image_id, source=" + ".join(sources) or None)


def _array(value: Any) -> np.ndarray | None:
    """A list, array or torch tensor as an array; None for a ragged list."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16.
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        return np.asarray(value)
    except ValueError:
        return None
