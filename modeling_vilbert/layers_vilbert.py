# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What the trunk of ViLBERT is made of, and knows no order of layers: attention, a layer, co-attention, embeddings.

Source: Lu et al., "ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations for Vision-and-Language Tasks",
NeurIPS 2019, section 3.1 and figure 2.

Shapes: B batch, T tokens, R regions, Q queries, K keys, D hidden size of a stream, C its context's, A attention size,
H heads, P pooled size, F feature size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, bidirectional_mask_function
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_vilbert import ViLBertConfig, ViLBertTextConfig, ViLBertVisionConfig


Stream = ViLBertTextConfig | ViLBertVisionConfig

# How many of a stream's first positions: None is all, 1 what is pooled, 0 nothing.
Count = int | None


def first_queries(mask: torch.Tensor | None, count: Count) -> torch.Tensor | None:
    """A mask [B, 1, Q, K] for so many of the queries."""
    return mask if mask is None or count is None else mask[:, :, :count]


# Dropout


def drop(states: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """`nn.functional.dropout`; on a CPU in a fraction of the time, and with one byte a number kept for the gradient.

    There 16 random bits decide, where PyTorch draws and keeps a number of the states' own size. The rate is met to
    1/65,536.
    """
    dropped = round(rate * 2**16)
    plain = type(states) is torch.Tensor and states.device.type == "cpu" and 0 < dropped < 2**16
    if not training or not plain or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return nn.functional.dropout(states, rate, training)
    # One draw is enough for four.
    draws = torch.randint(-(2**63), 2**63 - 1, (-(-states.numel() // 4),), device=states.device)
    bits = draws.view(torch.int16)[: states.numel()].view(states.shape)
    return states * (bits >= dropped - 2**15) * (2**16 / (2**16 - dropped))


class Dropout(nn.Dropout):
    """`drop` as a module."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return drop(states, self.p, self.training)


# Attention


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; `attention_mask` is bool [B, 1, Q, K], true where a query may see a key.

    A query that may see nothing gets zeros, as in the fused implementations, so that nothing masked ever leaks.
    Returns the context [B, Q, H, A / H] and the probabilities before dropout [B, H, Q, K].
    """
    # One product, in which the scaling costs nothing; with beta=0 what would be added is not looked at.
    products = torch.baddbmm(query.new_empty(1), query.flatten(0, 1), key.flatten(0, 1).mT, beta=0, alpha=scaling)
    scores = products.unflatten(0, query.shape[:2])
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    probabilities = scores.softmax(-1)
    if attention_mask is not None:
        probabilities = probabilities.masked_fill(~attention_mask, 0.0)
    context = drop(probabilities, dropout, module.training) @ value
    return context.transpose(1, 2), probabilities


class ViLBertAttention(nn.Module):
    """Multi-head attention of a stream to a context: to itself, or to the other stream.

    The probabilities are dropped out at the rate of the stream that is looked *at*, as in the original.
    """

    def __init__(self, config: ViLBertConfig, stream: Stream, context: Stream, size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.head_size = size // num_heads
        self.scaling = self.head_size**-0.5
        self.dropout = context.attention_probs_dropout_prob
        self.is_causal = False
        self.query = nn.Linear(stream.hidden_size, size)
        self.key = nn.Linear(context.hidden_size, size)
        self.value = nn.Linear(context.hidden_size, size)
        self.output = nn.Linear(size, stream.hidden_size)

    def forward(
        self,
        states: torch.Tensor,
        context: torch.Tensor,
        attention_mask=None,
        gates: tuple[torch.Tensor, torch.Tensor] | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """states [B, Q, D], context [B, K, C] -> [B, Q, D], probabilities [B, H, Q, K] or None.

        `gates` are factors [B, 1, A] of queries and keys.
        """
        query, key, value = self.query(states), self.key(context), self.value(context)
        if gates is not None:
            query, key = query * gates[0], key * gates[1]
        mixed, probabilities = self.attend(query, key, value, attention_mask, output_attentions)
        return self.output(mixed), probabilities

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask=None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Values mixed, before the last projection: query [B, Q, A], key and value [B, K, A] -> [B, Q, A]; as above."""
        query, key, value = (x.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for x in (query, key, value))

        dropout = self.dropout if self.training else 0.0
        implementation = self.config._attn_implementation
        # Probabilities exist in the eager implementation alone. And PyTorch's fused one knows no dropout on CPUs, where
        # what it does instead takes longer than ours.
        if output_attentions or (implementation == "sdpa" and dropout and query.device.type == "cpu"):
            implementation = "eager"
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        mixed, probabilities = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=dropout,
        )
        return mixed.flatten(2), probabilities


class ViLBertGates(nn.Module):
    """What the words say, as factors in (1, 2) of the queries and keys of a vision layer ("dynamic attention")."""

    def __init__(self, text: ViLBertTextConfig, vision: ViLBertVisionConfig):
        super().__init__()
        self.query = nn.Linear(text.hidden_size, vision.hidden_size)
        self.key = nn.Linear(text.hidden_size, vision.hidden_size)

    def forward(self, text: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """text [B, T, D], its padding mask [B, T] or None -> two tensors [B, 1, A]."""
        if mask is None:
            mean = text.mean(1, keepdim=True)
        else:
            mask = mask.to(text.dtype)[..., None]
            mean = (text * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        return 1 + self.query(mean).sigmoid(), 1 + self.key(mean).sigmoid()


class ViLBertLayer(GradientCheckpointingLayer):
    """A transformer layer with post-normalisation: attention to a context, then a feed-forward block.

    With the stream itself as context it is a layer of BERT; with the other stream it is one half of co-attention.
    """

    def __init__(self, config: ViLBertConfig, stream: Stream, context: Stream | None = None, gated: bool = False):
        super().__init__()
        if context is None:
            context, size, num_heads = stream, stream.hidden_size, stream.num_attention_heads
        else:
            size, num_heads = config.coattention_hidden_size, config.coattention_num_attention_heads
        self.attention = ViLBertAttention(config, stream, context, size, num_heads)
        self.gates = ViLBertGates(config.text_config, config.vision_config) if gated else None
        self.attention_norm = nn.LayerNorm(stream.hidden_size, eps=stream.layer_norm_eps)
        self.intermediate = nn.Linear(stream.hidden_size, stream.intermediate_size)
        self.activation = ACT2FN[stream.hidden_act]
        self.output = nn.Linear(stream.intermediate_size, stream.hidden_size)
        self.output_norm = nn.LayerNorm(stream.hidden_size, eps=stream.layer_norm_eps)
        self.dropout = Dropout(stream.hidden_dropout_prob)

    # Tensors come by position: reentrant checkpointing tracks only those.
    def forward(
        self,
        states: torch.Tensor,
        context: torch.Tensor,
        attention_mask=None,
        words: torch.Tensor | None = None,
        words_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """states [B, Q, D], context [B, K, C] -> [B, Q, D], probabilities [B, H, Q, K] or None."""
        gates = self.gates(words, words_mask) if self.gates is not None else None
        attended, probabilities = self.attention(states, context, attention_mask, gates, output_attentions)
        return self.finish(states, attended), probabilities

    def finish(self, states: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The rest of `forward`, from what attention gave: states and attended [B, Q, D] -> [B, Q, D]."""
        states = self.attention_norm(states + self.dropout(attended))
        expanded = self.activation(self.intermediate(states))
        return self.output_norm(states + self.dropout(self.output(expanded)))


class ViLBertCoAttentionLayer(nn.Module):
    """Both streams look at each other at once, each at the other as it was before."""

    def __init__(self, config: ViLBertConfig):
        super().__init__()
        self.text = ViLBertLayer(config, config.text_config, context=config.vision_config)
        self.vision = ViLBertLayer(config, config.vision_config, context=config.text_config)

    def forward(
        self,
        text: torch.Tensor,
        vision: torch.Tensor,
        masks: "AttentionMasks",
        wanted: Mapping[str, Count],
        output_attentions: bool,
    ):
        """text [B, T, D], vision [B, R, D'] -> both, and probabilities [B, H, T, R] and [B, H, R, T] or None.

        A stream that is not wanted comes out as it came in.
        """
        new_text, new_vision, text_to_vision, vision_to_text = text, vision, None, None
        if (count := wanted["text"]) != 0:
            mask = first_queries(masks.text_to_vision, count)
            new_text, text_to_vision = self.text(text[:, :count], vision, mask, output_attentions=output_attentions)
        if (count := wanted["vision"]) != 0:
            mask = first_queries(masks.vision_to_text, count)
            new_vision, vision_to_text = self.vision(vision[:, :count], text, mask, output_attentions=output_attentions)
        return new_text, new_vision, text_to_vision, vision_to_text


@dataclass
class AttentionMasks:
    """The four masks of a forward, in the form that the attention implementation wants, and the words' padding mask."""

    text: torch.Tensor | None
    vision: torch.Tensor | None
    text_to_vision: torch.Tensor | None
    vision_to_text: torch.Tensor | None
    words: torch.Tensor | None

    @classmethod
    def make(
        cls,
        implementation: str,
        text: torch.Tensor,
        vision: torch.Tensor,
        text_mask: torch.Tensor | None,
        vision_mask: torch.Tensor | None,
        pair_mask: torch.Tensor | None,
    ) -> "AttentionMasks":
        # Our eager attention takes the bool masks of sdpa.
        make_mask = ALL_MASK_ATTENTION_FUNCTIONS["sdpa" if implementation == "eager" else implementation]
        text_mask, vision_mask, pair_mask = (
            None if mask is None else mask.to(device=text.device, dtype=torch.bool)
            for mask in (text_mask, vision_mask, pair_mask)
        )

        def mask(queries: torch.Tensor, keys: torch.Tensor, key_mask, allowed=None):
            return make_mask(
                batch_size=queries.shape[0],
                q_length=queries.shape[1],
                kv_length=keys.shape[1],
                mask_function=bidirectional_mask_function
                if allowed is None
                else lambda batch, head, query, key: allowed[batch, query, key],
                attention_mask=key_mask,
                allow_is_causal_skip=False,
                allow_is_bidirectional_skip=allowed is None,
                dtype=queries.dtype,
                device=queries.device,
            )

        return cls(
            text=mask(text, text, text_mask),
            vision=mask(vision, vision, vision_mask),
            text_to_vision=mask(text, vision, vision_mask, pair_mask),
            vision_to_text=mask(vision, text, text_mask, None if pair_mask is None else pair_mask.transpose(1, 2)),
            words=text_mask,
        )


# Embeddings


class ViLBertTextEmbeddings(nn.Module):
    """Words, positions and segments; and, behind [CLS], the token of the task, which has neither of the last two."""

    def __init__(self, config: ViLBertConfig):
        super().__init__()
        text = config.text_config
        self.pad_token_id, self.position_scheme = text.pad_token_id, text.position_scheme
        self.word_embeddings = nn.Embedding(text.vocab_size, text.hidden_size, padding_idx=text.pad_token_id)
        self.position_embeddings = nn.Embedding(text.max_position_embeddings, text.hidden_size)
        self.token_type_embeddings = nn.Embedding(text.type_vocab_size, text.hidden_size)
        self.task_embeddings = (
            nn.Embedding(config.num_task_tokens, text.hidden_size) if config.num_task_tokens else None
        )
        self.norm = nn.LayerNorm(text.hidden_size, eps=text.layer_norm_eps)
        self.dropout = Dropout(text.hidden_dropout_prob)

    def forward(self, input_ids, inputs_embeds, token_type_ids, position_ids, task_ids) -> torch.Tensor:
        """[B, T] ids (or [B, T, D] embeddings) -> [B, T, D], or [B, T + 1, D] with a task token."""
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if position_ids is None:
            position_ids = self.positions(input_ids, inputs_embeds)
        if token_type_ids is None:
            token_type_ids = torch.zeros(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        embeddings = inputs_embeds + self.position_embeddings(position_ids) + self.token_type_embeddings(token_type_ids)
        if self.task_embeddings is not None:
            task = self.task_embeddings(task_ids.reshape(-1, 1))
            embeddings = torch.cat([embeddings[:, :1], task, embeddings[:, 1:]], 1)
        return self.dropout(self.norm(embeddings))

    def positions(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Position ids [B, T] or [1, T]. Embeddings without ids are taken to hold no padding, as in RoBERTa."""
        if self.position_scheme == "roberta" and input_ids is not None:
            real = (input_ids != self.pad_token_id).long()
            return real.cumsum(1) * real + self.pad_token_id
        first = 0 if self.position_scheme == "bert" else self.pad_token_id + 1
        return torch.arange(first, first + inputs_embeds.shape[1], device=inputs_embeds.device)[None]


class ViLBertVisionEmbeddings(nn.Module):
    """A region is its feature plus its location; dropout is at the rate of the words, as in the original."""

    def __init__(self, config: ViLBertConfig):
        super().__init__()
        vision = config.vision_config
        self.feature_projection = nn.Linear(vision.feature_size, vision.hidden_size)
        self.location_projection = nn.Linear(vision.location_size, vision.hidden_size)
        self.norm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.dropout = Dropout(config.text_config.hidden_dropout_prob)

    def forward(self, features: torch.Tensor, locations: torch.Tensor) -> torch.Tensor:
        """features [B, R, F], locations [B, R, 5], of any dtype -> [B, R, D]."""
        dtype = self.norm.weight.dtype
        embeddings = self.feature_projection(features.to(dtype)) + self.location_projection(locations.to(dtype))
        return self.dropout(self.norm(embeddings))


class ViLBertPooler(nn.Module):
    """A stream as one vector: its first position ([CLS], or the whole image), projected."""

    def __init__(self, config: ViLBertConfig, stream: Stream):
        super().__init__()
        self.dense = nn.Linear(stream.hidden_size, config.pooler_size)
        self.activation = ACT2FN[config.pooler_act]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[B, N, D] -> [B, P]."""
        return self.activation(self.dense(states[:, 0]))
