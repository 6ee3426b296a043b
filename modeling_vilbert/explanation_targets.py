# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""One example of any ViLBERT model, what its words and regions are, and what of its output is explained.

Reading order: `Places` (regions), `Example`, `Target`.

Shapes: N copies of the example, G images or choices of it, T tokens, R regions, L labels, D hidden size, F feature
size.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_vilbert import ViLBertConfig
from .heads_vilbert import REGION_INPUTS, TEXT_INPUTS
from .image_processing_vilbert import best_regions, is_regions
from .modes import evaluating
from .regions_vilbert import Regions


INPUTS = (*TEXT_INPUTS, *REGION_INPUTS, "task_ids", "co_attention_mask")
ALIGNMENT = ["aligned", "not aligned"]
# So many of the best answers are named.
NUM_ANSWERS = 10
# Locations may have been rounded to bfloat16.
ROUNDING = 4e-3


@dataclass
class Places:
    """Where the R regions of an image are: boxes [R, 4] as shares of it, names or None, and which is all of it."""

    boxes: np.ndarray
    labels: list[str | None]
    is_global: np.ndarray
    image_size: tuple[float, float]

    @classmethod
    def of(cls, record: Any, locations: np.ndarray, real: np.ndarray, whole_image: bool = True) -> "Places":
        """Of the record that an image's inputs were made of: their locations [R', S], and which are no padding [R'].

        `whole_image`: whether it is thought to be region 0; boxes that do not fit say that it is not.
        """
        record = check_record(record)
        count = int(np.flatnonzero(real).max(initial=-1)) + 1
        expected = record.locations()[:, :4]
        for in_front in (1, 0) if whole_image else (0, 1):
            kept = best_regions(record, max(count - in_front, 0))
            rows = np.concatenate([[[0, 0, 1, 1]] * in_front, expected[kept]]) if in_front else expected[kept]
            if len(rows) == count and np.abs(rows - locations[:count, :4]).max(initial=0) <= ROUNDING:
                break
        else:
            raise ValueError(
                f"regions do not fit inputs: their {len(record)} boxes are not those in region_locations, which has "
                f"{count} (the whole image included). Give the Regions that the processor made the inputs of."
            )
        labels = [None] * len(record) if record.labels is None else record.labels
        names = [None if labels[row] is None else str(labels[row]) for row in kept]
        is_global = np.zeros(count, bool)
        # Regions that are all of the whole image have lost their boxes.
        lost = count > 1 and np.allclose(rows, rows[:1])
        is_global[:1] = in_front or (np.allclose(rows[:1], [0, 0, 1, 1], atol=ROUNDING) and not lost)
        return cls(rows.clip(0, 1), [None] * in_front + names, is_global, record.image_size)

    def name(self, row: int) -> str:
        if self.is_global[row]:
            return "whole image"
        return f"region {row}" + ("" if self.labels[row] is None else f" ({self.labels[row]})")


def check_record(record: Any) -> Regions:
    if isinstance(record, Mapping):
        if record.get("boxes") is None:
            raise ValueError(
                "regions have no boxes, so that nothing can be said about places. Supply the field `boxes` [N, 4], in "
                "pixels, with `image_size`."
            )
        return Regions(**record)
    if not is_regions(record):
        raise ValueError(
            f"regions must be the Regions that the inputs were made of (with the fields boxes and image_size), got "
            f"{type(record).__name__}. Of a picture, processor.to_regions(picture) makes them."
        )
    return record


class Example:
    """One example for a model: its inputs, the kind of head that reads it, and ways to run it.

    `kind` is one of `HEAD_TYPES`, "pretraining", or "none".
    """

    def __init__(self, model: PreTrainedModel, inputs: Mapping[str, Any], task: str | None = None):
        # By name, since code that came with a checkpoint has classes of its own.
        if getattr(getattr(model, "config", None), "model_type", None) != ViLBertConfig.model_type:
            raise ValueError(f"model must be a ViLBERT model, got {type(model).__name__}.")
        # Not base_model, which PEFT calls something else.
        self.model, self.trunk, self.task = model, getattr(model, "vilbert", model), task
        self.kind = self._kind()
        if not hasattr(inputs, "keys"):
            raise ValueError(
                f"inputs must be what the processor returned (return_tensors='pt'), got {type(inputs).__name__}."
            )
        self.tensors = {name: inputs[name] for name in INPUTS if name in inputs and inputs[name] is not None}
        self._check()
        with torch.inference_mode(False):
            self.tensors = {name: value.detach().to(model.device).clone() for name, value in self.tensors.items()}
        words = self.tensors["input_ids"] if "input_ids" in self.tensors else self.tensors["inputs_embeds"][..., 0]
        self.text_groups = words.shape[1] if words.dim() == 3 else None
        features = self.tensors["region_features"]
        self.region_groups = features.shape[1] if features.dim() == 4 else None
        self.groups = self.region_groups or self.text_groups

    def _kind(self) -> str:
        tasks = getattr(self.model, "heads", None)
        if tasks is not None:
            if self.task not in self.model.config.tasks:
                raise ValueError(f"task must be one of {list(self.model.config.tasks)}, got {self.task!r}.")
            return self.model.config.tasks[self.task]["head"]
        if self.task is not None:
            raise ValueError(f"task is for ViLBertForMultiTask, this model is a {type(self.model).__name__}.")
        if hasattr(self.model, "alignment_head"):
            return "pretraining"
        return getattr(self.model, "head_type", "none")

    def _check(self):
        if not {"input_ids", "inputs_embeds"} & set(self.tensors):
            raise ValueError("inputs must hold input_ids (or inputs_embeds).")
        if missing := [name for name in REGION_INPUTS[:2] if name not in self.tensors]:
            raise ValueError(f"inputs must hold {' and '.join(missing)}.")
        for name, value in self.tensors.items():
            if not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"{name} in inputs must be a tensor, got {type(value).__name__}: call the processor with "
                    "return_tensors='pt'."
                )
            if value.shape[:1] != (1,):
                raise ValueError(
                    f"inputs must hold one example, {name} is {list(value.shape)}. Of a batch, explain one after the "
                    "other: {name: value[i : i + 1] for name, value in inputs.items()}."
                )

    @contextmanager
    def unfrozen(self) -> Iterator[None]:
        """Gradients pass frozen layers; after it, the model is as before."""
        encoder = self.trunk.encoder
        frozen, encoder.frozen = encoder.frozen, set()
        try:
            yield
        finally:
            encoder.frozen = frozen

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Dropout is off and gradients are on, also those of frozen layers; after it, the model is as before."""
        with self.unfrozen(), evaluating(self.model), torch.inference_mode(False), torch.enable_grad():
            yield

    def embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the two streams begin with and gradients can reach: [1, (G,) T, D] and region_features."""
        words = self.tensors.get("inputs_embeds")
        if words is None:
            words = self.trunk.get_input_embeddings()(self.tensors["input_ids"])
        features = self.tensors["region_features"]
        features = features if features.is_floating_point() else features.float()
        return words.detach().requires_grad_(), features.detach().requires_grad_()

    def run(
        self,
        words: torch.Tensor,
        region_features: torch.Tensor,
        region_attention_mask: torch.Tensor | None = None,
        **settings,
    ) -> ModelOutput:
        """The model on N copies of the example, with these word embeddings, features and, if given, mask."""
        copies = words.shape[0]
        tensors = {name: value for name, value in self.tensors.items() if name not in ("input_ids", "inputs_embeds")}
        if "input_ids" in self.tensors and "position_ids" not in tensors:
            ids = self.tensors["input_ids"]
            flat = ids.flatten(0, -2)
            # Embeddings do not tell which of them are padding.
            positions = self.trunk.text_embeddings.positions(flat, flat[..., None])
            tensors["position_ids"] = positions.expand(flat.shape).reshape(ids.shape)
        tensors = {name: value.expand(copies, *value.shape[1:]) for name, value in tensors.items()}
        tensors |= {"inputs_embeds": words, "region_features": region_features}
        if region_attention_mask is not None:
            tensors["region_attention_mask"] = region_attention_mask
        if self.task is not None:
            settings["task"] = self.task
        return self.model(**tensors, return_dict=True, **settings)

    def region_mask(self) -> torch.Tensor:
        """[1, (G,) R], 1 at real regions."""
        mask = self.tensors.get("region_attention_mask")
        return torch.ones_like(self.tensors["region_locations"][..., 0]).long() if mask is None else mask

    def places(self, regions: Any, processor: Any = None) -> list[Places]:
        """Of every image of the example. A processor knows whether it puts the whole image in front."""
        whole_image = getattr(getattr(processor, "image_processor", None), "add_global_region", True)
        records = list(flat(regions)) if isinstance(regions, Sequence) else [regions]
        locations = self.tensors["region_locations"].float().cpu().numpy()
        # A region that was masked by hand is still there; padding has no place.
        real = self.region_mask().bool().cpu().numpy() | (locations != 0).any(-1)
        locations, real = locations.reshape(-1, *locations.shape[-2:]), real.reshape(-1, real.shape[-1])
        if len(records) != len(locations):
            raise ValueError(
                f"regions must be one record for each of the {len(locations)} images in inputs, got {len(records)}."
            )
        return [Places.of(*one, whole_image) for one in zip(records, locations, real)]

    def bare_places(self) -> list[Places]:
        """The same where no record is at hand."""
        locations = self.tensors["region_locations"].float().cpu().numpy()
        locations = locations.reshape(-1, *locations.shape[-2:])[..., :4]
        whole = np.zeros(locations.shape[:2], bool)
        whole[:, 0] = np.abs(locations[:, 0] - [0, 0, 1, 1]).max(-1) <= ROUNDING
        return [Places(boxes, [None] * len(boxes), flags, (1, 1)) for boxes, flags in zip(locations, whole)]

    def words(self, item: int, tokenizer: Any = None) -> tuple[list[str], np.ndarray]:
        """T words of an image or choice, without the padding at the end, and which of them are special [T]."""
        row = item if self.text_groups else 0
        ids, mask = (
            self.tensors[name].flatten(0, -2)[row].tolist() if name in self.tensors else None
            for name in ("input_ids", "attention_mask")
        )
        count = len(ids) if ids is not None else self.tensors["inputs_embeds"].shape[-2]
        if mask is not None:
            count = max((place + 1 for place, real in enumerate(mask) if real), default=count)
        if ids is None:
            names = [f"word {place}" for place in range(count)]
        elif tokenizer is None:
            names = [f"#{number}" for number in ids[:count]]
        else:
            names = [
                tokenizer.decode([number]).strip() or tokenizer.convert_ids_to_tokens(number) for number in ids[:count]
            ]
        if ids is not None and tokenizer is not None:
            kinds = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
            known = {getattr(tokenizer, kind, None) for kind in kinds}
            special = [number in known for number in ids[:count]]
        else:
            special = [place in (0, count - 1) or (mask is not None and not mask[place]) for place in range(count)]
        if self.has_task_token:
            names.insert(1, "[TASK]")
            special.insert(1, True)
        return names, np.array(special, bool)

    @property
    def has_task_token(self) -> bool:
        return self.model.config.num_task_tokens > 0


@dataclass
class Target:
    """One number of an output: which, what it is called, what else there was, and where the head reads it.

    Args:
        kind: of the head; "word" for a masked word.
        squash: how logits become scores: "softmax", "sigmoid" or "none" (regression).
        index: its column in `logits`.
        label: what it is called.
        task: of `ViLBertForMultiTask`.
        text_row: the position of the words' stream that is read, None if it is not.
        vision_row: the same of the regions' stream.
        items: which images or choices of the example it is about, by their place in the model's batch.
        answers: the best answers and their scores.
        predicted_region: of grounding, the best region but for the whole image.
    """

    kind: str
    squash: str
    index: int = 0
    label: str = ""
    task: str | None = None
    text_row: int | None = 0
    vision_row: int | None = 0
    items: list[int] = field(default_factory=lambda: [0])
    answers: list[dict[str, Any]] = field(default_factory=list)
    predicted_region: int | None = None

    @classmethod
    def find(
        cls, example: Example, outputs: ModelOutput, wanted: Any, places: list[Places], tokenizer: Any
    ) -> "Target | None":
        """What `wanted` means for the head of the example's model, from its outputs; None for a model without one."""
        kind = example.kind
        if kind == "none":
            if wanted is not None:
                raise ValueError(
                    f"target: {type(example.model).__name__} has no head, so that there is nothing to explain but raw "
                    f"attention. Leave target out, or explain a model with a head; got {wanted!r}."
                )
            return None
        if kind == "pretraining" and isinstance(wanted, (tuple, list)):
            return cls._word(example, outputs, wanted, tokenizer)

        found = cls(kind, squash_of(example, outputs), task=example.task)
        logits = found.logits(outputs)[0].detach().float()
        count, allowed = len(logits), None
        if kind == "pretraining":
            names = ALIGNMENT
        elif kind == "grounding":
            count = len(places[0].boxes)
            names = [places[0].name(row) for row in range(count)]
            allowed = example.region_mask()[0, :count].bool().cpu()
            logits = logits[:count]
        elif kind in ("choice", "matching"):
            names = ["match"] if example.groups is None else [f"choice {number}" for number in range(count)]
        else:
            config = example.model.config
            given = config.id2label if example.task is None else config.tasks[example.task].get("id2label", {})
            # Keys of JSON are text.
            names = [str(given.get(label, given.get(str(label), f"LABEL_{label}"))) for label in range(count)]

        candidates = torch.ones(count, dtype=torch.bool) if allowed is None else allowed
        if kind == "grounding":
            smaller = candidates & ~torch.from_numpy(places[0].is_global)
            candidates = smaller if smaller.any() else candidates
        best = int(logits.cpu().masked_fill(~candidates, -torch.inf).argmax())
        found.index = best if wanted is None else _index(wanted, names, allowed)
        found.label = names[found.index]
        scores = found.scores(logits[None])[0]
        if found.squash != "none":
            order = scores.argsort(descending=True, stable=True).tolist()
            order = [row for row in order if allowed is None or allowed[row]][:NUM_ANSWERS]
            found.answers = [{"label": names[row], "score": scores[row].item()} for row in order]
        if kind == "grounding":
            found.text_row, found.vision_row, found.predicted_region = None, found.index, best
        elif kind == "images":
            found.items = list(range(example.groups))
        elif example.groups is not None:
            found.items = [found.index]
        return found

    @classmethod
    def _word(cls, example: Example, outputs: ModelOutput, wanted: Sequence, tokenizer: Any) -> "Target":
        names, _ = example.words(0)
        count = len(names) - example.has_task_token
        position, token = (as_index(wanted[0]), wanted[1]) if len(wanted) == 2 else (None, None)
        if position is None or not 0 <= position < count:
            raise ValueError(
                f"target: a masked word is (position, token), its position within 0 to {count - 1}, got {wanted!r}."
            )
        row = position + (example.has_task_token and position > 0)
        found = cls("word", "softmax", text_row=row, vision_row=None)
        logits = found.logits(outputs)[0].detach().float()
        if isinstance(token, str):
            if tokenizer is None:
                raise ValueError(f"target: a word as text needs processor=..., which knows its id; got {token!r}.")
            number = tokenizer.convert_tokens_to_ids(token)
            if number is None or (number == tokenizer.unk_token_id and token != tokenizer.unk_token):
                raise ValueError(f"target: {token!r} is no token of the tokenizer's vocabulary.")
            token = number
        scores, best = found.scores(logits[None])[0], logits.topk(min(NUM_ANSWERS, len(logits))).indices.tolist()
        number = best[0] if token is None else as_index(token)
        if number is None or not 0 <= number < len(logits):
            raise ValueError(f"target: a token must be within 0 to {len(logits) - 1}, got {token!r}.")
        name = (
            (lambda number: f"#{number}") if tokenizer is None else (lambda number: tokenizer.decode([number]).strip())
        )
        found.index = number
        found.label = f"{name(found.index)} (word {position})"
        found.answers = [{"label": name(number), "score": scores[number].item()} for number in best]
        return found

    def logits(self, outputs: ModelOutput) -> torch.Tensor:
        """-> [N, L]"""
        if self.kind == "pretraining":
            return outputs.alignment_logits
        return outputs.prediction_logits[:, self.text_row] if self.kind == "word" else outputs.logits

    def margin(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [N, L] -> [N], what is explained: the target's logit above the best other's, where one is chosen.

        What all answers share, such as how loud they are, is thus no part of it.
        """
        own = logits[:, self.index].float()
        if self.squash != "softmax" or logits.shape[1] == 1:
            return own
        others = logits.float().scatter(1, torch.full_like(logits[:, :1], self.index, dtype=torch.long), -torch.inf)
        return own - others.amax(1)

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """[N, L] -> [N, L], within 0 and 1 but for regression."""
        if self.squash == "softmax":
            return logits.float().softmax(-1)
        return logits.float().sigmoid() if self.squash == "sigmoid" else logits.float()


def squash_of(example: Example, outputs: ModelOutput) -> str:
    if example.kind == "grounding" or (example.kind == "matching" and example.groups is None):
        return "sigmoid"
    if example.kind != "classification":
        return "softmax"
    problem_type, count = example.model.config.problem_type, outputs.logits.shape[-1]
    if problem_type == "regression" or (problem_type is None and count == 1):
        return "none"
    return "sigmoid" if problem_type == "multi_label_classification" or count == 1 else "softmax"


def _index(wanted: Any, names: list[str], allowed: torch.Tensor | None) -> int:
    some = names if len(names) <= 20 else [*names[:20], "…"]
    if isinstance(wanted, str):
        if wanted not in names:
            raise ValueError(f"target must be one of {some}, or an index, got {wanted!r}.")
        return names.index(wanted)
    index = as_index(wanted)
    if index is None or not 0 <= index < len(names):
        raise ValueError(f"target must be within 0 to {len(names) - 1}, or one of {some}, got {wanted!r}.")
    if allowed is not None and not allowed[index]:
        raise ValueError(f"target {index} is a region that region_attention_mask hides.")
    return index


def as_index(wanted: Any) -> int | None:
    """An integer of any library as one of Python; None if it is none."""
    try:
        return None if isinstance(wanted, (bool, np.bool_)) else operator.index(wanted)
    except TypeError:
        return None


def flat(regions: Any) -> Iterator[Any]:
    """Records out of lists of lists."""
    for one in regions:
        if isinstance(one, (list, tuple)):
            yield from flat(one)
        else:
            yield one
