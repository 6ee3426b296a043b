"""Model cards: their metadata comes back as it was, what nobody stated is not made up, and pushing writes them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load
from huggingface_hub.errors import EntryNotFoundError
from small_runs import TASKS, arguments, examples, pretraining_examples, stack, task_data
from tiny import tiny_config

from modeling_vilbert import (
    MultiTaskTrainer,
    ViLBertForMultiTask,
    ViLBertForPreTraining,
    ViLBertForQuestionAnswering,
    ViLBertForVisualGrounding,
    ViLBertModel,
    ViLBertTrainer,
    model_card,
)
from modeling_vilbert.model_card_vilbert import evaluation_results, replace_empty_card


RESULT = EvalResult(
    task_type="visual-question-answering",
    dataset_type="me/shapes",
    dataset_name="Shapes | drawn",
    dataset_split="test",
    metric_type="accuracy",
    metric_value=np.float32(0.75),
)


def blocks_of(card: ModelCard) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", card.text, re.DOTALL | re.MULTILINE)


# With an Auto class, and without.
@pytest.mark.parametrize("model_class", (ViLBertForQuestionAnswering, ViLBertForVisualGrounding))
def test_the_loading_code_of_a_card_loads_the_model(model_class, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = model_class(tiny_config())
    model.save_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    installed, remote = blocks_of(model_card(model, "./saved"))
    for code in (installed, remote):
        names = {}
        exec(code, names)
        assert type(names["model"]).__name__ == model_class.__name__
        assert all(torch.equal(names["model"].state_dict()[name], value) for name, value in model.state_dict().items())
    if model_class is ViLBertForQuestionAnswering:
        # With the package imported, Transformers prefers it; tests/test_package.py loads where it is not.
        assert "trust_remote_code=True" in remote
    else:
        assert type(names["model"]).__module__.startswith("transformers_modules")


def test_metadata_comes_back(tmp_path):
    model = ViLBertForQuestionAnswering(tiny_config())
    card = model_card(
        model,
        "me/vilbert-shapes",
        [RESULT],
        training_data="Drawn shapes.",
        limits=["It knows three shapes."],
        license="mit",
        datasets=["me/shapes"],
        base_model="me/bert",
        tags=["shapes"],
    )
    card.save(tmp_path / "README.md")
    data = metadata_load(tmp_path / "README.md")
    assert data["license"] == "mit" and data["datasets"] == ["me/shapes"] and data["base_model"] == "me/bert"
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "visual-question-answering"
    assert data["tags"] == ["vilbert", "visual-question-answering", "shapes"] and data["metrics"] == ["accuracy"]
    (index,) = data["model-index"]
    assert index["name"] == "vilbert-shapes"
    assert index["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.75}]
    (result,) = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert result.is_equal_except_value(RESULT) and result.metric_value == 0.75
    text = card.text
    assert "| visual-question-answering | Shapes \\| drawn | test | accuracy | 0.75 |" in text
    assert "Drawn shapes." in text and "- It knows three shapes." in text and "Of the weights: mit." in text
    assert "one of 5 labels" in text
    assert f"{model.num_parameters():,} parameters" in text


def test_what_nobody_stated_is_not_made_up():
    card = model_card(ViLBertModel(tiny_config()), "saved")
    data = card.data.to_dict()
    assert data.keys() == {"library_name", "pipeline_tag", "tags"}
    assert "Of the weights: **not stated**" in card.text and "| made by | **not stated**" in card.text
    assert "## Training data\n\nNot stated." in card.text and "None stated." in card.text


def test_sizes_and_features_are_the_models():
    config = tiny_config(num_task_tokens=7)
    config.vision_config.feature_source = "a detector | layer 3\n# not a title"
    card = model_card(ViLBertModel(config), "saved")
    text, vision = config.text_config, config.vision_config
    for stream, name in ((text, "text"), (vision, "vision")):
        sizes = (stream.num_hidden_layers, stream.hidden_size, stream.num_attention_heads)
        assert f"| {name} | {' | '.join(map(str, sizes))} |" in card.text
    assert f"a feature vector of {vision.feature_size} numbers" in card.text
    assert "| made by | a detector \\| layer 3 # not a title |" in card.text
    assert "| task tokens | 7 |" in card.text


def test_of_many_tasks_each_is_named():
    card = model_card(ViLBertForMultiTask(tiny_config(tasks=TASKS)), "many")
    assert "| vqa | answers a question about an image with one of 5 labels |" in card.text
    assert "| grounding | chooses the region" in card.text and "into one of 3 labels |" in card.text


def test_what_a_caller_gets_wrong():
    model = ViLBertModel(tiny_config())
    with pytest.raises(ValueError, match="model must be a ViLBERT model, got Linear"):
        model_card(torch.nn.Linear(1, 1), "saved")
    for name in ("", " ", "two\nlines", None):
        with pytest.raises(ValueError, match="name must be"):
            model_card(model, name)
    with pytest.raises(ValueError, match="got \\['licence'\\]"):
        model_card(model, "saved", licence="mit")
    with pytest.raises(ValueError, match="accuracy must be a finite number, got nan"):
        model_card(model, "saved", [EvalResult("a", "b", "c", "accuracy", float("nan"))])
    with pytest.raises(ValueError, match="must be of huggingface_hub.EvalResult, got str"):
        model_card(model, "saved", {"accuracy": 0.5})


def test_one_result_and_one_limit_are_taken_as_they_are():
    card = model_card(ViLBertModel(tiny_config()), 'my "\\models', RESULT, limits="Three shapes.")
    assert len(card.data.eval_results) == 1 and "- Three shapes." in card.text
    assert 'from_pretrained("my \\"\\\\models")' in blocks_of(card)[0]


# Results of a training


def test_the_last_evaluations_are_the_results():
    history = [
        {"eval_accuracy": 0.5, "eval_runtime": 3.0, "step": 5},
        {"eval_accuracy": 0.8, "eval_other_score": 0.1, "step": 10},
        {"eval_accuracy": 0.6, "eval_loss": float("nan"), "step": 15},
        {"train_runtime": 1.0, "step": 15},
    ]

    def values(history, **settings):
        return {result.metric_type: result.metric_value for result in evaluation_results(history, "task", **settings)}

    assert values(history) == {"accuracy": 0.6, "other_score": 0.1}
    # The best checkpoint was loaded: the card must not say what the last one was worth.
    assert values(history, best_step=10) == {"accuracy": 0.8, "other_score": 0.1}
    assert values([*history, {"eval_accuracy": 0.79, "step": 15}], best_step=10)["accuracy"] == 0.79
    assert values([]) == {}


def test_a_trainer_writes_its_metrics(tmp_path):
    torch.manual_seed(0)
    data = examples(8)
    for one in data:
        one["labels"] = torch.tensor(1)
    model = ViLBertForQuestionAnswering(tiny_config())
    trainer = ViLBertTrainer(
        model,
        arguments(tmp_path / "shapes", max_steps=1),
        stack,
        data,
        data,
        compute_metrics=lambda prediction: (
            {"accuracy": float((prediction.predictions[0].argmax(-1) == 1).mean())}
            if isinstance(prediction.predictions, tuple)
            else {"accuracy": float((prediction.predictions.argmax(-1) == 1).mean())}
        ),
    )
    trainer.train()
    measured = trainer.evaluate()
    trainer.create_model_card(dataset="Shapes", dataset_tags="me/shapes", finetuned_from="me/bert", license="mit")
    card = ModelCard.load(tmp_path / "shapes" / "README.md")
    assert card.data.base_model == "me/bert" and card.data.datasets == ["me/shapes"] and card.data.license == "mit"
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results.keys() == {"loss", "accuracy"}
    assert results["accuracy"].metric_value == measured["eval_accuracy"]
    assert results["accuracy"].dataset_name == "Shapes" and results["accuracy"].dataset_type == "me/shapes"
    assert results["accuracy"].task_type == "visual-question-answering"
    assert card.data.model_name == "shapes" and "## Training data\n\nShapes." in card.text


def test_a_trainer_of_many_tasks_and_one_without_evaluation(tmp_path):
    torch.manual_seed(0)
    settings = arguments(tmp_path / "many", max_steps=3, eval_strategy="epoch")
    trainer = MultiTaskTrainer(ViLBertForMultiTask(tiny_config(tasks=TASKS)), settings, task_data(), steps_per_epoch=3)
    trainer.train()
    trainer.create_model_card()
    results = ModelCard.load(tmp_path / "many" / "README.md").data.eval_results
    assert {"vqa_accuracy", "grounding_accuracy", "entailment_accuracy"} <= {r.metric_type for r in results}
    assert {result.dataset_name for result in results} == {"unknown"}

    settings = arguments(tmp_path / "pretrained", max_steps=1)
    trainer = ViLBertTrainer(ViLBertForPreTraining(tiny_config()), settings, stack, pretraining_examples(8))
    trainer.train()
    trainer.create_model_card(model_name="pretrained")
    assert "None stated." in ModelCard.load(tmp_path / "pretrained" / "README.md").text


# Pushing, to a Hub that only writes down


class Hub:
    """What Transformers asks of the Hub when it pushes."""

    def __init__(self, card: str | None = None):
        self.card, self.files = card, {}

    def __call__(self):
        return self

    def create_repo(self, repo_id, **settings):
        return type("Repo", (), {"repo_id": repo_id})

    def create_commit(self, repo_id, operations, **settings):
        self.files = {one.path_in_repo: Path(one.path_or_fileobj).read_bytes() for one in operations}
        return repo_id

    def load(self, repo_id, *arguments, **settings):
        if self.card is None:
            raise EntryNotFoundError("no README.md")
        return ModelCard(self.card)


@pytest.fixture
def new_hub(monkeypatch):
    def make(card: str | None = None) -> Hub:
        hub, load = Hub(card), ModelCard.load

        def load_here_or_there(where, *arguments, **settings):
            return load(where, **settings) if Path(where).is_file() else hub.load(where)

        for module in (transformers.utils.hub, transformers.modeling_utils):
            monkeypatch.setattr(module, "hf_api", hub)
        monkeypatch.setattr(ModelCard, "load", load_here_or_there)
        return hub

    return make


def test_pushing_writes_a_card(new_hub, tmp_path):
    model = ViLBertForQuestionAnswering(tiny_config())
    model.add_model_tags(["shapes"])
    for push in (
        lambda: model.push_to_hub("me/vilbert-shapes", tags=["small"]),
        lambda: model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="me/vilbert-shapes"),
    ):
        hub = new_hub()
        push()
        card = ModelCard(hub.files["README.md"].decode())
        assert 'from_pretrained("me/vilbert-shapes")' in card.text and "**not stated**" in card.text
        assert card.data.tags[:2] == ["vilbert", "visual-question-answering"] and "shapes" in card.data.tags
        assert "More Information Needed" not in card.text
        assert "model.safetensors" in hub.files and json.loads(hub.files["config.json"])["auto_map"]


def test_a_card_that_somebody_wrote_stays(new_hub):
    written = "---\nlicense: mit\ntags:\n- mine\n---\n\n# Mine\n\nBy hand.\n"
    hub = new_hub(written)
    ViLBertModel(tiny_config()).push_to_hub("me/mine")
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.license == "mit" and card.data.tags == ["mine"] and card.text == "\n# Mine\n\nBy hand.\n"


def test_a_template_that_somebody_began_to_fill_stays(new_hub):
    """Most of it still needs information; what its author wrote must not be lost."""
    data = ModelCardData(license="cc-by-4.0", tags=["mine"])
    begun = ModelCard.from_template(data, developers="Me", direct_use="Of birds.").content
    assert "[More Information Needed]" in begun
    hub = new_hub(begun)
    ViLBertModel(tiny_config()).push_to_hub("me/mine")
    card = ModelCard(hub.files["README.md"].decode())
    assert card.text == ModelCard(begun).text and card.data.license == "cc-by-4.0"


def test_the_metadata_of_an_untouched_template_stays(tmp_path):
    file, result = tmp_path / "README.md", EvalResult(**{**vars(RESULT), "metric_value": 0.75})
    kept = {"license": "mit", "datasets": ["me/shapes"], "widget": [{"text": "a"}], "model_name": "Shapes"}
    data = ModelCardData(tags=["mine"], eval_results=[result], **kept)
    text = ModelCard.from_template(ModelCardData(), model_description="This is the model card of a model.").text
    file.write_text(f"---\n{data}\n---\n{text}", encoding="utf-8")
    replace_empty_card(ViLBertModel(tiny_config()), file, "me/mine")
    card = ModelCard.load(file)
    assert "More Information Needed" not in card.text and "Of the weights: mit." in card.text and "0.75" in card.text
    assert {name: card.data[name] for name in kept} == kept and card.data.tags[0] == "vilbert"
    assert "mine" in card.data.tags and card.data.eval_results[0].metric_value == 0.75


def test_a_folder_without_a_card_gets_one(tmp_path):
    replace_empty_card(ViLBertModel(tiny_config()), tmp_path / "README.md", "me/trunk")
    assert ModelCard.load(tmp_path / "README.md").data.pipeline_tag == "feature-extraction"
