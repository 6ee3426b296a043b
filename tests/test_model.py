"""The trunk: implementations agree, masks mask, gradients arrive, bad inputs are named."""

import pytest
import torch
from tiny import tiny_config, tiny_inputs

from modeling_vilbert import ViLBertConfig, ViLBertModel
from modeling_vilbert.layers_vilbert import Dropout, drop


OUTPUTS = ("text_last_hidden_state", "vision_last_hidden_state", "text_pooler_output", "vision_pooler_output")


def make(**fields) -> ViLBertModel:
    torch.manual_seed(0)
    return ViLBertModel(tiny_config(**fields)).eval()


def real_values(outputs, inputs) -> dict[str, torch.Tensor]:
    """The outputs at real words and regions."""
    words, regions = inputs["attention_mask"].bool(), inputs["region_attention_mask"].bool()
    return {
        "text_last_hidden_state": outputs.text_last_hidden_state[words],
        "vision_last_hidden_state": outputs.vision_last_hidden_state[regions],
        "text_pooler_output": outputs.text_pooler_output,
        "vision_pooler_output": outputs.vision_pooler_output,
    }


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask", ["padding", "pairs", "no region at all", "none"])
@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_implementations_agree(implementation, mask):
    # flex attention wants heads of 16 and more
    wide = {"hidden_size": 48, "v_hidden_size": 32, "bi_hidden_size": 64}
    model, inputs = make(**wide), tiny_inputs()
    if mask == "none":
        del inputs["attention_mask"], inputs["region_attention_mask"]
    elif mask == "no region at all":
        inputs["region_attention_mask"][1] = 0
    elif mask == "pairs":
        inputs["co_attention_mask"] = torch.rand(3, 7, 5, generator=torch.Generator().manual_seed(0)) > 0.5
        inputs["co_attention_mask"][0, 2] = False
    with torch.no_grad():
        model.set_attn_implementation("eager")
        eager = model(**inputs)
        model.set_attn_implementation(implementation)
        # flex attention takes most of a minute to compile: once is enough, its masks are the same without.
        with torch.compiler.set_stance("default" if mask == "pairs" else "force_eager"):
            other = model(**inputs)
    for name in OUTPUTS:
        assert eager[name].isfinite().all()
        assert_close(other[name], eager[name])


def test_gradients_of_eager_and_sdpa_agree():
    inputs = tiny_inputs()
    gradients = []
    for implementation in ("eager", "sdpa"):
        model = make()
        model.set_attn_implementation(implementation)
        sum(value.square().sum() for value in real_values(model(**inputs), inputs).values()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-4, rtol=1e-4)


def test_on_cpus_sdpa_drops_out_what_eager_does():
    inputs, outputs = tiny_inputs(), []
    model = make().train()
    assert model.config.text_config.attention_probs_dropout_prob > 0
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        torch.manual_seed(0)
        outputs.append(real_values(model(**inputs), inputs))
    assert_close(outputs[0], outputs[1])


def test_flash_attention_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="un-pads the queries"):
        ViLBertModel._from_config(tiny_config(), attn_implementation="flash_attention_2")


def test_padding_changes_nothing():
    model, inputs = make(), tiny_inputs()
    padded = dict(inputs)
    for name, value in inputs.items():
        extra = torch.full_like(value[:, :2], float("nan") if value.is_floating_point() else 0)
        padded[name] = torch.cat([value, extra], 1)
    assert_close(real_values(model(**padded), padded), real_values(model(**inputs), inputs))


def test_a_batch_is_its_examples():
    model, inputs = make(), tiny_inputs()
    batch = model(**inputs)
    for i in range(3):
        words, regions = inputs["attention_mask"][i].sum(), inputs["region_attention_mask"][i].sum()
        single = {
            name: value[i : i + 1, : regions if name.startswith("region_") else words] for name, value in inputs.items()
        }
        outputs = model(**single)
        assert_close(outputs.text_last_hidden_state[0], batch.text_last_hidden_state[i, :words])
        assert_close(outputs.vision_last_hidden_state[0], batch.vision_last_hidden_state[i, :regions])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_row_of_padding_only_is_finite_and_reads_nothing(implementation):
    model, inputs = make(), tiny_inputs()
    model.set_attn_implementation(implementation)
    inputs["attention_mask"][0] = 0
    inputs["region_attention_mask"][1] = 0
    inputs["region_features"].requires_grad_()
    outputs = model(**inputs)
    sum(outputs[name].sum() for name in OUTPUTS).backward()
    assert all(outputs[name].isfinite().all() for name in OUTPUTS)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    # The words of example 1 have no region to look at: other features do not change them.
    before = model(**inputs).text_last_hidden_state[1]
    assert torch.equal(before, model(**{**inputs, "region_features": -inputs["region_features"]})[0][1])


def test_pairs_that_may_not_see_each_other_do_not():
    model, inputs = make(), tiny_inputs()
    allowed = torch.ones(3, 7, 5, dtype=torch.bool)
    allowed[0, 3, 2] = False
    outputs = model(**inputs, co_attention_mask=allowed, output_attentions=True)
    for to_vision, to_text in zip(outputs.text_to_vision_attentions, outputs.vision_to_text_attentions):
        assert (to_vision[0, :, 3, 2] == 0).all() and (to_text[0, :, 2, 3] == 0).all()
        assert (to_vision[0, :, 3, 1] > 0).all() and (to_text[0, :, 1, 3] > 0).all()
        assert_close(to_vision[0].sum(-1), torch.ones(4, 7))
    everything = model(**inputs, co_attention_mask=torch.ones(3, 7, 5, dtype=torch.bool))
    assert_close(real_values(everything, inputs), real_values(model(**inputs), inputs))

    # With nothing allowed at all, the words cannot tell one image from another.
    nothing = {"co_attention_mask": torch.zeros(3, 7, 5, dtype=torch.bool)}
    other = {**inputs, "region_features": -inputs["region_features"]}
    assert torch.equal(model(**inputs, **nothing)[0], model(**other, **nothing)[0])


def test_asking_for_more_does_not_change_the_rest():
    model, inputs = make(), tiny_inputs()
    plain = model(**inputs)
    asked = model(**inputs, output_hidden_states=True, output_attentions=True)
    for name in OUTPUTS:
        assert_close(asked[name], plain[name])
    assert plain.text_hidden_states is None and plain.text_attentions is None
    assert torch.equal(asked.text_hidden_states[-1], asked.text_last_hidden_state)
    assert torch.equal(asked.vision_hidden_states[-1], asked.vision_last_hidden_state)
    assert (len(asked.text_hidden_states), len(asked.vision_hidden_states)) == (1 + 4 + 2, 1 + 3 + 2)
    assert asked.text_attentions[0].shape == (3, 3, 7, 7)
    assert asked.vision_attentions[0].shape == (3, 2, 5, 5)
    assert asked.text_to_vision_attentions[0].shape == (3, 4, 7, 5)
    assert asked.vision_to_text_attentions[0].shape == (3, 4, 5, 7)
    assert len(asked.text_to_vision_attentions) == len(asked.vision_to_text_attentions) == 2
    assert asked.hidden_states is asked.text_hidden_states and asked.attentions is asked.text_attentions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_is_that_of_torch(rate, dtype):
    states = (torch.rand(401, 257, generator=torch.Generator().manual_seed(0)) + 0.5).to(dtype).requires_grad_()
    torch.manual_seed(0)
    ours, others = drop(states, rate, True), torch.nn.functional.dropout(states, rate, True)
    for dropped in (ours, others):
        # Five times what chance allows the share to be off.
        error = 5 * (rate * (1 - rate) / states.numel()) ** 0.5
        assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=error)
    assert not torch.equal(ours == 0, others == 0)
    kept = (ours != 0) & (others != 0)
    torch.testing.assert_close(ours[kept], others[kept], atol=0, rtol=1e-4 if dtype == torch.float32 else 0.01)
    # The rate is met to 1/65,536, and the scale is that of what is met.
    dropped = round(rate * 2**16)
    scale = torch.tensor(2**16 / (2**16 - dropped), dtype=torch.float64)
    exact = (states.detach()[ours != 0].double() * scale).to(dtype)
    torch.testing.assert_close(ours[ours != 0].detach(), exact, atol=0, rtol=1e-6 if dtype == torch.float32 else 0.005)
    # What is kept for the gradient is a byte a number.
    kept_bytes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept_bytes.append(one.nbytes), lambda one: one):
        drop(states, rate, True)
    assert max(kept_bytes) == states.numel()
    # No row and no column is left out more than chance has it.
    for axis, count in ((0, 401), (1, 257)):
        assert (ours == 0).float().mean(axis).sub(rate).abs().max() < 6 * (rate * (1 - rate) / count) ** 0.5
    (gradient,) = torch.autograd.grad(ours.sum(), states)
    torch.testing.assert_close(gradient, (ours / states).detach(), atol=0.01, rtol=0.01)


def test_dropout_draws_from_torchs_generator_and_stops_in_eval_mode():
    states, module = torch.rand(5, 7), Dropout(0.3)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(module(states))
    assert torch.equal(*found) and not torch.equal(found[0], module(states))
    assert module.eval()(states) is states
    assert torch.equal(drop(states, 0.0, True), states)
    assert not drop(states, 1.0, True).any()
    assert drop(torch.rand(0, 3), 0.3, True).shape == (0, 3)
    assert torch.equal(drop(torch.ones(3), 1e-9, True), torch.ones(3)) and not drop(torch.ones(3), 1 - 1e-9, True).any()


def test_dropout_where_tensors_are_not_plain():
    each = torch.func.vmap(lambda row: drop(row, 0.5, True), randomness="different")(torch.ones(4, 100))
    assert all(0 < (row == 0).float().mean() < 1 for row in each) and not torch.equal(each[0], each[1])
    states = torch.ones(10, 10)
    with torch.device("meta"):
        assert drop(states, 0.5, True).device == states.device
    compiled = torch.compile(lambda states: drop(states, 0.5, True), fullgraph=True, backend="eager")
    assert 0 < (compiled(states) == 0).float().mean() < 1


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant):
    """With dropout, too: what is computed again draws the same."""
    inputs = tiny_inputs()
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = make(text_gated_vision_attention=True).train()
        torch.manual_seed(0)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            layers = [*model.encoder.text_layers, *model.encoder.vision_layers]
            layers += [half for layer in model.encoder.coattention_layers for half in (layer.text, layer.vision)]
            for layer in layers:
                layer.attention.register_forward_hook(lambda *_: calls.append(1))
        outputs = model(**inputs)
        sum(outputs[name].square().mean() for name in OUTPUTS).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    # Every layer of both streams ran twice (once more in the backward).
    assert len(calls) == 2 * len(layers)
    for name in gradients[0]:
        torch.testing.assert_close(gradients[1][name], gradients[0][name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"text_gated_vision_attention": True, "num_task_tokens": 4}])
def test_compiles_in_one_graph(fields):
    model, inputs = make(**fields), tiny_inputs()
    if fields:
        inputs["task_ids"] = torch.tensor([1, 0, 3])
        inputs["co_attention_mask"] = torch.rand(3, 7, 5) > 0.3
    expected = model(**inputs)
    expected.text_pooler_output.sum().backward()
    gradient = model.encoder.vision_layers[0].attention.query.weight.grad.clone()
    model.zero_grad()
    outputs = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs)
    outputs.text_pooler_output.sum().backward()
    for name in OUTPUTS:
        assert_close(outputs[name], expected[name])
    assert_close(model.encoder.vision_layers[0].attention.query.weight.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("features", [torch.float32, torch.float16, torch.float64])
def test_half_precision_takes_features_of_any_dtype(dtype, features):
    model, inputs = make(initializer_range=0.02).to(dtype), tiny_inputs()
    expected = make(initializer_range=0.02)(**inputs)
    inputs["region_features"] = inputs["region_features"].to(features)
    outputs = model(**inputs)
    for name in OUTPUTS:
        assert outputs[name].dtype == dtype
        torch.testing.assert_close(outputs[name].float(), expected[name], atol=0.1, rtol=0.1)


def test_frozen_layers_get_no_gradient():
    model, inputs = (
        make(t_biattention_id=[2, 3], v_biattention_id=[1, 2], fixed_t_layer=2, fixed_v_layer=1),
        tiny_inputs(),
    )
    outputs = model(**inputs)
    sum(outputs[name].sum() for name in OUTPUTS).backward()
    frozen = ("text_embeddings", "vision_embeddings", "encoder.text_layers.0", "encoder.text_layers.1.")
    frozen += ("encoder.vision_layers.0.",)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    thawed = make(t_biattention_id=[2, 3], v_biattention_id=[1, 2])
    assert_close(real_values(outputs, inputs), real_values(thawed(**inputs), inputs))
    states = model(**inputs, output_hidden_states=True).text_hidden_states
    assert [state.requires_grad for state in states[:4]] == [False, False, False, True]


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_follows_frozen_layers_learns_under_checkpointing(reentrant):
    fields = {"t_biattention_id": [2, 3], "v_biattention_id": [1, 2], "fixed_t_layer": 1, "fixed_v_layer": 1}
    model, inputs = make(**fields).train(), tiny_inputs()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    outputs = model(**inputs)
    sum(outputs[name].sum() for name in OUTPUTS).backward()
    for name in ("text_layers.1", "vision_layers.1", "coattention_layers.0.text"):
        assert model.get_submodule(f"encoder.{name}").output.weight.grad is not None
    assert model.encoder.text_layers[0].output.weight.grad is None


def test_a_task_token_stands_second():
    model, inputs = make(num_task_tokens=6), tiny_inputs()
    outputs = model(**inputs, task_ids=torch.tensor([0, 5, 2]), output_hidden_states=True)
    assert outputs.text_last_hidden_state.shape == (3, 8, 24)
    other = model(**inputs, task_ids=torch.tensor([[1], [5], [2]]), output_hidden_states=True)
    changed = (outputs.text_hidden_states[0] != other.text_hidden_states[0]).any(-1)
    assert changed.nonzero().tolist() == [[0, 1]]


def test_dropout_rates_are_crossed_as_in_the_original():
    config = tiny_config(
        attention_probs_dropout_prob=0.11, v_attention_probs_dropout_prob=0.22, hidden_dropout_prob=0.33,
        v_hidden_dropout_prob=0.44,
    )  # fmt: skip
    encoder = ViLBertModel(config).encoder
    coattention = encoder.coattention_layers[0]
    assert encoder.text_layers[0].attention.dropout == coattention.vision.attention.dropout == 0.11
    assert encoder.vision_layers[0].attention.dropout == coattention.text.attention.dropout == 0.22
    assert coattention.text.dropout.p == 0.33 and coattention.vision.dropout.p == 0.44
    assert ViLBertModel(config).vision_embeddings.dropout.p == 0.33


def test_the_sharding_plan_names_modules_of_both_streams():
    names = {name for name, _ in ViLBertModel(tiny_config()).named_modules()}
    layers = {"encoder.text_layers.0", "encoder.vision_layers.0", "encoder.coattention_layers.0"}
    matched = set()
    for pattern in ViLBertConfig.base_model_fsdp_plan:
        found = {name for name in names if name == pattern or name.rpartition(".")[0] + ".*" == pattern}
        assert found, pattern
        matched |= found
    assert layers | {"text_embeddings", "vision_embeddings"} <= matched


def test_exports_with_dynamic_sizes():
    model, inputs = make(), tiny_inputs()
    dynamic = {name: {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO} for name in inputs}
    program = torch.export.export(model, (), inputs, dynamic_shapes=dynamic)
    other = tiny_inputs(batch=4, tokens=9, regions=6)
    assert_close(program.module()(**other).text_pooler_output, model(**other).text_pooler_output)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"input_ids": None}, "input_ids"),
        ({"inputs_embeds": torch.zeros(3, 7, 24)}, "inputs_embeds"),
        ({"region_features": None}, "region_features is missing"),
        ({"region_locations": None}, "region_locations is missing"),
        ({"region_features": torch.zeros(3, 5, 13)}, r"region_features must be \[3, 5, 14\], got \[3, 5, 13\]"),
        ({"region_features": torch.zeros(2, 5, 14)}, "region_features"),
        ({"region_locations": torch.zeros(3, 5, 4)}, "region_locations"),
        ({"region_attention_mask": torch.ones(3, 4)}, "region_attention_mask"),
        ({"attention_mask": torch.ones(3, 6)}, "attention_mask"),
        ({"token_type_ids": torch.zeros(1, 7, dtype=torch.long)}, "token_type_ids"),
        ({"co_attention_mask": torch.ones(3, 5, 7)}, r"co_attention_mask must be \[3, 7, 5\]"),
        ({"task_ids": torch.zeros(3, dtype=torch.long)}, "task_ids"),
        ({"input_ids": torch.ones(3, 20, dtype=torch.long), "attention_mask": None}, "20 tokens.*19"),
        ({"input_ids": torch.ones(7, dtype=torch.long)}, "input_ids"),
        ({"input_ids": torch.ones(3, 0, dtype=torch.long)}, "input_ids.*none of them 0"),
        ({"region_features": torch.zeros(3, 0, 14)}, "region_features.*none of them 0"),
        ({"region_features": torch.zeros(14)}, "region_features"),
    ],
)
def test_bad_inputs_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        make()(**{**tiny_inputs(), **change})


def test_a_model_with_task_tokens_wants_task_ids():
    with pytest.raises(ValueError, match="task_ids"):
        make(num_task_tokens=6)(**tiny_inputs())
