"""`vilbert explain`, and what the app asks a model: from a saved model, a picture and a store to a page."""

import base64
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EXAMPLES
from PIL import Image
from tiny import tiny_config
from transformers import BertTokenizer

from modeling_vilbert import (
    Regions,
    ViLBertForImagesAndTextClassification,
    ViLBertForMultipleChoice,
    ViLBertForMultiTask,
    ViLBertForQuestionAnswering,
    ViLBertForVisualGrounding,
    ViLBertImageProcessor,
    ViLBertModel,
    ViLBertProcessor,
    explain,
)
from modeling_vilbert.cli import main
from modeling_vilbert.regions import write_regions


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "colour", "is", "it", "red", "cube"]
ANSWERS = ["red", "blue", "3", "0", "cube"]
TASKS = {
    "vqa": {"head": "question_answering", "num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}},
    "grounding": {"head": "grounding"},
    "image_pair": {"head": "images", "num_labels": 2},
}
SIZE = (48, 30)


@pytest.fixture
def regions():
    boxes = [[0, 0, 24, 15], [24, 15, 48, 30], [10, 5, 40, 28]]
    features = np.random.default_rng(0).normal(size=(3, 14)).astype(np.float32)
    return Regions(boxes, features, SIZE, image_id="7", labels=["left", "</script><b>right", "middle"])


@pytest.fixture
def folder(regions, tmp_path, monkeypatch):
    """A function that saves a model; beside it lie a store of regions, and the picture that they are of."""
    monkeypatch.chdir(tmp_path)
    write_regions([regions], "store")
    Image.new("RGB", SIZE, "teal").save("7.png")
    Path("folder.html").mkdir()
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))

    def save(model_class, **fields):
        torch.manual_seed(0)
        model = model_class(tiny_config(id2label=dict(enumerate(ANSWERS)), **fields)).eval()
        model.save_pretrained("model")
        ViLBertProcessor(ViLBertImageProcessor(), BertTokenizer("vocab.txt")).save_pretrained("model")
        return model

    return save


def command(*arguments, image="7.png", output="page.html"):
    return main(
        ["explain", image, "what is it", "--model", "model", "--regions", "store", "--output", output, *arguments]
    )


def data_of():
    text = Path("page.html").read_text(encoding="utf-8")
    return text, json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text).group(1))


def explained(model, regions, **settings):
    processor = ViLBertProcessor(ViLBertImageProcessor(), BertTokenizer("vocab.txt"))
    inputs = processor(images=regions, text="what is it", return_tensors="pt")
    return explain(model, inputs, regions, processor=processor, **settings)


@pytest.mark.parametrize("target, label", [(None, None), ("blue", "blue"), ("3", "3"), ("1", "blue"), ("0", "0")])
def test_answers_and_the_page(target, label, folder, regions, capsys):
    model = folder(ViLBertForQuestionAnswering)
    assert command(*([] if target is None else ["--target", target])) == 0
    expected = explained(model, regions, target=label)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{expected.answers[0]['score']:.4f}  {expected.answers[0]['label']}"
    assert said[-2:] == [f"target   {expected.target}", "page     page.html"]
    text, data = data_of()
    assert data["words"] == ["[CLS]", "what", "is", "it", "[SEP]"] and data["target"] == expected.target
    assert data["regions"] == [
        "the whole image",
        "region 1 (left)",
        "region 2 (</script><b>right)",
        "region 3 (middle)",
    ]
    assert "data:image/png;base64," in text and "<b>right" not in text
    codes = np.frombuffer(base64.b64decode(data["relevance"]["regions"]["codes"]), "<u2")
    found = (codes / 65535) ** 2 * data["relevance"]["regions"]["high"]
    np.testing.assert_allclose(found, expected.relevance["regions"], atol=1e-5)


def test_a_box(folder, regions, capsys):
    model = folder(ViLBertForVisualGrounding)
    assert command(image="7") == 0
    row = explained(model, regions).predicted_region
    said = capsys.readouterr().out
    assert f"box      {' '.join(f'{side:.1f}' for side in regions.boxes[row - 1])}" in said
    text, _ = data_of()
    assert 'id="predicted"' in text and "<img" not in text
    assert command("--target", "3") == 0
    assert "target   region 3 (middle)" in capsys.readouterr().out


def test_the_page_of_an_explanation(folder, regions):
    explanation = explained(folder(ViLBertForQuestionAnswering), regions)
    explanation.to_html("page.html", image="7.png")
    with_image, data = data_of()
    explanation.to_html("page.html")
    assert "<img" in with_image and "<img" not in data_of()[0] and data == data_of()[1]
    with pytest.raises(ValueError, match="48 x 30 pixels"):
        explanation.to_html("page.html", image=Image.new("RGB", (30, 48)))
    with pytest.raises(ValueError, match="is a folder"):
        explanation.to_html("folder.html")


def test_a_model_without_a_head(folder, capsys):
    folder(ViLBertModel)
    assert command() == 0
    assert capsys.readouterr().out == "page     page.html\n"
    assert data_of()[1]["relevance"] == {}


def test_a_smaller_copy_of_the_picture(folder):
    folder(ViLBertForQuestionAnswering)
    Image.new("RGB", (24, 15), "red").save("7.png")
    assert command() == 0
    assert 'viewBox="0 0 24.0 15.0"' in data_of()[0]


@pytest.mark.parametrize(
    "arguments, settings, message",
    [
        ([], {"output": "none/page.html"}, "no folder none"),
        ([], {"output": "folder.html"}, "is a folder"),
        ([], {"output": "7.png"}, "--output must end in .html, got 7.png"),
        (["--target", "green"], {}, "target must be one of .*'cube'.*'green'"),
        (["--target", "9"], {}, "target must be within 0 to 4"),
        (["--task", "vqa"], {}, "task is for ViLBertForMultiTask"),
        ([], {"image": "8"}, "has no image '8'"),
        (["--model", "nowhere"], {}, "--model nowhere is not the folder"),
    ],
)
def test_what_is_wrong_is_said(arguments, settings, message, folder, capsys):
    folder(ViLBertForQuestionAnswering)
    capsys.readouterr()
    assert command(*arguments, **settings) == 1
    said = capsys.readouterr().err
    assert re.search(rf"^vilbert: .*{message}.*\n\Z", said, re.MULTILINE) and not os.path.exists("page.html")


def test_regions_without_places(folder, regions, tmp_path, capsys):
    model = folder(ViLBertForQuestionAnswering)
    everywhere = Regions([[0, 0, *SIZE]] * 3, regions.features, SIZE, image_id="7")
    shutil.rmtree("store")
    write_regions([everywhere], "store")
    assert command() == 1
    assert "Supply Regions.boxes" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Supply Regions.boxes"):
        explained(model, everywhere).to_html("page.html")
    assert not os.path.exists("page.html")


def test_a_picture_that_is_not_of_the_regions(folder, capsys):
    folder(ViLBertForQuestionAnswering)
    Image.new("RGB", (48, 40)).save("7.png")
    assert command() == 1
    assert "48 x 40 pixels, its regions are of one of 48 x 30" in capsys.readouterr().err


@pytest.mark.parametrize("model_class", [ViLBertForImagesAndTextClassification, ViLBertForMultipleChoice])
def test_models_of_several_images_or_texts(model_class, folder, capsys):
    folder(model_class)
    capsys.readouterr()
    assert command() == 1
    assert re.search(r"^vilbert: .*(axis|images|choice).*\n\Z", capsys.readouterr().err, re.MULTILINE)


def test_an_architecture_that_nobody_knows(folder, capsys):
    folder(ViLBertForQuestionAnswering)
    file = Path("model/config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": ["Other"]}))
    assert command() == 1
    assert "holds a Other; known are ViLBertModel" in capsys.readouterr().err


def test_what_the_app_asks(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("gradio", reason='pip install "modeling-vilbert[app]"')
    spec = importlib.util.spec_from_file_location("app", EXAMPLES / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    folder(ViLBertForMultiTask, tasks=TASKS)
    monkeypatch.setattr("sys.argv", ["app.py", "--model", "model"])
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert "error: The processor in model makes no regions of a picture; give --regions." in capsys.readouterr().err
    asked = app.Asked(tmp_path / "model", tmp_path / "store")
    assert set(asked.tasks) == {"vqa", "grounding"}
    assert 'id="predicted"' in asked.page("7.png", "what is it", "grounding")
    page = asked.page("7.png", "what is it", "vqa")
    assert 'id="predicted"' not in page and re.search(r'<bdi title="[abc]">', page)
    Image.new("RGB", SIZE).save("8.png")
    with pytest.raises(ValueError, match="no image '8'"):
        asked.page("8.png", "what is it", "vqa")
    folder(ViLBertForVisualGrounding)
    assert app.Asked(tmp_path / "model", tmp_path / "store").tasks == []
