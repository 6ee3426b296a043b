"""Pictures or regions and words in, answers out: the processor's extractor, provenance, pipelines and commands."""

import copy
import json
import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config
from transformers import AutoProcessor, BertTokenizer, pipeline

from modeling_vilbert import (
    Regions,
    ViLBertForImageAndTextRetrieval,
    ViLBertForMultiTask,
    ViLBertForPreTraining,
    ViLBertForQuestionAnswering,
    ViLBertForVisualGrounding,
    ViLBertImageProcessor,
    ViLBertProcessor,
    check_features,
)
from modeling_vilbert.cli import main
from modeling_vilbert.extraction import Grid, RegionExtractor
from modeling_vilbert.processing_vilbert import SavedExtractor
from modeling_vilbert.regions import FORMATS, write_regions


Image = pytest.importorskip("PIL.Image")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "colour", "is", "it", "red", "cube"]
ANSWERS = ["yes", "no", "red", "blue", "cube"]
ANSWERING, GROUNDING, MATCHING = "region-visual-question-answering", "visual-grounding", "image-text-matching"
MODELS = {
    ANSWERING: ViLBertForQuestionAnswering,
    GROUNDING: ViLBertForVisualGrounding,
    MATCHING: ViLBertForImageAndTextRetrieval,
}
SIZE = (48, 30)


def record(count: int = 3, seed: int = 0, **fields) -> Regions:
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 20, (count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(1, 9, (count, 2))], 1)
    features = generator.normal(size=(count, 14)).astype(np.float32)
    return Regions(**{"boxes": boxes, "features": features, "image_size": SIZE, **fields})


def picture(colour: str = "red") -> "Image.Image":
    image = Image.new("RGB", SIZE, "grey")
    image.paste(colour, (0, 0, 24, 15))
    return image


class Corners:
    """Two regions of any picture; counts its calls."""

    source = "corners"

    def __init__(self):
        self.calls = []

    def __call__(self, pictures: list) -> list[Regions]:
        self.calls.append(len(pictures))
        return [self.regions(one) for one in pictures]

    def __deepcopy__(self, memo):
        raise AssertionError("An extractor may be large, and is not copied.")

    @staticmethod
    def regions(one) -> Regions:
        one = Image.open(one) if isinstance(one, (str, Path)) else one
        red = np.asarray(one.convert("RGB"))[0, 0, 0] / 255
        features = np.linspace(-1, 1, 28).reshape(2, 14) * (0.5 + red)
        return Regions([[0, 0, 24, 15], [24, 15, 48, 30]], features, one.size, labels=["left", "right"])


@pytest.fixture
def tokenizer(tmp_path: Path) -> BertTokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return BertTokenizer(str(tmp_path / "vocab.txt"))


@pytest.fixture
def processor(tokenizer) -> ViLBertProcessor:
    return ViLBertProcessor(ViLBertImageProcessor(), tokenizer, region_extractor=Corners())


def new_model(model_class=ViLBertForQuestionAnswering, **fields):
    torch.manual_seed(0)
    return model_class(tiny_config(id2label=dict(enumerate(ANSWERS)), **fields)).eval()


def planted(model: ViLBertForVisualGrounding) -> ViLBertForVisualGrounding:
    """A model whose score of a region is the first number of its feature."""
    torch.manual_seed(0)
    vision = model.vilbert.vision_embeddings
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(1)
    for linear in vision.modules():
        if isinstance(linear, torch.nn.Linear) and linear.in_features == 14:
            linear.weight.data[0, 0], linear.weight.data[1, 0] = 1, -1
    head = model.head if hasattr(model, "head") else model.heads["grounding"]
    head.classifier.weight.data[0, 0] = 1
    return model


def spotted(best: int, count: int = 4, **fields) -> Regions:
    """Regions of which a planted model takes number `best`."""
    features = np.zeros((count, 14), np.float32)
    features[:, 0] = -0.5
    features[best, 0] = 1
    return record(count, seed=count, features=features, **fields)


@pytest.fixture
def saved(processor, tmp_path):
    """A function that saves a model and a processor, with an extractor of such names if `extractor`."""

    def save(model, extractor: bool = True) -> Path:
        description = {
            "backbone": "efficientnet-lite0",
            "proposals": {"kind": "grid", "rows": 1, "columns": 2},
            "short_side": 64,
        }
        processor.region_extractor = SavedExtractor(description) if extractor else None
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


def wide(model_class):
    return new_model(model_class, v_feature_size=1280)


# The processor's extractor


def test_pictures_paths_and_regions_mixed(processor, tmp_path):
    picture().save(tmp_path / "a.png")
    found, own = Corners.regions(picture()), record(4)
    images = [picture(), own, tmp_path / "a.png", str(tmp_path / "a.png")]
    inputs = processor(images=images, text=["red"] * 4, return_tensors="pt")
    assert processor.region_extractor.calls == [3]
    expected = processor(images=[found, own, found, found], text=["red"] * 4, return_tensors="pt")
    assert all(torch.equal(inputs[name], value) for name, value in expected.items())
    assert processor.to_regions(own) is own and processor.to_regions(picture()).source == "corners"


@pytest.mark.parametrize("image", [picture, lambda: np.asarray(picture()), lambda: [picture()]], ids=str)
def test_one_picture_is_a_batch_of_one(image, processor):
    processor.region_extractor = RegionExtractor(torch.nn.AvgPool2d(32), Grid(1, 2))
    inputs = processor(images=image(), text="red", return_tensors="pt")
    assert inputs["region_features"].shape == (1, 3, 3) and inputs["input_ids"].shape == (1, 3)


def test_lists_of_pictures_make_an_axis_of_images(processor):
    inputs = processor(images=[[picture(), record(1)], [record(2), picture()]], text=["red", "it"])
    assert inputs["region_features"].shape == (2, 2, 3, 14) and processor.region_extractor.calls == [2]


def test_a_picture_without_an_extractor(tokenizer):
    processor = ViLBertProcessor(ViLBertImageProcessor(), tokenizer)
    for use in (lambda: processor(images=picture(), text="red"), lambda: processor.to_regions(picture())):
        with pytest.raises(ValueError, match=r"processor\.region_extractor = RegionExtractor"):
            use()
    processor.region_extractor = Corners()
    assert processor(images=picture(), text="red")["region_features"].shape == (1, 3, 14)
    processor.region_extractor = "efficientnet-lite0"
    with pytest.raises(ValueError, match="must be a callable.* got str"):
        processor(images=picture(), text="red")


def test_texts_are_counted_before_anything_is_extracted(processor):
    with pytest.raises(ValueError, match="2 images and 1 texts"):
        processor(images=[picture()] * 2, text="red")
    assert processor.region_extractor.calls == []


@pytest.mark.parametrize("wrong", [lambda pictures: [], lambda pictures: pictures])
def test_an_extractor_that_returns_something_else(wrong, processor):
    processor.region_extractor = wrong
    with pytest.raises(ValueError, match="region_extractor must return a list of Regions, one for each of 1"):
        processor(images=picture(), text="red")


def test_an_extractor_made_of_names_is_saved_and_made_anew_when_needed(tokenizer, tmp_path, monkeypatch):
    extractor = RegionExtractor("efficientnet-lite0", Grid(1, 2), short_side=64, long_side=128)
    processor = ViLBertProcessor(ViLBertImageProcessor(), tokenizer, region_extractor=extractor)
    processor.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "processor_config.json").read_text())
    assert saved["region_extractor"] == extractor.to_dict()

    made = []
    from_dict = RegionExtractor.from_dict
    monkeypatch.setattr(RegionExtractor, "from_dict", lambda settings: made.append(settings) or from_dict(settings))
    loaded = AutoProcessor.from_pretrained(tmp_path / "saved")
    loaded(images=record(), text="red")
    # Saved again without having been made.
    loaded.save_pretrained(tmp_path / "again")
    assert not made
    assert (
        json.loads((tmp_path / "again" / "processor_config.json").read_text())["region_extractor"]
        == saved["region_extractor"]
    )
    for _ in range(2):
        found = loaded.to_regions(picture())
    assert copy.copy(loaded.region_extractor).feature_size == 1280
    assert pickle.loads(pickle.dumps(loaded.region_extractor)).to_dict() == saved["region_extractor"]
    assert len(made) == 1 and found.source == extractor.source
    np.testing.assert_allclose(found.features, extractor(picture()).features, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "extractor, why",
    [
        (Corners, "Corners has no to_dict"),
        (lambda: RegionExtractor(torch.nn.AvgPool2d(32)), "if its backbone is a name"),
    ],
)
def test_an_extractor_that_cannot_be_saved_is_named(extractor, why, processor, tmp_path, caplog):
    processor.region_extractor = extractor()
    with caplog.at_level(logging.WARNING):
        repr(processor)
        assert not caplog.messages
        processor.save_pretrained(tmp_path / "saved")
    (message,) = caplog.messages
    assert why in message and "Attach it again after loading" in message
    assert AutoProcessor.from_pretrained(tmp_path / "saved").region_extractor is None


def test_a_saved_extractor_where_the_package_is_not(tokenizer, monkeypatch):
    processor = ViLBertProcessor(ViLBertImageProcessor(), tokenizer, region_extractor={"backbone": "x"})
    monkeypatch.setitem(sys.modules, "modeling_vilbert.extraction", None)
    with pytest.raises(ImportError, match=r"modeling-vilbert\[extract\]"):
        processor(images=picture(), text="red")
    assert processor(images=record(), text="red")["region_features"].shape == (1, 4, 14)


WITH_ITS_OWN_CODE = """
import sys
if {hidden}:
    sys.modules["modeling_vilbert"] = None  # any import of it fails
from PIL import Image
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

processor = AutoProcessor.from_pretrained("saved", trust_remote_code=True)
print(type(processor).__module__.split(".")[0])
model = AutoModelForVisualQuestionAnswering.from_pretrained("saved", trust_remote_code=True)
try:
    inputs = processor(images=Image.new("RGB", (48, 30)), text="red", return_tensors="pt")
    print(list(model(**inputs).logits.shape))
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("hidden, said", [(False, "[1, 5]"), (True, 'pip install "modeling-vilbert[extract]"')])
def test_a_saved_folder_with_its_own_code(hidden, said, saved, tmp_path):
    saved(wide(ViLBertForQuestionAnswering)).rename(tmp_path / "saved")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = subprocess.run(
        [sys.executable, "-c", WITH_ITS_OWN_CODE.format(hidden=hidden)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("transformers_modules") and said in result.stdout


# Provenance


def test_another_source_warns_once_a_pair_and_another_width_is_an_error(caplog):
    def config(source):
        return tiny_config(vision_config={"feature_size": 14, "num_hidden_layers": 3, "feature_source": source})

    with caplog.at_level(logging.WARNING):
        check_features(record(source="one"), config("one"))
        check_features([record(source=None), record(source="two")], config(None))
        check_features(record(source=None), config("one").vision_config)
        assert not caplog.messages
        check_features([record(source="two"), record(source="two"), record(source="three")], config("one"))
        check_features(record(source="two"), config("one"))
    assert len(caplog.messages) == 2
    assert "'two', the model was trained on 'one'" in caplog.messages[0] and "bad answers" in caplog.messages[0]
    wide = record(2, features=np.ones((2, 15)), image_id="a", source="four")
    with pytest.raises(ValueError, match="of image 'a' are 15 wide, the model reads 14 .* of four, .* trained on one"):
        check_features([record(), wide], config("one"))


def test_pipelines_check_features(processor, caplog):
    model = new_model()
    model.config.vision_config.feature_source = "somewhere else"
    pipe = pipeline(ANSWERING, model=model, processor=processor)
    with caplog.at_level(logging.WARNING):
        pipe(image=picture(), question="is it red")
        pipe(image=[picture(), picture()], question="is it red")
    assert sum("'corners', the model was trained on 'somewhere else'" in message for message in caplog.messages) == 1
    with pytest.raises(ValueError, match="15 wide"):
        pipe(image=record(2, features=np.ones((2, 15))), question="is it red")


# Pipelines


def close(one, other) -> bool:
    """Equal up to rounding of scores."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, abs=1e-5) if isinstance(one, float) else one == other


@pytest.mark.parametrize("task", MODELS)
@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_a_batch_gives_what_singles_give_also_from_a_saved_folder(task, batch_size, processor, tmp_path):
    pairs = [
        {"image": record(count, seed=count, scores=np.linspace(0, 1, count)), "text": text}
        for count, text in ((2, "red"), (6, "what colour is it"), (1, "is it"), (4, "red cube"), (5, "it"))
    ]
    pairs.insert(1, {"image": picture(), "question": "is it red"})
    processor.image_processor.max_regions = 4
    made = pipeline(task, model=new_model(MODELS[task]), processor=processor)
    singles = [made(pair) for pair in pairs]
    assert close(made(pairs), singles) and close(made(pairs, batch_size=batch_size), singles)
    assert close(list(made((pair for pair in pairs), batch_size=batch_size)), singles)
    assert not close(singles[0], singles[2])

    made.save_pretrained(tmp_path / "saved")
    loaded = pipeline(task, model=tmp_path / "saved", device="cpu", batch_size=batch_size)
    loaded.processor.region_extractor = Corners()
    assert type(loaded) is type(made) and type(loaded.model) is MODELS[task]
    assert close(loaded(pairs), singles)


def test_answers_and_their_scores(processor):
    model = new_model()
    pipe = pipeline(ANSWERING, model=model, processor=processor, top_k=2)
    with torch.no_grad():
        logits = model(**processor(images=record(), text="is it red", return_tensors="pt")).logits[0]
    found = pipe(image=record(), question="is it red")
    assert found == pipe({"image": record(), "question": "is it red"}) == pipe(image=record(), text="is it red")
    assert [one["answer"] for one in found] == [ANSWERS[label] for label in logits.topk(2).indices]
    assert found[0]["score"] == pytest.approx(logits.softmax(-1).max().item(), abs=1e-5)
    everything = pipe(image=record(), question="is it red", top_k=9)
    assert len(everything) == len(ANSWERS) and sum(one["score"] for one in everything) == pytest.approx(1)
    alone = pipe(image=record(), question="is it red", function_to_apply="sigmoid")
    assert alone[0]["score"] == pytest.approx(logits.sigmoid().max().item(), abs=1e-5)


def test_lists_as_keyword_arguments(processor):
    pipe = pipeline(ANSWERING, model=new_model(), processor=processor)
    one, two, three = (pipe(image=picture(colour), question=text) for colour, text in
                       (("red", "is it"), ("red", "red cube"), ("blue", "is it")))  # fmt: skip
    processor.region_extractor.calls.clear()
    # One image is made into regions once, however many questions there are.
    assert close(pipe(image=picture(), question=["is it", "red cube"]), [one, two])
    assert close(pipe(image=[picture(), picture("blue")], question="is it", batch_size=2), [one, three])
    assert processor.region_extractor.calls == [1, 2]
    assert close(pipe(image=(picture(), picture("blue")), question=("red cube", "is it")), [two, three])
    assert pipe([]) == pipe(image=[], question=[]) == []


@pytest.mark.parametrize("model_class", [ViLBertForVisualGrounding, ViLBertForMultiTask])
@pytest.mark.parametrize("global_region", [True, False])
def test_the_box_of_the_region_that_wins(model_class, global_region, processor):
    tasks = {"grounding": {"head": "grounding"}}
    pipe = pipeline(GROUNDING, model=planted(new_model(model_class, tasks=tasks)), processor=processor, batch_size=3)
    processor.image_processor.add_global_region = global_region
    labels = ["a", "b", "c", "d"]
    images = [spotted(2, labels=labels), spotted(0), spotted(5, 7), spotted(3)]
    found = pipe(image=images, text="red")
    assert [one["region"] for one in found] == [2, 0, 5, 3]
    for one, regions in zip(found, images):
        np.testing.assert_array_equal(one["box"], regions.boxes[one["region"]])
    assert [one["label"] for one in found] == ["c", None, None, None]
    assert all(0.5 < one["score"] < 1 for one in found)

    ranked = pipe(image=images, text="red", top_k=9)
    assert [len(regions) for regions in ranked] == [len(regions) for regions in images]
    best = pipe(image=images[0], text="red", top_k=9, function_to_apply="softmax")
    assert best[0]["region"] == 2 and len(best) == 4 and sum(one["score"] for one in best) == pytest.approx(1)


def test_of_regions_that_were_left_out_none_is_the_answer(processor):
    pipe = pipeline(GROUNDING, model=planted(new_model(ViLBertForVisualGrounding)), processor=processor)
    processor.image_processor.max_regions = 2
    # Rows 1 and 4 are kept, as second and third of the model's three regions.
    regions = spotted(4, 5, scores=[0.1, 0.8, 0.2, 0.3, 0.9])
    assert pipe(image=regions, text="red")["region"] == 4
    assert [one["region"] for one in pipe(image=regions, text="red", top_k=5)] == [4, 1]
    assert {one["region"] for one in pipe(image=spotted(0, 5, scores=regions.scores), text="red", top_k=5)} == {1, 4}


def test_the_whole_image_wins_only_if_it_may(processor):
    pipe = pipeline(GROUNDING, model=planted(new_model(ViLBertForVisualGrounding)), processor=processor)
    # The mean of the two is above the second, and the first is below all.
    features = np.zeros((2, 14), np.float32)
    features[:, 0] = [-3, 1]
    regions = record(2, features=features)
    assert pipe(image=regions, text="red")["region"] == 1
    asked = pipe(image=regions, text="red", whole_image=True, top_k=3)
    assert [one["region"] for one in asked] == [1, None, 0] or [one["region"] for one in asked] == [1, 0, None]
    (whole,) = (one for one in asked if one["region"] is None)
    assert whole["box"] == [0, 0, *SIZE] and whole["label"] is None


def test_matching_scores(processor):
    model = new_model(ViLBertForPreTraining)
    inputs = processor(images=record(), text="red cube", return_tensors="pt")
    pipe = pipeline(MATCHING, model=model, processor=processor)
    with torch.no_grad():
        aligned = model(**inputs).alignment_logits.softmax(-1)[0, 0].item()
    # No vocabulary is asked for it.
    model.text_head.forward = model.region_head.forward = None
    assert pipe(image=record(), text="red cube")["score"] == pytest.approx(aligned, abs=1e-5)

    model = new_model(ViLBertForImageAndTextRetrieval)
    pipe = pipeline(MATCHING, model=model, processor=processor)
    with torch.no_grad():
        logit = model(**inputs).logits[0, 0]
    assert pipe(image=record(), text="red cube") == {"score": pytest.approx(logit.sigmoid().item(), abs=1e-5)}
    raw = pipe(image=record(), text="red cube", function_to_apply="none")["score"]
    assert raw == pytest.approx(logit.item(), abs=1e-5)


TASKS = {
    "vqa": {"head": "question_answering", "num_labels": 3, "task_token": 1, "id2label": {0: "a", 1: "b", 2: "c"}},
    "gqa": {"head": "question_answering", "num_labels": 2, "task_token": 2},
    "retrieval": {"head": "matching", "task_token": 3},
    "grounding": {"head": "grounding", "task_token": 4},
}


def test_a_model_of_many_tasks(processor, tmp_path):
    model = new_model(ViLBertForMultiTask, tasks=TASKS, num_task_tokens=7)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline(ANSWERING, model=str(tmp_path))
    assert type(pipe.model) is ViLBertForMultiTask
    pairs = [{"image": record(2), "text": "red"}, {"image": record(3, seed=1), "text": "is it red"}]
    for answers in (*pipe(pairs), *pipe(pairs, batch_size=2)):
        assert {one["answer"] for one in answers} == {"a", "b", "c"}
    for answers in (pipe(pairs[0], head="gqa"), *pipe(pairs, head="gqa", batch_size=2)):
        assert {one["answer"] for one in answers} == {"LABEL_0", "LABEL_1"}
    assert not close(pipe(pairs[0]), pipe(pairs[0], task_token=5))
    assert pipeline(ANSWERING, model=str(tmp_path), head="gqa")(pairs[0]) == pipe(pairs[0], head="gqa")
    for task in (GROUNDING, MATCHING):
        assert "score" in pipeline(task, model=str(tmp_path))(pairs[0])
    with pytest.raises(ValueError, match=r"head must be one of \['gqa', 'vqa'\].*'grounding'"):
        pipe(pairs[0], head="grounding")


def test_a_model_of_one_task_with_task_tokens_has_to_be_told(processor):
    pipe = pipeline(ANSWERING, model=new_model(num_task_tokens=7), processor=processor)
    with pytest.raises(ValueError, match="task_ids must be given"):
        pipe(image=record(), text="red")
    assert len(pipe(image=record(), text="red", task_token=1)) == 5
    with pytest.raises(ValueError, match="task_token must be within 0 to 6, got 7"):
        pipe(image=record(), text="red", task_token=7)
    with pytest.raises(ValueError, match="task_token must be None, since .* got 1"):
        pipeline(ANSWERING, model=new_model(), processor=processor, task_token=1)


def test_dropout_is_off(processor):
    pipe = pipeline(ANSWERING, model=new_model().train(), processor=processor)
    assert pipe(image=record(), text="red") == pipe(image=record(), text="red")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda pipe: pipe(image=record()), "Both are needed"),
        (lambda pipe: pipe({"image": record()}), r"A pair must be .* got \['image'\]"),
        (lambda pipe: pipe(record()), "A pair must be .* got Regions"),
        (lambda pipe: pipe({"image": record(), "text": ["red"]}), "one string, got list"),
        (lambda pipe: pipe({"image": vars(record()), "text": "red"}), "a picture or Regions, got dict"),
        (lambda pipe: pipe({"image": record(), "text": "red"}, text="it"), "not both"),
        (lambda pipe: pipe(image=[record()] * 2, text=["red"] * 3), "got 2 images and 3 texts"),
        (lambda pipe: pipe(image=record(), text="red", top_k=0), "top_k must be at least 1, got 0"),
        (lambda pipe: pipe(image=record(), text="red", function_to_apply="relu"), "function_to_apply must be one of"),
        (lambda pipe: pipe(image=record(), text="red", whole_image=True), r"does not know \['whole_image'\]"),
        (lambda pipe: pipe(image=record(), text="red", head="vqa"), "head is for ViLBertForMultiTask"),
        (lambda pipe: pipe(image=record(), text="red " * 30), "30 tokens|32 tokens"),
        (lambda pipe: pipe(image=picture(), text="red"), r"processor\.region_extractor = RegionExtractor"),
    ],
)
def test_wrong_calls(call, message, processor):
    processor.region_extractor = None
    with pytest.raises(ValueError, match=message):
        call(pipeline(ANSWERING, model=new_model(), processor=processor))


def test_wrong_models(processor, tmp_path):
    with pytest.raises(ValueError, match="model must be one of .* got ViLBertForVisualGrounding"):
        pipeline(ANSWERING, model=new_model(ViLBertForVisualGrounding), processor=processor)
    new_model(ViLBertForVisualGrounding).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a ViLBertForVisualGrounding"):
        pipeline(ANSWERING, model=str(tmp_path))
    tasks = {"one": TASKS["gqa"], "two": TASKS["gqa"], "see": TASKS["grounding"]}
    with pytest.raises(ValueError, match=r"head must be one of \['one', 'two'\]"):
        pipeline(ANSWERING, model=new_model(ViLBertForMultiTask, tasks=tasks), processor=processor)
    assert pipeline(GROUNDING, model=new_model(ViLBertForMultiTask, tasks=tasks), processor=processor)


# Commands and documents


def test_answer(saved, tmp_path, capsys):
    picture().save(tmp_path / "a.png")
    folder = saved(wide(ViLBertForQuestionAnswering))
    assert main(["answer", str(tmp_path / "a.png"), "is it red", "--model", str(folder), "--top-k", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    expected = pipeline(ANSWERING, model=folder)(image=tmp_path / "a.png", question="is it red", top_k=3)
    assert lines == [[f"{one['score']:.4f}", one["answer"]] for one in expected]


def test_ground(saved, tmp_path, capsys):
    picture().save(tmp_path / "a.png")
    folder = saved(wide(ViLBertForVisualGrounding))
    arguments = [
        "ground",
        str(tmp_path / "a.png"),
        "red cube",
        "--model",
        str(folder),
        "--output",
        str(tmp_path / "b.png"),
    ]
    assert main(arguments) == 0
    expected = pipeline(GROUNDING, model=folder)(image=tmp_path / "a.png", text="red cube")
    said = capsys.readouterr().out
    assert " ".join(f"{side:.1f}" for side in expected["box"]) in said and f"{expected['score']:.4f}" in said
    drawn, plain = np.asarray(Image.open(tmp_path / "b.png")), np.asarray(picture())
    x1, y1, x2, y2 = (int(side) for side in expected["box"])
    changed = (drawn != plain).any(-1)
    assert (
        drawn.shape == plain.shape
        and changed[y1:y2, x1:x2].any()
        and not changed[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4].any()
    )
    outside = changed.copy()
    outside[y1 : y2 + 1, x1 : x2 + 1] = False
    assert not outside.any()


@pytest.mark.parametrize("image", ["7", "7.png"])
def test_regions_of_a_store(image, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = saved(planted(new_model(ViLBertForVisualGrounding)), extractor=False)
    regions = spotted(2, image_id="7", labels=["a", "b", "c", "d"])
    write_regions([regions, record(image_id="8")], "store")
    if image.endswith("png"):
        # A smaller copy of the picture.
        picture().resize((24, 15)).save(image)
    arguments = ["ground", image, "red", "--model", str(folder), "--regions", "store", "--output", "b.png"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert " ".join(f"{side:.1f}" for side in regions.boxes[2]) in said and "label    c" in said
    drawn = np.asarray(Image.open("b.png").convert("RGB")).astype(int)
    red = (drawn[..., 0] == 255) & (drawn[..., 1:].sum(-1) == 0)
    scale = drawn.shape[1] / SIZE[0]
    centre = (regions.boxes[2, :2] + [0, 2]) * scale
    assert red[round(centre[1]), round(centre[0])] and drawn.shape[:2] == ((15, 24) if "." in image else (400, 640))


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, "no region_extractor.*--regions"),
        ({"--model": "nowhere"}, "--model nowhere is not the folder of a saved model"),
        ({"--regions": "store", "image": "9"}, "--regions store has no image '9'"),
        ({"--regions": "nowhere", "image": "7"}, "nowhere does not exist"),
        ({"--regions": "store", "image": "wrong/7.png"}, "There is no file wrong/7.png. .* give the id '7'"),
        ({"--regions": "store", "image": "7.png"}, "The image is of 48 x 10 pixels, its regions are of"),
        ({"--regions": "store", "image": "7", "--head": "vqa"}, "head is for ViLBertForMultiTask"),
        ({"--regions": "store", "image": "7", "--task-token": "3"}, "task_token must be None"),
        ({"--regions": "store", "image": "7", "--output": "b.gif"}, "--output must end in .png"),
        ({"--regions": "store", "image": "7", "command": "answer", "--output": None}, "holds a ViLBertForVisualGr"),
    ],
)
def test_commands_say_what_is_wrong(change, message, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture().save("a.png")
    picture().resize((48, 10)).save("7.png")
    write_regions([record(image_id="7")], "store")
    folder = saved(new_model(ViLBertForVisualGrounding), extractor=False)
    options = {"command": "ground", "image": "a.png", "--model": str(folder), "--output": "b.png", **change}
    command, image = options.pop("command"), options.pop("image")
    capsys.readouterr()
    arguments = [word for name, value in options.items() if value is not None for word in (name, value)]
    assert main([command, image, "red", *arguments]) == 1
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("vilbert: ") for line in said) == 1 and re.search(message, said[-1])


def test_the_page_about_own_features_names_every_format():
    page = (Path(__file__).parent.parent / "docs" / "own_features.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)) == sorted(row.name for row in FORMATS)
