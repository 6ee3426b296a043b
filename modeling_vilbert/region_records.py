# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What every reader of stored regions shares: field names, the way from raw fields to `Regions`, and errors.

Shapes: N regions, F feature size, C detector classes.
"""

import base64
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from .regions_vilbert import Regions


logger = logging.get_logger(__name__)


# Field of a record -> the names it has in the feature files of the field.
FIELDS = {
    "image_id": ("image_id", "img_id"),
    "width": ("width", "image_w", "img_w", "image_width"),
    "height": ("height", "image_h", "img_h", "image_height"),
    # What the detector saw: as good as the true size for boxes that are stored as shares of the image.
    "resized_size": ("resized_size",),
    "count": ("num_boxes", "num_bbox"),
    "boxes": ("boxes", "bbox"),
    "normalized_boxes": ("normalized_boxes", "norm_bb"),
    "features": ("features",),
    "class_probs": ("class_probs", "cls_prob", "soft_labels"),
    "labels": ("labels", "objects_id", "obj_id"),
    "scores": ("scores", "objects_conf", "obj_conf", "conf"),
    "attributes": ("attributes", "attrs_id", "attr_id"),
    "attribute_scores": ("attribute_scores", "attrs_conf", "attr_conf"),
    "source": ("source",),
}
# Fields that a record may lack -> their columns: None for any number, 0 for one value of each region.
OPTIONAL = {"class_probs": None, "labels": 0, "scores": 0, "attributes": 0, "attribute_scores": 0}
# What a base64 string of each field holds.
BASE64_DTYPES = dict.fromkeys(("labels", "attributes"), np.dtype("<i8"))
MISSING_BOXES = ("error", "whole_image")
# Of the files that ids are named after.
ENDINGS = re.compile(r"(\.(jpe?g|png|gif|bmp|tiff?|webp|np[yz]))+$", re.IGNORECASE)


class RecordError(ValueError):
    """A record that cannot be read.

    Args:
        file: the file it is in.
        record: which one: its line, key or image id; None where the file itself is at fault.
        field: what of it is wrong, as far as known.
        problem: what is wrong with it.
    """

    def __init__(
        self, file: str | Path, record: str | None = None, field: str | None = None, problem: str | None = None
    ):
        self.file, self.record, self.field, self.problem = str(file), record, field, problem
        super().__init__(self.file, record, field, problem)

    def __str__(self) -> str:
        # A DataLoader raises what a worker raised anew, with the whole message as the only argument.
        if self.problem is None:
            return self.file
        place = [self.file]
        if self.record is not None:
            place.append(f"record {self.record}")
        if self.field is not None:
            place.append(f"field {self.field}")
        return f"{', '.join(place)}: {self.problem}"


class FieldError(ValueError):
    """A field that cannot be read; whoever knows the file and the record makes a `RecordError` of it."""

    def __init__(self, field: str, problem: str):
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}")


class Reader:
    """Finds the records of a file or folder, and reads them as dicts of raw fields.

    Its attributes are what a process needs to read on: file handles are made anew in the process that asks for them.
    """

    # Whether the stored number of boxes is to be believed, or only arrays are.
    counts_matter = False

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def sample(cls, path: Path) -> Any:
        """What tells the formats of this container apart, in its first record; None if it is no such container."""
        raise NotImplementedError

    def index(self) -> Iterator[tuple[str, Any] | RecordError]:
        """The id of each record and the place where `fields` finds it, in file order, or why it has none."""
        raise NotImplementedError

    def fields(self, place: Any) -> Any:
        """What is stored there."""
        raise NotImplementedError

    def count(self, place: Any) -> int | None:
        """How many regions are stored there, where that is known without reading them."""
        return None

    def locate(self, image_id: str, place: Any) -> tuple[str | Path, str]:
        """The file and the name of a record, for messages."""
        return self.path, repr(image_id)


def as_id(value: Any) -> str:
    """An image id as text: 42, np.int64(42), "42" and b"42" are the same image."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (str, int, os.PathLike)) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"image_id must be a number or text, got {value!r}.")


def to_regions(
    raw: Mapping[str, Any],
    image_id: str,
    counts_matter: bool = False,
    missing_boxes: str = "error",
    image_size: tuple[float, float] | None = None,
    unit_square: bool = True,
    source: str | None = None,
) -> Regions:
    """Stored fields, under any of their names in `FIELDS`, as `Regions`.

    Arrays may be arrays, lists, or base64 of float32 (labels and attributes: int64). Boxes are (x1, y1, x2, y2), in
    pixels or, as `normalized_boxes`, as shares of the image. Without a known size the image of the latter is the unit
    square, if `unit_square` allows it.

    Raises:
        ValueError: if a field is missing or does not fit the others, with its name in front.
    """
    fields = {name: _first(raw, aliases) for name, aliases in FIELDS.items()}
    stored_id = fields["image_id"]
    if stored_id is not None and not _same_image(as_id(stored_id), image_id):
        raise FieldError("image_id", f"it is stored under {image_id!r}, but says {as_id(stored_id)!r}.")
    if fields["features"] is None:
        raise FieldError("features", f"there are none; stored are {sorted(map(str, raw))}.")

    count = _count(fields, counts_matter)
    features = folded("features", fields["features"], count, None)
    boxes, shares = folded("boxes", fields["boxes"], count, 4), fields["normalized_boxes"]
    if np.ndim(fields["class_probs"]) == 1 and len(fields["class_probs"]) == count:
        # The Transformers detector in MMF's layout keeps one probability of each region there.
        fields["scores"], fields["class_probs"] = fields["class_probs"], None

    size = _image_size(fields, image_size)
    if size is None and fields["resized_size"] is not None:
        size = fields["resized_size"]
        if boxes is not None:
            logger.warning_once(
                "The records hold the size that their detector saw, which may not be that of the image, whose pixels "
                "their boxes are in: give image_sizes={id: (width, height), ...} to be sure of the places of regions."
            )
    if size is None and boxes is None and unit_square:
        size = (1, 1)
    if size is None:
        raise FieldError("image_size", f"it is not stored. Give image_sizes={{{image_id!r}: (width, height), ...}}.")
    if boxes is None and shares is not None:
        shares = folded("normalized_boxes", shares, count, None)[:, :4].astype(np.float32)
        if shares.size and (shares.min() < -0.01 or shares.max() > 1.01):
            raise FieldError(
                "normalized_boxes",
                f"shares of an image lie from 0 to 1, got some from {shares.min():g} to {shares.max():g}.",
            )
        boxes = shares * np.array([*size, *size], np.float32)
    elif boxes is None:
        if missing_boxes != "whole_image":
            raise FieldError(
                "boxes", 'there are none. missing_boxes="whole_image" takes every region for the whole image.'
            )
        boxes = np.tile(np.array([0, 0, *size], np.float32), (count, 1))
    for name in ("attributes", "attribute_scores"):
        # Distributions over all attributes stay behind.
        fields[name] = None if np.ndim(fields[name]) > 1 else fields[name]
    optional = {name: _optional(name, fields[name], count, width) for name, width in OPTIONAL.items()}
    return Regions(boxes, features, size, **optional, image_id=image_id, source=source or fields["source"])


def _first(raw: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((raw[name] for name in names if raw.get(name) is not None), None)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(item, str) for item in value)


def _same_image(stored: str, key: str) -> bool:
    """Whether two names are of one image: the same, or one the other's end, as 139 is of COCO_train2014_000000000139.

    Stores are keyed by file names, by numbers in them, and by paths. Folders and endings do not count, nor do zeros in
    front of a number.
    """
    if stored == key:
        return True
    stems = [ENDINGS.sub("", Path(name).name) for name in (stored, key)]
    parts = [[part.lstrip("0") for part in re.findall(r"\d+|[^\W\d_]+", stem.lower())] for stem in stems]
    shorter, longer = sorted(parts, key=len)
    return stems[0] == stems[1] or (len(shorter) > 0 and longer[-len(shorter) :] == shorter)


def _image_size(fields: Mapping[str, Any], given: tuple[float, float] | None) -> tuple[float, float] | None:
    size = []
    for name in ("width", "height"):
        try:
            size.append(None if fields[name] is None else float(fields[name]))
        except (TypeError, ValueError) as error:
            raise FieldError(name, f"it must be a number of pixels, got {fields[name]!r:.80}.") from error
    if None in size:
        return tuple(given) if given is not None else None
    if given is not None and tuple(size) != tuple(given):
        raise FieldError(
            "image_size", f"stored is {tuple(size)}, image_sizes says {tuple(given)}. Is this the file of other images?"
        )
    return tuple(int(side) if side.is_integer() else side for side in size)


def decoded(name: str, value: Any) -> np.ndarray | None:
    """The array of a field, flat if it was base64. A column that is left empty has none, if a record may lack it."""
    if value is None or (name in OPTIONAL and isinstance(value, (str, bytes)) and not value):
        return None
    if isinstance(value, (str, bytes)):
        dtype = BASE64_DTYPES.get(name, np.dtype("<f4"))
        try:
            data = base64.b64decode(value, validate=True)
        except ValueError as error:
            raise FieldError(name, f"it is not base64 ({error}); has the line been cut?") from error
        if len(data) % dtype.itemsize:
            raise FieldError(name, f"its {len(data)} bytes are no whole number of {dtype} values; has it been cut?")
        return np.frombuffer(data, dtype).copy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise FieldError(name, "its rows are of unequal lengths.") from error


def _count(fields: dict[str, Any], counts_matter: bool) -> int:
    """N. Base64 is decoded on the way, since it says how long an array is."""
    for name in ("boxes", "features", *OPTIONAL):
        if not _is_list_of_text(fields[name]):
            fields[name] = decoded(name, fields[name])
    # Base64 has no shape of its own.
    if fields["count"] is not None and (counts_matter or fields["features"].ndim == 1):
        try:
            return int(fields["count"])
        except (TypeError, ValueError) as error:
            raise FieldError("num_boxes", f"it must be a whole number, got {fields['count']!r:.80}.") from error
    boxes, features = fields["boxes"], fields["features"]
    if features.ndim == 2:
        return len(features)
    if boxes is not None:
        return boxes.size // 4
    if fields["count"] is not None:
        return int(fields["count"])
    raise FieldError("features", f"they must have shape [N, F], got {list(features.shape)}.")


def folded(name: str, array: np.ndarray | None, count: int, width: int | None) -> np.ndarray | None:
    """[count, width], or [count] for width 0; None for any width. A flat array is folded."""
    if array is None:
        return None
    array = np.asarray(array)
    if array.ndim == 1 and width != 0:
        if count == 0 or array.size % count or (width and array.size != count * width):
            if array.size == 0 and count == 0:
                return array.reshape(0, width or 0)
            raise FieldError(name, f"{array.size} numbers do not make {count} regions" + f" of {width}." * bool(width))
        array = array.reshape(count, -1)
    if len(array) != count:
        raise FieldError(name, f"it holds {len(array)} rows, and the record has {count} regions.")
    return array


def _optional(name: str, value: Any, count: int, width: int | None) -> Any:
    return list(value) if _is_list_of_text(value) else folded(name, value, count, width)
