# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Regions of images -> padded tensors for ViLBERT. Source: Lu et al., "ViLBERT", NeurIPS 2019, section 3.1.

Shapes: B batch, I images of an example, N regions of an image, R regions after padding, F feature size.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .configuration_vilbert import ViLBertConfig, ViLBertVisionConfig
from .regions_vilbert import BOX_FORMATS, Regions


logger = logging.get_logger(__name__)

NO_PICTURES = (
    "A picture has to be turned into regions first, by a detector or a grid of patches. Attach what does so to the "
    "ViLBertProcessor: processor.region_extractor = RegionExtractor(...), from modeling_vilbert.extraction."
)


class ViLBertImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of `ViLBertImageProcessor`, to be given when it is made or in a call."""

    max_regions: int | None
    add_global_region: bool
    box_format: str


class ViLBertImageProcessor(BaseImageProcessor):
    r"""Turns the `Regions` of images into the tensors that ViLBERT reads.

    Args:
        max_regions: at most so many regions of an image are kept, those with the highest `scores` (without scores, the
            first), in their order. The global region does not count. Default: 100; None keeps all.
        add_global_region: put the whole image in front, as the mean of its features (over all its regions, kept or
            not) at (0, 0, 1, 1) with area share 1.
        box_format: of records given as dicts: "xyxy", "xywh" or "cxcywh", in pixels.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_vilbert import Regions, ViLBertImageProcessor
    >>> one = Regions([[0, 0, 50, 80]], np.ones((1, 8)), image_size=(100, 80))
    >>> two = Regions([[0, 0, 50, 80], [0, 0, 100, 40]], np.zeros((2, 8)), image_size=(100, 80))
    >>> batch = ViLBertImageProcessor()([one, two], return_tensors="pt")
    >>> batch["region_features"].shape, batch["region_attention_mask"].tolist()
    (torch.Size([2, 3, 8]), [[1, 1, 0], [1, 1, 1]])
    >>> batch["region_locations"][0, 1].tolist()
    [0.0, 0.0, 0.5, 1.0, 0.5]

    ```
    """

    model_input_names = ["region_features", "region_locations", "region_attention_mask"]
    valid_kwargs = ViLBertImageProcessorKwargs
    # Transformers saves a None only where the class has another default.
    max_regions = 100

    def __init__(
        self, max_regions: int | None = 100, add_global_region: bool = True, box_format: str = "xyxy", **kwargs
    ):
        super().__init__(**kwargs)
        self.max_regions, self.add_global_region, self.box_format = max_regions, add_global_region, box_format
        self._check_settings(max_regions, box_format)

    def fetch_images(self, images: Any) -> Any:
        return images

    def preprocess(
        self,
        images: Regions | Mapping | Sequence,
        return_tensors: str | None = None,
        max_regions: int | None = -1,
        add_global_region: bool | None = None,
        box_format: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            images: the `Regions` of an image (or a dict of its fields), a list of B of them, or a list of B lists of I
                for examples of several images.
            return_tensors: "pt" for torch, "np" or None for numpy.
            max_regions: as in the class. Default: as set there.
            add_global_region: as in the class. Default: as set there.
            box_format: as in the class. Default: as set there.

        Returns:
            `region_features` [B, R, F], `region_locations` [B, R, 5] and `region_attention_mask` [B, R] (1 at real
            regions), padded to the longest; with lists of lists [B, I, R, ...].

        Raises:
            ValueError: if a record is not valid, or the records do not fit into one batch.
        """
        max_regions = self.max_regions if max_regions == -1 else max_regions
        add_global_region = self.add_global_region if add_global_region is None else add_global_region
        box_format = self.box_format if box_format is None else box_format
        self._check_settings(max_regions, box_format)

        if is_regions(images) or isinstance(images, Mapping):
            images = [images]
        if not isinstance(images, Sequence) or isinstance(images, (str, bytes)) or len(images) == 0:
            raise ValueError(
                f"images must be Regions or a list of them, and not empty, got {type(images).__name__}. {NO_PICTURES}"
            )
        nested = [isinstance(image, Sequence) and not isinstance(image, (str, bytes)) for image in images]
        counts = {len(image) for image, is_list in zip(images, nested) if is_list}
        if any(nested) and (not all(nested) or len(counts) != 1 or counts == {0}):
            raise ValueError("images must be all single, or lists of one length (the images of an example).")
        flat = [image for group in images for image in group] if any(nested) else images

        records = [self._record(image, number, box_format) for number, image in enumerate(flat)]
        widths = {record.features.shape[1] for record in records}
        if len(widths) > 1:
            raise ValueError(f"images: the features of one batch must be equally wide, got widths {sorted(widths)}.")
        rows = [self._rows(record, max_regions, add_global_region) for record in records]
        longest = max(len(features) for features, _ in rows)
        if longest == 0:
            raise ValueError("images: no image has a region, and add_global_region is off.")

        mask = np.array([[1] * len(features) + [0] * (longest - len(features)) for features, _ in rows], np.int64)
        data = {
            "region_features": np.stack([_pad(features, longest) for features, _ in rows]),
            "region_locations": np.stack([_pad(locations, longest) for _, locations in rows]),
            "region_attention_mask": mask,
        }
        if any(nested):
            data = {name: value.reshape(len(images), -1, *value.shape[1:]) for name, value in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    @staticmethod
    def _check_settings(max_regions: int | None, box_format: str):
        if max_regions is not None and (not isinstance(max_regions, int) or max_regions < 1):
            raise ValueError(f"max_regions must be at least 1, or None for all, got {max_regions!r}.")
        if box_format not in BOX_FORMATS:
            raise ValueError(f"box_format must be one of {list(BOX_FORMATS)}, got {box_format!r}.")

    @staticmethod
    def _record(image: Regions | Mapping, number: int, box_format: str) -> Regions:
        if is_regions(image):
            return image
        if not isinstance(image, Mapping):
            raise ValueError(
                f"images[{number}] must be Regions or a dict of their fields, got {type(image).__name__}. {NO_PICTURES}"
            )
        try:
            return Regions(**{"box_format": box_format, **image})
        except TypeError as error:
            raise ValueError(f"images[{number}] does not have the fields of Regions: {error}") from error

    @staticmethod
    def _rows(record: Regions, max_regions: int | None, add_global_region: bool) -> tuple[np.ndarray, np.ndarray]:
        features, locations, kept = record.features, record.locations(), best_regions(record, max_regions)
        if not add_global_region:
            return features[kept], locations[kept]
        if len(record) == 0:
            raise ValueError(
                f"Image {record.image_id!r} has no region, so that there is no mean feature of it: give at least one, "
                "such as the whole image."
            )
        mean = features.mean(0, keepdims=True, dtype=np.float32).astype(features.dtype)
        whole = np.array([[0, 0, 1, 1, 1]], np.float32)
        return np.concatenate([mean, features[kept]]), np.concatenate([whole, locations[kept]])


def is_regions(image: Any) -> bool:
    """Also by name, since each file of code that came with a checkpoint has a class `Regions` of its own."""
    return isinstance(image, Regions) or type(image).__name__ == Regions.__name__


def best_regions(regions: Regions, count: int | None) -> np.ndarray:
    """The indices of the `count` regions with the highest scores (without scores, of the first), in their order."""
    if count is None or regions.scores is None or len(regions) <= count:
        return np.arange(len(regions))[:count]
    return np.sort(np.argsort(-regions.scores, kind="stable")[:count])


def check_features(regions: Regions | Iterable[Regions], config: ViLBertConfig | ViLBertVisionConfig):
    """Compare features with those that a model was trained on: pipelines and commands do so, and a caller may.

    Features of another width do not fit. Those of another source (another detector, layer or number of boxes) fit and
    mean something else: the model answers badly without any error. For them there is a warning, once for each pair of
    sources. Where `Regions.source` or `config.vision_config.feature_source` is None nothing can be compared.

    Args:
        regions: of an image, or of several.
        config: of the model.

    Raises:
        ValueError: if features are not `config.vision_config.feature_size` wide.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_vilbert import Regions, ViLBertConfig, check_features
    >>> regions = Regions([[0, 0, 50, 80]], np.ones((1, 1280)), image_size=(100, 80))
    >>> check_features(regions, ViLBertConfig(vision_config={"feature_size": 1280}))
    >>> check_features(regions, ViLBertConfig())
    Traceback (most recent call last):
    ...
    ValueError: The features are 1280 wide, the model reads 2048 (config.vision_config.feature_size)...

    ```
    """
    config = getattr(config, "vision_config", config)
    trained_on = config.feature_source
    for one in [regions] if is_regions(regions) else regions:
        width = one.features.shape[1]
        if len(one) and width != config.feature_size:
            where = "" if one.image_id is None else f" of image {one.image_id!r}"
            raise ValueError(
                f"The features{where} are {width} wide, the model reads {config.feature_size} "
                f"(config.vision_config.feature_size). They are of {one.source or 'an unknown source'}, the model was "
                f"trained on {trained_on or 'an unknown source'}."
            )
        if None not in (one.source, trained_on) and one.source != trained_on:
            logger.warning_once(
                f"The features are of {one.source!r}, the model was trained on {trained_on!r}. Features of another "
                "source fit by their width only: expect bad answers until the vision stream has been trained on them. "
                "If both are the same, give the regions that name as their `source`."
            )


def _pad(rows: np.ndarray, length: int) -> np.ndarray:
    return np.pad(rows, ((0, length - len(rows)), (0, 0)))
