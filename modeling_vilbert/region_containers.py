# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""What regions are stored in: a `Reader` for each kind of file or folder, which finds records and reads their fields.

Text lines, LMDB, tensorpack, folders of npy and npz files, H5, files of a detector, Arrow. What the fields of a format
are called, and which of them make regions, is said in `region_formats.py`.

Shapes: N regions, F feature size, S images of a file.
"""

import codecs
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

import numpy as np

from .optional_packages import need
from .plain_pickles import load_msgpack, load_npy, load_npz, load_pickle
from .region_records import FieldError, Reader, RecordError, as_id, decoded, folded


# One bad record does not hide what a store is: so many of its first are looked at.
FIRST = 5
# Columns of formats whose readers have to know them.
OSCAR = ("image_id", "num_boxes", "features")
DETECTIONS_IDS = ("img_id", "img_ids", "image_id", "iid")
TENSORPACK = ("features", "cls_prob", "boxes", "num_boxes", "image_h", "image_w", "image_id", "caption")


class TsvReader(Reader):
    """Lines of tab-separated fields, the id first. Where each line begins is found out once."""

    counts_matter = True
    # So many fields make the id.
    id_fields = 1

    @classmethod
    def sample(cls, path: Path) -> list[str] | None:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            head = file.read(4096)
            try:
                # The last letter may be cut.
                codecs.getincrementaldecoder("utf-8")().decode(head)
            except UnicodeDecodeError:
                return None
            if b"\t" not in head or b"\0" in head:
                return None
            file.seek(0)
            lines = islice(_records(file), FIRST)
            rows = [line.rstrip(b"\r\n").decode("latin1").split("\t") for _, _, line in lines]
        usual = Counter(map(len, rows)).most_common(1)
        return next((row for row in rows if len(row) == usual[0][0]), None)

    def index(self) -> Iterator[tuple[str, tuple[int, int, int]] | RecordError]:
        with open(self.path, "rb") as file:
            for number, start, line in _records(file):
                parts = line.split(b"\t", self.id_fields)[: self.id_fields]
                image_id = b"_".join(part.strip() for part in parts).decode("utf-8", "replace")
                yield image_id, (start, len(line), number)

    def fields(self, place: tuple[int, int, int]) -> list[str]:
        start, length, _ = place
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(length).rstrip(b"\r\n").decode("utf-8").split("\t")

    def locate(self, image_id: str, place: tuple[int, int, int]) -> tuple[Path, str]:
        return self.path, f"{image_id!r} in line {place[2]}"


def _records(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """The number of each line that holds a record, where it begins, and the line."""
    start = 0
    for number, line in enumerate(file, 1):
        is_header = number == 1 and line.partition(b"\t")[0].strip() in (b"image_id", b"img_id", b"scanId")
        if line.strip() and not is_header:
            yield number, start, line
        start += len(line)


class VlnReader(TsvReader):
    """Lines of panoramas, which a scan and a viewpoint in it name."""

    id_fields = 2


class OscarReader(TsvReader):
    """Lines of an id, N and N x F numbers, of which the last 6 columns are the box in some stores, and not in others.

    Which it is, is decided once for a store, by what most of its first records look like.
    """

    def fields(self, place: tuple[int, int, int]) -> dict[str, Any]:
        fields = self._features(place)
        features, kind = fields["features"], self._kind_of_box
        if kind is not None:
            fields["features"], box = features[:, :-6].copy(), features[:, -6:]
            fields["normalized_boxes"] = box[:, :4].reshape(len(features), 4)
        if kind == "shares and size" and len(features):
            if (box[:, 4:] != box[0, 4:]).any():
                raise FieldError("features", "their last two columns are not the image's size, as in other records.")
            fields["image_w"], fields["image_h"] = box[0, 4:].tolist()
        return fields

    def _features(self, place: tuple[int, int, int]) -> dict[str, Any]:
        fields = named(OSCAR)(super().fields(place))
        try:
            count = int(fields["num_boxes"])
        except ValueError as error:
            raise FieldError("num_boxes", f"it must be a whole number, got {fields['num_boxes']!r:.80}.") from error
        fields["features"] = folded("features", decoded("features", fields["features"]), count, None)
        return fields

    @cached_property
    def _kind_of_box(self) -> str | None:
        kinds: Counter = Counter()
        for _, place in self.index():
            try:
                features = self._features(place)["features"]
            except (FieldError, UnicodeDecodeError):
                continue
            kinds[_kind_of_box(features)] += len(features) > 0
            if kinds.total() == FIRST:
                break
        return kinds.most_common(1)[0][0] if kinds.total() else None


def _kind_of_box(features: np.ndarray) -> str | None:
    """What the last 6 columns are: (x1, y1, x2, y2) as shares of the image, and the box's or the image's two sides."""
    box = features[:, -6:]
    if features.shape[1] <= 6 or not np.isfinite(box).all():
        return None
    sides = box[:, 2:4] - box[:, :2]
    if (sides < 0).any() or not (sides > 0).any() or (box[:, :4] < -0.01).any() or (box[:, :4] > 1.01).any():
        return None
    if np.allclose(box[:, 4:], sides, atol=0.02):
        return "shares"
    return "shares and size" if (box[:, 4:] == box[0, 4:]).all() and (box[0, 4:] > 1).all() else None


# An LMDB may be opened once in a process; forked processes read on in what they inherit, since nothing is locked.
_ENVIRONMENTS = WeakValueDictionary()


class LmdbReader(Reader):
    """Key -> pickle, msgpack or npz of one record; the list of keys is under `keys` or `__keys__`."""

    key_lists = (b"keys", b"__keys__")

    def __init__(self, path: Path):
        super().__init__(path)
        lmdb = need("lmdb")
        key = os.path.realpath(path)
        self._environment = _ENVIRONMENTS.get(key)
        if self._environment is None:
            try:
                self._environment = lmdb.open(
                    str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, meminit=False
                )
            except lmdb.Error as error:
                raise RecordError(path, None, None, f"it cannot be opened as an LMDB: {error}") from error
            _ENVIRONMENTS[key] = self._environment
        # Pages beyond the end of a file that was cut would end the process when read.
        file = path / "data.mdb" if path.is_dir() else path
        needed = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
        if file.stat().st_size < needed:
            raise RecordError(file, None, None, f"it has {file.stat().st_size} bytes of {needed}; it has been cut.")

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict):
        self.__init__(state["path"])

    @classmethod
    def sample(cls, path: Path) -> Any:
        if not (path / "data.mdb").is_file() and not (path.is_file() and _starts_with(path, b"\xde\xc0\xef\xbe", 16)):
            return None
        reader = cls(path)
        error = None
        for key in islice(reader._keys(), FIRST):
            try:
                return reader.fields(key)
            except ImportError:
                raise
            except Exception as problem:
                error = problem
        raise RecordError(path, None, None, f"none of its first records can be read: {error}") from error

    def index(self) -> Iterator[tuple[str, bytes] | RecordError]:
        for key in self._keys():
            yield _without_suffix(key.decode("utf-8", "replace")), key

    def fields(self, place: bytes) -> Any:
        with self._environment.begin(buffers=True) as transaction:
            value = transaction.get(place)
            if value is None:
                raise ValueError("its key is listed, and there is nothing under it.")
            return self._load(value)

    @staticmethod
    def _load(value: memoryview) -> Any:
        if value[:2] == b"PK":
            return load_npz(io.BytesIO(value))
        # A msgpack list of 8 or a map; a pickle begins with 0x80 or with a letter.
        if 0x81 <= value[0] <= 0x9F or value[0] in (0xDC, 0xDD, 0xDE, 0xDF):
            return _load_msgpack(value)
        return load_pickle(io.BytesIO(value))

    def _keys(self) -> Iterator[bytes]:
        with self._environment.begin() as transaction:
            for name in self.key_lists:
                listed = transaction.get(name)
                if listed is None:
                    continue
                try:
                    keys = _key_list(listed)
                except ImportError:
                    raise
                except Exception as error:
                    problem = f"this list of keys cannot be read: {said(error)}"
                    raise RecordError(self.path, repr(name.decode()), None, problem) from error
                yield from (key if isinstance(key, bytes) else str(key).encode() for key in keys)
                return
            for key in transaction.cursor().iternext(values=False):
                if not key.startswith(b"__"):
                    yield bytes(key)


def _key_list(data: bytes) -> list:
    """UNITER lists keys as JSON, tensorpack as msgpack, the others as a pickle."""
    if data[:1] == b"[":
        return json.loads(data)
    if 0x90 <= data[0] <= 0x9F or data[0] in (0xDC, 0xDD):
        return _load_msgpack(data)
    return list(load_pickle(io.BytesIO(data)))


def _load_msgpack(data: bytes | memoryview) -> Any:
    need("msgpack")
    return load_msgpack(data)


class TensorpackReader(LmdbReader):
    """An LMDB by running number, whose records name their image: each is looked into once, to find its id."""

    def index(self) -> Iterator[tuple[str, bytes] | RecordError]:
        msgpack = need("msgpack")
        for key in self._keys():
            try:
                with self._environment.begin(buffers=True) as transaction:
                    value = transaction.get(key)
                    unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=2**31 - 1)
                    unpacker.feed(value)
                    unpacker.read_array_header()
                    for _ in range(TENSORPACK.index("image_id")):
                        unpacker.skip()
                    yield as_id(unpacker.unpack()), key
            except Exception as error:
                yield RecordError(self.path, repr(key.decode("latin1")), "image_id", f"it cannot be read: {error!r}")

    def locate(self, image_id: str, place: bytes) -> tuple[Path, str]:
        return self.path, f"{image_id!r} under key {place.decode('latin1')!r}"


class FolderReader(Reader):
    """A folder of one file for each image, called after it, or such a file alone."""

    suffixes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Any:
        raise NotImplementedError

    @classmethod
    def sample(cls, path: Path) -> Any:
        found = (one if isinstance(one, RecordError) else one[1] for one in cls(path).index())
        return _first_that_loads(found, cls.load)

    def index(self) -> Iterator[tuple[str, Path] | RecordError]:
        root = self.path if self.path.is_dir() else self.path.parent
        for file in self._files():
            owner = self.owner(file)
            image_id = owner.relative_to(root).with_suffix("").as_posix()
            if owner == file:
                yield image_id, file
            elif not owner.exists():
                yield RecordError(
                    file, repr(image_id), "features", f"{owner.name}, which should hold them, is missing."
                )

    def owner(self, file: Path) -> Path:
        """The file of the image to which a file belongs."""
        return file

    def fields(self, place: Path) -> Any:
        return self.load(place)

    def locate(self, image_id: str, place: Path) -> tuple[Path, str]:
        return place, repr(image_id)

    def _files(self) -> Iterator[Path]:
        if self.path.is_file():
            if self.path.suffix in self.suffixes:
                yield self.path
            return
        for folder, folders, names in os.walk(self.path):
            folders.sort()
            for name in sorted(names):
                if name.endswith(self.suffixes):
                    yield Path(folder, name)


def _first_that_loads(files: Iterable[Path | RecordError], load: Callable[[Path], Any]) -> Any:
    """What the first good file holds, or None if there is no file; an error if the first few are all bad."""
    first, tries = None, 0
    for file in files:
        if isinstance(file, RecordError):
            first = first or file
            continue
        try:
            return load(file)
        except ImportError:
            raise
        except Exception as error:
            first = first or RecordError(file, None, None, f"it cannot be read: {said(error)}")
        tries += 1
        if tries == FIRST:
            break
    if first is not None:
        raise first
    return None


class NpyReader(FolderReader):
    """`<id>.npy`: a dict of arrays, or an array of features [N, F] with its `<id>_info.npy` beside it.

    MMF's frcnn script leaves an `<id>_full.npy`, too, with the same content.
    """

    suffixes = (".npy",)

    def owner(self, file: Path) -> Path:
        name, _, kind = file.stem.rpartition("_")
        if kind == "info":
            return file.with_name(f"{name}.npy")
        if kind != "full" or file.with_name(f"{file.stem}_info.npy").exists():
            return file
        others = file.with_name(f"{name}.npy"), file.with_name(f"{name}_info.npy")
        return next((other for other in others if other.exists()), file)

    @classmethod
    def load(cls, path: Path) -> dict[str, Any]:
        with open(path, "rb") as file:
            content = load_npy(file)
        if isinstance(content, Mapping):
            return dict(content)
        info = path.with_name(path.stem + "_info.npy")
        fields = {"features": content, "_info": None}
        if info.is_file():
            try:
                with open(info, "rb") as file:
                    fields["_info"] = load_npy(file)
                fields.update(fields["_info"])
            except Exception as error:
                raise RecordError(info, repr(path.stem), None, f"it cannot be read: {said(error)}") from error
            fields["features"] = content
        return fields


class NpzReader(FolderReader):
    """`<id>.npz` of named arrays."""

    suffixes = (".npz",)

    @classmethod
    def load(cls, path: Path) -> dict[str, Any]:
        with open(path, "rb") as file:
            return load_npz(file)


class H5Reader(Reader):
    """One group of arrays for each image, called after it."""

    def __init__(self, path: Path):
        super().__init__(path)
        h5py = need("h5py")
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise RecordError(path, None, None, f"it cannot be opened as H5: {error}") from error

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict):
        self.__init__(state["path"])

    @classmethod
    def sample(cls, path: Path) -> dict[str, Any] | None:
        if not path.is_file() or not _starts_with(path, b"\x89HDF\r\n\x1a\n"):
            return None
        reader = cls(path)
        group = reader._file[next(iter(reader._file))] if len(reader._file) else {}
        return dict.fromkeys(group) if hasattr(group, "keys") else {}

    def index(self) -> Iterator[tuple[str, str] | RecordError]:
        for key in self._file:
            yield key, key

    def fields(self, place: str) -> dict[str, Any]:
        return {name: value[()] for name, value in self._file[place].items()}


class DetectionsReader(Reader):
    """Dicts of Transformers' former detector, padded: .npz, .npy, .pkl or .pt, a file or a folder of them."""

    suffixes = (".npz", ".npy", ".pkl", ".pickle", ".pt", ".pth")

    def __init__(self, path: Path):
        super().__init__(path)
        self._latest = (None, None)

    def __getstate__(self) -> dict:
        return {"path": self.path, "_latest": (None, None)}

    @classmethod
    def sample(cls, path: Path) -> dict[str, Any] | None:
        return _first_that_loads(cls(path)._files(), cls._load)

    def index(self) -> Iterator[tuple[str, tuple[Path, int | None]] | RecordError]:
        for file in self._files():
            try:
                content = self._content(file)
                images = None if np.ndim(content["roi_features"]) == 2 else len(content["roi_features"])
                ids = next((content[name] for name in DETECTIONS_IDS if name in content), None)
            except Exception as error:
                yield RecordError(file, None, None, f"it cannot be read: {said(error)}")
                continue
            stem = file.relative_to(self.path if self.path.is_dir() else file.parent).with_suffix("").as_posix()
            if images in (None, 1):
                yield stem if ids is None else as_id(np.ravel(ids)[0]), (file, None if images is None else 0)
            else:
                for row in range(images):
                    yield f"{stem}-{row}" if ids is None else as_id(ids[row]), (file, row)

    def fields(self, place: tuple[Path, int | None]) -> dict[str, Any]:
        file, row = place
        content = self._content(file)
        return content if row is None else {name: value[row] for name, value in content.items() if np.ndim(value)}

    def locate(self, image_id: str, place: tuple[Path, int | None]) -> tuple[Path, str]:
        return place[0], repr(image_id) if place[1] is None else f"{image_id!r} in row {place[1]}"

    def _files(self) -> Iterator[Path]:
        if self.path.is_file():
            return iter([self.path] if self.path.suffix in self.suffixes else [])
        return (file for file in sorted(self.path.rglob("*")) if file.suffix in self.suffixes)

    def _content(self, file: Path) -> dict[str, Any]:
        if self._latest[0] != file:
            self._latest = (file, self._load(file))
        return self._latest[1]

    @staticmethod
    def _load(file: Path) -> dict[str, Any]:
        if file.suffix in (".pt", ".pth"):
            import torch

            content = torch.load(file, map_location="cpu", weights_only=True)
        else:
            load = {".npz": load_npz, ".npy": load_npy}.get(file.suffix, load_pickle)
            with open(file, "rb") as opened:
                content = load(opened)
        if not isinstance(content, Mapping):
            return {}
        return {
            name: value.numpy() if hasattr(value, "numpy") else np.asarray(value)
            for name, value in content.items()
            if value is not None
        }


class ArrowReader(Reader):
    """One Arrow file of a row for each image, as `datasets` writes them."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._table = need("datasets").Dataset.from_file(str(path)).with_format("numpy")

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict):
        self.__init__(state["path"])

    @classmethod
    def sample(cls, path: Path) -> set[str] | None:
        if path.suffix not in (".arrow", ".datasets") or not path.is_file():
            return None
        try:
            return set(cls(path)._table.column_names)
        except (OSError, ValueError) as error:
            raise RecordError(path, None, None, f"it is no whole Arrow file: {said(error)}") from error

    def index(self) -> Iterator[tuple[str, int] | RecordError]:
        name = next(name for name in DETECTIONS_IDS if name in self._table.column_names)
        for row, image_id in enumerate(self._table.with_format(None)[name]):
            yield as_id(image_id), row

    def fields(self, place: int) -> dict[str, Any]:
        return self._table[place]

    def locate(self, image_id: str, place: int) -> tuple[Path, str]:
        return self.path, f"{image_id!r} in row {place}"


def named(columns: tuple[str, ...]) -> Callable[[list], dict[str, Any]]:
    def fields(values: list) -> dict[str, Any]:
        if len(values) != len(columns):
            raise FieldError(
                columns[min(len(values), len(columns) - 1)],
                f"the record has {len(values)} fields, and the format {len(columns)}: {', '.join(columns)}.",
            )
        return dict(zip(columns, values))

    return fields


def _starts_with(path: Path, magic: bytes, offset: int = 0) -> bool:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(len(magic)) == magic


def _without_suffix(key: str) -> str:
    return key.removesuffix(".npz").removesuffix(".npy")


def said(error: Exception) -> str:
    return str(error) or type(error).__name__
