# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The formats in which people have region features, one row of `FORMATS` each.

A row names its container (a `Reader`: text lines, LMDB, a folder of files, H5, ...), how its first record tells it from
others in that container, and which fields that record holds under which names. To read one more format, add a row.

Layouts are those of the tools that write them: bottom-up-attention and LXMERT (TSV), vilbert_beta and 12-in-1 (LMDB,
npy), MMF, VOLTA, Oscar and VinVL, VLN-BERT, bottom-up-attention.pytorch, UNITER, tensorpack, and Transformers' former
detector.

Shapes: N regions, F feature size, P regions after padding, S images of a file.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .region_containers import (
    TENSORPACK,
    ArrowReader,
    DetectionsReader,
    H5Reader,
    LmdbReader,
    NpyReader,
    NpzReader,
    OscarReader,
    TensorpackReader,
    TsvReader,
    VlnReader,
    named,
    said,
)
from .region_records import FieldError, Reader, RecordError, decoded
from .region_table import TableReader


VLN = (
    *("scanId", "viewpointId", "image_w", "image_h", "vfov", "features", "boxes", "cls_prob", "attr_prob"),
    *("featureViewIndex", "featureHeading", "featureElevation", "viewHeading", "viewElevation"),
)
BUA = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)
DETECTIONS = {
    "features": "roi_features",
    "scores": "obj_probs",
    "labels": "obj_ids",
    "attribute_scores": "attr_probs",
    "attributes": "attr_ids",
}


def _as_stored(raw: Mapping) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise ValueError(f"it holds {type(raw).__name__} where a dict of fields belongs.")
    return dict(raw)


def _mmf(raw: Mapping) -> dict[str, Any]:
    fields = _as_stored(raw)
    fields.setdefault("labels", fields.pop("objects", None))
    if np.ndim(fields.get("cls_prob")) == 1:
        # The frcnn script stores the size that its detector saw, beside boxes in pixels of the true one.
        sides = fields.pop("image_width", None), fields.pop("image_height", None)
        fields["resized_size"] = None if None in sides else sides
    boxes = np.asarray(fields.get("bbox"))
    if boxes.shape[1:] == (6,):
        # VinVL's: shares of the image, which stand behind the features, too.
        features = np.asarray(fields["features"])
        if features[:, -6:].shape != boxes.shape or not np.allclose(features[:, -6:], boxes, atol=1e-3):
            raise FieldError("features", "their last 6 columns are not those of bbox.")
        fields.update(features=features[:, :-6].copy(), normalized_boxes=boxes, bbox=None)
    return fields


def _vinvl(values: list[str]) -> dict[str, Any]:
    fields = named(("image_id", "json"))(values)
    try:
        content = json.loads(fields.pop("json"))
    except ValueError as error:
        raise FieldError("json", f"it is no JSON ({error}); has the line been cut?") from error
    if isinstance(content, dict) and "objects" not in content and "num_boxes" in content:
        # As Oscar's captioning reads them: shares of the image stand behind the features.
        features = decoded("features", content["features"])
        if not content["num_boxes"] or features.size % content["num_boxes"]:
            raise FieldError("features", f"{features.size} numbers are not those of {content['num_boxes']} regions.")
        features = features.reshape(content["num_boxes"], -1)
        return {**fields, "features": features[:, :-6].copy(), "normalized_boxes": features[:, -6:]}
    objects = content.get("objects") if isinstance(content, dict) else content
    if not objects:
        raise FieldError("objects", "there are none.")
    for side in ("image_w", "image_h"):
        if isinstance(content, dict) and side in content:
            fields[side] = content[side]
    try:
        fields["features"] = np.stack([decoded("features", item["feature"]) for item in objects])
        fields["boxes"] = np.array([item["rect"] for item in objects], np.float32)
        fields["scores"] = np.array([item["conf"] for item in objects], np.float32)
        fields["labels"] = [item["class"] for item in objects]
    except KeyError as error:
        raise FieldError(error.args[0], "an object of the record does not have it.") from error
    return fields


def _milvlg(raw: Mapping) -> dict[str, Any]:
    fields = _as_stored(raw)
    info = fields["info"] if isinstance(fields.get("info"), Mapping) else {}
    features, boxes = np.asarray(fields.pop("x")), np.asarray(fields["bbox"])
    # What OpenVQA offers for download is [F, N].
    if len(features) != len(boxes) and features.ndim == 2 and features.shape[1] == len(boxes):
        features = np.ascontiguousarray(features.T)
    fields.pop("num_bbox", None)
    return {"labels": info.get("objects"), **info, **fields, "features": features}


def _frcnn(raw: Mapping) -> dict[str, Any]:
    """Cuts the padding off. `sizes` are those of the resized image; the true one shows in boxes / normalized_boxes."""
    count = len(raw["roi_features"]) if "preds_per_image" not in raw else int(np.ravel(raw["preds_per_image"])[0])
    padded = len(raw["roi_features"])
    if count > padded:
        raise FieldError("preds_per_image", f"it says {count} regions, and roi_features hold {padded}.")
    cut = {name: value[:count] for name, value in raw.items() if np.ndim(value) and len(value) == padded}
    fields = {name: cut.get(stored) for name, stored in DETECTIONS.items()}
    boxes, shares = cut.get("boxes"), cut.get("normalized_boxes")
    if boxes is not None and (boxes <= 1).all():
        boxes, shares = None, boxes
    if boxes is not None and shares is not None and count:
        size = (boxes[:, 2:].max(0) / np.maximum(shares[:, 2:], 1e-9).max(0)).astype(np.float64)
        if not np.allclose(boxes / np.array([*size, *size]), shares, atol=2e-3):
            raise FieldError(
                "normalized_boxes",
                "they do not agree with boxes on an image size; batches of several images are normalised wrongly.",
            )
        fields["image_w"], fields["image_h"] = np.where(np.abs(size - size.round()) < 0.02, size.round(), size).tolist()
    elif boxes is None and "sizes" in raw:
        height, width = np.ravel(raw["sizes"])[:2].tolist()
        fields["resized_size"] = (width, height)
    return {**fields, "boxes": boxes, "normalized_boxes": shares if boxes is None else None}


@dataclass(frozen=True)
class Format:
    """A row of `FORMATS`.

    Args:
        name: what `open_regions(format=...)` calls it.
        about: what writes it, and what to know of it.
        reader: its container.
        recognise: whether a container's first record is of this format.
        fields: the first record, or any, as a dict of fields under the names of `region_records.FIELDS`.
    """

    name: str
    about: str
    reader: type[Reader]
    recognise: Callable[[Any], bool]
    fields: Callable[[Any], dict[str, Any]] = _as_stored


def _columns(count: int) -> Callable[[list], bool]:
    return lambda values: len(values) == count


def _has(*names: str, text: str | None = None) -> Callable[[Any], bool]:
    """Dicts with all `names`; with `text`, those in which that one is text."""
    return lambda raw: (
        isinstance(raw, (Mapping, set))
        and set(names) <= set(raw)
        and (text is None or isinstance(raw[text], (str, bytes)))
    )


# Of several rows that recognise a record, the first counts.
FORMATS = (
    Format(
        "table", "our own: Arrow files that `datasets` opens, too", TableReader, _has("image_id", "boxes", "features")
    ),
    Format("bua-tsv", "bottom-up-attention, 6 columns", TsvReader, _columns(6), named(BUA)),
    Format("bua-tsv-cls-prob", "its kin with class distributions", TsvReader, _columns(7), named((*BUA, "cls_prob"))),
    Format("lxmert-tsv", "LXMERT, 10 columns, height before width", TsvReader, _columns(10), named(LXMERT)),
    Format("volta-tsv", "VOLTA's: LXMERT's and cls_prob", TsvReader, _columns(11), named((*LXMERT, "cls_prob"))),
    Format("oscar-tsv", "Oscar and VinVL features, with boxes if 2054 wide", OscarReader, _columns(3)),
    Format("vinvl-tsv", "VinVL predictions, JSON", TsvReader, _columns(2), _vinvl),
    Format("vln-tsv", "VLN-BERT: panoramas, 14 columns", VlnReader, _columns(14), named(VLN)),
    Format("vilbert-lmdb", "vilbert_beta: TSV rows, base64", LmdbReader, _has("features", text="features")),
    Format("mmf-lmdb", "MMF: arrays, keys may be paths", LmdbReader, _has("features", "feature_path"), _mmf),
    Format("uniter-lmdb", "UNITER: msgpack or npz, boxes as shares", LmdbReader, _has("features", "norm_bb")),
    Format("12in1-lmdb", "12-in-1: arrays; num_boxes is ignored", LmdbReader, _has("features")),
    Format(
        "tensorpack-lmdb",
        "vilbert_beta's pre-training store, by running number; the caption stays behind",
        TensorpackReader,
        lambda raw: isinstance(raw, list) and len(raw) == len(TENSORPACK),
        named(TENSORPACK),
    ),
    Format("volta-h5", "VOLTA: a group for each image", H5Reader, _has("features")),
    Format("mmf-npy", "MMF: features, and the rest in _info.npy", NpyReader, _has("features", "_info"), _mmf),
    Format("12in1-npy", "12-in-1: dicts; `objects` is wrong in them and left out", NpyReader, _has("features")),
    Format("milvlg-npz", "bottom-up-attention.pytorch", NpzReader, _has("x", "bbox"), _milvlg),
    Format("uniter-npz", "UNITER: boxes as shares of the image", NpzReader, _has("features", "norm_bb")),
    Format("frcnn", "dicts of Transformers' former detector", DetectionsReader, _has("roi_features"), _frcnn),
    Format("frcnn-arrow", "and what its script exports", ArrowReader, _has("roi_features", "img_id"), _frcnn),
)


def find_format(path: Path, name: str | None = None) -> Format:
    """The row of `FORMATS` that recognises `path`, or the one called `name`.

    Raises:
        ValueError: if no row does, or there is no such name.
    """
    if name is not None:
        for row in FORMATS:
            if row.name == name:
                return row
        raise ValueError(f"format must be one of {[row.name for row in FORMATS]}, got {name!r}.")
    samples, problems = {}, []
    for row in FORMATS:
        if row.reader not in samples:
            try:
                samples[row.reader] = row.reader.sample(path)
            except ImportError:
                raise
            # Whatever damage makes a container's library raise.
            except Exception as error:
                if not isinstance(error, RecordError):
                    error = RecordError(path, None, None, f"it cannot be read: {said(error)}")
                samples[row.reader] = None
                problems.append(error)
        sample = samples[row.reader]
        if sample is not None and row.recognise(sample):
            return row
    if problems:
        raise problems[0]
    raise ValueError(
        f"path {path} is in none of the formats {[row.name for row in FORMATS]}. If it should be, name it by format=..."
    )
