"""Whole files or none, folders in natural order, files with a secret."""

import os
import subprocess
import sys

import pytest

from rjpeg._files import list_pictures, read_token, write_whole
from rjpeg.errors import ConfigError, StorageError


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "a.bin"
    write_whole(path, b"first")
    write_whole(path, memoryview(b"second"))
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_replaced_rather_than_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "a.bin"
    write_whole(path, b"first")
    with pytest.raises(TypeError):
        write_whole(path, "not bytes")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(StorageError, match=r"can't write .*a\.bin: Is a directory"):
        write_whole(tmp_path / "a.bin", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_pictures_are_listed_in_natural_order_and_nothing_else_is(tmp_path):
    for name in ("img10.jpg", "img2.JPG", "img1.png", "Img3.webp", "a.txt", "b٣.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    names = [path.name for path in list_pictures(tmp_path)]
    assert names == ["b٣.jpg", "img1.png", "img2.JPG", "Img3.webp", "img10.jpg"]
    assert [path.name for path in list_pictures(tmp_path, (".webp",))] == ["Img3.webp"]


def test_an_empty_missing_or_unreadable_folder_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="holds no picture"):
        list_pictures(tmp_path)
    with pytest.raises(StorageError, match="nowhere: No such file or directory"):
        list_pictures(tmp_path / "nowhere")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    code = f"from rjpeg._files import list_pictures; list_pictures({str(closed)!r})"
    if os.geteuid() == 0:
        # root reads everything, so somebody else has to try
        code = f"import os; from rjpeg._files import list_pictures; os.setuid(65534); list_pictures({str(closed)!r})"
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StorageError: can't read folder" in result.stderr
    assert "Permission denied" in result.stderr


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"two\nlines", b"\xff\xfe", "ümlaut".encode()])
def test_a_token_is_one_word_of_ascii(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="token"):
        read_token(path)
    path.write_bytes(b" aZ09+/=-\r\n")
    assert read_token(path) == "aZ09+/=-"
