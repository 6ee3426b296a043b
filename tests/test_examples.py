"""The main example, cut short: what it leaves, and what it says about bad arguments. The picture of the schedule."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLES
from tiny import tiny_config

from modeling_vilbert import ViLBertConfig, ViLBertForQuestionAnswering


MAIN = EXAMPLES / "visual_question_answering.py"


def test_what_a_run_leaves(small_run):
    runs = small_run / "runs" / "visual_question_answering"
    results = json.loads((runs / "results.json").read_text())
    assert results["steps"] == 2 and results["cut_short"] is True
    assert 0 <= results["accuracy"] <= 1 and 0 <= results["question_only_accuracy"] <= 1
    assert (runs / "answers.png").read_bytes().startswith(b"\x89PNG")
    model = ViLBertForQuestionAnswering.from_pretrained(runs)
    assert len(model.config.id2label) == 13 and "LABEL" not in str(model.config.id2label)
    assert "EfficientNet-Lite0".lower() in model.config.vision_config.feature_source.lower()
    printed = (small_run / "output.txt").read_text()
    assert "numbers mean nothing" in printed and "93.80%" in printed
    # Features are kept, under their final names only.
    assert {file.suffix for file in (small_run / "cache").iterdir()} == {".npy"}


@pytest.mark.parametrize(
    "arguments, named", [(["--max-steps", "0"], "at least 1"), (["--output", "file"], "is a file")]
)
def test_bad_arguments_are_named(arguments, named, tmp_path):
    (tmp_path / "file").touch()
    result = subprocess.run([sys.executable, MAIN, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode != 0 and named in result.stderr and "Traceback" not in result.stderr


def test_a_damaged_cache_is_named(small_run, tmp_path):
    for file in (small_run / "cache").glob("*.npy"):
        (tmp_path / file.name).write_bytes(file.read_bytes()[:500])
    command = [sys.executable, MAIN, "--max-steps", "2", "--cache", tmp_path, "--output", tmp_path / "runs"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0 and "Delete it" in result.stderr and "Traceback" not in result.stderr


def test_the_picture_of_the_schedule(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import draw_schedule

    committed = draw_schedule.DRAWN.read_text(encoding="utf-8")
    assert committed == draw_schedule.draw(ViLBertConfig())
    # Another model's does not go there.
    tiny_config().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["draw_schedule.py", "--model", "model"])
    draw_schedule.main()
    assert draw_schedule.DRAWN.read_text(encoding="utf-8") == committed
    assert Path("schedule.svg").read_text(encoding="utf-8") == draw_schedule.draw(tiny_config())
