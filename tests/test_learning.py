"""Do tasks learn? A short run of one; and, slow, those of `MARGINS`, with and without images, from a pre-trained model.

`pytest -m slow` runs the slow ones, `-k foil` one of them. Margins are shares of the task's first metric.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLES


# Task -> by how much it is above chance, and above the same model that never sees an image. Half of what was measured.
MARGINS = {
    "vqa": (0.22, 0.16),
    "genome_qa": (0.21, 0.1),
    "visual_dialog": (0.23, 0.03),
    "visual7w": (0.24, 0.22),
    "vcr_answer": (0.33, 0.33),
    "vcr_rationale": (0.1, 0.09),
    "retrieval_coco": (0.27, 0.27),
    "retrieval_flickr30k": (0.25, 0.26),
    "refcoco": (0.25, 0.33),
    "refcoco+": (0.35, 0.43),
    "refcocog": (0.12, 0.19),
    "nlvr2": (0.09, 0.09),
    "snli_ve": (0.17, 0.17),
    "guesswhat_answers": (0.1, 0.1),
    "gqa": (0.2, 0.1),
    "foil": (0.08, 0.08),
    "guesswhat_pointing": (0.04, 0.04),
    "flickr30k_grounding": (0.41, 0.5),
    "hateful_memes": (0.24, 0.26),
}


def run(script: str, *options: str):
    command = [sys.executable, EXAMPLES / script, "--disable_tqdm", "true", *options]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]


def test_a_short_run_learns(tmp_path):
    """Expressions, from scratch, with few scenes: which of about seven regions is meant?"""
    few = ("--train_scenes", "400", "--test_scenes", "50", "--max_steps", "120")
    run("finetune.py", "--task", "refcoco+", *few, "--scenes", str(tmp_path / "scenes"), "--output_dir", str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["score"] > results["chance"] + 0.2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Scenes, and a model that was pre-trained on their captions."""
    folder = tmp_path_factory.mktemp("learning")
    run("pretrain.py", "--scenes", str(folder / "scenes"), "--output_dir", str(folder / "pretrained"))
    return folder


@pytest.mark.slow
def test_pretraining_ranks_unseen_captions(folder):
    scores = json.loads((folder / "pretrained" / "zero_shot_retrieval.json").read_text())
    assert scores["text_to_image_recall@1"] > 10 * scores["chance of text_to_image R@1"]


@pytest.mark.slow
@pytest.mark.parametrize("task", MARGINS)
def test_a_task_is_learned(task, folder):
    scores = {}
    for text_only in ("false", "true"):
        output = folder / task / text_only
        options = ("--task", task, "--text_only", text_only, "--model", str(folder / "pretrained"))
        run("finetune.py", *options, "--scenes", str(folder / "scenes"), "--output_dir", str(output))
        scores[text_only] = json.loads((output / "results.json").read_text())
    above_chance, above_text = MARGINS[task]
    seen, unseen = scores["false"], scores["true"]
    assert seen["score"] > seen["chance"] + above_chance
    assert seen["score"] > unseen["score"] + above_text
