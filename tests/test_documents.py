"""Every block of the README and the docs runs, in order, and what they link to and speak of is there.

Those that train take minutes even if they are cut short: `pytest -m examples` runs them, and nothing else does.
"""

import argparse
import inspect
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import easy_vqa
import pytest
from transformers import HfArgumentParser

import modeling_vilbert
from modeling_vilbert import cli
from modeling_vilbert.configuration_vilbert import FLAT_FIELDS, FLAT_SWITCHES, RUN_TIME_SWITCHES


ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Pages whose `vilbert` commands can be run as they stand there, after the blocks above them.
RUNNABLE = [DOCS / f"{name}.md" for name in ("checkpoints", "explanations_page", "index", "own_features", "own_image")]
# What the reader of a page has, and no command has made.
AT_HAND = {
    "picture.png": Path(easy_vqa.get_test_image_paths()[5]),
    "multi_task_model.bin": ROOT / "tests/parity/vltasks/pytorch_model.bin",
    "bert_base_6layer_6conect.json": ROOT / "tests/parity/vltasks/config.json",
}


# How many scenes are composed to train on and to test on, and how many for a run that is cut short.
SCENES, FEW_SCENES = "2000-200", "40-12"
# What cuts an example short, behind what a page says. None: another test runs it, or CI does.
FEW_STEPS = "--max_steps 2"
SHORT = {
    "app": None,
    "benchmark": None,
    "visual_question_answering": None,
    "claims": "--max-steps 2 --seeds 0",
    "explain": "--questions 3",
    "finetune": FEW_STEPS,
    "finetune_multitask": FEW_STEPS,
    "lora": "--steps 2 --seeds 0",
    "pretrain": FEW_STEPS,
    "retrieve": '--train_scenes 40 --test_scenes 12 --pairs 100 --output "$(mktemp -d)"',
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands_of(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("vilbert ")]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=name_of)
def test_blocks_run(page, small_run, monkeypatch):
    monkeypatch.chdir(small_run)
    for name, file in AT_HAND.items():
        shutil.copyfile(file, name)
    names = {}
    for language, block in blocks_of(page):
        if language == "python":
            exec(compile(block, str(page), "exec"), names)
        elif page in RUNNABLE:
            for command in commands_of(block):
                assert cli.main(shlex.split(command, comments=True)[1:]) == 0, command


def cut_short(line: str) -> str:
    """A line of a shell block as a test can run it; "" if it installs or another test runs it."""
    line = re.sub(r"#.*", "", line).strip()
    example = re.search(r"examples/(\w+)\.py", line)
    if line == "pytest" or line.startswith("pip ") or (example and SHORT[example[1]] is None):
        return ""
    line = line.replace(SCENES, FEW_SCENES)
    return f"{line} {SHORT[example[1]]}" if example else line


def shell_blocks() -> list:
    """Those of pages whose commands the test above does not run; each line once, and training.md's first."""
    found, before = [], {""}
    for page in sorted(set(PAGES) - set(RUNNABLE), key=lambda page: (page.name != "training.md", page)):
        for number, (language, block) in enumerate(blocks_of(page)):
            block = block.replace("\\\n", " ").replace("&& ", "\n")
            lines = map(cut_short, block.splitlines()) if language == "bash" else ()
            new = [line for line in dict.fromkeys(lines) if line not in before]
            before.update(new)
            if new:
                found.append(pytest.param("\n".join(new), id=f"{page.name}-{number}"))
    return found


@pytest.mark.examples
@pytest.mark.parametrize("block", shell_blocks())
def test_shell_blocks_run(block, small_run, monkeypatch):
    """In one folder, one after the other, as a reader may."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not (small_run / "examples").exists():
        (small_run / "examples").symlink_to(ROOT / "examples")
    result = subprocess.run(["bash", "-euc", block], cwd=small_run, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_pages_with_commands_have_some(page):
    assert any(commands_of(block) for _, block in blocks_of(page))


def test_commands_are_spelt_right(monkeypatch):
    """Those of all pages: their options exist. What they do is tested elsewhere."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser, *arguments):
        options = parse(parser, *arguments)
        options.run = lambda options: 0
        return options

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    commands = [command for page in PAGES for _, block in blocks_of(page) for command in commands_of(block)]
    assert len(commands) > 5
    for command in commands:
        assert cli.main(shlex.split(command, comments=True)[1:]) == 0, command


def example_commands() -> list[str]:
    """What follows `python` or `torchrun` where a page runs an example, in blocks and in running text."""
    found = set()
    for page in PAGES:
        running = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        texts = [block.replace("\\\n", " ") for language, block in blocks_of(page) if language != "python"]
        texts += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", running)]
        for text in texts:
            found.update(re.findall(r"(?:python|torchrun .*?) (examples/\w+\.py[^\n&#]*)", text))
    return sorted({" ".join(command.split()) for command in found})


def test_example_commands_are_found():
    assert len(example_commands()) > 10


@pytest.mark.parametrize("command", example_commands(), ids=str)
def test_examples_take_these_options(command, monkeypatch, tmp_path):
    """Each script runs up to where it has parsed its options."""

    def then_end(parse):
        def parse_and_end(parser, *arguments, **settings):
            options = parse(parser, *arguments, **settings)
            if settings.get("return_remaining_strings"):  # small_model.parse looks at some options before all
                return options
            raise SystemExit("parsed")

        return parse_and_end

    for parser, name in ((argparse.ArgumentParser, "parse_args"), (HfArgumentParser, "parse_args_into_dataclasses")):
        monkeypatch.setattr(parser, name, then_end(getattr(parser, name)))
    script, *arguments = shlex.split(command)
    monkeypatch.setattr("sys.argv", [script, *arguments])
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="^parsed$"):
        runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_is_left_to_fill_in(page):
    # What gets a value is none.
    assert not re.findall(r"\b(?:[A-Z]{3,}_[A-Z_]+|TODO|TBD)\b(?!=)", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for script in re.findall(r"(?<![\w/.])examples/\w+\.(?:py|ipynb)", text):
        assert (ROOT / script).exists(), f"{page.name} speaks of {script}"


def test_every_public_name_is_in_the_api_pages():
    found = [
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: modeling_vilbert\.(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    missing = sorted(set(modeling_vilbert.__all__) - set(found))
    assert not missing, f"Put ::: modeling_vilbert.NAME into a page of docs/api for each of {missing}."
    assert len(found) == len(set(found)), "a name is on two pages"
    modules = {file.stem for file in (ROOT / "modeling_vilbert").glob("*.py")}
    assert set(found) <= {*modeling_vilbert.__all__, *modules}


# docs/moving.md, which people follow word by word


def sections_of(page: Path) -> dict[str, list[list[str]]]:
    """Title of a section -> the rows of its tables, as cells."""
    sections = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        section.splitlines()[0]: [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in section.splitlines()
            if line.startswith("|") and not line.startswith("|---")
        ]
        for section in sections
    }


def words_of(cell: str) -> list[str]:
    """The names in a cell, each without what follows it."""
    return re.findall(r"`([A-Za-z_]\w*)", cell)


def test_names_in_moving_exist():
    models = [value for name, value in vars(modeling_vilbert).items() if name.startswith("ViLBertFor")]
    models = [modeling_vilbert.ViLBertModel, *models]
    known = set(modeling_vilbert.__all__)
    for model in models:
        known |= set(inspect.signature(model.forward).parameters) if hasattr(model, "forward") else set()
    for output in ("ViLBertModelOutput", "ViLBertTaskOutput", "ViLBertForPreTrainingOutput"):
        known |= {field.name for field in fields(getattr(modeling_vilbert, output))}
    sections = sections_of(DOCS / "moving.md")
    arguments = [row[2] for row in sections["Arguments"] if len(row) == 4]
    outputs = [row[-1] for row in sections["What comes back"]]
    names = {name for cell in arguments + outputs for name in words_of(cell)}
    assert len(names) > 25 and names <= known, sorted(names - known)


def test_config_fields_in_moving_are_translated_so():
    mentioned = set()
    for there, here in sections_of(DOCS / "moving.md")["Config"][1:]:
        for place, name in enumerate(words_of(there)):
            mentioned.add(name)
            assert name in {**FLAT_FIELDS, **FLAT_SWITCHES, **RUN_TIME_SWITCHES}, name
            if name in FLAT_FIELDS and "..." not in there:
                assert re.findall(r"`([\w.]+)`", here)[place].split(".")[-1] == FLAT_FIELDS[name][1]
    rest = {name for name, (config, _) in FLAT_FIELDS.items() if config is None}
    assert rest <= mentioned, sorted(rest - mentioned)
