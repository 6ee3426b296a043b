"""VOLTA's names and lists of sub-layers say the same model as the original's."""

import json
import re
from pathlib import Path

import pytest
import torch
from checkpoints import POOLED, heads_of, write
from original import TINY, random_inputs, random_state_dict
from torch import nn
from transformers import AutoModelForPreTraining

from modeling_vilbert import ViLBertForMultiTask, ViLBertForPreTraining
from modeling_vilbert.cli import main
from modeling_vilbert.conversion_vilbert import load_original


LAYERS = {
    "num_hidden_layers": 5,
    "v_num_hidden_layers": 3,
    "t_biattention_id": [2, 3, 4],
    "v_biattention_id": [0, 1, 2],
}
# In `vilbert_base` co-attention has a size of its own; in the controlled setup it has the text's, the pooler not.
SETUPS = {
    "base": {**TINY, **LAYERS, "bi_hidden_size": 20, "bi_num_attention_heads": 5, "pooler_size": 20},
    "controlled": {
        **TINY, **LAYERS, "v_hidden_size": 24, "v_num_attention_heads": 3, "v_intermediate_size": 40,
        "bi_hidden_size": 24, "bi_num_attention_heads": 3, "pooler_size": POOLED,
    },
}  # fmt: skip
# Two text layers alone, then {co-attention, its feed-forward, self-attention, its feed-forward} three times.
ALONE, FIRST = 2, 4


def original_tensors(config: dict) -> dict[str, torch.Tensor]:
    """The original's pooled size is that of co-attention; here it may be another."""
    torch.manual_seed(2)
    tensors = random_state_dict(config)
    for name, linear in {
        "bert.t_pooler.dense": nn.Linear(config["hidden_size"], config["pooler_size"]),
        "bert.v_pooler.dense": nn.Linear(config["v_hidden_size"], config["pooler_size"]),
        "cls.bi_seq_relationship": nn.Linear(config["pooler_size"], 2),
    }.items():
        tensors.update({f"{name}.{key}": value.detach() for key, value in linear.state_dict().items()})
    return tensors


def volta_config(config: dict) -> dict:
    cross = [FIRST + 4 * k for k in range(3)]
    own = [number + 2 for number in cross]
    after = [number + 1 for number in cross + own]
    fields = {name: value for name, value in config.items() if not name.startswith(("bi_", "t_bi", "v_bi"))}
    sized = config["bi_hidden_size"] != config["hidden_size"]
    return {
        **fields,
        "tt_attn_sublayers": [0, 2, *own], "vv_attn_sublayers": own, "tv_attn_sublayers": cross,
        "vt_attn_sublayers": cross, "t_ff_sublayers": sorted([1, 3, *after]), "v_ff_sublayers": sorted(after),
        "shared_sublayers": [], "single_ln_sublayers": [], "sublayer2intermediate_size": {},
        "sublayer2attn_hidden_size": {str(n): config["bi_hidden_size"] for n in cross} if sized else {},
        "sublayer2num_attention_heads": {str(n): config["bi_num_attention_heads"] for n in cross} if sized else {},
        "bert_layer2attn_sublayer": {str(i): n for i, n in enumerate([0, 2, *own])},
        "bert_layer2ff_sublayer": {str(i): n + 1 for i, n in enumerate([0, 2, *own])},
        "fusion_act": "relu", "fusion_method": "mul", "layer_norm_eps": 1e-12, "num_locs": 5, "clf_hidden_size": 37,
        "add_global_imgfeat": "first", "image_embeddings": "vilbert", "model": "bert", "v_initializer_range": 0.02,
    }  # fmt: skip


def volta_name(name: str) -> str | None:
    """The original's name of a tensor -> VOLTA's, by the table of both codes; None for what VOLTA does not have."""
    if "q_dense" in name:
        return None
    match = re.match(r"bert\.encoder\.(layer|v_layer|c_layer)\.(\d+)\.(.*)", name)
    if match is None:
        return name.replace("imagePredictions.decoder.", "imagePredictions.decoder_dict.0.")
    kind, number, rest = match[1], int(match[2]), match[3]
    if kind == "c_layer":
        sublayer = FIRST + 4 * number
        inner = re.match(r"(biattention|biOutput)\.([A-Za-z]+)([12])\.(.*)", rest)
        if inner:
            block = {"biattention": "attention_self", "biOutput": "attention_output"}[inner[1]]
            return f"bert.encoder.layer.{sublayer}.{block}.{'v_' if inner[3] == '1' else ''}{inner[2]}.{inner[4]}"
        stream, block, part = re.match(r"([vt])_(\w+)\.(.*)", rest).groups()
        return f"bert.encoder.layer.{sublayer + 1}.{block}.{'v_' if stream == 'v' else ''}{part}"
    if kind == "v_layer":
        sublayer, prefix = FIRST + 4 * number + 2, "v_"
    else:
        sublayer, prefix = (2 * number if number < ALONE else FIRST + 4 * (number - ALONE) + 2), ""
    if rest.startswith("attention."):
        _, block, part = rest.split(".", 2)
        return f"bert.encoder.layer.{sublayer}.attention_{block}.{prefix}{part}"
    block, part = rest.split(".", 1)
    return f"bert.encoder.layer.{sublayer + 1}.{block}.{prefix}{part}"


def volta_tensors(tensors: dict) -> dict:
    return {volta_name(name): tensor for name, tensor in tensors.items() if volta_name(name) is not None}


def folders(
    tmp_path: Path, setup: str, heads: dict | None = None, volta_heads: dict | None = None
) -> tuple[Path, Path]:
    config = SETUPS[setup]
    tensors = original_tensors(config)
    volta = {**volta_tensors(tensors), **(volta_heads or {})}
    original = write(tmp_path / "original", config, {**tensors, **(heads or {})})
    return original, write(tmp_path / "volta", volta_config(config), volta)


@pytest.mark.parametrize("setup", SETUPS)
def test_the_same_numbers(setup, tmp_path):
    original, volta = folders(tmp_path, setup)
    inputs = random_inputs(SETUPS[setup])
    models = [ViLBertForPreTraining.from_pretrained(folder) for folder in (original, volta)]
    assert models[0].config.schedule == models[1].config.schedule
    found, expected = (
        {**model(**inputs, output_attentions=True), **model.vilbert(**inputs)} for model in reversed(models)
    )
    assert set(found) == set(expected) and found["text_to_vision_attentions"][2].shape[2:] == (7, 5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    models[1].save_pretrained(tmp_path / "today")
    again = ViLBertForPreTraining.from_pretrained(tmp_path / "today")(**inputs)
    torch.testing.assert_close(again.prediction_logits, found["prediction_logits"], atol=1e-5, rtol=1e-5)


def test_an_auto_class_reads_volta_too(tmp_path):
    original, volta = folders(tmp_path, "base")
    fields = json.loads((volta / "config.json").read_text())
    (volta / "config.json").write_text(json.dumps({**fields, "model_type": "vilbert"}))
    inputs = random_inputs(TINY)
    expected = ViLBertForPreTraining.from_pretrained(original)(**inputs)
    torch.testing.assert_close(
        dict(AutoModelForPreTraining.from_pretrained(volta)(**inputs)), dict(expected), atol=1e-5, rtol=1e-5
    )


def test_task_heads(tmp_path):
    heads = {name: value for name, value in heads_of("12-in-1", hidden=37).items() if "linguisic" not in name}
    # Their widths are those of the "controlled" setup.
    heads["vision_logit.weight"] = torch.rand(1, 24)
    numbers = {
        "vil_prediction": 1, "vil_prediction_gqa": 15, "vil_binary_prediction": 12, "vil_tri_prediction": 13,
        "vil_logit": 8, "vision_logit": 9,
    }  # fmt: skip
    volta_heads = {}
    for name, value in heads.items():
        head, rest = name.split(".", 1)
        volta_heads[f"clfs_dict.TASK{numbers[head]}.{rest}"] = value
    original, volta = folders(tmp_path, "controlled", heads, volta_heads)
    models = [ViLBertForMultiTask.from_pretrained(folder) for folder in (original, volta)]
    assert models[0].config.tasks == models[1].config.tasks
    for task in models[0].heads:
        inputs = random_inputs(SETUPS["controlled"])
        if task == "image_pair":
            inputs = {
                name: torch.stack([value, value.flip(1)], 1) if "region" in name else value
                for name, value in inputs.items()
            }
        expected, found = (model(**inputs, task=task).logits for model in models)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_two_heads_for_one_place_are_both_reported(tmp_path):
    linear = {"weight": torch.rand(1, 24), "bias": torch.rand(1)}
    heads = {f"clfs_dict.TASK{n}.{name}": value + n for n in (9, 10) for name, value in linear.items()}
    _, volta = folders(tmp_path, "controlled", volta_heads=heads)
    files = volta / "pytorch_model.bin", volta / "config.json"
    conversion = load_original(*files)
    assert conversion.architecture == "ViLBertForVisualGrounding"
    assert torch.equal(conversion.state_dict["head.classifier.weight"], heads["clfs_dict.TASK9.weight"])
    assert conversion.dropped["clfs_dict.TASK10.weight"] == "clfs_dict.TASK9.weight takes its place"

    # The report speaks of the names that are in the file.
    assert (
        main(["convert", "--checkpoint", str(files[0]), "--config", str(files[1]), "--output", str(tmp_path / "o")])
        == 0
    )
    report = (tmp_path / "o" / "conversion_report.txt").read_text().splitlines()[1:]
    assert {line.split()[0] for line in report} == set(torch.load(files[0], weights_only=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shared_sublayers": [4]}, "not of a ViLBERT"),
        ({"vt_attn_sublayers": [4, 8]}, "not of a ViLBERT"),
        ({"tv_attn_sublayers": [4, 8, 14], "vt_attn_sublayers": [4, 8, 14]}, "not of a ViLBERT"),
        ({"sublayer2num_attention_heads": {"4": 2, "8": 5, "12": 5}}, "must be alike"),
        ({"sublayer2attn_hidden_size": {"6": 20}}, "not of a ViLBERT"),
        ({"vv_attn_sublayers": [6, 10], "v_ff_sublayers": [5, 7, 9, 11, 13]}, "vision_coattention_layers"),
    ],
)
def test_other_models_of_volta_are_refused(change, message, tmp_path, capsys):
    _, volta = folders(tmp_path, "base")
    (volta / "config.json").write_text(json.dumps({**volta_config(SETUPS["base"]), **change}))
    files = ["--checkpoint", str(volta / "pytorch_model.bin"), "--config", str(volta / "config.json")]
    assert main(["convert", *files, "--output", str(tmp_path / "o")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
