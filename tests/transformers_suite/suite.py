"""Obtains the common test suite of the installed Transformers, which its wheels leave out.

The source distribution of that very version has it; it is fetched once, through pip, into
`$MODELING_VILBERT_TEST_CACHE` (default: `~/.cache/modeling_vilbert/tests`). Nothing of it lives in this repository.
"""

import functools
import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest
import transformers


# A name that no `tests` package in reach can take.
PACKAGE = "transformers_common_tests"

# What the suite imports and the source distribution does not ship: tests of generation and export, which no ViLBERT
# model takes part in, defaults of flat configs, and the map of files of the Hub to copies, of which there are none.
STAND_INS = {
    f"{PACKAGE}/__init__.py": "",
    f"{PACKAGE}/exporters/__init__.py": "",
    f"{PACKAGE}/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    f"{PACKAGE}/generation/__init__.py": "",
    f"{PACKAGE}/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    f"{PACKAGE}/utils/__init__.py": "",
    f"{PACKAGE}/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}


class SuiteUnavailableError(RuntimeError):
    """The source distribution cannot be had."""


def cache_folder() -> Path:
    folder = os.environ.get("MODELING_VILBERT_TEST_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "modeling_vilbert" / "tests"


def obtain(version: str = transformers.__version__) -> Path:
    """The folder that holds the suite of that version as a package, fetched where it is not there yet.

    Raises:
        SuiteUnavailableError: if pip cannot download it. The message says what was tried, and what to do.
    """
    cache = cache_folder()
    folder = cache / f"transformers-{version}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed: whoever looks at the same time sees all of it or nothing.
    with tempfile.TemporaryDirectory(dir=cache) as aside:
        archive, built = _download(version, Path(aside)), Path(aside) / "built"
        _unpack(archive, built / PACKAGE)
        for name, text in STAND_INS.items():
            file = built / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        try:
            built.rename(folder)
        except OSError:
            # Another process was faster.
            if not folder.is_dir():
                raise
    return folder


def _download(version: str, folder: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", f"transformers=={version}",
    ]  # fmt: skip
    run = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True)
    archives = list(folder.glob("*.tar.gz"))
    if run.returncode or not archives:
        said = run.stderr.strip().splitlines()[-3:]
        raise SuiteUnavailableError(
            f"The common tests of transformers {version} are not in {cache_folder()}, and `{' '.join(command)}` "
            f"failed: {' '.join(said)} Run these tests once where pip reaches a package index that has the source "
            "distribution, or set MODELING_VILBERT_TEST_CACHE to the cache folder of such a run."
        )
    return archives[0]


def _unpack(archive: Path, folder: Path):
    """Write the Python files of the archive's `tests/` into the folder."""
    with tarfile.open(archive) as files:
        for member in files:
            top, *path = PurePosixPath(member.name).parts
            if not member.isfile() or path[:1] != ["tests"] or not path[-1].endswith(".py") or ".." in path:
                continue
            file = folder.joinpath(*path[1:])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(files.extractfile(member).read())


@functools.cache
def _attempt() -> Path | SuiteUnavailableError:
    """`obtain`, tried once in a run."""
    try:
        return obtain()
    except SuiteUnavailableError as error:
        return error


def common(name: str) -> ModuleType:
    """The suite's module of that name. Without the suite, the calling module is skipped; in CI, that is an error."""
    folder = _attempt()
    if isinstance(folder, SuiteUnavailableError):
        if os.environ.get("CI"):
            raise folder
        pytest.skip(str(folder), allow_module_level=True)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(f"{PACKAGE}.{name}")
