# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Eval mode for as long as a block lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode; afterwards each of its modules is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        # Not by `train()`, which takes all modules below along.
        for module in training:
            module.training = True
