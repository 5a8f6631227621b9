from __future__ import annotations

import os
from pathlib import Path

import pytest

from realcustom.errors import InputError
from realcustom.files import drafted, read_json, require_place, write_whole


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.json"
    with drafted(path) as draft:
        draft.write_text("half")
        assert not path.exists()
        assert draft.parent == tmp_path
    assert path.read_text() == "half"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_what_ends_in_between_leaves_the_file_that_was_there(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write():
        with drafted(path) as draft:
            draft.write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_told_with_its_name_and_a_full_disk_is_no_wrong_input(tmp_path):
    with pytest.raises(InputError, match=r"a\.txt cannot be written: Permission denied"), drafted(tmp_path / "a.txt"):
        raise PermissionError(13, "Permission denied")
    with pytest.raises(OSError, match="No space left"), drafted(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    with pytest.raises(InputError, match=r"the folder .*none for the output does not exist"):
        write_whole("text", tmp_path / "none" / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_rights_that_the_caller_gives_new_ones(tmp_path, monkeypatch):
    before = os.umask(0o027)
    with monkeypatch.context() as patched:
        patched.setattr(os, "umask", None)  # it is the whole process's, other threads' too
        write_whole("text", tmp_path / "a.txt")
    os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_text_is_utf_8_and_only_what_may_be_is_overwritten(tmp_path):
    path = tmp_path / "a.txt"
    write_whole("Straße", path, overwrite=False)
    assert path.read_bytes() == "Straße".encode()
    with pytest.raises(InputError, match=r"a\.txt exists"):
        write_whole(b"new", path, overwrite=False)
    with pytest.raises(InputError, match="is a folder"):
        require_place(tmp_path, overwrite=True)
    write_whole(b"new", path)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_wrong_input(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json cannot be read as JSON: "):
        read_json(path)
    with pytest.raises(InputError, match=r"none\.json cannot be read as JSON: "):
        read_json(Path(tmp_path / "none.json"))
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"a\.json holds no JSON object"):
        read_json(path)
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}
