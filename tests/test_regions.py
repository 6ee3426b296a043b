"""`Regions` takes boxes and features in any usual form, and says by name what is wrong with the others."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch

from modeling_vilbert import Regions
from modeling_vilbert.regions import concatenate_regions


# One box of 3 x 2 pixels and one of 4 x 6, in an image of 11 x 7.
BOXES = {
    "xyxy": [[1, 2, 4, 4], [5, 1, 9, 7]],
    "xywh": [[1, 2, 3, 2], [5, 1, 4, 6]],
    "cxcywh": [[2.5, 3, 3, 2], [7, 4, 4, 6]],
}
LOCATIONS = [
    [1 / 11, 2 / 7, 4 / 11, 4 / 7, 3 * 2 / 77],
    [5 / 11, 1 / 7, 9 / 11, 1, 4 * 6 / 77],
]
FORMS = {
    "lists": lambda value: value,
    "tuples": lambda value: tuple(tuple(row) for row in value),
    "float64": lambda value: np.array(value, np.float64),
    "float16": lambda value: np.array(value, np.float16),
    "torch": lambda value: torch.tensor(value, dtype=torch.float32, requires_grad=True),
    "bfloat16": lambda value: torch.tensor(value, dtype=torch.bfloat16),
    "rows of torch": lambda value: [torch.tensor(row) for row in value],
}


def regions(**fields) -> Regions:
    given = {"boxes": BOXES["xyxy"], "features": np.arange(10.0).reshape(2, 5), "image_size": (11, 7)}
    return Regions(**{**given, "image_id": "COCO_0017", **fields})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("box_format", BOXES)
def test_box_formats_in_every_form(box_format, form):
    record = regions(boxes=FORMS[form](BOXES[box_format]), box_format=box_format)
    assert record.boxes.dtype == np.float32 and record.boxes.tolist() == BOXES["xyxy"]
    np.testing.assert_allclose(record.locations(), LOCATIONS, atol=1e-5, rtol=1e-5)
    assert record.locations().dtype == np.float32 and len(record) == 2


@pytest.mark.parametrize("box_format", ["xyxy", "xywh"])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int16])
def test_whole_numbers(box_format, dtype):
    # 5 + 250 would not fit into a byte.
    boxes = {"xyxy": [[5, 3, 255, 7]], "xywh": [[5, 3, 250, 4]]}[box_format]
    record = Regions(np.array(boxes, dtype), np.ones((1, 3), dtype), (300, 9), box_format=box_format)
    assert record.boxes.tolist() == [[5, 3, 255, 7]]
    assert record.features.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_features_keep_their_float_type(dtype):
    assert regions(features=np.ones((2, 3), dtype)).features.dtype == dtype
    assert regions(features=torch.from_numpy(np.ones((2, 3), dtype))).features.dtype == dtype


NAN, INF = float("nan"), float("inf")
FINE = np.ones((2, 5), np.float32)

# (field, a wrong value, what the message says beside field and image)
WRONG = [
    ("boxes", [[1, 2, 4, 4], [5, 1, NAN, 7]], "rows [1]"),
    ("boxes", [[-INF, 2, 4, 4], [5, 1, 9, 7]], "rows [0]"),
    ("boxes", [[1, 2, 4, 4], [9, 1, 5, 7]], "upside down"),
    ("boxes", [[1, 4, 4, 2], [5, 1, 9, 7]], "the first is number 0: [1.0, 4.0, 4.0, 2.0]"),
    ("boxes", [[1, 2, 4, 4], [5, 1, 9, 8.1]], "outside their image of 11 x 7"),
    ("boxes", [[-1.1, 2, 4, 4], [5, 1, 9, 7]], "outside"),
    ("boxes", [[1, -1.1, 4, 4], [5, 1, 9, 7]], "outside"),
    ("boxes", [[1, 2, 12.1, 4], [5, 1, 9, 7]], "1 of 2"),
    ("boxes", [1, 2, 4, 4], "[any, 4], got [4]"),
    ("boxes", [[1, 2, 4, 4, 0], [5, 1, 9, 7, 0]], "[any, 4], got [2, 5]"),
    ("boxes", [[1, 2, 4, 4], [5, 1, 9]], "unequal lengths"),
    ("boxes", np.ones((2, 4), bool), "dtype bool"),
    ("boxes", np.ones((2, 4), complex), "dtype complex"),
    ("boxes", [["1", "2", "4", "4"], ["5", "1", "9", "7"]], "must hold numbers"),
    ("boxes", None, "[any, 4]"),
    ("features", np.ones((3, 5)), "[2, any], got [3, 5]"),
    ("features", np.ones(2), "[2, any], got [2]"),
    ("features", np.ones((2, 5, 1)), "got [2, 5, 1]"),
    ("features", [[1, 2], [1]], "unequal lengths"),
    ("features", np.where(np.eye(2, 5), INF, FINE), "rows [0, 1]"),
    ("features", torch.ones(2, 5).bool(), "dtype bool"),
    ("features", [[None, 1], [1, 1]], "must hold numbers"),
    ("class_probs", np.ones((3, 4)), "[2, any], got [3, 4]"),
    ("class_probs", [[NAN, 1], [0, 1]], "rows [0]"),
    ("scores", [[0.5], [0.25]], "[2], got [2, 1]"),
    ("scores", [0.5], "[2], got [1]"),
    ("scores", [0.5, NAN], "rows [1]"),
    ("labels", ["cat"], "must be 2, one for each box, got 1"),
    ("attributes", ["red"], "must be 2, one for each box, got 1"),
    ("attribute_scores", [0.5], "[2], got [1]"),
    ("attribute_scores", [0.5, NAN], "rows [1]"),
    ("image_size", (11, 7, 3), "got (11, 7, 3)"),
    ("image_size", 11, "got 11"),
    ("image_size", (11, 0), "a width and a height"),
    ("image_size", (-11, 7), "got (-11, 7)"),
    ("image_size", (11, NAN), "nan"),
    ("image_size", (INF, 7), "inf"),
    ("image_size", ("wide", "high"), "'wide'"),
    ("image_size", (11, (7, 7)), "(7, 7)"),
    ("image_size", None, "None"),
    ("image_size", (True, True), "True"),
]


@pytest.mark.parametrize("field, value, says", WRONG)
def test_messages_name_the_field_and_the_image(field, value, says):
    with pytest.raises(ValueError) as error:
        regions(**{field: value})
    message = str(error.value)
    assert message.startswith(f"{field} of image 'COCO_0017'") and says in message
    with pytest.raises(ValueError, match=f"^{field}(?! of image)"):
        regions(**{field: value, "image_id": None})


@pytest.mark.parametrize("box_format", ["xywh", "cxcywh"])
@pytest.mark.parametrize("size", [(-3, 2), (3, -2)])
def test_a_negative_size_is_upside_down(box_format, size):
    with pytest.raises(ValueError, match="upside down"):
        regions(boxes=[[5, 4, *size]] * 2, box_format=box_format)


def test_a_wrong_format_shows():
    with pytest.raises(ValueError, match="box_format must be one of .*'cxcywh'.* got 'yxyx'"):
        regions(box_format="yxyx")
    # Corner and size read as two corners.
    with pytest.raises(ValueError, match="Is box_format the right one"):
        regions(boxes=BOXES["xywh"])


def test_a_box_may_leave_the_image_by_a_pixel_and_may_be_empty():
    record = regions(boxes=[[-1, -1, 12, 8], [4, 4, 4, 4]])
    assert record.boxes.tolist() == [[-1, -1, 12, 8], [4, 4, 4, 4]]
    np.testing.assert_allclose(record.locations()[1], [4 / 11, 4 / 7, 4 / 11, 4 / 7, 0], atol=1e-5, rtol=1e-5)


def test_an_image_without_regions():
    record = regions(boxes=np.zeros((0, 4)), features=np.zeros((0, 5)), scores=[], labels=[])
    assert len(record) == 0 and record.locations().shape == (0, 5) and record.features.shape == (0, 5)


@pytest.mark.parametrize("size", [[11, 7], np.array([11, 7]), torch.tensor([11, 7]), (11.0, 7.0)])
def test_image_sizes(size):
    record = regions(image_size=size)
    assert record.image_size == (11, 7) and isinstance(record.image_size, tuple)


def test_a_record_is_copied_and_changed_without_converting_its_boxes_again():
    record = regions(boxes=BOXES["cxcywh"], box_format="cxcywh", scores=[1, 0], labels=["cat", "cup"], source="grid")
    for other in (dataclasses.replace(record, image_id=3), copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert other.boxes.tolist() == BOXES["xyxy"] and other.scores.tolist() == [1.0, 0.0]
        assert (other.labels, other.source, other.image_size) == (["cat", "cup"], "grid", (11, 7))


def test_what_was_given_is_not_changed():
    boxes = np.array(BOXES["xywh"], np.float32)
    record = regions(boxes=boxes, box_format="xywh")
    record.boxes += 1
    assert boxes.tolist() == BOXES["xywh"]


# --- Regions of one image from several places


def test_boxes_and_features_come_one_after_the_other():
    one, two = regions(source="a detector"), regions(boxes=[[0, 0, 11, 7]], features=np.ones((1, 5)), image_id=17)
    both = concatenate_regions([one, two])
    assert both.boxes.tolist() == [*BOXES["xyxy"], [0, 0, 11, 7]] and both.features[2].tolist() == [1] * 5
    assert (both.image_id, both.image_size, both.source) == ("COCO_0017", (11, 7), "a detector")
    assert both.scores is None and both.labels is None and both.class_probs is None
    alone = concatenate_regions([one])
    assert alone is not one and alone.boxes.tolist() == one.boxes.tolist() and alone.source == one.source


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([None, None], None),
        ([[0.5, 0.25], None], [0.5, 0.25, 1, 1]),
        ([None, [0.5, 3]], [3, 3, 0.5, 3]),
        ([[0.5, 2], [4, -1]], [0.5, 2, 4, -1]),
    ],
)
def test_regions_without_a_score_are_certain(scores, expected):
    both = concatenate_regions([regions(scores=one) for one in scores])
    assert both.scores is None if expected is None else both.scores.tolist() == expected


def test_what_all_have_is_kept():
    full = {
        "class_probs": np.eye(2),
        "labels": ["cat", 3],
        "attributes": np.array([4, 5]),
        "attribute_scores": [0.5, 1],
    }
    both = concatenate_regions([regions(**full), regions(**full)])
    assert both.class_probs.tolist() == [[1, 0], [0, 1]] * 2 and both.labels == ["cat", 3] * 2
    assert both.attributes == [4, 5] * 2 and both.attribute_scores.tolist() == [0.5, 1] * 2
    for name in full:
        both = concatenate_regions([regions(**full), regions(**{**full, name: None})])
        assert [other for other in full if getattr(both, other) is None] == [name]
    assert concatenate_regions([regions(**full), regions(**{**full, "class_probs": np.eye(2, 3)})]).class_probs is None


def test_sources_are_named_once():
    records = [regions(source=source) for source in ("a", None, "b", "a")]
    assert concatenate_regions(records).source == "a + b"
    assert concatenate_regions(records[1:2]).source is None


def test_a_record_without_regions_changes_nothing_but_the_source():
    none = regions(boxes=np.zeros((0, 4)), features=np.zeros((0, 0)), source="given boxes")
    full = regions(class_probs=np.eye(2), labels=[1, 2], scores=[0.5, 0.25], source="a detector")
    both = concatenate_regions([none, full])
    assert both.features.shape == (2, 5) and both.scores.tolist() == [0.5, 0.25] and both.labels == [1, 2]
    assert both.class_probs is not None and both.source == "given boxes + a detector"
    assert len(concatenate_regions([none, none])) == 0


def test_what_does_not_fit_together_is_named():
    one = regions(source="a detector")
    with pytest.raises(ValueError, match=r"image sizes differ: \(11, 7\) .*\(a detector\), \(11, 8\) .*\(given\)"):
        concatenate_regions([one, regions(image_size=(11, 8), source="given")])
    with pytest.raises(ValueError, match="feature widths differ: 5 of image 'COCO_0017' .* 3 of image 9"):
        concatenate_regions([one, one, regions(features=np.ones((2, 3)), image_id=9)])
    with pytest.raises(ValueError, match="at least one"):
        concatenate_regions([])
