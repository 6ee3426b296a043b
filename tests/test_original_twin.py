"""Every switch of the original, against the slow twin in `original.py`; the twin against the recorded cases."""

import json
from pathlib import Path

import pytest
import torch
from original import TINY, Original, random_inputs, random_state_dict
from safetensors.torch import load_file

from modeling_vilbert import ViLBertForPreTraining, ViLBertModel


VARIANTS = {
    "plain": {},
    "sum": {"fusion_method": "sum"},
    "relu": {"hidden_act": "relu", "v_hidden_act": "swish"},
    "other orders": {"t_biattention_id": [0, 2, 2], "v_biattention_id": [1, 1, 2]},
    "early": {"t_biattention_id": [0], "v_biattention_id": [0]},
    "text-gated": {"dynamic_attention": True},
    "without co-attention": {"with_coattention": False},
    "text-gated, without co-attention": {"dynamic_attention": True, "with_coattention": False},
    "task tokens": {"task_specific_tokens": True},
    "text-gated, with task tokens": {"dynamic_attention": True, "task_specific_tokens": True, "fusion_method": "sum"},
    "nominal roberta": {"model": "roberta", "type_vocab_size": 1},
    "one layer each": {
        "num_hidden_layers": 1, "v_num_hidden_layers": 1, "t_biattention_id": [0], "v_biattention_id": [0],
    },
}  # fmt: skip


def write_folder(folder: Path, config: dict, tensors: dict[str, torch.Tensor]) -> Path:
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_and_gradients(variant, tmp_path):
    """In float64, so that rounding, which differs between processors, has no part in it."""
    config = {**TINY, **VARIANTS[variant]}
    tensors = random_state_dict(config)
    model = ViLBertForPreTraining.from_pretrained(write_folder(tmp_path, config, tensors)).double()
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    inputs = {
        name: value.double() if value.is_floating_point() else value for name, value in random_inputs(config).items()
    }
    features = inputs["region_features"]
    if config.get("model") == "roberta":
        inputs["token_type_ids"].zero_()

    words, regions = inputs["attention_mask"].bool(), inputs["region_attention_mask"].bool()
    if "task_ids" in inputs:
        words = torch.cat([words[:, :1], words], 1)
    real = {"text_last_hidden_state": words, "prediction_logits": words}
    real |= {"vision_last_hidden_state": regions, "region_logits": regions}

    gradients = []
    outputs = []
    for run in (Original(config, tensors), lambda inputs: {**model.vilbert(**inputs), **model(**inputs)}):
        inputs["region_features"] = features.clone().requires_grad_()
        found = run(inputs)
        outputs.append({name: value[real[name]] if name in real else value for name, value in found.items()})
        torch.cat([value.flatten() for value in outputs[-1].values()]).square().mean().backward()
        gradients.append(inputs["region_features"].grad)

    twin, ours = outputs
    assert set(ours) == set(twin)
    torch.testing.assert_close(ours, twin, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("case", ["vltasks", "pretraining-kl"])
def test_the_twin_is_the_original(case):
    folder = Path(__file__).parent / "parity" / case
    expected, inputs = load_file(folder / "expected.safetensors"), load_file(folder / "inputs.safetensors")
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    outputs = Original(json.loads((folder / "config.json").read_text()), tensors)(inputs)
    words, regions = inputs["attention_mask"].bool(), inputs["region_attention_mask"].bool()
    for name, value, where in (
        ("text_hidden", outputs["text_last_hidden_state"], words),
        ("vision_hidden", outputs["vision_last_hidden_state"], regions),
        ("token_predictions", outputs["prediction_logits"], words),
        ("region_predictions", outputs["region_logits"], regions),
    ):
        torch.testing.assert_close(value[where], expected[name][where], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs["alignment_logits"], expected["alignment_logits"], atol=1e-5, rtol=1e-5)


def test_without_coattention_the_text_does_not_see_the_image(tmp_path):
    config = {**TINY, "with_coattention": False}
    model = ViLBertModel.from_pretrained(write_folder(tmp_path, config, random_state_dict(config)))
    inputs = random_inputs(config)
    other = {**inputs, "region_features": -inputs["region_features"]}
    assert torch.equal(model(**inputs).text_last_hidden_state, model(**other).text_last_hidden_state)
    kinds = "text text text vision vision vision text".split()
    assert [kind for kind, _ in model.config.schedule] == kinds
