# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Regions of many images: into a store of our own, over several processes, and to be gone on with after a kill."""

import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from glob import glob
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .extraction import RegionExtractor
from .optional_packages import need
from .region_table import SETTINGS, STATE, RegionWriter, TableReader, differences, run_settings
from .regions_vilbert import Regions


def find_images(patterns: Sequence[str | Path], ids: str = "stem") -> dict[str, Path]:
    """Files, folders (their images, also in folders below, sorted) and globs -> the file of each image id.

    Args:
        patterns: what to look for.
        ids: an image's id is its file name without ("stem") or with ("name") its ending, or its whole "path".

    Raises:
        ValueError: if a pattern finds nothing, or two files have one id.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from modeling_vilbert.bulk_extraction import find_images
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (4, 3)).save(folder / "42.png")
    >>> {image_id: path.name for image_id, path in find_images([folder]).items()}
    {'42': '42.png'}

    ```
    """
    if ids not in IMAGE_IDS:
        raise ValueError(f"ids must be one of {list(IMAGE_IDS)}, got {ids!r}.")
    found: dict[str, Path] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            endings = _image_endings()
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in endings and file.is_file())
        else:
            files = [path] if path.exists() else [Path(file) for file in sorted(glob(str(pattern), recursive=True))]
        if not files:
            raise ValueError(f"{pattern} is no image, no folder with images, and no pattern that finds any.")
        for file in files:
            image_id = IMAGE_IDS[ids](file)
            if found.setdefault(image_id, file) != file:
                raise ValueError(
                    f"{found[image_id]} and {file} would both be image {image_id!r}; take another of the ids "
                    f"{list(IMAGE_IDS)}."
                )
    return found


IMAGE_IDS: dict[str, Callable[[Path], str]] = {
    "stem": lambda path: path.stem,
    "name": lambda path: path.name,
    "path": str,
}


def _image_endings() -> set[str]:
    pil = need("PIL.Image")
    return {ending for ending, kind in pil.registered_extensions().items() if kind in pil.OPEN}


def extract_to_folder(
    images: Mapping[str, str | Path],
    folder: str | Path,
    extractor: RegionExtractor | Mapping[str, Any],
    boxes: Mapping[str, Any] | None = None,
    box_format: str = "xyxy",
    processes: int = 1,
    device: str | None = None,
    batch_size: int = 8,
    dtype: str = "float32",
    records_per_shard: int = 256,
) -> dict[str, str]:
    """Extract the regions of many images into a store that `open_regions` opens, with a progress bar.

    The store appears when it is complete. A run that was killed is taken up where its last full file ended, by calling
    again with the same arguments, and ends as an undisturbed run. An image that cannot be read is reported on stderr
    and left out.

    Args:
        images: the file of each image id; see `find_images`.
        folder: the store.
        extractor: settings as of `RegionExtractor.to_dict`, or for one process an extractor.
        boxes: [N, 4] for each image id, instead of the extractor's proposals.
        box_format: of `boxes`.
        processes: so many share the images; each has its own copy of the models.
        device: where the models run, if `extractor` is settings.
        batch_size: likewise.
        dtype: of stored features, "float32" or "float16".
        records_per_shard: records in a file of the store, and so what being killed loses at most.

    Returns:
        What is wrong with each image that was left out.

    Raises:
        ValueError: if boxes are missing for an image, a run with other settings began this store, or no image was good.
        ChildProcessError: if a process died.

    Example:

    ```python
    >>> import tempfile
    >>> import torch
    >>> from PIL import Image
    >>> from modeling_vilbert.bulk_extraction import RegionExtractor, extract_to_folder
    >>> from modeling_vilbert.regions import open_regions
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("RGB", (64, 48)).save(f"{folder}/42.png")
    >>> extractor = RegionExtractor(torch.nn.AvgPool2d(32))
    >>> extract_to_folder({"42": f"{folder}/42.png"}, f"{folder}/regions", extractor)
    {}
    >>> open_regions(f"{folder}/regions")["42"].features.shape
    (36, 3)

    ```
    """
    if not images:
        raise ValueError("There are no images.")
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}.")
    described = extractor.description() if isinstance(extractor, RegionExtractor) else dict(extractor)
    if processes > 1 and isinstance(extractor, RegionExtractor):
        extractor = extractor.to_dict()
    missing = [image_id for image_id in images if boxes is not None and image_id not in boxes]
    if missing:
        raise ValueError(f"{len(missing)} of {len(images)} images have no boxes, among them {missing[:5]}.")

    jobs = [
        (image_id, str(path), None if boxes is None else _rows_of_four(image_id, boxes[image_id]))
        for image_id, path in images.items()
    ]
    settings = {
        "extractor": described,
        "box_format": box_format,
        "batch_size": batch_size,
        "images": hashlib.sha256(json.dumps(jobs).encode()).hexdigest(),
    }
    tqdm = need("tqdm").tqdm
    problems: dict[str, str] = {}
    if Path(folder, STATE).exists():
        return _check_complete(Path(folder), run_settings(dtype, records_per_shard, settings), images)
    with RegionWriter(folder, dtype, records_per_shard, resume=True, settings=settings) as writer:
        # Batches form inside a chunk, so that a chunk gives the same bits whenever it runs.
        chunks = [jobs[start : start + 4 * batch_size] for start in range(0, len(jobs), 4 * batch_size)]
        chunks = [chunk for chunk in chunks if any(image_id not in writer.resumed for image_id, _, _ in chunk)]
        done = len(jobs) - sum(map(len, chunks))
        if chunks and processes == 1 and not isinstance(extractor, RegionExtractor):
            extractor = RegionExtractor.from_dict(extractor, device, batch_size=batch_size)
        with tqdm(total=len(jobs), initial=done, unit="image", dynamic_ncols=True) as bar:
            for results in _in_order(chunks, extractor, box_format, processes, device, batch_size):
                for image_id, result in results:
                    bar.update()
                    if isinstance(result, ValueError):
                        problems[image_id] = str(result)
                        tqdm.write(f"left out: {result}", file=sys.stderr)
                    elif image_id not in writer.resumed:
                        writer.write(result)
        if len(writer) == 0:
            raise ValueError(f"None of {len(images)} images gave regions; the first: {next(iter(problems.values()))}")
    return problems


def _check_complete(folder: Path, settings: dict, images: Mapping[str, Any]) -> dict[str, str]:
    """What is missing in a store that is complete, if these settings have made it."""
    stored = json.loads((folder / SETTINGS).read_text()) if (folder / SETTINGS).exists() else None
    if differ := differences(stored, settings):
        raise ValueError(
            f"{folder} exists, made from other images or settings: {differ}; give another name or remove it."
        )
    reader = TableReader(folder)
    if reader.damaged:
        raise reader.damaged[0]
    there = {image_id for image_id, _ in reader.index()}
    left_out = "It was left out when the store was made; remove the store to try again."
    return {image_id: left_out for image_id in images if image_id not in there}


Job = tuple[str, str, Any]
_worker: dict[str, RegionExtractor] = {}


def _in_order(
    chunks: Sequence[list[Job]], extractor: Any, box_format: str, processes: int, device: str | None, batch_size: int
) -> Iterator[list[tuple[str, Regions | ValueError]]]:
    """The results of each chunk, in order, from this process or several."""
    if processes == 1:
        for chunk in chunks:
            yield _extract_chunk(extractor, chunk, box_format)
        return
    threads = max(1, torch.get_num_threads() // processes)
    pool = ProcessPoolExecutor(
        processes,
        # A fork of a process that has used torch's threads or CUDA hangs.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(extractor, device, batch_size, threads),
    )
    with pool:
        running: deque = deque()
        try:
            for chunk in chunks:
                running.append(pool.submit(_extract_in_worker, chunk, box_format))
                if len(running) > 2 * processes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenExecutor as error:
            raise ChildProcessError(
                "A process died, perhaps for want of memory, or since the extractor cannot be made there. Run again, "
                "with fewer processes, to go on from here."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(settings: Mapping[str, Any], device: str | None, batch_size: int, threads: int):
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _worker["extractor"] = RegionExtractor.from_dict(settings, device, batch_size=batch_size)


def _rows_of_four(image_id: str, boxes: Any) -> list[list[float]]:
    try:
        array = np.asarray(boxes, np.float64)
    except (ValueError, TypeError):
        array = np.zeros(0)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes of image {image_id!r} must be rows of 4 numbers, got {boxes!r:.80}.")
    return array.tolist()


def _die_with_parent():
    """A parent that is killed leaves its pool waiting for ever."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _extract_in_worker(chunk: list[Job], box_format: str) -> list[tuple[str, Regions | ValueError]]:
    return _extract_chunk(_worker["extractor"], chunk, box_format)


def _extract_chunk(
    extractor: RegionExtractor, chunk: list[Job], box_format: str
) -> list[tuple[str, Regions | ValueError]]:
    ids, paths, boxes = zip(*chunk)
    results = dict(extractor.results(paths, boxes, box_format, ids))
    return [(image_id, results[number]) for number, image_id in enumerate(ids)]
