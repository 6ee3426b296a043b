# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What `explain` returns: the maps of one example as arrays, with the words, boxes and answers that they are about.

Reading order: the record and its views, how faithful it is, exports.

Shapes: L layers (of co-attention, or of a stream), H heads, T tokens, R regions, Q queries, K keys.
"""

import base64
import importlib.util
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .explanation_page import check_page_path, check_places, embedded_picture, write_page
from .explanation_pictures import draw
from .explanation_targets import Example, Target, as_index
from .optional_packages import need
from .proposals import open_image
from .relevance import MAPS


# Answers that the JSON form holds at most.
MAX_ANSWERS = 10


@dataclass
class Faithfulness:
    """What became of the target's score when regions were hidden from the model.

    Args:
        score: of the target with all regions: by the measure "score" a probability (of a regression, the value
            itself), by "margin" how far its logit is above the best other's.
        relevant_drop: by how much it fell without the k most relevant regions.
        random_drops: [draws], by how much it fell without k random ones, for each draw.
        regions: the k most relevant regions that were hidden.
    """

    score: float
    relevant_drop: float
    random_drops: np.ndarray
    regions: list[int]

    @property
    def random_mean(self) -> float:
        """The mean drop over the draws of random regions."""
        return float(self.random_drops.mean())

    @property
    def random_spread(self) -> float:
        """The standard deviation of the drop over the draws of random regions."""
        return float(self.random_drops.std())


@dataclass(eq=False)
class Explanation:
    """Who looked at what in one example, and which of it mattered for one target.

    Two kinds of map are in it. `attention` is raw: where every head looked. It is not an explanation: heads also look
    at what changes nothing. `relevance` is attention times the gradient of the target, carried through all layers
    (Chefer et al., 2021): what the target's score depends on. Padding is in neither.

    Args:
        words: T tokens as text, [CLS] and [SEP] among them.
        word_is_special: [T] bool, true at tokens that are no words ([CLS], [SEP], padding, the task's token).
        boxes: [R, 4], (x1, y1, x2, y2) as fractions of the image's width and height; the whole image is region 0.
        region_labels: R names, None where there is none.
        region_is_global: [R] bool, true at the whole image.
        image_size: (width, height) in pixels.
        target: what is explained, as text; "" for a model without a head.
        answers: what the model says, `{"label": str, "score": float in [0, 1]}`, best first.
        attention: raw attention probabilities by direction, query first: "text_to_vision" [L, H, T, R] and
            "vision_to_text" [L, H, R, T] of the co-attention layers, "text_to_text" [L, H, T, T] and
            "vision_to_vision" [L, H, R, R] of the layers of each stream.
        relevance: "words" [T] and "regions" [R], each with the sum 1 (or all 0 if nothing mattered), and the maps
            that they were read from, as in `attention` but without layers and heads. None without a target.
        predicted_region: of grounding, the region with the best score, not counting the whole image.
        other_images: the explanations of the other images of the example (NLVR2).
    """

    words: list[str]
    word_is_special: np.ndarray
    boxes: np.ndarray
    region_labels: list[str | None]
    region_is_global: np.ndarray
    image_size: tuple[float, float]
    target: str
    answers: list[dict[str, Any]]
    attention: dict[str, np.ndarray]
    relevance: dict[str, np.ndarray] | None = None
    predicted_region: int | None = None
    other_images: tuple["Explanation", ...] = ()
    _target: Target | None = field(default=None, repr=False)
    _item: int = field(default=0, repr=False)
    _following: dict[str, list[int]] = field(default_factory=dict, repr=False)

    @property
    def images(self) -> list["Explanation"]:
        """An explanation for each image of the example: this one, and those of further images."""
        return [self, *self.other_images]

    @property
    def num_images(self) -> int:
        """Of the example."""
        return 1 if self._target is None else len(self._target.items)

    @property
    def image_number(self) -> int:
        """Which of them this explanation is about, from 1."""
        return 1 if self._target is None else self._target.items.index(self._item) + 1

    # Views

    def excluded(self, stream: str) -> np.ndarray:
        """Bool, true at positions of "text" or "vision" that are no words, or no regions but the whole image."""
        return np.asarray({"text": self.word_is_special, "vision": self.region_is_global}[stream])

    def weights(
        self,
        direction: str = "text_to_vision",
        kind: str = "relevance",
        layer: int | None = None,
        head: int | None = None,
        exclude: bool = True,
    ) -> np.ndarray:
        """One map [Q, K] whose rows sum to one over what is not excluded, and are zero elsewhere.

        Args:
            direction: query first: one of "text_to_vision", "vision_to_text", "text_to_text", "vision_to_vision".
            kind: "relevance" or "attention" (raw).
            layer: of attention, which layer. Default: the mean of all.
            head: of attention, which head. Default: the mean of all.
            exclude: leave [CLS], [SEP], padding and the whole image out of what is looked at.

        Raises:
            ValueError: for an unknown direction, kind, layer or head, or relevance where there is none.
        """
        values = self._map(direction, kind, layer, head)
        return normalize(values, self.excluded(direction.split("_to_")[1]) if exclude else None)

    def relevant(self, stream: str, exclude: bool = True) -> np.ndarray:
        """How relevant every word ("text", [T]) or region ("vision", [R]) is for the target; the sum is one.

        `exclude` leaves [CLS], [SEP], padding and the whole image out: they are zero then.
        """
        if stream not in ("text", "vision"):
            raise ValueError(f"stream must be 'text' or 'vision', got {stream!r}.")
        values = self._relevance()["words" if stream == "text" else "regions"]
        return normalize(values, self.excluded(stream) if exclude else None)

    def heads(self) -> dict[str, dict[str, np.ndarray]]:
        """For both directions of co-attention, what tells its heads apart, each [L, H], a mean over queries.

        "entropy": of where a query looks, in nats: 0 is one place, log(K) is all alike. "special": its share on [CLS],
        [SEP] and other tokens that are no words (0 where it looks at regions). "global_region": its share on the whole
        image (0 where it looks at words).
        """
        result = {}
        for direction in ("text_to_vision", "vision_to_text"):
            values = self.attention[direction]
            logs = np.log(values, out=np.zeros_like(values), where=values > 0)
            to_text = direction.endswith("text")
            share = values[..., self.excluded("text" if to_text else "vision")].sum(-1).mean(-1)
            result[direction] = {
                "entropy": -(values * logs).sum(-1).mean(-1),
                "special": share if to_text else np.zeros_like(share),
                "global_region": np.zeros_like(share) if to_text else share,
            }
        return result

    def _relevance(self) -> dict[str, np.ndarray]:
        if self.relevance is None:
            raise ValueError(
                "There is no relevance without a target: ViLBertModel has no head. Explain a model with one, or take "
                "kind='attention'."
            )
        return self.relevance

    def _map(self, direction: str, kind: str, layer: int | None, head: int | None) -> np.ndarray:
        if direction not in MAPS:
            raise ValueError(f"direction must be one of {list(MAPS)}, got {direction!r}.")
        if kind == "relevance":
            if layer is not None or head is not None:
                raise ValueError("layer and head are for kind='attention': relevance is one map over all of them.")
            return self._relevance()[direction]
        if kind != "attention":
            raise ValueError(f"kind must be 'relevance' or 'attention', got {kind!r}.")
        values = self.attention[direction]
        if 0 in values.shape[:2]:
            raise ValueError(f"The model has no layer of {direction} attention.")
        for name, axis, index in (("layer", 0, layer), ("head", 1, head)):
            if index is not None and not 0 <= index < values.shape[axis]:
                raise ValueError(f"{name} must be within 0 to {values.shape[axis] - 1}, got {index!r}.")
            values = values.mean(axis, keepdims=True) if index is None else values.take([index], axis)
        return values[0, 0]

    # Checks

    def faithfulness(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, Any],
        k: int = 3,
        draws: int = 20,
        seed: int = 0,
        measure: str = "score",
    ) -> Faithfulness:
        """Hide the k most relevant regions from the model, then k random ones: which costs the target more?

        Hidden regions are masked in `region_attention_mask`. The whole image stays, and so does the region that is
        the target of grounding.

        Args:
            model: the one that was explained.
            inputs: those that were explained.
            k: how many regions go.
            draws: how often random ones are drawn.
            seed: of the draws.
            measure: "score", or "margin" of logits, which still tells where a probability stays at 1.

        Raises:
            ValueError: if there is no target, or not more than k regions.
        """
        regions, target = self.relevant("vision"), self._target
        stays = self.region_is_global.copy()
        if target.kind == "grounding":
            stays[target.index] = True
        example = Example(model, inputs, target.task)
        mask = example.region_mask()
        if mask.shape[-1] < len(regions):
            raise ValueError(f"inputs are not those that were explained: they have {mask.shape[-1]} regions.")
        own = (0, self._item) if example.region_groups else (0,)
        stays |= ~mask[own][: len(regions)].bool().cpu().numpy()
        candidates = np.flatnonzero(~stays)
        if len(candidates) < 2:
            raise ValueError(f"inputs must have at least two regions that can be hidden, got {len(candidates)}.")
        if not 1 <= k < len(candidates):
            raise ValueError(f"k must be within 1 to {len(candidates) - 1}, fewer than the regions, got {k!r}.")
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws!r}.")
        if measure not in ("score", "margin"):
            raise ValueError(f"measure must be 'score' or 'margin', got {measure!r}.")
        best = candidates[np.argsort(-regions[candidates], kind="stable")[:k]]
        generator = np.random.default_rng(seed)
        hidden = [best, *(generator.choice(candidates, k, replace=False) for _ in range(draws))]

        mask = mask.repeat(1 + len(hidden), *[1] * (mask.dim() - 1))
        for copy, rows in enumerate(hidden, start=1):
            mask[(copy, *own[1:])][torch.from_numpy(rows)] = 0
        with example.gradients(), torch.no_grad():
            words, features = (x.expand(len(mask), *x.shape[1:]) for x in example.embeddings())
            logits = target.logits(example.run(words, features, mask))
            scores = target.margin(logits) if measure == "margin" else target.scores(logits)[:, target.index]
        scores = scores.double().cpu().numpy()
        drops = scores[0] - scores[1:]
        return Faithfulness(float(scores[0]), float(drops[0]), drops[1:], best.tolist())

    # Pictures

    def plot(
        self,
        image: Any = None,
        kind: str = "relevance",
        word: int | str | None = None,
        region: int | None = None,
        direction: str | None = None,
        layer: int | None = None,
        head: int | None = None,
        exclude: bool = True,
    ) -> Any:
        """Draw the image, its boxes shaded, beside the words: bright is much and dark is little.

        Without `word` and `region` it shows what the target depends on; of raw attention, where all words look and
        where all regions look, on average. In grounding, the predicted box is drawn.

        Args:
            image: the picture (path, PIL image, array). Default: a blank canvas of `image_size`.
            kind: "relevance" or "attention" (raw).
            word: a position in `words`, or the word itself, to see its regions.
            region: a region, to see its words.
            direction: with `word` or `region`, who looks: "text_to_vision" or "vision_to_text". Default: the one that
                was asked about.
            layer: of attention, which layer. Default: the mean of all.
            head: of attention, which head. Default: the mean of all.
            exclude: leave [CLS], [SEP] and the whole image out.

        Returns:
            A `matplotlib.figure.Figure`; `figure.savefig(path)` writes it, a notebook shows it.

        Raises:
            ValueError: if the picture is not as large as `image_size`, the regions have no places of their own, or
                there is no such word, region, direction, layer or head.
        """
        check_places(self.boxes)
        if word is not None and region is not None:
            raise ValueError("Give word or region, not both.")
        if direction is not None and direction not in ("text_to_vision", "vision_to_text"):
            raise ValueError(f"direction must be 'text_to_vision' or 'vision_to_text', got {direction!r}.")
        word = None if word is None else self._position("word", word, self.words)
        region = None if region is None else self._position("region", region, self.region_names())
        words = regions = None
        if word is not None:
            regions, about = self._looks("text", word, direction, kind, layer, head, exclude)
        elif region is not None:
            words, about = self._looks("vision", region, direction, kind, layer, head, exclude)
        elif kind == "relevance":
            self._map("text_to_vision", kind, layer, head)  # says what does not fit
            words, regions = self.relevant("text", exclude), self.relevant("vision", exclude)
            about = "what the target depends on"
        else:
            maps = (self.weights(name, kind, layer, head, exclude) for name in ("vision_to_text", "text_to_vision"))
            asked = (~self.excluded(stream) if exclude else slice(None) for stream in ("vision", "text"))
            words, regions = (normalize(values[rows].sum(0)) for values, rows in zip(maps, asked))
            about = "where words look, and where regions look"
        if kind == "relevance":
            legend = f"Relevance (attention x gradient through all layers): {about}."
        else:
            which = ", ".join("mean of all" if n is None else str(n) for n in (layer, head))
            legend = (
                f"Raw attention (layer, head: {which}): {about}.\n"
                "It tells where the model looked; it is not an explanation."
            )
        picture = None if image is None else self.picture(image)
        return draw(self, picture, words, regions, legend, word, region, exclude)

    def _looks(
        self,
        stream: str,
        row: int,
        direction: str | None,
        kind: str,
        layer: int | None,
        head: int | None,
        exclude: bool,
    ) -> tuple[np.ndarray, str]:
        """Of a word ("text") or region ("vision"): the other stream's shares, and what they are."""
        looks = f"{stream}_to_{'vision' if stream == 'text' else 'text'}"
        name = f"“{self.words[row]}”" if stream == "text" else self.region_names()[row]
        if direction in (None, looks):
            return self.weights(looks, kind, layer, head, exclude)[row], f"where {name} looks"
        column = self._map(direction, kind, layer, head)[:, row]
        other = self.excluded("vision" if stream == "text" else "text")
        return normalize(column, other if exclude else None), f"what looks at {name}"

    @staticmethod
    def _position(name: str, wanted: int | str, names: list[str]) -> int:
        if isinstance(wanted, str) and wanted in names:
            return names.index(wanted)
        if (index := as_index(wanted)) is None or not 0 <= index < len(names):
            raise ValueError(f"{name} must be within 0 to {len(names) - 1}, or one of {names}, got {wanted!r}.")
        return index

    # Exports

    def to_dict(self, image: Any = None) -> dict[str, Any]:
        """All of it as plain lists, strings and numbers, as JSON has them.

        Of an example of several images it is about this one, "image_number" (from 1) of "num_images";
        `images[1].to_dict()` is about the second.

        Args:
            image: the picture (path, PIL image, array), to be held in it.

        Raises:
            ValueError: if the picture is not as large as `image_size`.
        """
        answers = [{"label": answer["label"], "score": answer["score"]} for answer in self.answers[:MAX_ANSWERS]]
        return {
            "words": list(self.words),
            "word_is_special": self.word_is_special.tolist(),
            "regions": [
                {"box": box, "label": label, "is_global": is_global}
                for box, label, is_global in zip(
                    self.boxes.tolist(), self.region_labels, self.region_is_global.tolist()
                )
            ],
            "image": None if image is None else data_uri(self.picture(image)),
            "image_size": list(self.image_size),
            "image_number": self.image_number,
            "num_images": self.num_images,
            "target": self.target,
            "answers": answers,
            "predicted_region": self.predicted_region,
            "attention": {name: _numbers(self.attention[name]) for name in ("text_to_vision", "vision_to_text")},
            "relevance": None
            if self.relevance is None
            else {
                name: _numbers(self.relevance[name])
                for name in ("words", "regions", "text_to_vision", "vision_to_text")
            },
            "heads": {
                direction: {name: _numbers(values) for name, values in statistics.items()}
                for direction, statistics in self.heads().items()
            },
        }

    def to_json(self, path: str | Path | None = None, image: Any = None) -> str:
        """`to_dict` (of this image) as JSON text, which is also written to `path` if one is given."""
        text = json.dumps(self.to_dict(image), allow_nan=False)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_html(self, path: str | Path, image: Any = None):
        """Write a page to look at it in any browser, without a server or network: hover over a word, or a region.

        Of an example of several images it is about this one, and says so; `images[1].to_html(...)` is about the second.

        Args:
            path: the file, such as "page.html".
            image: the picture (path, PIL image, array); the page holds it, with at most 1000 pixels a side.

        Raises:
            ValueError: if the file cannot be written, the picture is not as large as `image_size`, the regions have no
                places of their own, or the model has no co-attention layer.
        """
        check_page_path(path)
        picture = None if image is None else embedded_picture(self.picture(image))
        write_page({**self.to_dict(), "image": picture}, path)

    def to_table(self) -> Any:
        """A row for every number: a `pandas.DataFrame` where pandas is installed, else a list of dicts.

        Of an example of several images it is about this one; `images[1].to_table()` is about the second.

        Columns: "kind" ("attention" or "relevance"), "direction", "layer" and "head" (None for relevance), "query" and
        "key" (positions), "query_name" and "key_name" (words, or labels of regions), "value" (not normalised anew).
        """
        names = {"text": self.words, "vision": self.region_names()}
        rows = []
        for direction in ("text_to_vision", "vision_to_text"):
            queries, keys = (names[stream] for stream in direction.split("_to_"))
            values = [
                ("attention", direction, *place, value) for place, value in np.ndenumerate(self.attention[direction])
            ]
            if self.relevance is not None:
                values += [
                    ("relevance", direction, None, None, *place, value)
                    for place, value in np.ndenumerate(self.relevance[direction])
                ]
            rows += [
                {
                    "kind": kind,
                    "direction": direction,
                    "layer": layer,
                    "head": head,
                    "query": query,
                    "key": key,
                    "query_name": queries[query],
                    "key_name": keys[key],
                    "value": float(value),
                }
                for kind, direction, layer, head, query, key, value in values
            ]
        return need("pandas").DataFrame(rows) if importlib.util.find_spec("pandas") else rows

    def to_bertviz(self, direction: str = "text_to_vision") -> dict[str, Any]:
        """Keyword arguments for `bertviz.head_view` and `bertviz.model_view`, whose "Cross" then is this direction.

        The stream that looks is BertViz's decoder, the other its encoder. Self-attention is that of the layers that
        follow each co-attention; it is left out where it has another number of heads, which BertViz does not take.

        Args:
            direction: "text_to_vision" or "vision_to_text".
        """
        if direction not in ("text_to_vision", "vision_to_text"):
            raise ValueError(f"direction must be 'text_to_vision' or 'vision_to_text', got {direction!r}.")
        looking, looked_at = direction.split("_to_")
        names = {"text": self.words, "vision": self.region_names()}
        cross = self.attention[direction]
        result = {
            "cross_attention": [torch.from_numpy(layer)[None] for layer in cross],
            "encoder_tokens": list(names[looked_at]),
            "decoder_tokens": list(names[looking]),
        }
        for role, stream in (("encoder", looked_at), ("decoder", looking)):
            own = self.attention[f"{stream}_to_{stream}"]
            if own.shape[1] == cross.shape[1]:
                following = own[self._following[stream]]
                result[f"{role}_attention"] = [torch.from_numpy(layer)[None] for layer in following]
        return result

    def region_names(self) -> list[str]:
        """R texts: the label, with the number of the region."""
        return [
            "whole image" if is_global else str(number) if label is None else f"{number} {label}"
            for number, (label, is_global) in enumerate(zip(self.region_labels, self.region_is_global))
        ]

    def picture(self, image: Any) -> Any:
        """`image` (path, PIL image or array) as a PIL image, which must be as large as `image_size`."""
        picture = open_image(image)
        if picture.size != tuple(round(side) for side in self.image_size):
            raise ValueError(
                f"image must be {self.image_size[0]:g} x {self.image_size[1]:g} pixels, as the regions say "
                f"(image_size), got {picture.size[0]} x {picture.size[1]}: give the picture that the boxes are of."
            )
        return picture


def normalize(values: np.ndarray, excluded: np.ndarray | None = None) -> np.ndarray:
    """values [..., K], none below 0, divided by their sum over K; zero where `excluded` [K] is true, or the sum is."""
    values = values if excluded is None else np.where(excluded, 0, values)
    total = values.sum(-1, keepdims=True)
    return np.divide(values, total, out=np.zeros_like(values), where=total > 0)


def _numbers(values: np.ndarray) -> list:
    """Nested lists with five digits of each number: more would be noise, and most of a page."""
    short = np.array([float(f"{value:.5g}") for value in values.ravel().tolist()])
    return short.reshape(values.shape).tolist()


def data_uri(picture: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
