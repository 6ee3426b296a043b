"""Many texts x many images: scores and ranks as of the plain loop, what is computed how often, files, processes."""

import errno
import json
import multiprocessing
import os
import re
import runpy
import signal
import socket
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from accelerate import PartialState
from conftest import EXAMPLES
from tiny import tiny_config
from transformers import BertTokenizer

from modeling_vilbert import (
    ImageTextScorer,
    Regions,
    ViLBertForImageAndTextRetrieval,
    ViLBertForMultiTask,
    ViLBertForPreTraining,
    ViLBertForQuestionAnswering,
    ViLBertImageProcessor,
    ViLBertProcessor,
    caption_shortlist,
    open_regions,
    pair_tiles,
    retrieval,
    score_files,
    split_model,
    write_regions,
)
from modeling_vilbert.cli import main
from modeling_vilbert.pair_tiles import like_batches, shares, spans
from modeling_vilbert.search import read_captions, search
from modeling_vilbert.split_model import HALF_MULTIPLE, Packing


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(56))]
# Longest text and most regions that the processor passes.
WORDS, REGIONS = 15, 9
TEXTS, IMAGES = 17, 13


@pytest.fixture(scope="module", autouse=True)
def small_tiles_and_one_thread():
    """Of few pairs, too, there are many tiles; and a fork has but the one thread, whose bytes are to be the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_tiles, "TILE_PAIRS", (16, 1024))
        yield
    torch.set_num_threads(threads)


def a_text(generator: np.random.Generator, count: int) -> str:
    return " ".join(f"w{number}" for number in generator.integers(0, 56, count))


def some_regions(generator: np.random.Generator, count: int, **fields) -> Regions:
    corners = generator.uniform(0, 20, (count, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(1, 9, (count, 2))], 1)
    features = generator.normal(size=(count, 14)).astype(np.float32)
    return Regions(**{"boxes": boxes, "features": features, "image_size": (48, 30), **fields})


def corpora(texts: int = TEXTS, images: int = IMAGES, alike: bool = False) -> tuple[list[str], dict[str, Regions]]:
    """Texts and images of any lengths, or of one."""
    generator = np.random.default_rng(0)
    words = np.full(texts, 5) if alike else generator.integers(1, WORDS + 1, texts)
    regions = np.full(images, 4) if alike else generator.integers(1, REGIONS + 4, images)
    return (
        [a_text(generator, count) for count in words],
        {f"image-{number}": some_regions(generator, count) for number, count in enumerate(regions)},
    )


def new_processor() -> ViLBertProcessor:
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(VOCABULARY)})
    return ViLBertProcessor(ViLBertImageProcessor(max_regions=REGIONS), tokenizer)


def new_model(model_class=ViLBertForImageAndTextRetrieval, **fields):
    torch.manual_seed(0)
    return model_class(tiny_config(**fields)).eval()


def new_scorer(model=None, **settings) -> ImageTextScorer:
    return ImageTextScorer(new_model() if model is None else model, new_processor(), **settings)


def plain(model, texts, images, **inputs) -> np.ndarray:
    """The slow twin: pair after pair, in padded batches."""
    processor, scores = new_processor(), []
    pairs = [(text, image) for text in texts for image in (images.values() if isinstance(images, dict) else images)]
    with torch.inference_mode():
        for start in range(0, len(pairs), 16):
            batch_texts, batch_images = zip(*pairs[start : start + 16])
            batch = processor(images=list(batch_images), text=list(batch_texts), return_tensors="pt")
            given = {name: torch.full((len(batch_texts),), value) for name, value in inputs.items() if name != "task"}
            outputs = model(**batch, **given, **{name: inputs[name] for name in inputs if name == "task"})
            if hasattr(outputs, "alignment_logits"):
                scores.append(outputs.alignment_logits[:, 0] - outputs.alignment_logits[:, 1])
            else:
                scores.append(outputs.logits[:, 0])
    return torch.cat(scores).view(len(texts), -1).float().numpy()


def calls(module: torch.nn.Module) -> list[list[int]]:
    """The shape of what a module returns, of every call from now on."""
    found = []

    def note(module, inputs, output):
        found.append(list((output[0] if isinstance(output, tuple) else output).shape))

    module.register_forward_hook(note)
    return found


# Numbers

CONFIGS = {
    "usual": {},
    "late": {"t_biattention_id": [3], "v_biattention_id": [2]},
    "early": {"t_biattention_id": [0, 2, 3], "v_biattention_id": [0, 1, 2]},
    "twice in a row": {"t_biattention_id": [2, 2], "v_biattention_id": [1, 1]},
    "no co-attention": {"use_coattention": False},
    "nowhere to meet": {"t_biattention_id": [], "v_biattention_id": []},
    "sum": {"fusion": "sum"},
    "gated": {"text_gated_vision_attention": True},
    "gated before they meet": {
        "text_gated_vision_attention": True,
        "t_biattention_id": [1, 3],
        "v_biattention_id": [1, 2],
    },
    "gated, no co-attention": {"text_gated_vision_attention": True, "use_coattention": False},
    "roberta": {"text_config": {"position_scheme": "roberta", "pad_token_id": 0}},
}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_scores_are_those_of_the_plain_loop(config, implementation, monkeypatch):
    model = new_model(**config, attn_implementation=implementation)
    texts, images = corpora()
    expected = plain(model, texts, images)
    scores = new_scorer(model).score(texts, images, progress=False)
    assert scores.dtype == np.float32 and scores.shape == (TEXTS, IMAGES)
    assert expected.std() > 0.05
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    # In many blocks, and in other batches.
    small = new_scorer(model, memory_budget=40_000, batch_size=5).score(texts, images, progress=False)
    np.testing.assert_allclose(small, expected, atol=1e-5, rtol=0)
    # With spare positions, as in half precision.
    monkeypatch.setattr(split_model, "compiles_each_size", lambda states: True)
    spare = new_scorer(model, batch_size=50).score(texts, images, progress=False)
    np.testing.assert_allclose(spare, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 13), (17, 1), (3, 2)])
@pytest.mark.parametrize("alike", [False, True])
def test_few_and_equally_long_ones(shape, alike):
    texts, images = corpora(*shape, alike=alike)
    scores = new_scorer().score(texts, images, progress=False)
    np.testing.assert_allclose(scores, plain(new_model(), texts, images), atol=1e-5, rtol=0)


def test_one_alone_needs_no_list():
    texts, images = corpora(1, 1)
    scorer = new_scorer()
    one = scorer.score(texts[0], images["image-0"], progress=False)
    np.testing.assert_array_equal(one, scorer.score(texts, images, progress=False))
    # Mappings of texts and lists of images.
    named = scorer.score({"a": texts[0]}, [images["image-0"]] * 2, progress=False)
    np.testing.assert_allclose(named, np.repeat(one, 2, 1), atol=1e-6)


def test_equal_texts_and_half_precision_features_and_ids_that_are_numbers():
    texts, images = corpora(3, 2)
    half = {
        number: some_regions(np.random.default_rng(number), 3, features=np.full((3, 14), number / 3, np.float16))
        for number in (7, 5)
    }
    expected = plain(new_model(), [texts[0], texts[1], texts[0]], half)
    found = new_scorer().score([texts[0], texts[1], texts[0]], half, progress=False)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(found[0], found[2])
    assert {name for name, _ in new_scorer().rank(texts[0], half)} == {5, 7}
    assert [name for name, _ in new_scorer().rank(texts[0], half, candidates=np.array([5]))] == [5]


def test_alignment_ranks_without_training():
    model, (texts, images) = new_model(ViLBertForPreTraining), corpora()
    scorer = new_scorer(model)
    np.testing.assert_allclose(
        scorer.score(texts, images, progress=False), plain(model, texts, images), atol=1e-5, rtol=0
    )
    # The model may go on learning.
    with torch.no_grad():
        model.alignment_head.weight.mul_(-2)
    np.testing.assert_allclose(
        scorer.score(texts, images, progress=False), plain(model, texts, images), atol=1e-5, rtol=0
    )


def test_task_tokens():
    texts, images = corpora()
    model = new_model(num_task_tokens=4)
    expected = [plain(model, texts, images, task_ids=token) for token in (2, 3)]
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    for token, scores in zip((2, 3), expected):
        found = new_scorer(model, task_token=token).score(texts, images, progress=False)
        np.testing.assert_allclose(found, scores, atol=1e-5, rtol=0)


def test_a_model_of_many_tasks():
    texts, images = corpora()
    tasks = {
        "vqa": {"head": "question_answering", "num_labels": 5},
        "coco": {"head": "matching", "task_token": 1},
        "flickr": {"head": "matching", "task_token": 3},
    }
    model = new_model(ViLBertForMultiTask, num_task_tokens=4, tasks=tasks)
    for name, token in (("coco", None), ("flickr", 2)):
        given = {} if token is None else {"task_ids": token}
        found = new_scorer(model, head=name, task_token=token).score(texts, images, progress=False)
        np.testing.assert_allclose(found, plain(model, texts, images, task=name, **given), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"head must be one of \['coco', 'flickr'\].*got 'retrieval'"):
        new_scorer(model)


def test_long_texts_are_cut():
    texts, images = corpora(4, 3)
    cut = [" ".join(text.split()[:4]) for text in texts]
    found = new_scorer(max_tokens=6).score([text + " w1" * 40 for text in cut], images, progress=False)
    # Of short ones, what was added stays.
    cut = [" ".join((text + " w1" * 4).split()[:4]) for text in cut]
    np.testing.assert_allclose(found, plain(new_model(), cut, images), atol=1e-5, rtol=0)


def test_bf16():
    texts, images = corpora()
    expected = plain(new_model(), texts, images)
    found = new_scorer(autocast=torch.bfloat16).score(texts, images, progress=False)
    assert found.dtype == np.float32 and 0 < np.abs(found - expected).max() < 0.05
    model = new_model().to(torch.bfloat16)
    found = new_scorer(model).score(texts, images, progress=False)
    assert found.dtype == np.float32 and 0 < np.abs(found - expected).max() < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_allclose(plain(new_model(), texts, images), expected, atol=0.05)


def test_arrays_and_columns_are_read_by_position():
    texts, images = corpora(3, 2)
    expected, scorer = plain(new_model(), texts, images), new_scorer()
    # Labels of a sorted table are numbers, but no places.
    labelled = {
        "texts": pandas.Series(texts, index=[2, 0, 1]),
        "images": pandas.Series([*images.values()], index=[1, 0]),
    }
    column = datasets.Dataset.from_dict({"text": texts})["text"]
    for some_texts, some_images in (
        (labelled["texts"], labelled["images"]),
        (np.array(texts), np.array([*images.values(), None], object)[:-1]),
        (column, images),
    ):
        found = scorer.score(some_texts, some_images, progress=False)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    best = scorer.rank(images["image-0"], labelled["texts"], top_k=1)
    assert best[0][0] == expected[:, 0].argmax()


@pytest.mark.parametrize("model_class", [ViLBertForImageAndTextRetrieval, ViLBertForPreTraining])
def test_int8_weights(model_class, tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    texts, images = corpora(5, 4)
    configs = quantization.Int8WeightOnlyConfig(), quantization.Int8DynamicActivationInt8WeightConfig()
    exact = plain(new_model(model_class), texts, images)
    # An activation that is halfway between two of 256 numbers is rounded up or down by its last bit.
    for number, (config, tolerance) in enumerate(zip(configs, (1e-5, 0.05))):
        model = new_model(model_class)
        quantization.quantize_(model, config)
        found = new_scorer(model).score(texts, images, tmp_path / f"{number}.npy", progress=False)
        np.testing.assert_allclose(found, plain(model, texts, images), atol=tolerance, rtol=0)
        assert np.abs(found - exact).max() > 1e-4
        again = new_scorer(model).score(texts, images, tmp_path / f"{number}.npy", progress=False)
        np.testing.assert_array_equal(again, found)
    # Both have the same weights, which is not all that they compute with.
    with pytest.raises(ValueError, match="another run: model was"):
        new_scorer(model).score(texts, images, tmp_path / "0.npy", progress=False)


def test_pictures_where_the_processor_makes_regions():
    texts, images = corpora(3, 2)
    processor = new_processor()
    processor.region_extractor = lambda pictures: [images["image-0"] for _ in pictures]
    picture = np.zeros((30, 48, 3), np.uint8)
    scores = ImageTextScorer(new_model(), processor).score(texts, [images["image-1"], picture], progress=False)
    expected = plain(new_model(), texts, [images["image-1"], images["image-0"]])
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    best = ImageTextScorer(new_model(), processor).rank(picture, texts, top_k=1)
    assert best[0][0] == expected[:, 1].argmax()


# What is computed, and how often


def test_what_one_side_decides_is_computed_once():
    model, (texts, images) = new_model(), corpora()
    encoder = model.vilbert.encoder
    once = {
        "text layer": calls(encoder.text_layers[0]),
        "text query": calls(encoder.coattention_layers[0].text.attention.query),
        "text key": calls(encoder.coattention_layers[0].vision.attention.key),
    }
    of_images = {
        "embeddings": calls(model.vilbert.vision_embeddings),
        "vision value": calls(encoder.coattention_layers[0].text.attention.value),
    }
    pairs = calls(encoder.text_layers[3].output)
    new_scorer(model).score(texts, images, progress=False)
    # One more than there are: the shortest one tells how much there is to be kept.
    assert {name: sum(shape[0] for shape in found) for name, found in once.items()} == dict.fromkeys(once, TEXTS + 1)
    assert {name: sum(shape[0] for shape in found) for name, found in of_images.items()} == dict.fromkeys(
        of_images, IMAGES + 1
    )
    # For the pooled position alone.
    assert sum(shape[0] for shape in pairs) == TEXTS * IMAGES


def test_the_last_layers_are_finished_for_the_pooled_vectors_only():
    model, (texts, images) = new_model(), corpora()
    encoder = model.vilbert.encoder
    last, before = calls(encoder.text_layers[3].output), calls(encoder.coattention_layers[1].text.output)
    last_vision = calls(encoder.vision_layers[2].output)
    new_scorer(model).score(texts, images, progress=False)
    assert sum(rows for rows, _ in last) == sum(rows for rows, _ in last_vision) == len(texts) * len(images)
    assert sum(rows for rows, _ in before) == sum(len(text.split()) + 2 for text in texts) * len(images)


@pytest.mark.parametrize("half", [False, True])
def test_nothing_is_padding(half):
    model, (texts, images) = new_model(), corpora(80, 60)
    words = calls(model.vilbert.encoder.text_layers[2].output)
    regions = calls(model.vilbert.encoder.vision_layers[0].output)
    attention = calls(model.vilbert.encoder.text_layers[3].attention.output)
    scorer = new_scorer(model.bfloat16() if half else model, batch_size=64)
    scorer.score(texts, images, progress=False)
    computed = sum(rows for rows, _ in words), sum(rows for rows, _ in regions)
    real = (
        sum(len(text.split()) + 2 for text in texts) * len(images),
        sum(min(len(one), REGIONS) + 1 for one in images.values()) * len(texts),
    )
    assert max(rows for rows, _ in attention) <= 64
    if half:
        # A few numbers of rows, each a multiple, for which products are compiled.
        assert all(rows % HALF_MULTIPLE == 0 for rows, _ in words + regions)
        assert all(0 <= rows - of_real < HALF_MULTIPLE * len(words) for rows, of_real in zip(computed, real))
    else:
        assert computed == real


@pytest.mark.parametrize("count", [1, 2, 7, 200])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batches_hold_each_pair_once(count, batch_size):
    generator = np.random.default_rng(count)
    text, vision = generator.integers(3, 30, count), generator.integers(11, 38, count)
    batches = like_batches(text, vision, batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    pairs = [(text[number], vision[number]) for batch in batches for number in batch]
    assert pairs == sorted(pairs)


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("lengths", [[3, 1, 4], [2, 2, 2], [1], [5]])
def test_packed_and_padded_positions(lengths, multiple):
    packing = Packing(np.array(lengths), torch.device("cpu"), multiple)
    rows = sum(lengths) + -sum(lengths) % multiple
    values = torch.arange(1.0, rows + 1)[:, None]
    padded, start = packing.pad(values), 0
    assert padded.shape == (len(lengths), max(lengths), 1)
    for item, length in zip(padded, lengths):
        assert torch.equal(item[:length], values[start : start + length])
        start += length
    packed = packing.pack(padded)
    assert packed.shape == values.shape
    assert torch.equal(packed[: sum(lengths)], values[: sum(lengths)])
    assert torch.equal(packing.first(values)[:, 0], padded[:, 0, 0])
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    assert mask.all() if packing.mask is None else torch.equal(packing.mask[:, 0, 0], mask)


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_workers_get_like_shares(workers):
    costs = np.random.default_rng(0).integers(100, 1000, 40).tolist()
    found = shares(costs, workers)
    assert sorted(job for jobs in found for job in jobs) == list(range(40))
    sums = [sum(costs[job] for job in jobs) for jobs in found]
    assert max(sums) - min(sums) <= max(costs)
    assert shares([], workers) == [[] for _ in range(workers)]
    # In turns, one of two would get 8 and the other 2.
    assert shares([4, 1, 4, 1], 2) == [[0, 1], [2, 3]]


def test_spans():
    assert spans([3, 3, 3, 5, 1], 6) == [range(0, 2), range(2, 3), range(3, 5)]
    assert spans([6], 6) == [range(0, 1)]


def watch(scorer: ImageTextScorer) -> tuple[list[int], Counter]:
    """Bytes that are kept after each time that something is; and how often it is, by side."""
    alive, sizes, counts = weakref.WeakSet(), [], Counter()
    keep = scorer._keep

    def watched(split, side, numbers):
        kept = keep(split, side, numbers)
        alive.add(kept)
        sizes.append(sum(one.nbytes for one in alive))
        counts[type(side).__name__] += len(numbers)
        return kept

    scorer._keep = watched
    return sizes, counts


@pytest.mark.parametrize("budget", [20_000, 40_000])
def test_memory_stays_in_its_budget(budget):
    (texts, images), found = corpora(11, 9), {}
    for many in (1, 2):
        scorer = new_scorer(memory_budget=budget)
        sizes, counts = watch(scorer)
        more = {f"{name}-{number}": image for number in range(many) for name, image in images.items()}
        found[many] = scorer.score(texts * many, more, progress=False)
        assert max(sizes) <= budget
        # What had to go is computed again.
        assert counts["Images"] > len(more) + 1
    np.testing.assert_allclose(found[2], np.tile(found[1], (2, 2)), atol=1e-5)


def test_a_budget_below_one_text_and_one_image_says_what_they_need():
    texts, images = corpora()
    with pytest.raises(ValueError, match=r"memory_budget must be at least [\d,]+ bytes.*got 9,000") as error:
        new_scorer(memory_budget=9_000).score(texts, images, progress=False)
    needed = int(re.search(r"at least ([\d,]+) bytes", str(error.value))[1].replace(",", ""))
    # The states and three projections of each position; [CLS] and [SEP], and the whole image, are positions, too.
    longest = max(len(text.split()) + 2 for text in texts)
    most = max(min(len(image), REGIONS) + 1 for image in images.values())
    assert needed == 4 * (longest * (24 + 3 * 32) + most * (20 + 3 * 32))
    scorer = new_scorer(memory_budget=needed)
    sizes, _ = watch(scorer)
    found = scorer.score(texts, images, progress=False)
    assert max(sizes) <= needed
    np.testing.assert_allclose(found, plain(new_model(), texts, images), atol=1e-5, rtol=0)


def test_the_model_is_left_as_it_was():
    model, (texts, images) = new_model(ViLBertForPreTraining), corpora(3, 2)
    expected = plain(model, texts, images)
    model.train()
    model.vilbert.text_embeddings.eval()
    modes = [module.training for module in model.modules()]
    drawn = torch.get_rng_state()
    scorer = new_scorer(model)
    np.testing.assert_allclose(scorer.score(texts, images, progress=False), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="at least one word"):
        scorer.score(["w1", " "], images, progress=False)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    # Nothing of inference is left in it.
    batch = new_processor()(images=list(images.values()), text=texts[:2], return_tensors="pt")
    model(**batch).alignment_logits.sum().backward()


# Ranks


def test_ranks_in_both_directions():
    texts, images = corpora()
    scorer, scores, names = new_scorer(), plain(new_model(), texts, images), list(images)
    found = scorer.rank(texts[3], images, top_k=5)
    assert [name for name, _ in found] == [names[place] for place in (-scores[3]).argsort()[:5]]
    assert [score for _, score in found] == pytest.approx(sorted(scores[3], reverse=True)[:5], abs=1e-5)
    by_number = scorer.rank(texts[3], list(images.values()), top_k=5)
    assert [names[place] for place, _ in by_number] == [name for name, _ in found]

    found = scorer.rank(images["image-4"], dict(zip("abcdefg", texts)), top_k=99)
    assert [name for name, _ in found] == ["abcdefg"[place] for place in (-scores[:7, 4]).argsort()]
    assert all(isinstance(score, float) for _, score in found)


@pytest.mark.parametrize("budget", [2**30, 20_000])
def test_many_queries_with_a_shortlist_each(budget):
    texts, images = corpora()
    model, names = new_model(), list(images)
    scores = plain(model, texts, images)
    scorer, generator = new_scorer(model, memory_budget=budget), np.random.default_rng(1)
    pairs = calls(model.vilbert.encoder.text_layers[3].output)
    shortlists = [generator.choice(names, count, replace=False).tolist() for count in generator.integers(1, 9, TEXTS)]
    found = scorer.rank(texts, images, top_k=3, candidates=shortlists)
    # No other pair has been computed.
    assert sum(shape[0] for shape in pairs) == sum(map(len, shortlists))
    for row, shortlist, best in zip(scores, shortlists, found):
        places = sorted((names.index(name) for name in shortlist), key=lambda place: -row[place])[:3]
        assert [name for name, _ in best] == [names[place] for place in places]
        assert [score for _, score in best] == pytest.approx(row[places], abs=1e-5)

    found = scorer.rank(list(images.values()), texts, top_k=2, candidates=[[7, np.int64(2), 7, 11]] * IMAGES)
    for column, best in zip(scores.T, found):
        assert [place for place, _ in best] == sorted([7, 2, 11], key=lambda place: -column[place])[:2]
    everything = scorer.rank(texts[:2], images, top_k=1)
    assert [best[0][0] for best in everything] == [names[place] for place in scores[:2].argmax(1)]


def test_a_store_and_candidates_by_number(tmp_path):
    texts, images = corpora(2, 6)
    records = [some_regions(np.random.default_rng(number), 3, image_id=number) for number in range(6)]
    write_regions(records, tmp_path / "store")
    store, scores = open_regions(tmp_path / "store"), plain(new_model(), texts, records)
    found = new_scorer().rank(texts[0], store, candidates=[4, "1", 2])
    assert [name for name, _ in found] == sorted([4, "1", 2], key=lambda name: -scores[0, int(name)])
    assert [name for name, _ in new_scorer().rank(texts[0], store, top_k=1)] == [str(scores[0].argmax())]


def test_of_equal_scores_the_first_comes_first(monkeypatch):
    monkeypatch.setattr(ImageTextScorer, "_pair_scores", lambda self, texts, images, progress: np.zeros(len(texts[1])))
    same = dict.fromkeys("cab", IMAGE)
    assert new_scorer().rank("w1", same, top_k=2) == [("c", 0.0), ("a", 0.0)]
    assert [name for name, _ in new_scorer().rank("w1", same, candidates=["b", "a"])] == ["b", "a"]


# Bad input


def rank(**given):
    texts, images = corpora(3, 3)
    return new_scorer().rank(**{"query": texts[0], "corpus": images, **given})


def score(**given):
    texts, images = corpora(3, 3)
    return new_scorer().score(**{"texts": texts, "images": images, "progress": False, **given})


def spoiled(value: float) -> Regions:
    regions = some_regions(np.random.default_rng(0), 3)
    regions.features[1, 2] = value
    return regions


IMAGE = corpora(1, 1)[1]["image-0"]


@pytest.mark.parametrize(
    "call, given, named",
    [
        (score, {"texts": []}, "texts must be at least one, got none"),
        (score, {"images": {}}, "images must be at least one, got none"),
        (score, {"texts": 5}, "texts must be a list or a mapping, got int"),
        (score, {"texts": (text for text in ["w1"])}, "texts must be a list or a mapping, got generator"),
        (score, {"texts": {"w1", "w2"}}, "texts must be a list or a mapping, got set"),
        (score, {"texts": np.array("w1")}, "texts must be a list or a mapping, got str"),
        (score, {"images": iter([])}, "images must be a list or a mapping, got list_iterator"),
        (score, {"images": {"a": IMAGE, "b": spoiled(np.nan)}}, r"images\['b'\] must hold finite numbers, got NaN"),
        (score, {"images": [spoiled(np.inf)]}, r"images\[0\] must hold finite numbers"),
        (score, {"texts": ["w1 " * 600]}, r"texts\[0\] has 602 tokens"),
        (score, {"texts": ["w1", "  "]}, r"texts\[1\] must hold at least one word, got '  '"),
        (score, {"texts": {"a": "w1", "b": ""}}, r"texts\['b'\] must hold at least one word"),
        (score, {"texts": ["w1", None]}, r"texts\[1\] must be a string, got NoneType"),
        (score, {"texts": ["w1 " * 30]}, r"texts\[0\] has 32 tokens.*positions for 19.*max_tokens"),
        (score, {"images": {"a": "w1"}}, r"images\['a'\] must be Regions, got str.*vilbert extract"),
        (score, {"images": [np.zeros((3, 3, 3))]}, "no region_extractor"),
        (score, {"images": [Regions(np.zeros((0, 4)), np.zeros((0, 14)), (9, 9))]}, r"images\[0\] cannot be read"),
        (score, {"images": [Regions([[0, 0, 1, 1]], np.ones((1, 8)), (9, 9), image_id="a")]}, "'a' are 8 wide"),
        (rank, {"query": "  "}, "at least one word, got '  '"),
        (rank, {"query": []}, "query must be of one kind, text or images, got none"),
        (rank, {"query": ["w1", IMAGE]}, "query must be of one kind, text or images, got both"),
        (rank, {"corpus": {}}, "images must be at least one"),
        (rank, {"corpus": ["w1"]}, "no region_extractor"),
        (rank, {"query": IMAGE, "corpus": []}, "texts must be at least one"),
        (rank, {"query": IMAGE}, r"texts\['image-0'\] must be a string, got Regions"),
        (rank, {"top_k": 0}, "top_k must be a whole number of at least 1, got 0"),
        (rank, {"candidates": ["image-0", "x"]}, "candidates: 'x' is not in the corpus; it has 3 items, 'image-0', "),
        (rank, {"candidates": [["image-0"]]}, "candidates must be ids of the corpus, for one query in one list"),
        (rank, {"candidates": []}, "candidates must be at least one id, got none"),
        (rank, {"candidates": "image-0"}, "candidates must be ids of the corpus in a list, got 'image-0'"),
        (rank, {"query": ["w1", "w2"], "candidates": [["image-0"]]}, "a list for each of 2 queries, got 1"),
        (rank, {"query": IMAGE, "corpus": ["w1", "w2"], "candidates": [2]}, "candidates: 2 is not in the corpus"),
    ],
)
def test_bad_input_is_named(call, given, named):
    with pytest.raises(ValueError, match=named):
        call(**given)


@pytest.mark.parametrize(
    "model_class, fields, settings, named",
    [
        (ViLBertForQuestionAnswering, {}, {}, "model must be one of.*got ViLBertForQuestionAnswering"),
        (ViLBertForImageAndTextRetrieval, {}, {"memory_budget": 0}, "memory_budget must be a whole number"),
        (
            ViLBertForImageAndTextRetrieval,
            {},
            {"max_tokens": 2},
            "max_tokens must be above 2, which",
        ),
        (ViLBertForImageAndTextRetrieval, {}, {"batch_size": 2.5}, "batch_size must be a whole number"),
        (ViLBertForImageAndTextRetrieval, {}, {"autocast": torch.float64}, "autocast must be"),
        (ViLBertForImageAndTextRetrieval, {}, {"head": "retrieval"}, "head is for ViLBertForMultiTask"),
        (ViLBertForImageAndTextRetrieval, {}, {"task_token": 1}, "task_token must be None"),
        (ViLBertForImageAndTextRetrieval, {"num_task_tokens": 4}, {}, "task_token must be within 0 to 3, got None"),
        (ViLBertForImageAndTextRetrieval, {"num_task_tokens": 4}, {"task_token": 4}, "within 0 to 3, got 4"),
    ],
)
def test_bad_settings_are_named(model_class, fields, settings, named):
    with pytest.raises(ValueError, match=named):
        new_scorer(new_model(model_class, **fields), **settings)


def test_flex_attention_is_refused():
    model = new_model()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"'eager' or 'sdpa' here, got 'flex_attention'"):
        new_scorer(model).score(*corpora(1, 1), progress=False)


# Scores on disk


def file_state(output: Path) -> dict:
    return json.loads(output.with_name(output.name + ".json").read_text())


def test_scores_on_disk(tmp_path, monkeypatch):
    texts, images = corpora()
    output = tmp_path / "folder" / "scores.npy"
    scores = new_scorer().score(texts, images, output, progress=False)
    assert isinstance(scores, np.memmap) and scores.dtype == np.float32
    np.testing.assert_array_equal(scores, new_scorer().score(texts, images, progress=False))
    np.testing.assert_array_equal(scores, np.load(output))
    state = file_state(output)
    assert state["run"]["shape"] == [TEXTS, IMAGES] and len(state["done"]) > 4
    assert {"scores.npy", "scores.npy.json"} <= {file.name for file in output.parent.iterdir()}
    assert not list(output.parent.glob("*.new")) + list(output.parent.glob("*.part*"))

    # What is complete is only read.
    def never(*arguments):
        raise AssertionError

    monkeypatch.setattr(retrieval.SplitModel, "scores", never)
    again = new_scorer(batch_size=7).score(texts, images, output, progress=False)
    np.testing.assert_array_equal(again, scores)


def test_a_complete_file_is_not_touched(whole, tmp_path, monkeypatch):
    for suffix in ("", ".json"):
        (tmp_path / f"scores.npy{suffix}").write_bytes(Path(f"{whole}{suffix}").read_bytes())
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in tmp_path.iterdir()}

    # Of a folder that only can be read, this is what is left; root may write there, too.
    def denied(*arguments, **settings):
        raise PermissionError

    for name in ("_lock", "_write"):
        monkeypatch.setattr(score_files.ScoreFile, name, denied)
    load = np.load
    monkeypatch.setattr(score_files.np, "load", lambda path, mmap_mode: load(path, mmap_mode={"r": "r"}[mmap_mode]))
    found = new_scorer().score(*corpora(), tmp_path / "scores.npy", progress=False)
    np.testing.assert_array_equal(found, load(whole))
    assert {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in tmp_path.iterdir()} == before
    # What is not of this run is named all the same.
    with pytest.raises(ValueError, match="another run: texts was"):
        new_scorer().score(corpora()[0][::-1], corpora()[1], tmp_path / "scores.npy", progress=False)


def test_scores_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    output, (texts, images) = tmp_path / "scores.npy", corpora()
    split_scores, batches = retrieval.SplitModel.scores, []

    def scores(self, *arguments):
        batches.append(split_scores(self, *arguments))
        return batches[-1] if len(batches) < 9 else batches[-1] * np.nan

    monkeypatch.setattr(retrieval.SplitModel, "scores", scores)
    named = r"finite scores, got nan for texts\[\d+\] and images\['image-\d+'\]"
    with pytest.raises(ValueError, match=named):
        new_scorer().score(texts, images, output, progress=False)
    # What was computed before stays.
    there = np.load(output)
    assert file_state(output)["done"] and 0 < np.isnan(there).sum() < there.size
    monkeypatch.setattr(retrieval.SplitModel, "scores", split_scores)
    found = new_scorer().score(texts, images, output, progress=False)
    np.testing.assert_allclose(found, plain(new_model(), texts, images), atol=1e-5, rtol=0)


def test_the_pair_whose_score_is_not_finite_is_named():
    texts, model = {"a": "w1 w2", "b": "w3 w7", "c": "w5"}, new_model()
    with torch.no_grad():
        model.vilbert.text_embeddings.word_embeddings.weight[VOCABULARY.index("w7")] = np.nan
    with pytest.raises(ValueError, match=r"got nan for texts\['b'\] and images\['image-[01]'\]"):
        new_scorer(model).score(texts, corpora(1, 2)[1], progress=False)
    assert new_scorer(model).rank(corpora(1, 1)[1]["image-0"], texts, candidates=["c", "a"])
    # What overflows in one image only.
    model, images = new_model(), corpora(1, 3)[1]
    for name, regions in images.items():
        regions.features[:, 3] = 1e4 * (name == "image-1")
    with torch.no_grad():
        model.vilbert.vision_embeddings.feature_projection.weight[:, 3] = 1e38
    with pytest.raises(ValueError, match=r"got nan for texts\[1\] and images\['image-1'\]"):
        new_scorer(model).rank(["w1 w2", "w3"], images, candidates=[["image-2", "image-0"], ["image-2", "image-1"]])


def test_adapters_have_to_be_merged_for_a_file(tmp_path):
    peft, (texts, images) = pytest.importorskip("peft"), corpora(3, 2)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(
        new_model(), peft.LoraConfig(target_modules=r".*\.query", init_lora_weights=False, lora_alpha=64)
    )
    model = adapted.base_model.model
    with_adapter = new_scorer(model).score(texts, images, progress=False)
    with adapted.disable_adapter():
        without = new_scorer(model).score(texts, images, progress=False)
    assert np.abs(with_adapter - without).max() > 1e-3
    with pytest.raises(ValueError, match=r"model has adapters \(Linear of PEFT\).*merge_and_unload"):
        new_scorer(model).score(texts, images, tmp_path / "scores.npy", progress=False)
    assert not list(tmp_path.iterdir())
    merged = new_scorer(adapted.merge_and_unload()).score(texts, images, tmp_path / "scores.npy", progress=False)
    np.testing.assert_allclose(merged, with_adapter, atol=1e-5, rtol=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".lock"}


def foreign(name: str) -> tuple[ImageTextScorer, list, dict]:
    """A run that differs in one thing from that of `new_scorer` and `corpora`."""
    model, (texts, images), settings = new_model(), corpora(), {}
    if name == "texts":
        texts[5] = texts[5] + " w3"
    elif name == "images":
        images["image-5"].features[0, 0] += 1
    elif name == "model":
        with torch.no_grad():
            model.head.classifier.bias += 1
    elif name == "shape":
        texts = texts[:-1]
    elif name == "autocast":
        settings["autocast"], name = torch.bfloat16, "model"
    elif name == "fusion":
        model, name = new_model(fusion="sum"), "model"
    return new_scorer(model, **settings), texts, images, name


@pytest.mark.parametrize("what", ["texts", "images", "model", "shape", "autocast", "fusion"])
def test_scores_of_another_run_stay(what, tmp_path):
    output = tmp_path / "scores.npy"
    new_scorer().score(*corpora(), output, progress=False)
    before = contents(tmp_path)
    scorer, texts, images, differs = foreign(what)
    with pytest.raises(ValueError, match=f"the scores of another run: .*{differs} was .*It is left as it is"):
        scorer.score(texts, images, output, progress=False)
    assert contents(tmp_path) == before


def test_two_runs_do_not_write_into_one_file(tmp_path, monkeypatch):
    (texts, images), refused, split_scores = corpora(), [], retrieval.SplitModel.scores

    def scores(self, *arguments):
        if not refused:
            refused.append(None)
            with pytest.raises(ValueError, match="scores.npy is being written by another run") as error:
                new_scorer().score(texts, images, tmp_path / "scores.npy", progress=False)
            refused[0] = error
        return split_scores(self, *arguments)

    monkeypatch.setattr(retrieval.SplitModel, "scores", scores)
    found = new_scorer().score(texts, images, tmp_path / "scores.npy", progress=False)
    assert refused[0] is not None
    np.testing.assert_allclose(found, plain(new_model(), texts, images), atol=1e-5, rtol=0)
    # It is let go of, also after an error.
    with pytest.raises(ValueError, match="another run: texts was"):
        new_scorer().score(texts[::-1], images, tmp_path / "scores.npy", progress=False)
    new_scorer().score(texts, images, tmp_path / "scores.npy", progress=False)


def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(score_files.np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(OSError, match=r"output needs 884 bytes: No space left on device: .*scores.npy"):
        new_scorer().score(*corpora(), tmp_path / "scores.npy", progress=False)
    assert not (tmp_path / "scores.npy").exists() and not list(tmp_path.glob("*.new"))
    monkeypatch.undo()
    # Where no score has been lost, another run may begin.
    texts, images = corpora(4, 3)
    found = new_scorer().score(texts, images, tmp_path / "scores.npy", progress=False)
    np.testing.assert_allclose(found, plain(new_model(), texts, images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "files, named",
    [
        ({"scores.npy": b"mine"}, "no scores.npy.json says that it holds scores"),
        ({"scores.npy": b"mine", "scores.npy.json": b"[1"}, "scores.npy.json beside it says nothing of a run"),
        ({"scores.npy": b"mine", "scores.npy.json": b"[1]"}, "scores.npy.json beside it says nothing of a run"),
    ],
)
def test_other_files_stay(files, named, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=named):
        new_scorer().score(*corpora(), tmp_path / "scores.npy", progress=False)
    assert contents(tmp_path) == files


def test_a_file_that_was_cut_is_named(tmp_path):
    output = tmp_path / "scores.npy"
    new_scorer().score(*corpora(), output, progress=False)
    output.write_bytes(output.read_bytes()[:500])
    with pytest.raises(ValueError, match="scores.npy is damaged"):
        new_scorer().score(*corpora(), output, progress=False)
    # Without it, it is begun anew.
    output.unlink()
    scores = new_scorer().score(*corpora(), output, progress=False)
    np.testing.assert_allclose(scores, plain(new_model(), *corpora()), atol=1e-5, rtol=0)


def test_what_was_computed_stays_after_an_error(tmp_path, monkeypatch):
    output, (texts, images) = tmp_path / "scores.npy", corpora()
    seen, split_scores = [], retrieval.SplitModel.scores

    def out_of_memory(self, *arguments):
        if len(seen) == 12:
            raise RuntimeError("out of memory")
        found = split_scores(self, *arguments)
        seen.append(len(found))
        return found

    monkeypatch.setattr(retrieval.SplitModel, "scores", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        new_scorer().score(texts, images, output, progress=False)
    there = np.load(output)
    assert file_state(output)["done"] and 0 < np.isnan(there).sum() < there.size
    whole = plain(new_model(), texts, images)
    np.testing.assert_allclose(there[~np.isnan(there)], whole[~np.isnan(there)], atol=1e-5)

    monkeypatch.setattr(retrieval.SplitModel, "scores", split_scores)
    pairs = calls((model := new_model()).vilbert.encoder.text_layers[3].output)
    scores = new_scorer(model).score(texts, images, output, progress=False)
    assert sum(shape[0] for shape in pairs) == np.isnan(there).sum()
    np.testing.assert_array_equal(scores, new_scorer().score(texts, images, progress=False))


def join_processes(number: int, count: int, port: int):
    """What torchrun tells one of several processes."""
    torch.set_num_threads(1)
    if count > 1:
        PartialState._reset_state()
        os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(count))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def score_in_process(number: int, count: int, port: int, output: Path, killed_after: int | None):
    """Score into a file, as one of several processes or alone; and be killed on the way, if so wanted."""
    join_processes(number, count, port)
    score_files.SECONDS_BETWEEN_SAVES = 0
    split_scores, found = retrieval.SplitModel.scores, []

    def scores(self, *arguments):
        if len(found) == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        found.append(1)
        return split_scores(self, *arguments)

    retrieval.SplitModel.scores = scores
    new_scorer().score(*corpora(), output)


def score_in_processes(output: Path, count: int = 1, killed_after: int | None = None) -> list[int]:
    return in_processes(score_in_process, count, output, killed_after)


def in_processes(target: Callable, count: int, *arguments: Any) -> list[int]:
    """Their exit codes. They are forks, which saves each the import of everything."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [
        multiprocessing.get_context("fork").Process(target=target, args=(number, count, port, *arguments))
        for number in range(count)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        if worker.exitcode is None:
            worker.kill()
            worker.join()
    return [worker.exitcode for worker in workers]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The file of an undisturbed run of one process."""
    output = tmp_path_factory.mktemp("whole") / "scores.npy"
    new_scorer().score(*corpora(), output, progress=False)
    return output


def test_a_killed_run_ends_as_an_undisturbed_one(whole, tmp_path, capfd):
    assert score_in_processes(tmp_path / "killed.npy", killed_after=9) == [-signal.SIGKILL]
    # The bar tells what is done and the time that is left.
    assert re.search(r"\d+%.*\[\d\d:\d\d<", capfd.readouterr().err)
    done = file_state(tmp_path / "killed.npy")["done"]
    assert 0 < len(done) < len(file_state(whole)["done"])
    assert np.isnan(np.load(tmp_path / "killed.npy")).any()
    assert score_in_processes(tmp_path / "killed.npy") == [0]
    assert (tmp_path / "killed.npy").read_bytes() == whole.read_bytes()
    assert file_state(tmp_path / "killed.npy") == file_state(whole)


def test_two_processes_fill_one_file(whole, tmp_path):
    assert score_in_processes(tmp_path / "two.npy", count=2) == [0, 0]
    assert (tmp_path / "two.npy").read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("two.npy.part*"))


@pytest.mark.parametrize("count", [1, 2])
def test_what_two_killed_processes_left_others_end(count, whole, tmp_path):
    assert score_in_processes(tmp_path / "killed.npy", count=2, killed_after=4) == [-signal.SIGKILL] * 2
    parts = [json.loads(file.read_text())["done"] for file in sorted(tmp_path.glob("killed.npy.part*.json"))]
    assert any(parts) and len({*sum(parts, [])}) == sum(map(len, parts))
    assert score_in_processes(tmp_path / "killed.npy", count=count) == [0] * count
    assert (tmp_path / "killed.npy").read_bytes() == whole.read_bytes()


def test_a_model_on_several_devices_is_refused():
    model = new_model()
    model.hf_device_map = {"vilbert": 0, "head": "cpu"}
    with pytest.raises(ValueError, match="model must be on one device as a whole, its parts are on"):
        new_scorer(model)


def test_several_processes_need_a_file(monkeypatch):
    monkeypatch.setattr(retrieval, "Workers", lambda device: SimpleNamespace(number=1, count=2))
    with pytest.raises(ValueError, match="output must be given with 2 processes"):
        new_scorer().score(*corpora(1, 1), progress=False)


# The first stage, the command and the example


CAPTIONS = {"0": "a w1 and a w2", "1": ["w3 w3", "w2 beside w4"], "2": "w5", "3": "w2"}


def test_captions_make_a_shortlist():
    assert caption_shortlist("w4 w1", CAPTIONS) == ["1", "0"]
    assert caption_shortlist("w2", CAPTIONS)[0] == "3" and len(caption_shortlist("w2", CAPTIONS, 2)) == 2
    for query, captions, count, named in (
        ("w9", CAPTIONS, 5, "none of 5 has a word of the query 'w9'"),
        ("w1", {}, 5, "captions must be at least one"),
        ("w1", CAPTIONS, 0, "count must be at least 1"),
        ("w1", {"7": "?!", "8": [""]}, 5, "captions: none of 2 has a word, as '\\?!' of '7'"),
        ("w1", {"1": None}, 5, "captions: those of '1' must be a text or a list of texts, got None"),
        ("w1", {"1": ["w1", 2]}, 5, "captions: those of '1' must be"),
    ):
        with pytest.raises(ValueError, match=named):
            caption_shortlist(query, captions, count)


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder with `model`, a `store` of five images, and `captions.json` of some of them and another."""
    new_model().save_pretrained(tmp_path / "model")
    new_processor().save_pretrained(tmp_path / "model")
    records = [some_regions(np.random.default_rng(number), 2 + number, image_id=number) for number in range(5)]
    write_regions(records, tmp_path / "store")
    (tmp_path / "captions.json").write_text(json.dumps({**CAPTIONS, "99": "w2"}))
    return tmp_path


def test_the_command(saved, capsys):
    command = ["search", "w2 w1", "--regions", str(saved / "store"), "--model", str(saved / "model")]
    store = open_regions(saved / "store")
    scores = plain(new_model(), ["w2 w1"], dict(store))[0]
    assert main([*command, "--top", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for _, name in lines] == [str(place) for place in (-scores).argsort()[:3]]
    assert [float(score) for score, _ in lines] == pytest.approx(sorted(scores, reverse=True)[:3], abs=1e-4)

    assert main([*command, "--captions", str(saved / "captions.json")]) == 0
    names = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert names == sorted(["0", "1", "3"], key=lambda name: -scores[int(name)])
    assert main([*command, "--captions", str(saved / "captions.json"), "--shortlist", "1"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [
        caption_shortlist("w2 w1", CAPTIONS)[0]
    ]
    found = search(new_scorer(), "w2 w1", store, 2, read_captions(saved / "captions.json"))
    assert [name for name, _ in found] == names[:2]


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["search", " "], "at least one word"),
        (["search", "w1", "--top", "0"], "top_k must be a whole number"),
        (["search", "w1", "--model", "nowhere"], "nowhere is not the folder of a saved model"),
        (["search", "w1", "--regions", "nowhere"], "nowhere does not exist"),
        (["search", "w1", "--captions", "model/config.json"], "must be a text or a list of texts"),
        (["search", "w1", "--captions", "list.json"], "must be {image id: caption or captions}, got list"),
        (["search", "w1", "--captions", "other.json"], "none of 1 is of an image of the store, which has 5"),
        (["search", "w1", "--shortlist", "3"], "--shortlist is of the images that --captions describe"),
        (["search", "w1", "--captions", "captions.json", "--shortlist", "0"], "count must be at least 1"),
        (["search", "w9", "--captions", "captions.json"], "none of 5 has a word of the query 'w9'"),
    ],
)
def test_bad_commands_are_named(arguments, named, saved, monkeypatch, capsys):
    monkeypatch.chdir(saved)
    Path("list.json").write_text("[]")
    Path("other.json").write_text('{"99": "w1"}')
    options = dict(zip(arguments[2::2], arguments[3::2]))
    given = {"--regions": "store", "--model": "model", **options}
    assert main([*arguments[:2], *(part for pair in given.items() for part in pair)]) == 1
    captured = capsys.readouterr()
    assert named in captured.err and not captured.out


def test_the_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    import small_model

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["retrieve.py", *arguments])
        runpy.run_path(str(EXAMPLES / "retrieve.py"), run_name="__main__")
        return capsys.readouterr().out

    torch.manual_seed(0)
    ViLBertForPreTraining(small_model.small_config()).save_pretrained("model")
    small_model.new_processor().save_pretrained("model")
    sizes = ["--scenes", "scenes", "--train_scenes", "8", "--test_scenes", "8"]
    printed = run(*sizes, "--model", "model", "--pairs", "30", "--output", "out")
    for line in (
        r"plain padded loop +[\d,]+ pairs/s",
        r"ImageTextScorer +[\d,]+ pairs/s",
        "text_to_image_recall@1 +[01]",
    ):
        assert re.search(line, printed), printed
    assert float(re.search(r"greatest difference of a score: (\S+)", printed)[1]) < 1e-4
    scores = np.load("out/scores.npy")
    assert scores.shape[1] == 8 and np.isfinite(scores).all()

    # As torchrun starts it, also where no scenes have been composed.
    def run_one(number: int, count: int, port: int):
        join_processes(number, count, port)
        run("--scenes", "more", *sizes[2:], "--model", "model", "--output", "two")

    assert in_processes(run_one, 2) == [0, 0]
    np.testing.assert_allclose(np.load("two/scores.npy"), scores, atol=1e-5)
    with pytest.raises(SystemExit, match="runs/pretrain holds no model"):
        run(*sizes)
