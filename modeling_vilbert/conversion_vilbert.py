# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of other code as ours: the original (vilbert_beta), 12-in-1 (vilbert-multi-task), VOLTA's ViLBERT, MMF's.

Everything is first brought to the names of the original, then renamed by the table of `checkpoint_names_vilbert`.

Reading order: `convert_state_dict` and what it does in turn, reading files and configs.
"""

import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from .checkpoint_names_vilbert import TASK_OF_HEAD, rename
from .configuration_vilbert import TWELVE_IN_ONE_TASKS, ViLBertConfig
from .volta_vilbert import from_volta_config, from_volta_name


# Where the tensors of heads are, in our classes.
OF_HEADS = ("head.", "heads.", "text_head.", "region_head.", "alignment_head.")

# Class -> the tasks whose head it can take, the first that the checkpoint has.
ARCHITECTURE_TASKS = {
    "ViLBertForQuestionAnswering": ["vqa", "gqa"],
    "ViLBertForSequenceClassification": ["entailment"],
    "ViLBertForImagesAndTextClassification": ["image_pair"],
    "ViLBertForMultipleChoice": ["retrieval"],
    "ViLBertForImageAndTextRetrieval": ["retrieval"],
    "ViLBertForVisualGrounding": ["grounding"],
}


@dataclass
class Conversion:
    """A checkpoint under today's names, the config that fits it, and what became of every tensor.

    Args:
        architecture: name of the class that it is for.
        config: the given one, with the number of labels and the kind of classifier that the checkpoint has.
        state_dict: today's names -> tensors, of the asked class only.
        renamed: name in the checkpoint -> today's name.
        dropped: name in the checkpoint -> why it is not there any more.
        new: today's names of a head that the checkpoint does not have; known after `check`.
    """

    architecture: str
    config: ViLBertConfig
    state_dict: dict[str, torch.Tensor]
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)

    def report(self) -> str:
        """A line for every tensor of the checkpoint, in its order."""
        lines = [f"{len(self.renamed)} tensors renamed, {len(self.dropped)} left out, {len(self.new)} new."]
        lines += [f"{old} -> {new}" for old, new in self.renamed.items()]
        lines += [f"{old} left out: {why}" for old, why in self.dropped.items()]
        lines += [f"{name} is new, and has to be trained" for name in self.new]
        return "\n".join(lines)

    def check(self, expected: dict[str, torch.Tensor], ignore_mismatched_sizes: bool = False):
        """Raise a ValueError unless all of the trunk is here, and all that is here fits into the expected tensors.

        What a head lacks is listed in `new`: it has to be trained. With `ignore_mismatched_sizes`, so are the tensors
        of a head that have other shapes, such as those of other labels.
        """
        if ignore_mismatched_sizes:
            for name in [name for name in self.state_dict if name.startswith(OF_HEADS) and name in expected]:
                if self.state_dict[name].shape != expected[name].shape:
                    del self.state_dict[name]
        found = self.state_dict
        tied = ["text_head.decoder.weight"] if self.config.tie_word_embeddings else []
        missing = [name for name in expected if name not in found and name not in tied]
        self.new = [name for name in missing if name.startswith(OF_HEADS)]
        problems = {
            "the checkpoint lacks": [name for name in missing if not name.startswith(OF_HEADS)],
            "the config has no place for": [name for name in found if name not in expected],
            "the shapes differ for": [
                f"{name} ({list(found[name].shape)} in the checkpoint, {list(expected[name].shape)} by the config)"
                for name in found
                if name in expected and found[name].shape != expected[name].shape
            ],
        }
        for problem, names in problems.items():
            if names:
                raise ValueError(
                    f"The checkpoint and its config do not belong together: {problem} {len(names)} tensors: "
                    f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}."
                )


def convert_state_dict(
    state_dict: dict[str, torch.Tensor],
    config: ViLBertConfig,
    architecture: str,
    volta_layers: dict[str, str] | None = None,
    asked: set[str] | None = None,
) -> Conversion:
    """Rename the tensors of an original, 12-in-1, VOLTA or MMF checkpoint for one of our classes.

    Args:
        state_dict: tensors as `read_checkpoint` returns them.
        config: of the checkpoint; not changed.
        architecture: name of the class, such as "ViLBertForQuestionAnswering".
        volta_layers: of a VOLTA checkpoint, what `from_volta_config` says its sub-layers are called in the original.
        asked: fields of the config that the caller has set; others follow the checkpoint's heads.

    Raises:
        ValueError: if a tensor's name is in no table, or of a weight-normed layer or a head only a part is there.
    """
    config = ViLBertConfig.from_dict(config.to_dict())
    result = Conversion(architecture, config, {})
    tensors = {}
    unknown = []
    pooler_size = config.pooler_size or config.coattention_hidden_size
    for old, original, tensor in fold_weight_norm(original_names(state_dict, pooler_size, volta_layers)):
        if original.endswith(".weight_g"):
            result.dropped[old] = "folded into the weight, whose length it is"
            continue
        try:
            new = rename(original)
        except KeyError:
            unknown.append(old)
            continue
        if new is None:
            result.dropped[old] = "nothing reads it"
        elif "coattention_layers" in new and not config.use_coattention:
            result.dropped[old] = "the config has no co-attention"
        else:
            tensors.setdefault(new, (old, tensor))
            first, kept = tensors[new]
            if first != old:
                same = kept.dtype == tensor.dtype and torch.equal(kept, tensor)
                result.dropped[old] = f"the same as {first}" if same else f"{first} takes its place"
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(state_dict)} tensors are not of any ViLBERT that is known here: {unknown[:20]}. "
            "Is it a checkpoint of another architecture?"
        )

    select_variant(tensors, config, asked or set())
    task = select_heads(tensors, config, architecture, asked or set())
    for new, (old, tensor) in tensors.items():
        if task is not None and new.startswith(f"heads.{task}."):
            new = new.replace(f"heads.{task}.", "head.")
        if new.startswith("vilbert."):
            new = new.removeprefix("vilbert.") if architecture == "ViLBertModel" else new
        elif not belongs(new, config, architecture):
            result.dropped[old] = f"{architecture} has no such head"
            continue
        result.renamed[old] = new
        result.state_dict[new] = tensor
    return result


def belongs(name: str, config: ViLBertConfig, architecture: str) -> bool:
    """Whether a head's tensor is one of that class."""
    section, task = name.split(".")[:2]
    if architecture == "ViLBertForPreTraining":
        return section in ("text_head", "region_head", "alignment_head")
    if architecture == "ViLBertForMultiTask":
        return section == "heads" and task in config.tasks
    return section == "head"


def select_variant(tensors: dict[str, tuple[str, torch.Tensor]], config: ViLBertConfig, asked: set[str]):
    """Write into the config what only the tensors tell: 12-in-1's code sets it while it runs, not in its files.

    Fields in `asked` were set by the caller, and stay as they are.
    """
    tokens = tensors.get("vilbert.text_embeddings.task_embeddings.weight")
    if tokens is not None and "num_task_tokens" not in asked:
        config.num_task_tokens = len(tokens[1])
    if any(".gates." in name for name in tensors) and "text_gated_vision_attention" not in asked:
        config.text_gated_vision_attention = True


def select_heads(
    tensors: dict[str, tuple[str, torch.Tensor]], config: ViLBertConfig, architecture: str, asked: set[str]
) -> str | None:
    """Write into the config what the heads of the checkpoint are like; return the task whose head the class takes.

    Fields in `asked` were set by the caller, and stay as they are.
    """
    shapes = {name: tuple(tensor.shape) for name, (_, tensor) in tensors.items()}
    tasks = [task for task in TASK_OF_HEAD.values() if any(name.startswith(f"heads.{task}.") for name in shapes)]

    def rows(*names: str) -> int:
        found = [shapes[name][0] for name in names if shapes.get(name)]
        if not found:
            raise ValueError(f"The checkpoint has a part of a head only: {' or '.join(names)} is not there.")
        return found[0]

    labels = {
        task: rows(f"heads.{task}.classifier.decoder.weight", f"heads.{task}.classifier.weight") for task in tasks
    }
    for task in tasks:
        if f"heads.{task}.classifier.dense.weight" not in shapes:
            continue
        with_norm = f"heads.{task}.classifier.norm.weight" in shapes
        found = {
            "classifier_hidden_size": rows(f"heads.{task}.classifier.dense.weight"),
            "classifier_layer_norm": with_norm,
            "classifier_act": "gelu" if with_norm else "relu",
            "classifier_dropout": 0.0 if with_norm else 0.5,
        }
        for name in found.keys() - asked:
            setattr(config, name, found[name])
        break
    if architecture == "ViLBertForMultiTask":
        # Who names no tasks gets those that the checkpoint has, or all of 12-in-1's, new, if it has none.
        wanted = config.tasks
        if tasks and wanted == TWELVE_IN_ONE_TASKS:
            wanted = {task: wanted[task] for task in tasks}
        config.tasks = {
            name: {**task, "num_labels": labels[name]} if name in labels else task for name, task in wanted.items()
        }
    if architecture == "ViLBertForPreTraining":
        if config.region_objective == "kl" and "region_head.decoder.weight" in shapes:
            config.vision_config.num_region_classes = rows("region_head.decoder.weight")
        decoder = tensors.get("text_head.decoder.weight")
        words = tensors.get("vilbert.text_embeddings.word_embeddings.weight")
        if decoder is not None and words is not None and "tie_word_embeddings" not in asked:
            config.tie_word_embeddings = torch.equal(decoder[1], words[1])
    for task in ARCHITECTURE_TASKS.get(architecture, []):
        if task in labels:
            if labels[task] != config.num_labels and not asked & {"num_labels", "id2label"}:
                config.num_labels = labels[task]
            return task
    return None


def original_names(
    state_dict: dict[str, torch.Tensor], pooler_size: int, volta_layers: dict[str, str] | None = None
) -> list[tuple[str, str, torch.Tensor]]:
    """(name in the checkpoint, the original's name, tensor), for whatever wrappers and MMF have put before or after."""
    result = []
    for old, tensor in state_dict.items():
        name = old if volta_layers is None else from_volta_name(old, volta_layers)
        name = name.removeprefix("module.").removeprefix("model.")
        name = re.sub(r"^bert\.(bert|cls|classifier)\.", r"\1.", name)
        name = re.sub(r"^(embeddings|v_embeddings|encoder|t_pooler|v_pooler)\.", r"bert.\1.", name)
        name = re.sub(r"\.gamma$", ".weight", name)
        name = re.sub(r"\.beta$", ".bias", name)
        if name.startswith("classifier."):
            dense = next(
                (value for key, value in state_dict.items() if key.endswith("classifier.0.dense.weight")), None
            )
            pairs = dense is not None and dense.shape[1] == 2 * pooler_size
            name = name.replace("classifier", "vil_binary_prediction" if pairs else "vil_prediction", 1)
        result.append((old, name, tensor))
    return result


def fold_weight_norm(named: list[tuple[str, str, torch.Tensor]]) -> list[tuple[str, str, torch.Tensor]]:
    """Replace a direction `weight_v` by the weight that it makes with its length `weight_g`, which stays as it is."""
    lengths = {name: tensor for _, name, tensor in named if name.endswith(".weight_g")}
    result = []
    for old, name, tensor in named:
        if name.endswith(".weight_v"):
            length = lengths.get(name.removesuffix("v") + "g")
            if length is None:
                raise ValueError(f"The checkpoint has {old}, but not the weight_g that belongs to it.")
            norm = tensor.norm() if length.numel() == 1 else tensor.flatten(1).norm(dim=1).view_as(length)
            name, tensor = name.removesuffix("_v"), tensor * (length / norm)
        result.append((old, name, tensor))
    return result


# Files and configs


def is_original(folder: str | os.PathLike | None) -> bool:
    """Whether a folder holds a checkpoint as the original code left it: a `.bin`, and a config without streams."""
    if folder is None or not (Path(folder) / "pytorch_model.bin").is_file():
        return False
    config = Path(folder) / "config.json"
    return config.is_file() and "text_config" not in read_json(config)


# What `from_pretrained` takes for the Hub.
HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def find_original(name_or_path: str | os.PathLike, subfolder: str = "", **settings: Any) -> tuple[Path, Path] | None:
    """The tensors and the config of a checkpoint as the original code left it, in a folder or on the Hub, or None.

    `settings` are those of `from_pretrained`.
    """
    folder = Path(name_or_path, subfolder)
    if Path(name_or_path).exists():
        return (folder / "pytorch_model.bin", folder / "config.json") if is_original(folder) else None
    hub = {name: settings[name] for name in HUB if name in settings}

    def found(name: str) -> Path | None:
        file = cached_file(name_or_path, name, subfolder=subfolder, _raise_exceptions_for_missing_entries=False, **hub)
        return None if file is None else Path(file)

    config = found("config.json")
    if config is None or "text_config" in read_json(config):
        return None
    tensors = found("pytorch_model.bin")
    return None if tensors is None else (tensors, config)


def load_original(
    checkpoint: str | os.PathLike,
    config: str | os.PathLike,
    architecture: str | None = None,
    asked: Collection[str] = (),
    **overrides: Any,
) -> Conversion:
    """Read a checkpoint of one of the families and its config, for one of our classes.

    Args:
        checkpoint: the file of tensors.
        config: the JSON file with the family's own fields.
        architecture: name of the class. Default: the one that takes most of the checkpoint.
        asked: fields of the config that stay as the file or `overrides` have them, whatever the tensors tell.
        **overrides: further fields of `ViLBertConfig`.
    """
    fields = read_json(Path(config))
    state_dict = read_checkpoint(Path(checkpoint))
    if overrides:
        # An Auto class has read the file itself, without VOLTA's rules: what it found there overrides nothing.
        overrides = changed_fields(overrides, ViLBertConfig.from_dict(fields).to_dict())
    layers = None
    if "tt_attn_sublayers" in fields:
        fields, layers = from_volta_config(fields)
    config = ViLBertConfig.from_dict(fields)
    if overrides:
        fields = config.to_dict()
        for stream in ("text_config", "vision_config"):
            overrides[stream] = {**fields[stream], **overrides.get(stream, {})}
        config = ViLBertConfig.from_dict({**fields, **overrides})
    architecture = architecture or natural_architecture(state_dict, config, layers)
    return convert_state_dict(state_dict, config, architecture, layers, {*overrides, *asked})


def changed_fields(overrides: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Those of the overrides that are not so already, within the streams too."""
    changed = {}
    for name, value in overrides.items():
        value = value.to_dict() if isinstance(value, PreTrainedConfig) else value
        if name in ("text_config", "vision_config"):
            value = changed_fields(value or {}, fields[name])
        if name not in fields or value != fields[name]:
            changed[name] = value
    return changed


def natural_architecture(
    state_dict: dict[str, torch.Tensor], config: ViLBertConfig, volta_layers: dict[str, str] | None = None
) -> str:
    """The class that takes most of a checkpoint: by its task heads, else by its pre-training heads."""
    found = convert_state_dict(state_dict, config, "ViLBertForMultiTask", volta_layers).state_dict
    tasks = {name.split(".")[1] for name in found if name.startswith("heads.")}
    if len(tasks) == 1:
        return next(name for name, heads in ARCHITECTURE_TASKS.items() if next(iter(tasks)) in heads)
    if tasks:
        return "ViLBertForMultiTask"
    return "ViLBertForPreTraining" if any("cls." in name for name in state_dict) else "ViLBertModel"


def read_json(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{file} must hold a JSON object, got a {type(fields).__name__}.")
    return fields


def read_checkpoint(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a PyTorch checkpoint, read without running anything that is pickled in it.

    Raises:
        ValueError: if the file is missing, cut short, or holds anything but tensors and plain containers.
    """
    if not file.is_file():
        raise ValueError(f"{file} is not a file: expected a PyTorch checkpoint.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    # A damaged file makes torch raise almost anything; and it advises to switch the protection off.
    except Exception as error:
        if foreign := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{file} is not opened, since it holds {foreign[1]}: only tensors and plain containers are read. Of a "
                "run's files take those of the weights alone (pytorch_model_*.bin), not those to resume it from."
            ) from error
        raise ValueError(
            f"{file} cannot be read as a PyTorch checkpoint: it is cut short, damaged or of another kind "
            f"({type(error).__name__})."
        ) from error
    for wrapper in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise ValueError(f"{file} must hold a dict of tensors, or one under 'model_state_dict'.")
    return content
