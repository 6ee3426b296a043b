"""The numbers of the original implementations: outputs, attentions, losses and gradients within 1e-5."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_vilbert import ViLBertForMultiTask, ViLBertForPreTraining, ViLBertModel
from modeling_vilbert.checkpoint_names_vilbert import rename


HERE = Path(__file__).parent
# More cases lie beside the project where it is developed; a fresh clone has those under tests/.
FOLDERS = [HERE / "parity", HERE.parent.parent / "shared" / "parity"]
CASES = {case.parent.name: case.parent for folder in FOLDERS for case in sorted(folder.glob("*/case.json"))}
PRETRAINING = sorted(name for name in CASES if json.loads((CASES[name] / "case.json").read_text())["head"] != "vltasks")
TASK_CASES = sorted(set(CASES) - set(PRETRAINING))
TOLERANCE = 1e-5

TRUNK_INPUTS = (
    "input_ids", "attention_mask", "token_type_ids", "task_ids", "region_features", "region_locations",
    "region_attention_mask",
)  # fmt: skip
TEXT = ("input_ids", "attention_mask", "token_type_ids", "task_ids")

# Head of the original -> task of ViLBertForMultiTask.
TASKS = {
    "vqa_logits": "vqa",
    "gqa_logits": "gqa",
    "pair_logit": "retrieval",
    "image_pair_logits": "image_pair",
    "entailment_logits": "entailment",
    "vision_logit": "grounding",
}


class Case:
    def __init__(self, folder: Path):
        self.folder = folder
        self.inputs = load_file(folder / "inputs.safetensors")
        self.expected = load_file(folder / "expected.safetensors")
        self.trunk_inputs = {name: self.inputs[name] for name in TRUNK_INPUTS if name in self.inputs}
        self.words = self.inputs["attention_mask"].bool()
        if "task_ids" in self.inputs:
            self.words = torch.cat([self.words[:, :1], self.words], 1)
        self.regions = self.inputs["region_attention_mask"].bool()

    def close(self, name: str, value: torch.Tensor, where: torch.Tensor | None = None, dim: int = 1):
        """Compare with the expected tensor of that name, at real words or regions along `dim`."""
        expected = self.expected[name]
        assert value.shape == expected.shape, name
        if where is not None:
            value, expected = value.transpose(1, dim)[where], expected.transpose(1, dim)[where]
        torch.testing.assert_close(value, expected, atol=TOLERANCE, rtol=TOLERANCE, msg=lambda text: f"{name}: {text}")


def pretraining_labels(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The original leaves the global region out and marks with -1 what is not predicted."""
    batch, _, classes = inputs["image_target"].shape
    return {
        "labels": inputs["masked_lm_labels"].masked_fill(inputs["masked_lm_labels"] == -1, -100),
        "region_targets": torch.cat([torch.zeros(batch, 1, classes), inputs["image_target"]], 1),
        "masked_regions": torch.cat([torch.zeros(batch, 1, dtype=torch.bool), inputs["image_label"] == 1], 1),
        "alignment_labels": inputs["next_sentence_label"],
    }


def test_the_cases_are_there():
    assert {"vltasks", "pretraining-kl", "pretraining-regression", "multitask-task-tokens"} <= set(CASES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_trunk(name):
    case = Case(CASES[name])
    model = ViLBertModel.from_pretrained(case.folder)
    outputs = model(**case.trunk_inputs, output_attentions=True, output_hidden_states=True)
    case.close("text_hidden", outputs.text_last_hidden_state, case.words)
    case.close("vision_hidden", outputs.vision_last_hidden_state, case.regions)
    case.close("text_pooled", outputs.text_pooler_output)
    case.close("vision_pooled", outputs.vision_pooler_output)
    for i, attention in enumerate(outputs.text_attentions):
        case.close(f"attention.text.{i}", attention, case.words, dim=2)
    for i, attention in enumerate(outputs.vision_attentions):
        case.close(f"attention.vision.{i}", attention, case.regions, dim=2)
    for k, attention in enumerate(outputs.text_to_vision_attentions):
        case.close(f"attention.text_over_regions.{k}", attention, case.words, dim=2)
    for k, attention in enumerate(outputs.vision_to_text_attentions):
        case.close(f"attention.regions_over_text.{k}", attention, case.regions, dim=2)

    # Hidden states come after every layer that changes their stream: find those after co-attention in the schedule.
    for stream, real, states in (
        ("text", case.words, outputs.text_hidden_states),
        ("vision", case.regions, outputs.vision_hidden_states),
    ):
        steps = [step for step in model.config.schedule if step[0] in (stream, "coattention")]
        assert len(states) == len(steps) + 1
        for state, (kind, index) in zip(states[1:], steps):
            if kind == "coattention":
                case.close(f"after_coattention.{stream}.{index}", state, real)


@pytest.mark.parametrize("name", TASK_CASES)
def test_pretraining_heads_of_a_task_checkpoint(name):
    case = Case(CASES[name])
    outputs = ViLBertForPreTraining.from_pretrained(case.folder)(**case.trunk_inputs)
    case.close("token_predictions", outputs.prediction_logits, case.words)
    case.close("region_predictions", outputs.region_logits, case.regions)
    if "alignment_logits" in case.expected:
        case.close("alignment_logits", outputs.alignment_logits)


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_heads_losses_and_gradients(name):
    case = Case(CASES[name])
    model = ViLBertForPreTraining.from_pretrained(case.folder)
    case.close("token_predictions", model(**case.trunk_inputs).prediction_logits, case.words)
    labels = pretraining_labels(case.inputs)
    outputs = model(**case.trunk_inputs, **labels)
    torch.testing.assert_close(
        outputs.prediction_logits, case.expected["token_predictions"][labels["labels"] != -100], atol=1e-5, rtol=1e-5
    )
    case.close("region_predictions", outputs.region_logits, case.regions)
    case.close("alignment_logits", outputs.alignment_logits)
    case.close("loss_mlm", outputs.mlm_loss[None])
    case.close("loss_region", outputs.region_loss[None])
    case.close("loss_alignment", outputs.alignment_loss[None])
    case.close("grad_probe_loss", outputs.loss[None])
    outputs.loss.backward()
    check_gradients(case, model)


@pytest.mark.parametrize("name", TASK_CASES)
def test_task_heads_and_gradients(name):
    case = Case(CASES[name])
    model = ViLBertForMultiTask.from_pretrained(case.folder)
    others = ViLBertForPreTraining.from_pretrained(case.folder)
    # The probe runs through all heads at once: let the pre-training heads read the same trunk.
    others.vilbert = model.vilbert
    others.text_head.decoder.weight = model.vilbert.text_embeddings.word_embeddings.weight
    outputs = others(**case.trunk_inputs)
    heads = {
        "token_predictions": outputs.prediction_logits,
        "region_predictions": outputs.region_logits,
        "alignment_logits": outputs.alignment_logits,
    }
    for name, task in TASKS.items():
        if name not in case.expected:
            assert task not in model.heads
            continue
        inputs = dict(case.trunk_inputs)
        if task == "image_pair":
            inputs = {key: value[::2] if key in TEXT else value.unflatten(0, (-1, 2)) for key, value in inputs.items()}
        heads[name] = model(**inputs, task=task).logits

    regions = heads["vision_logit"]
    assert (regions[~case.regions] == torch.finfo(regions.dtype).min).all()
    heads["vision_logit"] = regions[..., None]
    real = {"token_predictions": case.words, "region_predictions": case.regions, "vision_logit": case.regions}
    for name, logits in heads.items():
        if name in case.expected:
            case.close(name, logits, real.get(name))

    # The head of single words serves no task and is not kept; its gradient comes from its weights here.
    original = torch.load(case.folder / "pytorch_model.bin", weights_only=True)
    states = model.vilbert(**case.trunk_inputs).text_last_hidden_state
    heads["text_logit"] = states @ original["linguisic_logit.weight"].T + original["linguisic_logit.bias"]
    probe = sum(logits.clamp(-50, 50).square().mean() for name, logits in heads.items() if name in case.expected)
    case.close("grad_probe_loss", probe[None])
    probe.backward()
    check_gradients(case, model)


def check_gradients(case: Case, model: torch.nn.Module):
    parameters = dict(model.named_parameters(remove_duplicate=False))
    checked = 0
    for name in case.expected:
        if name.startswith("grad.") and "q_dense" not in name:
            new = rename(name.removeprefix("grad."))
            assert new in parameters, name
            case.close(name, parameters[new].grad)
            checked += 1
    assert checked >= 5
