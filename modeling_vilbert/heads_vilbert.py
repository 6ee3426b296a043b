# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Task heads of ViLBERT, each with its loss, and the models that are a trunk and a head.

Sources: Lu et al., "ViLBERT", NeurIPS 2019, sections 3.2 and 4; Lu et al., "12-in-1", CVPR 2020, section 3.1.

Reading order: losses, fusion, heads, the models of one task, the model of many tasks.

Shapes: B batch, G images or choices of an example, T tokens, R regions, F feature size, P pooled size, L labels.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .configuration_vilbert import ViLBertConfig
from .layers_vilbert import Dropout
from .modeling_vilbert import ViLBertModel, ViLBertModelOutput, ViLBertPreTrainedModel, ViLBertStreamOutput


IGNORE = -100

# Losses


def class_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits [N, L] and classes [N], a mean over labels that are not -100; 0 where there are none."""
    total = F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def score_loss(logits: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of logits and soft scores in [0, 1], both [N, L]: a sum over labels, a mean over N.

    Scores of -100 are left out, and of N those that have no other.
    """
    left_out = scores == IGNORE
    logits, scores = logits.float().masked_fill(left_out, 0), scores.float().masked_fill(left_out, 0)
    losses = F.binary_cross_entropy_with_logits(logits, scores, reduction="none").masked_fill(left_out, 0)
    return losses.sum() / (~left_out).any(-1).sum().clamp(min=1)


def label_kind(labels: torch.Tensor, shape: tuple[int, ...]) -> str:
    """What labels for logits [N, L] are: "classes", int [N], or "scores", float [N, L]; a ValueError otherwise."""
    kind, expected = ("scores", tuple(shape)) if labels.is_floating_point() else ("classes", tuple(shape[:1]))
    if labels.dtype == torch.bool or tuple(labels.shape) != expected:
        raise ValueError(
            f"labels must be int of shape {list(shape[:1])} (classes) or float of shape {list(shape)} (scores), got "
            f"{labels.dtype} of shape {list(labels.shape)}."
        )
    if kind == "classes":
        check_classes("labels", labels, shape[1])
    return kind


def looks_at_values(labels: torch.Tensor) -> bool:
    """Only on a CPU: elsewhere the look at the values would make the device wait."""
    return labels.device.type == "cpu" and not torch.compiler.is_compiling()


def check_classes(name: str, labels: torch.Tensor, count: int):
    """Raise a ValueError for classes outside 0 to count - 1; -100 is left out of a loss."""
    if not looks_at_values(labels):
        return
    wrong = labels[((labels < 0) & (labels != IGNORE)) | (labels >= count)]
    if wrong.numel():
        raise ValueError(f"{name} must be within 0 to {count - 1}, or {IGNORE} to be left out, got {wrong[0].item()}.")


# Heads


class ViLBertFusion(nn.Module):
    """The pooled vectors of both streams as one, by product or sum."""

    def __init__(self, config: ViLBertConfig):
        super().__init__()
        self.combine = {"mul": torch.mul, "sum": torch.add}[config.fusion]
        self.dropout = Dropout(config.fusion_dropout)

    def forward(self, outputs: ViLBertModelOutput) -> torch.Tensor:
        """-> [B, P]"""
        return self.dropout(self.combine(outputs.text_pooler_output, outputs.vision_pooler_output))


class ViLBertClassifier(nn.Module):
    """Two linear layers, with an activation and (in 12-in-1) a LayerNorm or (in ViLBERT) dropout between them."""

    def __init__(self, config: ViLBertConfig, input_size: int, num_labels: int):
        super().__init__()
        hidden_size = config.classifier_hidden_size
        self.dense = nn.Linear(input_size, hidden_size)
        self.activation = ACT2FN[config.classifier_act]
        eps = config.text_config.layer_norm_eps
        self.norm = nn.LayerNorm(hidden_size, eps=eps) if config.classifier_layer_norm else nn.Identity()
        self.dropout = Dropout(config.classifier_dropout)
        self.decoder = nn.Linear(hidden_size, num_labels)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[..., P] -> [..., L]"""
        return self.decoder(self.dropout(self.norm(self.activation(self.dense(states)))))


class ViLBertHead(nn.Module):
    """A head: what the trunk gives -> logits, and logits and labels -> a loss.

    `axes` are the layouts of inputs that it takes, as pairs (text, regions): how many axes of images or choices come
    between the batch and the words, and between the batch and the regions. `reads` are the fields of the trunk's output
    that it reads: the trunk computes no others.
    """

    axes = {(0, 0)}
    reads = ("text_pooler_output", "vision_pooler_output")

    def forward(
        self, outputs: ViLBertModelOutput, region_attention_mask: torch.Tensor | None = None, group: int | None = None
    ) -> torch.Tensor:
        """`group`: images or choices of an example, which lie one after another in the batch; None if not grouped."""
        raise NotImplementedError

    def logits_shape(self, batch: int, regions: int, group: int | None) -> tuple[int, int]:
        """Of an input of so many examples, regions of an image, and images or choices of an example."""
        raise NotImplementedError

    def check(self, labels: torch.Tensor, shape: tuple[int, int]):
        """Raise a ValueError for labels that are not for logits of that shape."""
        label_kind(labels, shape)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class ViLBertAnswerHead(ViLBertHead):
    """An answer out of many, by a classifier of the fused vector; soft scores are summed over answers."""

    def __init__(self, config: ViLBertConfig, num_labels: int):
        super().__init__()
        self.fusion = ViLBertFusion(config)
        self.classifier = ViLBertClassifier(config, config.pooler_size, num_labels)

    def forward(self, outputs, region_attention_mask=None, group=None):
        return self.classifier(self.fusion(outputs))

    def logits_shape(self, batch, regions, group):
        return batch, self.classifier.decoder.out_features

    def loss(self, logits, labels):
        return score_loss(logits, labels) if labels.is_floating_point() else class_loss(logits, labels)


class ViLBertClassificationHead(ViLBertHead):
    """Labels by one linear layer of the fused vector."""

    def __init__(self, config: ViLBertConfig, num_labels: int):
        super().__init__()
        self.config = config
        self.fusion = ViLBertFusion(config)
        self.classifier = nn.Linear(config.pooler_size, num_labels)

    def forward(self, outputs, region_attention_mask=None, group=None):
        return self.classifier(self.fusion(outputs))

    def logits_shape(self, batch, regions, group):
        return batch, self.classifier.out_features

    def is_regression(self, num_labels: int) -> bool:
        problem_type = self.config.problem_type
        return problem_type == "regression" or (problem_type is None and num_labels == 1)

    def check(self, labels, shape):
        if self.is_regression(shape[1]):
            if labels.numel() != shape[0] * shape[1]:
                raise ValueError(f"labels must hold {list(shape)} numbers, got shape {list(labels.shape)}.")
            return
        kind = label_kind(labels, shape)
        expected = {"single_label_classification": "classes", "multi_label_classification": "scores", None: kind}
        if expected[self.config.problem_type] != kind:
            raise ValueError(
                f"labels are {labels.dtype}, which does not fit config.problem_type {self.config.problem_type!r}."
            )

    def loss(self, logits, labels):
        if self.is_regression(logits.shape[1]):
            return F.mse_loss(logits.float(), labels.float().view_as(logits))
        if labels.is_floating_point():
            return score_loss(logits, labels) / logits.shape[1]
        return class_loss(logits, labels)


class ViLBertImagesHead(ViLBertHead):
    """Labels of a text about several images, by a classifier of the images' fused vectors side by side."""

    axes = {(0, 1)}

    def __init__(self, config: ViLBertConfig, num_labels: int):
        super().__init__()
        self.num_images = config.num_images
        self.fusion = ViLBertFusion(config)
        self.classifier = ViLBertClassifier(config, config.num_images * config.pooler_size, num_labels)

    def forward(self, outputs, region_attention_mask=None, group=None):
        return self.classifier(self.fusion(outputs).unflatten(0, (-1, group)).flatten(1))

    def logits_shape(self, batch, regions, group):
        if group != self.num_images:
            raise ValueError(f"region_features must hold {self.num_images} images for each text, got {group}.")
        return batch, self.classifier.decoder.out_features

    def loss(self, logits, labels):
        if labels.is_floating_point():
            return score_loss(logits, labels) / logits.shape[1]
        return class_loss(logits, labels)


class ViLBertScoreHead(ViLBertHead):
    """One score for a text and an image; among choices, the right one is the class."""

    def __init__(self, config: ViLBertConfig, num_labels: int = 1):
        super().__init__()
        self.fusion = ViLBertFusion(config)
        self.classifier = nn.Linear(config.pooler_size, 1)

    def forward(self, outputs, region_attention_mask=None, group=None):
        """-> [B, 1], or [B, G] with choices"""
        scores = self.classifier(self.fusion(outputs))
        return scores if group is None else scores.view(-1, group)

    def logits_shape(self, batch, regions, group):
        return batch, group or 1

    def check(self, labels, shape):
        if shape[1] > 1:
            label_kind(labels, shape)
        elif not labels.is_floating_point() or labels.numel() != shape[0]:
            raise ValueError(
                f"labels of single pairs must be {shape[0]} floats, 1 for a match and 0 for none, got {labels.dtype} "
                f"of shape {list(labels.shape)}. A class is for inputs with several choices."
            )

    def loss(self, logits, labels):
        return score_loss(logits, labels.view_as(logits)) if labels.is_floating_point() else class_loss(logits, labels)


class ViLBertChoiceHead(ViLBertScoreHead):
    axes = {(1, 0), (1, 1)}


class ViLBertMatchingHead(ViLBertScoreHead):
    axes = {(0, 0), (1, 1)}


class ViLBertGroundingHead(ViLBertHead):
    """A score for every region; padding has the lowest number of its dtype."""

    reads = ("vision_last_hidden_state",)

    def __init__(self, config: ViLBertConfig, num_labels: int = 1):
        super().__init__()
        self.dropout = Dropout(config.fusion_dropout)
        self.classifier = nn.Linear(config.vision_config.hidden_size, 1)

    def forward(self, outputs, region_attention_mask=None, group=None):
        scores = self.classifier(self.dropout(outputs.vision_last_hidden_state))[..., 0]
        if region_attention_mask is None:
            return scores
        return scores.masked_fill(~region_attention_mask.bool(), torch.finfo(scores.dtype).min)

    def logits_shape(self, batch, regions, group):
        return batch, regions

    def loss(self, logits, labels):
        padding = logits == torch.finfo(logits.dtype).min
        if labels.is_floating_point():
            return score_loss(logits, labels.masked_fill(padding, IGNORE))
        if looks_at_values(labels):
            lost = padding.gather(1, labels.long().clamp(min=0)[:, None])[:, 0] & (labels != IGNORE)
            if lost.any():
                raise ValueError(
                    f"labels must be of real regions, or {IGNORE} to be left out, got {labels[lost][0].item()}, which "
                    "is padding of that image: region_attention_mask is 0 there."
                )
        return class_loss(logits, labels)


HEADS = {
    "question_answering": ViLBertAnswerHead,
    "classification": ViLBertClassificationHead,
    "images": ViLBertImagesHead,
    "choice": ViLBertChoiceHead,
    "matching": ViLBertMatchingHead,
    "grounding": ViLBertGroundingHead,
}


# Models of one task


@dataclass
class _TaskFields(ModelOutput):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


# Fields of the later base come first: the tuple form begins with the loss.
@dataclass
class ViLBertTaskOutput(ViLBertStreamOutput, _TaskFields):
    """Output of the task models; beside the fields of `ViLBertStreamOutput` (with groups, their first axis is B x G):

    Args:
        loss: a scalar, when labels are given.
        logits: as the model says.
    """


TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
REGION_INPUTS = ("region_features", "region_locations", "region_attention_mask")


def flatten_groups(inputs: dict[str, torch.Tensor | None], axes: set[tuple[int, int]]) -> int | None:
    """Lay the images or choices of every example one after another in the batch, and repeat what they share.

    Changes `inputs` in place; returns how many images or choices an example has, None for inputs without such an axis.
    """
    words, word_axes = inputs["input_ids"], "T"
    if words is None:
        words, word_axes = inputs["inputs_embeds"], "T, D"
    features = inputs["region_features"]
    if words is None or features is None:
        return None  # the trunk says what is missing

    found = (words.dim() - 1 - len(word_axes.split(", ")), features.dim() - 3)
    if found not in axes:
        layouts = (
            f"words [B, {'G, ' * text}{word_axes}] with region_features [B, {'G, ' * regions}R, F]"
            for text, regions in sorted(axes)
        )
        raise ValueError(
            f"The axis of images or choices (G) does not fit: got words {list(words.shape)} with region_features "
            f"{list(features.shape)}, this head takes {' or '.join(layouts)}."
        )
    in_text, in_regions = found
    if not in_text and not in_regions:
        return None
    leading = words.shape[: 1 + in_text], features.shape[: 1 + in_regions]
    if any(text != regions for text, regions in zip(*leading)):
        raise ValueError(
            f"Words {list(words.shape)} and region_features {list(features.shape)} are of different batches or groups."
        )
    group = max(leading, key=len)[1]

    def lay(value: torch.Tensor | None, has_axis: bool) -> torch.Tensor | None:
        # Positions for all texts alike have a first axis of 1, and none of choices.
        if value is None or (value.dim() == 2 and value.shape[0] == 1 and (has_axis or words.shape[0] > 1)):
            return value
        # Not repeat_interleave, which ONNX has for known sizes only.
        return (value if has_axis else value[:, None].expand(-1, group, *value.shape[1:])).flatten(0, 1)

    inputs.update({name: lay(inputs[name], bool(in_text)) for name in TEXT_INPUTS})
    inputs.update({name: lay(inputs[name], bool(in_regions)) for name in REGION_INPUTS})
    if (task_ids := inputs["task_ids"]) is not None:
        inputs["task_ids"] = lay(task_ids.reshape(-1), False)
    if (pairs := inputs["co_attention_mask"]) is not None:
        inputs["co_attention_mask"] = lay(pairs, pairs.dim() == 4)
    return group


class ViLBertTaskModel(ViLBertPreTrainedModel):
    """A trunk and one head. The classes below are this one with another head."""

    head_type: str

    def __init__(self, config: ViLBertConfig):
        super().__init__(config)
        self.vilbert = ViLBertModel(config)
        self.head = HEADS[self.head_type](config, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        task_ids: torch.LongTensor | None = None,
        region_features: torch.FloatTensor | None = None,
        region_locations: torch.FloatTensor | None = None,
        region_attention_mask: torch.Tensor | None = None,
        co_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ViLBertTaskOutput:
        """Inputs as those of `ViLBertModel.forward`, with the axes and the labels that the class names."""
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "task_ids": task_ids,
            "region_features": region_features,
            "region_locations": region_locations,
            "region_attention_mask": region_attention_mask,
            "co_attention_mask": co_attention_mask,
        }
        return run_head(self.vilbert, self.head, inputs, labels, **kwargs)


def run_head(
    trunk: ViLBertModel,
    head: ViLBertHead,
    inputs: dict[str, torch.Tensor | None],
    labels: torch.Tensor | None,
    **kwargs,
) -> ViLBertTaskOutput:
    group = flatten_groups(inputs, head.axes)
    if (features := inputs["region_features"]) is not None:
        shape = head.logits_shape(features.shape[0] // (group or 1), features.shape[1], group)
        if labels is not None:
            head.check(labels, shape)
    outputs = trunk(**inputs, **kwargs, reads=head.reads, return_dict=True)
    logits = head(outputs, inputs["region_attention_mask"], group)
    loss = None if labels is None else head.loss(logits, labels.to(logits.device))
    return ViLBertTaskOutput(loss=loss, logits=logits, **outputs.streams())


class ViLBertForQuestionAnswering(ViLBertTaskModel):
    r"""Answers questions about an image, one out of `config.num_labels` answers (VQA, GQA).

    `labels`: float [B, L] are soft scores of answers, trained by binary cross-entropy summed over answers; int [B] are
    the answers' classes. `logits`: [B, L].

    Example:

    ```python
    >>> import torch
    >>> from modeling_vilbert import ViLBertConfig, ViLBertForQuestionAnswering
    >>> small = {"num_hidden_layers": 1}
    >>> model = ViLBertForQuestionAnswering(ViLBertConfig(text_config=small, vision_config=small, num_labels=13))
    >>> words, regions = torch.ones(2, 4, dtype=torch.long), torch.rand(2, 3, 2048)
    >>> outputs = model(words, region_features=regions, region_locations=torch.rand(2, 3, 5), labels=torch.rand(2, 13))
    >>> outputs.logits.shape, outputs.loss.shape
    (torch.Size([2, 13]), torch.Size([]))

    ```
    """

    head_type = "question_answering"


class ViLBertForSequenceClassification(ViLBertTaskModel):
    r"""Classifies a text and an image together, by one linear layer (SNLI-VE, Hateful Memes).

    `labels`, as `config.problem_type` or their dtype says: int [B] are classes; float [B, L] are scores, trained by
    binary cross-entropy (mean over labels); with one label, floats to regress to. `logits`: [B, L].
    """

    head_type = "classification"


class ViLBertForImagesAndTextClassification(ViLBertTaskModel):
    r"""Classifies a text about several images (NLVR2).

    Region inputs have an axis of `config.num_images` images: `region_features` [B, I, R, F]. `labels`: int [B] are
    classes; float [B, L] are scores. `logits`: [B, L].
    """

    head_type = "images"


class ViLBertForMultipleChoice(ViLBertTaskModel):
    r"""Chooses the text that fits an image (VCR).

    Text inputs have an axis of choices: `input_ids` [B, C, T]; the image has none, unless each choice has its own.
    `labels`: int [B], the right choice; float [B, C], a score for each. `logits`: [B, C].
    """

    head_type = "choice"


class ViLBertForImageAndTextRetrieval(ViLBertTaskModel):
    r"""Scores how well a text and an image match.

    For pairs, `logits` are [B, 1] and `labels` float [B] (1 for a match). With an axis of choices in both inputs,
    `input_ids` [B, C, T] and `region_features` [B, C, R, F], `logits` are [B, C] and `labels` int [B], the right one.
    """

    head_type = "matching"


class ViLBertForVisualGrounding(ViLBertTaskModel):
    r"""Scores every region: does the text mean it (RefCOCO, Visual7W, GuessWhat, Flickr30k Entities)?

    `labels`: float [B, R] are targets such as the overlap (IoU) with the true box, trained by binary cross-entropy
    summed over regions, but for those at -100; int [B] is the index of the region. `logits`: [B, R], with the dtype's
    minimum at padding.
    """

    head_type = "grounding"


def choose_head(model: ViLBertPreTrainedModel, head_type: str, usual: str, name: str | None = None) -> str | None:
    """The name of a head of this type: the one that is named, the usual one, or the only one.

    None for models of one head. A ValueError for a name that is of no such head.
    """
    if not hasattr(model, "heads"):
        if name is not None:
            raise ValueError(f"head is for ViLBertForMultiTask, this model is a {type(model).__name__}.")
        return None
    fitting = [task for task, row in model.config.tasks.items() if row["head"] == head_type]
    if name is None:
        name = fitting[0] if len(fitting) == 1 else usual
    if name not in fitting:
        raise ValueError(f"head must be one of {fitting}, the model's heads of type {head_type!r}, got {name!r}.")
    return name


def check_task_token(config: ViLBertConfig, token: int | None):
    """Raise a ValueError unless a model of this config has such a task token, or none and needs none."""
    count = config.num_task_tokens
    if token not in (range(count) if count else [None]):
        allowed = f"within 0 to {count - 1}" if count else "None, since the model has no task tokens"
        raise ValueError(f"task_token must be {allowed}, got {token!r}.")


class ViLBertForMultiTask(ViLBertPreTrainedModel):
    r"""One trunk and the heads of many tasks (12-in-1). Only the head of the asked task runs.

    Example:

    ```python
    >>> import torch
    >>> from modeling_vilbert import ViLBertConfig, ViLBertForMultiTask
    >>> small = {"num_hidden_layers": 1}
    >>> model = ViLBertForMultiTask(ViLBertConfig(text_config=small, vision_config=small, tasks=["vqa", "grounding"]))
    >>> words, regions = torch.ones(2, 4, dtype=torch.long), torch.rand(2, 3, 2048)
    >>> model(words, region_features=regions, region_locations=torch.rand(2, 3, 5), task="grounding").logits.shape
    torch.Size([2, 3])

    ```
    """

    def __init__(self, config: ViLBertConfig):
        super().__init__(config)
        self.vilbert = ViLBertModel(config)
        for name, task in config.tasks.items():
            if config.num_task_tokens and not 0 <= task.get("task_token", 0) < config.num_task_tokens:
                raise ValueError(
                    f"tasks: task_token of {name!r} must be within 0 to {config.num_task_tokens - 1}, got "
                    f"{task['task_token']}."
                )
        self.heads = nn.ModuleDict(
            {name: HEADS[task["head"]](config, task.get("num_labels", 1)) for name, task in config.tasks.items()}
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        task_ids: torch.LongTensor | None = None,
        region_features: torch.FloatTensor | None = None,
        region_locations: torch.FloatTensor | None = None,
        region_attention_mask: torch.Tensor | None = None,
        co_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        task: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ViLBertTaskOutput:
        """Inputs and labels as those of the model of that task; `task` is a name in `config.tasks`.

        In a model with task tokens, `task_ids` default to the `task_token` of the task.

        Raises:
            ValueError: if the task is unknown.
        """
        if task not in self.config.tasks:
            raise ValueError(f"task must be one of {list(self.config.tasks)}, got {task!r}.")
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "task_ids": task_ids,
            "region_features": region_features,
            "region_locations": region_locations,
            "region_attention_mask": region_attention_mask,
            "co_attention_mask": co_attention_mask,
        }
        words = input_ids if input_ids is not None else inputs_embeds
        if self.config.num_task_tokens and task_ids is None and words is not None:
            if "task_token" not in self.config.tasks[task]:
                raise ValueError(
                    f"task_ids are missing, and config.tasks[{task!r}] has no task_token to stand for them."
                )
            inputs["task_ids"] = torch.full(words.shape[:1], self.config.tasks[task]["task_token"], device=words.device)
        return run_head(self.vilbert, self.heads[task], inputs, labels, **kwargs)

    def as_task_model(self, task: str) -> ViLBertTaskModel:
        """A model of one of the tasks alone. It shares its weights with this one: the trunk, and the head of that task.

        In a model with task tokens its `task_ids` have to be given; they are those of the task's `task_token`.

        Raises:
            ValueError: if the task is unknown.

        Example:

        ```python
        >>> from modeling_vilbert import ViLBertConfig, ViLBertForMultiTask
        >>> small = {"num_hidden_layers": 1}
        >>> config = ViLBertConfig(text_config=small, vision_config=small, tasks=["vqa", "grounding"])
        >>> model = ViLBertForMultiTask(config)
        >>> type(model.as_task_model("grounding")).__name__
        'ViLBertForVisualGrounding'

        ```
        """
        if task not in self.config.tasks:
            raise ValueError(f"task must be one of {list(self.config.tasks)}, got {task!r}.")
        row, config = self.config.tasks[task], copy.deepcopy(self.config)
        names = row.get("id2label", {})
        labels = range(row.get("num_labels", 1))
        # Keys of JSON are text.
        config.id2label = {label: names.get(label, names.get(str(label), f"LABEL_{label}")) for label in labels}
        config.label2id = {name: label for label, name in config.id2label.items()}
        (model_class,) = (one for one in ViLBertTaskModel.__subclasses__() if one.head_type == row["head"])
        with torch.device("meta"):
            model = model_class(config)
        model.vilbert, model.head = self.vilbert, self.heads[task]
        return model.train(self.training)
