"""bfloat16 and int8 keep the answers and the ranks of float32; compilation is whole, and once for all sizes."""

import pytest
import torch
from tiny import tiny_config, tiny_inputs
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import TorchAoConfig, Trainer, TrainingArguments

from modeling_vilbert import ViLBertForPreTraining, ViLBertForQuestionAnswering


NO_DROPOUT = {
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "v_hidden_dropout_prob": 0.0,
    "v_attention_probs_dropout_prob": 0.0, "fusion_dropout": 0.0, "pooler_act": "tanh",
}  # fmt: skip
SHALLOW = {"num_hidden_layers": 1, "v_num_hidden_layers": 1, "t_biattention_id": [0], "v_biattention_id": [0]}


# Answers


def questions(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """The word asks for a region's colour by its shape: one of five features names the colour, others the shape."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(count):
        colours = torch.randint(5, (3,), generator=generator)
        shapes = torch.randperm(3, generator=generator)
        asked = int(torch.randint(3, (1,), generator=generator))
        features = torch.zeros(4, 14)
        features[torch.arange(1, 4), colours] = 2
        features[torch.arange(1, 4), 5 + shapes] = 2
        items.append(
            {
                "input_ids": torch.tensor([1, 2 + int(shapes[asked]), 5]),
                "region_features": features + torch.randn(4, 14, generator=generator) * 0.1,
                "region_locations": torch.rand(4, 5, generator=generator),
                "labels": colours[asked],
            }
        )
    return items


def train(folder, **arguments) -> tuple[ViLBertForQuestionAnswering, list[float]]:
    """A small model taught these questions, and its losses."""
    torch.manual_seed(0)
    model = ViLBertForQuestionAnswering(tiny_config(**NO_DROPOUT, **SHALLOW))
    settings = TrainingArguments(
        output_dir=str(folder), max_steps=150, per_device_train_batch_size=64, learning_rate=1e-2, warmup_steps=10,
        logging_steps=15, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, **arguments,
    )  # fmt: skip
    trainer = Trainer(model, settings, train_dataset=questions(2000, seed=0))
    trainer.train()
    trained = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()
    return trained, [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("float32"))


@torch.no_grad()
def logits_of(model, batch) -> torch.Tensor:
    return model(**batch).logits.float()


@pytest.fixture(scope="module")
def asked():
    """Questions that were not trained on, as a batch, and their answers."""
    items = questions(500, seed=1)
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    return batch, batch.pop("labels")


def assert_same_answers_and_ranks(found: torch.Tensor, expected: torch.Tensor):
    """The best answer of nearly every question, and the order of all answers: a mean rank correlation of 0.97."""
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() >= 0.99
    ranks = [logits.argsort(-1).argsort(-1).float() for logits in (found, expected)]
    count = expected.shape[-1]
    correlation = 1 - 6 * (ranks[0] - ranks[1]).pow(2).sum(-1) / (count * (count**2 - 1))
    assert correlation.mean() >= 0.97
    # And of all questions by the score of one answer, as in retrieval.
    for column in range(count):
        ranks = torch.stack([logits[:, column].argsort().argsort().float() for logits in (found, expected)])
        assert ranks.corrcoef()[0, 1] >= 0.99


def test_bfloat16_answers_like_float32(trained, asked, tmp_path):
    model, (batch, labels) = trained[0], asked
    expected = logits_of(model, batch)
    assert (expected.argmax(-1) == labels).float().mean() > 0.9
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_answers_and_ranks(logits_of(model, batch), expected)
    model.save_pretrained(tmp_path)
    half = ViLBertForQuestionAnswering.from_pretrained(tmp_path, dtype=torch.bfloat16)
    found = logits_of(half, batch)
    assert not torch.equal(found, expected)
    assert_same_answers_and_ranks(found, expected)


def test_int8_weights_answer_like_float32(trained, asked, tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    model, (batch, _) = trained[0], asked
    model.save_pretrained(tmp_path)
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    small = ViLBertForQuestionAnswering.from_pretrained(tmp_path, quantization_config=config)
    assert type(small.vilbert.encoder.text_layers[0].intermediate.weight) is not torch.nn.Parameter
    found, expected = logits_of(small, batch), logits_of(model, batch)
    assert not torch.equal(found, expected)
    assert_same_answers_and_ranks(found, expected)


def test_bfloat16_training_learns_like_float32(trained, asked, tmp_path):
    model, losses = train(tmp_path, bf16=True)
    batch, labels = asked
    assert next(model.parameters()).dtype == torch.float32
    assert losses[0] == pytest.approx(trained[1][0], rel=0.1) and losses[-1] < losses[0] / 3
    assert (logits_of(model, batch).argmax(-1) == labels).float().mean() > 0.9


# Compilation

# Sizes of the first batch that are equal, to each other or to a width (5 numbers of a location), are taken to stay so.
SIZES = [
    (3, 7, 6), (2, 9, 5), (5, 3, 11), (4, 19, 4), (6, 8, 37), (2, 5, 5), (7, 13, 6), (3, 5, 9), (8, 6, 4), (2, 10, 20),
]  # fmt: skip


def of_size(batch: int, tokens: int, regions: int) -> dict[str, torch.Tensor]:
    """Padded in both streams."""
    inputs = tiny_inputs(batch=max(batch, 3), tokens=tokens, regions=regions)
    return {name: value[:batch].clone() for name, value in inputs.items()}


def test_a_task_head_compiles_whole_and_once():
    torch._dynamo.reset()
    model = ViLBertForQuestionAnswering(tiny_config(**SHALLOW)).eval()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in SIZES:
            inputs = of_size(*size)
            torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1


def test_pre_training_compiles_whole_and_once():
    """With gradients, and with as many masked words and regions as there happen to be."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = ViLBertForPreTraining(tiny_config(**SHALLOW, **NO_DROPOUT))
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for number, (batch, tokens, regions) in enumerate(SIZES):
            inputs = of_size(batch, tokens, regions)
            inputs["labels"] = torch.where(torch.rand(batch, tokens) < 0.3, inputs["input_ids"], -100)
            inputs["masked_regions"] = torch.rand(batch, regions) < (0.3 if number else 0)
            inputs["region_targets"] = torch.rand(batch, regions, 9).softmax(-1)
            inputs["alignment_labels"] = torch.randint(2, (batch,))
            losses = []
            for version in (compiled, model):
                model.zero_grad()
                loss = version(**inputs).loss
                loss.backward()
                losses.append((loss.detach(), model.vilbert.text_embeddings.word_embeddings.weight.grad.clone()))
            torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-4)
    assert counter.frame_count == 1
