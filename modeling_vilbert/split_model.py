# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""A model that scores pairs, cut where text and image meet: words alone, regions alone, both.

What a forward computes of one side alone is computed once for each text and each image, and kept; what no score reads
is not computed at all.

Reading order: which steps of a schedule know one side alone; the model in three parts; what is kept of a side.

Shapes: B pairs of a batch, T tokens, R regions, A attention size, P pooled size.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import numpy as np
import torch
from torch import nn

from .configuration_vilbert import ViLBertConfig
from .heads_vilbert import ViLBertHead
from .modeling_vilbert import Count, ViLBertModel, ViLBertModelOutput, wanted_counts


Step = tuple[str, int]
OTHER = {"text": "vision", "vision": "text"}

# Fields of a config that say nothing about what the model computes.
SAYS_NOTHING = ("_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "transformers_version")


@dataclass(frozen=True)
class Parts:
    """The steps of a schedule, by what they have to know.

    Args:
        text: steps that know the words alone.
        vision: steps that know the regions alone.
        pair: the others, in order.
        meeting: the first co-attention among them, or None.
        projected: streams that reach it as they are after their own steps, so that its projections of them are known,
            too.
    """

    text: tuple[Step, ...]
    vision: tuple[Step, ...]
    pair: tuple[Step, ...]
    meeting: int | None
    projected: frozenset[str]

    @classmethod
    def of(cls, config: ViLBertConfig) -> "Parts":
        alone, pair, meeting, changed = {"text": [], "vision": []}, [], None, set()
        for step in config.schedule:
            kind, number = step
            # A gated vision layer knows the words; text that goes on behind it is another than it has seen.
            knows_both = kind == "coattention" or (kind == "vision" and config.text_gated_vision_attention)
            (pair if pair or knows_both else alone[kind]).append(step)
            if kind == "coattention" and meeting is None:
                meeting, changed = number, {kind for kind, _ in pair[:-1]}
        projected = frozenset(OTHER) - changed if meeting is not None else frozenset()
        return cls(tuple(alone["text"]), tuple(alone["vision"]), tuple(pair), meeting, projected)


class SplitModel:
    """A trunk and the head of a score, in three parts: words alone, regions alone, both.

    Masks are bool [B, 1, 1, T or R] with true at real positions, or None where all are real.
    """

    def __init__(self, trunk: ViLBertModel, head: ViLBertHead):
        self.trunk, self.head = trunk, head
        config = trunk.config
        self.parts = Parts.of(config)
        # A score reads the pooled vectors alone.
        counts = wanted_counts(config.schedule, text=1, vision=1, gated=config.text_gated_vision_attention)
        self.wanted = dict(zip(config.schedule, counts))

    @property
    def device(self) -> torch.device:
        return self.trunk.device

    def text(self, inputs: Mapping[str, torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Inputs of the words -> what is to be kept of them, each [B, T, ...] (or [B, 1, P]), and what is real [B, T].

        That is the states, then query, key and value for the first co-attention; or the pooled vector, if the text
        never meets an image.
        """
        task_ids, real = inputs.get("task_ids"), inputs["attention_mask"].bool()
        if task_ids is not None:
            real = torch.cat([real[:, :1], real], 1)
        states = self.trunk.text_embeddings(inputs["input_ids"], None, inputs.get("token_type_ids"), None, task_ids)
        return self._alone("text", states, real)

    def vision(self, inputs: Mapping[str, torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Inputs of the regions -> the same of them, each [B, R, ...] (or [B, 1, P]), and what is real [B, R]."""
        states = self.trunk.vision_embeddings(inputs["region_features"], inputs["region_locations"])
        return self._alone("vision", states, inputs["region_attention_mask"].bool())

    def scores(
        self,
        text: Sequence[torch.Tensor],
        vision: Sequence[torch.Tensor],
        text_mask: torch.Tensor | None,
        vision_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """What is kept of B texts and of B images, and their masks -> [B]."""
        (text, *text_projections), (vision, *vision_projections) = text, vision
        encoder = self.trunk.encoder
        for step in self.parts.pair:
            (kind, number), count = step, self.wanted[step]
            if kind == "text":
                text, _ = encoder.text_layers[number](text[:, : count["text"]], text, text_mask)
            elif kind == "vision":
                words = None if text_mask is None else text_mask[:, 0, 0]
                vision, _ = encoder.vision_layers[number](
                    vision[:, : count["vision"]], vision, vision_mask, text, words
                )
            else:
                of_text = text_projections or self._projections("text", number, text)
                of_vision = vision_projections or self._projections("vision", number, vision)
                layer, text_projections, vision_projections = encoder.coattention_layers[number], (), ()
                text = self._look(layer.text, text, of_text, of_vision, vision_mask, count["text"])
                vision = self._look(layer.vision, vision, of_vision, of_text, text_mask, count["vision"])
        pooled = {"text": text, "vision": vision} if not self.parts.pair else self._pooled(text=text, vision=vision)
        outputs = ViLBertModelOutput(
            text_pooler_output=pooled["text"].flatten(1), vision_pooler_output=pooled["vision"].flatten(1)
        )
        return self.head(outputs)[:, 0]

    def fingerprint(self, *settings: object) -> str:
        """What tells this model's scores from another's: its weights, its config and the settings, as a digest.

        Raises:
            ValueError: if the model has adapters, which may be switched off or scaled without a trace in its weights.
        """
        for part in (self.trunk, self.head):
            for module in part.modules():
                if type(module).__module__.startswith("peft."):
                    raise ValueError(
                        f"model has adapters ({type(module).__name__} of PEFT), and a file of scores cannot tell how "
                        "they are set: score without output, or with what PeftModel.merge_and_unload() returns."
                    )
        fields = {name: value for name, value in self.trunk.config.to_dict().items() if name not in SAYS_NOTHING}
        digest = blake2b(json.dumps([fields, settings], default=str, sort_keys=True).encode(), digest_size=16)
        for part in (self.trunk, self.head):
            for name, value in chain(part.named_parameters(), part.named_buffers()):
                update_by_tensor(digest, name, value)
        return digest.hexdigest()

    def _alone(
        self, stream: str, states: torch.Tensor, real: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        layers, mask = getattr(self.trunk.encoder, f"{stream}_layers"), key_mask(real)
        for step in getattr(self.parts, stream):
            states, _ = layers[step[1]](states[:, : self.wanted[step][stream]], states, mask)
        if not self.parts.pair:
            return (self._pooled(**{stream: states})[stream][:, None],), real[:, :1]
        if stream not in self.parts.projected:
            return (states,), real
        return (states, *self._projections(stream, self.parts.meeting, states)), real

    def _projections(self, stream: str, coattention: int, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What a co-attention layer makes of one stream: its query, and key and value for the other, each [B, T, A]."""
        layer = self.trunk.encoder.coattention_layers[coattention]
        own, others = (getattr(layer, name).attention for name in (stream, OTHER[stream]))
        return own.query(states), others.key(states), others.value(states)

    @staticmethod
    def _look(
        layer: nn.Module,
        states: torch.Tensor,
        own: Sequence[torch.Tensor],
        others: Sequence[torch.Tensor],
        mask: torch.Tensor | None,
        count: Count,
    ) -> torch.Tensor:
        """One half of a co-attention layer, from both streams' projections."""
        attended, _ = layer.attention.attend(own[0][:, :count], others[1], others[2], mask)
        return layer.finish(states[:, :count], attended)

    def _pooled(self, **states: torch.Tensor) -> dict[str, torch.Tensor]:
        return {stream: getattr(self.trunk, f"{stream}_pooler")(value) for stream, value in states.items()}


def update_by_tensor(digest: blake2b, name: str, value: torch.Tensor):
    digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
    if hasattr(value, "__tensor_flatten__"):
        # A quantized weight is several tensors and settings; among these is what becomes of the activations.
        inner, settings = value.__tensor_flatten__()
        digest.update(str(settings).encode())
        for one in inner:
            update_by_tensor(digest, one, getattr(value, one))
    else:
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def key_mask(real: torch.Tensor) -> torch.Tensor | None:
    """real [B, K] -> [B, 1, 1, K], or None where nothing is padding."""
    return None if real.all() else real[:, None, None]


class Kept:
    """What is kept of some texts or images: tensors [positions of all, ...], one item after another, without padding.

    Args:
        lengths: kept positions of each item.
        device: where they are kept.
    """

    def __init__(self, lengths: np.ndarray, device: torch.device):
        self.lengths, self.starts, self.device = lengths, np.cumsum(lengths) - lengths, device
        self.tensors: list[torch.Tensor] = []
        self._filled = 0

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.tensors)

    def add(self, tensors: Sequence[torch.Tensor], real: torch.Tensor):
        """The next items: tensors [items, positions, ...], padded, and which positions are real [items, positions]."""
        if not self.tensors:
            self.tensors = [one.new_empty(int(self.lengths.sum()), one.shape[2]) for one in tensors]
        start, self._filled = self._filled, self._filled + int(real.sum())
        for kept, one in zip(self.tensors, tensors):
            kept[start : self._filled] = one[real]

    def take(self, items: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Items [B] -> tensors [B, positions of the longest, ...], and a mask as of `SplitModel`."""
        steps, last = np.arange(self.lengths[items].max()), self.lengths[items, None] - 1
        # Padding repeats an item's last position: any finite numbers will do.
        places = torch.from_numpy(self.starts[items, None] + np.minimum(steps, last)).to(self.device)
        real = torch.from_numpy(steps <= last)
        taken = [one.index_select(0, places.flatten()).unflatten(0, places.shape) for one in self.tensors]
        return taken, None if real.all() else real[:, None, None].to(self.device)
