"""Checkpoints of every family become today's models, tensor by tensor."""

import json
import re
from pathlib import Path

import pytest
import torch
from checkpoints import LABELS, POOLED, heads_of, mlp, state, weight_normed, write
from original import TINY, random_inputs, random_state_dict
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForVisualQuestionAnswering

import modeling_vilbert
from modeling_vilbert import (
    ViLBertConfig,
    ViLBertForImagesAndTextClassification,
    ViLBertForMultiTask,
    ViLBertForPreTraining,
    ViLBertForQuestionAnswering,
    ViLBertForSequenceClassification,
    ViLBertModel,
)
from modeling_vilbert.checkpoint_names_vilbert import rename
from modeling_vilbert.conversion_vilbert import load_original


# Class -> the task of 12-in-1 whose head it takes.
CLASSES = {
    "ViLBertModel": None,
    "ViLBertForPreTraining": None,
    "ViLBertForQuestionAnswering": "vqa",
    "ViLBertForSequenceClassification": "entailment",
    "ViLBertForImagesAndTextClassification": "image_pair",
    "ViLBertForMultipleChoice": "retrieval",
    "ViLBertForImageAndTextRetrieval": "retrieval",
    "ViLBertForVisualGrounding": "grounding",
    "ViLBertForMultiTask": None,
}


def expected_tensors(tensors: dict, architecture: str) -> dict[str, torch.Tensor]:
    """What a class must hold, by today's names."""
    result, task = {}, CLASSES[architecture]
    for old, tensor in tensors.items():
        new = rename(old)
        if new is None:
            continue
        if task is not None:
            new = new.replace(f"heads.{task}.", "head.")
        trunk = new.startswith("vilbert.")
        section = new.split(".")[0]
        wanted = {
            "ViLBertModel": (),
            "ViLBertForPreTraining": ("text_head", "region_head", "alignment_head"),
            "ViLBertForMultiTask": ("heads",),
        }.get(architecture, ("head",))
        if trunk or section in wanted:
            result[new.removeprefix("vilbert.") if architecture == "ViLBertModel" else new] = tensor
    return result


def assert_same(found: dict, expected: dict):
    assert set(found) == set(expected)
    different = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert not different


MULTI_TASK = {**random_state_dict(TINY), **heads_of("12-in-1")}


@pytest.mark.parametrize("architecture", CLASSES)
def test_every_class_loads_the_folder_and_saves_todays_names(architecture, tmp_path):
    model_class = getattr(modeling_vilbert, architecture)
    model, info = model_class.from_pretrained(write(tmp_path, TINY, MULTI_TASK), output_loading_info=True)
    assert not any(info.values())
    expected = expected_tensors(MULTI_TASK, architecture)
    assert_same(model.state_dict(), expected)
    if CLASSES[architecture]:
        assert model.config.num_labels == LABELS[CLASSES[architecture]]
    if architecture == "ViLBertForMultiTask":
        assert {name: task["num_labels"] for name, task in model.config.tasks.items()} == LABELS

    model.save_pretrained(tmp_path / "today")
    assert set(load_file(tmp_path / "today" / "model.safetensors")) == set(expected) - {"text_head.decoder.weight"}
    again, info = model_class.from_pretrained(tmp_path / "today", output_loading_info=True)
    assert not any(info.values())
    assert_same(again.state_dict(), expected)
    trunk = ViLBertModel.from_pretrained(tmp_path / "today")
    assert_same(trunk.state_dict(), expected_tensors(MULTI_TASK, "ViLBertModel"))


WRAPPINGS = {
    "data parallel": lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
    "MMF": lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()},
    "older MMF": lambda tensors: {f"bert.{name}": tensor for name, tensor in tensors.items()},
    "stop-and-go file": lambda tensors: {"model_state_dict": tensors, "epoch_id": 3, "optimizer_state_dict": {}},
    "gamma and beta": lambda tensors: {
        re.sub(r"bias$", "beta", re.sub(r"weight$", "gamma", name)) if "LayerNorm" in name else name: tensor
        for name, tensor in tensors.items()
    },
    "position ids": lambda tensors: {"bert.embeddings.position_ids": torch.arange(19)[None], **tensors},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(wrapping, tmp_path):
    tensors = random_state_dict(TINY)
    model = ViLBertForPreTraining.from_pretrained(write(tmp_path, TINY, WRAPPINGS[wrapping](tensors)))
    assert_same(model.state_dict(), expected_tensors(tensors, "ViLBertForPreTraining"))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_trunk_alone_has_no_prefix(prefix, tmp_path):
    tensors = random_state_dict(TINY)
    trunk = {prefix + name.removeprefix("bert."): tensor for name, tensor in tensors.items() if name[:4] == "bert"}
    model = ViLBertModel.from_pretrained(write(tmp_path, TINY, trunk))
    assert_same(model.state_dict(), expected_tensors(tensors, "ViLBertModel"))
    conversion = load_original(tmp_path / "pytorch_model.bin", tmp_path / "config.json")
    assert conversion.architecture == "ViLBertModel"


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_dtypes(stored, dtype, tmp_path):
    tensors = {name: tensor.to(stored) for name, tensor in MULTI_TASK.items()}
    asked = {} if dtype is None else {"dtype": dtype}
    model = ViLBertForMultiTask.from_pretrained(write(tmp_path, TINY, tensors), **asked)
    expected = expected_tensors(tensors, "ViLBertForMultiTask")
    assert_same(model.state_dict(), {name: tensor.to(dtype or stored) for name, tensor in expected.items()})
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype or stored}


def test_auto_classes_read_a_folder_with_model_type(tmp_path):
    folder = write(tmp_path, {**TINY, "model_type": "vilbert"}, MULTI_TASK)
    assert_same(AutoModel.from_pretrained(folder).state_dict(), expected_tensors(MULTI_TASK, "ViLBertModel"))
    model = AutoModelForVisualQuestionAnswering.from_pretrained(folder)
    assert_same(model.state_dict(), expected_tensors(MULTI_TASK, "ViLBertForQuestionAnswering"))


def test_what_the_caller_asks_for_wins(tmp_path):
    folder = write(tmp_path, {**TINY, "fusion_method": "mul"}, random_state_dict(TINY))
    config = ViLBertConfig.from_pretrained(folder)
    config.text_config.hidden_dropout_prob, config.vision_config.feature_source = 0.3, "grid"
    model = ViLBertForMultiTask.from_pretrained(folder, config=config, fusion="sum", tasks=["grounding"])
    found = model.config
    assert (found.text_config.hidden_dropout_prob, found.vision_config.feature_source, found.fusion) == (
        0.3, "grid", "sum"
    )  # fmt: skip
    assert list(model.heads) == ["grounding"]
    assert found.text_config.hidden_size == TINY["hidden_size"]
    model = ViLBertForSequenceClassification.from_pretrained(folder, num_labels=5, text_config={"hidden_act": "relu"})
    assert model(**random_inputs(TINY)).logits.shape == (3, 5)
    assert model.config.text_config.hidden_act == "relu"


def test_what_only_the_tensors_tell(tmp_path):
    """The released files of 12-in-1 say nothing of its task tokens."""
    variant = {**TINY, "task_specific_tokens": True, "dynamic_attention": True}
    folder = write(tmp_path, TINY, {**random_state_dict(variant), **heads_of("12-in-1")})
    model = ViLBertForMultiTask.from_pretrained(folder).eval()
    assert model.config.num_task_tokens == 20 and model.config.text_gated_vision_attention
    told = write(tmp_path / "told", variant, {**random_state_dict(variant), **heads_of("12-in-1")})
    inputs = {**random_inputs(TINY), "task": "vqa"}
    expected = ViLBertForMultiTask.from_pretrained(told).eval()(**inputs).logits
    assert torch.equal(model(**inputs).logits, expected)
    with pytest.raises(ValueError, match="no place for 1 tensors.*task_embeddings"):
        ViLBertForMultiTask.from_pretrained(folder, num_task_tokens=0)


def test_a_repository_of_the_original_layout(tmp_path, monkeypatch):
    """As it lies in the cache of the Hub."""
    repository = tmp_path / "models--someone--vilbert"
    write(repository / "snapshots" / "abc", {**TINY, "model_type": "vilbert"}, MULTI_TASK)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    found = ViLBertModel.from_pretrained("someone/vilbert", cache_dir=tmp_path, local_files_only=True)
    assert_same(found.state_dict(), expected_tensors(MULTI_TASK, "ViLBertModel"))
    with pytest.raises(OSError, match="couldn't find them in the cached files"):
        ViLBertModel.from_pretrained("someone/nothing", cache_dir=tmp_path, local_files_only=True)


def test_tasks_are_those_of_the_checkpoint_unless_named(tmp_path):
    folder = write(tmp_path, TINY, MULTI_TASK)
    model = ViLBertForMultiTask.from_pretrained(folder, tasks=["gqa", "grounding"])
    assert list(model.heads) == ["gqa", "grounding"]
    assert model.config.tasks["gqa"]["num_labels"] == LABELS["gqa"]
    beta = write(tmp_path / "beta", TINY, {**random_state_dict(TINY), **heads_of("vilbert_beta")})
    assert set(ViLBertForMultiTask.from_pretrained(beta).heads) == {"vqa", "retrieval", "grounding"}
    without = write(tmp_path / "without", TINY, random_state_dict(TINY))
    assert len(ViLBertForMultiTask.from_pretrained(without).heads) == 6


def test_a_head_that_is_not_there_is_new(tmp_path):
    folder = write(tmp_path, TINY, random_state_dict(TINY))
    model, info = ViLBertForQuestionAnswering.from_pretrained(folder, output_loading_info=True, num_labels=7)
    head = {name for name in model.state_dict() if name.startswith("head.")}
    assert (info["missing_keys"], info["unexpected_keys"]) == (head, set())
    conversion = load_original(folder / "pytorch_model.bin", folder / "config.json", "ViLBertForQuestionAnswering")
    ViLBertForQuestionAnswering.from_conversion(conversion)
    assert set(conversion.new) == head


def pooled(folder: Path, inputs: dict) -> torch.Tensor:
    outputs = ViLBertModel.from_pretrained(folder)(**inputs)
    return outputs.text_pooler_output * outputs.vision_pooler_output


@pytest.mark.parametrize("family", ["vilbert_beta", "12-in-1", "MMF"])
def test_answers_are_those_of_the_familys_own_classifier(family, tmp_path):
    torch.manual_seed(3)
    classifier = weight_normed(POOLED, 7) if family == "vilbert_beta" else mlp(POOLED, POOLED + 3, 7)
    tensors = random_state_dict(TINY)
    if family == "vilbert_beta":
        tensors.update(state("vil_prediction.main", classifier))
    elif family == "12-in-1":
        tensors.update(state("vil_prediction.logit_fc", classifier))
    else:
        parts = {"0.dense": classifier[0], "0.LayerNorm": classifier[2], "1": classifier[3]}
        for name, module in parts.items():
            tensors.update(state(f"classifier.{name}", module))
        tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    folder, inputs = write(tmp_path, TINY, tensors), random_inputs(TINY)
    model = ViLBertForQuestionAnswering.from_pretrained(folder)
    torch.testing.assert_close(model(**inputs).logits, classifier(pooled(folder, inputs)), atol=1e-5, rtol=1e-5)
    config = model.config
    assert (config.num_labels, config.classifier_hidden_size) == (7, classifier[0].out_features)
    assert (config.classifier_layer_norm, config.classifier_act) == (
        (False, "relu") if family == "vilbert_beta" else (True, "gelu")
    )
    assert len(config.id2label) == 7


def test_mmf_classifier_of_two_images(tmp_path):
    torch.manual_seed(4)
    classifier, inputs = mlp(2 * POOLED, 2 * POOLED, 2), random_inputs(TINY, batch=6)
    tensors = random_state_dict(TINY)
    for name, module in {"0.dense": classifier[0], "0.LayerNorm": classifier[2], "1": classifier[3]}.items():
        tensors.update(state(f"classifier.{name}", module))
    folder = write(tmp_path, TINY, {f"model.{name}": tensor for name, tensor in tensors.items()})
    words = {name: value[::2] for name, value in inputs.items() if "region" not in name}
    regions = {name: value.unflatten(0, (3, 2)) for name, value in inputs.items() if "region" in name}
    logits = ViLBertForImagesAndTextClassification.from_pretrained(folder)(**words, **regions).logits
    twice = {**inputs, **{name: value.repeat_interleave(2, 0) for name, value in words.items()}}
    torch.testing.assert_close(logits, classifier(pooled(folder, twice).view(3, -1)), atol=1e-5, rtol=1e-5)


def test_an_untied_decoder_is_kept(tmp_path):
    tensors = random_state_dict(TINY)
    tensors["cls.predictions.decoder.weight"] = torch.rand(TINY["vocab_size"], TINY["hidden_size"])
    model = ViLBertForPreTraining.from_pretrained(write(tmp_path, TINY, tensors))
    assert not model.config.tie_word_embeddings
    model.save_pretrained(tmp_path / "today")
    for found in (model, ViLBertForPreTraining.from_pretrained(tmp_path / "today")):
        assert_same(found.state_dict(), expected_tensors(tensors, "ViLBertForPreTraining"))


def test_what_is_left_out_is_said(tmp_path):
    folder = write(tmp_path, {**TINY, "with_coattention": False}, MULTI_TASK)
    files = folder / "pytorch_model.bin", folder / "config.json"
    dropped = load_original(*files, "ViLBertForVisualGrounding").dropped
    assert dropped["linguisic_logit.weight"] == "nothing reads it"
    assert dropped["bert.encoder.c_layer.0.biOutput.q_dense2.bias"] == "nothing reads it"
    assert dropped["bert.encoder.c_layer.1.biattention.query1.weight"] == "the config has no co-attention"
    assert dropped["vil_prediction.logit_fc.0.weight"] == "ViLBertForVisualGrounding has no such head"
    assert "cls.predictions.bias" in dropped and "vision_logit.weight" not in dropped
    (folder / "config.json").write_text(json.dumps(TINY))
    kept = load_original(*files, "ViLBertForMultiTask")
    assert {name for name in kept.dropped if not name.startswith("cls.")} == {
        name for name in MULTI_TASK if "q_dense" in name or "linguisic" in name
    }
    assert set(kept.renamed) | set(kept.dropped) == set(MULTI_TASK)


def test_labels_of_ones_own(tmp_path):
    folder = Path(__file__).parent / "parity" / "vltasks"
    with pytest.raises(ValueError, match=r"head.classifier.decoder.weight \(\[13, 48\] in the checkpoint, \[4, 48\]"):
        ViLBertForQuestionAnswering.from_pretrained(folder, num_labels=4)
    labels = {0: "a", 1: "b"}
    model = ViLBertForQuestionAnswering.from_pretrained(folder, id2label=labels, ignore_mismatched_sizes=True)
    assert model.config.id2label == labels and model.head.classifier.decoder.weight.shape == (2, 48)
    theirs = ViLBertForQuestionAnswering.from_pretrained(folder)
    assert torch.equal(model.head.classifier.dense.weight, theirs.head.classifier.dense.weight)


def test_a_subfolder_is_one():
    folder = Path(__file__).parent / "parity"
    model = ViLBertModel.from_pretrained(folder, subfolder="vltasks")
    assert torch.equal(
        model.text_pooler.dense.weight, ViLBertModel.from_pretrained(folder / "vltasks").text_pooler.dense.weight
    )


def test_a_config_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="config must be a ViLBertConfig.*dict"):
        ViLBertModel.from_pretrained(Path(__file__).parent / "parity" / "vltasks", config={"fusion": "sum"})
