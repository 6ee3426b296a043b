# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Pickles, `.npy`, `.npz` and msgpack of numpy arrays and plain containers, read without running anything they hold.

The feature files of the field are pickles, and a pickle may name any function to call. Here it may name what numpy
writes for its arrays and scalars, and nothing else.
"""

import collections
import io
import pickle
import zipfile
from collections.abc import Collection
from typing import Any, BinaryIO

import numpy as np


class _Dtype:
    """Stands for `numpy.dtype`, which would take flags from the pickle: with false ones, bytes become pointers."""

    def __init__(self, kind: Any, align: bool = False, copy: bool = True):
        self.numpy = np.dtype(kind) if isinstance(kind, str) else None
        if self.numpy is None or self.numpy.names or self.numpy.subdtype:
            raise pickle.UnpicklingError(f"it holds the dtype {kind!r}, and arrays of plain numbers are known only.")

    def __setstate__(self, state: tuple):
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError(
                "it holds a dtype of several fields, and arrays of plain numbers are known only."
            )
        if state[1] in ("<", ">"):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that takes its content from a pickle, objects from a list alone."""

    def __setstate__(self, state: tuple):
        version, shape, dtype, fortran, data = state
        if dtype.numpy.hasobject and not isinstance(data, list):
            raise pickle.UnpicklingError("it holds an array of objects that is not a list.")
        super().__setstate__((version, shape, dtype.numpy, fortran, data))


class _ArrayType:
    """Stands for `numpy.ndarray`, which a pickle may name, but not call: it would take bytes for pointers."""

    def __new__(cls, *_):
        raise pickle.UnpicklingError("it makes an array out of a buffer of its own.")


def _reconstruct(kind: type, shape: tuple, typecode: Any) -> np.ndarray:
    return np.ndarray.__new__(_Array, (0,), "b")


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.numpy)[0]


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple, order: str, axis_order: Any = None) -> np.ndarray:
    return np.frombuffer(data, dtype.numpy).reshape(shape, order=order).copy(order)


# What numpy 1 (`numpy.core`) and numpy 2 (`numpy._core`) write for arrays, and Python for its own containers.
PLAIN_CLASSES = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _Dtype,
    **{
        (f"{core}.{module}", name): function
        for core in ("numpy.core", "numpy._core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
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
