"""Public in-vivo data over the network: checksummed, converted to BIDS, de-identified.

Addresses are upstream's own (raw.githubusercontent.com/OWNER/NAME/COMMIT/PATH); the sha256 of every file is in
registry/NAME.txt. Files that arrived and passed their checksum are kept in the user's cache until the data set is
complete, so that a second run goes on where the first stopped; the data set itself appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import staging
from ..derivatives import require_outside_raw
from .build import DATASETS, build_oxford, build_tepcasl

UPSTREAM = "https://raw.githubusercontent.com"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Source:
    """A public repository at one commit, and how its files become a BIDS data set."""

    name: str
    owner: str
    repository: str
    commit: str
    build: Callable[[Path, Path], None]
    dataset: dict[str, Any]
    readme: str


def sources() -> dict[str, Source]:
    """The data sets that `fetch` knows, by name."""
    return {
        "oxford-mpld": Source(
            "oxford-mpld",
            "neurolabusc",
            "dcm_qa_asl",
            "01143b4351fce1d8f31cc532169298ddf3a14126",
            build_oxford,
            *DATASETS["oxford-mpld"],
        ),
        "asltk-tepcasl": Source(
            "asltk-tepcasl",
            "LOAMRI",
            "asltk",
            "9ca877e0799afa669df48c7de3a03effb8df976c",
            build_tepcasl,
            *DATASETS["asltk-tepcasl"],
        ),
    }


NAMES = ("oxford-mpld", "asltk-tepcasl")


def registry(name: str) -> dict[str, str]:
    """Upstream paths of a data set and their sha256, in the order of the registry file."""
    text = (importlib.resources.files("aslpinn.data.public") / "registry" / f"{name}.txt").read_text(encoding="utf-8")
    return dict(line.split() for line in text.splitlines() if line.strip())  # type: ignore[misc]


def fetch(
    name: str,
    to: str | Path,
    base_url: str | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch a public data set into TO/NAME as BIDS and return that folder.

    Parameters
    ----------
    name : str
        "oxford-mpld" or "asltk-tepcasl".
    to : path
        Folder that the data set's own folder is made in.
    base_url : str, optional
        A mirror in place of upstream: its root, with OWNER/NAME/PATH or OWNER/NAME/COMMIT/PATH below, or the
        address of the repository's copy itself.
    cache : path, optional
        Folder below which verified downloads wait for the others (in NAME-downloads, removed at the end); by default
        the user's cache, one folder for each TO.
    progress : callable(done, total, message), optional

    Raises
    ------
    InputError
        For an unknown name, no network, a missing or broken file, a wrong checksum, an unwritable folder. Nothing
        is then left in TO; run again to go on with what has been verified.
    """
    known = sources()
    if name not in known:
        raise InputError(f"data set {name!r} is not known; expected {' or '.join(known)}")
    source = known[name]
    destination = Path(to) / name
    if destination.exists():
        if (destination / "dataset_description.json").is_file():
            return destination
        raise InputError(f"{destination}: exists and is not a data set that fetch made; remove it or give another --to")
    require_outside_raw(Path(to))
    with _errors_named(destination):
        Path(to).mkdir(parents=True, exist_ok=True)
        store = Path(cache) / f"{name}-downloads" if cache is not None else _store(Path(to), name)
        files = _download(source, store, base_url, progress or (lambda done, total, message: None))
        with staging(Path(to)) as scratch:
            made = scratch / name
            made.mkdir()
            source.build(files, made)
            (made / "dataset_description.json").write_text(
                json.dumps(source.dataset, indent=2) + "\n", encoding="utf-8"
            )
            (made / "README").write_text(source.readme, encoding="utf-8")
            shutil.copyfile(files / "LICENSE", made / "LICENSE")
            made.replace(destination)
    shutil.rmtree(store, ignore_errors=True)  # headers of the originals name a (pseudonymous) person
    return destination


@contextlib.contextmanager
def _errors_named(destination: Path) -> Iterator[None]:
    """File-system trouble as an InputError that names the folder."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{destination}: cannot be written ({error.strerror or error}); give another --to") from error


def _store(to: Path, name: str) -> Path:
    """The folder that keeps verified downloads for this destination."""
    import pooch

    key = hashlib.sha256(str(to.resolve()).encode()).hexdigest()[:12]
    folder = Path(pooch.os_cache("aslpinn")) / f"{name}-{key}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = to / f".{name}-downloads"
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _addresses(source: Source, base_url: str | None) -> list[str]:
    """Base addresses at which the files may lie, tried in turn with the first file."""
    owner = f"{source.owner}/{source.repository}"
    if base_url is None:
        return [f"{UPSTREAM}/{owner}/{source.commit}/"]
    base = base_url.rstrip("/")
    if not base.lower().startswith(("http://", "https://")):
        raise InputError(f"base address {base_url!r} is not an http or https address")
    return [f"{base}/{owner}/{source.commit}/", f"{base}/{owner}/", f"{base}/"]


def _download(source: Source, store: Path, base_url: str | None, progress: Progress) -> Path:
    """Every file of the registry, verified, under `store`; returns `store`."""
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    known = registry(source.name)
    candidates = _addresses(source, base_url)
    manager = pooch.create(path=store, base_url=candidates[0], registry=known, retry_if_failed=1)
    for done, path in enumerate(known):
        progress(done, len(known), path)
        stored = (store / path).is_file()  # from an earlier run: says nothing about the address
        while True:
            manager.base_url = candidates[0]
            try:
                manager.fetch(path, downloader=pooch.HTTPDownloader(timeout=30, progressbar=False))
                break
            except Exception as error:  # every failure of the network ends in one clear message, or in the next address
                if len(candidates) > 1 and _status(error) == 404:
                    candidates.pop(0)
                    continue
                raise _explain(error, candidates[0] + path, done, len(known), store) from error
        if not stored:
            del candidates[1:]
    progress(len(known), len(known), "downloaded")
    return store


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _explain(error: Exception, address: str, done: int, total: int, store: Path) -> InputError:
    """What went wrong with one file, and what is kept."""
    import requests

    kept = f"{done} of {total} files are verified and kept in {store}: run again to go on"
    if isinstance(error, requests.exceptions.Timeout):
        what = "no answer within 30 s"
    elif isinstance(error, requests.exceptions.HTTPError):
        what = f"the server answered {_status(error)}; expected the file"
    elif isinstance(error, requests.exceptions.ChunkedEncodingError):
        what = "the download broke off before its end"
    elif isinstance(error, requests.exceptions.ConnectionError):
        broken = "IncompleteRead" in str(error) or "Connection broken" in str(error)
        what = "the download broke off before its end" if broken else "cannot be reached; is there a network?"
    elif isinstance(error, ValueError) and "hash" in str(error).lower():
        what = "its sha256 is not that of the registry; the file was changed or broken on its way, and is discarded"
    elif isinstance(error, OSError) and not isinstance(error, requests.exceptions.RequestException):
        what = f"cannot be stored in {store} ({error.strerror or error})"
    else:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return InputError(f"{address}: {what}\n{kept}")
