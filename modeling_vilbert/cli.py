# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The command `vilbert`."""

import argparse
import sys
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError

from . import model_commands, store_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, 0 for success and 1 for an error that was reported."""
    parser = argparse.ArgumentParser(prog="vilbert", description="Tools for ViLBERT models.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    model_commands.add_convert(commands)
    store_commands.add_extract(commands)
    store_commands.add_inspect(commands)
    store_commands.add_convert_regions(commands)
    model_commands.add_answer(commands)
    model_commands.add_ground(commands)
    model_commands.add_search(commands)
    model_commands.add_export(commands)
    model_commands.add_explain(commands)
    options = parser.parse_args(arguments)
    try:
        status = options.run(options)
    # An ImportError says which extra is missing; the last is what a config with a wrong value raises.
    except (ValueError, OSError, ImportError, StrictDataclassError) as error:
        print(f"vilbert: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return status or 0
