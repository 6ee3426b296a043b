"""The task models: shapes, losses against the formulas, groups of images and choices, what is refused."""

import pytest
import torch
from tiny import grouped, tiny_config, tiny_inputs
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from modeling_vilbert import (
    ViLBertForImageAndTextRetrieval,
    ViLBertForImagesAndTextClassification,
    ViLBertForMultipleChoice,
    ViLBertForMultiTask,
    ViLBertForPreTraining,
    ViLBertForQuestionAnswering,
    ViLBertForSequenceClassification,
    ViLBertForVisualGrounding,
)
from modeling_vilbert.configuration_vilbert import TWELVE_IN_ONE_TASKS
from modeling_vilbert.heads_vilbert import score_loss


def make(model_class, **fields):
    torch.manual_seed(0)
    return model_class(tiny_config(**fields)).eval()


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def pretraining_labels(config, **sizes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    width = 9 if config.region_objective == "kl" else 14
    targets = torch.rand(3, 5, width, generator=generator)
    labels = torch.full((3, 7), -100)
    labels[0, 2], labels[2, 5], labels[2, 6] = 17, 3, 44
    masked = torch.zeros(3, 5, dtype=torch.bool)
    masked[0, 1] = masked[0, 4] = masked[1, 2] = True
    return {
        "labels": labels,
        "region_targets": targets / targets.sum(-1, keepdim=True) if width == 9 else targets,
        "masked_regions": masked,
        "alignment_labels": torch.tensor([0, 1, 0]),
    }


# Model, its inputs, int labels, float labels.
SCORES = torch.Generator().manual_seed(5)
TASKS = {
    ViLBertForQuestionAnswering: ({}, torch.tensor([0, 4, 2]), torch.rand(3, 5, generator=SCORES)),
    ViLBertForSequenceClassification: ({}, torch.tensor([0, 4, 2]), torch.rand(3, 5, generator=SCORES)),
    ViLBertForImagesAndTextClassification: (
        {"regions": 2}, torch.tensor([0, 4, 2]), torch.rand(3, 5, generator=SCORES)
    ),
    ViLBertForMultipleChoice: ({"text": 4}, torch.tensor([0, 3, 2]), torch.rand(3, 4, generator=SCORES)),
    ViLBertForImageAndTextRetrieval: (
        {"text": 4, "regions": 4}, torch.tensor([0, 3, 2]), torch.rand(3, 4, generator=SCORES)
    ),
    ViLBertForVisualGrounding: ({}, torch.tensor([0, 4, 2]), torch.rand(3, 5, generator=SCORES)),
}  # fmt: skip


@pytest.mark.parametrize("model_class", TASKS)
def test_losses_are_the_formulas(model_class):
    groups, classes, scores = TASKS[model_class]
    model, inputs = make(model_class), grouped(tiny_inputs(), **groups)
    outputs = model(**inputs, labels=classes)
    assert outputs.logits.shape == scores.shape
    assert_close(outputs.loss, -outputs.logits.log_softmax(-1)[torch.arange(3), classes].mean())

    outputs = model(**inputs, labels=scores)
    real = torch.ones_like(scores)
    if model_class is ViLBertForVisualGrounding:
        real = inputs["region_attention_mask"]
    positive, negative = outputs.logits.sigmoid().clamp(min=1e-30).log(), (-outputs.logits).sigmoid().log()
    entropy = -(scores * positive + (1 - scores) * negative)
    total = torch.where(real.bool(), entropy, 0).sum()
    # A sum over answers, choices or regions; a mean over labels where they are classes of one example.
    mean_over_labels = (ViLBertForSequenceClassification, ViLBertForImagesAndTextClassification)
    assert_close(outputs.loss, total / (scores.numel() if model_class in mean_over_labels else 3))


@pytest.mark.parametrize("model_class", TASKS)
def test_labels_that_are_all_ignored_give_zero(model_class):
    groups, classes, _ = TASKS[model_class]
    model = make(model_class)
    loss = model(**grouped(tiny_inputs(), **groups), labels=torch.full_like(classes, -100)).loss
    loss.backward()
    assert loss == 0 and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("model_class", TASKS)
def test_every_parameter_gets_a_gradient(model_class):
    groups, classes, _ = TASKS[model_class]
    model = make(model_class, dynamic_attention=True).train()
    model(**grouped(tiny_inputs(), **groups), labels=classes).loss.backward()
    last = {"text": "encoder.text_layers.3.", "vision": "encoder.vision_layers.2."}
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Adding one number to every score that softmax sees changes nothing: neither does the bias of a key or a score.
    without = [name for name in without if not name.endswith(("key.bias", "head.classifier.bias"))]
    if model_class is ViLBertForVisualGrounding:
        # Its score reads regions only: what the text does last, it does for nobody.
        assert all("pooler" in name or last["text"] in name for name in without)
        assert any(last["vision"] in name for name, p in model.named_parameters() if p.grad is not None)
    else:
        assert not without


@pytest.mark.parametrize("model_class", TASKS)
def test_labels_of_the_wrong_kind_are_named(model_class):
    groups, classes, scores = TASKS[model_class]
    inputs, model = grouped(tiny_inputs(), **groups), make(model_class)
    ran = []
    model.vilbert.register_forward_hook(lambda *_: ran.append(1))
    wrong = (classes[:2], scores[:, :-1], classes[:, None], scores > 0.5, classes.float(), classes - 1, classes + 5)
    for labels in wrong:
        with pytest.raises(ValueError, match="labels"):
            model(**inputs, labels=labels)
    assert not ran


def test_images_keep_to_their_examples():
    model, inputs = make(ViLBertForImagesAndTextClassification), grouped(tiny_inputs(), regions=2)
    logits = model(**inputs).logits
    order = torch.tensor([2, 0, 1])
    assert_close(model(**{name: value[order] for name, value in inputs.items()}).logits, logits[order])
    swapped = {name: value.clone() for name, value in inputs.items()}
    for name in ("region_features", "region_locations", "region_attention_mask"):
        swapped[name][1] = swapped[name][1].flip(0)
    changed = model(**swapped).logits
    assert_close(changed[[0, 2]], logits[[0, 2]])
    assert (changed[1] - logits[1]).abs().max() > 1e-3


def test_choices_are_single_pairs():
    inputs = tiny_inputs()
    choices = grouped(inputs, text=4)
    model = make(ViLBertForMultipleChoice, num_task_tokens=3)
    logits = model(**choices, task_ids=torch.tensor([0, 1, 2])).logits
    shared = {name: value for name, value in inputs.items() if name.startswith("region_")}
    for choice in range(4):
        words = {name: value[:, choice] for name, value in choices.items() if not name.startswith("region_")}
        one = model.head(model.vilbert(**words, **shared, task_ids=torch.tensor([0, 1, 2])))
        assert_close(logits[:, choice], one[:, 0])


def test_retrieval_scores_pairs_and_choices_alike():
    inputs = tiny_inputs()
    model = make(ViLBertForImageAndTextRetrieval)
    choices = grouped(inputs, text=4, regions=4)
    choices["co_attention_mask"] = torch.rand(3, 4, 7, 5) > 0.3
    logits = model(**choices).logits
    second = {name: value[:, 1] for name, value in choices.items()}
    pairs = model(**second, labels=torch.tensor([1.0, 0.0, 1.0]))
    assert pairs.logits.shape == (3, 1)
    assert_close(pairs.logits[:, 0], logits[:, 1])
    assert_close(pairs.loss, F.binary_cross_entropy(pairs.logits[:, 0].sigmoid(), torch.tensor([1.0, 0.0, 1.0])))
    with pytest.raises(ValueError, match="labels of single pairs must be 3 floats"):
        model(**second, labels=torch.tensor([1, 0, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_grounding_never_chooses_padding(dtype):
    model, inputs = make(ViLBertForVisualGrounding, initializer_range=0.02).to(dtype), tiny_inputs()
    targets = torch.rand(3, 5)
    outputs = model(**inputs, labels=targets)
    assert (outputs.logits[2, 3:] == torch.finfo(dtype).min).all()
    assert outputs.loss.isfinite()
    targets[2, 3:] = 1.0
    assert torch.equal(outputs.loss, model(**inputs, labels=targets).loss)


@pytest.mark.parametrize(
    "model_class, groups",
    [
        (ViLBertForQuestionAnswering, {"text": 2}),
        (ViLBertForQuestionAnswering, {"regions": 2}),
        (ViLBertForVisualGrounding, {"text": 2, "regions": 2}),
        (ViLBertForImagesAndTextClassification, {}),
        (ViLBertForImagesAndTextClassification, {"regions": 3}),
        (ViLBertForImagesAndTextClassification, {"text": 2, "regions": 2}),
        (ViLBertForMultipleChoice, {}),
        (ViLBertForMultipleChoice, {"text": 2, "regions": 3}),
        (ViLBertForImageAndTextRetrieval, {"text": 2}),
        (ViLBertForImageAndTextRetrieval, {"text": 2, "regions": 3}),
    ],
)
def test_an_axis_that_does_not_fit_is_named(model_class, groups):
    with pytest.raises(ValueError, match="region_features"):
        make(model_class)(**grouped(tiny_inputs(), **groups))


def test_positions_may_be_shared():
    model, inputs = make(ViLBertForMultipleChoice), grouped(tiny_inputs(), text=4)
    positions = torch.arange(7)[None]
    assert_close(model(**inputs, position_ids=positions).logits, model(**inputs).logits)
    # The last batch of a data set may be of one.
    alone = {name: value[:1] for name, value in inputs.items()}
    assert_close(model(**alone, position_ids=positions).logits, model(**alone).logits)


@pytest.mark.parametrize("task", ["vqa", "grounding", "entailment"])
def test_one_task_out_of_many(task, tmp_path):
    rows = {
        "vqa": {"head": "question_answering", "num_labels": 3, "id2label": {"0": "a", "1": "b", "2": "c"}},
        "grounding": {"head": "grounding"},
        "entailment": {"head": "classification", "num_labels": 2},
    }
    many, inputs = make(ViLBertForMultiTask, tasks=rows, num_task_tokens=5), tiny_inputs()
    inputs["task_ids"] = torch.tensor([2] * len(inputs["input_ids"]))
    one = many.as_task_model(task)
    expected = many(**inputs, task=task).logits
    assert one.head is many.heads[task] and one.vilbert is many.vilbert and not one.training
    one.save_pretrained(tmp_path)
    for model in (one, type(one).from_pretrained(tmp_path)):
        assert_close(model(**inputs).logits, expected)
        assert model.config.num_labels == rows[task].get("num_labels", 1)
        assert task != "vqa" or model.config.id2label == {0: "a", 1: "b", 2: "c"}
    with pytest.raises(ValueError, match="task must be one of .*, got 'captions'"):
        many.as_task_model("captions")


def test_a_region_that_is_padding_is_no_label():
    model, inputs = make(ViLBertForVisualGrounding), tiny_inputs()
    real = inputs["region_attention_mask"].sum(1) - 1
    assert model(**inputs, labels=real).loss < 100
    assert inputs["region_attention_mask"][2, 3] == 0
    for labels in (torch.tensor([1, -100, 3]), torch.tensor([1, -100, 3], dtype=torch.int32)):
        with pytest.raises(ValueError, match="labels must be of real regions, or -100 .* got 3, which is padding"):
            model(**inputs, labels=labels)


def test_masked_padding_is_not_predicted():
    model, inputs = make(ViLBertForPreTraining), tiny_inputs()
    labels = pretraining_labels(model.config)
    loss = model(**inputs, **labels).region_loss
    labels["masked_regions"][2, 3:] = True
    assert_close(model(**inputs, **labels).region_loss, loss)


def test_classification_by_problem_type():
    inputs = tiny_inputs()
    regression = make(ViLBertForSequenceClassification, num_labels=1)
    outputs = regression(**inputs, labels=torch.tensor([0.5, -1.0, 2.0]))
    assert_close(outputs.loss, (outputs.logits[:, 0] - torch.tensor([0.5, -1.0, 2.0])).square().mean())
    model = make(ViLBertForSequenceClassification, problem_type="multi_label_classification")
    with pytest.raises(ValueError, match="problem_type"):
        model(**inputs, labels=torch.tensor([0, 1, 2]))


def test_only_the_asked_head_runs():
    model, inputs = make(ViLBertForMultiTask), tiny_inputs()
    assert list(model.heads) == list(TWELVE_IN_ONE_TASKS)
    ran = []
    for name, head in model.heads.items():
        head.register_forward_hook(lambda *_, name=name: ran.append(name))
    for task, spec in TWELVE_IN_ONE_TASKS.items():
        logits = model(**grouped(inputs, regions=2 if task == "image_pair" else None), task=task).logits
        assert logits.shape == (3, 5 if task == "grounding" else spec["num_labels"])
    assert ran == list(TWELVE_IN_ONE_TASKS)
    with pytest.raises(ValueError, match="task must be one of.*captions"):
        model(**inputs, task="captions")


def test_many_tasks_are_each_alone():
    fields = {"tasks": {"colour": {"head": "question_answering", "num_labels": 5, "task_token": 2}}}
    many = make(ViLBertForMultiTask, num_task_tokens=4, **fields)
    one = make(ViLBertForQuestionAnswering, num_task_tokens=4)
    state = {name.replace("heads.colour.", "head."): value for name, value in many.state_dict().items()}
    one.load_state_dict(state)
    inputs, labels = tiny_inputs(), torch.rand(3, 5)
    theirs = one(**inputs, task_ids=torch.full((3,), 2), labels=labels)
    ours = many(**inputs, task="colour", labels=labels)
    assert_close(ours.logits, theirs.logits)
    assert_close(ours.loss, theirs.loss)
    with pytest.raises(ValueError, match="task_token of 'colour' must be within 0 to 1, got 2"):
        make(ViLBertForMultiTask, num_task_tokens=2, **fields)


# Pre-training


@pytest.mark.parametrize("objective", ["kl", "regression", "nce"])
def test_nothing_to_predict_is_no_loss(objective):
    model, inputs = make(ViLBertForPreTraining, region_objective=objective), tiny_inputs()
    labels = pretraining_labels(model.config)
    labels["labels"].fill_(-100)
    labels["masked_regions"].zero_()
    labels["alignment_labels"].fill_(-100)
    outputs = model(**inputs, **labels)
    outputs.loss.backward()
    assert outputs.loss == outputs.mlm_loss == outputs.region_loss == outputs.alignment_loss == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_every_parameter_gets_a_gradient_in_pretraining():
    model, inputs = make(ViLBertForPreTraining).train(), tiny_inputs()
    model(**inputs, **pretraining_labels(model.config)).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all(name.endswith("key.bias") for name in without)


def test_only_predicted_words_meet_the_vocabulary():
    model, inputs = make(ViLBertForPreTraining), tiny_inputs()
    labels = pretraining_labels(model.config)
    everywhere = model(**inputs).prediction_logits
    outputs = model(**inputs, labels=labels["labels"])
    assert everywhere.shape == (3, 7, 61) and outputs.prediction_logits.shape == (3, 61)
    chosen = labels["labels"] != -100
    assert_close(outputs.prediction_logits, everywhere[chosen])
    assert_close(outputs.mlm_loss, F.cross_entropy(everywhere[chosen], labels["labels"][chosen]))
    assert outputs.region_loss is None and outputs.alignment_loss is None


def test_regions_are_predicted_by_distribution_or_by_feature():
    inputs = tiny_inputs()
    for objective in ("kl", "regression"):
        model = make(ViLBertForPreTraining, region_objective=objective)
        labels = pretraining_labels(model.config)
        outputs = model(**inputs, **labels)
        total = 0.0
        for image, region in labels["masked_regions"].nonzero().tolist():
            target, logits = labels["region_targets"][image, region], outputs.region_logits[image, region]
            if objective == "kl":
                total += (target * (target.log() - logits.log_softmax(-1))).sum()
            else:
                total += (logits - target).square().mean()
        assert_close(outputs.region_loss, total / 3)
        # What an unmasked region was plays no part, even where it is unknown.
        labels["region_targets"][~labels["masked_regions"]] = float("nan")
        assert_close(model(**inputs, **labels).region_loss, outputs.region_loss)


@pytest.mark.parametrize("batch", [1, 2])
def test_contrastive_negatives_are_other_real_regions(batch, monkeypatch):
    model = make(ViLBertForPreTraining, region_objective="nce", num_region_negatives=400)
    inputs = {name: value[-batch:] for name, value in tiny_inputs().items()}
    features = torch.arange(batch * 5, dtype=torch.float32).view(batch, 5, 1).expand(-1, -1, 14).contiguous()
    masked = torch.zeros(batch, 5, dtype=torch.bool)
    masked[-1, 1] = True
    drawn = []
    multinomial = torch.multinomial
    monkeypatch.setattr(torch, "multinomial", lambda *a, **k: drawn.append(multinomial(*a, **k)) or drawn[-1])
    loss = model(**inputs, region_targets=features, masked_regions=masked).region_loss
    loss.backward()
    assert loss.isfinite() and loss > 0
    # The last image has regions 1 and 2 (0 is the whole image, 3 and 4 are padding); 1 is the masked one.
    same, across = (batch - 1) * 5 + 2, {1, 2, 3, 4}
    assert set(drawn[-1].flatten().tolist()) == {same}
    assert drawn[-1].shape == (1, 120)
    if batch == 2:
        assert set(drawn[0].flatten().tolist()) == across and drawn[0].shape == (1, 280)
    else:
        assert len(drawn) == 1


def test_autocast_rounds_no_contrastive_loss():
    model, draw = make(ViLBertForPreTraining, region_objective="nce"), torch.Generator().manual_seed(0)
    features, masked = 8 * torch.randn(3, 5, 14, generator=draw), torch.zeros(3, 5, dtype=torch.bool)
    masked[:, 1] = True
    predicted, losses = features[masked].roll(1, 0), []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(model.contrastive_losses(predicted, features, masked, None))
    assert losses[0].max() > 100 and torch.equal(*losses)


def test_a_lone_region_has_nothing_to_be_told_from():
    model = make(ViLBertForPreTraining, region_objective="nce")
    inputs = {name: value[:1, :2] if name.startswith("region") else value[:1] for name, value in tiny_inputs().items()}
    masked = torch.tensor([[False, True]])
    assert model(**inputs, region_targets=torch.rand(1, 2, 14), masked_regions=masked).region_loss == 0


@pytest.mark.parametrize(
    "change, named",
    [
        ({"masked_regions": None}, "masked_regions is missing"),
        ({"region_targets": torch.zeros(3, 5, 8)}, r"region_targets must be \[3, 5, 9\]"),
        ({"masked_regions": torch.zeros(3, 4, dtype=torch.bool)}, r"masked_regions must be \[3, 5\]"),
        ({"masked_regions": -torch.ones(3, 5, dtype=torch.long)}, "masked_regions must be of dtype torch.bool"),
        ({"labels": torch.full((3, 7), -1)}, "labels must be within 0 to 60, or -100"),
        ({"alignment_labels": torch.tensor([0, 1, 2])}, "alignment_labels must be within 0 to 1"),
        ({"labels": torch.zeros(3, 6, dtype=torch.long)}, "labels"),
        ({"labels": torch.zeros(3, 7)}, "labels must be of dtype"),
        ({"alignment_labels": torch.zeros(2, dtype=torch.long)}, "alignment_labels"),
    ],
)
def test_bad_pretraining_labels_are_named(change, named):
    model = make(ViLBertForPreTraining)
    with pytest.raises(ValueError, match=named):
        model(**tiny_inputs(), **{**pretraining_labels(model.config), **change})


def test_words_are_predicted_behind_a_task_token():
    model, inputs = make(ViLBertForPreTraining, num_task_tokens=2), tiny_inputs()
    labels = pretraining_labels(model.config)["labels"]
    task = {"task_ids": torch.tensor([0, 1, 1])}
    everywhere = model(**inputs, **task).prediction_logits
    after = torch.cat([labels[:, :1], torch.full((3, 1), -100), labels[:, 1:]], 1) != -100
    assert_close(model(**inputs, **task, labels=labels).prediction_logits, everywhere[after])


def test_pretraining_compiles_in_one_graph():
    model, inputs = make(ViLBertForPreTraining), tiny_inputs()
    labels = pretraining_labels(model.config)
    expected = model(**inputs, **labels).loss
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs, **labels).loss
    loss.backward()
    assert_close(loss, expected)


# Trainer


class Rows(torch.utils.data.Dataset):
    def __init__(self, columns: dict[str, torch.Tensor]):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index] for name, value in self.columns.items()}


@pytest.mark.parametrize("model_class", [*TASKS, ViLBertForPreTraining])
def test_accumulated_gradients_are_those_of_the_whole_batch(model_class, tmp_path):
    inputs = tiny_inputs(batch=8)
    if model_class is ViLBertForPreTraining:
        generator = torch.Generator().manual_seed(0)
        masked = torch.zeros(8, 5, dtype=torch.bool)
        masked[:, 1] = True
        labels = torch.full((8, 7), -100)
        labels[:, 1] = torch.arange(8)
        rows = {
            **inputs, "labels": labels, "masked_regions": masked,
            "region_targets": torch.rand(8, 5, 9, generator=generator).softmax(-1),
            "alignment_labels": torch.tensor([0, 1] * 4),
        }  # fmt: skip
    else:
        rows = {**grouped(inputs, **TASKS[model_class][0]), "labels": torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])}
        if model_class is ViLBertForVisualGrounding:
            rows["labels"] = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    weights = []
    for size, steps in ((8, 1), (2, 4)):
        model = make(model_class, hidden_dropout_prob=0, attention_probs_dropout_prob=0, v_hidden_dropout_prob=0,
                     v_attention_probs_dropout_prob=0, fusion_dropout=0)  # fmt: skip
        arguments = TrainingArguments(
            output_dir=tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_steps=1,
            learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0, report_to=[], use_cpu=True,
            save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        Trainer(model=model, args=arguments, train_dataset=Rows(rows)).train()
        weights.append(model.state_dict())
    start = make(model_class).state_dict()
    assert any((weights[0][name] - start[name]).abs().max() > 1e-3 for name in start)
    assert_close(weights[1], weights[0])


def test_scores_of_minus_100_are_left_out():
    """The same as without them; and an example of nothing else does not count."""
    torch.manual_seed(0)
    logits, scores = torch.randn(3, 5), torch.rand(3, 5)
    scores[0, 3:], scores[2] = -100, -100
    first = F.binary_cross_entropy_with_logits(logits[0, :3], scores[0, :3], reduction="sum")
    second = F.binary_cross_entropy_with_logits(logits[1], scores[1], reduction="sum")
    torch.testing.assert_close(score_loss(logits, scores), (first + second) / 2)
    assert score_loss(logits, torch.full((3, 5), -100.0)) == 0


def test_grounding_learns_of_candidates_only():
    torch.manual_seed(0)
    model, inputs = ViLBertForVisualGrounding(tiny_config()).eval(), tiny_inputs()
    labels = torch.full((3, 5), -100.0)
    labels[:, 1], labels[:, 2] = 1.0, 0.0
    outputs = model(**inputs, labels=labels)
    expected = F.binary_cross_entropy_with_logits(outputs.logits[:, 1:3], labels[:, 1:3], reduction="sum")
    torch.testing.assert_close(outputs.loss, expected / 3)


def test_retrieval_out_of_pretraining_says_what_alignment_says():
    model, inputs = make(ViLBertForPreTraining), tiny_inputs()
    scorer = model.as_retrieval()
    alignment = model(**inputs).alignment_logits
    scores = scorer(**inputs).logits[:, 0]
    assert_close(scores.sigmoid(), alignment.softmax(-1)[:, 0])
    assert scorer.vilbert is model.vilbert and not scorer.training
    assert all(value.device.type == "cpu" for value in scorer.parameters())


def test_an_adapter_of_alignment_has_to_be_merged_for_retrieval():
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(target_modules=["alignment_head"], init_lora_weights=False)
    adapted = peft.get_peft_model(make(ViLBertForPreTraining), lora)
    with pytest.raises(ValueError, match="alignment_head must be a Linear.*lora.*merge_and_unload"):
        adapted.base_model.model.as_retrieval()
    alignment = adapted(**tiny_inputs()).alignment_logits
    scores = adapted.merge_and_unload().as_retrieval()(**tiny_inputs()).logits[:, 0]
    assert_close(scores.sigmoid(), alignment.softmax(-1)[:, 0])
