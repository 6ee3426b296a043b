# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Pre-train ViLBERT on captions: masked words, masked regions, and whether text and image belong together.

    pip install ".[examples]"
    python examples/pretrain.py                                     # on composed scenes, in minutes on two CPU cores
    python examples/pretrain.py --captions captions.json --regions STORE --text_model bert-base-uncased

1. Captions: files of caption retrieval, Karpathy's JSON or 12-in-1's lines (`--layout coco` or `flickr30k`, which find
   an image by its number or by the name of its file), or {image id: caption or captions} (`--layout plain`). Without
   any, scenes are composed.
2. Batches: `ViLBertPreTrainingCollator` masks and misaligns.
3. Training: `ViLBertTrainer`; all of Trainer's arguments are this script's. `accelerate launch` and `torchrun` run it
   on several processes; `--streaming` reads the captions as a stream, a part for each.
4. Then, with nothing learned about retrieval: the held-out captions are ranked with the held-out images by the
   alignment head (zero-shot retrieval).

The model, its processor and `zero_shot_retrieval.json` are in `--output_dir`.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from scenes import scene_files
from small_model import (
    LAYOUTS,
    SceneOptions,
    composed,
    of_first_images,
    parse,
    processor_of,
    read_captions_of,
    small_config,
)
from transformers import TrainingArguments, set_seed

from modeling_vilbert import (
    Regions,
    ViLBertForPreTraining,
    ViLBertPreTrainingCollator,
    ViLBertTrainer,
    join_regions,
    open_regions,
)
from modeling_vilbert.data_collators import OBJECTIVES, repeated
from modeling_vilbert.lengths import add_lengths
from modeling_vilbert.tasks import prepare_task, read_rows


@dataclass
class Options(SceneOptions):
    captions: list[str] = field(default_factory=list, metadata={"help": "caption files; default: composed scenes"})
    layout: str = field(default="coco", metadata={"choices": list(LAYOUTS), "help": "of the caption files"})
    regions: list[str] = field(default_factory=list, metadata={"help": "stores of regions of their images"})
    split: str | None = field(default=None, metadata={"help": "which rows of files of several splits"})
    model: str | None = field(
        default=None, metadata={"help": "folder of a model to go on from; default: a small new one"}
    )
    text_model: str | None = field(
        default=None, metadata={"help": "BERT or RoBERTa whose weights the words start from"}
    )
    objective: str = field(default="aligned_pairs", metadata={"choices": list(OBJECTIVES), "help": "what is predicted"})
    region_objective: str = field(default="kl", metadata={"choices": ["kl", "regression", "nce"]})
    whole_words: bool = field(default=False, metadata={"help": "mask all pieces of a word together"})
    streaming: bool = field(default=False, metadata={"help": "read captions as a stream"})
    coattention: bool = field(default=True, metadata={"help": "false: no co-attention layers"})


def new_model(options: Options, regions: Regions) -> ViLBertForPreTraining:
    """A model to begin with; a new one for such regions."""
    fields = {"region_objective": options.region_objective}
    if options.model is not None:
        return ViLBertForPreTraining.from_pretrained(options.model, **fields)
    if options.text_model is not None:
        vision = {"feature_size": regions.features.shape[1], "feature_source": regions.source}
        if regions.class_probs is not None:
            vision["num_region_classes"] = regions.class_probs.shape[1]
        return ViLBertForPreTraining.from_text_pretrained(options.text_model, vision_config=vision, **fields)
    return ViLBertForPreTraining(small_config(use_coattention=options.coattention, **fields))


def defaults_of(options: Options) -> dict[str, Any]:
    """Trainer's arguments: the paper's for real captions (8 GPUs of 64), others for a small model and a short run."""
    common = {"output_dir": "runs/pretrain", "per_device_train_batch_size": 64}
    if options.captions:
        return common | {"num_train_epochs": 10, "learning_rate": 1e-4, "adam_beta2": 0.98, "adam_epsilon": 1e-6}
    return common | {"max_steps": 1500, "learning_rate": 1e-3}


def main():
    options, arguments = parse(Options, defaults_of)
    set_seed(arguments.seed)
    if options.captions:
        if not options.regions:
            sys.exit(f"{sys.argv[0]}: --captions needs --regions, the stores of their images' regions.")
        rows = read_captions_of(options.captions, options.layout, options.split)
        store, held_out = open_regions(options.regions), None
    else:
        folder = composed(options, arguments)
        rows, held_out = (
            read_rows("retrieval_coco", *scene_files(folder, "retrieval_coco", s)) for s in ("train", "test")
        )
        store = open_regions(folder / "regions")
    model = new_model(options, store[rows[0]["image_id"]])
    processor = processor_of(options.model, options.text_model, max_regions=36)

    captions = Dataset.from_list(rows)
    if arguments.train_sampling_strategy == "group_by_length" and not options.streaming:
        captions = add_lengths(captions, processor, store, max_tokens=36)
    collator = ViLBertPreTrainingCollator(
        processor,
        captions,
        options.objective,
        options.region_objective,
        whole_words=options.whole_words,
        seed=arguments.seed,
    )
    examples = captions
    if options.streaming:
        together = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        if arguments.max_steps < 1:
            # A stream does not say where it ends.
            arguments.max_steps = max(1, round(arguments.num_train_epochs * len(captions) / together))
        passes = arguments.max_steps * together // len(captions) + 2
        examples = repeated(captions.to_iterable_dataset(num_shards=16), passes, arguments.seed)
        # Each process reads shards of its own, instead of the first one cutting batches for all.
        arguments.accelerator_config.dispatch_batches = False
    trainer = ViLBertTrainer(model, arguments, collator, join_regions(examples, store), processing_class=processor)
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model()

    if held_out is not None:
        scores = zero_shot_retrieval(model, processor, held_out, store, arguments)
        if trainer.is_world_process_zero():
            (Path(arguments.output_dir) / "zero_shot_retrieval.json").write_text(json.dumps(scores, indent=2) + "\n")
            print("Zero-shot retrieval of unseen combinations:")
            for name, value in scores.items():
                print(f"  {name:<32}{value:8.3f}")


def zero_shot_retrieval(
    model: ViLBertForPreTraining, processor, captions: list[dict], store, arguments: TrainingArguments
) -> dict[str, float]:
    """Rank the captions of the first hundred images with these images."""
    captions = of_first_images(captions)
    data = prepare_task("retrieval_coco", processor, None, evaluation=captions, evaluation_regions=store)
    arguments.per_device_eval_batch_size = 4
    ranker = ViLBertTrainer(
        model.as_retrieval(),
        arguments,
        data.collator,
        eval_dataset=data.evaluation,
        compute_metrics=data.compute_metrics,
    )
    metrics = ranker.evaluate(metric_key_prefix="test")
    return {name.removeprefix("test_"): value for name, value in metrics.items() if "text" in name} | {
        "images": len(data.evaluation.images),
        "chance of text_to_image R@1": 1 / len(data.evaluation.images),
    }


if __name__ == "__main__":
    main()
