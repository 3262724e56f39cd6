"""Fetching public data from a loopback server: what arrives, and what happens when it does not arrive whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from mirror import Server, make, serving

from aslpinn.cli import main
from aslpinn.data.public import fetch as module
from aslpinn.data.public.fetch import fetch, registry
from aslpinn.errors import InputError
from aslpinn_book.study.notebooks import chapter_tasks, subject_tasks

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def server(shared: Path) -> Iterator[Server]:
    with serving(shared / "data" / "fetch" / "mirror") as made:
        yield made


def same_dataset(made: Path, expected: Path) -> None:
    for file in expected.rglob("*"):
        twin = made / file.relative_to(expected)
        if file.name == "README" or file.is_dir():
            assert twin.exists()
        elif file.name.endswith(".nii.gz"):
            ours, theirs = nib.load(twin), nib.load(file)
            np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))
            np.testing.assert_array_equal(ours.affine, theirs.affine)
            assert ours.get_data_dtype() == theirs.get_data_dtype()
            assert ours.header.get_xyzt_units() == theirs.header.get_xyzt_units()
        elif file.suffix == ".json":
            assert json.loads(twin.read_text()) == json.loads(file.read_text()), file.name
        else:
            assert twin.read_text() == file.read_text(), file.name
    assert {f.relative_to(made) for f in made.rglob("*")} == {f.relative_to(expected) for f in expected.rglob("*")}


def test_tepcasl_equals_the_reference(server, shared, tmp_path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mine.txt").write_text("of another program")
    made = fetch("asltk-tepcasl", tmp_path / "new", base_url=server.url, cache=tmp_path / "cache")
    assert made == tmp_path / "new" / "asltk-tepcasl"
    same_dataset(made, shared / "data" / "asltk-tepcasl")
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["mine.txt"]
    asked = len(server.asked)
    assert fetch("asltk-tepcasl", tmp_path / "new", base_url=server.url) == made  # complete: nothing is asked again
    assert len(server.asked) == asked


@pytest.mark.slow
def test_oxford_equals_the_reference_and_names_nobody(server, shared, tmp_path) -> None:
    made = fetch("oxford-mpld", tmp_path, base_url=server.url, cache=tmp_path / "cache")
    same_dataset(made, shared / "data" / "oxford-mpld")
    text = " ".join(
        f.read_text().lower() for f in made.rglob("*") if f.suffix in (".json", ".tsv") or f.name == "README"
    )
    header = bytes(nib.load(made / "sub-01/perf/sub-01_asl.nii.gz").header.binaryblock).lower()
    for word in ("patientname", "patientid", "birth", "palmetto", "serial"):
        assert word not in text
        assert word.encode() not in header
    assert not list(tmp_path.rglob("*.dcm"))


@pytest.mark.parametrize(
    ("trouble", "says"), [("wrong", "sha256"), ("cut", "broke off"), ("empty", "broke off"), ("fails", "answered 500")]
)
def test_a_broken_file_leaves_nothing_and_a_second_run_goes_on(server, shared, tmp_path, trouble, says) -> None:
    server.trouble = {"m0.nii.gz": trouble}
    with pytest.raises(InputError, match=says) as caught:
        fetch("asltk-tepcasl", tmp_path / "to", base_url=server.url, cache=tmp_path / "cache")
    assert "m0.nii.gz" in str(caught.value)
    assert str(caught.value).count("\n") <= 2
    assert not list((tmp_path / "to").iterdir())
    kept = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert [file.name for file in kept] == ["pcasl_mte.nii.gz"]  # whole and verified; no half file
    server.trouble, server.asked[:] = {}, []
    made = fetch("asltk-tepcasl", tmp_path / "to", base_url=server.url, cache=tmp_path / "cache")
    same_dataset(made, shared / "data" / "asltk-tepcasl")
    assert not any("pcasl_mte" in path for path in server.asked)  # not downloaded twice


def test_ctrl_c_leaves_nothing_in_the_destination(server, tmp_path, monkeypatch) -> None:
    def interrupt(*args) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nib, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch("asltk-tepcasl", tmp_path / "to", base_url=server.url, cache=tmp_path / "cache")
    assert not list((tmp_path / "to").iterdir())


def test_mirrors_may_lie_at_the_root_or_at_the_repository(server, tmp_path) -> None:
    fetch("asltk-tepcasl", tmp_path, base_url=f"{server.url}/LOAMRI/asltk/", cache=tmp_path / "cache")
    with pytest.raises(InputError, match="answered 404"):
        fetch("oxford-mpld", tmp_path, base_url=f"{server.url}/elsewhere", cache=tmp_path / "cache2")


def test_no_network_unknown_names_and_occupied_folders_are_said(tmp_path) -> None:
    with pytest.raises(InputError, match="is there a network"):
        fetch("asltk-tepcasl", tmp_path / "a", base_url="http://127.0.0.1:9", cache=tmp_path / "cache")
    with pytest.raises(InputError, match="oxford-mpld or asltk-tepcasl"):
        fetch("oxford", tmp_path)
    with pytest.raises(InputError, match="http"):
        fetch("asltk-tepcasl", tmp_path / "a", base_url="ftp://x", cache=tmp_path / "cache")
    (tmp_path / "b" / "oxford-mpld").mkdir(parents=True)
    with pytest.raises(InputError, match="exists"):
        fetch("oxford-mpld", tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        fetch("asltk-tepcasl", tmp_path / "file", cache=tmp_path / "cache")


def test_registry_is_whole_and_upstream_is_pinned(shared) -> None:
    for name, source in module.sources().items():
        known = registry(name)
        for line in (shared / "data" / "fetch" / f"{name}.registry").read_text().splitlines():
            path, checksum = line.split()
            assert known[path] == checksum
        assert len(source.commit) == 40
        address = module._addresses(source, None)[0]
        assert address == f"https://raw.githubusercontent.com/{source.owner}/{source.repository}/{source.commit}/"


@pytest.mark.slow
def test_the_book_with_real_brains_fetches_them_first(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    arguments = ["REAL=1", f"DATA={data}", f"FROM={server.url}"]
    make("data", *arguments)
    assert {folder.name for folder in data.iterdir()} == set(module.NAMES)
    steps = make("--dry-run", "book", *arguments).strip().splitlines()
    fetched, study = (
        next(k for k, line in enumerate(steps) if f"aslpinn {word}" in line) for word in ("fetch", "study")
    )
    assert fetched < study
    given = [Path(word) for word in re.findall(r'--bids "([^"]+)"', steps[study])]
    assert given == [data / name for name in module.NAMES]
    (chapter,) = chapter_tasks(["in-vivo"], ROOT, tmp_path, {}, given)
    assert chapter.parameters["bids"] == str(data / "oxford-mpld")  # a real brain in the chapter
    pages = subject_tasks(given, tmp_path / "out", ROOT / "notebooks" / "subject.md", {})
    assert {page.dataset for page in pages} == set(module.NAMES)  # and a page for everyone
    assert "--bids" not in make("--dry-run", "book")


def test_the_command_fetches_what_check_reads(server, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(module, "_store", lambda to, name: tmp_path / "cache" / name)
    command = ["fetch", "asltk-tepcasl", "--to", str(tmp_path / "data"), "--base-url", server.url]
    assert main(command) == 0
    made = Path(capsys.readouterr().out.strip())
    assert made == tmp_path / "data" / "asltk-tepcasl"
    assert main(["check", str(made / "sub-01" / "perf" / "sub-01_asl.nii.gz")]) == 0
    server.trouble["m0.nii.gz"] = "wrong"
    command[3] = str(tmp_path / "other")
    assert main(command) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "sha256" in said[-2]
    assert not list((tmp_path / "other").iterdir())
    assert main(["fetch", "nothing", "--to", str(tmp_path / "other")]) == 2
