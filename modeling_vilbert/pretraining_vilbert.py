# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Pre-training of ViLBERT: masked words, masked regions, alignment of text and image.

Sources: Lu et al., "ViLBERT", NeurIPS 2019, section 3.2; Lu et al., "12-in-1", CVPR 2020, section 3.1.

Shapes: B batch, T tokens, R regions, V vocabulary, C region classes (or the feature size), F feature size, M masked
positions.
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
from .heads_vilbert import (
    IGNORE,
    ViLBertForImageAndTextRetrieval,
    ViLBertFusion,
    ViLBertMatchingHead,
    check_classes,
    class_loss,
)
from .modeling_vilbert import ViLBertModel, ViLBertPreTrainedModel, ViLBertStreamOutput


class ViLBertPredictionHead(nn.Module):
    """What a masked position held: a transform, then a decoder."""

    def __init__(self, size: int, activation: str, eps: float, output_size: int):
        super().__init__()
        self.dense = nn.Linear(size, size)
        self.activation = ACT2FN[activation]
        self.norm = nn.LayerNorm(size, eps=eps)
        self.decoder = nn.Linear(size, output_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[..., D] -> [..., V] or [..., C]"""
        return self.decoder(self.norm(self.activation(self.dense(states))))


@dataclass
class _PreTrainingFields(ModelOutput):
    loss: torch.Tensor | None = None
    prediction_logits: torch.Tensor | None = None
    region_logits: torch.Tensor | None = None
    alignment_logits: torch.Tensor | None = None
    mlm_loss: torch.Tensor | None = None
    region_loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None


@dataclass
class ViLBertForPreTrainingOutput(ViLBertStreamOutput, _PreTrainingFields):
    """Output of `ViLBertForPreTraining`; beside the fields of `ViLBertStreamOutput`:

    Args:
        loss: the sum of the losses whose labels are given.
        prediction_logits: [B, T, V]; with `labels`, only those at the M predicted positions, [M, V].
        region_logits: [B, R, C], class logits, or features where the objective is "regression" or "nce".
        alignment_logits: [B, 2], of 0 (the text belongs to the image) and 1 (it does not).
        mlm_loss: mean over the predicted words.
        region_loss: mean over the masked regions.
        alignment_loss: mean over the batch.
    """


class ViLBertForPreTraining(ViLBertPreTrainedModel):
    r"""ViLBERT with its three pre-training heads: masked words, masked regions, alignment of text and image.

    Every loss is 0 where there is nothing to predict.

    Example:

    ```python
    >>> import torch
    >>> from modeling_vilbert import ViLBertConfig, ViLBertForPreTraining
    >>> small = {"num_hidden_layers": 1}
    >>> model = ViLBertForPreTraining(ViLBertConfig(text_config=small, vision_config=small))
    >>> words, regions = torch.ones(2, 4, dtype=torch.long), torch.rand(2, 3, 2048)
    >>> labels = torch.tensor([[-100, 2054, -100, -100], [-100, -100, -100, -100]])
    >>> outputs = model(words, region_features=regions, region_locations=torch.rand(2, 3, 5), labels=labels)
    >>> outputs.prediction_logits.shape, outputs.alignment_logits.shape
    (torch.Size([1, 30522]), torch.Size([2, 2]))

    ```
    """

    _tied_weights_keys = {"text_head.decoder.weight": "vilbert.text_embeddings.word_embeddings.weight"}

    def __init__(self, config: ViLBertConfig):
        super().__init__(config)
        text, vision = config.text_config, config.vision_config
        targets = vision.num_region_classes if config.region_objective == "kl" else vision.feature_size
        self.vilbert = ViLBertModel(config)
        self.text_head = ViLBertPredictionHead(text.hidden_size, text.hidden_act, text.layer_norm_eps, text.vocab_size)
        # The text's activation serves the regions' head too, as in the original.
        self.region_head = ViLBertPredictionHead(vision.hidden_size, text.hidden_act, vision.layer_norm_eps, targets)
        self.fusion = ViLBertFusion(config)
        self.alignment_head = nn.Linear(config.pooler_size, 2)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.text_head.decoder

    def set_output_embeddings(self, value: nn.Linear):
        self.text_head.decoder = value

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
        labels: torch.LongTensor | None = None,
        region_targets: torch.FloatTensor | None = None,
        masked_regions: torch.Tensor | None = None,
        alignment_labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ViLBertForPreTrainingOutput:
        """
        Inputs as those of `ViLBertModel.forward`, and:

        Args:
            labels: [B, T], the true ids of the words to predict, -100 elsewhere.
            region_targets: [B, R, C], what every region was before masking: class distributions for the objective
                "kl", features for "regression" and "nce".
            masked_regions: [B, R] bool, true at the regions to predict; given together with `region_targets`.
            alignment_labels: [B], 0 where the text belongs to the image, 1 where it does not, -100 to leave out.
        """
        words = input_ids if input_ids is not None else inputs_embeds
        if words is not None and region_features is not None:
            shapes = tuple(words.shape[:2]), tuple(region_features.shape[:2])
            self._check_labels(*shapes, labels, region_targets, masked_regions, alignment_labels)
        outputs = self.vilbert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            task_ids=task_ids,
            region_features=region_features,
            region_locations=region_locations,
            region_attention_mask=region_attention_mask,
            co_attention_mask=co_attention_mask,
            return_dict=True,
            **kwargs,
        )
        text, vision = outputs.text_last_hidden_state, outputs.vision_last_hidden_state
        mlm_loss = region_loss = alignment_loss = None

        if labels is not None:
            if task_ids is not None:
                labels = torch.cat([labels[:, :1], torch.full_like(labels[:, :1], IGNORE), labels[:, 1:]], 1)
            # The vocabulary is by far the widest layer: only words that are predicted meet it.
            predicted = labels != IGNORE
            text, labels = text[predicted], labels[predicted]
        prediction_logits = self.text_head(text)
        if labels is not None:
            mlm_loss = class_loss(prediction_logits, labels)

        region_logits = self.region_head(vision)
        if region_targets is not None:
            region_loss = self.region_loss(region_logits, region_targets, masked_regions, region_attention_mask)

        alignment_logits = self.alignment_head(self.fusion(outputs))
        if alignment_labels is not None:
            alignment_loss = class_loss(alignment_logits, alignment_labels.view(-1))

        losses = [loss for loss in (mlm_loss, region_loss, alignment_loss) if loss is not None]
        return ViLBertForPreTrainingOutput(
            loss=sum(losses) if losses else None,
            prediction_logits=prediction_logits,
            region_logits=region_logits,
            alignment_logits=alignment_logits,
            mlm_loss=mlm_loss,
            region_loss=region_loss,
            alignment_loss=alignment_loss,
            **outputs.streams(),
        )

    def as_retrieval(self) -> ViLBertForImageAndTextRetrieval:
        """A retrieval model with the same trunk, not a copy, whose score is what alignment was trained to say.

        It ranks without any training for retrieval (zero-shot: Lu et al., 2019, section 4). The score is the difference
        of both alignment logits, so that its sigmoid is the probability that text and image belong together.

        Raises:
            ValueError: if the alignment head has an adapter (PEFT), which has to be merged into it.

        Example:

        ```python
        >>> import torch
        >>> from modeling_vilbert import ViLBertConfig, ViLBertForPreTraining
        >>> small = {"num_hidden_layers": 1}
        >>> model = ViLBertForPreTraining(ViLBertConfig(text_config=small, vision_config=small)).eval()
        >>> pairs = {"input_ids": torch.ones(2, 4, dtype=torch.long), "region_features": torch.rand(2, 3, 2048)}
        >>> pairs["region_locations"] = torch.rand(2, 3, 5)
        >>> model.as_retrieval()(**pairs).logits.shape
        torch.Size([2, 1])

        ```
        """
        if not isinstance(self.alignment_head, nn.Linear):
            raise ValueError(
                f"alignment_head must be a Linear of torch, got {type(self.alignment_head)}. If it has an adapter, use "
                "what PeftModel.merge_and_unload() returns."
            )
        with torch.device("meta"):
            model = ViLBertForImageAndTextRetrieval(copy.deepcopy(self.config))
        head = ViLBertMatchingHead(self.config).to(self.alignment_head.weight)
        with torch.no_grad():
            for name, value in self.alignment_head.named_parameters():
                if hasattr(value, "__tensor_flatten__"):
                    # Quantized weights are for multiplying only.
                    value = value.dequantize()
                getattr(head.classifier, name).copy_(value[:1] - value[1:])
        model.vilbert, model.head = self.vilbert, head
        return model.train(self.training)

    def region_loss(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        masked: torch.Tensor,
        region_attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """logits and targets [B, R, C], masked [B, R] -> the mean loss over the M masked regions, 0 without any."""
        if region_attention_mask is not None:
            masked = masked & region_attention_mask.bool()
        predicted, true = logits[masked].float(), targets[masked].float()
        if self.config.region_objective == "kl":
            losses = F.kl_div(predicted.log_softmax(-1), true, reduction="none").sum(-1)
        elif self.config.region_objective == "regression":
            losses = F.mse_loss(predicted, true, reduction="none").mean(-1)
        else:
            losses = self.contrastive_losses(predicted, targets.float(), masked, region_attention_mask)
        return losses.sum() / masked.sum().clamp(min=1)

    def contrastive_losses(
        self,
        predicted: torch.Tensor,
        features: torch.Tensor,
        masked: torch.Tensor,
        region_attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """How well each masked region's prediction tells its own feature from others', by dot product.

        Of the others, 70 % are drawn from the batch's other images and 30 % from the same image, uniformly and among
        real regions; the whole-image region is never one. Where there are none to draw, they are left out.

        predicted [M, F], features [B, R, F], masked [B, R] -> [M]
        """
        batch, regions = features.shape[:2]
        own = masked.flatten().nonzero()[:, 0]
        if len(own) == 0:
            return predicted.sum(-1)
        every = torch.arange(batch * regions, device=features.device)
        real = every % regions != 0
        if region_attention_mask is not None:
            real = real & region_attention_mask.bool().flatten()
        same_image = every[None] // regions == own[:, None] // regions
        others = real[None] & (every[None] != own[:, None])

        features = features.flatten(0, 1)
        scores = [(predicted * features[own]).sum(-1, keepdim=True)]
        for share, pool in ((0.7, others & ~same_image), (0.3, others & same_image)):
            number = int(share * self.config.num_region_negatives)
            possible = pool.any(1, keepdim=True)
            if number and possible.any():
                drawn = torch.multinomial((pool | ~possible).float(), number, replacement=True)
                # Autocast would round products of matrices, and not the sum above.
                with torch.autocast(features.device.type, enabled=False):
                    score = torch.einsum("mf,mnf->mn", predicted, features[drawn])
                scores.append(score.masked_fill(~possible, float("-inf")))
        return -torch.cat(scores, -1).log_softmax(-1)[:, 0]

    def _check_labels(self, words, regions, labels, region_targets, masked_regions, alignment_labels):
        """Raise a ValueError unless the labels fit words [B, T] and regions [B, R]."""
        if (region_targets is None) != (masked_regions is None):
            missing = "region_targets" if region_targets is None else "masked_regions"
            raise ValueError(f"region_targets and masked_regions go together, but {missing} is missing.")
        integers = (torch.int64, torch.int32)
        for name, value, shapes, dtypes in (
            ("labels", labels, [words], integers),
            ("region_targets", region_targets, [(*regions, self.region_head.decoder.out_features)], None),
            ("masked_regions", masked_regions, [regions], (torch.bool,)),
            ("alignment_labels", alignment_labels, [words[:1], (words[0], 1)], integers),
        ):
            if value is None:
                continue
            if tuple(value.shape) not in shapes:
                raise ValueError(f"{name} must be {list(shapes[0])}, got {list(value.shape)}.")
            if dtypes is not None and value.dtype not in dtypes:
                raise ValueError(f"{name} must be of dtype {dtypes[0]}, got {value.dtype}.")
        for name, value, count in (
            ("labels", labels, self.text_head.decoder.out_features),
            ("alignment_labels", alignment_labels, 2),
        ):
            if value is not None:
                check_classes(name, value, count)
