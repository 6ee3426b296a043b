# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What `benchmark.py` measures: the ways of each part, plain loops and ours, and `WORK`, which finds them by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from benchmark_models import (
    DTYPES,
    Example,
    Sizes,
    answer_logits,
    answering_inputs,
    answering_model,
    by_length,
    collate,
    flops_by_length,
    flops_of,
    in_eager,
    in_order,
    new_model,
    random_regions,
    random_words,
    vilbert_config,
)
from torch.nn import functional as F
from transformers import BertTokenizer, PreTrainedModel

from modeling_vilbert import (
    Regions,
    ViLBertConfig,
    ViLBertForImageAndTextRetrieval,
    ViLBertForPreTraining,
    ViLBertImageProcessor,
    ViLBertProcessor,
)
from modeling_vilbert.lengths import like_lengths


@dataclass(frozen=True)
class Row:
    """One line of the table: what is measured.

    Args:
        part: one of `WORK`.
        way: a model, or how a job is done.
        dtype: one of `DTYPES`. Training in bf16 is autocast over fp32 weights; all else has bf16 weights.
        attention: "eager" or "sdpa".
        compiled: by `torch.compile`.
        count: processes, or pairs, or 0.
    """

    part: str
    way: str
    dtype: str = "fp32"
    attention: str = "sdpa"
    compiled: bool = False
    count: int = 0


@dataclass
class Work:
    """What a row runs.

    Args:
        run: does all of it once, and returns what came out.
        items: how many of `unit` that is.
        flops: the useful ones of a run; None where they are not counted.
        warm_up: a beginning of it. Default: `run`.
        before: what has to be done before each run, and is not measured.
    """

    run: Callable[[], Any]
    items: int
    unit: str
    flops: float | None = None
    warm_up: Callable[[], Any] | None = None
    before: Callable[[], Any] | None = None


# The machine


def machine(row: Row, sizes: Sizes) -> Work:
    """A linear layer, `way` being "rows x inputs x outputs"."""
    rows, inputs, outputs = map(int, row.way.split(" x "))
    states, weight = (
        torch.randn(rows, inputs, dtype=DTYPES[row.dtype]),
        torch.randn(outputs, inputs).to(DTYPES[row.dtype]),
    )
    return Work(lambda: F.linear(states, weight), 1, "product", 2 * rows * inputs * outputs)


def machine_shapes(sizes: Sizes) -> list[str]:
    """The square one, whose rate is the 100 % of all shares, and those of the model's layers."""
    shapes = [(sizes.square,) * 3]
    words, regions = sizes.batch * sizes.tokens, sizes.batch * sizes.regions
    if not sizes.small:
        shapes += [
            (words, 768, 768),
            (words, 768, 3072),
            (words, 3072, 768),
            (regions, 2048, 1024),
            (regions, 1024, 1024),
        ]
    return [" x ".join(map(str, shape)) for shape in shapes]


# Forward and training step


def dense_batch(sizes: Sizes, vocab_size: int) -> Example:
    generator = torch.Generator().manual_seed(1)
    examples = [
        {**random_words(sizes.tokens, vocab_size, generator), **random_regions(sizes.regions, sizes, generator)}
        for _ in range(sizes.batch)
    ]
    return collate(examples)


def forward(row: Row, sizes: Sizes) -> Work:
    model = answering_model(row.way, sizes, row.dtype, row.attention)
    inputs = answering_inputs(row.way, dense_batch(sizes, model.config.get_text_config().vocab_size), row.dtype)

    def run(called=model):
        with torch.inference_mode():
            return answer_logits(called(**inputs))

    flops = in_eager(model, run)
    # Weights that no longer change are stored as the products want them.
    called = torch.compile(model, options={"freezing": True}) if row.compiled else model
    return Work(lambda: run(called), sizes.batch, "example", flops)


def new_optimizer(model: PreTrainedModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def training(row: Row, sizes: Sizes) -> Work:
    """A step with dropout 0.1 on soft scores: forward, backward, AdamW."""
    model = answering_model(row.way, sizes, "fp32", row.attention).train()
    inputs = answering_inputs(row.way, dense_batch(sizes, model.config.get_text_config().vocab_size), "fp32")
    scores = torch.rand(sizes.batch, sizes.answers, generator=torch.Generator().manual_seed(2))
    optimizer = new_optimizer(model)

    def backward(called=model):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=row.dtype == "bf16"):
            logits = answer_logits(called(**inputs))
        loss = F.binary_cross_entropy_with_logits(logits.float(), scores, reduction="sum") / sizes.batch
        loss.backward()
        return loss.detach()

    def step(called):
        loss = backward(called)
        optimizer.step()
        return loss

    flops = in_eager(model, backward)
    called = torch.compile(model) if row.compiled else model
    return Work(lambda: step(called), sizes.batch, "example", flops)


# Visual question answering


def questions(sizes: Sizes, vocab_size: int) -> list[Example]:
    """Questions of 4 to 20 words, most of them short, about as many regions as a detector finds."""
    generator, lengths = torch.Generator().manual_seed(3), np.random.default_rng(3)
    words = np.clip(4 + lengths.gamma(2.0, 1.5, sizes.questions), 4, 20).astype(int) + 2
    words = np.minimum(words, sizes.tokens)
    regions = lengths.integers(*sizes.question_regions, sizes.questions, endpoint=True)
    return [
        {**random_words(int(count), vocab_size, generator), **random_regions(int(seen), sizes, generator)}
        for count, seen in zip(words, regions)
    ]


def answer(
    model: PreTrainedModel,
    examples: Sequence[Example],
    batches: Sequence[Sequence[int]],
    limits: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Logits of all examples, in their order, computed batch by batch."""
    logits = torch.empty(len(examples), model.config.num_labels)
    with torch.inference_mode():
        for numbers in batches:
            batch = collate([examples[number] for number in numbers], limits)
            logits[numbers] = model(**batch).logits.float()
    return logits


QUESTION_WAYS = ("in order, padded to the longest", "in order, padded to the limits", "sorted by lengths")


def vqa(row: Row, sizes: Sizes) -> Work:
    model = answering_model("ViLBERT", sizes, row.dtype, row.attention)
    examples = questions(sizes, model.config.text_config.vocab_size)
    ours = row.way == QUESTION_WAYS[2]
    batches = (by_length if ours else lambda some, size: in_order(len(some), size))(examples, sizes.question_batch)
    limits = (sizes.tokens, sizes.regions) if row.way == QUESTION_WAYS[1] else None

    def count(batch):
        with torch.inference_mode():
            model(**batch)

    flops = flops_of(examples, flops_by_length(model, sizes, count))
    return Work(
        lambda: answer(model, examples, batches, limits),
        len(examples),
        "question",
        flops,
        warm_up=lambda: answer(model, examples, batches[:1], limits),
    )


# Pre-training


def captions(sizes: Sizes, config: ViLBertConfig) -> list[Example]:
    """Captions of about 10 words with 10 to 36 regions; 15 % of both are masked, half of the pairs are misaligned.

    They are some batches of those that many captions fall into by like lengths, one behind another: the smallest, the
    largest, and those at even steps between.
    """
    generator, lengths = torch.Generator().manual_seed(4), np.random.default_rng(4)
    most_words, most_regions = sizes.caption_limits
    classes = config.vision_config.num_region_classes
    words = np.clip(lengths.normal(10, 4, sizes.captions).round(), 3, most_words - 2).astype(int) + 2
    regions = lengths.integers(11, most_regions, sizes.captions, endpoint=True)
    batches = like_lengths(words, regions, sizes.caption_batch)
    batches.sort(key=lambda batch: words[batch].max() + regions[batch].max())
    chosen = np.linspace(0, len(batches) - 1, sizes.caption_batches).round().astype(int)
    examples = []
    for number in np.concatenate([batches[place] for place in chosen]).tolist():
        words_here, regions_here = int(words[number]), int(regions[number])
        example = random_words(words_here, config.text_config.vocab_size, generator)
        masked_words = torch.rand(words_here, generator=generator) < 0.15
        masked_regions = torch.rand(regions_here, generator=generator) < 0.15
        examples.append(
            {
                **example,
                **random_regions(regions_here, sizes, generator),
                "labels": example["input_ids"].where(masked_words, torch.tensor(-100)),
                "region_targets": torch.rand(regions_here, classes, generator=generator).softmax(-1),
                "masked_regions": masked_regions,
                "alignment_labels": torch.randint(2, (), generator=generator),
            }
        )
    return examples


def plain_pretraining_loss(model: ViLBertForPreTraining, batch: Example) -> torch.Tensor:
    """The three losses, both decoders at all positions, as the original computes them."""
    targets = ("labels", "region_targets", "masked_regions", "alignment_labels")
    outputs = model.vilbert(**{name: value for name, value in batch.items() if name not in targets})

    word_logits = model.text_head(outputs.text_last_hidden_state)
    words = F.cross_entropy(word_logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)

    region_logits = model.region_head(outputs.vision_last_hidden_state)
    each = F.kl_div(region_logits.log_softmax(-1), batch["region_targets"], reduction="none")
    masked = batch["masked_regions"][..., None].to(each.dtype)
    regions = (each * masked).sum() / masked.sum()

    alignment = F.cross_entropy(model.alignment_head(model.fusion(outputs)), batch["alignment_labels"])
    return words + regions + alignment


def pretraining_loss(model: ViLBertForPreTraining, batch: Example) -> torch.Tensor:
    return model(**batch).loss


# All steps take as much where they are padded to the limits; of the others, the middle one is as most are.
PRETRAINING_WAYS = (
    "padded to the limits, all positions",
    "by lengths, masked positions",
    "the same, middle batch",
)


def pretraining(row: Row, sizes: Sizes) -> Work:
    """Steps through captions: forward, backward, AdamW."""
    config = vilbert_config(sizes.small, sizes.feature_size)
    model = new_model(ViLBertForPreTraining, config, "fp32", row.attention).train()
    examples, optimizer = captions(sizes, config), new_optimizer(model)
    if row.way == PRETRAINING_WAYS[2]:
        middle = sizes.caption_batches // 2 * sizes.caption_batch
        examples = examples[middle : middle + sizes.caption_batch]
    batches = in_order(len(examples), sizes.caption_batch)
    limits, loss_of = None, pretraining_loss
    if row.way == PRETRAINING_WAYS[0]:
        limits, loss_of = sizes.caption_limits, plain_pretraining_loss

    def steps(batches):
        losses = []
        for numbers in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=row.dtype == "bf16"):
                loss = loss_of(model, collate([examples[number] for number in numbers], limits))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    flops = pretraining_flops(model, sizes, examples)
    return Work(lambda: steps(batches), len(examples), "caption", flops, warm_up=lambda: steps(batches[:1]))


def pretraining_flops(model: ViLBertForPreTraining, sizes: Sizes, examples: Sequence[Example]) -> float:
    """Of forward and backward: the trunk and alignment at all real positions, both decoders at masked ones."""

    def backward(batch):
        outputs = model.vilbert(**batch)
        states = outputs.text_last_hidden_state, outputs.vision_last_hidden_state
        (model.alignment_head(model.fusion(outputs)).sum() + sum(one.sum() for one in states)).backward()
        model.zero_grad()

    flops = flops_of(examples, flops_by_length(model, sizes, backward))
    for name, head in (("labels", model.text_head), ("masked_regions", model.region_head)):
        at = sum(int((one[name] != -100).sum() if name == "labels" else one[name].sum()) for one in examples)
        # Forward, and gradients of the inputs and of the weights.
        flops += 3 * 2 * at * (head.dense.weight.numel() + head.decoder.weight.numel())
    return flops


# Retrieval

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(200))]


def new_processor() -> ViLBertProcessor:
    """A word is a token."""
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(VOCABULARY)})
    return ViLBertProcessor(ViLBertImageProcessor(), tokenizer)


def corpora(sizes: Sizes, texts: int, images: int) -> tuple[list[str], list[Regions]]:
    """Captions and the regions of images, of any lengths within the sizes."""
    generator = np.random.default_rng(5)
    words = generator.integers(*sizes.text_words, texts, endpoint=True)
    found = []
    for count in generator.integers(*sizes.image_regions, images, endpoint=True):
        corners = np.sort(generator.uniform(0, 400, (count, 2, 2)), 1).reshape(count, 4).astype(np.float32)
        found.append(Regions(corners, generator.random((count, sizes.feature_size), np.float32), (400, 400)))
    return [" ".join(generator.choice(VOCABULARY[5:], count)) for count in words], found


def plain_scores(
    model: ViLBertForImageAndTextRetrieval,
    texts: Sequence[Example],
    images: Sequence[Example],
    batch_size: int,
    limits: tuple[int, int] | None = None,
) -> np.ndarray:
    """Each text with all images, batch after batch -> [N, M]."""
    pairs, scores = [(text, image) for text in texts for image in images], []
    with torch.inference_mode():
        for start in range(0, len(pairs), batch_size):
            batch = collate([{**text, **image} for text, image in pairs[start : start + batch_size]], limits)
            scores.append(model(**batch).logits[:, 0].float())
    return torch.cat(scores).view(len(texts), len(images)).numpy()


def read(processor: ViLBertProcessor, texts: Sequence[str], images: Sequence[Regions]) -> tuple[list, list]:
    """Texts and images, each for itself, as `plain_scores` takes them: so it has nothing to prepare while it runs."""
    words = [dict(processor.tokenizer(text, return_tensors="pt")) for text in texts]
    seen = [dict(processor.image_processor(image, return_tensors="pt")) for image in images]
    return tuple([{name: value[0] for name, value in one.items()} for one in some] for some in (words, seen))


RETRIEVAL_WAYS = ("plain, padded to the longest", "plain, padded to the limits", "ImageTextScorer")


def retrieval(row: Row, sizes: Sizes) -> Work:
    """All texts with all images.

    Useful FLOPs are the plain loop's; the scorer's are not given, since it computes a text or an image once, not once
    for each pair.
    """
    texts, images = corpora(sizes, sizes.texts, sizes.images)
    config, processor = vilbert_config(sizes.small, sizes.feature_size, num_labels=1), new_processor()
    model = new_model(ViLBertForImageAndTextRetrieval, config, row.dtype, row.attention)
    if row.way == RETRIEVAL_WAYS[2]:
        scorer = new_scorer(model, processor, sizes.pair_batch)
        return Work(
            lambda: scorer.score(texts, images, progress=False),
            len(texts) * len(images),
            "pair",
            warm_up=lambda: scorer.score(texts[:4], images[:4], progress=False),
        )
    words, seen = read(processor, texts, images)
    # [CLS] and [SEP], and the whole image.
    limits = (sizes.text_words[1] + 2, sizes.image_regions[1] + 1) if row.way == RETRIEVAL_WAYS[1] else None

    def count(batch):
        with torch.inference_mode():
            model(**batch)

    flops = flops_by_length(model, sizes, count)
    return Work(
        lambda: plain_scores(model, words, seen, sizes.pair_batch, limits),
        len(texts) * len(images),
        "pair",
        sum(flops_of([{**text, **image} for image in seen], flops) for text in words),
        warm_up=lambda: plain_scores(model, words[:4], seen[:4], sizes.pair_batch, limits),
    )


def new_scorer(model: PreTrainedModel, processor: ViLBertProcessor, batch_size: int, **settings):
    from modeling_vilbert.retrieval import ImageTextScorer

    return ImageTextScorer(model, processor, batch_size=batch_size, **settings)


PROCESS_WAYS = ("ImageTextScorer", "square products")


def processes(row: Row, sizes: Sizes) -> Work:
    """The scorer in one of `count` processes, as `torchrun` starts them; all write into one file. Or as many square
    products in each process, for what a second one could gain at best.
    """
    from accelerate import PartialState

    state = PartialState(cpu=True)
    if row.way.startswith(PROCESS_WAYS[1]):
        product, times = machine(Row("machine", machine_shapes(sizes)[0], row.dtype), sizes), 50

        def multiply():
            for _ in range(times):
                product.run()
            state.wait_for_everyone()

        return Work(multiply, times * row.count, "product", warm_up=product.run, before=state.wait_for_everyone)
    texts, images = corpora(sizes, sizes.shared_texts, sizes.shared_images)
    config = vilbert_config(sizes.small, sizes.feature_size, num_labels=1)
    scorer = new_scorer(
        new_model(ViLBertForImageAndTextRetrieval, config, row.dtype, row.attention), new_processor(), sizes.pair_batch
    )
    run_number = 0

    def score(texts, images):
        nonlocal run_number
        run_number += 1
        return scorer.score(texts, images, output=f"scores-{run_number}.npy", progress=False)

    return Work(
        lambda: score(texts, images),
        len(texts) * len(images),
        "pair",
        warm_up=lambda: score(texts[:4], images[:4]),
        before=state.wait_for_everyone,
    )


def flat(row: Row, sizes: Sizes) -> Work:
    """The scorer of a small model on about `count` pairs, with 16 MB for what it keeps."""
    texts = images = round(row.count**0.5)
    sizes = Sizes(small=True, feature_size=64)
    texts, images = corpora(sizes, texts, images)
    config = vilbert_config(True, sizes.feature_size, num_labels=1)
    model = new_model(ViLBertForImageAndTextRetrieval, config, row.dtype, row.attention)
    scorer = new_scorer(model, new_processor(), sizes.pair_batch, memory_budget=2**24)
    return Work(
        lambda: scorer.score(texts, images, progress=False),
        len(texts) * len(images),
        "pair",
        warm_up=lambda: scorer.score(texts[:32], images[:32], progress=False),
    )


WORK: dict[str, Callable[[Row, Sizes], Work]] = {
    "machine": machine,
    "forward": forward,
    "training": training,
    "vqa": vqa,
    "pretraining": pretraining,
    "retrieval": retrieval,
    "processes": processes,
    "flat": flat,
}
