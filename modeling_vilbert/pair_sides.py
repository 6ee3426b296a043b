# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The two sides of many pairs, texts and images: checked, measured, and encoded for a model when they are needed.

Shapes: N texts, M images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .configuration_vilbert import ViLBertConfig
from .image_processing_vilbert import check_features, is_regions
from .optional_packages import need
from .processing_vilbert import ViLBertProcessor


class Texts:
    """The texts of a call, read once for their lengths.

    Args:
        texts: a text of each name.
        names: what they are called.
        processor: whose tokenizer is used.
        config: of the model.
        max_tokens: longer texts are cut; None: they are an error if the model has no positions for them.
        task_token: of a model with task tokens.
        digest: also fed with all tokens, if given.

    Attributes:
        lengths: positions of each text in the model, [N].
        kept, nbytes: positions and bytes that are kept of each; the scorer sets them, since the model tells.
    """

    kept: np.ndarray
    nbytes: np.ndarray

    def __init__(
        self,
        texts: Any,
        names: Sequence[Any],
        processor: ViLBertProcessor,
        config: ViLBertConfig,
        max_tokens: int | None = None,
        task_token: int | None = None,
        digest: Any = None,
    ):
        self.texts, self.names, self.tokenizer, self.task_token = texts, names, processor.tokenizer, task_token
        self.settings = {} if max_tokens is None else {"truncation": True, "max_length": max_tokens}
        longest = config.text_config.longest_text
        lengths = []
        for start in range(0, len(names), 1024):
            chunk = self._texts(range(start, min(start + 1024, len(names))))
            words = self.tokenizer(chunk, return_special_tokens_mask=True, **self.settings)
            for number, (ids, special) in enumerate(zip(words["input_ids"], words["special_tokens_mask"]), start):
                if all(special):
                    raise ValueError(
                        f"texts[{names[number]!r}] must hold at least one word, got {texts[names[number]]!r}."
                    )
                if len(ids) > longest:
                    raise ValueError(
                        f"texts[{names[number]!r}] has {len(ids)} tokens, but the model has positions for {longest}. "
                        "Cut long texts by max_tokens."
                    )
                lengths.append(len(ids) + (task_token is not None))
                if digest is not None:
                    digest.update(np.array([len(ids), *ids], np.int64).tobytes())
        self.lengths = np.array(lengths)

    def inputs(self, numbers: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
        words = self.tokenizer(
            self._texts(numbers), padding=True, padding_side="right", return_tensors="pt", **self.settings
        )
        inputs = {name: value.to(device) for name, value in words.items()}
        if self.task_token is not None:
            inputs["task_ids"] = torch.full((len(numbers),), self.task_token, device=device)
        return inputs

    def _texts(self, numbers: Sequence[int]) -> list[str]:
        found = [self.texts[self.names[number]] for number in numbers]
        for number, text in zip(numbers, found):
            if not isinstance(text, str):
                raise ValueError(f"texts[{self.names[number]!r}] must be a string, got {type(text).__name__}.")
        return found


class Images:
    """The images of a call, each read once for the number of its regions, and again when it is encoded.

    To keep them would take more memory than they are worth: 36 regions are read and checked in about a millisecond,
    where a pair takes the base model 30, or 15 in bf16.

    Args:
        images: the `Regions` of each name.
        names: what they are called.
        processor: whose image processor is used.
        config: of the model.
        digest: also fed with all regions, if given.
        progress: show a bar if there are many.

    Attributes:
        lengths: positions of each image in the model, [M]: its regions, and the whole image.
        kept, nbytes: as of `Texts`.
    """

    kept: np.ndarray
    nbytes: np.ndarray

    def __init__(
        self,
        images: Any,
        names: Sequence[Any],
        processor: ViLBertProcessor,
        config: ViLBertConfig,
        digest: Any = None,
        progress: bool = False,
    ):
        self.images, self.names, self.image_processor = images, names, processor.image_processor
        lengths = []
        hidden = not progress or len(names) < 1000
        for name in need("tqdm").tqdm(names, desc="reading images", unit="image", disable=hidden, leave=False):
            regions = images[name]
            if not is_regions(regions):
                raise ValueError(
                    f"images[{name!r}] must be Regions, got {type(regions).__name__}. They are made of pictures by "
                    "processor.to_regions, or `vilbert extract` for many."
                )
            check_features(regions, config)
            try:
                inputs = self.image_processor([regions], return_tensors="np")
            except ValueError as error:
                raise ValueError(f"images[{name!r}] cannot be read by the model: {error}") from error
            if not all(np.isfinite(inputs[array]).all() for array in ("region_features", "region_locations")):
                raise ValueError(f"images[{name!r}] must hold finite numbers, got NaN or infinity.")
            lengths.append(inputs["region_features"].shape[1])
            if digest is not None:
                for array in (np.array([lengths[-1]]), inputs["region_features"], inputs["region_locations"]):
                    digest.update(np.ascontiguousarray(array).tobytes())
        self.lengths = np.array(lengths)

    def inputs(self, numbers: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
        regions = [self.images[self.names[number]] for number in numbers]
        return {name: value.to(device) for name, value in self.image_processor(regions, return_tensors="pt").items()}


Side = Texts | Images


def names_of(values: Any, kind: str) -> tuple[Any, Sequence[Any]]:
    """A mapping, or a sequence or an array as a sequence, and what its items are called: keys, or numbers from 0."""
    if not isinstance(values, (Mapping, Sequence)) and hasattr(values, "tolist"):
        # An array, or a column of pandas, which takes numbers for labels: of a sorted one they are not places.
        values = values.tolist()
    if not isinstance(values, (Mapping, Sequence)) or isinstance(values, str):
        raise ValueError(f"{kind} must be a list or a mapping, got {type(values).__name__}.")
    if len(values) == 0:
        raise ValueError(f"{kind} must be at least one, got none.")
    return values, list(values) if isinstance(values, Mapping) else range(len(values))
