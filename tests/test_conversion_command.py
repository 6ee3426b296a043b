"""`vilbert convert`: every family in, a folder and its report out; what is wrong with a file is said in one line."""

import ast
import importlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from checkpoints import LABELS, POOLED, heads_of, mlp, state, weight_normed, write
from original import TINY, random_inputs, random_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import AutoProcessor, BertTokenizer

import modeling_vilbert
from modeling_vilbert import ViLBertForPreTraining
from modeling_vilbert.cli import main
from modeling_vilbert.conversion_vilbert import read_checkpoint
from modeling_vilbert.model_commands import read_model


TENSORS = random_state_dict(TINY)


def mmf_tensors() -> dict[str, torch.Tensor]:
    parts = mlp(POOLED, POOLED, 2)
    head = {**state("classifier.0.dense", parts[0]), **state("classifier.0.LayerNorm", parts[2])}
    return {f"model.{name}": tensor for name, tensor in {**TENSORS, **head, **state("classifier.1", parts[3])}.items()}


# Family -> its tensors, and the class that takes most of them.
FAMILIES = {
    "pre-training": (lambda: TENSORS, "ViLBertForPreTraining"),
    "trunk": (lambda: {name[5:]: TENSORS[name] for name in TENSORS if name[:5] == "bert."}, "ViLBertModel"),
    "vilbert_beta": (lambda: {**TENSORS, **heads_of("vilbert_beta")}, "ViLBertForMultiTask"),
    "12-in-1": (lambda: {**TENSORS, **heads_of("12-in-1")}, "ViLBertForMultiTask"),
    "MMF": (mmf_tensors, "ViLBertForQuestionAnswering"),
    "answers": (
        lambda: {**TENSORS, **state("vil_prediction.main", weight_normed(POOLED, 7))},
        "ViLBertForQuestionAnswering",
    ),
    "regions": (lambda: {**TENSORS, **state("vision_logit", nn.Linear(20, 1))}, "ViLBertForVisualGrounding"),
}


def convert(source: Path, output: Path, *more: str) -> int:
    files = ["--checkpoint", str(source / "pytorch_model.bin"), "--config", str(source / "config.json")]
    return main(["convert", *files, "--output", str(output), *more])


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, tmp_path, capsys):
    tensors, architecture = FAMILIES[family][0](), FAMILIES[family][1]
    source, output = write(tmp_path / "source", TINY, tensors), tmp_path / "deep" / "output"
    assert convert(source, output) == 0
    assert architecture in capsys.readouterr().out
    assert json.loads((output / "config.json").read_text())["architectures"] == [architecture]

    first, *lines = (output / "conversion_report.txt").read_text().splitlines()
    renamed = dict(line.split(" -> ") for line in lines if " -> " in line)
    dropped = {line.split()[0] for line in lines if " left out: " in line}
    assert first == f"{len(renamed)} tensors renamed, {len(dropped)} left out, 0 new."
    assert set(renamed) | dropped == set(tensors)
    assert set(renamed.values()) - {"text_head.decoder.weight"} == set(load_file(output / "model.safetensors"))

    model, straight = (getattr(modeling_vilbert, architecture).from_pretrained(folder) for folder in (output, source))
    differing = [name for name, value in straight.config.to_dict().items() if value != model.config.to_dict()[name]]
    assert set(differing) <= {"_name_or_path", "architectures", "auto_map"}
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_class_may_be_named_and_what_is_new_is_reported(tmp_path):
    source = write(tmp_path / "source", TINY, TENSORS)
    assert convert(source, tmp_path / "output", "--architecture", "ViLBertForVisualGrounding") == 0
    report = (tmp_path / "output" / "conversion_report.txt").read_text()
    assert "head.classifier.weight is new, and has to be trained" in report
    assert "cls.predictions.bias left out: ViLBertForVisualGrounding has no such head" in report


def test_a_tied_decoder_is_not_new(tmp_path):
    trunk = {name: tensor for name, tensor in TENSORS.items() if name[:3] != "cls"}
    source = write(tmp_path / "source", TINY, trunk)
    assert convert(source, tmp_path / "output", "--architecture", "ViLBertForPreTraining") == 0
    report = (tmp_path / "output" / "conversion_report.txt").read_text()
    assert "text_head.dense.weight is new" in report and "text_head.decoder.weight is new" not in report


def test_with_a_tokenizer_a_processor_comes_along(tmp_path):
    source = write(tmp_path / "source", TINY, TENSORS)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\n")
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
    assert convert(source, tmp_path / "output", "--tokenizer", str(tmp_path / "tokenizer")) == 0
    processor = AutoProcessor.from_pretrained(tmp_path / "output")
    assert processor(text="red")["input_ids"] == [[2, 5, 3]] and processor.image_processor.add_global_region
    assert convert(source, tmp_path / "mmf", "--tokenizer", str(tmp_path / "tokenizer"), "--no-global-region") == 0
    assert not AutoProcessor.from_pretrained(tmp_path / "mmf").image_processor.add_global_region


@pytest.mark.parametrize("family", FAMILIES)
def test_commands_read_an_original_folder_with_its_heads(family, tmp_path):
    folder = write(tmp_path, TINY, FAMILIES[family][0]())
    assert type(read_model(folder)).__name__ == FAMILIES[family][1]


@pytest.mark.parametrize("family", ["12-in-1", "answers"])
def test_names_of_answers_and_what_made_the_features(family, tmp_path, capsys):
    tensors, architecture = FAMILIES[family][0](), FAMILIES[family][1]
    source = write(tmp_path / "source", TINY, tensors)
    names = [f"answer {number}" for number in range(LABELS["vqa"] if family == "12-in-1" else 7)]
    (tmp_path / "names.json").write_text(json.dumps(names))
    (tmp_path / "names.pkl").write_bytes(pickle.dumps(names))
    for file in ("names.json", "names.pkl"):
        more = ["--labels", str(tmp_path / file), "--feature-source", "a detector"]
        assert convert(source, tmp_path / "output", *more) == 0
        config = getattr(modeling_vilbert, architecture).from_pretrained(tmp_path / "output").config
        found = config.tasks["vqa"]["id2label"] if family == "12-in-1" else config.id2label
        assert {int(number): name for number, name in found.items()} == dict(enumerate(names))
        assert config.vision_config.feature_source == "a detector"
    if family == "12-in-1":
        gqa = [f"answer {number}" for number in range(LABELS["gqa"])]
        (tmp_path / "gqa.json").write_text(json.dumps(gqa))
        more = ["--labels", f"gqa={tmp_path / 'gqa.json'}", "--labels", str(tmp_path / "names.pkl")]
        assert convert(source, tmp_path / "output", *more) == 0
        tasks = modeling_vilbert.ViLBertConfig.from_pretrained(tmp_path / "output").tasks
        assert tasks["gqa"]["id2label"]["3"] == "answer 3" and len(tasks["vqa"]["id2label"]) == len(names)
    for content, said in ((names[1:], f"must be {len(names)} names"), ({"a": 1}, "must hold a list of names")):
        (tmp_path / "names.json").write_text(json.dumps(content))
        assert convert(source, tmp_path / "other", "--labels", str(tmp_path / "names.json")) == 1
        assert said in capsys.readouterr().err and not (tmp_path / "other").exists()


class Marker:
    """Pickled, it writes a file when it is read back."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch '{self.file}'",)


class Plain:
    pass


def cut_short(source: Path):
    content = (source / "pytorch_model.bin").read_bytes()
    (source / "pytorch_model.bin").write_bytes(content[: len(content) // 2])


def text_of(name: str, text: str):
    return lambda source: (source / name).write_text(text)


def config_with(**fields):
    return lambda source: (source / "config.json").write_text(json.dumps({**TINY, **fields}))


def tensors_are(content):
    return lambda source: torch.save(content, source / "pytorch_model.bin")


BERT_ONLY = {
    name: tensor for name, tensor in TENSORS.items() if name.startswith(("bert.embeddings", "bert.encoder.layer"))
}

# What is wrong -> how to make it so, and what the message says.
WRONG = {
    "no checkpoint": (lambda source: (source / "pytorch_model.bin").unlink(), "is not a file"),
    "no config": (lambda source: (source / "config.json").unlink(), "config.json"),
    "cut short": (cut_short, "cut short"),
    "empty": (text_of("pytorch_model.bin", ""), "cut short"),
    "text": (text_of("pytorch_model.bin", "version https://git-lfs.github.com/spec/v1"), "of another kind"),
    "a class": (tensors_are({**TENSORS, "bert.x": Plain()}), "Plain"),
    "a number": (tensors_are({**TENSORS, "bert.x": 3}), "dict of tensors"),
    "numbers as names": (tensors_are({0: torch.zeros(2)}), "dict of tensors"),
    "a list": (tensors_are([torch.zeros(2)]), "dict of tensors"),
    "JSON list": (text_of("config.json", "[1, 2]"), "must hold a JSON object, got a list"),
    "no JSON": (text_of("config.json", '{"hidden_size": '), "cannot be read as JSON"),
    "unknown tensor": (tensors_are({**TENSORS, "bert.encoder.layer.0.adapter.up.weight": torch.ones(1)}), "adapter.up"),
    "BERT alone": (tensors_are(BERT_ONLY), "lacks 122 tensors: vision_embeddings.feature_projection.weight"),
    "BERT and its pooler": (tensors_are({**BERT_ONLY, "bert.pooler.dense.bias": torch.ones(24)}), "bert.pooler.dense"),
    "a layer more": (config_with(num_hidden_layers=5), "lacks 16 tensors: vilbert.encoder.text_layers.4"),
    "a layer less": (config_with(v_num_hidden_layers=2, v_biattention_id=[0, 1]), "no place for 16 tensors"),
    "other shapes": (config_with(v_intermediate_size=26), "[28, 20] in the checkpoint, [26, 20] by the config"),
    "half a head": (tensors_are({**TENSORS, "vil_logit.bias": torch.zeros(1)}), "part of a head"),
    "half a weight": (tensors_are({**TENSORS, "vil_prediction.main.0.weight_v": torch.ones(2, 2)}), "weight_g"),
    "a word for a number": (config_with(hidden_size="big"), "hidden_size"),
    "co-attention outside": (config_with(t_biattention_id=[1, 7]), "within 0 to 3"),
}  # fmt: skip


@pytest.mark.parametrize("problem", WRONG)
def test_errors(problem, tmp_path, capsys):
    source = write(tmp_path / "source", TINY, TENSORS)
    change, message = WRONG[problem]
    change(source)
    assert convert(source, tmp_path / "output") == 1
    printed = capsys.readouterr()
    error = [line for line in printed.err.splitlines() if not line.startswith("[transformers]")]
    assert len(error) == 1 and error[0].startswith("vilbert: ") and message in error[0]
    assert "weights_only" not in error[0], "a reader must not be told to open the file unsafely"
    assert printed.out == "" and not (tmp_path / "output").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(zipped, tmp_path):
    file, marker = tmp_path / "file.bin", tmp_path / "marker"
    torch.save({"weight": Marker(marker)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="system"):
        read_checkpoint(file)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "the file is harmless: this test shows nothing"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_anywhere_is_a_value_error(zipped, tmp_path):
    file = tmp_path / "file.bin"
    torch.save({"weight": torch.ones(3, 5)}, file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    for size in range(0, len(content), 13):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match="file.bin"):
            read_checkpoint(file)


@pytest.mark.parametrize("wrong", ["output is a file", "no tokenizer"])
def test_nothing_is_written_when_options_are_wrong(wrong, tmp_path, capsys):
    source, output = write(tmp_path / "source", TINY, TENSORS), tmp_path / "output"
    more = ["--tokenizer", str(tmp_path / "nowhere")] if wrong == "no tokenizer" else []
    if not more:
        output.write_text("mine")
    assert convert(source, output, *more) == 1
    assert capsys.readouterr().err.startswith("vilbert: ")
    assert output.read_text() == "mine" if not more else not output.exists()


def test_an_interrupted_conversion_leaves_a_folder_that_was_there_alone(tmp_path):
    output = tmp_path / "output"
    ViLBertForPreTraining.from_pretrained(write(tmp_path / "source", TINY, TENSORS)).save_pretrained(output)
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    cut_short(tmp_path / "source")
    assert convert(tmp_path / "source", output) == 1
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before
    assert ViLBertForPreTraining.from_pretrained(output)(**random_inputs(TINY)).loss is None


def test_the_command_is_installed_under_its_name():
    calls = ast.walk(ast.parse((Path(__file__).parent.parent / "setup.py").read_text(encoding="utf-8")))
    scripts = [
        ast.literal_eval(node.value)["console_scripts"]
        for node in calls
        if isinstance(node, ast.keyword) and node.arg == "entry_points"
    ]
    ((name, target),) = ([part.strip() for part in script.split("=")] for script in scripts[0])
    module, function = target.split(":")
    assert name == "vilbert" and getattr(importlib.import_module(module), function) is main


@pytest.mark.parametrize("arguments", [[], ["convert"], ["convert", "--architecture", "Bert"], ["forge"]])
def test_wrong_usage_is_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage: vilbert" in capsys.readouterr().err
