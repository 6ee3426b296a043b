"""The benchmark: what it counts, that all its ways give the same numbers, and what it prints."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import EXAMPLES

from modeling_vilbert import ViLBertForImageAndTextRetrieval, ViLBertForPreTraining, ViLBertForQuestionAnswering
from modeling_vilbert.layers_vilbert import ViLBertLayer


sys.path.insert(0, str(EXAMPLES))
import benchmark  # noqa: E402
import benchmark_models as models  # noqa: E402
import benchmark_ways as ways  # noqa: E402


def model_of(model_class, large: float = 0.2, **fields):
    """With large weights, so that every path carries weight in a comparison."""
    config = models.vilbert_config(True, models.SMALL.feature_size, initializer_range=large, **fields)
    return models.new_model(model_class, config, "fp32", "sdpa")


def test_flops_of_a_layer_are_those_of_the_formula():
    batch, words, regions = 3, 7, 5
    config = models.vilbert_config(True)
    text, vision = config.text_config, config.vision_config
    config._attn_implementation = "eager"
    states, context = torch.rand(batch, words, 24), torch.rand(batch, regions, 16)

    alone = 4 * words * 24 * 24 + 2 * words * words * 24 + 2 * words * 24 * text.intermediate_size
    layer = ViLBertLayer(config, text).eval()
    assert models.count_flops(lambda: layer(states, states)) == 2 * batch * alone

    width = config.coattention_hidden_size
    projections = 2 * words * 24 * width + 2 * regions * 16 * width
    both = projections + 2 * words * regions * width + 2 * words * 24 * text.intermediate_size
    layer = ViLBertLayer(config, text, context=vision).eval()
    assert models.count_flops(lambda: layer(states, context)) == 2 * batch * both


def test_flops_by_length_are_those_of_a_run_in_any_attention():
    model = model_of(ViLBertForQuestionAnswering, num_labels=5)
    flops = models.flops_by_length(model, models.SMALL, lambda batch: model(**batch))
    example = models.one_example(model, models.SMALL, 9, 23)
    assert model.config._attn_implementation == "sdpa"
    assert flops(9, 23) == pytest.approx(models.in_eager(model, lambda: model(**example)), rel=1e-9)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_dense_batch_counts_as_so_many_examples_alone(name):
    """No padding is in it, and a model of another name is counted the same way."""
    model = models.answering_model(name, models.SMALL, "fp32", "eager")
    batch = ways.dense_batch(models.SMALL, model.config.vocab_size if name != "ViLBERT" else 211)
    one = {field: value[:1] for field, value in batch.items()}
    counts = [
        models.count_flops(lambda some=some: model(**models.answering_inputs(name, some, "fp32")))
        for some in (batch, one)
    ]
    assert counts[0] == models.SMALL.batch * counts[1] > 0


def test_ways_of_answering_agree():
    model = model_of(ViLBertForQuestionAnswering, num_labels=5)
    examples = ways.questions(models.SMALL, 211)
    plain = models.in_order(len(examples), 8)
    ordered = models.by_length(examples, 8)
    assert sorted(sum(ordered, [])) == sum(plain, []) == list(range(len(examples))) and ordered != plain

    def padded(batches):
        return sum(models.collate([examples[n] for n in some])["region_attention_mask"].numel() for some in batches)

    assert padded(ordered) < padded(plain)
    expected = ways.answer(model, examples, [[number] for number in range(len(examples))])
    assert expected.std() > 0.01
    for batches, limits in ((plain, None), (plain, (9, 11)), (ordered, None)):
        assert torch.allclose(ways.answer(model, examples, batches, limits), expected, atol=1e-4)


def test_both_losses_of_pretraining_agree_in_value_and_gradient():
    model = model_of(ViLBertForPreTraining)
    examples = ways.captions(models.SMALL, model.config)
    found = []
    for loss_of, limits in ((ways.plain_pretraining_loss, (36, 37)), (ways.pretraining_loss, None)):
        loss = loss_of(model, models.collate(examples, limits))
        loss.backward()
        gradients = torch.cat([one.grad.flatten() for one in model.parameters()])
        found.append((loss.item(), gradients))
        model.zero_grad()
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
    assert found[0][1].abs().max() > 0.01 and torch.allclose(found[0][1], found[1][1], atol=1e-4)


def test_plain_scores_are_those_of_the_scorer():
    model, processor = model_of(ViLBertForImageAndTextRetrieval, num_labels=1), ways.new_processor()
    texts, images = ways.corpora(models.SMALL, 5, 4)
    words, seen = ways.read(processor, texts, images)
    scores = ways.new_scorer(model, processor, 8).score(texts, images, progress=False)
    assert scores.std() > 0.01
    for limits in (None, (32, 37)):
        assert np.abs(ways.plain_scores(model, words, seen, 8, limits) - scores).max() < 1e-4


def test_a_row_that_fails_is_printed_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    results = iter([{"failed": "ended by SIGKILL, out of memory?"}, *[benchmark.measure(ROW, models.SMALL, 1)] * 9])
    monkeypatch.setattr(benchmark, "one_round", lambda *arguments: next(results))
    status = benchmark.main(
        ["--small", "--parts", "vqa", "--dtypes", "fp32", "--repeat", "2", "--json", str(tmp_path / "found.json")]
    )
    printed = capsys.readouterr()
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert status == 1 and "failed: ended by SIGKILL" in printed.out and "1 of 3 rows failed" in printed.err
    assert ["failed" in row for row in rows] == [True, False, False]
    assert len(rows[1]["rounds"]) == 2 and rows[1]["seconds"] > 0


ROW = ways.Row("machine", "64 x 64 x 64", "fp32", "")


def test_an_error_in_a_process_is_its_answer():
    row = ways.Row("forward", "LXMERT", "fp32", "no such attention")
    assert "no such attention" in benchmark.one_round(row, models.SMALL, 1)["failed"]


def test_one_command_from_a_shell(tmp_path):
    command = [sys.executable, EXAMPLES / "benchmark.py", "--small", "--repeat", "1", "--parts", "machine", "vqa"]
    command += ["--dtypes", "fp32", "--markdown", "--plot", "bars.png", "--json", "found.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    table = [line.split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 6 and len({len(row) for row in table}) == 1
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["machine"]["torch"] == torch.__version__ and len(found["rows"]) == 4
    # No share above 1: useful work is less than what is done.
    assert all(0 < row["of_peak"] < 1 for row in found["rows"] if row["part"] == "vqa")


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--repeat", "0"], "at least 1"),
        (["--json", "none/found.json"], "no folder none"),
        (["--parts", "x"], "choose"),
    ],
)
def test_bad_arguments_are_named(arguments, named, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert named in capsys.readouterr().err
