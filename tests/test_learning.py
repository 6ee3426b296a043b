"""Does every task learn? Each is trained on composed scenes, with and without the images, from a pre-trained model.

Slow: `pytest -m slow` runs them all, `-k foil` one. Margins are shares of the task's first metric.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLES


pytestmark = pytest.mark.slow

# Task -> by how much it is above chance, and above the same model that never sees an image.
MARGINS: dict[str, tuple[float, float]] = {}


def run(script: str, *options: str):
    command = [sys.executable, EXAMPLES / script, "--disable_tqdm", "true", *options]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Scenes, and a model that was pre-trained on their captions."""
    folder = tmp_path_factory.mktemp("learning")
    run("pretrain.py", "--scenes", str(folder / "scenes"), "--output_dir", str(folder / "pretrained"))
    return folder


def test_pretraining_ranks_unseen_captions(folder):
    scores = json.loads((folder / "pretrained" / "zero_shot_retrieval.json").read_text())
    assert scores["text_to_image_recall@1"] > 10 * scores["chance of text_to_image R@1"]


@pytest.mark.parametrize("task", MARGINS)
def test_a_task_is_learned(task, folder):
    scores = {}
    for text_only in ("false", "true"):
        output = folder / task / text_only
        options = ("--task", task, "--text_only", text_only, "--model", str(folder / "pretrained"))
        run("finetune.py", *options, "--scenes", str(folder / "scenes"), "--output_dir", str(output))
        scores[text_only] = json.loads((output / "results.json").read_text())
    name = list(scores["false"])[1]
    above_chance, above_text = MARGINS[task]
    assert scores["false"][name] > scores["false"]["chance"] + above_chance
    assert scores["false"][name] > scores["true"][name] + above_text
