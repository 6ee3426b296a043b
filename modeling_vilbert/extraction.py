# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""From pixels to `Regions`: boxes by a grid, by hand or by a detector, and features of any backbone.

`proposals.py` says where to look, `backbones.py` holds what sees; `bulk_extraction.py` does it for many images.

Shapes: B images, N regions, C feature size, K classes, H x W pixels, h x w cells of a map.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .backbones import BACKBONES, DETECTORS, adapt, load, names, probe_images
from .optional_packages import need
from .proposals import PROPOSALS, Detector, GivenBoxes, Grid, open_image, to_tensor
from .regions_vilbert import BOX_FORMATS, Regions


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
        labelled: false leaves out labels by the backbone's classes, for regions that are none of them, such as cells of
            a drawing. Those of a detector stay.
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
        labelled: bool = True,
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
            "labelled": labelled,
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
        if not labelled:
            self.backbone.class_names = None
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
            return record, to_tensor(picture.resize(self._resized(*picture.size), bilinear))
        # All pixels that a box touches, at least one.
        first = np.clip(np.floor(record.boxes[:, :2]), 0, np.array(picture.size) - 1)
        behind = np.clip(np.ceil(record.boxes[:, 2:]), first + 1, picture.size)
        crops = torch.empty(len(record), 3, self.crop_size, self.crop_size, dtype=torch.uint8)
        for crop, corners in zip(crops, np.concatenate([first, behind], 1).astype(int).tolist()):
            crop.copy_(to_tensor(picture.crop(corners).resize((self.crop_size, self.crop_size), bilinear)))
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


# Settings of a backbone's images -> how a source calls them.
PREPARATION = {"image_mean": "mean", "image_std": "deviation", "size_divisor": "multiples of"}


def _numbers(value: Any) -> str:
    return " ".join(f"{number:g}" for number in np.ravel(value).tolist())


def _image_name(image: Any, number: int, image_id: Any) -> str:
    if image_id is not None:
        return f"Image {image_id!r}"
    return f"Image {str(image)!r}" if isinstance(image, (str, Path)) else f"images[{number}]"
