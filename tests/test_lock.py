"""`requirements/lock.py` and what it writes: the lists' form, which hashes a package gets, what differs for GPUs."""

import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT, load_program

LISTS = ("cpu", "gpu", "sbom", "pip")
ANY, X86, ARM, MUSL, MAC, OLDER, SOURCES, NEXT = (character * 64 for character in "123456789"[:8])
PAGE = [
    ("a_b-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", X86),
    ("a_b-1.0-cp39-abi3-manylinux_2_28_aarch64.whl", ARM),
    ("a_b-1.0-cp311-cp311-musllinux_1_2_x86_64.whl", MUSL),
    ("a_b-1.0-cp311-cp311-macosx_11_0_arm64.whl", MAC),
    ("a_b-1.0-cp310-cp310-manylinux_2_17_x86_64.whl", OLDER),
    ("a_b-1.0.tar.gz", SOURCES),
    ("a_b-1.1-py3-none-any.whl", NEXT),
    ("a_b-1.0-unreadable.whl", OLDER),
    ("notes.txt", OLDER),
]
TWO = ("x86_64", "aarch64")


@pytest.fixture(scope="module")
def locked() -> ModuleType:
    return load_program("requirements/locked.py")


@pytest.fixture(scope="module")
def published() -> ModuleType:
    return load_program("requirements/published.py")


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    return load_program("requirements/lock.py")


def test_a_list_is_read_as_it_was_written(locked: ModuleType, tmp_path: Path) -> None:
    packages = {"a-b": locked.Locked("1.0+cpu", (X86, ARM)), "c": locked.Locked("2", (ANY,))}
    path = tmp_path / "list.txt"
    path.write_text(locked.comment(["Two packages."]) + locked.text_of(packages), encoding="utf-8")
    assert locked.read_list(path) == packages
    assert path.read_text(encoding="utf-8").splitlines()[:3] == [
        "# Two packages.",
        "a-b==1.0+cpu \\",
        f"    --hash=sha256:{X86} \\",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a==1.0",
        f"a>=1.0 --hash=sha256:{ANY}",
        f"A_b==1.0 --hash=sha256:{ANY}",
        f"a==1.0 --hash=sha256:{ANY[1:]}",
        f"a==1.0 --hash=md5:{ANY[:32]}",
        f"a==1.0 --hash=sha256:{ANY}\na==1.1 --hash=sha256:{ANY}",
    ],
    ids=["no-hash", "unpinned", "another-spelling", "short-hash", "weak-hash", "twice"],
)
def test_an_entry_of_another_form_is_refused(locked: ModuleType, tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    with pytest.raises(locked.StepFailure, match=r"list\.txt (holds|names a twice)"):
        locked.read_list(tmp_path / "list.txt")


@pytest.mark.parametrize("name", LISTS)
def test_each_list_of_the_project_has_hashes_for_all_and_names_what_it_is_made_from(
    lock: ModuleType, locked: ModuleType, name: str
) -> None:
    packages = locked.read_list(ROOT / "requirements" / f"{name}.txt")
    needs = lock.direct_needs(name)
    assert needs
    for needed in needs:
        assert needed.specifier.contains(packages[canonicalize_name(needed.name)].version, prereleases=True), needed
    assert set(packages) >= set(lock.LISTS[name].files_only)
    assert not set(packages) & set(lock.LISTS[name].omitted)
    assert list(packages) == sorted(packages)


def test_a_package_gets_the_hashes_of_what_fits_and_of_what_pip_chose(published: ModuleType) -> None:
    page = [published.File(*entry) for entry in PAGE]
    chosen = published.Chosen(f"file:///wheels/{PAGE[0][0]}", X86)
    assert published.hashes("1.0", TWO, page, chosen) == {X86, ARM, MUSL}
    assert published.hashes("1.0", ("x86_64",), page, chosen) == {X86, MUSL}
    elsewhere = published.Chosen("file:///wheels/a_b-1.0-py3-none-any.whl", ANY)
    assert published.hashes("1.0", TWO, page, elsewhere) == {X86, ARM, MUSL, ANY}
    assert published.hashes("1.1", TWO, page, published.Chosen("", "")) == {NEXT}


def test_sources_count_only_where_no_wheel_fits(published: ModuleType) -> None:
    page = [published.File(*entry) for entry in PAGE if "linux" not in entry[0]]
    assert published.hashes("1.0", TWO, page, published.Chosen("", "")) == {SOURCES}


def test_one_file_name_with_two_hashes_is_refused(published: ModuleType) -> None:
    page = [published.File(*entry) for entry in PAGE]
    with pytest.raises(published.StepFailure, match=rf"two different files are called {PAGE[0][0]}.*{X86}.*{ANY}"):
        published.hashes("1.0", TWO, page, published.Chosen(f"file:///wheels/{PAGE[0][0]}", ANY))


def answers(index: object, **answer: object) -> list[httpx.Request]:
    """Lets a stand-in for the network answer the index; returns what it is asked."""
    asked: list[httpx.Request] = []

    def answered(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(answer.get("status_code", 200), **{k: v for k, v in answer.items() if k != "status_code"})

    index._client = httpx.Client(transport=httpx.MockTransport(answered))
    return asked


def test_an_index_is_asked_once_and_read_in_both_forms(published: ModuleType, tmp_path: Path) -> None:
    expected = [published.File(name, value) for name, value in PAGE[:2]]
    index = published.Index("https://index.test/simple/")
    files = [{"filename": name, "hashes": {"sha256": value}} for name, value in PAGE[:2]]
    content = json.dumps({"meta": {"api-version": "1.0"}, "files": files})
    asked = answers(index, content=content, headers={"content-type": "application/vnd.pypi.simple.v1+json"})
    assert index.files("a-b") == index.files("a-b") == expected
    assert [str(request.url) for request in asked] == ["https://index.test/simple/a-b/"]
    page = "".join(f'<a href="../{name}#sha256={value}">x</a>' for name, value in PAGE[:2])
    index = published.Index("https://index.test/simple")
    answers(index, text=page, headers={"content-type": "text/html"})
    assert index.files("a-b") == expected
    (tmp_path / "a-b").mkdir()
    (tmp_path / "a-b" / "index.html").write_text(page, encoding="utf-8")
    assert published.Index(tmp_path.as_uri()).files("a-b") == expected


def test_an_index_may_not_know_a_package_but_must_answer(published: ModuleType, tmp_path: Path) -> None:
    index = published.Index("https://index.test/simple")
    answers(index, status_code=404)
    assert index.files("unknown") == []
    assert published.Index(tmp_path.as_uri()).files("unknown") == []
    for answer in ({"status_code": 503}, {"content": "{", "headers": {"content-type": "application/json"}}):
        answers(index, **answer)
        with pytest.raises(published.StepFailure, match="the index"):
            index.files("broken")


def report(**packages: dict[str, object]) -> dict[str, object]:
    """pip's installation report on these packages, each with its metadata."""
    entries = [
        {
            "metadata": {"name": name, "version": "1", **metadata},
            "download_info": {"url": f"file:///wheels/{name}-1-py3-none-any.whl", "archive_info": {"hashes": {}}},
        }
        for name, metadata in packages.items()
    ]
    return {"install": entries}


def test_only_what_is_reached_without_the_left_out_is_kept(lock: ModuleType) -> None:
    resolved = lock.read_report(
        report(
            A={"requires_dist": ["b[x]", "left-out", "c; extra == 'y'"]},
            b={"version": "2", "requires_dist": ["d; extra == 'x'", "e; extra == 'z'"]},
            left_out={"requires_dist": ["f"]},
            **{name: {} for name in "cdef"},
        )
    )
    kept = lock.reachable([Requirement("a")], resolved, {"left-out": "why"})
    assert {name: package.version for name, package in kept.items()} == {"a": "1", "b": "2", "d": "1"}


@pytest.fixture
def locker(lock: ModuleType, published: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A locker whose index and PyTorch's index are folders, and whose pip resolves to a torch+cpu from a folder."""
    made = object.__new__(lock.Locker)
    made._index = published.Index((tmp_path / "index").as_uri())
    made._torch = published.Index((tmp_path / "torch").as_uri())
    entry = report(torch={"version": "2.0+cpu"})
    entry["install"][0]["download_info"] = {
        "url": "file:///wheels/torch-2.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "archive_info": {"hashes": {"sha256": X86}},
    }
    monkeypatch.setattr(made, "resolve", lambda *arguments, **options: lock.read_report(entry), raising=False)
    monkeypatch.setattr(lock, "direct_needs", lambda name: [Requirement("torch")])
    return made


def put_page(folder: Path, *entries: tuple[str, str]) -> None:
    folder.mkdir(parents=True)
    page = "".join(f'<a href="{name.replace("+", "%2B")}#sha256={value}">x</a>' for name, value in entries)
    (folder / "index.html").write_text(page, encoding="utf-8")


def test_a_local_build_is_looked_up_on_pytorchs_index_too(locker: SimpleNamespace, tmp_path: Path) -> None:
    put_page(tmp_path / "index/torch", ("torch-2.0-cp311-cp311-manylinux_2_28_x86_64.whl", OLDER))
    put_page(
        tmp_path / "torch/torch",
        ("torch-2.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", X86),
        ("torch-2.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl", ARM),
        ("torch-2.0+cpu-cp312-cp312-manylinux_2_28_aarch64.whl", NEXT),
    )
    assert locker.packages("pip", {}, {})["torch"].hashes == (X86, ARM)


@pytest.mark.parametrize(("version", "kept"), [("2.0+cpu", (X86, ARM)), ("1.9+cpu", (X86,))], ids=["same", "another"])
def test_where_no_index_has_the_version_its_present_hashes_stay(
    locker: SimpleNamespace, locked: ModuleType, version: str, kept: tuple[str, ...]
) -> None:
    present = {"torch": locked.Locked(version, (ARM,))}
    assert locker.packages("pip", present, {})["torch"].hashes == kept


def test_a_package_without_a_hash_is_refused(
    lock: ModuleType, locker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locker, "resolve", lambda *a, **o: lock.read_report(report(torch={})))
    with pytest.raises(lock.StepFailure, match="no hash of torch==1 is known"):
        locker.packages("pip", {}, {})


def test_the_gpu_list_follows_the_cpu_list_but_where_it_says_why_not(lock: ModuleType, locked: ModuleType) -> None:
    cpu, gpu = (locked.read_list(ROOT / "requirements" / f"{name}.txt") for name in ("cpu", "gpu"))
    apart = {name for name in set(cpu) & set(gpu) if cpu[name].version != gpu[name].version}
    assert apart == set(lock.LISTS["gpu"].apart)
    assert "+" not in gpu["torch"].version
    assert any(name.startswith("nvidia-") for name in gpu)
    wanted = lock.kept(lock.LISTS["gpu"], {"b": locked.Locked("1", ())}, {"b": locked.Locked("2", ()), **cpu})
    assert wanted["b"] == "2"
    assert "torch" not in wanted


def test_the_gpu_image_installs_its_list_with_hashes_on_a_pinned_base() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    installed = [line for line in text.splitlines() if "pip install" in line and "gpu.txt" in line]
    assert len(installed) == 1
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(installed[0].split())
    bases = [line for line in text.splitlines() if line.startswith("FROM python")]
    assert bases
    assert all(re.search(r"@sha256:[0-9a-f]{64} ", line) for line in bases)


@pytest.mark.parametrize("name", LISTS)
def test_no_two_packages_of_a_list_share_a_file(locked: ModuleType, name: str) -> None:
    packages = locked.read_list(ROOT / "requirements" / f"{name}.txt")
    values = [value for package in packages.values() for value in package.hashes]
    assert len(values) == len(set(values))
