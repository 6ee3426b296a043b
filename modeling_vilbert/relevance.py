# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Which words and regions an output depends on: attention times gradient, carried through the layers of both streams.

Source: Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers", ICCV 2021, section 3. The equations named below are that paper's.

Shapes: T tokens, R regions, H heads, Q queries, K keys.
"""

from collections.abc import Sequence

import numpy as np


# The four maps, query first: row q of "text_to_vision" says what word q has got from each region.
MAPS = ("text_to_text", "vision_to_vision", "text_to_vision", "vision_to_text")


def weighted_attention(attention: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Equation 5: attention [H, Q, K] and the target's gradient by it -> [Q, K], the mean over heads of what helps."""
    return (gradient * attention).clip(min=0).mean(0)


def normalized(relevance: np.ndarray) -> np.ndarray:
    """Equations 8 and 9: of a stream's own map [N, N] without the identity it began as, rows that sum to one."""
    identity = np.eye(len(relevance))
    gained = relevance - identity
    total = gained.sum(-1, keepdims=True)
    return np.divide(gained, total, out=np.zeros_like(gained), where=total > 0) + identity


def propagate(
    schedule: Sequence[tuple[str, int]],
    text_to_text: Sequence[np.ndarray],
    vision_to_vision: Sequence[np.ndarray],
    text_to_vision: Sequence[np.ndarray],
    vision_to_text: Sequence[np.ndarray],
) -> dict[str, np.ndarray]:
    """Relevance maps after all layers.

    Every stream begins as relevant to itself alone. A self-attention layer mixes the rows of its stream (equations 6
    and 7); in a co-attention layer (10 and 11) both streams change at once, each by the other's maps from before.

    Args:
        schedule: as `config.schedule`: ("text", i), ("vision", j) and ("coattention", k), in the order they run.
        text_to_text: [T, T], what `weighted_attention` gives, for each text layer.
        vision_to_vision: [R, R], for each vision layer.
        text_to_vision: [T, R], for each co-attention layer.
        vision_to_text: [R, T], for each co-attention layer.

    Returns:
        By the names in `MAPS`: [T, T], [R, R], [T, R] and [R, T], none below 0.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_vilbert.relevance import propagate
    >>> maps = propagate(
    ...     [("coattention", 0), ("text", 0)],
    ...     text_to_text=[np.array([[0.0, 1.0], [0.0, 0.0]])],  # word 0 reads word 1
    ...     vision_to_vision=[],
    ...     text_to_vision=[np.array([[0.0], [0.5]])],  # after word 1 has read the region
    ...     vision_to_text=[np.zeros((1, 2))],
    ... )
    >>> maps["text_to_vision"].tolist()
    [[0.5], [0.5]]

    ```
    """
    tokens, regions = (
        text_to_vision[0].shape if len(text_to_vision) else (len(text_to_text[0]), len(vision_to_vision[0]))
    )
    text, vision = np.eye(tokens), np.eye(regions)
    to_vision, to_text = np.zeros((tokens, regions)), np.zeros((regions, tokens))
    for kind, index in schedule:
        if kind == "text":
            layer = text_to_text[index]
            text, to_vision = text + layer @ text, to_vision + layer @ to_vision
        elif kind == "vision":
            layer = vision_to_vision[index]
            vision, to_text = vision + layer @ vision, to_text + layer @ to_text
        else:
            text_looks, vision_looks = text_to_vision[index], vision_to_text[index]
            own_text, own_vision = normalized(text), normalized(vision)
            text, vision, to_vision, to_text = (
                text + text_looks @ to_text,
                vision + vision_looks @ to_vision,
                to_vision + own_text.T @ text_looks @ own_vision,
                to_text + own_vision.T @ vision_looks @ own_text,
            )
    return dict(zip(MAPS, (text, vision, to_vision, to_text)))
