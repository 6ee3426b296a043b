# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Where to look in an image: an image of any kind opened, and boxes by a grid, by hand or by a detector.

How many boxes a detector gives follows Anderson et al., "Bottom-Up and Top-Down Attention", CVPR 2018: all above a
score, at least and at most so many.

Shapes: N boxes, K classes, H x W pixels.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from .backbones import DETECTORS, load
from .optional_packages import need


# --- Images


def open_image(image: Any) -> Any:
    """Any kind of image as a PIL image in RGB: the pixels that boxes refer to, and what to draw on.

    A rotation in the EXIF data is applied, transparency is laid on white, greyscale and palettes become RGB, of several
    frames the first is taken. Pillow's guard against decompression bombs stays on, and is an error here.

    Args:
        image: a path, a PIL image, an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], or a tensor [C, H, W] with 1, 3
            or 4 channels. Arrays and tensors hold 0 to 255 as uint8, or 0 to 1 as floats.

    Raises:
        ValueError: if it is no such image, or cannot be decoded; a path is named.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_vilbert.proposals import open_image
    >>> open_image(np.zeros((2, 3, 4), np.uint8)).getpixel((0, 0))  # transparent
    (255, 255, 255)

    ```
    """
    pil = need("PIL.Image")
    if isinstance(image, (str, Path)):
        return _decode(lambda: pil.open(image), f"{image}")
    if isinstance(image, (np.ndarray, Tensor)):
        return _decode(lambda: pil.fromarray(_pixels(image)), "The array")
    if not isinstance(image, pil.Image):
        raise ValueError(
            f"An image must be a path, a PIL image, an array [H, W, 3] or a tensor [3, H, W], got "
            f"{type(image).__name__}."
        )
    return _decode(lambda: image, "The PIL image")


def _decode(open_it: Callable[[], Any], name: str) -> Any:
    pil, operations = need("PIL.Image"), need("PIL.ImageOps")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pil.DecompressionBombWarning)
            image = open_it()
            # A 16-bit picture is clipped by Pillow's own conversion.
            if image.mode.startswith("I;16"):
                image = pil.fromarray((np.asarray(operations.exif_transpose(image)) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"its mode {image.mode!r} has no fixed range; convert it to 8 bits")
            image = operations.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
    # Decoders of hostile bytes raise whatever comes: OSError, SyntaxError, struct.error, zlib.error, KeyError, ...
    except Exception as error:
        known = {FileNotFoundError: "there is no such file", pil.UnidentifiedImageError: "it is in no known format"}
        reason = known.get(type(error), f"{type(error).__name__}: {error}")
        raise ValueError(f"{name} cannot be read as an image: {reason}.") from error


def _pixels(image: np.ndarray | Tensor) -> np.ndarray:
    """[H, W] or [H, W, 3 or 4] uint8."""
    shape = list(image.shape)
    if isinstance(image, Tensor):
        image = image.detach().float().cpu().numpy() if image.is_floating_point() else image.detach().cpu().numpy()
        if image.ndim == 3:
            image = image.transpose(1, 2, 0)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim not in (2, 3) or image.size == 0 or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise ValueError(f"an array must be [H, W], [H, W, 1 or 3 or 4], a tensor [1 or 3 or 4, H, W], got {shape}")
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    # `not (...)` also finds NaN.
    if image.dtype.kind != "f" or not ((image >= 0) & (image <= 1)).all():
        raise ValueError(f"pixels must be uint8, or floats from 0 to 1, got {image.dtype} beyond that")
    return (image * 255).round().astype(np.uint8)


def to_tensor(picture: Any) -> Tensor:
    """A PIL image in RGB -> [3, H, W] uint8."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


# --- Proposals: where to look


@dataclass(frozen=True)
class Grid:
    """Rows times columns equal boxes that tile the image, row by row.

    Example:

    ```python
    >>> from PIL import Image
    >>> from modeling_vilbert.extraction import Grid
    >>> Grid(1, 2).propose(Image.new("RGB", (100, 80)))["boxes"].tolist()
    [[0.0, 0.0, 50.0, 80.0], [50.0, 0.0, 100.0, 80.0]]

    ```
    """

    rows: int = 6
    columns: int = 6

    def __post_init__(self):
        if min(self.rows, self.columns) < 1:
            raise ValueError(f"A grid needs at least one row and one column, got {self.rows} x {self.columns}.")

    def propose(self, image: Any) -> dict:
        """A PIL image -> `boxes` [N, 4] in pixels, (x1, y1, x2, y2)."""
        xs = np.linspace(0, image.width, self.columns + 1)
        ys = np.linspace(0, image.height, self.rows + 1)
        x1, y1 = (edge.ravel() for edge in np.meshgrid(xs[:-1], ys[:-1]))
        x2, y2 = (edge.ravel() for edge in np.meshgrid(xs[1:], ys[1:]))
        return {"boxes": np.stack([x1, y1, x2, y2], -1)}

    def __str__(self) -> str:
        return f"grid {self.rows} x {self.columns}"


@dataclass(frozen=True)
class GivenBoxes:
    """The boxes come with each call: `extractor(image, boxes=…)`; without them it is an error.

    Example:

    ```python
    >>> import torch
    >>> from PIL import Image
    >>> from modeling_vilbert.extraction import GivenBoxes, RegionExtractor
    >>> extractor = RegionExtractor(torch.nn.AvgPool2d(32), GivenBoxes())
    >>> extractor(Image.new("RGB", (64, 48)), boxes=[[8, 8, 16, 24]], box_format="xywh").boxes.tolist()
    [[8.0, 8.0, 24.0, 32.0]]

    ```
    """

    def propose(self, image: Any) -> dict:
        raise ValueError("This extractor has no proposals of its own: give boxes, as extractor(image, boxes=…).")

    def __str__(self) -> str:
        return "given boxes"


class Detector:
    """Boxes of a detection model, as in bottom-up attention: after non-maximum suppression in each class, all boxes
    above a score, but at least and at most so many, the best.

    The model sees one image at a time, so that a batch gives what single images give. If it returns fewer than
    `min_boxes` boxes there are fewer; torchvision's models drop those below their own `box_score_thresh` before.

    Args:
        model: a torchvision detection model, a Transformers object-detection model, or the name of one:
            "torchvision:NAME" or "transformers:NAME_OR_FOLDER". It is put into eval mode.
        score_threshold: keep boxes with at least this score.
        nms: of two boxes of one class that overlap by more than this IoU, the better stays; 1 keeps all.
        min_boxes: if fewer are above the threshold, the best below it are taken too.
        max_boxes: at most so many, the best.
        image_processor: of a Transformers model. Default: that of the name.
        class_names: a name for each label. Default: those that the model or its weights know, else labels are numbers.
        long_side: larger images are reduced to this many pixels before; 1333 is what such models themselves do. Strips
            narrower than 1:20 are widened to it.

    Raises:
        ValueError: if the model is of neither kind, or a number makes no sense.

    Example:

    ```python
    >>> import torch
    >>> from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
    >>> from PIL import Image
    >>> from modeling_vilbert.extraction import Detector
    >>> model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, box_score_thresh=0)
    >>> detector = Detector(model, min_boxes=3, max_boxes=5)
    >>> 3 <= len(detector.propose(Image.new("RGB", (100, 80)))["boxes"]) <= 5
    True

    ```
    """

    def __init__(
        self,
        model: Any,
        score_threshold: float = 0.2,
        nms: float = 0.5,
        min_boxes: int = 10,
        max_boxes: int = 36,
        image_processor: Any = None,
        class_names: Sequence[str] | None = None,
        long_side: int = 1333,
    ):
        if not 0 <= min_boxes <= max_boxes or max_boxes < 1:
            raise ValueError(f"0 <= min_boxes <= max_boxes must hold, got {min_boxes} and {max_boxes}.")
        if not 0 < nms <= 1:
            raise ValueError(f"nms must be an overlap above 0 and at most 1, got {nms}.")
        self.settings = {
            "score_threshold": score_threshold,
            "nms": nms,
            "min_boxes": min_boxes,
            "max_boxes": max_boxes,
            "long_side": long_side,
            "class_names": class_names if class_names is None else list(class_names),
        }
        self.name = model if isinstance(model, str) else None
        if self.name is not None:
            if image_processor is not None:
                raise ValueError(
                    f"The name {self.name!r} brings its own image_processor; give the model to use another."
                )
            loaded = load(self.name, DETECTORS, "detector")
            model, image_processor = loaded["model"], loaded.get("image_processor")
            class_names = class_names or loaded.get("class_names")
        self.model, self.image_processor = model.eval(), image_processor
        self.is_transformers = isinstance(model, PreTrainedModel)
        if self.is_transformers and not hasattr(image_processor, "post_process_object_detection"):
            raise ValueError(
                f"A Transformers detector needs image_processor, with post_process_object_detection; for "
                f"{type(model).__name__} got {type(image_processor).__name__}."
            )
        if class_names is None and self.is_transformers:
            class_names = model.config.id2label
        self.class_names = class_names

    @torch.inference_mode()
    def propose(self, image: Any) -> dict:
        """A PIL image -> `boxes` [N, 4] in pixels (x1, y1, x2, y2), `scores` [N] descending and N `labels`."""
        ops = need("torchvision.ops")
        settings, (width, height) = self.settings, image.size
        scale = min(1.0, settings["long_side"] / max(width, height))
        # Detectors fail on a strip whose short side vanishes when they resize it.
        least = scale * max(width, height) / 20
        size = tuple(max(1, round(max(side * scale, least))) for side in (width, height))
        if size != image.size:
            image = image.resize(size)
        found = self._detect(image)
        boxes, scores, labels = found["boxes"].float().cpu(), found["scores"].float().cpu(), found["labels"].cpu()
        boxes = boxes * torch.tensor([width / image.width, height / image.height] * 2)
        boxes = ops.clip_boxes_to_image(boxes, (height, width))
        # A box beyond the edge has no area left, and a diverged model gives NaN.
        whole = (boxes[:, 2:] > boxes[:, :2]).all(1) & scores.isfinite()
        boxes, scores, labels = boxes[whole], scores[whole], labels[whole]
        kept = ops.batched_nms(boxes, scores, labels, settings["nms"])
        above = int((scores[kept] >= settings["score_threshold"]).sum())
        kept = kept[: min(max(above, settings["min_boxes"]), settings["max_boxes"])]
        found_labels = labels[kept].tolist()
        if self.class_names is not None:
            if found_labels and max(found_labels) >= len(self.class_names):
                raise ValueError(
                    f"The detector gives label {max(found_labels)}, and there are {len(self.class_names)} class_names."
                )
            found_labels = [self.class_names[label] for label in found_labels]
        return {"boxes": boxes[kept].numpy(), "scores": scores[kept].numpy(), "labels": found_labels}

    def _detect(self, image: Any) -> Mapping[str, Tensor]:
        device = next(self.model.parameters()).device
        if not self.is_transformers:
            (found,) = self.model([to_tensor(image).to(device) / 255])
            return found
        inputs = self.image_processor(images=image, return_tensors="pt").to(device)
        # A threshold below all scores: which boxes stay is decided above.
        (found,) = self.image_processor.post_process_object_detection(
            self.model(**inputs), threshold=-1.0, target_sizes=[(image.height, image.width)]
        )
        return found

    def __str__(self) -> str:
        settings = self.settings
        return (
            f"{self.name or type(self.model).__name__} boxes at {settings['long_side']} px, score "
            f"{settings['score_threshold']}, nms {settings['nms']}, {settings['min_boxes']} to {settings['max_boxes']}"
        )


# What a saved extractor calls them.
PROPOSALS = {"grid": Grid, "given": GivenBoxes, "detector": Detector}
