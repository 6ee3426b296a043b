"""Exported models give what the models give, for sizes that they were not traced with; and how files are written."""

import copy
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny import tiny_config, tiny_inputs

import modeling_vilbert
from modeling_vilbert import (
    ViLBertForMultiTask,
    ViLBertForQuestionAnswering,
    ViLBertForVisualGrounding,
    ViLBertModel,
    export,
    export_onnx,
    export_program,
    export_torch,
)
from modeling_vilbert.cli import main
from modeling_vilbert.export import CHECKED_SIZES, EXAMPLE_SIZES, Interface, greatest_difference


# One layer of each kind: exporting takes seconds for every layer.
SHALLOW = {"num_hidden_layers": 1, "v_num_hidden_layers": 1, "t_biattention_id": [0], "v_biattention_id": [0]}


def new_model(name: str, **fields):
    torch.manual_seed(0)
    return getattr(modeling_vilbert, name)(tiny_config(**SHALLOW, **fields)).eval()


# An export takes seconds: without the slow tests there are this head, the trunk, and grounding by the command.
CASES = {"ViLBertForMultipleChoice": {}}
SLOW_CASES = {
    "ViLBertForPreTraining": {},
    "ViLBertForQuestionAnswering": {},
    "ViLBertForVisualGrounding": {},
    "ViLBertForSequenceClassification": {"num_task_tokens": 4, "text_gated_vision_attention": True},
    "ViLBertForImagesAndTextClassification": {"num_images": 3},
    "ViLBertForImageAndTextRetrieval": {"layout": (1, 1)},
    "ViLBertForMultiTask": {"task": "gqa", "num_task_tokens": 20},
}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_CASES)])
def test_a_head_in_onnx(name, tmp_path):
    fields = {**CASES, **SLOW_CASES}[name].copy()
    chosen = {option: fields.pop(option) for option in ("task", "layout") if option in fields}
    model = new_model(name, **fields)
    path = export_onnx(model, tmp_path / "model.onnx", **chosen)
    assert greatest_difference(model, path, **chosen) < 1e-5
    session = onnxruntime.InferenceSession(path)
    interface = Interface.of(model, **chosen)
    assert {value.name: tuple(value.shape) for value in session.get_inputs()} == interface.inputs
    assert tuple(value.name for value in session.get_outputs()) == interface.outputs
    assert ("task_ids" in interface.inputs) == bool(model.config.num_task_tokens)


@pytest.mark.slow
def test_zero_shot_retrieval_in_onnx(tmp_path):
    """Its layers read the config of the trunk that it shares, not its own."""
    model = new_model("ViLBertForPreTraining").as_retrieval()
    assert greatest_difference(model, export_onnx(model, tmp_path / "model.onnx")) < 1e-5


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """A trunk with positions counted as in RoBERTa, and both its files."""
    model = new_model("ViLBertModel", text_config={"position_scheme": "roberta", "pad_token_id": 1})
    assert model.config.text_config.longest_text == 17
    folder = tmp_path_factory.mktemp("trunk")
    return model, export_onnx(model, folder / "trunk.onnx"), export_torch(model, folder / "trunk.pt2")


@pytest.mark.parametrize("file", [1, 2], ids=["onnx", "torch"])
def test_the_trunk_in_onnx_and_torch(trunk, file):
    sizes = [dict(zip(("batch", "words", "regions"), size)) for size in ((1, 1, 1), (2, 5, 5), (5, 3, 11), (4, 17, 2))]
    assert greatest_difference(trunk[0], trunk[file], sizes=sizes) < 1e-5


def test_padding_is_exact(trunk):
    """An image without any real region, and NaN at padding."""
    model, onnx_file, torch_file = trunk
    inputs = tiny_inputs()
    inputs["region_attention_mask"][1] = 0
    with torch.no_grad():
        expected = model(**inputs)
    inputs["region_features"][2, 3:] = float("nan")
    session = onnxruntime.InferenceSession(onnx_file)
    found = session.run(["text_last_hidden_state"], {name: value.numpy() for name, value in inputs.items()})[0]
    np.testing.assert_allclose(found, expected.text_last_hidden_state, atol=1e-5)
    found = torch.export.load(torch_file).module()(**inputs)["text_last_hidden_state"]
    torch.testing.assert_close(found, expected.text_last_hidden_state, atol=1e-5, rtol=0)


def test_a_program_is_the_model_in_eval_and_changes_it_not():
    model = new_model("ViLBertForPreTraining", attn_implementation="eager").as_retrieval().train()
    assert model.config is not model.vilbert.config
    model.vilbert.text_embeddings.eval()
    modes = [module.training for module in model.modules()]
    program = export_program(model)
    attentions = [node for node in program.graph.nodes if "scaled_dot_product_attention" in str(node.target)]
    assert len(attentions) == 4  # of each stream, to itself and to the other
    assert [module.training for module in model.modules()] == modes
    for config in (model.config, model.vilbert.config):
        assert config._attn_implementation == config.text_config._attn_implementation == "eager"
    inputs = tiny_inputs(batch=4, tokens=9, regions=6)
    found = program.module()(**inputs)["logits"]
    torch.testing.assert_close(found, model.eval()(**inputs).logits, atol=1e-5, rtol=0)


def test_a_file_is_checked_with_a_text_and_an_image_of_padding_alone():
    interface = Interface.of(new_model("ViLBertForMultipleChoice"))
    inputs = interface.random_inputs(tiny_config(), CHECKED_SIZES[-1])
    for name in ("attention_mask", "region_attention_mask"):
        lengths = inputs[name].flatten(0, -2).sum(-1)
        assert lengths[0] == inputs[name].shape[-1] > lengths[1] > lengths[-1] == 0


def test_the_sizes_it_is_traced_with_are_not_those_it_is_checked_with():
    assert all(size[name] != EXAMPLE_SIZES[name] for size in CHECKED_SIZES for name in size)
    assert len(set(EXAMPLE_SIZES.values())) == len(EXAMPLE_SIZES) and min(EXAMPLE_SIZES.values()) > 1


def test_what_a_file_tells(tmp_path):
    labels = {"vqa": {"head": "question_answering", "num_labels": 2, "id2label": {0: "no", 1: "ja"}, "task_token": 3}}
    config = tiny_config(**SHALLOW, tasks=labels, num_task_tokens=4)
    config.vision_config.feature_source = "drawn by hand"
    facts = export.description(ViLBertForMultiTask(config), "vqa")
    assert json.loads(facts.pop("id2label")) == {"0": "no", "1": "ja"}
    assert facts == {
        "model_class": "ViLBertForMultiTask",
        "task": "vqa",
        "task_token": "3",
        "feature_source": "drawn by hand",
        "feature_size": "14",
        "location_size": "5",
        "vocab_size": "61",
        "max_words": "19",
        "num_task_tokens": "4",
    }
    answers = export.description(ViLBertForQuestionAnswering(tiny_config(num_labels=2, id2label={0: "red", 1: "blue"})))
    assert json.loads(answers["id2label"]) == {"0": "red", "1": "blue"} and "task" not in answers
    assert "id2label" not in export.description(ViLBertForVisualGrounding(tiny_config()))


def test_the_command(tmp_path, capsys):
    model = new_model("ViLBertForVisualGrounding")
    model.save_pretrained(tmp_path / "saved")
    path = tmp_path / "new" / "model.onnx"
    assert main(["export", "--model", str(tmp_path / "saved"), "--output", str(path)]) == 0
    assert "differ from the model's by at most" in capsys.readouterr().out
    assert greatest_difference(model, path) < 1e-5
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert metadata == export.description(model) and metadata["feature_size"] == "14"
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("--model empty --output model.onnx", "no config.json"),
        ("--model saved --output model.pt2", "--output must end in .onnx"),
        ("--model saved --output model.onnx --format torch", "--output must end in .pt2"),
        ("--model saved --output model.onnx --task vqa", "task must be left out"),
        ("--model many --output model.onnx", "task must be one of ['grounding']"),
        ("--model many --output model.onnx --task vqa", "task must be one of ['grounding']"),
        ("--model foreign --output model.onnx", "holds a BertModel; known are"),
        ("--model saved --output saved/config.json/model.onnx", "File exists"),
        ("--model saved --output folder.onnx", "got a folder"),
    ],
)
def test_bad_arguments_are_named(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new_model("ViLBertForQuestionAnswering").save_pretrained("saved")
    new_model("ViLBertForMultiTask", tasks=["grounding"]).save_pretrained("many")
    for folder in ("empty", "folder.onnx", "foreign"):
        (tmp_path / folder).mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    assert main(["export", *arguments.split()]) == 1
    assert named in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(ValueError, match="layout must be one of"):
        export_program(new_model("ViLBertForVisualGrounding"), layout=(1, 1))
    with pytest.raises(ValueError, match="must be a ViLBERT model"):
        export_program(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="float32"):
        export_onnx(new_model("ViLBertModel").bfloat16(), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="ends in '.onnx'"):
        export_onnx(new_model("ViLBertModel"), tmp_path / "model.bin")
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_an_error(trunk, tmp_path, capsys, monkeypatch):
    model, onnx_file, _ = trunk
    other = ViLBertModel(model.config)
    assert greatest_difference(other.eval(), onnx_file) > 1e-2
    other.save_pretrained(tmp_path / "saved")
    (path := tmp_path / "model.onnx").write_text("before")
    monkeypatch.setattr(
        "modeling_vilbert.model_commands.export_onnx", lambda _, place, task: shutil.copy(onnx_file, place)
    )
    assert main(["export", "--model", str(tmp_path / "saved"), "--output", str(path)]) == 1
    assert "model.onnx is not written" in capsys.readouterr().err
    assert path.read_text() == "before" and sorted(tmp_path.iterdir()) == [path, tmp_path / "saved"]


def test_nan_is_a_difference(trunk):
    model, onnx_file = copy.deepcopy(trunk[0]), trunk[1]
    torch.nn.init.constant_(model.text_pooler.dense.bias, torch.nan)
    assert greatest_difference(model, onnx_file) == float("inf")


# Files


def test_weights_beside_the_file(trunk, tmp_path):
    """Large models have a second file; an export in one file replaces both."""
    path, weights = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    file = onnx.load(trunk[1])

    def save(in_two: bool):
        with export.replacing(path) as place:
            assert place.parent != path.parent
            onnx.save(file, place, save_as_external_data=in_two, location=f"{place.name}.data", size_threshold=256)

    save(True)
    assert sorted(tmp_path.iterdir()) == [path, weights]
    assert greatest_difference(trunk[0], path) < 1e-5
    save(False)
    assert [*tmp_path.iterdir()] == [path]


def test_only_onnx_files_have_weights_beside_them(tmp_path):
    (foreign := tmp_path / "model.pt2.data").write_text("of somebody else")
    with export.replacing(tmp_path / "model.pt2") as place:
        place.write_text("program")
    assert foreign.exists()


def test_an_export_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("before")

    with pytest.raises(OSError, match="No space"), export.replacing(path) as place:
        place.write_text("half")
        raise OSError("No space left on device")
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]


def write_half_and_die(path: Path):
    with export.replacing(path) as place:
        place.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_export_that_is_killed_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("before")
    process = multiprocessing.get_context("fork").Process(target=write_half_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    # Of the new file no more is there than its hidden folder.
    assert path.read_text() == "before"
    assert [file for file in tmp_path.iterdir() if not file.name.startswith(".model.onnx.")] == [path]
