"""Batches of like lengths: what comes together, how little is padding, and that training and evaluation keep order."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from small_runs import TASKS, arguments, config_without_dropout, task_data
from transformers import BertTokenizer

from modeling_vilbert import (
    MultiTaskTrainer,
    Regions,
    ViLBertForMultiTask,
    ViLBertForQuestionAnswering,
    ViLBertImageProcessor,
    ViLBertProcessor,
    ViLBertTrainer,
    open_regions,
    write_regions,
)
from modeling_vilbert.lengths import LikeLengthSampler, add_lengths, like_lengths
from modeling_vilbert.tasks import prepare_task


def random_lengths(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(seed)
    return drawn.integers(5, 31, count), drawn.integers(10, 37, count)


def padded_share(batches: list[np.ndarray], tokens: np.ndarray, regions: np.ndarray) -> float:
    """Share of the positions of all batches that are padding."""
    padded = sum(len(batch) * (tokens[batch].max() + regions[batch].max()) for batch in batches)
    return 1 - (tokens.sum() + regions.sum()) / padded


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 200, 1001])
def test_every_example_is_in_one_batch(count):
    batches = like_lengths(*random_lengths(count), batch_size=8)
    assert sorted(np.concatenate(batches or [np.array([], int)]).tolist()) == list(range(count))
    assert [len(batch) for batch in batches] == [8] * (count // 8) + ([count % 8] if count % 8 else [])


def test_little_is_padding():
    tokens, regions = random_lengths(1600)
    in_order = np.array_split(np.arange(1600), 100)
    one_stream = np.array_split(np.argsort(tokens, kind="stable"), 100)
    both = like_lengths(tokens, regions, 16)
    shares = [padded_share(batches, tokens, regions) for batches in (in_order, one_stream, both)]
    assert shares[0] > 0.3 and shares[1] > 0.15 and shares[2] < 0.07


def test_an_order_is_random_and_belongs_to_seed_and_epoch():
    lengths = random_lengths(300)
    sampler = LikeLengthSampler(*lengths, batch_size=8, seed=3)
    first = list(sampler)
    assert first == list(sampler) and sorted(first) == list(range(300)) and len(sampler) == 300
    sampler.set_epoch(1)
    assert list(sampler) != first != list(LikeLengthSampler(*lengths, batch_size=8, seed=4))
    batches = [np.array(first[start : start + 8]) for start in range(0, 296, 8)]
    assert padded_share(batches, *lengths) < 0.15
    # Not the short ones first.
    sizes = [lengths[0][batch].max() for batch in batches]
    assert abs(np.corrcoef(sizes, np.arange(len(sizes)))[0, 1]) < 0.5


@pytest.fixture
def processor() -> ViLBertProcessor:
    tokenizer = BertTokenizer(vocab={name: i for i, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcd"])})
    return ViLBertProcessor(ViLBertImageProcessor(max_regions=5), tokenizer)


def regions_of(name: str, count: int) -> Regions:
    return Regions(np.tile([0, 0, 5, 5], (count, 1)), np.full((count, 14), int(name)), (10, 10), image_id=name)


@pytest.fixture
def store(tmp_path):
    """Image n has n regions."""
    write_regions([regions_of(str(count), count) for count in range(1, 9)], tmp_path / "store", records_per_shard=3)
    return open_regions(tmp_path / "store")


def test_lengths_are_those_of_the_batch(processor, store):
    rows = [
        {"text": "a", "text_pair": ["b", "b c d"], "image_id": ["2"]},
        {"text": "a b c d a b c", "text_pair": ["b", "c"], "image_id": ["3", "8"]},
    ]
    found = add_lengths(Dataset.from_list(rows), processor, store, max_tokens=9)
    # Special tokens and the whole image count; the rest is cut.
    assert found["num_tokens"][:] == [1 + 3 + 3, 9] and found["num_regions"][:] == [3, 6]
    assert add_lengths(Dataset.from_list([{"text": "a b", "image_id": 4}]), processor, store)[0]["num_tokens"] == 4


def test_counting_reads_no_features(store, monkeypatch):
    expected = {name: len(store[name]) for name in store}
    monkeypatch.setattr(type(store), "read", None)
    assert {name: store.count(name) for name in store} == expected == {str(n): n for n in range(1, 9)}
    with pytest.raises(KeyError, match="no record of image '9'"):
        store.count("9")


def questions(count: int = 24) -> list[dict]:
    """Question n is about image n % 8 + 1 and has up to four words."""
    return [
        {"id": str(n), "image_id": str(n % 8 + 1), "text": " ".join("abcd"[: n % 4 + 1]), "answers": ["ab"[n % 2]]}
        | {"scores": [1.0]}
        for n in range(count)
    ]


class Batches:
    """A collator that remembers what it was given."""

    def __init__(self, collator):
        self.collator, self.seen = collator, []

    def __call__(self, examples):
        self.seen.append([example["id"] for example in examples])
        return self.collator(examples)


def test_trainer_groups_in_training_and_keeps_order_in_evaluation(processor, store, tmp_path):
    rows = questions()
    data = prepare_task("genome_qa", processor, ["a", "b"], rows, store, rows, store, by_length=True)
    collator = Batches(data.collator)
    model = ViLBertForQuestionAnswering(config_without_dropout(num_labels=2))
    trainer = ViLBertTrainer(
        model,
        arguments(tmp_path, train_sampling_strategy="group_by_length", per_device_train_batch_size=4, max_steps=6),
        collator,
        data.train,
        data.evaluation,
        compute_metrics=data.compute_metrics,
    )
    trainer.train()
    lengths = {row["id"]: (len(row["text"].split()), min(int(row["image_id"]), 5)) for row in rows}
    assert Counter(name for batch in collator.seen for name in batch) == Counter(list(lengths))
    spread = [len({lengths[name] for name in batch}) for batch in collator.seen]
    in_order = [len({lengths[row["id"]] for row in rows[start : start + 4]}) for start in range(0, 24, 4)]
    assert sum(spread) < sum(in_order) - 6

    collator.seen.clear()
    predicted = trainer.predict(data.evaluation)
    assert [name for batch in collator.seen for name in batch] == [row["id"] for row in data.rows]
    assert [row["id"] for row in data.rows] != [row["id"] for row in rows]
    right = [row["answers"] == [data.labels[best]] for row, best in zip(data.rows, predicted.predictions.argmax(-1))]
    assert predicted.metrics["test_accuracy"] == pytest.approx(np.mean(right))


def test_a_run_that_goes_on_takes_the_same_batches(processor, store, tmp_path):
    data = prepare_task("genome_qa", processor, ["a", "b"], questions(40), store, by_length=True)

    def run(folder, **settings):
        collator = Batches(data.collator)
        resume = settings.pop("resume", None)
        trainer = ViLBertTrainer(
            ViLBertForQuestionAnswering(config_without_dropout(num_labels=2)),
            arguments(
                folder,
                train_sampling_strategy="group_by_length",
                per_device_train_batch_size=4,
                max_steps=16,
                save_strategy="steps",
                save_steps=7,
                **settings,
            ),
            collator,
            data.train,
        )
        trainer.train(resume_from_checkpoint=resume)
        return collator.seen

    whole = run(tmp_path)
    assert run(tmp_path, resume=str(tmp_path / "checkpoint-14"))[-2:] == whole[-2:]


def test_without_lengths_the_trainer_says_where_they_come_from(processor, store, tmp_path):
    data = prepare_task("genome_qa", processor, ["a", "b"], questions(), store)
    trainer = ViLBertTrainer(
        ViLBertForQuestionAnswering(config_without_dropout(num_labels=2)),
        arguments(tmp_path, train_sampling_strategy="group_by_length", max_steps=1),
        data.collator,
        data.train,
    )
    with pytest.raises(ValueError, match="add_lengths makes them"):
        trainer.train()


def test_groups_and_tasks_say_themselves_what_comes_together(processor, store, tmp_path):
    with pytest.raises(ValueError, match="by_length must be False for retrieval_coco"):
        prepare_task("retrieval_coco", processor, None, questions(), store, by_length=True)
    model = ViLBertForMultiTask(config_without_dropout(tasks=TASKS))
    with pytest.raises(ValueError, match="train_sampling_strategy must be 'random'"):
        MultiTaskTrainer(model, arguments(tmp_path, train_sampling_strategy="group_by_length"), task_data())
