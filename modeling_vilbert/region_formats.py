# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The formats in which people have region features, one row of `FORMATS` each.

A row names its container (a `Reader`: text lines, LMDB, a folder of files, H5, ...), how its first record tells it from
others in that container, and which fields that record holds under which names. To read one more format, add a row.

Layouts are those of the tools that write them: bottom-up-attention and LXMERT (TSV), vilbert_beta and 12-in-1 (LMDB,
npy), MMF, VOLTA, Oscar and VinVL, VLN-BERT, bottom-up-attention.pytorch, UNITER, tensorpack, and Transformers' former
detector.

Shapes: N regions, F feature size, P regions after padding, S images of a file.
"""

import codecs
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

import numpy as np

from .optional_packages import need
from .plain_pickles import load_msgpack, load_npy, load_npz, load_pickle
from .region_records import FieldError, Reader, RecordError, as_id, decoded, folded
from .region_table import TableReader


# One bad record does not hide what a store is: so many of its first are looked at.
FIRST = 5


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
        fields = _named(OSCAR)(super().fields(place))
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
                    problem = f"this list of keys cannot be read: {_said(error)}"
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
            first = first or RecordError(file, None, None, f"it cannot be read: {_said(error)}")
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
                raise RecordError(info, repr(path.stem), None, f"it cannot be read: {_said(error)}") from error
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
                yield RecordError(file, None, None, f"it cannot be read: {_said(error)}")
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
            raise RecordError(path, None, None, f"it is no whole Arrow file: {_said(error)}") from error

    def index(self) -> Iterator[tuple[str, int] | RecordError]:
        name = next(name for name in DETECTIONS_IDS if name in self._table.column_names)
        for row, image_id in enumerate(self._table.with_format(None)[name]):
            yield as_id(image_id), row

    def fields(self, place: int) -> dict[str, Any]:
        return self._table[place]

    def locate(self, image_id: str, place: int) -> tuple[Path, str]:
        return self.path, f"{image_id!r} in row {place}"


VLN = (
    *("scanId", "viewpointId", "image_w", "image_h", "vfov", "features", "boxes", "cls_prob", "attr_prob"),
    *("featureViewIndex", "featureHeading", "featureElevation", "viewHeading", "viewElevation"),
)
BUA = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)
OSCAR = ("image_id", "num_boxes", "features")
DETECTIONS = {
    "features": "roi_features",
    "scores": "obj_probs",
    "labels": "obj_ids",
    "attribute_scores": "attr_probs",
    "attributes": "attr_ids",
}
DETECTIONS_IDS = ("img_id", "img_ids", "image_id", "iid")
TENSORPACK = ("features", "cls_prob", "boxes", "num_boxes", "image_h", "image_w", "image_id", "caption")


def _named(columns: tuple[str, ...]) -> Callable[[list], dict[str, Any]]:
    def fields(values: list) -> dict[str, Any]:
        if len(values) != len(columns):
            raise FieldError(
                columns[min(len(values), len(columns) - 1)],
                f"the record has {len(values)} fields, and the format {len(columns)}: {', '.join(columns)}.",
            )
        return dict(zip(columns, values))

    return fields


def _as_stored(raw: Mapping) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise ValueError(f"it holds {type(raw).__name__} where a dict of fields belongs.")
    return dict(raw)


def _mmf(raw: Mapping) -> dict[str, Any]:
    fields = _as_stored(raw)
    fields.setdefault("labels", fields.pop("objects", None))
    if np.ndim(fields.get("cls_prob")) == 1:
        # The frcnn script stores the size that its detector saw, beside boxes in pixels of the true one.
        sides = fields.pop("image_width", None), fields.pop("image_height", None)
        fields["resized_size"] = None if None in sides else sides
    boxes = np.asarray(fields.get("bbox"))
    if boxes.shape[1:] == (6,):
        # VinVL's: shares of the image, which stand behind the features, too.
        features = np.asarray(fields["features"])
        if features[:, -6:].shape != boxes.shape or not np.allclose(features[:, -6:], boxes, atol=1e-3):
            raise FieldError("features", "their last 6 columns are not those of bbox.")
        fields.update(features=features[:, :-6].copy(), normalized_boxes=boxes, bbox=None)
    return fields


def _vinvl(values: list[str]) -> dict[str, Any]:
    fields = _named(("image_id", "json"))(values)
    try:
        content = json.loads(fields.pop("json"))
    except ValueError as error:
        raise FieldError("json", f"it is no JSON ({error}); has the line been cut?") from error
    objects = content["objects"] if isinstance(content, dict) else content
    for side in ("image_w", "image_h"):
        if isinstance(content, dict) and side in content:
            fields[side] = content[side]
    try:
        fields["features"] = np.stack([decoded("features", item["feature"]) for item in objects])
        fields["boxes"] = np.array([item["rect"] for item in objects], np.float32)
        fields["scores"] = np.array([item["conf"] for item in objects], np.float32)
        fields["labels"] = [item["class"] for item in objects]
    except KeyError as error:
        raise FieldError(error.args[0], "an object of the record does not have it.") from error
    return fields


def _milvlg(raw: Mapping) -> dict[str, Any]:
    fields = _as_stored(raw)
    info = fields["info"] if isinstance(fields.get("info"), Mapping) else {}
    features, boxes = np.asarray(fields.pop("x")), np.asarray(fields["bbox"])
    # What OpenVQA offers for download is [F, N].
    if len(features) != len(boxes) and features.ndim == 2 and features.shape[1] == len(boxes):
        features = np.ascontiguousarray(features.T)
    fields.pop("num_bbox", None)
    return {"labels": info.get("objects"), **info, **fields, "features": features}


def _frcnn(raw: Mapping) -> dict[str, Any]:
    """Cuts the padding off. `sizes` are those of the resized image; the true one shows in boxes / normalized_boxes."""
    count = len(raw["roi_features"]) if "preds_per_image" not in raw else int(np.ravel(raw["preds_per_image"])[0])
    padded = len(raw["roi_features"])
    if count > padded:
        raise FieldError("preds_per_image", f"it says {count} regions, and roi_features hold {padded}.")
    cut = {name: value[:count] for name, value in raw.items() if np.ndim(value) and len(value) == padded}
    fields = {name: cut.get(stored) for name, stored in DETECTIONS.items()}
    boxes, shares = cut.get("boxes"), cut.get("normalized_boxes")
    if boxes is not None and (boxes <= 1).all():
        boxes, shares = None, boxes
    if boxes is not None and shares is not None and count:
        size = (boxes[:, 2:].max(0) / np.maximum(shares[:, 2:], 1e-9).max(0)).astype(np.float64)
        if not np.allclose(boxes / np.array([*size, *size]), shares, atol=2e-3):
            raise FieldError(
                "normalized_boxes",
                "they do not agree with boxes on an image size; batches of several images are normalised wrongly.",
            )
        fields["image_w"], fields["image_h"] = np.where(np.abs(size - size.round()) < 0.02, size.round(), size).tolist()
    elif boxes is None and "sizes" in raw:
        height, width = np.ravel(raw["sizes"])[:2].tolist()
        fields["resized_size"] = (width, height)
    return {**fields, "boxes": boxes, "normalized_boxes": shares if boxes is None else None}


@dataclass(frozen=True)
class Format:
    """A row of `FORMATS`.

    Args:
        name: what `open_regions(format=...)` calls it.
        about: what writes it, and what to know of it.
        reader: its container.
        recognise: whether a container's first record is of this format.
        fields: the first record, or any, as a dict of fields under the names of `region_records.FIELDS`.
    """

    name: str
    about: str
    reader: type[Reader]
    recognise: Callable[[Any], bool]
    fields: Callable[[Any], dict[str, Any]] = _as_stored


def _columns(count: int) -> Callable[[list], bool]:
    return lambda values: len(values) == count


def _has(*names: str, text: str | None = None) -> Callable[[Any], bool]:
    """Dicts with all `names`; with `text`, those in which that one is text."""
    return lambda raw: (
        isinstance(raw, (Mapping, set))
        and set(names) <= set(raw)
        and (text is None or isinstance(raw[text], (str, bytes)))
    )


# Of several rows that recognise a record, the first counts.
FORMATS = (
    Format(
        "table", "our own: Arrow files that `datasets` opens, too", TableReader, _has("image_id", "boxes", "features")
    ),
    Format("bua-tsv", "bottom-up-attention, 6 columns", TsvReader, _columns(6), _named(BUA)),
    Format("bua-tsv-cls-prob", "its kin with class distributions", TsvReader, _columns(7), _named((*BUA, "cls_prob"))),
    Format("lxmert-tsv", "LXMERT, 10 columns, height before width", TsvReader, _columns(10), _named(LXMERT)),
    Format("volta-tsv", "VOLTA's: LXMERT's and cls_prob", TsvReader, _columns(11), _named((*LXMERT, "cls_prob"))),
    Format("oscar-tsv", "Oscar and VinVL features, with boxes if 2054 wide", OscarReader, _columns(3)),
    Format("vinvl-tsv", "VinVL predictions, JSON", TsvReader, _columns(2), _vinvl),
    Format("vln-tsv", "VLN-BERT: panoramas, 14 columns", VlnReader, _columns(14), _named(VLN)),
    Format("vilbert-lmdb", "vilbert_beta: TSV rows, base64", LmdbReader, _has("features", text="features")),
    Format("mmf-lmdb", "MMF: arrays, keys may be paths", LmdbReader, _has("features", "feature_path"), _mmf),
    Format("uniter-lmdb", "UNITER: msgpack or npz, boxes as shares", LmdbReader, _has("features", "norm_bb")),
    Format("12in1-lmdb", "12-in-1: arrays; num_boxes is ignored", LmdbReader, _has("features")),
    Format(
        "tensorpack-lmdb",
        "vilbert_beta's pre-training store, by running number; the caption stays behind",
        TensorpackReader,
        lambda raw: isinstance(raw, list) and len(raw) == len(TENSORPACK),
        _named(TENSORPACK),
    ),
    Format("volta-h5", "VOLTA: a group for each image", H5Reader, _has("features")),
    Format("mmf-npy", "MMF: features, and the rest in _info.npy", NpyReader, _has("features", "_info"), _mmf),
    Format("12in1-npy", "12-in-1: dicts; `objects` is wrong in them and left out", NpyReader, _has("features")),
    Format("milvlg-npz", "bottom-up-attention.pytorch", NpzReader, _has("x", "bbox"), _milvlg),
    Format("uniter-npz", "UNITER: boxes as shares of the image", NpzReader, _has("features", "norm_bb")),
    Format("frcnn", "dicts of Transformers' former detector", DetectionsReader, _has("roi_features"), _frcnn),
    Format("frcnn-arrow", "and what its script exports", ArrowReader, _has("roi_features", "img_id"), _frcnn),
)


def find_format(path: Path, name: str | None = None) -> Format:
    """The row of `FORMATS` that recognises `path`, or the one called `name`.

    Raises:
        ValueError: if no row does, or there is no such name.
    """
    if name is not None:
        for row in FORMATS:
            if row.name == name:
                return row
        raise ValueError(f"format must be one of {[row.name for row in FORMATS]}, got {name!r}.")
    samples, problems = {}, []
    for row in FORMATS:
        if row.reader not in samples:
            try:
                samples[row.reader] = row.reader.sample(path)
            except ImportError:
                raise
            # Whatever damage makes a container's library raise.
            except Exception as error:
                if not isinstance(error, RecordError):
                    error = RecordError(path, None, None, f"it cannot be read: {_said(error)}")
                samples[row.reader] = None
                problems.append(error)
        sample = samples[row.reader]
        if sample is not None and row.recognise(sample):
            return row
    if problems:
        raise problems[0]
    raise ValueError(
        f"path {path} is in none of the formats {[row.name for row in FORMATS]}. If it should be, name it by format=..."
    )


def _starts_with(path: Path, magic: bytes, offset: int = 0) -> bool:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(len(magic)) == magic


def _without_suffix(key: str) -> str:
    return key.removesuffix(".npz").removesuffix(".npy")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
