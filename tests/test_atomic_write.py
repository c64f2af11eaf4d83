import json
import os

import pytest

from eql_seesaw.atomic_write import atomic_file, atomic_folder


@pytest.mark.parametrize(("mode", "content"), [("w", "ä\r\n"), ("wb", "ä\r\n".encode())])
def test_file(tmp_path, mode, content):
    path = tmp_path / "x"
    path.write_text("before")
    with atomic_file(path, mode) as f:
        f.write(content)
        f.flush()
        assert path.read_text() == "before"
    assert path.read_bytes() == "ä\r\n".encode()
    assert os.listdir(tmp_path) == ["x"]


def test_names(tmp_path):
    longest = "ü" * 125 + ".json"
    name = os.fsdecode(b"caf\xe9.png")
    with atomic_file(tmp_path / longest) as f:
        json.dump([name], f, ensure_ascii=False)
    assert os.listdir(tmp_path) == [longest]
    assert json.loads((tmp_path / longest).read_text(encoding="utf-8")) == [name]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_file_stays_as_it_was_after_a_failure(tmp_path, error):
    path = tmp_path / "x"
    path.write_text("before")
    with pytest.raises(error), atomic_file(path) as f:
        f.write("half")
        raise error
    assert os.listdir(tmp_path) == ["x"] and path.read_text() == "before"


def test_file_in_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "nowhere" / "x"):
        pass


def fill(path, **kwargs):
    with atomic_folder(path, **kwargs) as folder:
        (folder / "new").write_text("")


def test_folder(tmp_path):
    path = tmp_path / "a" / "b"
    fill(path)
    assert os.listdir(path) == ["new"] and os.listdir(path.parent) == ["b"]
    (path / "new").rename(path / "old")
    with pytest.raises(OSError):
        fill(path)
    assert os.listdir(path) == ["old"] and os.listdir(path.parent) == ["b"]
    fill(path, overwrite=True)
    assert os.listdir(path) == ["new"] and os.listdir(path.parent) == ["b"]


def test_folder_stays_as_it_was_after_a_failure(tmp_path):
    fill(tmp_path / "b")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "b", overwrite=True):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["b"] and os.listdir(tmp_path / "b") == ["new"]
