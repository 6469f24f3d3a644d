"""Data at an address (s3://, gs://, https:// ...) as files here, fetched by fsspec and its libraries into a cache.

The cache is $XDG_CACHE_HOME/gradgeo, or ~/.cache/gradgeo. A file is fetched again only where its address says that it
changed. What its owner's credentials open is opened: an address comes from the user alone.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from gradgeo._files import atomic_path
from gradgeo.data.files import MOST, braces
from gradgeo.errors import DataError, GradgeoError, one_line, require

URL = re.compile(r"[a-z][a-z0-9+.-]*://.+", re.IGNORECASE)


def is_url(spec: str) -> bool:
    """Whether `spec` is an address rather than a path or a name."""
    return URL.fullmatch(spec) is not None


def fetched(spec: str) -> str:
    """The path of the file, or of the folder with the files, at an address: a file, a folder or a pattern.

    Raises: DataError where nothing is there, it cannot be reached, or does not fit on the disk.
    """
    fsspec = require("fsspec", "remote")
    try:
        found: list[str] = []
        root = ""
        for address in braces(spec):
            system, path = fsspec.core.url_to_fs(address)
            if any(sign in path for sign in "*?["):
                found += sorted(system.glob(path))
                root = path[: min(path.find(sign) for sign in "*?[" if sign in path)].rpartition("/")[0]
            elif system.isdir(path):
                found += sorted(system.find(path))
                root = path
            else:
                found.append(path)
                root = path.rpartition("/")[0]
        if not found or len(found) > MOST:
            raise DataError(f"{spec} names {len(found)} files; 1 to {MOST} can be read.")
        facts = {path: system.info(path) for path in found}
        folder = _folder(spec)
        missing = {path: target for path in found if not _is_here(target := _target(folder, root, path), facts[path])}
        size = sum(int(facts[path].get("size") or 0) for path in missing)
        if size > shutil.disk_usage(folder).free:
            raise DataError(f"{spec} has {size} bytes more than are here, and {folder} has no room for them.")
        for path, target in missing.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                system.get_file(path, str(temporary))
            _state_of(target).write_text(_version(facts[path]))
        wanted = {_target(folder, root, path) for path in found}
        for file in (folder / "files").rglob("*"):
            if file.is_file() and file not in wanted:  # is no longer at the address
                file.unlink()
        return str(_target(folder, root, found[0]) if len(found) == 1 else folder / "files")
    except GradgeoError:
        raise
    except Exception as error:  # networks, credentials and libraries fail in many ways
        raise DataError(f"{spec} cannot be read: {type(error).__name__}: {one_line(str(error))}") from error


def _folder(spec: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "gradgeo" / hashlib.sha256(spec.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _target(folder: Path, root: str, path: str) -> Path:
    """Where a file is kept: below `folder`, whatever its address holds."""
    relative = PurePosixPath(path.removeprefix(root).lstrip("/"))
    if not relative.name or ".." in relative.parts:
        raise DataError(f"{one_line(path)} is no name of a file")
    return folder / "files" / relative


def _state_of(target: Path) -> Path:
    files = next(parent for parent in target.parents if parent.name == "files")
    return files.parent / f"{hashlib.sha256(str(target.relative_to(files)).encode()).hexdigest()[:16]}.version"


def _version(facts: dict[str, Any]) -> str:
    """What changes when the file does, as far as its address tells."""
    known = ("size", "ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created", "generation")
    return one_line(str([(name, str(facts[name])) for name in known if name in facts]))


def _is_here(target: Path, facts: dict[str, Any]) -> bool:
    state = _state_of(target)
    return target.is_file() and state.is_file() and state.read_text() == _version(facts)
