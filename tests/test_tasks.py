"""Every task from its official files to its metrics, on composed scenes; and what is wrong with bad annotations."""

import sys

import numpy as np
import pytest
import torch
from conftest import EXAMPLES
from small_runs import arguments

from modeling_vilbert import (
    MultiTaskTrainer,
    ViLBertForMultiTask,
    ViLBertTrainer,
    open_regions,
)
from modeling_vilbert.annotations import READERS, check_rows
from modeling_vilbert.heads_vilbert import HEADS
from modeling_vilbert.metrics import METRICS
from modeling_vilbert.submissions import SUBMISSIONS, write_submission
from modeling_vilbert.tasks import MODELS, TASKS, clean_split, find_task, head_of, labels_of, prepare_task, read_rows


sys.path.insert(0, str(EXAMPLES))
import scenes  # noqa: E402
import small_model  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return scenes.compose(tmp_path_factory.mktemp("scenes") / "few", train=12, val=8, test=8)


@pytest.fixture(scope="module")
def stores(folder):
    detected = open_regions(folder / "regions")
    given = open_regions([folder / "regions", folder / "objects"])
    return {task: given if row.given_boxes else detected for task, row in TASKS.items()}


def rows_of(folder, task: str, split: str = "train") -> list[dict]:
    return read_rows(task, *scenes.scene_files(folder, task, split))


def test_the_tables_speak_of_the_same_tasks():
    assert TASKS.keys() == READERS.keys() == METRICS.keys() and SUBMISSIONS.keys() <= TASKS.keys()
    assert {row.head for row in TASKS.values()} == set(HEADS) == set(MODELS)
    tokens = [row.task_token for row in TASKS.values()]
    assert len(set(tokens)) == len(tokens) and max(tokens) < 20


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_and_is_measured(task, folder, stores, tmp_path):
    train, test = rows_of(folder, task)[:16], rows_of(folder, task, "test")[:10]
    labels = labels_of(task, train)
    data = prepare_task(task, small_model.new_processor(), labels, train, stores[task], test, stores[task])
    torch.manual_seed(0)
    model = MODELS[TASKS[task].head](small_model.small_config(id2label=dict(enumerate(labels or ["score"]))))
    # Batches of unequal lengths, one of which is not full.
    settings = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 3, "max_steps": 2, "max_grad_norm": 1.0}
    trainer = ViLBertTrainer(
        model,
        arguments(tmp_path, **settings),
        data.collator,
        data.train,
        data.evaluation,
        compute_metrics=data.compute_metrics,
    )
    assert np.isfinite(trainer.train().training_loss)
    metrics = trainer.evaluate()
    assert np.isfinite(metrics["eval_loss"])
    names = [
        name
        for name in metrics
        if name.startswith("eval_") and not name.endswith(("loss", "runtime", "second", "time"))
    ]
    assert names and all(np.isfinite(metrics[name]) for name in names)

    predicted = trainer.predict(data.evaluation)
    predictions = data.predictions(predicted)
    assert METRICS[task](predictions)[names[0].removeprefix("eval_")] == metrics[names[0]]
    # Each row of the predictions is that of its example alone.
    model.eval()
    for number in (0, 4, len(data.evaluation) - 1):
        batch = data.collator([data.evaluation[number]])
        with torch.inference_mode():
            alone = model(**batch).logits[0].numpy()
        np.testing.assert_allclose(predicted.predictions[number][: len(alone)], alone, atol=1e-5)
    written = write_submission(task, predictions, tmp_path)
    assert (written is not None) == (task in SUBMISSIONS)
    assert written is None or written.stat().st_size


def test_many_tasks_at_once(folder, stores, tmp_path):
    tasks = ["vqa", "retrieval_coco", "nlvr2", "vcr_answer", "guesswhat_answers", "refcoco+", "visual7w"]
    rows = {task: rows_of(folder, task)[:12] for task in tasks}
    labels = {task: labels_of(task, rows[task]) for task in tasks}
    config = small_model.small_config(tasks={task: head_of(task, labels[task]) for task in tasks}, num_task_tokens=20)
    data = {
        task: prepare_task(
            task, small_model.new_processor(), labels[task], rows[task], stores[task], rows[task][:6], stores[task]
        )
        for task in tasks
    }
    settings = {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 3, "max_steps": 7}
    trainer = MultiTaskTrainer(ViLBertForMultiTask(config), arguments(tmp_path, **settings), data)
    trainer.train()
    metrics = trainer.evaluate()
    for task in data:
        assert np.isfinite(metrics[f"eval_{task}_loss"])
    # A saved model still knows what its answers are called.
    trainer.save_model()
    saved = ViLBertForMultiTask.from_pretrained(tmp_path).config.tasks
    assert [saved["vqa"]["id2label"][str(number)] for number in range(len(labels["vqa"]))] == labels["vqa"]


def test_test_splits_without_truth(folder, stores, tmp_path):
    """Nothing to learn from, and still predictions and a file to hand in."""
    for task, hidden in (
        ("vqa", ("answers", "scores", "human_answers")),
        ("refcoco", ("box",)),
        ("visual_dialog", ("label", "relevance")),
    ):
        train = rows_of(folder, task)
        test = [{**row, **dict.fromkeys(hidden)} for row in rows_of(folder, task, "test")[:5]]
        labels = labels_of(task, train)
        data = prepare_task(task, small_model.new_processor(), labels, None, None, test, stores[task])
        model = MODELS[TASKS[task].head](small_model.small_config(id2label=dict(enumerate(labels or ["score"]))))
        trainer = ViLBertTrainer(model, arguments(tmp_path), data.collator)
        predicted = trainer.predict(data.evaluation)
        assert predicted.label_ids is None
        assert write_submission(task, data.predictions(predicted), tmp_path).stat().st_size


# Splits


def test_clean_split_leaves_out_test_images_of_every_task():
    train = {
        "vqa": [{"image_id": str(i)} for i in range(6)],
        "gqa": [{"image_id": str(i)} for i in range(6)],
        "nlvr2": [{"image_id": ["a", "b"]}, {"image_id": ["c", "d"]}],
    }
    test = {"refcoco": [{"image_id": "1"}], "vqa": [{"image_id": "4"}], "nlvr2": [{"image_id": ["x", "d"]}]}
    clean = clean_split(train, test)
    assert [row["image_id"] for row in clean["vqa"]] == ["0", "2", "3", "5"]
    # Images of Visual Genome have numbers of their own,
    assert clean["gqa"] == train["gqa"] and clean["nlvr2"] == train["nlvr2"][:1]
    # unless somebody knows which are COCO's, and Visual7W has them in file names.
    clean = clean_split(train, test, genome_to_coco={"2": "1"})
    assert [row["image_id"] for row in clean["gqa"]] == ["0", "1", "3", "4", "5"]
    assert len(clean_split({"gqa": train["gqa"]}, {"visual7w": [{"image_id": "v7w_5"}]})["gqa"]) == 5
    with pytest.raises(ValueError, match=r"every row of \['nlvr2'\]"):
        clean_split({"nlvr2": train["nlvr2"][1:]}, test)


# Bad annotations


@pytest.mark.parametrize("task", ["vqa", "refcoco", "retrieval_coco"])
def test_one_task_of_a_model_with_task_tokens(task, folder, stores, tmp_path):
    rows, token = rows_of(folder, task)[:8], TASKS[task].task_token
    labels = labels_of(task, rows)
    data = prepare_task(task, small_model.new_processor(), labels, rows, stores[task], task_token=token)
    batch = data.collator([data.train[number] for number in range(3)])
    assert batch["task_ids"].tolist() == [token] * 3
    fields = {"id2label": dict(enumerate(labels or ["score"])), "num_task_tokens": 20}
    assert MODELS[TASKS[task].head](small_model.small_config(**fields))(**batch).loss.isfinite()


def test_other_features_are_said_before_training(folder, stores, tmp_path):
    rows = rows_of(folder, "vqa")[:8]
    data = prepare_task("vqa", small_model.new_processor(), labels_of("vqa", rows), rows, stores["vqa"])
    config = small_model.small_config(num_labels=3)
    config.vision_config.feature_size += 1
    with pytest.raises(ValueError, match="The features of image .* wide, the model reads"):
        ViLBertTrainer(MODELS["question_answering"](config), arguments(tmp_path), data.collator, data.train)


class Counted(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield {}

    def __len__(self):
        return 1


def test_what_is_no_record_of_regions_is_not_compared(tmp_path):
    record = {"boxes": [[0, 0, 9, 9]], "features": [[1.0]], "image_size": (9, 9)}
    model = MODELS["question_answering"](small_model.small_config(num_labels=3))
    for data in ([{"regions": record}], [{"regions": 7}], [{"regions": [record]}], [], Counted(), None):
        ViLBertTrainer(model, arguments(tmp_path), list, data)


def test_empty_splits_are_named(stores):
    for splits in ({"train": []}, {"evaluation": []}):
        with pytest.raises(ValueError, match=f"{next(iter(splits))} of vqa is empty"):
            prepare_task("vqa", small_model.new_processor(), ["yes"], **splits)


def test_a_missing_choice_is_named(folder):
    rows = rows_of(folder, "vcr_answer")
    short = {**rows[1], "text_pair": rows[1]["text_pair"][:3], "label": 0}
    with pytest.raises(
        ValueError, match=f"not 4 choices, as in most rows, in 1 of {len(rows)} rows: '{rows[1]['id']}'"
    ):
        check_rows([rows[0], short, *rows[2:]], "vcr_answer")


def test_a_task_gets_as_many_regions_as_it_needs(folder, stores):
    rows, processor = rows_of(folder, "visual7w"), small_model.new_processor(max_regions=5)
    data = prepare_task("visual7w", processor, None, rows, stores["visual7w"])
    assert data.collator.processor.image_processor.max_regions == 199 and processor.image_processor.max_regions == 5
    assert "labels" in data.collator([data.train[number] for number in range(4)])


def test_unknown_tasks_are_named():
    with pytest.raises(ValueError, match="task must be one of .*'vqa'.*got 'captioning'"):
        find_task("captioning")


def test_images_without_regions_are_named(folder, stores):
    rows = [{**row, "image_id": "nowhere"} if i < 2 else row for i, row in enumerate(rows_of(folder, "vqa"))]
    with pytest.raises(ValueError, match="1 of .* image ids.*'nowhere'"):
        prepare_task("vqa", small_model.new_processor(), labels_of("vqa", rows), rows, stores["vqa"])


def test_answers_outside_the_vocabulary(folder, stores, caplog):
    rows = rows_of(folder, "gqa")
    with pytest.raises(ValueError, match="not one of .* rows has an answer that the head knows"):
        prepare_task("gqa", small_model.new_processor(), ["a bicycle"], rows, stores["gqa"])
    known = labels_of("gqa", rows, most=2)
    import transformers

    transformers.utils.logging.enable_propagation()
    try:
        prepare_task("gqa", small_model.new_processor(), known, rows, stores["gqa"])
    finally:
        transformers.utils.logging.disable_propagation()
    assert "is among the 2 that the head knows" in caplog.text


def test_labels_that_do_not_fit_are_named(folder, stores):
    rows = rows_of(folder, "snli_ve")
    rows = [{**rows[0], "label": "perhaps"}, *rows[1:]]
    with pytest.raises(ValueError, match=f"1 of {len(rows)} rows have others: '{rows[0]['id']}' 'perhaps'"):
        prepare_task("snli_ve", small_model.new_processor(), labels_of("snli_ve", rows), rows, stores["snli_ve"])


def test_missing_labels_are_named(folder, stores):
    with pytest.raises(ValueError, match="labels of vqa must name the answers of the head, got none"):
        prepare_task("vqa", small_model.new_processor(), None, rows_of(folder, "vqa"), stores["vqa"])


def test_no_answers_to_learn_are_named():
    with pytest.raises(ValueError, match="hold no answer to learn"):
        labels_of("vqa", [{"answers": None}])


def test_memes_of_one_class_are_refused_before_training(folder, stores):
    rows = [row for row in rows_of(folder, "hateful_memes", "test") if row["label"] == "hateful"]
    labels, regions = labels_of("hateful_memes", rows), stores["hateful_memes"]
    with pytest.raises(ValueError, match=f"both classes for a ROC curve; all {len(rows)} .* 'hateful'"):
        prepare_task("hateful_memes", small_model.new_processor(), labels, rows, regions, rows, regions)
    # To train on, or without labels, they are fine.
    hidden = [{**row, "label": None} for row in rows]
    data = prepare_task("hateful_memes", small_model.new_processor(), labels, rows, regions, hidden, regions)
    assert len(data.evaluation) == len(rows)
