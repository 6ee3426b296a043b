"""Regions and words become padded tensors: what is kept, what is padding, and what cannot be one batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config
from transformers import AutoImageProcessor, AutoProcessor, BertTokenizer

from modeling_vilbert import (
    Regions,
    ViLBertForImagesAndTextClassification,
    ViLBertImageProcessor,
    ViLBertModel,
    ViLBertProcessor,
)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "colour", "is", "it", "red", "cube"]
WHOLE = [0.0, 0.0, 1.0, 1.0, 1.0]


def record(count: int, width: int = 14, seed: int = 0, **fields) -> Regions:
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 5, (count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(0, 4, (count, 2))], 1)
    features = generator.normal(size=(count, width)).astype(np.float32)
    return Regions(**{"boxes": boxes, "features": features, "image_size": (13, 9), **fields})


@pytest.fixture
def tokenizer(tmp_path: Path) -> BertTokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return BertTokenizer(str(tmp_path / "vocab.txt"))


@pytest.fixture
def processor(tokenizer) -> ViLBertProcessor:
    return ViLBertProcessor(ViLBertImageProcessor(), tokenizer)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("tensors", ["pt", "np", None])
def test_padding_mask_and_global_region(whole, tensors):
    records = [record(2), record(5, seed=1), record(3, seed=2)]
    batch = ViLBertImageProcessor(add_global_region=whole)(records, return_tensors=tensors)
    kind = torch.Tensor if tensors == "pt" else np.ndarray
    assert all(isinstance(value, kind) for value in batch.values())
    features, locations, mask = (
        np.asarray(batch[f"region_{name}"]) for name in ("features", "locations", "attention_mask")
    )
    more = int(whole)
    assert features.shape == (3, 5 + more, 14) and locations.shape == (3, 5 + more, 5)
    assert features.dtype == locations.dtype == np.float32 and mask.dtype == np.int64
    assert mask.sum(1).tolist() == [2 + more, 5 + more, 3 + more] and (np.diff(mask, axis=1) <= 0).all()
    assert not features[mask == 0].any() and not locations[mask == 0].any()
    for i, one in enumerate(records):
        np.testing.assert_array_equal(features[i, more : more + len(one)], one.features)
        np.testing.assert_array_equal(locations[i, more : more + len(one)], one.locations())
        if whole:
            np.testing.assert_allclose(features[i, 0], one.features.mean(0), atol=1e-5, rtol=1e-5)
            assert locations[i, 0].tolist() == WHOLE


def kept(one: Regions, max_regions: int | None) -> list[int]:
    """Which regions are in the output, by their features."""
    batch = ViLBertImageProcessor(max_regions=max_regions)([one])
    np.testing.assert_allclose(batch["region_features"][0, 0], one.features.mean(0), atol=1e-5, rtol=1e-5)
    rows = [row.tolist() for row in one.features]
    found = [rows.index(row.tolist()) for row in batch["region_features"][0, 1:]]
    np.testing.assert_array_equal(batch["region_locations"][0, 1:], one.locations()[found])
    return found


@pytest.mark.parametrize(
    "scores, max_regions, expected",
    [
        (None, 3, [0, 1, 2]),
        (None, None, [0, 1, 2, 3, 4, 5]),
        (None, 9, [0, 1, 2, 3, 4, 5]),
        ([0.1, 0.9, 0.3, 0.8, 0.2, 0.7], 3, [1, 3, 5]),
        ([0.1, 0.9, 0.3, 0.8, 0.2, 0.7], None, [0, 1, 2, 3, 4, 5]),
        ([0.5, 0.9, 0.5, 0.5, 0.1, 0.5], 3, [0, 1, 2]),
        ([0.5] * 6, 4, [0, 1, 2, 3]),
        ([0.0, -0.1, -0.2, 0.0, 0.0, -5], 2, [0, 3]),
        (np.array([1, 200, 3, 100, 2, 0], np.uint8), 2, [1, 3]),
        ([0, 1, 0, 1, 0, 1], 1, [1]),
        ([0.5] * 50 + [0.7], 20, [*range(19), 50]),
    ],
)
def test_the_best_are_kept_in_their_order(scores, max_regions, expected):
    assert kept(record(6 if scores is None else len(scores), scores=scores), max_regions) == expected


def test_the_default_keeps_a_hundred():
    assert ViLBertImageProcessor()([record(123)])["region_features"].shape == (1, 101, 14)


@pytest.mark.parametrize("change", [{"max_regions": 2}, {"max_regions": None}, {"add_global_region": False}])
def test_a_call_overrides_the_settings(change, processor):
    settings = {"max_regions": 3, "add_global_region": True}
    expected = ViLBertImageProcessor(**{**settings, **change})([record(5)])
    processor.image_processor = ViLBertImageProcessor(**settings)
    for batch in (processor.image_processor([record(5)], **change), processor(images=record(5), text="red", **change)):
        np.testing.assert_array_equal(batch["region_features"], expected["region_features"])
    assert processor.image_processor([record(5)])["region_features"].shape[1] == 4


@pytest.mark.parametrize("give", ["ours", "record", "call"])
def test_dicts_with_another_box_format(give):
    fields = {"boxes": [[1, 2, 3, 4]], "features": np.ones((1, 3)), "image_size": (13, 9), "image_id": "a"}
    processor = ViLBertImageProcessor(box_format="xywh" if give == "ours" else "xyxy")
    own = {"box_format": "xywh"} if give == "record" else {}
    batch = processor({**fields, **own}, **({"box_format": "xywh"} if give == "call" else {}))
    expected = [1 / 13, 2 / 9, 4 / 13, 6 / 9, 3 * 4 / (13 * 9)]
    np.testing.assert_allclose(batch["region_locations"][0], [WHOLE, expected], atol=1e-5, rtol=1e-5)
    assert set(fields) == {"boxes", "features", "image_size", "image_id"}


def test_lists_of_lists_make_an_axis_of_images():
    records = [[record(2), record(4, seed=1)], [record(3, seed=2), record(1, seed=3)], [record(5, seed=4), record(1)]]
    batch, single = ViLBertImageProcessor()(records), ViLBertImageProcessor()([one for pair in records for one in pair])
    assert batch["region_features"].shape == (3, 2, 6, 14) and batch["region_attention_mask"].shape == (3, 2, 6)
    for name, value in batch.items():
        np.testing.assert_array_equal(value.reshape(6, *value.shape[2:]), single[name])


def test_one_image_is_a_batch_of_one_in_any_wrapping():
    first, *others = (ViLBertImageProcessor()(images) for images in (record(2), [record(2)], (record(2),)))
    assert all(np.array_equal(other["region_features"], first["region_features"]) for other in others)
    assert first["region_features"].shape == (1, 3, 14)


def test_half_precision_features_stay_so():
    one = record(3, features=np.full((3, 4), 60000, np.float16))
    batch = ViLBertImageProcessor()([one], return_tensors="pt")
    # The sum of three would be infinite in half precision, the mean is not.
    assert batch["region_features"].dtype == torch.float16 and batch["region_features"].isfinite().all()
    assert batch["region_locations"].dtype == torch.float32


def picture():
    return pytest.importorskip("PIL.Image").new("RGB", (13, 9))


WRONG = {
    "picture": (picture, "turned into regions first"),
    "pictures": (lambda: [picture()], "images.0. must be Regions .* got Image. A picture has to be turned"),
    "file name": (lambda: "cat.jpg", "images must be Regions"),
    "file names": (lambda: ["cat.jpg"], "images.0. must be Regions"),
    "array": (lambda: np.zeros((9, 13, 3)), "turned into regions first"),
    "nothing": (lambda: [], "not empty"),
    "lists of nothing": (lambda: [[], []], "images must be all single, or lists of one length"),
    "unequal lists": (lambda: [[record(1), record(1)], [record(1)]], "lists of one length"),
    "single and list": (lambda: [record(1), [record(1)]], "all single, or lists"),
    "three axes": (lambda: [[[record(1)]]], "images.0. must be Regions .* got list"),
    "widths": (lambda: [record(1), record(2, width=5), record(1, width=9)], r"got widths \[5, 9, 14\]"),
    "no regions": (lambda: [record(1), record(0, image_id="empty")], "'empty' has no region"),
    "a field too few": (lambda: {"boxes": [[0, 0, 1, 1]], "features": [[1.0]]}, "images.0. .* 'image_size'"),
    "a field too many": (lambda: [record(1), {**vars(record(1)), "size": 3}], "images.1. .* 'size'"),
    "a wrong record": (
        lambda: {"boxes": [[0, 0, 14.5, 1]], "features": [[1.0]], "image_size": (13, 9), "image_id": "b"},
        "of image 'b'",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_images(wrong, processor):
    images, message = WRONG[wrong][0](), WRONG[wrong][1]
    with pytest.raises(ValueError, match=message):
        processor.image_processor(images)
    text = ["red"] * len(images) if isinstance(images, list) else "red"
    with pytest.raises(ValueError, match=message):
        processor(images=images, text=text)


def test_images_without_regions():
    processor = ViLBertImageProcessor(add_global_region=False)
    batch = processor([record(2), record(0)])
    assert batch["region_attention_mask"].tolist() == [[1, 1], [0, 0]]
    with pytest.raises(ValueError, match="no image has a region"):
        processor([record(0), record(0)])


@pytest.mark.parametrize(
    "settings", [{"max_regions": 0}, {"max_regions": -2}, {"max_regions": 1.5}, {"box_format": "xy"}]
)
def test_wrong_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ViLBertImageProcessor(**settings)
    with pytest.raises(ValueError, match=next(iter(settings))):
        ViLBertImageProcessor()([record(1)], **settings)


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_regions": 7, "add_global_region": False, "box_format": "cxcywh"}, {"max_regions": None}],
)
def test_saving_and_loading(settings, tokenizer, tmp_path):
    ViLBertProcessor(ViLBertImageProcessor(**settings), tokenizer).save_pretrained(tmp_path / "both")
    ViLBertImageProcessor(**settings).save_pretrained(tmp_path / "images")
    both = AutoProcessor.from_pretrained(tmp_path / "both")
    assert type(both) is ViLBertProcessor and both.tokenizer("red cube")["input_ids"] == [2, 9, 10, 3]
    expected = {"max_regions": 100, "add_global_region": True, "box_format": "xyxy", **settings}
    for folder in ("both", "images"):
        loaded = AutoImageProcessor.from_pretrained(tmp_path / folder)
        assert type(loaded) is ViLBertImageProcessor
        assert {name: getattr(loaded, name) for name in expected} == expected
    assert {name: getattr(both.image_processor, name) for name in expected} == expected


def test_one_text_and_one_image_are_a_batch_of_one(processor):
    alone = processor(images=record(2), text="what is it", return_tensors="pt")
    listed = processor(images=[record(2)], text=["what is it"], return_tensors="pt")
    assert alone["input_ids"].tolist() == [[2, 5, 7, 8, 3]]
    assert set(alone) == set(listed) == set(processor.model_input_names)
    assert all(torch.equal(value, listed[name]) for name, value in alone.items())
    assert processor(images=record(2), text="it")["input_ids"] == [[2, 8, 3]]


@pytest.mark.parametrize(
    "images, text, counts",
    [
        (lambda: [record(1)] * 2, "red", "2 images and 1 texts"),
        (lambda: record(1), ["red", "it"], "1 images and 2 texts"),
        (lambda: [[record(1)] * 2] * 3, ["red"] * 2, "3 images and 2 texts"),
    ],
)
def test_as_many_images_as_texts(images, text, counts, processor):
    with pytest.raises(ValueError, match=counts):
        processor(images=images(), text=text)


def test_either_alone_and_none(processor):
    assert set(processor(text="red")) == {"input_ids", "token_type_ids", "attention_mask"}
    assert set(processor(images=record(1))) == set(ViLBertImageProcessor.model_input_names)
    with pytest.raises(ValueError, match="at least one input"):
        processor()


def test_the_tokenizer_may_be_told_otherwise(processor):
    inputs = processor(
        images=record(1), text="what colour is it", truncation=True, max_length=4, padding="max_length",
        return_tensors="pt",
    )  # fmt: skip
    assert inputs["input_ids"].tolist() == [[2, 5, 6, 3]]
    padded = processor(images=record(1), text="it", max_length=6, padding="max_length", return_tensors="pt")
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0]]


def test_the_output_is_the_models_input_and_padding_does_not_matter(processor):
    torch.manual_seed(0)
    model = ViLBertModel(tiny_config()).eval()
    records, texts = [record(2), record(4, seed=1)], ["what colour is it", "red"]
    batch = model(**processor(images=records, text=texts, return_tensors="pt"))
    for i, (one, text) in enumerate(zip(records, texts)):
        single = model(**processor(images=one, text=text, return_tensors="pt"))
        for name in ("text_pooler_output", "vision_pooler_output"):
            torch.testing.assert_close(batch[name][i], single[name][0], atol=1e-5, rtol=1e-5)

    pairs = ViLBertForImagesAndTextClassification(tiny_config(num_labels=3)).eval()
    inputs = processor(images=[records, records[::-1]], text=texts, return_tensors="pt")
    assert pairs(**inputs).logits.shape == (2, 3)
