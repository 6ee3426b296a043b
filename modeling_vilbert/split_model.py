# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""A model that scores pairs, cut where text and image meet: words alone, regions alone, both.

What a forward computes of one side alone is computed once for each text and each image, and kept; what no score reads
is not computed at all.

Reading order: which steps of a schedule know one side alone; how a batch is packed; the model in three parts; what is
kept of a side.

Pairs go through the third part without padding: the positions of all pairs stand one behind another, and what treats
each position by itself, which is nearly all of the work, sees only those. Attention alone is given padded tensors.

Shapes: B pairs of a batch, T tokens, R regions, A attention size, P pooled size, N positions of all of a batch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import numpy as np
import torch

from .configuration_vilbert import ViLBertConfig
from .heads_vilbert import ViLBertHead
from .layers_vilbert import Count, ViLBertLayer
from .modeling_vilbert import ViLBertModel, ViLBertModelOutput, wanted_counts


Step = tuple[str, int]
OTHER = {"text": "vision", "vision": "text"}

# On CPUs a product in half precision is compiled anew for each number of rows, which takes up to a tenth of a batch.
# So there are few such numbers, and most of them return.
HALF_MULTIPLE = 64

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


class Packing:
    """How the positions of a batch of items stand one behind another: [N, ...] packed, [B, longest, ...] padded.

    Args:
        lengths: positions of each item, [B].
        device: of the tensors.
        multiple: N is made one of it, by repeating the last position.

    Attributes:
        mask: bool [B, 1, 1, longest], true at real positions; None where all are real.
    """

    def __init__(self, lengths: np.ndarray, device: torch.device, multiple: int = 1):
        self.lengths, self.device, self.count = lengths, device, int(lengths.sum())
        self.spare = -self.count % multiple
        starts, steps = np.cumsum(lengths) - lengths, np.arange(lengths.max())
        real = steps < lengths[:, None]
        self._starts = torch.from_numpy(starts).to(device)
        self._padded = self._packed = self.mask = None
        if not real.all():
            self.mask = torch.from_numpy(real[:, None, None]).to(device)
            # Padding repeats an item's last position: any finite numbers will do.
            padded = starts[:, None] + np.minimum(steps, lengths[:, None] - 1)
            self._padded = torch.from_numpy(padded.ravel()).to(device)
        if self.spare or not real.all():
            packed = np.pad(np.flatnonzero(real), (0, self.spare), mode="edge")
            self._packed = torch.from_numpy(packed).to(device)

    def pad(self, values: torch.Tensor) -> torch.Tensor:
        """[N, ...] -> [B, longest, ...]"""
        values = values[: self.count] if self._padded is None else values.index_select(0, self._padded)
        return values.unflatten(0, (len(self.lengths), -1))

    def pack(self, values: torch.Tensor) -> torch.Tensor:
        """[B, longest, ...] -> [N, ...]"""
        values = values.flatten(0, 1)
        return values if self._packed is None else values.index_select(0, self._packed)

    def first(self, values: torch.Tensor) -> torch.Tensor:
        """[N, ...] -> the first position of each item, [B, ...]"""
        return values.index_select(0, self._starts)

    def of_first(self) -> "Packing":
        """How what `first` gives is packed."""
        return Packing(np.ones_like(self.lengths), self.device)


@dataclass(frozen=True)
class Packed:
    """One stream of a batch.

    Args:
        states: [N, D].
        packing: of it.
        projections: where they are known, what the next co-attention layer makes of the states: its query, and key and
            value for the other stream, each [N, A].
    """

    states: torch.Tensor
    packing: Packing
    projections: tuple[torch.Tensor, ...] = ()

    def first(self, count: Count) -> "Packed":
        """The first position of each item alone, for a count of 1."""
        if count is None:
            return self
        first = self.packing.first
        return Packed(first(self.states), self.packing.of_first(), tuple(map(first, self.projections)))


class SplitModel:
    """A trunk and the head of a score, in three parts: words alone, regions alone, both."""

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

    def scores(self, text: Packed, vision: Packed) -> torch.Tensor:
        """What is kept of B texts and of B images -> [B]."""
        encoder = self.trunk.encoder
        for step in self.parts.pair:
            (kind, number), counts = step, self.wanted[step]
            if kind == "text":
                text = self._look(encoder.text_layers[number], text, text, counts["text"])
            elif kind == "vision":
                vision = self._look(encoder.vision_layers[number], vision, vision, counts["vision"], words=text)
            else:
                layer = encoder.coattention_layers[number]
                text, vision = (
                    self._look(layer.text, text, vision, counts["text"]),
                    self._look(layer.vision, vision, text, counts["vision"]),
                )
        text, vision = text.first(1).states, vision.first(1).states
        pooled = {"text": text, "vision": vision}
        if self.parts.pair:
            pooled = self._pooled(text=text[:, None], vision=vision[:, None])
        outputs = ViLBertModelOutput(text_pooler_output=pooled["text"], vision_pooler_output=pooled["vision"])
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
        return (states, *self._projections(stream, states)), real

    def _projections(self, stream: str, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the first co-attention layer makes of one stream: its query, and key and value for the other, each
        [B, T, A].
        """
        layer = self.trunk.encoder.coattention_layers[self.parts.meeting]
        own, others = (getattr(layer, name).attention for name in (stream, OTHER[stream]))
        return own.query(states), others.key(states), others.value(states)

    @staticmethod
    def _look(layer: ViLBertLayer, own: Packed, context: Packed, count: Count, words: Packed | None = None) -> Packed:
        """A layer for so many positions of each item; `words` are those that a gated layer sees."""
        attention, own = layer.attention, own.first(count)
        query = own.projections[0] if own.projections else attention.query(own.states)
        key, value = context.projections[1:] or (attention.key(context.states), attention.value(context.states))
        query, key, value = own.packing.pad(query), context.packing.pad(key), context.packing.pad(value)
        if layer.gates is not None:
            mask = words.packing.mask
            gates = layer.gates(words.packing.pad(words.states), None if mask is None else mask[:, 0, 0])
            query, key = query * gates[0], key * gates[1]
        mixed, _ = attention.attend(query, key, value, context.packing.mask)
        attended = attention.output(own.packing.pack(mixed))
        return Packed(layer.finish(own.states, attended), own.packing)

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


def compiles_each_size(states: torch.Tensor) -> bool:
    """Whether products of these states are of those that are compiled anew for each number of rows."""
    half = states.dtype != torch.float32 or torch.is_autocast_enabled(states.device.type)
    return half and states.device.type == "cpu"


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

    def take(self, items: np.ndarray) -> Packed:
        """Numbers of items [B] -> those items, one behind another."""
        lengths = self.lengths[items]
        packing = Packing(lengths, self.device, HALF_MULTIPLE if compiles_each_size(self.tensors[0]) else 1)
        shifts = self.starts[items] - (np.cumsum(lengths) - lengths)
        places = np.pad(np.repeat(shifts, lengths) + np.arange(packing.count), (0, packing.spare), mode="edge")
        places = torch.from_numpy(places).to(self.device)
        states, *projections = (one.index_select(0, places) for one in self.tensors)
        return Packed(states, packing, tuple(projections))
