"""Where `parfocal restore` writes: a tree like that of the sources, never among them, and one run at a time."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from parfocal import UsageError
from parfocal.daemon.imagefiles import JPEG_SUFFIXES, ImageFileError, find_images, is_zarr
from parfocal.daemon.lock import InstanceError, InstanceLock

INDEX = "index.html"
GENERATOR = 'name="generator" content="parfocal restore'
"""What tells an index of ours from a page that somebody else keeps there."""
OURS = ".restored-"
AMONG_RAW = "{folder}: raw images lie here, and computed ones are not put among them: choose another --out"


class RestorePlaces:
    """Names for what is written of each source.

    Parameters
    ----------
    asked : sequence of Path
        Files and folders, as the person gave them. What lies below the folder that holds them all is mirrored, so
        that two sources never share a place.
    files : sequence of Path
        The images that were found there.
    out : Path
        Folder to write to; made if need be.
    method : str
        Part of the names, so that the methods can lie side by side.

    Raises
    ------
    UsageError
        `out` is a folder of sources, lies inside one of them, is no folder, or holds a page of somebody else's.
    """

    def __init__(self, asked: Sequence[Path], files: Sequence[Path], out: Path, method: str) -> None:
        self.out, self.method = out, method
        self._root = _root_of(asked)
        self._check(files)
        self._check_inside(asked)
        self._scratch = out / f".unfinished-{re.sub('[^A-Za-z0-9-]', '-', socket.gethostname())}"

    def relative(self, source: Path) -> Path:
        """Path of a source below the root."""
        return Path(os.path.relpath(_absolute(source), self._root))

    def target(self, source: Path, ending: str) -> Path:
        """Where something of a source goes; its whole name is kept, for `a.tif` and `a.png` may lie side by side."""
        relative = self.relative(source)
        return self.out / relative.with_name(f"{relative.name}{OURS}{self.method}{ending}")

    def draft(self, target: Path) -> Path:
        """Where a target is written until it is whole; on the same disk, so that it can be renamed."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch / target.name

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for one run; what an earlier run left unfinished is removed.

        Raises
        ------
        InstanceError
            Another run on this computer writes there.
        UsageError
            The folder cannot be made or written to.
        """
        key = hashlib.sha256(str(self.out.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
        lock = InstanceLock(f"restore-{key}")
        try:
            lock.acquire()
        except InstanceError as error:
            pid = lock.holder().get("pid", "unknown")
            raise InstanceError(f"{self.out}: another run of parfocal restore writes there (process {pid})") from error
        with lock:
            try:
                remove(self._scratch)
                self._scratch.mkdir(parents=True)
            except OSError as error:
                raise UsageError(f"{self.out}: nothing can be written here: {error.strerror or error}") from error
            try:
                yield
            finally:
                remove(self._scratch)

    def _check(self, files: Sequence[Path]) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out}: --out is a file; name a folder for what is computed")
        folders = {_absolute(path).parent for path in files}
        sources = {folder.resolve() for folder in folders}
        images = {path.resolve() for path in files if is_zarr(path)}
        for folder in sorted(folders):
            target = (self.out / os.path.relpath(folder, self._root)).resolve()
            if target in sources:
                raise UsageError(AMONG_RAW.format(folder=target))
            if any(place in images for place in (target, *target.parents)):
                raise UsageError(f"{target}: lies inside an image: choose another --out")
        self._check_index()

    def _check_inside(self, asked: Sequence[Path]) -> None:
        """Raise where `out` lies below what is searched, which leaves it out, and holds images that are not ours."""
        place = self.out.resolve()
        if not any(path.resolve() in place.parents for path in asked) or not place.exists():
            return
        with suppress(ImageFileError):  # none in there: good
            for path in find_images([place], also=JPEG_SUFFIXES):
                if OURS not in path.name:
                    raise UsageError(AMONG_RAW.format(folder=path.parent))

    def _check_index(self) -> None:
        try:
            with (self.out / INDEX).open("rb") as file:
                ours = GENERATOR.encode() in file.read(4096)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"{self.out / INDEX}: {error.strerror or error}") from error
        if not ours:
            raise UsageError(f"{self.out / INDEX}: there is a page of somebody else's: choose another --out")


def publish(draft: Path, target: Path) -> None:
    """Give something complete its name, in place of what an earlier run made there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():  # folders are not replaced in one step
        old = draft.with_name(f"{draft.name}.old")
        remove(old)
        target.rename(old)
        draft.rename(target)
        remove(old)
    else:
        os.replace(draft, target)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # not resolved: links among the sources are mirrored under their own names


def _root_of(asked: Sequence[Path]) -> Path:
    folders = [_absolute(path) if path.is_dir() and not is_zarr(path) else _absolute(path).parent for path in asked]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:
        raise UsageError("the paths lie on several drives, with no folder in common: one run for each") from error
