# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Scores of many pairs on disk, while they are computed: a run that was killed goes on, and several processes share it.

Shapes: N texts, M images.
"""

import glob
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .optional_packages import need
from .region_table import differences


# A process that is killed loses at most this and its last tile.
SECONDS_BETWEEN_SAVES = 10.0


class Workers:
    """The processes that share a run, of which this is one: those of Accelerate, or this one alone.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device):
        self.number, self.count, self._state = 0, 1, None
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        count = torch.distributed.get_world_size() if distributed else int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return
        # Unless it is told that all is on CPUs, it knows of no other process there.
        self._state = need("accelerate").PartialState(cpu=device.type == "cpu")
        self.number, self.count = self._state.process_index, self._state.num_processes
        if self.count != count:
            raise ValueError(
                f"There are {count} processes, and Accelerate knows of {self.count}: on CPUs begin with "
                "accelerate.PartialState(cpu=True)."
            )

    def wait(self):
        """For all of them to be here."""
        if self._state is not None:
            self._state.wait_for_everyone()


class ScoreFile:
    """Scores of all pairs, mapped into memory, and which of them are there; several workers may write to them.

    `<name>` is a NumPy file of float32 [N, M], with NaN where nothing has been computed yet. `<name>.json` says of
    which run it is, and which tiles are done. While several workers write, each has a `<name>.part<number>.json` with
    what it adds. `<name>.lock` keeps out any other run.

    Args:
        path: the file.
        shape: (N, M).
        run: anything JSON that tells this run from others.
        tiles: how many there are, with numbers from 0.
        workers: those that call this at once.

    Attributes:
        scores: [N, M].
        done: numbers of the tiles whose scores are there. If all are, nothing is written, and nothing locked.

    Raises:
        ValueError: if there is anything under this name that is not of this run, or another run is at work on it. It is
            left as it is.
        OSError: if the disk has no room for it.
    """

    def __init__(self, path: str | Path, shape: tuple[int, int], run: dict[str, Any], tiles: int, workers: Workers):
        self.path, self.shape, self.run, self.tiles, self.workers = Path(path), shape, run, tiles, workers
        self.state = self._beside("json")
        self.own = self.state if workers.count == 1 else self._beside(f"part{workers.number}.json")
        self._guard = None
        if workers.number == 0 and not self._is_complete():
            self._lock()
            try:
                self._check()
                self._begin()
            except BaseException:
                self.close()
                raise
        workers.wait()
        self.done = set(self._read(self.state)["done"])
        self.complete = len(self.done) == tiles
        self.scores = self._mapped("r" if self.complete else "r+")
        # What others have added is in their own files.
        self._added, self._saved = set(self.done) if workers.count == 1 else set(), time.monotonic()

    def add(self, tile: int):
        """Its scores are in `scores` now."""
        self._added.add(tile)
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self):
        """Scores first: what is said to be done is there."""
        self.scores.flush()
        self._write(self.own, self._added)
        self._saved = time.monotonic()

    def finish(self) -> np.memmap:
        """Called when all is computed; the scores, to be read."""
        if self.complete:
            return self.scores
        self.save()
        self.workers.wait()
        if self.workers.number == 0:
            self._gather()
        self.workers.wait()
        return self._mapped("r")

    def __enter__(self) -> "ScoreFile":
        return self

    def __exit__(self, kind, error, traceback):
        try:
            # What has been computed stays, whatever happened.
            if kind is not None and not self.complete:
                self.save()
        finally:
            self.close()

    def close(self):
        """Let another run in."""
        if self._guard is not None:
            self._guard.release()

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.part*.json"))

    def _lock(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        filelock = need("filelock")
        # The system lets go of it when the process ends, however it ends.
        self._guard = filelock.FileLock(self._beside("lock"))
        try:
            self._guard.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(f"output {self.path} is being written by another run: wait, or give another.") from None

    def _is_complete(self) -> bool:
        self._check()
        return self.path.exists() and len(self._read(self.state)["done"]) == self.tiles

    def _check(self):
        if not self.path.exists():
            return
        left = "It is left as it is: give another output, or remove it."
        if not self.state.exists():
            raise ValueError(f"output {self.path} exists, and no {self.state.name} says that it holds scores. {left}")
        differ = differences(self._read(self.state)["run"], self.run)
        if differ:
            raise ValueError(f"output {self.path} holds the scores of another run: {differ}. {left}")
        self._mapped("r")

    def _mapped(self, mode: str) -> np.memmap:
        try:
            scores = np.load(self.path, mmap_mode=mode)
        except (ValueError, EOFError) as error:
            raise ValueError(f"output {self.path} is damaged: {error} Remove it, and {self.state.name}.") from error
        if scores.shape != self.shape or scores.dtype != np.float32:
            raise ValueError(f"output {self.path} is damaged: {scores.dtype} {list(scores.shape)} in it. Remove it.")
        return scores

    def _begin(self):
        if self.path.exists():
            self._gather()
            return
        # The state comes first: scores never lie there without it.
        for path in self._parts():
            path.unlink()
        self._write(self.state, set())
        unfinished = self._beside("new")
        try:
            with open(unfinished, "wb") as file:
                # Written, not mapped: a full disk is then an error, and not the end of the process.
                fields = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
                np.lib.format.write_array_header_1_0(file, fields)
                row = np.full(self.shape[1], np.nan, "<f4").tobytes()
                for _ in range(self.shape[0]):
                    file.write(row)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            size = 4 * self.shape[0] * self.shape[1]
            raise OSError(error.errno, f"output needs {size:,} bytes: {error.strerror}", str(self.path)) from error
        os.replace(unfinished, self.path)

    def _gather(self):
        """Put together what workers, also of an interrupted run, have done."""
        parts = self._parts()
        self._write(self.state, set().union(*(self._read(path)["done"] for path in (self.state, *parts))))
        for path in parts:
            path.unlink()

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            return {"run": state["run"], "done": state["done"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"output {self.path}: {path.name} beside it says nothing of a run: {error!r}.") from error

    def _write(self, path: Path, done: set[int]):
        unfinished = path.with_name(f"{path.name}.new")
        unfinished.write_text(json.dumps({"run": self.run, "done": sorted(done)}) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
