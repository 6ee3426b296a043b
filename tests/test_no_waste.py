"""What no head reads is not computed, and nothing else changes: against the trunk that computes all."""

import weakref

import pytest
import torch
from tiny import grouped, tiny_config, tiny_inputs

from modeling_vilbert import (
    ViLBertForImagesAndTextClassification,
    ViLBertForMultipleChoice,
    ViLBertForQuestionAnswering,
    ViLBertForVisualGrounding,
    ViLBertModel,
)
from modeling_vilbert.heads_vilbert import flatten_groups
from modeling_vilbert.modeling_vilbert import STATES, wanted_counts


CONFIGS = {
    "base": {},
    "gated": {"text_gated_vision_attention": True},
    "no co-attention": {"use_coattention": False},
    "two co-attentions in a row": {"t_biattention_id": [3, 3], "v_biattention_id": [2, 2]},
    "frozen": {"num_frozen_text_layers": 1},
}
POOLED = ("text_pooler_output", "vision_pooler_output")


def twin(model, inputs: dict) -> torch.Tensor:
    """The head's logits on all that the trunk can give."""
    inputs = {"inputs_embeds": None, "task_ids": None, "co_attention_mask": None, "position_ids": None, **inputs}
    group = flatten_groups(inputs, model.head.axes)
    return model.head(model.vilbert(**inputs), inputs["region_attention_mask"], group)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "model_class, groups",
    [
        (ViLBertForQuestionAnswering, {}),
        (ViLBertForVisualGrounding, {}),
        (ViLBertForMultipleChoice, {"text": 2}),
        (ViLBertForImagesAndTextClassification, {"regions": 2}),
    ],
)
@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_logits_and_gradients_are_those_of_the_whole_trunk(fields, model_class, groups, implementation):
    torch.manual_seed(0)
    model = model_class(tiny_config(**fields)).eval()
    model.set_attn_implementation(implementation)
    inputs = grouped(tiny_inputs(), **groups)
    results = []
    for logits in (model(**inputs).logits, twin(model, inputs)):
        model.zero_grad()
        logits.clamp(min=-100).square().sum().backward()
        results.append((logits.detach(), {name: one.grad for name, one in model.named_parameters()}))
    (ours, our_gradients), (theirs, their_gradients) = results
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for name, expected in their_gradients.items():
        # What is left out has no gradient, or one of zeros.
        found = our_gradients[name]
        if found is None:
            assert expected is None or not expected.any(), name
        else:
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: name + text)


def positions_computed(model, inputs: dict, **asked) -> dict[str, int]:
    """How many positions of an example go through the feed-forward block of each layer."""
    counts, hooks = {}, []
    for name, module in model.named_modules():
        if name.endswith(".intermediate"):
            layer = name.removeprefix("vilbert.encoder.").removesuffix(".intermediate")
            hooks.append(
                module.register_forward_hook(
                    lambda module, arguments, output, layer=layer: counts.__setitem__(layer, output.shape[1])
                )
            )
    with torch.no_grad():
        model(**inputs, **asked)
    for hook in hooks:
        hook.remove()
    return counts


def test_only_what_is_read_is_computed():
    """7 words, 5 regions; text 0, vision -, co-attention 0, text 1 2, vision 0 1, co-attention 1, vision 2, text 3."""
    whole = {f"text_layers.{i}": 7 for i in range(4)} | {f"vision_layers.{j}": 5 for j in range(3)}
    whole |= {f"coattention_layers.{k}.text": 7 for k in range(2)}
    whole |= {f"coattention_layers.{k}.vision": 5 for k in range(2)}
    answers, grounding = (
        kind(tiny_config()).eval() for kind in (ViLBertForQuestionAnswering, ViLBertForVisualGrounding)
    )
    assert positions_computed(answers, tiny_inputs()) == whole | {"text_layers.3": 1, "vision_layers.2": 1}
    # Regions are scored: the words' way ends at the last co-attention, which shows them as they were before it.
    without = {
        name: count for name, count in whole.items() if name not in ("text_layers.3", "coattention_layers.1.text")
    }
    assert positions_computed(grounding, tiny_inputs()) == without
    # Who asks for states or attentions gets them whole.
    assert positions_computed(answers, tiny_inputs(), output_attentions=True) == whole
    assert positions_computed(answers, tiny_inputs(), output_hidden_states=True) == whole


def test_the_last_halves_of_coattention_end_early_too():
    steps = wanted_counts([("coattention", 0), ("coattention", 1)], text=1, vision=0)
    # A word that looks at regions needs no other words.
    assert steps == [{"text": 1, "vision": None}, {"text": 1, "vision": 0}]
    assert wanted_counts([("text", 0), ("vision", 0)], text=1, vision=1, gated=True)[0]["text"] is None


@pytest.mark.parametrize("reads", [POOLED, POOLED[:1], ("vision_last_hidden_state",), STATES, ()])
def test_the_trunk_gives_what_is_read(reads):
    torch.manual_seed(0)
    model, inputs = ViLBertModel(tiny_config()).eval(), tiny_inputs()
    with torch.no_grad():
        outputs, whole = model(**inputs, reads=reads), model(**inputs)
    assert set(outputs) == set(reads)
    for name in reads:
        torch.testing.assert_close(outputs[name], whole[name], atol=1e-5, rtol=1e-5)


def test_a_field_that_does_not_exist_cannot_be_read():
    with pytest.raises(ValueError, match="reads must be of .*'pooled'"):
        ViLBertModel(tiny_config())(**tiny_inputs(), reads=("pooled",))


@pytest.mark.parametrize("asked", [False, True], ids=["not asked", "asked"])
def test_states_are_let_go_unless_they_are_asked_for(asked):
    model = ViLBertModel(tiny_config()).eval()
    layers = [layer.output_norm for layer in model.modules() if hasattr(layer, "output_norm")]
    states, alive = [], []

    def remember(module, arguments, output):
        states.append(weakref.ref(output))
        alive.append(sum(one() is not None for one in states))

    for layer in layers:
        layer.register_forward_hook(remember)
    with torch.inference_mode():
        outputs = model(**tiny_inputs(), output_hidden_states=asked)
    assert (outputs.text_hidden_states is not None) is asked
    # Both streams as they were, and as they become in co-attention.
    assert len(states) == len(layers) > 5 and max(alive) == (len(layers) if asked else 4)
