# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Do bfloat16, int8 weights and `torch.compile` change a model's answers? All of them side by side, in one run.

    python examples/visual_question_answering.py
    python examples/precision.py runs/visual_question_answering

It answers the test questions of easy-VQA (9,673 of them) with the saved model in every way, and prints for each: the
share of questions whose answer is that of float32, the share that are answered right, the share whose best three
answers are the same in the same order, the greatest and the mean difference of logits, the seconds, and the bytes of
the weights.
`pip install torchao` adds the rows of int8, `--compile` those of compiled models.
"""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from transformers import AutoConfig, AutoProcessor, set_seed
from visual_question_answering import SOURCE, Collator, folder, positive_int, read_split

from modeling_vilbert import ViLBertForQuestionAnswering


def load(path: Path, **options) -> ViLBertForQuestionAnswering:
    return ViLBertForQuestionAnswering.from_pretrained(path, attn_implementation="eager", **options).eval()


def int8(path: Path, activations: bool = False) -> ViLBertForQuestionAnswering:
    """Weights of the linear layers in int8, one scale a row; with `activations` these too, as they come."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = (Int8DynamicActivationInt8WeightConfig if activations else Int8WeightOnlyConfig)()
    return load(path, quantization_config=TorchAoConfig(config))


def ways(path: Path, compiled: bool) -> dict[str, Callable]:
    """Name -> what makes the model, and whether autocast is around it."""
    ways = {
        "float32": (lambda: load(path, dtype=torch.float32), False),
        "bfloat16 by autocast": (lambda: load(path, dtype=torch.float32), True),
        "bfloat16": (lambda: load(path, dtype=torch.bfloat16), False),
    }
    if compiled:
        for dtype in ("float32", "bfloat16"):
            make = partial(load, path, dtype=dtype)
            ways[f"{dtype}, compiled"] = (lambda make=make: torch.compile(make(), dynamic=True), False)
    if importlib.util.find_spec("torchao"):
        ways["int8 weights"] = (lambda: int8(path), False)
        ways["int8 weights and activations"] = (lambda: int8(path, activations=True), False)
    return ways


@torch.inference_mode()
def answer(model: torch.nn.Module, autocast: bool, batches: list[dict]) -> tuple[torch.Tensor, float]:
    """The logits of all batches [N, L], and the seconds that they took, without a first batch to warm up."""
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        # Two of unlike sizes, so that compilation is over.
        for batch in (batches[0], {name: value[:3] for name, value in batches[-1].items()}):
            model(**batch)
        started = time.perf_counter()
        logits = [model(**batch).logits.float() for batch in batches]
        return torch.cat(logits), time.perf_counter() - started


def megabytes(model: torch.nn.Module) -> float:
    """Of its weights, as they are held."""

    def size(tensor: torch.Tensor) -> int:
        # A quantized weight is several tensors.
        inner = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else []
        return sum(size(getattr(tensor, name)) for name in inner) if inner else tensor.nbytes

    return sum(map(size, model.parameters())) / 1e6


def main():
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=folder, help="a folder that visual_question_answering.py has saved")
    parser.add_argument("--cache", type=folder, default=str(caches / "modeling_vilbert"), help="folder of the features")
    parser.add_argument("--questions", type=positive_int, help="only so many")
    parser.add_argument("--batch-size", type=positive_int, default=256)
    parser.add_argument("--compile", action="store_true", help="also compiled, which takes a minute or more")
    options = parser.parse_args()

    set_seed(0)
    source = AutoConfig.from_pretrained(options.model).vision_config.feature_source
    if source != SOURCE:
        parser.error(f"the model reads features of {source!r}, not of {SOURCE!r}: train it anew.")
    processor = AutoProcessor.from_pretrained(options.model)
    # A few questions are about the images that a main example which was cut short has made features of.
    few = options.questions is not None and options.questions <= 256
    examples = read_split("test", options.cache, 32 if few else None)[: options.questions]
    collator = Collator(processor)
    batches = [collator(examples[i : i + options.batch_size]) for i in range(0, len(examples), options.batch_size)]
    labels = torch.cat([batch.pop("labels") for batch in batches])

    print(f"{len(examples)} questions, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    columns = f"{'same answer':>12}{'right':>9}{'same best 3':>13}{'logits differ by':>22}{'seconds':>9}{'weights':>10}"
    print(f"{'':<30}{columns}")
    exact = model = None
    for name, (make, autocast) in ways(options.model, options.compile).items():
        del model
        model = make()
        logits, seconds = answer(model, autocast, batches)
        exact = logits if exact is None else exact
        same = (logits.argmax(-1) == exact.argmax(-1)).float().mean().item()
        right = (logits.argmax(-1) == labels).float().mean().item()
        ranks = (logits.topk(3).indices == exact.topk(3).indices).all(-1).float().mean().item()
        difference = (logits - exact).abs()
        differs = f"{difference.max().item():.1e} (mean {difference.mean().item():.0e})"
        cells = f"{same:>12.2%}{right:>9.2%}{ranks:>13.2%}{differs:>22}{seconds:>9.1f}{megabytes(model):>7.1f} MB"
        print(f"{name:<30}{cells}", flush=True)


if __name__ == "__main__":
    main()
