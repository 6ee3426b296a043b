# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Configuration of ViLBERT: one config per stream, and a joint one that says where the streams meet.

Sources: Lu et al., "ViLBERT", NeurIPS 2019, section 3; Lu et al., "12-in-1", CVPR 2020, section 3.

Reading order: `ViLBertTextConfig`, `ViLBertVisionConfig`, `ViLBertConfig`; then, for who comes from the original code,
the tables of its flat fields.
"""

import shutil
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Auto class -> where its ViLBERT class lives. Read by the package (registration) and written into saved configs, so
# that a saved folder also loads with `trust_remote_code=True` where this package is not installed.
AUTO_MAP = {
    "AutoConfig": "configuration_vilbert.ViLBertConfig",
    "AutoModel": "modeling_vilbert.ViLBertModel",
    "AutoModelForPreTraining": "pretraining_vilbert.ViLBertForPreTraining",
    "AutoModelForVisualQuestionAnswering": "heads_vilbert.ViLBertForQuestionAnswering",
    "AutoModelForSequenceClassification": "heads_vilbert.ViLBertForSequenceClassification",
    "AutoModelForMultipleChoice": "heads_vilbert.ViLBertForMultipleChoice",
    "AutoImageProcessor": "image_processing_vilbert.ViLBertImageProcessor",
    "AutoProcessor": "processing_vilbert.ViLBertProcessor",
}

HEAD_TYPES = ("question_answering", "classification", "images", "choice", "matching", "grounding")

# The heads of the released 12-in-1 checkpoint: the default of `ViLBertForMultiTask`. `task_token` is the index of the
# task whose token a batch gets when the caller passes no `task_ids`.
TWELVE_IN_ONE_TASKS = {
    "vqa": {"head": "question_answering", "num_labels": 3129, "task_token": 1},
    "gqa": {"head": "question_answering", "num_labels": 1533, "task_token": 15},
    "retrieval": {"head": "matching", "num_labels": 1, "task_token": 8},
    "grounding": {"head": "grounding", "num_labels": 1, "task_token": 9},
    "image_pair": {"head": "images", "num_labels": 2, "task_token": 12},
    "entailment": {"head": "classification", "num_labels": 3, "task_token": 13},
}


def _check_activation(config: PreTrainedConfig, name: str):
    if getattr(config, name) not in ACT2FN:
        raise ValueError(f"{name} must be one of {sorted(ACT2FN)}, got {getattr(config, name)!r}.")


RATE = (0, 1)
SIZE = (1, float("inf"))
COUNT = (0, float("inf"))


def _check_ranges(config: PreTrainedConfig, **ranges: tuple[float, float]):
    for name, (lowest, highest) in ranges.items():
        value = getattr(config, name)
        if not lowest <= value <= highest:
            allowed = f"at least {lowest}" if highest == float("inf") else f"within {lowest} to {highest}"
            raise ValueError(f"{name} of {type(config).__name__} must be {allowed}, got {value}.")


class _StreamConfig(PreTrainedConfig):
    def validate_architecture(self):
        _check_ranges(
            self, hidden_size=SIZE, num_attention_heads=SIZE, intermediate_size=SIZE, num_hidden_layers=COUNT,
            hidden_dropout_prob=RATE, attention_probs_dropout_prob=RATE, layer_norm_eps=COUNT,
        )  # fmt: skip
        _check_activation(self, "hidden_act")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) of {type(self).__name__} must be a multiple of "
                f"num_attention_heads ({self.num_attention_heads})."
            )


@strict
class ViLBertTextConfig(_StreamConfig):
    r"""The stream of words, a BERT encoder. Defaults are BERT base's.

    Args:
        vocab_size: number of word pieces.
        hidden_size: width of the stream.
        num_hidden_layers: number of self-attention layers, before and between the co-attention layers together.
        num_attention_heads: heads of self-attention.
        intermediate_size: width inside the feed-forward blocks.
        hidden_act: activation of the feed-forward blocks ("gelu" is the exact, erf GELU).
        hidden_dropout_prob: dropout after embeddings, attention and feed-forward blocks, in [0, 1].
        attention_probs_dropout_prob: dropout of attention over words, whoever attends, in [0, 1].
        max_position_embeddings: rows of the table of positions: the longest text in tokens, or for RoBERTa's positions
            `pad_token_id + 1` more than that.
        type_vocab_size: number of segment ids.
        layer_norm_eps: epsilon of every LayerNorm in the stream.
        pad_token_id: id of the padding token.
        position_scheme: "bert" counts positions from 0; "roberta" counts real tokens from `pad_token_id + 1`.

    Example:

    ```python
    >>> from modeling_vilbert import ViLBertTextConfig
    >>> ViLBertTextConfig(num_hidden_layers=6).hidden_size
    768

    ```
    """

    model_type = "vilbert_text_model"
    base_config_key = "text_config"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float | int = 1e-12
    pad_token_id: int | None = 0
    position_scheme: Literal["bert", "roberta"] = "bert"

    def validate_tokens(self):
        _check_ranges(self, vocab_size=SIZE, max_position_embeddings=SIZE, type_vocab_size=SIZE)
        if self.pad_token_id is None:
            if self.position_scheme == "roberta":
                raise ValueError("pad_token_id must be given for position_scheme 'roberta', got None.")
        else:
            _check_ranges(self, pad_token_id=(0, self.vocab_size - 1))

    @property
    def longest_text(self) -> int:
        """Tokens of the longest text that there are positions for."""
        return self.max_position_embeddings - (self.pad_token_id + 1 if self.position_scheme == "roberta" else 0)


@strict
class ViLBertVisionConfig(_StreamConfig):
    r"""The stream of image regions. Defaults are those of the released 6-layer base model.

    Args:
        hidden_size: width of the stream.
        num_hidden_layers: number of self-attention layers.
        num_attention_heads: heads of self-attention.
        intermediate_size: width inside the feed-forward blocks.
        hidden_act: activation of the feed-forward blocks.
        hidden_dropout_prob: dropout after attention and feed-forward blocks, in [0, 1].
        attention_probs_dropout_prob: dropout of attention over regions, whoever attends, in [0, 1].
        layer_norm_eps: epsilon of every LayerNorm in the stream.
        feature_size: width of a region's feature vector, as its detector or backbone made it.
        location_size: numbers that say where a region is; 5 is (x1/w, y1/h, x2/w, y2/h, share of the area).
        num_region_classes: classes of the detector, background included: what masked regions are classified into.
        feature_source: which detector, layer and box count made the features that the weights were trained on.

    Example:

    ```python
    >>> from modeling_vilbert import ViLBertVisionConfig
    >>> ViLBertVisionConfig(feature_size=1280, num_region_classes=1000).hidden_size
    1024

    ```
    """

    model_type = "vilbert_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 1024
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 1024
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    layer_norm_eps: float | int = 1e-12
    feature_size: int = 2048
    location_size: int = 5
    num_region_classes: int = 1601
    feature_source: str | None = None

    def validate_regions(self):
        _check_ranges(self, feature_size=SIZE, location_size=SIZE, num_region_classes=SIZE)


@strict
class ViLBertConfig(PreTrainedConfig):
    r"""Two streams and where they meet. Defaults are those of the released 6-layer base model.

    The flat fields of the original configs (`v_hidden_size`, `bi_hidden_size`, `t_biattention_id`, ...) are accepted
    too and translated; those that the original code never read are ignored with a warning.

    Args:
        text_config: the stream of words; a `ViLBertTextConfig`, or a dict of its fields.
        vision_config: the stream of regions; a `ViLBertVisionConfig`, or a dict of its fields.
        coattention_hidden_size: width of co-attention.
        coattention_num_attention_heads: heads of co-attention.
        pooler_size: width of the pooled vectors and of their fusion. Default: `coattention_hidden_size`.
        text_coattention_layers: co-attention k runs just before this text layer. Default: the last text layers, as
            many as `vision_coattention_layers` has, or as there are vision layers.
        vision_coattention_layers: co-attention k runs just before this vision layer. Default: from 0 on, as many as
            `text_coattention_layers` has.
        use_coattention: false leaves the co-attention layers out; the other layers keep their order.
        fusion: how the pooled vectors of both streams become one: their "mul" (product) or "sum".
        pooler_act: activation of both poolers; the papers' is "relu".
        fusion_dropout: dropout of the fused vector, and of the states that the region scores read, in [0, 1].
        text_gated_vision_attention: vision self-attention scales its queries and keys by what the text says, the
            "dynamic attention" of the 12-in-1 code.
        num_task_tokens: size of the table of task tokens; 0 for a model without them, 20 in 12-in-1.
        num_frozen_text_layers: text embeddings and this many first text layers receive no gradient (0: none does not).
            At most the first of `text_coattention_layers`.
        num_frozen_vision_layers: the same for regions.
        region_objective: what a masked region is trained to give back: its class distribution ("kl"), its feature
            ("regression"), or its feature among others ("nce", noise-contrastive estimation).
        num_region_negatives: about how many other regions "nce" tells a masked one from: 70 % from other images and
            30 % from its own, each rounded down.
        classifier_hidden_size: width inside the answer classifier. Default: twice `pooler_size`.
        classifier_act: its activation; "gelu" in 12-in-1, "relu" in ViLBERT.
        classifier_layer_norm: whether it has a LayerNorm; true in 12-in-1, false in ViLBERT.
        classifier_dropout: its dropout, in [0, 1]; 0 in 12-in-1, 0.5 in ViLBERT.
        num_images: images of an example of `ViLBertForImagesAndTextClassification`.
        tasks: heads of `ViLBertForMultiTask`, by name: a dict of `{"head": ..., "num_labels": ..., "task_token": ...}`,
            or a list of names out of 12-in-1's. Default: all of 12-in-1's.
        initializer_range: standard deviation of new weights.
        tie_word_embeddings: whether the decoder of masked words is the table of word embeddings.

    Raises:
        ValueError: if the co-attention layers do not fit the streams, a width does not divide by its heads, or a flat
            field has no translation. Wrong types raise the error of `huggingface_hub.dataclasses`.

    Example:

    ```python
    >>> from modeling_vilbert import ViLBertConfig
    >>> config = ViLBertConfig(text_config={"num_hidden_layers": 3}, vision_config={"num_hidden_layers": 1})
    >>> config.schedule
    [('text', 0), ('text', 1), ('coattention', 0), ('vision', 0), ('text', 2)]

    ```
    """

    model_type = "vilbert"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(ViLBertTextConfig),
        "vision_config": SubConfigSpec(ViLBertVisionConfig),
    }
    keys_to_ignore_at_inference = ["mlm_loss", "region_loss", "alignment_loss"]
    base_model_fsdp_plan = {
        "text_embeddings": "free_full_weight",
        "vision_embeddings": "free_full_weight",
        "encoder.text_layers.*": "free_full_weight",
        "encoder.vision_layers.*": "free_full_weight",
        "encoder.coattention_layers.*": "free_full_weight",
    }

    text_config: ViLBertTextConfig | dict | None = None
    vision_config: ViLBertVisionConfig | dict | None = None
    coattention_hidden_size: int = 1024
    coattention_num_attention_heads: int = 8
    pooler_size: int | None = None
    text_coattention_layers: list[int] | tuple[int, ...] | None = None
    vision_coattention_layers: list[int] | tuple[int, ...] | None = None
    use_coattention: bool = True
    fusion: Literal["mul", "sum"] = "mul"
    pooler_act: str = "relu"
    fusion_dropout: float | int = 0.1
    text_gated_vision_attention: bool = False
    num_task_tokens: int = 0
    num_frozen_text_layers: int = 0
    num_frozen_vision_layers: int = 0
    region_objective: Literal["kl", "regression", "nce"] = "kl"
    num_region_negatives: int = 128
    classifier_hidden_size: int | None = None
    classifier_act: str = "gelu"
    classifier_layer_norm: bool = True
    classifier_dropout: float | int = 0.0
    num_images: int = 2
    tasks: dict | list | tuple | None = None
    initializer_range: float | int = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        kwargs = self._translate_flat_fields(kwargs)
        super().__post_init__(**kwargs)
        last = self.text_config.num_hidden_layers
        text, vision = self.text_coattention_layers, self.vision_coattention_layers
        given = text if vision is None else vision
        count = min(last, self.vision_config.num_hidden_layers) if given is None else len(given)
        self.text_coattention_layers = list(range(last - count, last) if text is None else text)
        self.vision_coattention_layers = list(range(count) if vision is None else vision)
        if self.pooler_size is None:
            self.pooler_size = self.coattention_hidden_size
        if self.classifier_hidden_size is None:
            self.classifier_hidden_size = 2 * self.pooler_size
        self.tasks = self._task_table(self.tasks)

    @property
    def schedule(self) -> list[tuple[str, int]]:
        """The order of layers: ("text", i), ("vision", j) and ("coattention", k), first to last.

        Before co-attention k come the text layers up to `text_coattention_layers[k]` and the vision layers up to
        `vision_coattention_layers[k]`; what is left comes at the end, vision first (a text-gated vision layer thus
        sees the words as they were at the last co-attention).
        """
        steps, text, vision = [], 0, 0
        for k, (text_end, vision_end) in enumerate(zip(self.text_coattention_layers, self.vision_coattention_layers)):
            steps += [("text", i) for i in range(text, text_end)]
            steps += [("vision", j) for j in range(vision, vision_end)]
            steps += [("coattention", k)] if self.use_coattention else []
            text, vision = text_end, vision_end
        steps += [("vision", j) for j in range(vision, self.vision_config.num_hidden_layers)]
        steps += [("text", i) for i in range(text, self.text_config.num_hidden_layers)]
        return steps

    def validate_heads(self):
        _check_ranges(
            self, pooler_size=SIZE, classifier_hidden_size=SIZE, num_images=SIZE, num_task_tokens=COUNT,
            num_region_negatives=COUNT, fusion_dropout=RATE, classifier_dropout=RATE, initializer_range=COUNT,
        )  # fmt: skip
        _check_activation(self, "pooler_act")
        _check_activation(self, "classifier_act")

    def validate_coattention(self):
        _check_ranges(self, coattention_hidden_size=SIZE, coattention_num_attention_heads=SIZE)
        size, heads = self.coattention_hidden_size, self.coattention_num_attention_heads
        if size % heads:
            raise ValueError(
                f"coattention_hidden_size ({size}) must be a multiple of coattention_num_attention_heads ({heads})."
            )
        text, vision = self.text_coattention_layers, self.vision_coattention_layers
        if len(text) != len(vision):
            raise ValueError(
                f"text_coattention_layers and vision_coattention_layers must be of one length, got {text} and {vision}."
            )
        for stream, layers in (("text", text), ("vision", vision)):
            count = getattr(self, f"{stream}_config").num_hidden_layers
            if list(layers) != sorted(layers) or any(not 0 <= layer < count for layer in layers):
                raise ValueError(
                    f"{stream}_coattention_layers must be in rising order and within 0 to {count - 1} (the {stream} "
                    f"stream has {count} layers), got {layers}."
                )
            frozen, limit = getattr(self, f"num_frozen_{stream}_layers"), layers[0] if layers else count
            if not 0 <= frozen <= limit:
                raise ValueError(
                    f"num_frozen_{stream}_layers must be within 0 to {limit} (the first co-attention comes before "
                    f"{stream} layer {limit}), got {frozen}."
                )

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs):
        """Save `config.json`, and beside it the code that loads it where this package is not installed.

        The code is the `*_vilbert.py` files next to this one; `auto_map` in the config names the classes in them.
        """
        folder, here = Path(save_directory), Path(__file__).parent
        code = {file.stem: file for file in here.glob("*_vilbert.py")}
        # Code that came with a checkpoint lies in one folder for each file: Transformers copies the rest of it.
        here_too = {auto: place for auto, place in AUTO_MAP.items() if place.split(".")[0] in code}
        self.auto_map = {**(getattr(self, "auto_map", None) or {}), **here_too}
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        for file in code.values():
            if file.parent != folder.resolve():
                shutil.copyfile(file, folder / file.name)

    @staticmethod
    def _task_table(tasks: dict | list | tuple | None) -> dict[str, dict[str, Any]]:
        if tasks is None:
            tasks = TWELVE_IN_ONE_TASKS
        elif not isinstance(tasks, dict):
            if unknown := [name for name in tasks if name not in TWELVE_IN_ONE_TASKS]:
                raise ValueError(
                    f"tasks: {unknown} have no known head; known are {list(TWELVE_IN_ONE_TASKS)}. Describe others as "
                    '{name: {"head": ..., "num_labels": ...}}.'
                )
            tasks = {name: TWELVE_IN_ONE_TASKS[name] for name in tasks}
        for name, task in tasks.items():
            if not name or "." in name or name.split() != [name] or hasattr(dict, name):
                raise ValueError(f"tasks: a name must be a word without dots, got {name!r}.")
            if not isinstance(task, dict) or task.get("head") not in HEAD_TYPES:
                raise ValueError(f"tasks: {name!r} must be a dict with a 'head' out of {HEAD_TYPES}, got {task!r}.")
            if not isinstance(task.get("num_labels", 1), int) or task.get("num_labels", 1) < 1:
                raise ValueError(f"tasks: num_labels of {name!r} must be at least 1, got {task['num_labels']!r}.")
        return {name: dict(task) for name, task in tasks.items()}

    def _translate_flat_fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Move the original's flat fields to where they live now; return what is left."""
        left, translated, switched = {}, {}, {}
        never_read = [name for name in fields if name in NEVER_READ]
        if never_read:
            logger.warning(f"Ignored, since the original code never read them: {', '.join(never_read)}.")
        for name, value in fields.items():
            if name in FLAT_FIELDS:
                translated[FLAT_FIELDS[name]] = value
            elif name in FLAT_SWITCHES:
                if value not in FLAT_SWITCHES[name]:
                    raise ValueError(f"{name} must be one of {list(FLAT_SWITCHES[name])}, got {value!r}.")
                switched.update(FLAT_SWITCHES[name][value])
            elif name in RUN_TIME_SWITCHES:
                if value:
                    logger.warning(f"{name}={value!r} is ignored: {RUN_TIME_SWITCHES[name]}")
            elif name not in NEVER_READ:
                left[name] = value

        for (section, name), value in {**translated, **switched}.items():
            if section is None:
                setattr(self, name, value)
                continue
            stream = getattr(self, section)
            stream = stream.to_dict() if isinstance(stream, PreTrainedConfig) else dict(stream or {})
            if stream.get(name, value) != value:
                raise ValueError(f"{section} says {name}={stream[name]!r}, and a flat field of the original {value!r}.")
            setattr(self, section, {**stream, name: value})
        return left


# The original's flat field -> (config it lives in now, its name there); None is `ViLBertConfig` itself.
FLAT_FIELDS = {
    **{
        name: ("text_config", name)
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
            "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
        )
    },
    **{
        f"v_{name}": ("vision_config", name)
        for name in (
            "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
            "hidden_dropout_prob", "attention_probs_dropout_prob", "feature_size",
        )
    },
    "v_target_size": ("vision_config", "num_region_classes"),
    "bi_hidden_size": (None, "coattention_hidden_size"),
    "bi_num_attention_heads": (None, "coattention_num_attention_heads"),
    "t_biattention_id": (None, "text_coattention_layers"),
    "v_biattention_id": (None, "vision_coattention_layers"),
    "fusion_method": (None, "fusion"),
    "fixed_t_layer": (None, "num_frozen_text_layers"),
    "fixed_v_layer": (None, "num_frozen_vision_layers"),
    "dynamic_attention": (None, "text_gated_vision_attention"),
    "with_coattention": (None, "use_coattention"),
    "num_negative": (None, "num_region_negatives"),
}  # fmt: skip

# A flat switch -> its value -> what that sets.
FLAT_SWITCHES = {
    "task_specific_tokens": {False: {}, True: {(None, "num_task_tokens"): 20}},
    "predict_feature": {False: {}, True: {(None, "region_objective"): "regression"}},
    "visual_target": {
        0: {(None, "region_objective"): "kl"},
        1: {(None, "region_objective"): "regression"},
        2: {(None, "region_objective"): "nce"},
    },
    # The original's "roberta" embeddings count positions as BERT does.
    "model": {"bert": {}, "roberta": {}},
}

NEVER_READ = (
    "v_initializer_range", "bi_intermediate_size", "bi_attention_type", "pooling_method", "intra_gate", "objective",
    "layer_norm_eps", "torchscript", "finetuning_task",
)  # fmt: skip

RUN_TIME_SWITCHES = {
    "fast_mode": "it is a way to run the model, not a part of it.",
    "in_batch_pairs": "it is a way to run the model, not a part of it; give the pairs themselves as a batch.",
    "visualization": "ask for `output_attentions=True` in the call instead.",
}
