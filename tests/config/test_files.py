"""Which files are read, and what they come to."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from meshproxy.config import files
from meshproxy.config.codes import Code
from meshproxy.config.files import digest, documents_in, open_regular, read_files
from meshproxy.config.problems import Problem


def read(*paths: Path) -> tuple[list[str], list[Problem]]:
    problems: list[Problem] = []
    return [source.content.decode() for source in read_files(paths, problems)], problems


def test_a_folder_is_its_documents_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "d.txt", ".hidden.yaml", "e.pem", "f.YML"):
        (tmp_path / name).write_text(name)
    (tmp_path / "sub.yaml").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.yaml").write_text("x")
    assert read(tmp_path) == (["a.yml", "b.yaml", "c.json", "f.YML"], [])
    assert [path.name for path in documents_in(tmp_path)] == ["a.yml", "b.yaml", "c.json", "f.YML", "sub.yaml"]


def test_a_configmap_as_the_kubelet_mounts_it_is_read_once(tmp_path: Path) -> None:
    version = tmp_path / "..2026_11_22"
    version.mkdir()
    (version / "mesh.yaml").write_text("mesh")
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "mesh.yaml").symlink_to("..data/mesh.yaml")
    assert read(tmp_path) == (["mesh"], [])
    # Relative paths start where the link stands: what it leads to is another folder after each change.
    (source,) = read_files([tmp_path], [])
    assert source.folder == tmp_path


def test_a_file_is_read_once_however_often_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a")
    assert read(file, tmp_path, tmp_path / "." / "a.yaml") == (["a"], [])


def test_a_named_file_may_be_called_anything(tmp_path: Path) -> None:
    (tmp_path / ".x").write_text("x")
    assert read(tmp_path / ".x") == (["x"], [])


def test_a_file_that_its_mount_does_not_follow_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been taken away outside would be granted for as long as the container lives."""
    (tmp_path / "a.yaml").write_text("a")
    (tmp_path / "b.yaml").write_text("b")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(files, "not_followed", lambda path: "replaced" if path.name in ("b.yaml", "empty") else "")
    read_ones, problems = read(tmp_path, tmp_path / "empty")
    assert read_ones == ["a"]
    assert [(Path(problem.file).name, problem.message) for problem in problems] == [
        ("b.yaml", "replaced"),
        ("empty", "replaced"),
    ]


def test_the_folder_of_an_absolute_path_needs_no_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    (tmp_path / "a.yaml").write_text("a")
    monkeypatch.chdir(gone)
    gone.rmdir()
    (source,) = read_files([tmp_path / "a.yaml"], [])
    assert source.folder == tmp_path


def test_what_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    _, problems = read(tmp_path, tmp_path / "absent", tmp_path / "empty", Path("\0"))
    *said, of_a_null_byte = [problem.message for problem in problems]
    assert said == [
        "cannot be read: No such file or directory",
        "cannot be read: No such file or directory",
        "no *.yaml, *.yml or *.json in this folder",
    ]
    # The words are Python's: "embedded null byte" or, since 3.14, "stat: embedded null character in path".
    assert of_a_null_byte.startswith("cannot be read: ")
    assert "embedded null" in of_a_null_byte


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EMFILE, Code.NOT_LOADED), (errno.ESTALE, Code.NOT_LOADED), (errno.EACCES, Code.UNREADABLE)],
)
def test_what_the_file_is_not_to_blame_for_is_no_problem_of_the_file(
    tmp_path: Path, number: int, code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("a")

    def fail(path: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    problems: list[Problem] = []
    assert read_files([tmp_path], problems, fail) == []
    monkeypatch.setattr(os, "scandir", fail)
    assert read_files([tmp_path], problems) == []
    assert [problem.code for problem in problems] == [code, code]


def test_a_link_that_cannot_be_followed_is_a_problem(tmp_path: Path) -> None:
    """In a folder with others, too: what is beside it is read, and the set refused."""
    (tmp_path / "a.yaml").write_text("a")
    (tmp_path / "b.yaml").symlink_to("b.yaml")
    texts, (problem,) = read(tmp_path)
    assert texts == ["a"]
    assert (problem.file, problem.message) == (
        str(tmp_path / "b.yaml"),
        "cannot be read: Too many levels of symbolic links",
    )


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("b")
    assert read(tmp_path) == (["b"], [])


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """As a shell gives one for `<(command)`."""
    reading, writing = os.pipe()
    os.write(writing, b"a")
    os.close(writing)
    assert read(Path(f"/dev/fd/{reading}")) == (["a"], [])
    _, problems = read(Path(f"/dev/fd/{reading}"))
    assert [problem.message.partition(":")[0] for problem in problems] == ["a pipe with nothing in it"]
    os.close(reading)


def test_a_file_that_is_empty_for_a_moment_is_not_a_set_without_it(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text("a")
    (tmp_path / "policy.yaml").touch()
    (problem,) = read(tmp_path)[1]
    assert (problem.file, problem.message.partition(":")[0]) == (str(tmp_path / "policy.yaml"), "empty")
    (tmp_path / "policy.yaml").write_text("# nothing\n")
    assert read(tmp_path) == (["a", "# nothing\n"], [])


def test_a_file_that_is_read_again_is_no_pipe(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"content")
    with open_regular(path) as file:
        assert file.read() == b"content"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="it is no regular file"):  # at once: nobody writes to it
        open_regular(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="it is no regular file"):
        open_regular(Path("/dev/null"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILE_BYTES", 1 << 20)
    monkeypatch.setattr(files, "TOTAL_BYTES", 3 << 19)
    (tmp_path / "a.yaml").write_bytes(b"#" * (1 << 20))
    assert read(tmp_path)[1] == []
    (tmp_path / "b.yaml").write_bytes(b"#" * (1 << 20))
    assert "together" in read(tmp_path)[1][0].message
    (tmp_path / "a.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    assert read(tmp_path)[1][0].message == "larger than 1 MiB"
    monkeypatch.setattr(files, "FILES", 1)
    assert "more than 1 files" in read(tmp_path)[1][-1].message


def test_a_source_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILE_BYTES", 1 << 20)
    assert read(Path("/dev/zero"))[1][0].message == "larger than 1 MiB"


def test_the_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("ab")
    (tmp_path / "b.yaml").write_text("c")
    first = digest(read_files([tmp_path], []))
    assert len(first) == 64
    assert first == digest(read_files([tmp_path], []))
    (tmp_path / "a.yaml").write_text("a")
    (tmp_path / "b.yaml").write_text("bc")
    assert digest(read_files([tmp_path], [])) != first
