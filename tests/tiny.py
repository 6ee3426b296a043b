"""Small models with odd, unequal sizes, so that a swapped axis cannot pass, and a padded batch for them."""

import torch
from original import TINY, random_inputs

from modeling_vilbert import ViLBertConfig


def tiny_config(**fields) -> ViLBertConfig:
    """Initial values are large, so that every path carries weight in a comparison."""
    return ViLBertConfig(**{**TINY, "initializer_range": 0.2, "num_labels": 5, **fields})


def tiny_inputs(**sizes) -> dict[str, torch.Tensor]:
    """3 texts of 7 words, the second padded; 5 regions, the third image's padded."""
    return random_inputs(TINY, **sizes)


def grouped(inputs: dict[str, torch.Tensor], text: int | None = None, regions: int | None = None) -> dict:
    """Give the words, the regions or both an axis of so many choices or images, each other than the first."""
    result = {}
    for name, value in inputs.items():
        group = regions if name.startswith("region_") else text
        result[name] = value if group is None else torch.stack([value.roll(i, 0) for i in range(group)], 1)
    return result
