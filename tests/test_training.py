"""Losses over unequal batches, which task a step trains, stop-and-go, and runs that are killed and go on."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from small_runs import (
    TASKS,
    Losses,
    arguments,
    config_without_dropout,
    many_tasks,
    pretraining,
    pretraining_examples,
    stack,
    task_data,
)
from transformers import BertTokenizer, EarlyStoppingCallback, TrainerCallback

from modeling_vilbert import (
    MultiTaskTrainer,
    Regions,
    StopAndGo,
    ViLBertForMultiTask,
    ViLBertForPreTraining,
    ViLBertImageProcessor,
    ViLBertPreTrainingCollator,
    ViLBertProcessor,
    ViLBertTrainer,
)
from modeling_vilbert.data_collators import repeated
from modeling_vilbert.multitask_training import TaskBatches
from modeling_vilbert.training import loss_counts


def parameters(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def assert_same_run(one, other, tolerance: float = 1e-5):
    (trainer, losses), (other_trainer, other_losses) = one, other
    assert [step for step, _ in losses] == [step for step, _ in other_losses]
    np.testing.assert_allclose([loss for _, loss in losses], [loss for _, loss in other_losses], atol=tolerance)
    for name, value in parameters(trainer).items():
        torch.testing.assert_close(value, other_trainer.model.get_parameter(name), atol=tolerance, rtol=0)


# Losses


def test_what_is_counted():
    batch = stack(pretraining_examples(6))
    counts = {name: count.item() for name, count in loss_counts(batch).items()}
    assert counts == {
        "mlm_loss": sum((one["labels"] != -100).sum().item() for one in pretraining_examples(6)),
        "region_loss": sum(one["masked_regions"].sum().item() for one in pretraining_examples(6)),
        "alignment_loss": 4,
    }
    assert len(set(counts.values())) == 3
    assert loss_counts({"labels": torch.rand(3, 5)}) == {"loss": 3}
    assert loss_counts({"labels": torch.tensor([1, -100, 0])}) == {"loss": 2}


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """Although the small ones have unequally many words and regions to predict, and some none."""
    large = pretraining(tmp_path, per_device_train_batch_size=8, max_steps=6, optim="sgd", learning_rate=0.1)
    small = pretraining(
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_steps=6,
        optim="sgd",
        learning_rate=0.1,
    )
    assert_same_run(large, small)
    # And that is no matter of course: means of means are another loss.
    batches = [stack(pretraining_examples(8)[start : start + 2]) for start in range(0, 8, 2)]
    model = large[0].model.eval()
    with torch.inference_mode():
        means = np.mean([model(**batch).loss.item() for batch in batches])
        whole = model(**stack(pretraining_examples(8))).loss.item()
    assert abs(means - whole) > 1e-3


def test_accumulated_batches_of_many_tasks_are_one_large_batch(tmp_path):
    accumulated = many_tasks(tmp_path, gradient_accumulation_steps=2, max_steps=9, optim="sgd")
    assert_same_run(accumulated, many_tasks(tmp_path, size=2, max_steps=9, optim="sgd"))


def test_checkpointed_layers_and_bfloat16(tmp_path):
    plain = pretraining(tmp_path, max_steps=6, optim="sgd")
    assert_same_run(plain, pretraining(tmp_path, max_steps=6, optim="sgd", gradient_checkpointing=True))
    _, losses = pretraining(tmp_path, max_steps=6, optim="sgd", bf16=True)
    np.testing.assert_allclose([loss for _, loss in losses], [loss for _, loss in plain[1]], rtol=0.03)
    assert losses != plain[1]


def test_evaluation_says_what_the_model_says(tmp_path):
    trainer, _ = pretraining(tmp_path, max_steps=1, per_device_eval_batch_size=48)
    model, whole = trainer.model.eval(), stack(pretraining_examples(48))
    with torch.inference_mode():
        expected = model(**whole).loss.item()
    assert trainer.evaluate(pretraining_examples(48))["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_heads_have_a_learning_rate_of_their_own(tmp_path):
    trainer = ViLBertTrainer(
        ViLBertForPreTraining(config_without_dropout()),
        arguments(tmp_path, learning_rate=1e-5),
        head_learning_rate=1e-4,
    )
    trainer.create_optimizer()
    names = {id(value): name for name, value in trainer.model.named_parameters()}
    rates = {names[id(value)]: group["lr"] for group in trainer.optimizer.param_groups for value in group["params"]}
    assert rates.keys() == {name for name, _ in trainer.model.named_parameters()}
    assert {name.startswith("vilbert.") for name, rate in rates.items() if rate == 1e-5} == {True}
    assert {name.startswith("vilbert.") for name, rate in rates.items() if rate == 1e-4} == {False}
    decays = {
        names[id(value)]: group["weight_decay"] for group in trainer.optimizer.param_groups for value in group["params"]
    }
    assert decays["alignment_head.bias"] == 0 and decays["vilbert.text_embeddings.norm.weight"] == 0


def test_label_smoothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="label_smoothing_factor must be 0"):
        ViLBertTrainer(ViLBertForPreTraining(config_without_dropout()), arguments(tmp_path, label_smoothing_factor=0.1))


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tasks"])
def test_two_processes_are_one(kind, tmp_path):
    """The losses of 20 steps on two gloo processes with half the batch are those of one process."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*command, here / "small_runs.py", kind, tmp_path], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-4000:]
    losses = json.loads((tmp_path / "losses.json").read_text())
    if kind == "tasks":
        # Two processes take two batches of each task's size.
        trainer, expected = many_tasks(tmp_path, gradient_accumulation_steps=2)
        # Seven examples, which two processes cannot share evenly, are measured as they are.
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        for name, value in trainer.evaluate().items():
            if name.endswith("accuracy"):
                assert metrics[name] == pytest.approx(value, abs=1e-5)
    else:
        _, expected = pretraining(tmp_path)
    assert len(losses) == 20 and [step for step, _ in losses] == [step for step, _ in expected]
    np.testing.assert_allclose([loss for _, loss in losses], [loss for _, loss in expected], atol=1e-5)


# The collator in a trainer


def captions_and_regions(count: int) -> list[dict]:
    """Texts of unequal lengths, images of unequally many regions."""
    draw = np.random.default_rng(4)
    found = []
    for number in range(count):
        regions = 1 + number % 4
        record = Regions(
            np.tile([0, 0, 9, 9], (regions, 1)) + np.arange(regions)[:, None],
            draw.normal(size=(regions, 14)),
            (20, 20),
            class_probs=draw.dirichlet(np.ones(9), regions),
            image_id=str(number),
        )
        text = "a b c d e f".split()[: 1 + number % 6]
        found.append({"image_id": str(number), "text": f"{number} {' '.join(text)}", "regions": record})
    return found


def collated_training(folder, examples, resume=None, callbacks=(), **settings):
    torch.manual_seed(0)
    words = sorted({word for number in range(48) for word in f"{number} a b c d e f".split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    processor = ViLBertProcessor(ViLBertImageProcessor(), BertTokenizer(vocab=vocabulary))
    captions = captions_and_regions(48)
    collator, losses = ViLBertPreTrainingCollator(processor, captions, max_tokens=19), Losses()
    model = ViLBertForPreTraining(config_without_dropout())
    settings = arguments(folder, accelerator_config={"dispatch_batches": False}, optim="sgd", **settings)
    trainer = ViLBertTrainer(model, settings, collator, examples, callbacks=[losses, *callbacks])
    trainer.train(resume_from_checkpoint=resume)
    return trainer, losses.steps


def test_what_is_masked_depends_on_no_batch_and_no_worker(tmp_path):
    """Over several epochs: one large batch, accumulated small ones, and batches of two workers are the same steps."""
    examples = captions_and_regions(48)
    large = collated_training(tmp_path, examples)
    small = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    assert_same_run(large, collated_training(tmp_path, examples, **small))
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    assert_same_run(large, collated_training(tmp_path, examples, **workers))


def test_the_parts_of_the_loss_are_logged(tmp_path):
    trainer, losses = collated_training(tmp_path, captions_and_regions(48), max_steps=3)
    for entry in trainer.state.log_history[:3]:
        parts = [entry[name] for name in ("mlm_loss", "region_loss", "alignment_loss")]
        assert sum(parts) == pytest.approx(entry["loss"]) and min(parts) > 0


def test_a_stream_goes_on_as_if_nothing_happened(tmp_path):
    """In its third pass, with other masks in each."""
    stream = Dataset.from_list([{"number": number} for number in range(24)]).to_iterable_dataset(num_shards=3)
    records = captions_and_regions(24)
    examples = repeated(stream, 8).map(lambda row: {**records[row["number"]], "epoch": row["epoch"]})
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 12}
    undisturbed = collated_training(tmp_path / "one", examples, **settings)
    with pytest.raises(KilledError):
        collated_training(tmp_path / "two", examples, callbacks=[Kill(10)], **settings)
    trainer, losses = collated_training(tmp_path / "two", examples, resume=True, **settings)
    assert losses[0][0] == 9
    assert_same_run((undisturbed[0], undisturbed[1][8:]), (trainer, losses))
    passes = [[row["image_id"] for row in repeated(stream, 2).map(lambda row: records[row["number"]])]]
    assert sorted(passes[0]) == sorted([row["image_id"] for row in records] * 2) and passes[0][:24] != passes[0][24:]


# Stop and go


def test_stop_and_go_is_that_of_the_original():
    """The recorded sequence of the 12-in-1 code."""
    scores = [50, 60, 60.01, 60.02, 60.03, 60.0, 59.8, 59.7, 59.69, 59.6, 60.5, 60.6, 60.55, 60.5, 60.5, 60.1]
    task = StopAndGo()
    stopped = "".join("T" if task.update(score) else "F" for score in scores)
    assert stopped == "FFFTTTTTFFFFFTTF"


@pytest.mark.parametrize("score", [float("nan"), -1.0])
def test_a_score_that_is_none_is_named(score):
    with pytest.raises(ValueError, match="score must be a number of at least 0"):
        StopAndGo().update(score)


# Which task a step trains


def batches(**settings) -> TaskBatches:
    return TaskBatches({"a": 20, "b": 6, "c": 3}, {"a": 4, "b": 2, "c": 2}, **{"steps_per_epoch": 9, **settings})


def tasks_of(sampler: TaskBatches, epoch: int = 0) -> str:
    return "".join(task for task, _ in sampler.steps(epoch))


def test_tasks_come_in_turn():
    sampler = batches(steps_per_epoch=7)
    assert [tasks_of(sampler, epoch) for epoch in range(3)] == ["abcabca", "bcabcab", "cabcabc"]
    for batch, task in zip(sampler, tasks_of(sampler)):
        start, end, size = {"a": (0, 20, 4), "b": (20, 26, 2), "c": (26, 29, 2)}[task]
        assert len(batch) == size and all(start <= number < end for number in batch)


def test_stopped_tasks_are_visited_in_every_fourth_turn():
    sampler = batches(steps_per_epoch=12)
    sampler.stopped = [["b"], [], ["a", "b", "c"]]
    assert tasks_of(sampler) == "abcacacacabc"
    assert tasks_of(sampler, 1) == "abcabcabcabc"[0:12]
    # With all at rest, turns in which none is visited are passed over.
    assert tasks_of(sampler, 2) == "abcabcabcabc"


def test_a_pass_has_every_example_once():
    sampler, seen = batches(steps_per_epoch=300), {"a": [], "b": [], "c": []}
    for batch, task in zip(sampler, tasks_of(sampler)):
        seen[task] += batch
    for task, size in sampler.sizes.items():
        passes = [tuple(seen[task][start : start + size]) for start in range(0, len(seen[task]) - size + 1, size)]
        assert len(passes) > 10 and all(len(set(one)) == size for one in passes)
        assert len(set(passes)) > 1


def test_large_tasks_are_drawn_more_often():
    for order, temperature, expected in (
        ("proportional", 1.0, (20 / 29, 6 / 29)),
        ("temperature", 2.0, (20**0.5 / (20**0.5 + 6**0.5 + 3**0.5), 6**0.5 / (20**0.5 + 6**0.5 + 3**0.5))),
    ):
        sampler = batches(steps_per_epoch=20_000, order=order, temperature=temperature)
        counts = Counter(tasks_of(sampler))
        for task, share in zip("ab", expected):
            assert abs(counts[task] / 20_000 - share) < 0.015
        sampler.stopped = [["a"]]
        rest = Counter(tasks_of(sampler))
        assert rest["a"] / rest["b"] == pytest.approx(counts["a"] / counts["b"] / 4, rel=0.1)


def test_processes_share_a_step():
    whole = list(batches(batches_per_step=4))
    parts = [list(batches(batches_per_step=2, processes=2, rank=rank)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(whole) // 2
    assert [batch for pair in zip(*parts) for batch in pair] == whole


def test_passes_are_counted():
    sampler = batches(steps_per_epoch=30)
    assert [sampler.passes("a", epochs) for epochs in (0, 1, 2)] == [0, 2, 4]
    assert sampler.passes("c", 1) == 6


@pytest.mark.parametrize(
    "settings, named",
    [({"order": "random"}, "order must be one of"), ({"temperature": 0.0}, "temperature"), ({"gap": 0}, "gap")],
)
def test_bad_orders_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        batches(**settings)


# Many tasks


def test_only_the_asked_head_learns(tmp_path):
    class Watch(TrainerCallback):
        moved = []

        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            named = model.heads.named_parameters()
            self.moved.append({name.split(".")[0] for name, value in named if value.grad is not None})

    many_tasks(tmp_path, callbacks=[Watch()], max_steps=6)
    assert Watch.moved == [{"vqa"}, {"grounding"}, {"entailment"}] * 2


def test_every_task_has_a_loss_and_its_metrics(tmp_path):
    trainer, _ = many_tasks(tmp_path, max_steps=6)
    metrics = trainer.evaluate()
    for task in TASKS:
        assert np.isfinite(metrics[f"eval_{task}_loss"]) and 0 <= metrics[f"eval_{task}_accuracy"] <= 1
    alone = trainer.evaluate("vqa")
    assert alone["eval_vqa_accuracy"] == metrics["eval_vqa_accuracy"] and "eval_grounding_loss" not in alone
    # Out of training, the score is of what was just measured.
    own = [metrics[f"eval_{task}_accuracy"] for task in TASKS]
    assert metrics["eval_score"] == pytest.approx(np.mean(own)) and alone["eval_score"] == pytest.approx(own[0])
    other = trainer.evaluate(
        {"entailment": replace(task_data()["entailment"], evaluation=task_data()["entailment"].train[4:])}
    )
    assert other["eval_entailment_accuracy"] != metrics["eval_entailment_accuracy"]
    with pytest.raises(ValueError, match="eval_dataset must be of"):
        trainer.evaluate("captions")


def test_the_best_model_may_be_known_by_any_score(tmp_path):
    """By the mean of all tasks, or by one that is not evaluated after each epoch."""
    for metric in ("eval_score", "eval_vqa_accuracy"):
        trainer, _ = many_tasks(
            tmp_path / metric, eval_strategy="epoch", metric_for_best_model=metric, greater_is_better=True, max_steps=24
        )
        rows = [row for row in trainer.state.log_history if metric in row]
        assert len(rows) == (4 if metric == "eval_score" else 2)
        assert trainer.state.best_metric == max(row[metric] for row in rows)


def test_training_ends_early_by_the_mean_score(tmp_path):
    early = EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=10.0)
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": "eval_score"}
    trainer, _ = many_tasks(tmp_path, [early], max_steps=60, **settings)
    assert trainer.state.global_step == 18
    # A task's own score counts when it is measured: of 22 questions and 2 a step, after epochs 1, 6 and 11.
    settings |= {"metric_for_best_model": "eval_vqa_accuracy"}
    early = EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=10.0)
    trainer, _ = many_tasks(tmp_path / "task", [early], max_steps=120, **settings)
    measured = [row["step"] for row in trainer.state.log_history if "eval_vqa_accuracy" in row]
    assert len(measured) == 3 and measured[-1] == trainer.state.global_step


def test_a_loss_scale_scales(tmp_path):
    torch.manual_seed(0)
    model = ViLBertForMultiTask(config_without_dropout(tasks=TASKS))
    trainer = MultiTaskTrainer(model, arguments(tmp_path), task_data())
    batch = trainer.data_collator([trainer.train_dataset[22], trainer.train_dataset[23]])
    assert batch["task"] == "grounding"
    counts = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    loss = trainer.compute_loss(model.train(), batch, num_items_in_batch=counts)
    assert loss.item() == pytest.approx(2 * model(**batch).loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"tasks": {}}, "tasks must be of"),
        ({"tasks": {"captions": None}}, "tasks must be of"),
        ({"args": {"restore_callback_states_from_checkpoint": True}}, "must be false"),
    ],
)
def test_bad_tasks_are_named(tmp_path, settings, named):
    model = ViLBertForMultiTask(config_without_dropout(tasks=TASKS))
    with pytest.raises(ValueError, match=named):
        MultiTaskTrainer(model, arguments(tmp_path, **settings.get("args", {})), settings.get("tasks", task_data()))


def test_without_examples_is_named(tmp_path):
    data = task_data()
    data["vqa"].train = []
    with pytest.raises(ValueError, match=r"training data of \['vqa'\] are empty"):
        MultiTaskTrainer(ViLBertForMultiTask(config_without_dropout(tasks=TASKS)), arguments(tmp_path), data)


# Killed and resumed


class KilledError(Exception):
    pass


class Kill(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        # After the checkpoint of an earlier step: what came since is lost.
        if state.global_step == self.step:
            raise KilledError


def test_pretraining_goes_on_as_if_nothing_happened(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 14}
    undisturbed = pretraining(tmp_path / "one", **settings)
    with pytest.raises(KilledError):
        pretraining(tmp_path / "two", callbacks=[Kill(10)], **settings)
    trainer, losses = pretraining(tmp_path / "two", resume=True, **settings)
    assert losses[0][0] == 9
    assert_same_run((undisturbed[0], undisturbed[1][8:]), (trainer, losses))


@pytest.mark.parametrize("order", ["round_robin", "temperature"])
@pytest.mark.parametrize("save_steps", [4, 6])
def test_many_tasks_go_on_as_if_nothing_happened(order, save_steps, tmp_path):
    """Killed in an epoch in which some tasks rest, with checkpoints in its middle, and at the ends of epochs."""
    settings = {
        "order": order,
        "stop_and_go": StopAndGo(patience=0, threshold=0.5),
        "eval_strategy": "epoch",
        "save_strategy": "steps",
        "save_steps": save_steps,
        "max_steps": 42,
    }
    undisturbed = many_tasks(tmp_path / "one", **settings)
    rested = undisturbed[0].batches.stopped
    assert any(rested) and rested[0] == []
    middle = 6 * next(epoch for epoch, tasks in enumerate(rested) if tasks) + 5
    with pytest.raises(KilledError):
        many_tasks(tmp_path / "two", callbacks=[Kill(middle)], **settings)
    trainer, losses = many_tasks(tmp_path / "two", resume=True, **settings)
    assert trainer.batches.stopped == rested
    assert trainer.progress.state() == undisturbed[0].progress.state()
    assert_same_run((undisturbed[0], undisturbed[1][-len(losses) :]), (trainer, losses))


def test_another_stop_and_go_is_not_gone_on_with(tmp_path):
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": 12}
    many_tasks(tmp_path, **settings)
    with pytest.raises(ValueError, match="go on with the same tasks and stop_and_go"):
        many_tasks(tmp_path, resume=True, stop_and_go=StopAndGo(), **{**settings, "max_steps": 18})


def test_a_second_training_begins_anew(tmp_path):
    trainer, _ = many_tasks(
        tmp_path, stop_and_go=StopAndGo(patience=0, threshold=10.0), eval_strategy="epoch", max_steps=60
    )
    assert any(trainer.batches.stopped)
    trainer.train()
    assert trainer.batches.stopped[0] == []


def test_training_ends_when_all_tasks_rest(tmp_path):
    trainer, losses = many_tasks(
        tmp_path,
        stop_and_go=StopAndGo(patience=0, threshold=10.0, continue_threshold=1.0),
        eval_strategy="epoch",
        max_steps=60,
    )
    assert all(controller.stopped for controller in trainer.progress.controllers.values())
    assert len(losses) < 60
