# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The command `vilbert`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer

from .conversion_vilbert import load_original
from .heads_vilbert import ViLBertForMultiTask, ViLBertTaskModel
from .image_processing_vilbert import ViLBertImageProcessor
from .modeling_vilbert import ViLBertModel
from .pretraining_vilbert import ViLBertForPreTraining
from .processing_vilbert import ViLBertProcessor


MODELS = {
    model.__name__: model
    for model in (ViLBertModel, ViLBertForPreTraining, ViLBertForMultiTask, *ViLBertTaskModel.__subclasses__())
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, 0 for success and 1 for an error that was reported."""
    parser = argparse.ArgumentParser(prog="vilbert", description="Tools for ViLBERT models.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_convert(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    # The third is what a config with a wrong value raises.
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"vilbert: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def add_convert(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "convert",
        help="turn an original checkpoint into a folder that from_pretrained loads",
        description="Turn a checkpoint of the original ViLBERT, 12-in-1, VOLTA or MMF into a folder with "
        "model.safetensors, config.json and conversion_report.txt, which says what became of every tensor.",
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="the original file of tensors (.bin, .pth, .tar)"
    )
    parser.add_argument("--config", type=Path, required=True, help="its JSON config, with the original's own fields")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--architecture",
        choices=MODELS,
        metavar="CLASS",
        help=f"class to convert for, one of {', '.join(MODELS)}; default: the one that takes most of it",
    )
    parser.add_argument("--tokenizer", help="also write a processor, with this tokenizer (a name or a folder)")
    parser.set_defaults(run=convert)


def convert(options: argparse.Namespace):
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output} is a file; give a folder.")
    # All that can fail comes before anything is written.
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer) if options.tokenizer else None
    conversion = load_original(options.checkpoint, options.config, options.architecture)
    MODELS[conversion.architecture].from_conversion(conversion).save_pretrained(options.output)
    (options.output / "conversion_report.txt").write_text(conversion.report() + "\n", encoding="utf-8")
    if tokenizer is not None:
        ViLBertProcessor(ViLBertImageProcessor(), tokenizer).save_pretrained(options.output)
    print(
        f"{conversion.architecture} in {options.output}: {len(conversion.renamed)} tensors renamed, "
        f"{len(conversion.dropped)} left out, {len(conversion.new)} new. conversion_report.txt there names each."
    )
