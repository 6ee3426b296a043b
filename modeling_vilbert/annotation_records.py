# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Annotation files -> records whose fields are asked for by name and kind: JSON, lines of JSON, pickles and XML.

Files may be gzipped. What is wrong in one is a `RecordError`, a ValueError that names the file, the line or record, and
the field.

Reading order: `Record`; files; `FileReader` and what else readers of many files share.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

from .plain_pickles import load_pickle
from .region_records import RecordError, as_id


Row = dict[str, Any]


class Record:
    """The fields of one record, and where it stands.

    Args:
        file: the file it is in.
        place: which one of the file's: "line 3", "'0293'"; None for the file as a whole; or the record it is part of,
            with the name of the field, and its number if the field is a list.
        fields: what is there. Anything but a dict is an error.

    Every method takes the name of a field, and raises a `RecordError` if the field is missing, null, or no such thing.
    """

    def __init__(self, file: Path, place: "str | tuple[Record, str, int | None] | None", fields: Any):
        self.file, self._place, self.fields = file, place, fields
        if not isinstance(fields, dict):
            raise self.error(None, f"it must be an object with named fields, got {fields!r:.60}.")

    @property
    def place(self) -> str | None:
        """As "line 3" or "images[2].qa_pairs[0]"; put together when asked for, since there are millions of records."""
        if not isinstance(self._place, tuple):
            return self._place
        whole, field, number = self._place
        part = field if number is None else f"{field}[{number}]"
        if whole.place is None:
            return part
        return f"{whole.place}{', ' if whole.place.startswith('line ') else '.'}{part}"

    def error(self, field: str | None, problem: str) -> RecordError:
        return RecordError(self.file, self.place, field, problem)

    def has(self, field: str) -> bool:
        return self.fields.get(field) is not None

    def get(self, field: str) -> Any:
        if not self.has(field):
            some = ", ".join(map(str, islice(self.fields, 20)))
            raise self.error(field, f"it is missing; there are: {some}.")
        return self.fields[field]

    def first_of(self, *fields: str) -> str:
        """The first of these names that the record has; the first of all if it has none."""
        return next((field for field in fields if self.has(field)), fields[0])

    def text(self, field: str) -> str:
        value = self.get(field)
        if not isinstance(value, str):
            raise self.error(field, f"it must be text, got {value!r:.60}.")
        return value

    def id(self, field: str) -> str:
        """A number or text, as text."""
        return self._as_id(field, self.get(field))

    def ids(self, field: str) -> list[str]:
        return [self._as_id(f"{field}[{number}]", value) for number, value in enumerate(self.values(field))]

    def stem(self, field: str) -> str:
        """The name of an image file, without folder and suffix."""
        return Path(self.id(field)).stem

    def index(self, field: str, count: int) -> int:
        """A whole number from 0 to count - 1."""
        self._check_index(field, self.get(field), count)
        return self.fields[field]

    def flag(self, field: str) -> bool:
        value = self.get(field)
        if not isinstance(value, bool):
            raise self.error(field, f"it must be true or false, got {value!r:.60}.")
        return value

    def one_of(self, field: str, names: Collection[str]) -> str:
        value = self.get(field)
        # NLVR2's labels are the words True and False.
        if str(value) not in names:
            raise self.error(field, f"it must be one of {list(names)}, got {value!r:.60}.")
        return str(value)

    def values(self, field: str) -> list[Any]:
        value = self.get(field)
        if not isinstance(value, list):
            raise self.error(field, f"it must be a list, got {value!r:.60}.")
        return value

    def texts(self, field: str) -> list[str]:
        values = self.values(field)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error(f"{field}[{number}]", f"it must be text, got {value!r:.60}.")
        return values

    def number(self, field: str) -> float:
        value = self.get(field)
        if not _is_number(value):
            raise self.error(field, f"it must be a number, got {value!r:.60}.")
        return float(value)

    def numbers(self, field: str, count: int) -> list[float]:
        """Exactly so many numbers."""
        values = self.values(field)
        if len(values) != count or not all(map(_is_number, values)):
            raise self.error(field, f"it must be {count} numbers, got {len(values)}: {values!r:.60}.")
        return [float(value) for value in values]

    def box(self, field: str) -> list[float]:
        """[x, y, width, height] as (x1, y1, x2, y2), in pixels."""
        x, y, width, height = self.numbers(field, 4)
        return [x, y, x + width, y + height]

    def indices(self, field: str, count: int) -> list[int]:
        """Whole numbers from 0 to count - 1."""
        values = self.values(field)
        for number, value in enumerate(values):
            self._check_index(f"{field}[{number}]", value, count)
        return values

    def record(self, field: str) -> "Record":
        return Record(self.file, (self, field, None), self.get(field))

    def records(self, field: str) -> "Iterator[Record]":
        for number, fields in enumerate(self.values(field)):
            yield Record(self.file, (self, field, number), fields)

    def _check_index(self, field: str, value: Any, count: int):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
            raise self.error(field, f"it must be a whole number from 0 to {count - 1}, got {value!r:.60}.")

    def _as_id(self, field: str, value: Any) -> str:
        try:
            name = as_id(value)
        except ValueError:
            name = ""
        if not name:
            raise self.error(field, f"it must be a number or text, got {value!r:.60}.")
        return name


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Files


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unzipped if its name ends in .gz."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise RecordError(file, None, None, f"it cannot be read: {error}") from error


def read_text(file: Path) -> str:
    with opened(file) as stream:
        try:
            return stream.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RecordError(file, None, None, f"it is no UTF-8 text: {error}.") from error


def read_json(file: Path) -> Any:
    """What a JSON file holds."""
    with opened(file) as stream:
        return _parsed(file, None, stream.read())


def read_table(file: Path) -> Record:
    """A JSON file of named fields."""
    return Record(file, None, read_json(file))


def read_lines(file: Path) -> Iterator[Record]:
    """A record of each line that is not empty."""
    with opened(file) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield Record(file, f"line {number}", _parsed(file, f"line {number}", line))


def list_of_records(file: Path, values: Any) -> Iterator[Record]:
    """Records of a file that is a list."""
    if not isinstance(values, list):
        raise RecordError(file, None, None, f"it must be a list of records, got {values!r:.60}.")
    return (Record(file, f"[{number}]", fields) for number, fields in enumerate(values))


def starts_with_record(file: Path) -> Mapping[str, Any]:
    """The first line, if it is a record of its own; else nothing: the file is one value over many lines."""
    with opened(file) as stream:
        try:
            value = json.loads(stream.readline())
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}


def read_pickle_or_json(file: Path) -> Any:
    """What a JSON file or a pickle of plain containers holds; a pickle that names a class or function is refused."""
    with opened(file) as stream:
        data = stream.read()
    if data.lstrip()[:1] in (b"{", b"["):
        return _parsed(file, None, data)
    try:
        return load_pickle(io.BytesIO(data))
    # Whatever damage makes the unpickler raise.
    except Exception as error:
        said = str(error) or type(error).__name__
        raise RecordError(file, None, None, f"it is no JSON, and no pickle of plain containers: {said}") from error


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document types before they are read: their entities may grow without end, or name other files."""

    def doctype(self, *_):
        raise ValueError("it has a document type, which no annotation needs")


def read_xml(file: Path) -> ElementTree.Element:
    """The root of an XML file without document type."""
    parser = ElementTree.XMLParser(target=_NoDoctype())
    with opened(file) as stream:
        try:
            parser.feed(stream.read())
            return parser.close()
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise RecordError(file, None, None, f"it cannot be read as XML: {error}.") from error


def _parsed(file: Path, place: str | None, text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RecordError(file, place, None, f"it is no JSON ({error}); has it been cut?") from error
    except RecursionError as error:
        raise RecordError(file, place, None, "it is nested too deeply.") from error


# Many files


@dataclass(frozen=True)
class FileReader:
    """A reader of files that hold one record after the other: any number of files -> rows.

    Args:
        task: for messages.
        records: file -> its records.
        rows: record -> its rows.
        truth: fields that all records have or, as in a test split, none.
    """

    task: str
    records: Callable[[Path], Iterable[Record]]
    rows: Callable[[Record], Iterable[Row]]
    truth: tuple[str, ...] = ()

    def __call__(self, files: Sequence[Path], split: str | None = None) -> list[Row]:
        check_no_split(self.task, split)
        records = [record for file in as_paths(files) for record in self.records(file)]
        for field in self.truth:
            check_all_or_none(records, field)
        return [row for record in records for row in self.rows(record)]


def as_paths(files: Sequence[str | Path]) -> list[Path]:
    paths = [Path(file) for file in ([files] if isinstance(files, (str, Path)) else files)]
    if not paths:
        raise ValueError("files must name at least one file, got none.")
    return paths


def files_by_kind(
    files: Sequence[Path],
    kinds: Mapping[str, Callable[[Any], bool]],
    read: Callable[[Path], Any],
    needed: Sequence[str],
) -> dict[str, list[tuple[Path, Any]]]:
    """Files told apart by what they hold, whatever their order: kind -> [(file, what it holds)]."""
    found: dict[str, list] = {kind: [] for kind in kinds}
    for file in as_paths(files):
        value = read(file)
        kind = next((kind for kind, is_kind in kinds.items() if is_kind(value)), None)
        if kind is None:
            raise RecordError(file, None, None, f"it holds none of these: {', '.join(kinds)}.")
        found[kind].append((file, value))
    for kind in needed:
        if not found[kind]:
            raise ValueError(f"files must have {kind} among them, got {[str(file) for file in as_paths(files)]}.")
    return found


def has_list(field: str) -> Callable[[Any], bool]:
    """Whether a value has a list under this name."""
    return lambda value: isinstance(value, Mapping) and isinstance(value.get(field), list)


def check_no_split(task: str, split: str | None):
    if split is not None:
        raise ValueError(f"split must be None for {task}, each of whose files is of one split, got {split!r}.")


def check_all_or_none(records: Sequence[Record], field: str):
    """Raise a `RecordError` for the first record that lacks a field which others have."""
    known = sum(record.has(field) for record in records)
    if 0 < known < len(records):
        record = next(record for record in records if not record.has(field))
        raise record.error(field, f"it is missing here, and {known} of {len(records)} records have it.")


def of_split(file: Path, records: Iterable[Record], split: str | None) -> list[Record]:
    """The records whose field `split` is the asked one, or one of several joined by "+"."""
    named = [(record, record.text("split")) for record in records]
    known, wanted = sorted({name for _, name in named}), set(split.split("+")) if split else set()
    if not wanted or not wanted <= set(known):
        raise ValueError(f'split must be one of {known} of {file}, or several joined by "+", got {split!r}.')
    return [record for record, name in named if name in wanted]
