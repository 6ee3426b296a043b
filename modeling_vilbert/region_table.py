# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Our own store of regions: a folder that `datasets.load_from_disk` opens, too.

It holds Arrow files of at most `records_per_shard` records each, mapped into memory when read, and `state.json`, which
comes last. While it is being written it is called `<name>.partial`; the finished folder gets its name in one step, so
that a run that was killed leaves no store that looks whole. Its complete files are what a resumed run goes on from.

Shapes: N regions, F feature size, C detector classes.
"""

import json
import mmap
import os
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .optional_packages import need
from .region_records import OPTIONAL, Reader, RecordError, as_id
from .regions_vilbert import Regions


DTYPES = ("float32", "float16")
# Fields that are text or ids.
NAMES = ("labels", "attributes")
STATE, SETTINGS = "state.json", "regions.json"
RECORDS_PER_BATCH = 32
# How Arrow ends a stream.
END = b"\xff\xff\xff\xff\0\0\0\0"
# So much may be read before the pages of a mapped file are given back; they stay in the system's cache.
MAPPED_BYTES = 16 * 2**20


class RegionWriter:
    """Writes `Regions` into a store of our own format, all of it or nothing.

    Args:
        folder: what the finished store is called. It must not exist.
        dtype: of features and class distributions: "float32", or "float16" for half the size and 3 digits.
        records_per_shard: records of a file, and what an interrupted run loses at most.
        resume: go on from what an interrupted writer of the same `folder` and `settings` left. Its ids are in
            `resumed`; write the others in the same order, and the store is that of an undisturbed run.
        settings: anything JSON that tells apart runs which may not continue one another.

    Raises:
        ValueError: if the folder exists, a record has no id, an id that is taken, features of another width than the
            first, values beyond float16, or labels or attributes that are not all text or all whole numbers, as those
            of the first; or what was left comes from other settings.

    Example:

    ```python
    >>> import tempfile
    >>> import numpy as np
    >>> from modeling_vilbert.regions import Regions, RegionWriter, open_regions
    >>> folder = tempfile.mkdtemp() + "/store"
    >>> with RegionWriter(folder) as writer:
    ...     writer.write(Regions([[0, 0, 50, 80]], np.ones((1, 8)), image_size=(100, 80), image_id=42, source="ours"))
    >>> store = open_regions(folder)
    >>> len(store), store[42].features.shape, store[42].source
    (1, (1, 8), 'ours')

    ```
    """

    def __init__(
        self,
        folder: str | Path,
        dtype: str = "float32",
        records_per_shard: int = 1000,
        resume: bool = False,
        settings: Any = None,
    ):
        need("datasets")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {list(DTYPES)}, got {dtype!r}.")
        if not isinstance(records_per_shard, int) or records_per_shard < 1:
            raise ValueError(f"records_per_shard must be at least 1, got {records_per_shard!r}.")
        self.folder, self.dtype, self.records_per_shard = Path(folder), dtype, records_per_shard
        self.partial = self.folder.with_name(self.folder.name + ".partial")
        if self.folder.exists():
            raise ValueError(f"folder {self.folder} exists; give another name or remove it.")
        settings = run_settings(dtype, records_per_shard, settings)
        if self.partial.exists():
            self._check_partial(settings, resume)
        self.partial.mkdir(parents=True, exist_ok=True)
        _write_file(self.partial / SETTINGS, json.dumps(settings, indent=1).encode())

        self._schema, self._width, self._waiting, self._ids = None, None, [], set()
        shards = sorted(self.partial.glob("data-*.arrow"))
        for shard in shards:
            self._schema, batches, _ = _mapped(shard)
            for batch in batches:
                self._ids.update(batch.column("image_id").to_pylist())
        if self._schema is not None:
            self._width = self._schema.field("features").type.value_type.list_size
        self._shards = len(shards)
        self.resumed = frozenset(self._ids)

    def __enter__(self) -> "RegionWriter":
        return self

    def __exit__(self, kind: type | None, *_):
        if kind is None:
            self.close()

    def __len__(self) -> int:
        return len(self._ids)

    def write(self, regions: Regions):
        """Take one record; it is on disk once its file is full, or after `close`."""
        if regions.image_id is None:
            raise ValueError("A record without image_id cannot be found again; set it.")
        image_id = as_id(regions.image_id)
        if image_id in self._ids:
            raise ValueError(f"Two records have the image_id {image_id!r} (as text).")
        # Features of no region at all may have no width, and then fit any.
        width = regions.features.shape[1] or self._width
        if self._width is not None and width != self._width:
            raise ValueError(f"The features of image {image_id!r} are {width} wide, those before {self._width}.")
        if self.dtype == "float16":
            for name in ("features", "class_probs"):
                array = getattr(regions, name)
                if array is not None and array.size and np.abs(array).max() > np.finfo(np.float16).max:
                    raise ValueError(f'{name} of image {image_id!r} are beyond float16; use dtype="float32".')
        self._width = width
        self._ids.add(image_id)
        self._waiting.append(regions)
        # A file needs the width of features: records without any wait for the first that has some.
        if self._width and len(self._waiting) >= self.records_per_shard:
            self._write_shard()

    def close(self):
        """Write what is waiting, and give the store its name."""
        if self._waiting or self._schema is None:
            self._write_shard()
        features = need("datasets").Features.from_arrow_schema(self._schema)
        need("datasets").DatasetInfo(features=features).write_to_directory(str(self.partial))
        files = [{"filename": file.name} for file in sorted(self.partial.glob("data-*.arrow"))]
        state = {
            "_data_files": files,
            "_fingerprint": "regions",
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        _write_file(self.partial / STATE, json.dumps(state, indent=1).encode())
        for unfinished in self.partial.glob("*.tmp"):
            unfinished.unlink()
        os.rename(self.partial, self.folder)
        _sync(self.folder.parent)

    def _check_partial(self, settings: dict, resume: bool):
        try:
            left = json.loads((self.partial / SETTINGS).read_text())
        except (OSError, ValueError):
            left = None
        if left is None and any(self.partial.iterdir()):
            raise ValueError(f"{self.partial} exists and is no store that was being written; remove it.")
        if not resume:
            shutil.rmtree(self.partial)
        elif left is not None and (differ := differences(left, settings)):
            raise ValueError(f"{self.partial} was left by a run of other settings: {differ}; remove it to start anew.")

    def _write_shard(self):
        pyarrow = need("pyarrow")
        records = self._waiting
        schema = _schema(records, self.dtype) if self._schema is None else self._schema
        path = self.partial / f"data-{self._shards:05d}.arrow"
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        with open(unfinished, "wb") as file:
            with pyarrow.ipc.new_stream(file, schema) as stream:
                for start in range(0, len(records), RECORDS_PER_BATCH):
                    stream.write_batch(_batch(records[start : start + RECORDS_PER_BATCH], schema))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        _sync(self.partial)
        # Not before: records of a shard that could not be written are not lost without a word.
        self._waiting, self._schema = [], schema
        self._shards += 1


def write_regions(
    records: Iterable[Regions], folder: str | Path, dtype: str = "float32", records_per_shard: int = 1000
) -> int:
    """Write all `records` into a new store of our own format at `folder`, and return their number.

    The other arguments, and the errors, are those of `RegionWriter`.
    """
    with RegionWriter(folder, dtype, records_per_shard) as writer:
        for record in records:
            writer.write(record)
    return len(writer)


class TableReader(Reader):
    """Reads our own format. Arrays are copied out of the mapped files, so that they may be written to.

    A file that is damaged is left out; `damaged` has an error for each.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self._open()

    def __getstate__(self) -> dict:
        return {"path": self.path, "damaged": [error.file for error in self.damaged]}

    def __setstate__(self, state: dict):
        self.__init__(state["path"])
        # Places count the rows of the files that were whole.
        for error in self.damaged:
            if error.file not in state["damaged"]:
                raise error

    @classmethod
    def sample(cls, path: Path) -> set[str] | None:
        if not (path / STATE).is_file():
            return None
        reader = cls(path)
        if reader.damaged and not reader._maps:
            raise reader.damaged[0]
        return set(reader._names)

    def index(self) -> Iterator[tuple[str, int] | RecordError]:
        yield from self.damaged
        for start, batch in zip(self._starts, self._batches):
            for row, image_id in enumerate(batch.column("image_id").to_pylist()):
                yield as_id(image_id), start + row

    def fields(self, place: int) -> dict[str, Any]:
        number = bisect_right(self._starts, place) - 1
        row = place - self._starts[number]
        columns = self._columns.get(number)
        if columns is None:
            columns = self._columns[number] = {
                name: _column(self._batches[number].column(name)) for name in self._names if name != "image_id"
            }
        fields = {name: column(row) for name, column in columns.items()}
        self._give_back_pages(fields["features"].nbytes)
        return fields

    def count(self, place: int) -> int:
        number = bisect_right(self._starts, place) - 1
        row = place - self._starts[number]
        start, end = self._batches[number].column("boxes").offsets[row : row + 2].to_pylist()
        return end - start

    def _open(self):
        self._names, self._maps, self._batches, self._columns, self._read = [], [], [], {}, 0
        self.damaged: list[RecordError] = []
        try:
            files = [
                self.path / entry["filename"] for entry in json.loads((self.path / STATE).read_text())["_data_files"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(
                self.path / STATE, None, None, f"it does not list the store's files: {error!r}."
            ) from error
        for file in files:
            try:
                schema, batches, mapped = _mapped(file)
            except RecordError as error:
                self.damaged.append(error)
                continue
            self._names = schema.names
            self._batches += batches
            self._maps.append(mapped)
        self._starts, total = [], 0
        for batch in self._batches:
            self._starts.append(total)
            total += batch.num_rows

    def _give_back_pages(self, size: int):
        self._read += size
        if self._read > MAPPED_BYTES:
            self._read = 0
            for mapped in self._maps:
                if hasattr(mapped, "madvise"):
                    mapped.madvise(mmap.MADV_DONTNEED)


def _mapped(file: Path) -> tuple[Any, list, mmap.mmap]:
    """The schema and the record batches of an Arrow file, none of them read yet, and the map they lie in."""
    pyarrow = need("pyarrow")
    try:
        with open(file, "rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        # A file that was cut between two batches reads like a shorter one.
        if mapped[-len(END) :] != END:
            raise RecordError(file, None, None, "it has no end; it has been cut.")
        with pyarrow.ipc.open_stream(pyarrow.py_buffer(mapped)) as stream:
            return stream.schema, list(stream), mapped
    except RecordError:
        raise
    except (OSError, ValueError) as error:
        raise RecordError(file, None, None, f"it is no whole Arrow file: {error}") from error


def _column(array: Any):
    """A function of a row that gives its value: a copy of its numbers, a list of its text, or None."""
    pyarrow = need("pyarrow")
    types = pyarrow.types
    if not types.is_list(array.type) or types.is_string(array.type.value_type):
        values = array.to_pylist()
        return values.__getitem__
    present = array.is_valid().to_numpy(zero_copy_only=False)
    offsets = array.offsets.to_numpy()
    numbers, width = array.values, None
    if types.is_fixed_size_list(numbers.type):
        width, numbers = numbers.type.list_size, numbers.values
    numbers = numbers.to_numpy(zero_copy_only=True)
    if width is not None:
        numbers = numbers.reshape(-1, width)
    return lambda row: numbers[offsets[row] : offsets[row + 1]].copy() if present[row] else None


def _schema(records: list[Regions], dtype: str) -> Any:
    datasets = need("datasets")
    number = datasets.Value(dtype)
    width = max((record.features.shape[1] for record in records), default=0)
    if records and width == 0:
        raise ValueError(f"The first {len(records)} records have no region, which leaves the width of features open.")
    columns = {
        "image_id": datasets.Value("string"),
        "width": datasets.Value("float64"),
        "height": datasets.Value("float64"),
        "boxes": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
        "features": datasets.List(datasets.List(number, length=width)),
    }
    classes = max((record.class_probs.shape[1] for record in records if record.class_probs is not None), default=0)
    if classes:
        columns["class_probs"] = datasets.List(datasets.List(number, length=classes))
    for name in NAMES:
        first = next((record for record in records if getattr(record, name) is not None and len(record)), None)
        if first is not None:
            columns[name] = datasets.List(datasets.Value("string" if _are_text(_names(first, name)) else "int64"))
    for name in ("scores", "attribute_scores"):
        if any(getattr(record, name) is not None for record in records):
            columns[name] = datasets.List(datasets.Value("float32"))
    columns["source"] = datasets.Value("string")
    return datasets.Features(columns).arrow_schema


def _batch(records: list[Regions], schema: Any) -> Any:
    pyarrow = need("pyarrow")
    for name in OPTIONAL:
        late = next((record for record in records if getattr(record, name) is not None and len(record)), None)
        if late is not None and name not in schema.names:
            raise ValueError(f"Image {late.image_id!r} has {name}, and the first records of the store had none.")
    arrays = {
        "image_id": pyarrow.array([as_id(record.image_id) for record in records]),
        "width": pyarrow.array([float(record.image_size[0]) for record in records]),
        "height": pyarrow.array([float(record.image_size[1]) for record in records]),
        "source": pyarrow.array([record.source for record in records], pyarrow.string()),
    }
    for field in schema:
        if field.name not in arrays:
            values_of = _names if field.name in NAMES else getattr
            arrays[field.name] = _lists([values_of(record, field.name) for record in records], field, records)
    return pyarrow.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _lists(values: list, field: Any, records: list[Regions]) -> Any:
    """One column: a list of numbers, rows or text for each record, or none."""
    pyarrow = need("pyarrow")
    offsets = np.cumsum([0] + [0 if value is None else len(value) for value in values]).astype(np.int32)
    inner = field.type.value_type
    fixed = pyarrow.types.is_fixed_size_list(inner)
    text, width = pyarrow.types.is_string(inner), inner.list_size if fixed else None
    for record, value in zip(records, values):
        if value is None or len(value) == 0:
            continue
        if fixed and value.shape[1] != width:
            raise ValueError(
                f"{field.name} of image {record.image_id!r} are {value.shape[1]} wide, those before {width}."
            )
        if field.name in NAMES and _are_text(value) != text:
            kinds = ("text", "numbers") if _are_text(value) else ("numbers", "text")
            raise ValueError(f"{field.name} of image {record.image_id!r} are {kinds[0]}, those before {kinds[1]}.")
    present = [value for value in values if value is not None and len(value)]
    if text:
        rows = pyarrow.array([item for value in present for item in value], inner)
    else:
        dtype = (inner.value_type if fixed else inner).to_pandas_dtype()
        flat = [value.astype(dtype, copy=False).ravel() for value in present]
        rows = pyarrow.array(np.concatenate(flat) if flat else np.zeros(0, dtype))
        if fixed:
            rows = pyarrow.FixedSizeListArray.from_arrays(rows, width)
    missing = pyarrow.array([value is None for value in values])
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets), rows, mask=missing)


def _names(record: Regions, name: str) -> list[str] | np.ndarray | None:
    """Labels or attributes as a list of text or an array of int64, unchanged by it."""
    values = getattr(record, name)
    if values is None:
        return None
    items = values.tolist() if hasattr(values, "tolist") else list(values)
    if all(isinstance(item, str) for item in items):
        return items
    numbers = None if any(isinstance(item, (str, list, tuple)) for item in items) else np.asarray(items)
    if numbers is not None and numbers.dtype.kind in "iuf":
        with np.errstate(invalid="ignore"):
            whole = numbers.astype(np.int64)
        if np.array_equal(whole, numbers):
            return whole
    raise ValueError(
        f"{name} of image {record.image_id!r} must be all text or all whole numbers, got {items[:5]!r:.100}."
    )


def _are_text(names: list[str] | np.ndarray) -> bool:
    return isinstance(names, list)


def run_settings(dtype: str, records_per_shard: int, settings: Any) -> dict:
    """What `regions.json` says of the run that writes a store."""
    return {"dtype": dtype, "records_per_shard": records_per_shard, "settings": settings}


def differences(stored: dict | None, wanted: dict) -> str:
    """In what two runs' settings differ, or nothing."""
    stored, wanted = _flat(stored or {}), _flat(json.loads(json.dumps(wanted)))
    names = [name for name in {**wanted, **stored} if stored.get(name) != wanted.get(name)]
    return ", ".join(f"{name} was {stored.get(name)!r:.200}, and is now {wanted.get(name)!r:.200}" for name in names)


def _flat(settings: dict) -> dict[str, Any]:
    """Without dicts in dicts; what tells apart two values of one name is its path."""
    found = {}
    for name, value in settings.items():
        below = _flat(value) if isinstance(value, dict) else {}
        found.update({f"{name}.{inner}": one for inner, one in below.items()} if below else {name: value})
    return found


def _write_file(path: Path, content: bytes):
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    with open(unfinished, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def _sync(folder: Path):
    """Make renames in a folder last, where the system has a way to."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
