# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The text stream from a checkpoint of BERT or RoBERTa: its config, and its tensors under today's names."""

import os
import re

import torch
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedConfig

from .checkpoint_names_vilbert import rename
from .configuration_vilbert import ViLBertTextConfig


TEXT_MODEL_TYPES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
}


def text_config_from(source: PreTrainedConfig, overrides: ViLBertTextConfig | dict | None) -> ViLBertTextConfig:
    """Config of the text stream that a BERT- or RoBERTa-like checkpoint fits."""
    if source.model_type not in TEXT_MODEL_TYPES:
        raise ValueError(
            f"The text stream must come from one of {list(TEXT_MODEL_TYPES)}, got model_type {source.model_type!r}."
        )
    overrides = overrides.to_diff_dict() if isinstance(overrides, ViLBertTextConfig) else dict(overrides or {})
    fields = {name: getattr(source, name) for name in ViLBertTextConfig.__annotations__ if hasattr(source, name)}
    config = ViLBertTextConfig(**{**fields, "position_scheme": TEXT_MODEL_TYPES[source.model_type], **overrides})
    if config.num_hidden_layers > source.num_hidden_layers:
        raise ValueError(
            f"text_config asks for num_hidden_layers {config.num_hidden_layers}, the checkpoint has "
            f"{source.num_hidden_layers}."
        )
    shapes = (
        "vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings",
        "type_vocab_size",
    )  # fmt: skip
    for name in shapes:
        if getattr(config, name) != getattr(source, name):
            raise ValueError(
                f"text_config asks for {name} {getattr(config, name)}, the checkpoint has {getattr(source, name)}."
            )
    return config


def text_state_dict_from(
    name_or_path: str | os.PathLike, num_hidden_layers: int, wanted: set[str]
) -> dict[str, torch.Tensor]:
    """The tensors of a BERT- or RoBERTa-like checkpoint that go into the text stream, under today's names.

    Args:
        wanted: names in a head model; of the masked-word head, those that the checkpoint really has are returned.
    """
    auto = AutoModelForMaskedLM if any(name.startswith("text_head.") for name in wanted) else AutoModel
    model, loading = auto.from_pretrained(name_or_path, output_loading_info=True)
    absent = set(loading["missing_keys"])
    result = {}
    for name, tensor in model.state_dict().items():
        original = re.sub(r"^(bert\.|roberta\.)?(?=embeddings\.|encoder\.)", "bert.", name)
        original = re.sub(r"^lm_head\.(dense|layer_norm)\.", r"cls.predictions.transform.\1.", original)
        original = original.replace("transform.layer_norm.", "transform.LayerNorm.")
        original = re.sub(r"^lm_head\.", "cls.predictions.", original)
        number = re.search(r"encoder\.layer\.(\d+)", original)
        if name in absent or (number is not None and int(number[1]) >= num_hidden_layers):
            continue
        try:
            new = rename(original)
        except KeyError:
            continue  # the pooler, which is not ViLBERT's
        if new in wanted:
            result[new] = tensor
    return result
