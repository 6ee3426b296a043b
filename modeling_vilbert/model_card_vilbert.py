# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Model cards: what a published ViLBERT reads, gives, was trained and measured on, and where it ends.

A card says what the model itself knows (its head, widths, features) and what its author states. What nobody stated, it
says so: nothing is made up. `huggingface_hub` writes and reads it.

Reading order: `TEMPLATE`, the card; `model_card`, which fills it; results of a training; what `push_to_hub` does.
"""

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .configuration_vilbert import AUTO_MAP, ViLBertConfig


# Head -> (the Hub's name of the task, or one like it where the Hub has none; what the model does).
HEAD_TASKS = {
    "question_answering": ("visual-question-answering", "answers a question about an image with one of {labels}"),
    "classification": ("image-text-classification", "puts a pair of text and image into one of {labels}"),
    "images": ("image-text-classification", "puts a text about {images} images into one of {labels}"),
    "choice": ("visual-multiple-choice", "chooses one of several texts for an image"),
    "matching": ("image-text-matching", "scores how well a text fits an image"),
    "grounding": ("visual-grounding", "chooses the region of an image that a text means"),
}
PRETRAINING = ("pretraining", "gives back masked words and regions, and says whether text and image belong together")
TRUNK = ("feature-extraction", "gives states of words and regions, without a head for a task")
# Those of HEAD_TASKS that the Hub knows: https://huggingface.co/tasks
HUB_TASKS = ("visual-question-answering", "feature-extraction")
# What `model_card` takes as metadata; results and their name have arguments of their own.
METADATA = set(inspect.signature(ModelCardData).parameters) - {"kwargs", "eval_results", "model_name"}
# So begins the line that Transformers puts into Hugging Face's template of a card.
TEMPLATE_LINE = "This is the model card of a"

TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

A `{{ model_class }}`: it {{ does }}.

ViLBERT ([Lu et al., 2019](https://arxiv.org/abs/1908.02265);
[12-in-1, 2020](https://arxiv.org/abs/1912.02315)) reads words in one stream and image regions in another, and in
co-attention layers each stream looks at the other.

## What it reads

| | |
|---|---|
| text | at most {{ text.max_positions }} tokens, of {{ text.vocab_size }} word pieces |
| regions | boxes, with a feature vector of {{ vision.feature_size }} numbers for each |
| made by | {{ vision.feature_source or "**not stated**: ask who trained it, before you trust an answer" }} |
{%- if config.num_task_tokens %}
| task tokens | {{ config.num_task_tokens }} |
{%- endif %}

Features of another detector or backbone, even of the same width, are another language to it: the model runs, and
answers badly.
{% if heads %}
## What it gives

| | |
|---|---|
{%- for name, does in heads.items() %}
| {{ name }} | {{ does }} |
{%- endfor %}
{% endif %}
## How to load it

With the package `modeling_vilbert` installed:

```python
{{ with_package }}
```

Without it, by the code in this repository, which then runs on your machine:

```python
{{ with_remote_code }}
```

Where the repository holds the processor, `AutoProcessor.from_pretrained({{ name }})` loads it in the same way.

## Sizes

| | layers | width | heads |
|---|---|---|---|
| text | {{ text.layers }} | {{ text.width }} | {{ text.heads }} |
| vision | {{ vision.layers }} | {{ vision.width }} | {{ vision.heads }} |
| co-attention | {{ joint.layers }} | {{ joint.width }} | {{ joint.heads }} |

{{ parameters }} parameters.

## Training data

{{ training_data or "Not stated." }}

## Results
{% if results %}
| task | data | split | metric | value |
|---|---|---|---|---|
{%- for row in results %}
| {{ row | join(" | ") }} |
{%- endfor %}
{% else %}
None stated.
{% endif %}
## Licence

{% if license -%}
Of the weights: {{ license }}.
{%- else -%}
Of the weights: **not stated**. Weights that grew out of others, of a text model or of a published ViLBERT, may be bound
by the licences of those and of their data.
{%- endif %} The code files beside them are under Apache-2.0.

## Limits

- It knows of an image what its regions say, and nothing else: what the detector missed, it cannot see.
- It chooses among what it was given (answers, classes, texts, regions). It writes no text.
- It is not known how well its scores are calibrated, or whom its errors concern, unless it says so here.
- Where it looks (attention) is not why it answers.
{%- for limit in limits %}
- {{ limit }}
{%- endfor %}

"""


def model_card(
    model: Any,
    name: str,
    results: Sequence[EvalResult] = (),
    training_data: str | None = None,
    limits: Sequence[str] = (),
    **metadata: Any,
) -> ModelCard:
    """The card of a model, for `README.md` of its folder or repository.

    Args:
        model: any of this package's.
        name: by which others load it, such as "me/vilbert-vqa".
        results: what was measured, as `huggingface_hub.EvalResult`.
        training_data: what it was trained on, in words. Default: the card says that nobody said so.
        limits: sentences about what it cannot do, beside those that hold for every ViLBERT.
        **metadata: further arguments of `huggingface_hub.ModelCardData`, such as `license`, `datasets`, `base_model`,
            `language`, `tags`. Without `license` the card says that the licence of the weights is not known.

    Raises:
        ValueError: for another model, an empty name, a number that is not finite, or metadata that `ModelCardData` does
            not have.

    Example:

    ```python
    >>> from modeling_vilbert import ViLBertConfig, ViLBertForVisualGrounding, model_card
    >>> small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    >>> model = ViLBertForVisualGrounding(ViLBertConfig(text_config=small, vision_config=small))
    >>> card = model_card(model, "me/finder", training_data="Boxes of drawn scenes.", license="mit")
    >>> card.data.license, card.data.tags
    ('mit', ['vilbert', 'visual-grounding'])
    >>> card.save("README.md")  # doctest: +SKIP

    ```
    """
    config = getattr(model, "config", None)
    # By name, since code that came with a checkpoint has classes of its own.
    if getattr(config, "model_type", None) != ViLBertConfig.model_type:
        raise ValueError(f"model must be a ViLBERT model, got {type(model).__name__}.")
    if not isinstance(name, str) or not name.strip() or "\n" in name:
        raise ValueError(f"name must be that of a repository or folder, got {name!r}.")
    if unknown := sorted(metadata.keys() - METADATA):
        raise ValueError(f"metadata must be of {sorted(METADATA)}, got {unknown}.")
    results = [_plain(result) for result in ([results] if isinstance(results, EvalResult) else results)]
    limits = [limits] if isinstance(limits, str) else list(limits)

    task, does = _task_of(model)
    tags = metadata.pop("tags", None) or []
    tags = [tags] if isinstance(tags, str) else list(tags)
    title = name.rstrip("/").split("/")[-1]
    defaults = {
        "library_name": "transformers",
        "pipeline_tag": task if task in HUB_TASKS else None,
        "metrics": sorted({result.metric_type for result in results}) or None,
    }
    data = ModelCardData(
        **{**defaults, **metadata, "tags": ["vilbert", *([task] if task else []), *tags]},
        eval_results=results or None,
        model_name=title,
    )
    if not results:
        # It is the name of the results alone.
        data.pop("model_name")

    text, vision = config.text_config, config.vision_config
    heads = {
        _cell(task_name): HEAD_TASKS[row["head"]][1].format(
            labels=f"{row.get('num_labels', 1)} labels", images=config.num_images
        )
        for task_name, row in (config.tasks.items() if task is None else ())
    }
    rows = [
        [
            _cell(value)
            for value in (
                result.task_name or result.task_type,
                result.dataset_name,
                result.dataset_split or "",
                result.metric_name or result.metric_type,
                f"{result.metric_value:.4g}" if isinstance(result.metric_value, float) else result.metric_value,
            )
        ]
        for result in results
    ]
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        title=title,
        name=json.dumps(name, ensure_ascii=False),
        model_class=type(model).__name__,
        does=does,
        heads=heads,
        config=config,
        text={
            "max_positions": text.longest_text,
            "vocab_size": text.vocab_size,
            **_sizes(text),
        },
        vision={
            "feature_size": vision.feature_size,
            "feature_source": _cell(vision.feature_source or ""),
            **_sizes(vision),
        },
        joint={
            "layers": sum(kind == "coattention" for kind, _ in config.schedule),
            "width": config.coattention_hidden_size,
            "heads": config.coattention_num_attention_heads,
        },
        parameters=f"{model.num_parameters():,}",
        with_package=_loading(model, name, installed=True),
        with_remote_code=_loading(model, name, installed=False),
        training_data=training_data,
        results=rows,
        license=metadata.get("license_name") or metadata.get("license"),
        limits=limits,
    )


def _cell(value: Any) -> str:
    """A value in a row of a table."""
    return " ".join(str(value).replace("|", "\\|").split())


def _sizes(stream: Any) -> dict[str, int]:
    return {"layers": stream.num_hidden_layers, "width": stream.hidden_size, "heads": stream.num_attention_heads}


def _plain(result: EvalResult) -> EvalResult:
    """The same with a number that YAML knows."""
    if not isinstance(result, EvalResult):
        raise ValueError(f"results must be of huggingface_hub.EvalResult, got {type(result).__name__}.")
    value = result.metric_value
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"results: {result.metric_type} must be a finite number, got {value}.")
    return EvalResult(**{**vars(result), "metric_value": value})


def _task_of(model: Any) -> tuple[str | None, str]:
    """The name of its task (None: of several), and what it does."""
    config, head = model.config, getattr(model, "head_type", None)
    if head is not None:
        task, does = HEAD_TASKS[head]
        return task, does.format(labels=f"{config.num_labels} labels", images=config.num_images)
    if type(model).__name__ == "ViLBertForMultiTask":
        return None, f"does {len(config.tasks)} tasks with one trunk: {', '.join(config.tasks)}"
    return PRETRAINING if type(model).__name__ == "ViLBertForPreTraining" else TRUNK


def _loading(model: Any, name: str, installed: bool) -> str:
    """Lines that load it. Not every class has an Auto class."""
    file, class_name = type(model).__module__.split(".")[-1], type(model).__name__
    place, name = f"{file}.{class_name}", json.dumps(name, ensure_ascii=False)
    auto = next((auto for auto, there in AUTO_MAP.items() if there == place), None)
    if auto is not None and installed:
        return (
            "import modeling_vilbert  # makes the Auto classes know ViLBERT\n"
            f"from transformers import {auto}\n\nmodel = {auto}.from_pretrained({name})"
        )
    if auto is not None:
        return f"from transformers import {auto}\n\nmodel = {auto}.from_pretrained({name}, trust_remote_code=True)"
    if installed:
        return f"from modeling_vilbert import {class_name}\n\nmodel = {class_name}.from_pretrained({name})"
    return (
        "from transformers.dynamic_module_utils import get_class_from_dynamic_module\n\n"
        f'model_class = get_class_from_dynamic_module("{place}", {name})\n'
        f"model = model_class.from_pretrained({name})"
    )


# Results of a training


def evaluation_results(
    history: Sequence[Mapping[str, Any]],
    task: str,
    dataset: str | None = None,
    dataset_id: str | None = None,
    split: str | None = None,
    best_step: int | None = None,
) -> list[EvalResult]:
    """What a Trainer's last evaluations measured, out of `trainer.state.log_history`.

    Args:
        history: what was logged; numbers named `eval_...` count, those about speed do not.
        task, dataset, dataset_id, split: what was evaluated; "unknown" where not said.
        best_step: of the checkpoint that was loaded at the end of the training, if one was: of the evaluations before
            its end, those of this step count.

    Example:

    ```python
    >>> from modeling_vilbert.model_card_vilbert import evaluation_results
    >>> history = [{"eval_accuracy": 0.5, "step": 5}, {"loss": 1.2, "step": 6}, {"eval_accuracy": 0.7, "step": 10}]
    >>> [result.metric_value for result in evaluation_results(history, "visual-question-answering")]
    [0.7]

    ```
    """
    ends = [number for number, entry in enumerate(history) if "train_runtime" in entry]
    end = ends[-1] if ends else len(history)
    found: dict[str, float] = {}
    for number, entry in enumerate(history):
        if best_step is not None and number < end and entry.get("step") != best_step:
            continue
        found |= {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
    speed = ("runtime", "per_second", "compilation_time")
    return [
        EvalResult(
            task_type=task,
            dataset_type=dataset_id or "unknown",
            dataset_name=dataset or dataset_id or "unknown",
            dataset_split=split,
            metric_type=name,
            metric_value=value,
        )
        for name, value in found.items()
        if not name.endswith(speed) and isinstance(value, (int, float)) and math.isfinite(value)
    ]


def training_card(
    model: Any,
    name: str,
    history: Sequence[Mapping[str, Any]] = (),
    best_step: int | None = None,
    **facts: Any,
) -> ModelCard:
    """The card of a model that a Trainer has trained, with what its last evaluations measured.

    Args:
        model, name: as of `model_card`.
        history, best_step: as of `evaluation_results`.
        **facts: as `Trainer.create_model_card` calls them: `dataset` (name of the data), `dataset_tags` (their ids on
            the Hub), `finetuned_from`, `tasks`, `language`, `license`, `tags`; or further arguments of `model_card`.
    """
    facts = {key: value for key, value in facts.items() if value is not None}
    if "finetuned_from" in facts:
        facts["base_model"] = facts.pop("finetuned_from")
    dataset, ids, tasks = (_listed(facts.pop(key, ())) for key in ("dataset", "dataset_tags", "tasks"))
    if ids:
        facts["datasets"] = ids
    if dataset:
        facts.setdefault("training_data", f"{', '.join(dataset)}.")
    facts.setdefault(
        "results",
        evaluation_results(
            history,
            tasks[0] if len(tasks) == 1 else _task_of(model)[0] or "multi-task",
            dataset[0] if len(dataset) == 1 else None,
            ids[0] if len(ids) == 1 else None,
            best_step=best_step,
        ),
    )
    return model_card(model, name, **facts)


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


# Pushing to the Hub


def replace_empty_card(model: Any, file: str | Path, name: str):
    """Put a card of ours where Transformers has put its template, which says nothing; leave a card that somebody wrote.

    A template with a line of somebody's own is such a card. The metadata of a replaced one is kept.

    Args:
        model, name: as of `model_card`.
        file: the `README.md`. Where there is none, one is written.
    """
    file, given = Path(file), {}
    if file.exists():
        card = ModelCard.load(file, ignore_metadata_errors=True)
        own = _lines(card) - _lines(ModelCard.from_template(ModelCardData()))
        if not card.text.strip().startswith("# Model Card for") or any(not x.startswith(TEMPLATE_LINE) for x in own):
            return
        given = {key: value for key, value in vars(card.data).items() if value is not None}
    results = given.pop("eval_results", ())
    card = model_card(model, name, results, **{key: value for key, value in given.items() if key in METADATA})
    for key, value in given.items():
        if key not in METADATA:
            card.data[key] = value
    card.save(file)


def _lines(card: ModelCard) -> set[str]:
    return {line.strip() for line in card.text.splitlines()}
