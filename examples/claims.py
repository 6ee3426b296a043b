# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The ViLBERT paper's claims, measured small: does pre-training help, does co-attention, do two streams?

    pip install ".[examples]"
    python examples/claims.py --output runs/claims              # three seeds, about an hour on two CPU cores
    python examples/claims.py --max-steps 2 --seeds 0           # to see that all runs

All variants read the same composed scenes, take equally many steps with the same batches, and have the same heads; only
what is between differs. They are pre-trained on captions, which are then ranked without further training
(zero-shot), and fine-tuned on questions, referring expressions and retrieval. What is tested are combinations of shape,
colour and relation that no training text has.

`--output` gets a JSON file for each variant and seed (what is there is not computed again), `table.md` with means and
standard deviations over seeds, and `claims.png`.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from datasets import Dataset
from scenes import compose, scene_files
from small_model import new_processor, of_first_images, small_config
from torch import nn
from transformers import TrainingArguments, VisualBertConfig, VisualBertModel, set_seed

from modeling_vilbert import (
    ViLBertConfig,
    ViLBertForPreTraining,
    ViLBertPreTrainingCollator,
    ViLBertTrainer,
    join_regions,
    open_regions,
)
from modeling_vilbert.modeling_vilbert import ViLBertModelOutput
from modeling_vilbert.tasks import MODELS, TASKS, labels_of, prepare_task, read_rows


PRETRAINING_STEPS, STEPS, LEARNING_RATE = 600, 200, 1e-3
# Pairs of text and image in a batch, and test scenes whose captions are ranked.
PAIRS, RANKED = 64, 100
TRANSFER = {"vqa": "questions", "refcoco+": "expressions", "retrieval_coco": "retrieval R@1"}
ZERO_SHOT = "zero-shot R@1"


class SingleStream(nn.Module):
    """VisualBERT in the place of ViLBERT's trunk: words and regions in one sequence, one encoder for both.

    As many layers as a word passes through in ViLBERT, so that both compute about equally much. Locations, which
    VisualBERT does not read, are given to it as part of the features.
    """

    def __init__(self, config: ViLBertConfig):
        super().__init__()
        text, vision = config.text_config, config.vision_config
        layers = text.num_hidden_layers + len(config.text_coattention_layers)
        self.bert = VisualBertModel(
            VisualBertConfig(
                vocab_size=text.vocab_size,
                hidden_size=text.hidden_size,
                visual_embedding_dim=vision.feature_size + vision.location_size,
                num_hidden_layers=layers,
                num_attention_heads=text.num_attention_heads,
                intermediate_size=text.intermediate_size,
                hidden_dropout_prob=text.hidden_dropout_prob,
                attention_probs_dropout_prob=text.attention_probs_dropout_prob,
                initializer_range=config.initializer_range,
            ),
            add_pooling_layer=False,
        )
        self.text_pooler, self.vision_pooler = (
            nn.Sequential(nn.Linear(text.hidden_size, config.pooler_size), nn.ReLU()) for _ in range(2)
        )

    def forward(
        self,
        input_ids,
        attention_mask,
        region_features,
        region_locations,
        region_attention_mask,
        token_type_ids=None,
        **kwargs,
    ) -> ViLBertModelOutput:
        states = self.bert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            visual_embeds=torch.cat([region_features, region_locations], -1),
            visual_attention_mask=region_attention_mask,
        ).last_hidden_state
        words, regions = states.split([input_ids.shape[1], region_features.shape[1]], 1)
        return ViLBertModelOutput(
            text_last_hidden_state=words,
            vision_last_hidden_state=regions,
            text_pooler_output=self.text_pooler(words[:, 0]),
            vision_pooler_output=self.vision_pooler(regions[:, 0]),
        )


def two_streams(**fields) -> Callable[[nn.Module], None]:
    """A change of nothing but the config."""

    def build(model_class: type, **more):
        return model_class(small_config(**fields, **more))

    return build


def single_stream(model_class: type, **more):
    model = model_class(small_config(**more))
    model.vilbert = SingleStream(model.config)
    if model_class is ViLBertForPreTraining:
        model.text_head.decoder.weight = model.vilbert.bert.embeddings.word_embeddings.weight
    return model


# Name -> how to build a model of a class, and whether it is pre-trained.
VARIANTS = {
    "ViLBERT": (two_streams(), True),
    "not pre-trained": (two_streams(), False),
    "one co-attention": (two_streams(text_coattention_layers=[1], vision_coattention_layers=[0]), True),
    "no co-attention": (two_streams(use_coattention=False), True),
    "single stream": (single_stream, True),
}


def arguments(folder: Path, steps: int, seed: int, pairs_per_example: int = 1) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=PAIRS // pairs_per_example,
        per_device_eval_batch_size=max(256 // pairs_per_example, 1),
        learning_rate=LEARNING_RATE,
        weight_decay=0.01,
        warmup_steps=0.1,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        logging_steps=100,
    )


class Claims:
    """The data, and what is measured on them for one variant and seed."""

    def __init__(self, scenes: Path, output: Path, max_steps: int | None):
        train, test = (40, 12) if max_steps else (3000, 200)
        self.folder = compose(scenes / f"{train}-{test}", train=train, val=test, test=test, seed=0)
        self.output, self.max_steps = output, max_steps
        self.processor, self.store = new_processor(), open_regions(self.folder / "regions")

    def rows(self, task: str, split: str) -> list[dict]:
        rows = read_rows(task, *scene_files(self.folder, task, split))
        if split == "test" and TASKS[task].head == "matching":
            rows = of_first_images(rows, RANKED)
        return rows

    def steps(self, wanted: int) -> int:
        return min(wanted, self.max_steps or wanted)

    def run(self, variant: str, seed: int) -> dict:
        """Pre-train and fine-tune a variant, and measure it."""
        build, pretrained = VARIANTS[variant]
        started = time.perf_counter()
        set_seed(seed)
        model = build(ViLBertForPreTraining)
        scores = {}
        if pretrained:
            self.pretrain(model, seed)
            scores[ZERO_SHOT] = self.zero_shot(model, seed)
        for task, title in TRANSFER.items():
            scores[title] = self.transfer(build, model, task, seed)
        return {
            "variant": variant,
            "seed": seed,
            "scores": scores,
            "parameters": sum(value.numel() for value in model.vilbert.parameters()),
            "seconds": round(time.perf_counter() - started, 1),
            "threads": torch.get_num_threads(),
        }

    def pretrain(self, model: ViLBertForPreTraining, seed: int):
        captions = Dataset.from_list(self.rows("retrieval_coco", "train"))
        collator = ViLBertPreTrainingCollator(self.processor, captions, "aligned_pairs", seed=seed)
        settings = arguments(self.output, self.steps(PRETRAINING_STEPS), seed)
        ViLBertTrainer(model, settings, collator, join_regions(captions, self.store)).train()

    def zero_shot(self, model: ViLBertForPreTraining, seed: int) -> float:
        data = prepare_task(
            "retrieval_coco", self.processor, None, None, None, self.rows("retrieval_coco", "test"), self.store
        )
        return self.measure(model.as_retrieval(), data, arguments(self.output, 0, seed, 50))

    def transfer(self, build: Callable, pretrained: ViLBertForPreTraining, task: str, seed: int) -> float:
        train, test = self.rows(task, "train"), self.rows(task, "test")
        labels = labels_of(task, train)
        data = prepare_task(task, self.processor, labels, train, self.store, test, self.store, seed=seed)
        set_seed(seed)
        model = build(MODELS[TASKS[task].head], id2label=dict(enumerate(labels or ["score"])))
        model.vilbert.load_state_dict(pretrained.vilbert.state_dict())
        is_retrieval = TASKS[task].head == "matching"
        settings = arguments(self.output, self.steps(STEPS), seed, 4 if is_retrieval else 1)
        ViLBertTrainer(model, settings, data.collator, data.train).train()
        return self.measure(model, data, arguments(self.output, 0, seed, 50 if is_retrieval else 1))

    @staticmethod
    def measure(model: nn.Module, data, settings: TrainingArguments) -> float:
        """The first of the task's metrics."""
        found = data.measure(ViLBertTrainer(model, settings, data.collator).predict(data.evaluation))
        return next(iter(found.values()))


def report(results: list[dict], output: Path, chance: float):
    """A table and a plot of means and standard deviations over seeds."""
    columns = [*TRANSFER.values(), ZERO_SHOT]
    lines = [f"| variant | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    figure, panels = plt.subplots(1, len(columns), figsize=(3.4 * len(columns), 3.2), sharey=True, layout="constrained")
    variants = [variant for variant in VARIANTS if any(one["variant"] == variant for one in results)]
    for variant in variants:
        cells = []
        for panel, column in zip(panels, columns, strict=True):
            found = [one["scores"][column] for one in results if one["variant"] == variant and column in one["scores"]]
            if not found:
                cells.append("")
                continue
            mean, spread = np.mean(found), np.std(found, ddof=1) if len(found) > 1 else 0.0
            cells.append(f"{100 * mean:.1f} ± {100 * spread:.1f}")
            panel.barh(variant, 100 * mean, xerr=100 * spread, color="#2a7f62" if variant == "ViLBERT" else "#c3c8cf")
            panel.scatter([100 * one for one in found], [variant] * len(found), s=9, color="#1f2430", zorder=3)
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    for panel, column in zip(panels, columns, strict=True):
        panel.set(title=column, xlim=(0, 100), xlabel="%")
        panel.spines[["top", "right"]].set_visible(False)
        if "R@1" in column:
            panel.axvline(100 * chance, color="#b4552d", linewidth=1, linestyle="--")
            panel.text(100 * chance + 1, len(variants) - 0.45, "chance", color="#b4552d", fontsize=8, va="bottom")
    panels[0].invert_yaxis()
    (output / "table.md").write_text("\n".join(lines) + "\n")
    figure.savefig(output / "claims.png", dpi=110)
    print("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/claims"))
    parser.add_argument("--scenes", type=Path, default=Path("runs/scenes"), help="folder of the composed scenes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, help="stop so early, with few scenes: to see that all runs")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    claims = Claims(options.scenes, options.output, options.max_steps)

    results = []
    for seed in options.seeds:
        for variant in VARIANTS:
            # What a run that was cut short has found is no result.
            steps = f"-{options.max_steps}_steps" * bool(options.max_steps)
            file = options.output / f"{variant.replace(' ', '_')}-{seed}{steps}.json"
            if not file.exists():
                unfinished = file.with_suffix(".new")
                unfinished.write_text(json.dumps(claims.run(variant, seed), indent=2) + "\n")
                unfinished.replace(file)
            results.append(json.loads(file.read_text()))
    images = len({row["image_id"] for row in claims.rows("retrieval_coco", "test")})
    report(results, options.output, 1 / images)
    if options.max_steps:
        print("This run was cut short by --max-steps: its numbers mean nothing.")


if __name__ == "__main__":
    main()
