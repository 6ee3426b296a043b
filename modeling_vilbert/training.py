# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What Transformers' `Trainer` lacks for ViLBERT: losses that are means over unequal counts."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from .data_collators import Batch, SampleDraws
from .heads_vilbert import IGNORE
from .image_processing_vilbert import check_features, is_regions
from .lengths import REGIONS, TOKENS, LikeLengthSampler
from .model_card_vilbert import training_card
from .modeling_vilbert import ViLBertPreTrainedModel


def loss_counts(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """How many items each loss of a batch is a mean of, by the loss's name in the output of the model.

    For pre-training, predicted words, predicted regions and pairs; for a task, examples that have a label.
    """
    labels, masked, aligned = (batch.get(name) for name in ("labels", "masked_regions", "alignment_labels"))
    if masked is None and aligned is None:
        known = labels != IGNORE
        # Soft scores are of an example.
        return {"loss": (known.any(-1) if labels.is_floating_point() and labels.dim() > 1 else known).sum()}
    counts = {}
    if labels is not None:
        counts["mlm_loss"] = (labels != IGNORE).sum()
    if masked is not None:
        mask = batch.get("region_attention_mask")
        counts["region_loss"] = (masked if mask is None else masked & mask.bool()).sum()
    if aligned is not None:
        counts["alignment_loss"] = (aligned != IGNORE).sum()
    return counts


class ViLBertTrainer(Trainer):
    """`Trainer` for ViLBERT: a step's loss is a mean over all its items, whatever batches and processes they lie in.

    Trainer averages the means of the batches that make a step (accumulated, or on several processes). Where they hold
    unequally many items, as masked words and regions always do, that is another loss than that of one large batch.
    Here 4 accumulated batches of 2 give the step of one batch of 8, and so do 2 processes of 4.

    With `train_sampling_strategy="group_by_length"` batches hold texts of like lengths about images of like numbers of
    regions, as the columns of `add_lengths` say; evaluation keeps the order of its examples.

    Otherwise it is Trainer. A collator that draws by epoch (`SampleDraws`) is told the epoch. If the first example has
    `regions`, `check_features` compares them with the model's config.

    Args:
        model, args, data_collator, *arguments, **settings: as of Trainer.
        head_learning_rate: of what is not the trunk; 12-in-1's is 1e-4. Default: that of all.

    Raises:
        ValueError: for `label_smoothing_factor`, which the losses of these models do not have.
    """

    def __init__(
        self,
        model=None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        *arguments,
        head_learning_rate: float | None = None,
        **settings,
    ):
        args = TrainingArguments() if args is None else args
        if args.label_smoothing_factor:
            raise ValueError(f"label_smoothing_factor must be 0, got {args.label_smoothing_factor}.")
        # Collators read columns that models do not.
        args.remove_unused_columns = False
        if args.ddp_find_unused_parameters is None:
            # Heads that are not asked and states that no score reads have no gradient.
            args.ddp_find_unused_parameters = True
        self.head_learning_rate = head_learning_rate
        super().__init__(model, args, data_collator, *arguments, **settings)
        self._check_features(self.train_dataset)
        if isinstance(data_collator, SampleDraws) and data_collator not in self.callback_handler.callbacks:
            self.add_callback(data_collator)
        # What was lost on words, regions and alignment since it was last told.
        self._parts: Counter = Counter()
        # The losses are divided by what the whole step holds, so that Trainer need not divide them.
        self.model_accepts_loss_kwargs = True

    def _check_features(self, dataset: Any):
        """Whether the regions of the first example are such as the model reads; streams have no first one."""
        if isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "__getitem__"):
            return
        first = dataset[0] if hasattr(dataset, "__len__") and len(dataset) else None
        regions = first.get("regions") if isinstance(first, Mapping) else None
        # Collators of one's own may mean anything by the name.
        regions = [regions] if is_regions(regions) else regions
        if isinstance(regions, list) and all(map(is_regions, regions)) and hasattr(self.model, "config"):
            check_features(regions, self.model.config)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made and self.head_learning_rate is not None:
            named = (self.model if model is None else model).named_parameters()
            # Wrappers put their own names in front.
            heads = {id(value) for name, value in named if ".vilbert." not in f".{name}"}
            for group in list(optimizer.param_groups):
                of_heads = [value for value in group["params"] if id(value) in heads]
                group["params"] = [value for value in group["params"] if id(value) not in heads]
                if of_heads:
                    optimizer.add_param_group({**group, "params": of_heads, "lr": self.head_learning_rate})
        return optimizer

    def _get_train_sampler(self, train_dataset=None) -> torch.utils.data.Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        if not {TOKENS, REGIONS} <= set(getattr(dataset, "column_names", None) or ()):
            raise ValueError(
                f'train_sampling_strategy="group_by_length" needs a datasets.Dataset with the columns {TOKENS} and '
                f"{REGIONS}, got {type(dataset).__name__}: lengths.add_lengths makes them."
            )
        lengths = dataset.with_format(None)
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LikeLengthSampler(lengths[TOKENS], lengths[REGIONS], together, self.args.seed)

    def _get_eval_sampler(self, eval_dataset) -> torch.utils.data.Sampler | None:
        # Sorted by lengths, predictions would be of other rows than they are taken for: none is the data's own order.
        by_length = self.args.train_sampling_strategy == "group_by_length"
        return None if by_length else super()._get_eval_sampler(eval_dataset)

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> dict | None:
        """The counts of all batches of a step, on all processes."""
        if not batch_samples or not {"labels", "masked_regions", "alignment_labels"} & batch_samples[0].keys():
            return None
        every = [loss_counts(batch) for batch in batch_samples]
        names = list(every[0])
        counts = torch.stack([torch.stack([counts[name].to(device) for name in names]) for counts in every]).sum(0)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, "sum")
        return dict(zip(names, counts))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch: dict | None = None):
        outputs = model(**inputs)
        if num_items_in_batch is None:
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]
        # Gradients are averaged over processes.
        parts = {
            name: self.args.world_size * outputs[name] * count / num_items_in_batch[name].clamp(min=1)
            for name, count in loss_counts(inputs).items()
        }
        if model.training and len(parts) > 1:
            self._parts.update({name: part.detach() for name, part in parts.items()})
        loss = sum(parts.values())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *arguments, **settings):
        """As in Trainer; with the loss of pre-training, what it is the sum of."""
        if "loss" in logs and self._parts:
            totals = {name: self.accelerator.reduce(total, "mean").item() for name, total in self._parts.items()}
            whole = sum(totals.values()) or 1.0
            logs |= {name: logs["loss"] * total / whole for name, total in totals.items()}
            self._parts.clear()
        super().log(logs, *arguments, **settings)

    def create_model_card(self, *, model_name: str | None = None, **facts):
        """Write `README.md` into `output_dir`: a `model_card` with what the last evaluations measured.

        `push_to_hub` calls it and takes the same facts.

        Args:
            model_name: by which others load it. The repository's id goes before it. Default: the folder's name.
            **facts: as Trainer takes them (`dataset`, `license`, ...), or further arguments of `model_card`.
        """
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if not isinstance(model, ViLBertPreTrainedModel):
            # An adapter around it has a card of its own.
            super().create_model_card(model_name=model_name, **facts)
        elif self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            name = self.hub_model_id or self.args.hub_model_id or model_name or folder.resolve().name
            best_step = self.state.best_global_step if self.args.load_best_model_at_end else None
            training_card(model, name, self.state.log_history, best_step, **facts).save(folder / "README.md")
