"""What several test files share: no network, and one small run of the main example."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


os.environ.setdefault("HF_HUB_OFFLINE", "1")

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """A folder in which the main example has run for two steps, and left its model under `runs/`."""
    folder = tmp_path_factory.mktemp("small_run")
    command = [
        sys.executable,
        EXAMPLES / "visual_question_answering.py",
        "--max-steps",
        "2",
        "--cache",
        folder / "cache",
    ]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    (folder / "output.txt").write_text(result.stdout)
    return folder
