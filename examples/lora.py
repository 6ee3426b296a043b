# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Adapt a pre-trained ViLBERT to a task with few trained weights (LoRA): which of its streams is it worth adapting?

    pip install ".[examples]"
    python examples/pretrain.py && python examples/lora.py --model runs/pretrain --task refcoco+

The same task is learned with the head alone, with low-rank updates (PEFT) of one kind of layers, of all, and with all
weights. `--output` gets `lora.md`, a table of trained weights and test scores on composed scenes.
"""

import argparse
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from scenes import compose, scene_files
from transformers import AutoProcessor, TrainingArguments, set_seed

from modeling_vilbert import ViLBertTrainer, open_regions
from modeling_vilbert.tasks import MODELS, TASKS, labels_of, prepare_task, read_rows


LINEAR = r"(query|key|value|output|intermediate)"
# What is adapted -> the names of its linear layers; None adapts no layer, "" trains all weights.
ADAPTED = {
    "the head alone": None,
    "text layers": rf".*encoder\.text_layers\..*\.{LINEAR}",
    "vision layers": rf".*encoder\.vision_layers\..*\.{LINEAR}",
    "co-attention layers": rf".*encoder\.coattention_layers\..*\.{LINEAR}",
    "all layers": rf".*encoder\..*\.{LINEAR}",
    "all weights, without LoRA": "",
}


def adapted(model: torch.nn.Module, layers: str | None, rank: int) -> torch.nn.Module:
    if layers == "":
        return model
    if layers is None:
        model.vilbert.requires_grad_(False)
        return model
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, modules_to_save=["head"])
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a pre-trained model")
    parser.add_argument("--task", choices=list(TASKS), default="refcoco+")
    parser.add_argument("--output", type=Path, default=Path("runs/lora"))
    parser.add_argument("--scenes", type=Path, default=Path("runs/scenes"), help="folder of the composed scenes")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()

    train, test = (40, 12) if options.steps < 20 else (2000, 200)
    folder = compose(options.scenes / f"{train}-{test}", train=train, val=test, test=test, seed=0)
    rows = {split: read_rows(options.task, *scene_files(folder, options.task, split)) for split in ("train", "test")}
    given = TASKS[options.task].given_boxes
    store = open_regions([folder / "regions", folder / "objects"] if given else folder / "regions")
    labels = labels_of(options.task, rows["train"])
    processor = AutoProcessor.from_pretrained(options.model)
    data = prepare_task(options.task, processor, labels, rows["train"], store, rows["test"], store)

    lines = ["| adapted | trained weights | score |", "|---|---|---|"]
    for name, layers in ADAPTED.items():
        scores = []
        for seed in options.seeds:
            set_seed(seed)
            model = MODELS[TASKS[options.task].head].from_pretrained(
                options.model, id2label=dict(enumerate(labels or ["score"])), ignore_mismatched_sizes=True
            )
            model = adapted(model, layers, options.rank)
            arguments = TrainingArguments(
                output_dir=str(options.output),
                max_steps=options.steps,
                per_device_train_batch_size=64,
                per_device_eval_batch_size=256,
                # Few weights take larger steps.
                learning_rate=1e-3 if layers == "" else 3e-3,
                warmup_steps=0.1,
                seed=seed,
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
                save_strategy="no",
            )
            trainer = ViLBertTrainer(model, arguments, data.collator, data.train)
            trainer.train()
            found = data.measure(trainer.predict(data.evaluation))
            scores.append(next(iter(found.values())))
        trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
        mean, spread = torch.tensor(scores).mean().item(), torch.tensor(scores).std().item() if len(scores) > 1 else 0.0
        lines.append(f"| {name} | {trained:,} | {100 * mean:.1f} ± {100 * spread:.1f} |")
        print(lines[-1])
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "lora.md").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
