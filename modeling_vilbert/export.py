# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Models as files that need no code of this package: `torch.export` programs, and ONNX.

Reading order: `Interface`, what a program takes and gives, from which example inputs, dynamic axes and names are made;
programs; files; the check of a file against the model.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .configuration_vilbert import ViLBertConfig
from .heads_vilbert import HEADS, ViLBertForMultiTask, ViLBertTaskModel
from .modeling_vilbert import STATES, ViLBertModel, ViLBertPreTrainedModel
from .modes import evaluating
from .optional_packages import need
from .pretraining_vilbert import ViLBertForPreTraining


PRETRAINING_OUTPUTS = ("prediction_logits", "region_logits", "alignment_logits")

# A program is traced with sizes that are above 1 and unlike each other, and is then good for any.
EXAMPLE_SIZES = {"batch": 2, "choices": 3, "words": 7, "regions": 5}
# Sizes that a file is checked with: the smallest there are, and larger ones with padding.
CHECKED_SIZES = (
    {"batch": 1, "choices": 1, "words": 1, "regions": 1},
    {"batch": 3, "choices": 4, "words": 17, "regions": 37},
)

# Whose logits are labels with names in `config.id2label`.
LABELLED_HEADS = ("question_answering", "classification", "images")

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


@dataclass(frozen=True)
class Interface:
    """What a program takes and gives.

    Args:
        inputs: the axes of every input: a name where any size will do ("batch", "words", "regions", "choices"), a
            number where the model allows that alone.
        outputs: fields of the model's output.

    Example:

    ```python
    >>> from modeling_vilbert import ViLBertConfig, ViLBertForMultipleChoice
    >>> from modeling_vilbert.export import Interface
    >>> small = {"num_hidden_layers": 1, "hidden_size": 48}
    >>> model = ViLBertForMultipleChoice(ViLBertConfig(text_config=small, vision_config=small))
    >>> Interface.of(model).inputs["input_ids"], Interface.of(model).inputs["region_features"]
    (('batch', 'choices', 'words'), ('batch', 'regions', 2048))

    ```
    """

    inputs: dict[str, tuple[str | int, ...]]
    outputs: tuple[str, ...]

    @classmethod
    def of(
        cls, model: ViLBertPreTrainedModel, task: str | None = None, layout: tuple[int, int] | None = None
    ) -> "Interface":
        """Of a model of this package; `task` and `layout` as those of `export_program`."""
        if not isinstance(model, (ViLBertModel, ViLBertForPreTraining, ViLBertTaskModel, ViLBertForMultiTask)):
            raise ValueError(
                f"model must be a ViLBERT model of this package, got {type(model).__name__}. An adapter is merged into "
                "its model first (merge_and_unload)."
            )
        config, layouts, group = model.config, {(0, 0)}, "choices"
        if isinstance(model, ViLBertForMultiTask) != (task is not None):
            names = f"one of {list(config.tasks)}" if isinstance(model, ViLBertForMultiTask) else "left out"
            raise ValueError(f"task must be {names} for a {type(model).__name__}, got {task!r}.")
        if isinstance(model, (ViLBertForMultiTask, ViLBertTaskModel)):
            if task is not None and task not in config.tasks:
                raise ValueError(f"task must be one of {list(config.tasks)}, got {task!r}.")
            head_type = model.head_type if task is None else config.tasks[task]["head"]
            layouts, outputs = HEADS[head_type].axes, ("logits",)
            if head_type == "images":
                group = config.num_images
        elif isinstance(model, ViLBertForPreTraining):
            outputs = PRETRAINING_OUTPUTS
        else:
            outputs = STATES
        layout = min(layouts) if layout is None else layout
        if layout not in layouts:
            raise ValueError(f"layout must be one of {sorted(layouts)} for this head, got {layout!r}.")

        words, regions = (("batch", *[group] * axes) for axes in layout)
        vision = config.vision_config
        inputs = {
            "input_ids": (*words, "words"),
            "attention_mask": (*words, "words"),
            "token_type_ids": (*words, "words"),
            **({"task_ids": ("batch",)} if config.num_task_tokens else {}),
            "region_features": (*regions, "regions", vision.feature_size),
            "region_locations": (*regions, "regions", vision.location_size),
            "region_attention_mask": (*regions, "regions"),
        }
        return cls(inputs, outputs)

    def random_inputs(
        self, config: ViLBertConfig, sizes: Mapping[str, int], seed: int = 0, device: torch.device | str = "cpu"
    ) -> dict[str, torch.Tensor]:
        """Inputs of these sizes; all texts and images but the first are padded where there is room for it.

        Of three or more the last are padding alone.
        """
        generator = torch.Generator().manual_seed(seed)
        text = config.text_config
        below = {
            "input_ids": text.vocab_size,
            "token_type_ids": text.type_vocab_size,
            "task_ids": config.num_task_tokens,
        }
        inputs = {}
        for name, axes in self.inputs.items():
            shape = [sizes[axis] if isinstance(axis, str) else axis for axis in axes]
            if name in below:
                value = torch.randint(below[name], shape, generator=generator)
            elif name.endswith("mask"):
                value = torch.ones(shape, dtype=torch.long)
                rows = value.flatten(0, -2)
                rows[1:, 1 + shape[-1] // 2 :] = 0
                rows[2:][-1:] = 0
            else:
                value = torch.rand(shape, generator=generator)
            inputs[name] = value.to(device)
        return inputs


class _Program(nn.Module):
    """A model with tensors alone as its inputs and outputs."""

    def __init__(self, model: ViLBertPreTrainedModel, task: str | None, outputs: tuple[str, ...]):
        super().__init__()
        self.model, self.outputs = model, outputs
        self.options = {} if task is None else {"task": task}

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        region_features: torch.Tensor,
        region_locations: torch.Tensor,
        region_attention_mask: torch.Tensor,
        task_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            task_ids=task_ids,
            region_features=region_features,
            region_locations=region_locations,
            region_attention_mask=region_attention_mask,
            output_attentions=False,
            output_hidden_states=False,
            return_dict=True,
            **self.options,
        )
        return {name: outputs[name] for name in self.outputs}


@contextmanager
def _attending(model: ViLBertPreTrainedModel, implementation: str) -> Iterator[None]:
    """The model by this implementation of attention; afterwards by its own."""
    # A trunk that two models share has a config of its own, and its layers read that.
    configs = [getattr(module, "config", None) for module in model.modules()]
    before = {id(x): (x, x._attn_implementation) for x in configs if isinstance(x, ViLBertConfig)}
    try:
        for config, _ in before.values():
            config._attn_implementation = {"": implementation}  # not of the streams' configs
        yield
    finally:
        for config, own in before.values():
            config._attn_implementation = {"": own}


def export_program(
    model: ViLBertPreTrainedModel,
    task: str | None = None,
    layout: tuple[int, int] | None = None,
    attn_implementation: str = "sdpa",
) -> torch.export.ExportedProgram:
    """The model as a program of `torch.export`, for any batch, words and regions.

    It takes by name what the model takes (`input_ids`, `attention_mask`, `token_type_ids`, `region_features`,
    `region_locations`, `region_attention_mask`, and `task_ids` with task tokens), all of it, and returns a dict of
    `logits`, or of what the trunk or the pre-training heads return. Only dropout is gone; the model stays as it is.

    Args:
        model: any model of this package.
        task: a name in `config.tasks`, for a `ViLBertForMultiTask`.
        layout: how many axes of choices the words and the regions have, where the head takes several layouts: (0, 0)
            or (1, 1) for retrieval, (1, 0) or (1, 1) for multiple choice. Default: the first. Images of a text have
            layout (0, 1).
        attn_implementation: "sdpa" or "eager".

    Raises:
        ValueError: for another model, an unknown task, or a layout that the head does not take.

    Example:

    ```python
    >>> import torch
    >>> from modeling_vilbert import ViLBertConfig, ViLBertForQuestionAnswering, export_program
    >>> small = {"num_hidden_layers": 1, "hidden_size": 48, "intermediate_size": 48}
    >>> model = ViLBertForQuestionAnswering(ViLBertConfig(text_config=small, vision_config=small, num_labels=13))
    >>> program = export_program(model).module()
    >>> outputs = program(
    ...     input_ids=torch.ones(4, 6, dtype=torch.long),
    ...     attention_mask=torch.ones(4, 6, dtype=torch.long),
    ...     token_type_ids=torch.zeros(4, 6, dtype=torch.long),
    ...     region_features=torch.rand(4, 9, 2048),
    ...     region_locations=torch.rand(4, 9, 5),
    ...     region_attention_mask=torch.ones(4, 9, dtype=torch.long),
    ... )
    >>> outputs["logits"].shape
    torch.Size([4, 13])

    ```
    """
    interface = Interface.of(model, task, layout)
    with evaluating(model), torch.no_grad(), _attending(model, attn_implementation):
        return torch.export.export(
            _Program(model, task, interface.outputs),
            (),
            interface.random_inputs(model.config, _fitting(EXAMPLE_SIZES, model.config), device=model.device),
            dynamic_shapes=_dynamic_axes(interface, lambda name: torch.export.Dim.DYNAMIC),
            strict=False,
        )


def _dynamic_axes(interface: Interface, dimension: Callable[[str], object]) -> dict[str, dict[int, object]]:
    return {
        name: {place: dimension(axis) for place, axis in enumerate(axes) if isinstance(axis, str)}
        for name, axes in interface.inputs.items()
    }


def _fitting(sizes: Mapping[str, int], config: ViLBertConfig) -> dict[str, int]:
    return {**sizes, "words": min(sizes["words"], config.text_config.longest_text)}


def description(model: ViLBertPreTrainedModel, task: str | None = None) -> dict[str, str]:
    """What a user of a file has to know of the model, as strings: its labels, widths and what made its features.

    Keys: `model_class`, `task`, `task_token`, `id2label` (JSON), `feature_source`, `feature_size`, `location_size`,
    `vocab_size`, `max_words` (the longest text in tokens) and `num_task_tokens`. What the model has not is left out.
    """
    config, head = model.config, model.config.tasks[task] if task else {}
    if task is not None:
        id2label = head.get("id2label")
    else:
        id2label = config.id2label if getattr(model, "head_type", None) in LABELLED_HEADS else None
    facts = {
        "model_class": type(model).__name__,
        "task": task,
        "task_token": head.get("task_token") if config.num_task_tokens else None,
        "id2label": None if id2label is None else json.dumps(id2label),
        "feature_source": config.vision_config.feature_source,
        "feature_size": config.vision_config.feature_size,
        "location_size": config.vision_config.location_size,
        "vocab_size": config.text_config.vocab_size,
        "max_words": config.text_config.longest_text,
        "num_task_tokens": config.num_task_tokens or None,
    }
    return {name: str(fact) for name, fact in facts.items() if fact is not None}


# Files


def export_onnx(
    model: ViLBertPreTrainedModel,
    path: str | Path,
    task: str | None = None,
    layout: tuple[int, int] | None = None,
    external_data: bool | None = None,
) -> Path:
    """Write the model as an ONNX file, for any batch, words and regions; returns its path.

    Inputs and outputs are those of `export_program`, under the same names; `description` goes into the file's metadata.
    Attention is written out (as by "eager"), so that padding is exact in every runtime. The file appears when it is
    complete; folders above it are made.

    Args:
        model, task, layout: as those of `export_program`. The model must be in float32.
        path: of the file, which ends in ".onnx". One that is there is replaced.
        external_data: write the weights to a second file beside it, `path` with ".data" behind. Default: only for a
            model too large for one (2 GB). Both then have to stay together.

    Raises:
        ValueError: as `export_program`; for another dtype or a quantised model; for a path that is a folder, or ends
            otherwise.
        ImportError: if onnx or onnxscript is not installed.
    """
    interface = Interface.of(model, task, layout)
    if model.dtype != torch.float32 or getattr(model, "hf_quantizer", None) is not None:
        raise ValueError(
            f"model must be in float32 and not quantised for ONNX, got {model.dtype}. Load it with dtype=torch.float32."
        )
    need("onnx")
    need("onnxscript")
    path = checked_path(path, "onnx")
    program = export_program(model, task, layout, attn_implementation="eager")
    with warnings.catch_warnings():
        # Every input has a batch, and all but the first mention of it is reported as superfluous.
        warnings.filterwarnings("ignore", message=r"# The axis name: \w+ will not be used")
        file = torch.onnx.export(
            program,
            input_names=[*interface.inputs],
            output_names=[*interface.outputs],
            dynamic_shapes=_dynamic_axes(interface, str),
            dynamo=True,
            verbose=False,
        )
    file.model.metadata_props.update(description(model, task))
    with replacing(path) as place:
        file.save(place, external_data=external_data)
    return path


def export_torch(
    model: ViLBertPreTrainedModel, path: str | Path, task: str | None = None, layout: tuple[int, int] | None = None
) -> Path:
    """Write `export_program` to a file that ends in ".pt2", for `torch.export.load`; returns its path.

    `description` is in its extra file "vilbert.json". The file appears when it is complete; folders above it are made.
    """
    Interface.of(model, task, layout)
    path = checked_path(path, "torch")
    program = export_program(model, task, layout)
    facts = {"vilbert.json": json.dumps(description(model, task), indent=2)}
    with replacing(path) as place:
        torch.export.save(program, place, extra_files=facts)
    return path


def checked_path(path: str | Path, format: str) -> Path:
    """The path of a file that can be written in this format ("onnx" or "torch"); folders above it are made."""
    path = Path(path)
    if path.suffix != SUFFIXES[format] or path.is_dir():
        found = "a folder" if path.is_dir() else repr(str(path))
        raise ValueError(f"path must be a file that ends in {SUFFIXES[format]!r}, got {found}.")
    # Before the minutes of tracing.
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write to, in a new folder beside the path. It becomes the path at the end, if there was no error.

    Thus there is a whole file or none, and never new weights beside an old program.
    """
    weights = path.with_name(f"{path.name}.data")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        place = Path(folder) / path.name
        yield place
        new_weights = place.with_name(weights.name)
        if new_weights.exists():
            path.unlink(missing_ok=True)
            new_weights.replace(weights)
            place.replace(path)
        else:
            place.replace(path)
            if path.suffix == SUFFIXES["onnx"]:
                weights.unlink(missing_ok=True)


# The check of a file


@torch.no_grad()
def greatest_difference(
    model: ViLBertPreTrainedModel,
    path: str | Path,
    task: str | None = None,
    layout: tuple[int, int] | None = None,
    sizes: tuple[Mapping[str, int], ...] = CHECKED_SIZES,
) -> float:
    """The greatest difference between what a file gives and what the model gives, on random inputs of several sizes.

    Args:
        model, task, layout: what the file was made of.
        path: a file of `export_onnx` or `export_torch`; the first runs in onnxruntime.
        sizes: of "batch", "choices", "words" and "regions". Default: the smallest inputs and larger, padded ones.

    Raises:
        ImportError: for an ONNX file, if onnxruntime is not installed.
    """
    path, interface = Path(path), Interface.of(model, task, layout)
    if path.suffix == SUFFIXES["onnx"]:
        session = need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(inputs):
            values = session.run([*interface.outputs], {name: value.cpu().numpy() for name, value in inputs.items()})
            return dict(zip(interface.outputs, map(torch.from_numpy, values)))
    else:
        program = torch.export.load(path).module()

        def run(inputs):
            return program(**inputs)

    differences = []
    twin = _Program(model, task, interface.outputs)
    with evaluating(model):
        for seed, size in enumerate(sizes):
            inputs = interface.random_inputs(model.config, _fitting(size, model.config), seed, model.device)
            found = run(inputs)
            for name, expected in twin(**inputs).items():
                difference = (found[name].cpu() - expected.cpu()).abs().max().item()
                # A NaN compares as nothing, and would hide.
                differences.append(float("inf") if difference != difference else difference)
    return max(differences)
