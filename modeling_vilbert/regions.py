# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Stores of regions on disk: open one of any format, look into it, join it with annotations, convert it to our own.

Reading order: `open_regions`, `RegionStore` and `RegionStack` here; the formats, a row each, in `region_formats.py`;
our own format in `region_table.py`; what a record's fields may be called in `region_records.py`.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .optional_packages import need
from .region_formats import FORMATS, Format, find_format
from .region_records import MISSING_BOXES, FieldError, Reader, RecordError, as_id, to_regions
from .region_table import RegionWriter, write_regions
from .regions_vilbert import Regions, concatenate_regions, within_a_pixel


__all__ = [
    "FORMATS",
    "RecordError",
    "RegionReport",
    "RegionStack",
    "RegionStore",
    "RegionWriter",
    "Regions",
    "concatenate_regions",
    "convert_regions",
    "inspect_regions",
    "join_regions",
    "open_regions",
    "write_regions",
]


def open_regions(
    path: str | Path | Sequence[str | Path],
    format: str | None = None,
    missing_boxes: str = "error",
    image_sizes: Mapping[Any, tuple[float, float]] | None = None,
    source: str | None = None,
) -> "RegionStore | RegionStack":
    """Open the regions of many images, in whatever format they are.

    Args:
        path: a file or a folder; or several, whose regions of an image are put together, see `RegionStack`. What
            follows is then said of each.
        format: the name of a row of `FORMATS`. Default: the one that recognises the first records.
        missing_boxes: "error", or "whole_image" to take every region without a box for the whole image.
        image_sizes: image id -> (width, height) in pixels, of all images whose size is not stored. One that is stored
            and differs is an error. Default: boxes that are stored as shares of an image of unknown size are given on
            the unit square, `image_size` (1, 1): right for the model, not for drawing.
        source: which detector, layer and box count made the features. Default: what is stored, or else
            "unknown (<format>)".

    Returns:
        A mapping of image id to `Regions`. Records are read when asked for.

    Raises:
        ValueError: if the path is in no known format, is damaged as a whole, or `image_sizes` lacks some of the images.
        ImportError: if the format needs a package that is not installed; the message says how to install it.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from modeling_vilbert.regions import open_regions
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.savez(folder / "42.npz", x=np.ones((2, 8)), bbox=[[0, 0, 9, 9], [5, 5, 50, 40]], image_w=100, image_h=80)
    >>> store = open_regions(folder)
    >>> store.format, list(store), store[42].boxes.tolist()
    ('milvlg-npz', ['42'], [[0.0, 0.0, 9.0, 9.0], [5.0, 5.0, 50.0, 40.0]])

    ```
    """
    if missing_boxes not in MISSING_BOXES:
        raise ValueError(f"missing_boxes must be one of {list(MISSING_BOXES)}, got {missing_boxes!r}.")
    sizes = {as_id(image_id): tuple(size) for image_id, size in (image_sizes or {}).items()}
    stores = []
    for one in _paths(path):
        if not one.exists():
            raise ValueError(f"path {one} does not exist.")
        stores.append(RegionStore(one, find_format(one, format), missing_boxes, sizes, source))
    found = stores[0] if isinstance(path, (str, os.PathLike)) else RegionStack(stores)
    for store in stores:
        store.check_sizes(found)
    return found


def _paths(path: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(one) for one in ([path] if isinstance(path, (str, os.PathLike)) else path)]


class _ById(Mapping):
    """What a store and a stack of them share: a table by image id, which is text, and may be asked for by number."""

    path: Path | str
    _index: dict[str, Any]

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __contains__(self, image_id: Any) -> bool:
        try:
            return as_id(image_id) in self._index
        except ValueError:
            return False

    def __deepcopy__(self, memo: dict) -> "_ById":
        # `datasets` copies what its transforms hold, and a store does not change.
        return self

    def _some(self) -> list[str]:
        return list(islice(self._index, 3))


class RegionStore(_ById):
    """A mapping of image ids to `Regions` on disk; `open_regions` makes it.

    Ids are text; to look one up, a number, text or bytes will do. A look-up costs one read, whatever the size of the
    store. It may be used in forked and spawned workers.

    Args:
        path: the file or folder.
        row: its row of `FORMATS`.
        missing_boxes: as in `open_regions`.
        image_sizes: as in `open_regions`, by id as text.
        source: as in `open_regions`.

    Attributes:
        format: the name of the row.
        source: of the features, for records that store none.
        problems: a `RecordError` for each record that cannot be looked up, since it has no id of its own, or is in a
            part of the store that is damaged or missing.

    Raises:
        KeyError: if there is no record of an id.
        RecordError: (a ValueError) if a record is damaged, with its file, record and field. The others can be read.
    """

    def __init__(
        self,
        path: Path,
        row: Format,
        missing_boxes: str = "error",
        image_sizes: Mapping[str, tuple[float, float]] | None = None,
        source: str | None = None,
    ):
        self.path, self.format, self.source = path, row.name, source or f"unknown ({row.name})"
        self._row, self._given_source, self._missing_boxes = row, source, missing_boxes
        self._image_sizes = image_sizes or {}
        self._reader: Reader = row.reader(path)
        self._index, self._again, self.problems = {}, {}, []
        try:
            self._find_records()
        except (RecordError, ImportError, MemoryError):
            raise
        # Whatever damage makes a container's library raise.
        except Exception as error:
            raise RecordError(path, None, None, f"its records cannot be listed: {error!r}") from error

    def __getitem__(self, image_id: Any) -> Regions:
        name = as_id(image_id)
        if name not in self._index:
            unread = f" Of {len(self.problems)} problems the first: {self.problems[0]}" if self.problems else ""
            raise KeyError(
                f"{self.path} has no record of image {name!r}; it has {len(self)}, {self._some()}, ...{unread}"
            )
        regions = self.read(name)
        if problem := self._odd_width(regions):
            raise self._error(name, "features", problem)
        return regions

    def __repr__(self) -> str:
        problems = f", problems: {len(self.problems)}" if self.problems else ""
        return f"RegionStore({str(self.path)!r}, format={self.format!r}, {len(self)} records{problems})"

    def __getstate__(self) -> dict:
        # A row holds functions, which do not pickle.
        return {**self.__dict__, "_row": None}

    def __setstate__(self, state: dict):
        self.__dict__.update(state)
        self._row = next(row for row in FORMATS if row.name == self.format)

    def check_sizes(self, names: Collection[str]):
        """Raise a ValueError if there are `image_sizes`, but not for all of `names` whose size is not stored."""
        missing = [name for name in names if name not in self._image_sizes] if self._image_sizes else []
        for name in missing[:10]:
            try:
                self.read(name)
            except RecordError as error:
                if error.field == "image_size":
                    raise ValueError(
                        f"image_sizes must have the size of every image of {self.path} that does not store it; "
                        f"{len(missing)} of {len(names)} are not in it: {_first_few(missing)}. {error.problem}"
                    ) from error

    def count(self, image_id: Any) -> int:
        """How many regions an image has; our own table knows it without reading them."""
        name = as_id(image_id)
        found = self._reader.count(self._index[name]) if name in self._index else None
        return len(self[image_id]) if found is None else found

    def read(self, name: str) -> Regions:
        """The record of id `name`, without comparing its width with that of the others."""
        place = self._index[name]
        if name in self._again:
            others = ", ".join(str(self._reader.locate(name, other)) for other in [place, *self._again[name]])
            if any(other != place for other in self._again[name]):
                raise self._error(name, "image_id", f"{len(self._again[name]) + 1} records have this id: {others}.")
        try:
            regions = to_regions(
                self._row.fields(self._reader.fields(place)),
                name,
                counts_matter=self._reader.counts_matter,
                missing_boxes=self._missing_boxes,
                image_size=self._image_sizes.get(name),
                # No mixture of pixels and shares.
                unit_square=not self._image_sizes,
                source=self._given_source,
            )
            regions.source = regions.source or self.source
            return regions
        except (RecordError, ImportError, MemoryError):
            raise
        except FieldError as error:
            raise self._error(name, error.field, error.problem) from error
        # Whatever a damaged file makes its reader raise: the caller wants to know which record it was.
        except Exception as error:
            said = str(error) or type(error).__name__
            known = said.split(" ")[0].rstrip(":")
            raise self._error(name, known if known in Regions.__dataclass_fields__ else None, said) from error

    def _find_records(self):
        for found in self._reader.index():
            if isinstance(found, RecordError):
                self.problems.append(found)
            elif found[0] in self._index:
                self._again.setdefault(found[0], []).append(found[1])
            else:
                self._index[found[0]] = found[1]

    def _error(self, name: str, field_name: str | None, problem: str) -> RecordError:
        return RecordError(*self._reader.locate(name, self._index[name]), field_name, problem)

    @cached_property
    def _usual_width(self) -> tuple[str, int] | None:
        """The most common width among the first records that have regions and can be read, and one of that width."""
        names: dict[int, list[str]] = {}
        for name in islice(self._index, 10):
            try:
                regions = self.read(name)
            except RecordError:
                continue
            if len(regions):
                names.setdefault(regions.features.shape[1], []).append(name)
        width = max(names, key=lambda width: len(names[width]), default=None)
        return None if width is None else (names[width][0], width)

    def _odd_width(self, regions: Regions) -> str | None:
        """What is wrong with the width of a record's features, if anything is."""
        usual, width = self._usual_width, regions.features.shape[1]
        if usual is None or len(regions) == 0 or width == usual[1]:
            return None
        return f"they are {width} wide, those of {usual[0]!r} {usual[1]}."


class RegionStack(_ById):
    """Several stores as one: the images that all of them have, with the regions of each store, one after the other.

    So a detector's boxes and given ones come together. How scores, labels and the rest are joined is said in
    `concatenate_regions`.

    Args:
        stores: of `open_regions`; each may have been opened in its own way.

    Attributes:
        format, source: of all stores.
        problems: of all stores.

    Raises:
        ValueError: if there is no store.
        KeyError: (in a look-up) if one of the stores has no record of an id.
        RecordError: (a ValueError, in a look-up) if a record is damaged, or the records do not fit together.

    Example:

    ```python
    >>> import tempfile
    >>> import numpy as np
    >>> from modeling_vilbert.regions import Regions, open_regions, write_regions
    >>> folder = tempfile.mkdtemp()
    >>> for name in ("detected", "given"):
    ...     record = Regions([[0, 0, 50, 80]], np.ones((1, 8)), image_size=(100, 80), image_id=42, source=name)
    ...     written = write_regions([record], f"{folder}/{name}")
    >>> both = open_regions([f"{folder}/detected", f"{folder}/given"])
    >>> len(both), len(both[42]), both[42].source
    (1, 2, 'detected + given')

    ```
    """

    def __init__(self, stores: Sequence[RegionStore]):
        if not stores:
            raise ValueError("stores must be at least one, got none.")
        self.stores = tuple(stores)
        self.path, self.format, self.source = (
            " + ".join(dict.fromkeys(str(getattr(store, name)) for store in stores))
            for name in ("path", "format", "source")
        )
        self.problems = [problem for store in stores for problem in store.problems]
        self._index = dict.fromkeys(name for name in stores[0] if all(name in store for store in stores))
        if not self._index and all(map(len, stores)):
            raise ValueError(
                f"stores have no image in common: {self.path}. Of several stores, the regions of an image are joined; "
                "parts of a data set are opened one by one."
            )

    def __getitem__(self, image_id: Any) -> Regions:
        records = [store[image_id] for store in self.stores]
        try:
            return concatenate_regions(records)
        except ValueError as error:
            raise RecordError(self.path, repr(as_id(image_id)), None, str(error)) from error

    def count(self, image_id: Any) -> int:
        """How many regions an image has in all stores."""
        return sum(store.count(image_id) for store in self.stores)

    def __repr__(self) -> str:
        return f"RegionStack({list(self.stores)}, {len(self)} records that all have)"


def _first_few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more


@dataclass
class RegionReport:
    """What is in a store and what is wrong with it.

    Args:
        path: the file or folder.
        format: the row of `FORMATS`.
        count: ids in it.
        widths: F -> records of that width.
        boxes: least, mean and greatest number of regions of a record that can be read.
        sources: source -> records.
        problems: a `RecordError` each, with `file`, `record` and `field`.
    """

    path: str
    format: str | None = None
    count: int = 0
    widths: Counter = field(default_factory=Counter)
    boxes: tuple[int, float, int] | None = None
    sources: Counter = field(default_factory=Counter)
    problems: list[RecordError] = field(default_factory=list)

    def __str__(self) -> str:
        boxes = "none" if self.boxes is None else f"{self.boxes[0]} to {self.boxes[2]}, mean {self.boxes[1]:.1f}"
        lines = [
            f"path      {self.path}",
            f"format    {self.format or 'unknown'}",
            f"records   {self.count}",
            f"widths    {', '.join(f'{width} ({count} records)' for width, count in self.widths.items()) or 'none'}",
            f"boxes     {boxes}",
            f"source    {', '.join(f'{source} ({count} records)' for source, count in self.sources.items()) or 'none'}",
            f"problems  {len(self.problems)}",
        ]
        return "\n".join(lines + [f"  {problem}" for problem in self.problems])


def inspect_regions(
    path: "str | Path | RegionStore",
    format: str | None = None,
    missing_boxes: str = "error",
    image_sizes: Mapping[Any, tuple[float, float]] | None = None,
    progress: bool = False,
) -> RegionReport:
    """Read all of a store, and say what is in it and what is wrong with it.

    It finds records that cannot be read, NaN and infinity, boxes without area, upside down or outside their image, ids
    that occur twice, counts that disagree with arrays, and widths that change.

    Args:
        path: the file or folder, or a store that is open.
        progress: show a bar.
        format, missing_boxes, image_sizes: as in `open_regions`.

    Raises:
        ValueError: if the path is in no known format.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from modeling_vilbert.regions import inspect_regions
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.savez(folder / "42.npz", x=np.ones((1, 8)), bbox=[[5, 5, 5, 40]], image_w=100, image_h=80)
    >>> [(problem.record, problem.field) for problem in inspect_regions(folder).problems]
    [("'42'", 'boxes')]

    ```
    """
    if not isinstance(path, (str, os.PathLike, RegionStore)):
        raise ValueError(f"path must be one store; inspect those of a stack one by one. Got {path!r:.200}.")
    report = RegionReport(str(path.path if isinstance(path, RegionStore) else path))
    try:
        store = path if isinstance(path, RegionStore) else open_regions(path, format, missing_boxes, image_sizes)
    except RecordError as error:
        report.problems.append(error)
        return report
    report.format, report.count = store.format, len(store)
    report.problems += store.problems
    for name, places in store._again.items():
        report.problems.append(store._error(name, "image_id", f"{len(places) + 1} records have this id."))

    sizes, names = [], iter(store)
    if progress:
        names = need("tqdm").tqdm(names, total=len(store), unit="record", desc=f"inspecting {store.path.name}")
    for name in names:
        if name in store._again:
            continue
        try:
            regions = store.read(name)
        except RecordError as error:
            report.problems.append(error)
            continue
        sizes.append(len(regions))
        report.widths[regions.features.shape[1]] += 1
        report.sources[regions.source] += 1
        report.problems += (store._error(name, *problem) for problem in _problems(regions, store._odd_width(regions)))
    if sizes:
        report.boxes = (min(sizes), sum(sizes) / len(sizes), max(sizes))
    return report


def _problems(regions: Regions, odd_width: str | None) -> Iterator[tuple[str, str]]:
    """What `Regions` lets pass, since a model can live with it, and a store should not hold."""
    x1, y1, x2, y2 = regions.boxes.T
    flat = (x2 <= x1) | (y2 <= y1)
    if flat.any():
        number = int(np.argmax(flat))
        yield (
            "boxes",
            f"{int(flat.sum())} of {len(flat)} have no area, the first is number {number}: "
            f"{regions.boxes[number].tolist()}.",
        )
    width, height = regions.image_size
    if (width, height) == (1, 1) and (regions.boxes < -0.01).any() | (regions.boxes > 1.01).any():
        yield "boxes", "some are outside the unit square."
    if within_a_pixel(regions):
        yield "boxes", "all lie within one pixel: are they shares of the image, not pixels?"
    if len(regions) == 0:
        yield "boxes", "the record has no region."
    elif odd_width is not None:
        yield "features", odd_width


class _Attach:
    """Adds the column `regions` to annotations."""

    def __init__(self, store: Mapping[str, Regions], column: str):
        self.store, self.column = store, column

    def to_batch(self, batch: dict[str, list]) -> dict[str, list]:
        return {**batch, "regions": [self._regions(image_id) for image_id in batch[self.column]]}

    def to_example(self, example: dict[str, Any]) -> dict[str, Any]:
        if self.column not in example:
            raise ValueError(f"column must be one of {list(example)}, got {self.column!r}.")
        return {**example, "regions": self._regions(example[self.column])}

    def _regions(self, image_id: Any) -> Regions | list[Regions]:
        if isinstance(image_id, (list, tuple)):
            return [self.store[as_id(one)] for one in image_id]
        return self.store[as_id(image_id)]


def join_regions(dataset: Any, store: Mapping[str, Regions], column: str = "image_id") -> Any:
    """A `datasets.Dataset` of annotations that brings along the regions of each row's image.

    Nothing is copied: `dataset[3]["regions"]` is read from the store when it is asked for. A stream of annotations, an
    `IterableDataset`, gets its regions as it passes; shuffle it before, since its buffer holds what passes.

    Args:
        dataset: the annotations.
        store: image id -> `Regions`, of `open_regions`.
        column: of `dataset`, the image ids (numbers or text), or lists of ids for examples of several images.

    Returns:
        `dataset` with the column `regions`: `Regions`, or lists of them. Its own format or transform, if any, is
        replaced.

    Raises:
        ValueError: if there is no such column, or the store lacks ids; they are named.
        KeyError: when a stream meets an id that the store lacks.

    Example:

    ```python
    >>> import tempfile
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from modeling_vilbert.regions import Regions, join_regions, open_regions, write_regions
    >>> folder = tempfile.mkdtemp() + "/store"
    >>> write_regions([Regions([[0, 0, 50, 80]], np.ones((1, 8)), image_size=(100, 80), image_id="42")], folder)
    1
    >>> questions = Dataset.from_dict({"image_id": [42, 42], "question": ["What is it?", "Where?"]})
    >>> row = join_regions(questions, open_regions(folder))[1]
    >>> row["question"], row["regions"].image_id
    ('Where?', '42')

    ```
    """
    # A stream may not know its columns before it runs.
    if dataset.column_names is not None and column not in dataset.column_names:
        raise ValueError(f"column must be one of {dataset.column_names}, got {column!r}.")
    attach = _Attach(store, column)
    if isinstance(dataset, need("datasets").IterableDataset):
        return dataset.with_format(None).map(attach.to_example)
    wanted = dict.fromkeys(
        as_id(one)
        for image_id in dataset.with_format(None)[column]
        for one in (image_id if isinstance(image_id, (list, tuple)) else [image_id])
    )
    missing = [name for name in wanted if name not in store]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} image ids of column {column!r} are not in "
            f"{getattr(store, 'path', 'store')}: {_first_few(missing)}. Its ids look like {list(islice(store, 3))}."
        )
    return dataset.with_transform(attach.to_batch)


def convert_regions(
    path: str | Path | Sequence[str | Path],
    output: str | Path,
    dtype: str = "float32",
    source: str | None = None,
    format: str | None = None,
    missing_boxes: str = "error",
    image_sizes: Mapping[Any, tuple[float, float]] | None = None,
    records_per_shard: int = 1000,
    progress: bool = False,
) -> RegionStore:
    """Carry a store of any format to our own. Nothing is lost with `dtype` "float32" from float32 or float16.

    A run that was interrupted is gone on with by the same call, and ends with the same content. All records arrive, or
    the first that cannot be read is an error; what comes before it is kept for the next run, after it was mended.

    Args:
        path: what to convert; of several, the images that all have.
        output: the folder to write.
        dtype: "float32" or "float16", of features and class distributions.
        records_per_shard: records of a file, and what an interruption costs at most.
        progress: show a bar.
        source, format, missing_boxes, image_sizes: as in `open_regions`.

    Returns:
        The new store.

    Raises:
        ValueError: if a record cannot be read or written, with its file, record and field; or if `output` exists.
    """
    store = open_regions(path, format, missing_boxes, image_sizes, source)
    if store.problems:
        raise store.problems[0]
    settings = {
        "paths": [str(one.resolve()) for one in _paths(path)],
        "format": store.format,
        "records": len(store),
        "source": source,
        "missing_boxes": missing_boxes,
        "image_sizes": sorted([as_id(name), *map(float, size)] for name, size in (image_sizes or {}).items()),
    }
    with RegionWriter(output, dtype, records_per_shard, resume=True, settings=settings) as writer:
        names = iter(store)
        if progress:
            names = need("tqdm").tqdm(names, total=len(store), unit="record", desc=f"converting {store.format}")
        for name in names:
            if name not in writer.resumed:
                writer.write(store[name])
    return open_regions(output)
