# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Pickles, `.npy`, `.npz` and msgpack of numpy arrays and plain containers, read without running anything they hold.

The feature files of the field are pickles, and a pickle may name any function to call. Here it may name what numpy
writes for its arrays and scalars, and nothing else.
"""

import collections
import importlib
import io
import pickle
import zipfile
from collections.abc import Collection
from typing import Any, BinaryIO

import numpy as np


# What numpy 1 (`numpy.core`) and numpy 2 (`numpy._core`) write for arrays, and Python for its own containers.
ARRAY_MODULES = {
    "multiarray": ("_reconstruct", "scalar"),
    "numeric": ("_frombuffer",),
}
PLAIN_CLASSES = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{("builtins", kind.__name__): kind for kind in (set, frozenset)},
}


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How pickle's protocols up to 2 spell bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}, which no array needs.")
    return text.encode("latin1")


class PlainUnpickler(pickle.Unpickler):
    """Reads numpy arrays, scalars and dtypes, and plain containers.

    Raises:
        pickle.UnpicklingError: if the pickle names any other class or function. None of them is imported or called.
    """

    def find_class(self, module: str, name: str) -> Any:
        place = ("builtins" if module == "__builtin__" else module, name)
        if place in PLAIN_CLASSES:
            return PLAIN_CLASSES[place]
        if place == ("_codecs", "encode"):
            return _encode
        for core in ("numpy.core", "numpy._core"):
            for part, names in ARRAY_MODULES.items():
                if module == f"{core}.{part}" and name in names:
                    return getattr(importlib.import_module(f"numpy._core.{part}"), name)
        raise pickle.UnpicklingError(
            f"it holds {module}.{name}, and a feature file may hold numpy arrays and plain containers only. "
            "Nothing of it was run."
        )


def load_pickle(file: BinaryIO) -> Any:
    """What `file` holds next. Raises `pickle.UnpicklingError` at anything but arrays and plain containers."""
    # Latin-1 is what arrays of Python 2 need.
    return PlainUnpickler(file, encoding="latin1").load()


def load_npy(file: BinaryIO) -> np.ndarray | Any:
    """An array of `np.save`; of an array of dtype object that holds one thing, that thing."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"it is of .npy version {version}, for which there is no reader.")
    start = file.tell()
    _, _, dtype = read_header(file)
    if dtype.hasobject:
        array = load_pickle(file)
        return array.item() if isinstance(array, np.ndarray) and array.ndim == 0 else array
    file.seek(start - np.lib.format.MAGIC_LEN)
    return np.lib.format.read_array(file, allow_pickle=False)


def load_npz(file: BinaryIO, names: Collection[str] | None = None) -> dict[str, Any]:
    """The arrays of `np.savez` and `np.savez_compressed` by name. Default: all of them."""
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            if names is None or name in names:
                arrays[name] = load_npy(io.BytesIO(archive.read(member)))
    return arrays


def load_msgpack(data: bytes) -> Any:
    """What `data` holds, with arrays as `msgpack_numpy` writes them; its arrays of objects, pickles, are refused."""
    import msgpack

    return msgpack.unpackb(data, raw=False, strict_map_key=False, object_hook=_array)


def _array(fields: dict) -> Any:
    known = {key.decode() if isinstance(key, bytes) else key: value for key, value in fields.items()}
    if "nd" not in known or "data" not in known:
        return fields
    kind = known.get("kind", b"")
    if kind in (b"O", "O"):
        raise pickle.UnpicklingError("it holds an array of Python objects, which may hold any class.")
    array = np.frombuffer(known["data"], np.dtype(known["type"]))
    return array.reshape(known["shape"]).copy() if known["nd"] else array[0]
