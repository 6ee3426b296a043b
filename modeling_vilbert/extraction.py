# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""From pixels to `Regions`: boxes by a grid, by hand or by a detector, and features of any backbone.

Reading order: images, proposals (where to look), `RegionExtractor` (what a backbone sees there; backbones.py holds
those). `bulk_extraction.py` does it for many images. How many boxes a detector gives follows Anderson et al.,
"Bottom-Up and Top-Down Attention", CVPR 2018: all above a score, at least and at most so many.

Shapes: B images, N regions, C feature size, K classes, H x W pixels, h x w cells of a map.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbones import BACKBONES, DETECTORS, adapt, load, names, probe_images
from .optional_packages import need
from .regions_vilbert import BOX_FORMATS, Regions


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
    >>> from modeling_vilbert.extraction import open_image
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
            (found,) = self.model([_to_tensor(image).to(device) / 255])
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


# --- Both together: regions


class RegionExtractor:
    r"""Turns images into `Regions`: proposals say where to look, the backbone what is there.

    An image is resized so that its sides are multiples of `size_divisor`, the backbone makes a map of it, and the
    region's feature is the mean of the map inside its box (`torchvision.ops.roi_align`, aligned, one bin). Boxes are
    carried over to the map by the sizes that image and map really have, each axis on its own, so that resizing,
    rounding and a model's own size move nothing. A region whose edges fall between cells is their exact mean; one that
    cuts through cells is interpolated; the whole image is the mean of the map. Cell (i, j) stands for its share of the
    image: what a convolution sees beyond it, and that padding shifts its centre by up to half a stride, is left as
    detectors leave it.

    Images of one size run together, so that no padding changes a result: batches give what single images give, up to
    rounding.

    Args:
        backbone: a name ("efficientnet-lite0", "torchvision:resnet50", "timm:NAME", "transformers:NAME_OR_FOLDER"); a
            model of torchvision, timm, Transformers (one with a feature map, a backbone, or a vision model with patch
            tokens) or efficientnet-pytorch; or any callable, images [B, 3, H, W] -> map [B, C, h, w], or a list or
            dict of such maps. A model is put into eval mode, and moved if `device` or `dtype` say so.
        proposals: `Grid(rows, columns)`, `GivenBoxes()` or `Detector(model)`.
        layer: which map. Default: the last; in torchvision's classifiers the one that is pooled. Else the name of a
            node of torchvision's graph, the number of a Transformers hidden state or feature map, or the key of a
            callable's list or dict.
        classifier: mean features [N, C] -> class logits [N, K], for `class_probs`. Default: the model's own head, where
            it makes the model's own logits from the mean of the map.
        class_names: K names; with them, `labels` are the best class, unless a detector labels.
        short_side: the shorter side of images before the backbone, in pixels. More shows smaller things; a classifier
            is surest at the size it was trained at, often 224.
        long_side: the longer side is at most this (rounded to `size_divisor`).
        crop_size: cut each box out of the image and resize it to a square of so many pixels, in place of the image, so
            that features tell of nothing beside their box; they are the mean of the crop's map. It costs a run of the
            backbone for each box, of which eight times `batch_size` run together.
        size_divisor: of the resized height and width. Default: 32, or the patch size.
        image_mean: of each channel, 0 to 1. Default: what the model's name or its timm config says, else ImageNet's.
        image_std: likewise.
        source: says what made the features. Default: backbone, layer, `short_side` x `long_side` (or `crop_size`),
            proposals, and mean, deviation and divisor where they are not the backbone's own; not `dtype`, which only
            rounds.
        device: where the backbone (and the detector) run. Default: where they are.
        dtype: of the backbone; features are float32 in any case. Default: as it is.
        batch_size: images that run together at most.

    Attributes:
        source: what goes into `Regions.source`.
        feature_size: C.

    Raises:
        ValueError: if the backbone gives no map, or a setting makes no sense.

    Example:

    ```python
    >>> import torch
    >>> from PIL import Image
    >>> from modeling_vilbert.extraction import Grid, RegionExtractor
    >>> means = torch.nn.AvgPool2d(32)  # each cell is the mean colour of 32 x 32 pixels
    >>> extractor = RegionExtractor(means, Grid(1, 2), image_mean=(0, 0, 0), image_std=(1, 1, 1))
    >>> picture = Image.new("RGB", (640, 320))
    >>> picture.paste("red", (320, 0, 640, 320))
    >>> extractor(picture).features.tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    >>> extractor(picture, boxes=[[320, 160, 320, 160]], box_format="xywh").features.tolist()
    [[1.0, 0.0, 0.0]]

    ```
    """

    def __init__(
        self,
        backbone: Any,
        proposals: Any = None,
        *,
        layer: str | int | None = None,
        classifier: Callable[[Tensor], Tensor] | None = None,
        class_names: Sequence[str] | None = None,
        short_side: int = 320,
        long_side: int = 640,
        crop_size: int | None = None,
        size_divisor: int | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        source: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 8,
    ):
        if not 1 <= short_side <= long_side:
            raise ValueError(f"1 <= short_side <= long_side must hold, got {short_side} and {long_side}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.proposals = Grid() if proposals is None else proposals
        if not hasattr(self.proposals, "propose"):
            raise ValueError(f"proposals must be Grid, GivenBoxes or Detector, got {type(proposals).__name__}.")
        self._custom_classifier = classifier is not None
        self._given = {
            "backbone": backbone,
            "layer": layer,
            "class_names": None if class_names is None else list(class_names),
            "short_side": short_side,
            "long_side": long_side,
            "crop_size": crop_size,
            "size_divisor": size_divisor,
            "image_mean": None if image_mean is None else list(image_mean),
            "image_std": None if image_std is None else list(image_std),
            "source": source,
        }
        name, known = None, {}
        if isinstance(backbone, str):
            name, known = backbone, load(backbone, BACKBONES, "backbone")
            backbone = known.pop("model")
        given = {
            "classify": classifier,
            "class_names": class_names,
            "image_mean": image_mean,
            "image_std": image_std,
            "size_divisor": size_divisor,
        }
        own = replace(adapt(backbone, layer), **known)
        given = {field: value for field, value in given.items() if value is not None}
        self.backbone = replace(own, **given)
        self._not_its_own = ", ".join(
            f"{words} {_numbers(given[field])}"
            for field, words in PREPARATION.items()
            if field in given and _numbers(given[field]) != _numbers(getattr(own, field))
        )
        if name is not None:
            self.backbone.name = name if layer is None else f"{name} layer {layer}"
        if isinstance(classifier, nn.Module):
            self.backbone.modules += (classifier.eval(),)
        self.short_side, self.long_side, self.batch_size = short_side, long_side, batch_size
        self.crop_size = self._checked_crop_size(crop_size)
        self._dtype = None
        self.to(device, dtype)
        self.feature_size = self._probe()

    @property
    def source(self) -> str:
        return self.source_of(self.proposals)

    def source_of(self, proposals: Any) -> str:
        """What features of these proposals say of themselves."""
        if self._given["source"] is not None:
            return self._given["source"]
        fixed = self.backbone.fixed_size
        if self.crop_size is not None:
            size = f"each box alone at {self.crop_size} px"
        elif fixed is not None:
            size = f"{fixed[1]} x {fixed[0]} px"
        else:
            size = f"at most {self.short_side} x {self.long_side} px"
        return f"{', '.join(filter(None, (self.backbone.name, size, self._not_its_own)))}; {proposals}"

    def description(self) -> dict:
        """All settings in JSON, for any extractor: what tells apart runs of which none may go on with another's."""
        return {
            **self._given,
            "backbone": self.backbone.name,
            "classifier": self._custom_classifier,
            "proposals": str(self.proposals),
            "detector": getattr(self.proposals, "settings", None),
            "dtype": str(self._dtype),
        }

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "RegionExtractor":
        """Move backbone and detector to a device, and the backbone to a dtype; None leaves them."""
        for module in self.backbone.modules:
            module.to(device=device, dtype=dtype)
        if isinstance(self.proposals, Detector):
            self.proposals.model.to(device=device)
        weights = next((p for module in self.backbone.modules for p in module.parameters()), None)
        # A callable's own weights are its own affair.
        self.device = torch.device(device) if device is not None else getattr(self, "device", torch.device("cpu"))
        self._dtype = dtype or self._dtype or torch.float32
        if weights is not None:
            self.device, self._dtype = weights.device, weights.dtype
        return self

    def to_dict(self) -> dict:
        """Settings from which `from_dict` makes the extractor again, all of them JSON.

        Raises:
            ValueError: if backbone or detector were not given by name, or there is a classifier of the caller's.
        """
        if not isinstance(self._given["backbone"], str) or self._custom_classifier:
            raise ValueError(
                f"An extractor can be saved if its backbone is a name, one of {names(BACKBONES)}, and its classifier "
                f"the backbone's own; this one has a {self.backbone.name}."
            )
        kind = next(kind for kind, known in PROPOSALS.items() if isinstance(self.proposals, known))
        if kind == "detector":
            if self.proposals.name is None:
                raise ValueError(
                    f"An extractor can be saved if its detector is a name, one of {names(DETECTORS)}; this one is a "
                    f"{type(self.proposals.model).__name__}."
                )
            settings = {"model": self.proposals.name, **self.proposals.settings}
        else:
            settings = asdict(self.proposals)
        return {**self._given, "proposals": {"kind": kind, **settings}}

    @classmethod
    def from_dict(
        cls,
        settings: Mapping[str, Any],
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 8,
    ) -> "RegionExtractor":
        """The extractor that `to_dict` has described. Its models are loaded from where their names point."""
        settings = dict(settings)
        proposals = dict(settings.pop("proposals"))
        kind = proposals.pop("kind")
        if kind not in PROPOSALS:
            raise ValueError(f"proposals of kind {kind!r} are not known; known are {list(PROPOSALS)}.")
        return cls(
            proposals=PROPOSALS[kind](**proposals), device=device, dtype=dtype, batch_size=batch_size, **settings
        )

    def __call__(
        self, images: Any, boxes: Any = None, box_format: str = "xyxy", image_ids: Any = None
    ) -> Regions | list[Regions]:
        """
        Args:
            images: an image (see `open_image`), or a list of them.
            boxes: [N, 4] in pixels of the image as it is shown (EXIF rotation applied), instead of the proposals; for a
                list of images a list of such.
            box_format: of `boxes`: "xyxy", "xywh" or "cxcywh".
            image_ids: what the image is called, or a list of it. Default: a path's stem, else None.

        Returns:
            `Regions`, or a list of them in the order of the images.

        Raises:
            ValueError: if an image cannot be read, or a box is outside or has no area; the image is named.
        """
        if box_format not in BOX_FORMATS:
            raise ValueError(f"box_format must be one of {list(BOX_FORMATS)}, got {box_format!r}.")
        if not isinstance(images, (list, tuple)):
            boxes = None if boxes is None else [boxes]
            return self._all([images], boxes, box_format, [image_ids])[0]
        for name, value in (("boxes", boxes), ("image_ids", image_ids)):
            if value is not None and len(value) != len(images):
                raise ValueError(f"{name} must be {len(images)}, one for each image, got {len(value)}.")
        return self._all(images, boxes, box_format, [None] * len(images) if image_ids is None else image_ids)

    def _all(self, *arguments) -> list[Regions]:
        found = {}
        for number, result in self.results(*arguments):
            if isinstance(result, ValueError):
                raise result
            found[number] = result
        return [found[number] for number in sorted(found)]

    def results(
        self, images: Sequence, boxes: Sequence | None, box_format: str, image_ids: Sequence
    ) -> Iterator[tuple[int, Regions | ValueError]]:
        """Each image's number and its regions, or why it has none, in the order in which batches of a size fill up."""
        waiting: dict[tuple[int, int], list] = {}
        for number, image in enumerate(images):
            try:
                prepared = self._prepare(image, None if boxes is None else boxes[number], box_format, image_ids[number])
            except ValueError as error:
                yield number, ValueError(f"{_image_name(image, number, image_ids[number])}: {error}")
                continue
            size = prepared[1].shape[-2:]
            group = waiting.setdefault(size, [])
            group.append((number, *prepared))
            if len(group) == self.batch_size:
                yield from self._run(waiting.pop(size))
        for group in waiting.values():
            yield from self._run(group)

    def _prepare(self, image: Any, boxes: Any, box_format: str, image_id: Any) -> tuple[Regions, Tensor]:
        """The record without its features, and what the backbone is to see, uint8: the resized image [3, H, W], or with
        `crop_size` each box [N, 3, H, W].
        """
        picture = open_image(image)
        proposals = self.proposals if boxes is None else GivenBoxes()
        found = proposals.propose(picture) if boxes is None else {"boxes": boxes, "box_format": box_format}
        if image_id is None and isinstance(image, (str, Path)):
            image_id = Path(image).stem
        record = Regions(
            features=np.zeros((len(found["boxes"]), 0), np.float32),
            image_size=picture.size,
            image_id=image_id,
            source=self.source_of(proposals),
            **found,
        )
        flat = np.flatnonzero((record.boxes[:, 2:] <= record.boxes[:, :2]).any(1))
        if len(flat):
            raise ValueError(
                f"{len(flat)} of {len(record)} boxes have no area, the first is number {flat[0]}: "
                f"{record.boxes[flat[0]].tolist()} as (x1, y1, x2, y2)."
            )
        bilinear = need("PIL.Image").Resampling.BILINEAR
        if self.crop_size is None:
            return record, _to_tensor(picture.resize(self._resized(*picture.size), bilinear))
        # All pixels that a box touches, at least one.
        first = np.clip(np.floor(record.boxes[:, :2]), 0, np.array(picture.size) - 1)
        behind = np.clip(np.ceil(record.boxes[:, 2:]), first + 1, picture.size)
        crops = torch.empty(len(record), 3, self.crop_size, self.crop_size, dtype=torch.uint8)
        for crop, corners in zip(crops, np.concatenate([first, behind], 1).astype(int).tolist()):
            crop.copy_(_to_tensor(picture.crop(corners).resize((self.crop_size, self.crop_size), bilinear)))
        return record, crops

    def _checked_crop_size(self, crop_size: int | None) -> int | None:
        if crop_size is None:
            return None
        fixed, divisor = self.backbone.fixed_size, self.backbone.size_divisor
        if not isinstance(crop_size, int) or crop_size < 1 or crop_size % divisor:
            raise ValueError(f"crop_size must be None or a multiple of {divisor} (size_divisor), got {crop_size!r}.")
        if fixed is not None and tuple(fixed) != (crop_size, crop_size):
            allowed = f"None or {fixed[0]}" if fixed[0] == fixed[1] else "None"
            raise ValueError(
                f"crop_size must be {allowed}: the backbone takes images of {fixed[1]} x {fixed[0]} px only."
            )
        return crop_size

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) for the backbone."""
        if self.backbone.fixed_size is not None:
            return tuple(self.backbone.fixed_size)[::-1]
        scale = min(self.short_side / min(width, height), self.long_side / max(width, height))
        divisor = self.backbone.size_divisor
        return tuple(max(1, round(side * scale / divisor)) * divisor for side in (width, height))

    @torch.inference_mode()
    def _run(self, group: list[tuple[int, Regions, Tensor]]) -> Iterator[tuple[int, Regions | ValueError]]:
        _, records, pixels = zip(*group)
        if self.crop_size is None:
            features = self._pooled(torch.stack(pixels), records)
        else:
            features = self._of_crops(torch.cat(pixels))
        probs = [None] * len(group)
        counts = list(map(len, records))
        if self.backbone.classify is not None:
            logits = self.backbone.classify(features.to(self._dtype)).float()
            probs = [part.cpu().numpy() for part in logits.softmax(-1).split(counts)]
        for (number, record, _), part, class_probs in zip(group, features.split(counts), probs):
            labels = record.labels
            if labels is None and class_probs is not None and self.backbone.class_names is not None:
                labels = [self.backbone.class_names[best] for best in class_probs.argmax(-1).tolist()]
            try:
                yield number, replace(record, features=part.cpu().numpy(), class_probs=class_probs, labels=labels)
            # Features may overflow in half precision.
            except ValueError as error:
                yield number, error

    def _pooled(self, pixels: Tensor, records: Sequence[Regions]) -> Tensor:
        """Resized images [B, 3, H, W] and their boxes -> features of all boxes [N, C]."""
        maps = self._map(pixels).float()
        boxes = []
        for record in records:
            width, height = record.image_size
            # The pooled box stays inside the image, from which Regions lets it stick out by a pixel.
            inside = np.clip(record.boxes, 0, [width, height, width, height])
            to_map = np.array([maps.shape[3] / width, maps.shape[2] / height] * 2)
            boxes.append(torch.from_numpy((inside * to_map).astype(np.float32)).to(maps.device))
        roi_align = need("torchvision.ops").roi_align
        return roi_align(maps, boxes, output_size=1, sampling_ratio=-1, aligned=True).flatten(1)

    def _of_crops(self, pixels: Tensor) -> Tensor:
        """Boxes [N, 3, H, W] -> their features [N, C]."""
        if len(pixels) == 0:
            return torch.zeros(0, self.feature_size, device=self.device)
        return torch.cat([self._map(some).float().mean((2, 3)) for some in pixels.split(8 * self.batch_size)])

    def _map(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] uint8 -> [B, C, h, w]."""
        for module in self.backbone.modules:
            module.eval()
        mean = torch.tensor(self.backbone.image_mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.backbone.image_std, device=self.device).view(3, 1, 1)
        images = ((pixels.to(self.device) / 255 - mean) / std).to(self._dtype)
        maps = self.backbone.features(images)
        if not isinstance(maps, Tensor) or maps.ndim != 4 or len(maps) != len(images):
            got = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise ValueError(f"The backbone {self.backbone.name} must give a map [{len(images)}, C, h, w], got {got}.")
        return maps

    @torch.inference_mode()
    def _probe(self) -> int:
        """C, from a run on noise that is wider than high."""
        images = probe_images(self.backbone)
        maps = self._map((images[0:1] * 32 + 128).clamp(0, 255).to(torch.uint8))
        if maps.shape[2] > maps.shape[3]:
            raise ValueError(
                f"The backbone {self.backbone.name} makes a map of {maps.shape[2]} x {maps.shape[3]} cells of an image "
                f"of {images.shape[2]} x {images.shape[3]} pixels: are height and width swapped?"
            )
        classify, names = self.backbone.classify, self.backbone.class_names
        if self._given["class_names"] is not None and classify is None:
            raise ValueError(f"class_names need a classifier, and the backbone {self.backbone.name} has none.")
        if classify is not None and names is not None:
            classes = classify(maps.mean((2, 3)).to(self._dtype)).shape[-1]
            if len(names) != classes:
                raise ValueError(f"There are {len(names)} class_names for {classes} classes.")
        return maps.shape[1]


PROPOSALS = {"grid": Grid, "given": GivenBoxes, "detector": Detector}
# Settings of a backbone's images -> how a source calls them.
PREPARATION = {"image_mean": "mean", "image_std": "deviation", "size_divisor": "multiples of"}


def _numbers(value: Any) -> str:
    return " ".join(f"{number:g}" for number in np.ravel(value).tolist())


def _to_tensor(picture: Any) -> Tensor:
    """A PIL image in RGB -> [3, H, W] uint8."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _image_name(image: Any, number: int, image_id: Any) -> str:
    if image_id is not None:
        return f"Image {image_id!r}"
    return f"Image {str(image)!r}" if isinstance(image, (str, Path)) else f"images[{number}]"
