"""The package from outside: what it exports, what its files import, and how its models travel."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tiny import tiny_config, tiny_inputs

import modeling_vilbert
from modeling_vilbert import ViLBertForQuestionAnswering, ViLBertModel, ViLBertPreTrainedModel
from modeling_vilbert.configuration_vilbert import AUTO_MAP, HEAD_TYPES
from modeling_vilbert.heads_vilbert import HEADS


PACKAGE = Path(modeling_vilbert.__file__).parent

# A file imports only from floors below its own.
FLOORS = [
    {"configuration_vilbert", "regions_vilbert", "plain_pickles", "optional_packages", "relevance", "modes"},
    {"checkpoint_names_vilbert", "volta_vilbert"},
    {
        "backbones",
        "explanation_page",
        "explanation_pictures",
        "conversion_vilbert",
        "layers_vilbert",
        "model_card_vilbert",
        "region_records",
        "text_pretrained_vilbert",
    },
    {"region_table", "region_containers", "annotation_records", "proposals"},
    {"region_formats", "extraction", "box_annotations"},
    {"regions", "bulk_extraction"},
    {"modeling_vilbert", "image_processing_vilbert"},
    {"heads_vilbert", "processing_vilbert", "pair_tiles", "score_files"},
    {"pretraining_vilbert", "metrics", "data_collators", "lengths", "explanation_targets", "split_model", "pair_sides"},
    {"annotations", "submissions", "training", "caption_groups", "explanation_record", "retrieval", "export"},
    {"pipeline_vilbert", "multitask_training", "explanation", "search"},
    {"tasks", "store_commands"},
    {"model_commands"},
    {"cli"},
    {"__init__"},
]


def relative_imports(file: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom) and node.level]
    return {name for node in nodes for name in ([node.module] if node.module else [alias.name for alias in node.names])}


def test_every_file_has_a_floor():
    assert set().union(*FLOORS) == {file.stem for file in PACKAGE.glob("*.py")}


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda file: file.stem)
def test_imports_point_down(file):
    floor = next(number for number, names in enumerate(FLOORS) if file.stem in names)
    below = set().union(*FLOORS[:floor])
    assert relative_imports(file) <= below
    # What travels to the Hub is flat and takes nothing else along.
    if file.stem.endswith("_vilbert"):
        assert all(name.endswith("_vilbert") for name in relative_imports(file))


def test_public_names():
    assert all(hasattr(modeling_vilbert, name) for name in modeling_vilbert.__all__)
    for name in modeling_vilbert.__all__:
        documentation = getattr(modeling_vilbert, name).__doc__
        assert documentation and len(documentation) > 60, name


def test_every_model_is_saved_and_loaded_by_its_auto_class(tmp_path):
    for auto, place in AUTO_MAP.items():
        model_class = getattr(modeling_vilbert, place.split(".")[1])
        if not issubclass(model_class, ViLBertPreTrainedModel):
            continue
        torch.manual_seed(0)
        model = model_class(tiny_config()).eval()
        model.save_pretrained(tmp_path / auto)
        loaded, info = getattr(transformers, auto).from_pretrained(tmp_path / auto, output_loading_info=True)
        assert type(loaded) is model_class
        assert not info["missing_keys"] and not info["unexpected_keys"]
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name


def run(code: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


WITHOUT_THE_PACKAGE = """
import sys
sys.modules["modeling_vilbert"] = None  # any import of it fails
import torch
from transformers import AutoModel, AutoModelForMultipleChoice, AutoModelForVisualQuestionAnswering

inputs, expected = torch.load("inputs.pt"), torch.load("expected.pt")
model = AutoModelForVisualQuestionAnswering.from_pretrained("saved", trust_remote_code=True)
print(type(model).__module__.split(".")[0])
torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-6, rtol=1e-6)
for auto in (AutoModel, AutoModelForMultipleChoice):
    print(type(auto.from_pretrained("saved", trust_remote_code=True)).__name__)
model.save_pretrained("again")
print(AutoModelForVisualQuestionAnswering.from_pretrained("again", trust_remote_code=True).config.num_labels)
"""


def test_a_saved_model_loads_where_the_package_is_not(tmp_path):
    torch.manual_seed(0)
    model, inputs = ViLBertForQuestionAnswering(tiny_config()).eval(), tiny_inputs()
    model.save_pretrained(tmp_path / "saved")
    torch.save(inputs, tmp_path / "inputs.pt")
    torch.save(model(**inputs).logits.detach(), tmp_path / "expected.pt")
    result = run(WITHOUT_THE_PACKAGE, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["transformers_modules", "ViLBertModel", "ViLBertForMultipleChoice", "5"]


def test_code_of_a_saved_model_does_not_run_unasked(tmp_path):
    ViLBertModel(tiny_config()).save_pretrained(tmp_path / "saved")
    code = "import sys\nsys.modules['modeling_vilbert'] = None\nfrom transformers import AutoModel\n"
    result = run(f"{code}AutoModel.from_pretrained('saved', trust_remote_code=False)", tmp_path)
    assert result.returncode != 0 and "trust_remote_code=True" in result.stderr


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda file: file.stem)
def test_importing_needs_no_extra(file):
    imported = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names <= {"torch", "transformers", "numpy", "huggingface_hub", "jinja2"}


def test_the_table_of_heads_is_the_configs():
    assert tuple(HEADS) == HEAD_TYPES
