"""Which files a follower needs among those of a folder, and what becomes of it in `server.archive`."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from server import chains
from server.archive import Options, decode_file, make_jobs
from server.chains import Heads
from server.paths import read_head

OPTIONS = {"model": None, "max_bytes": 2**23, "max_pixels": 2**24, "restore": False, "keep_jpeg": False, "task": None}


@pytest.fixture
def folder(stream, tmp_path):
    """The stream's files as 0.jpg, 1.jpg and so on."""
    (tmp_path / "sent").mkdir()
    for number, file in enumerate(stream.files):
        (tmp_path / "sent" / f"{number}.jpg").write_bytes(file.jpeg)
    return tmp_path / "sent"


def paths(folder, places):
    return tuple(folder / f"{place}.jpg" for place in places)


def decode(source, out=None, **options):
    """The records of all files of a source, and the pictures that were written."""
    jobs = make_jobs(str(source), None if out is None else str(out), Options(form="raw", **OPTIONS | options))
    return [record for job in jobs for record in decode_file(job)]


@pytest.mark.parametrize("read_all", [True, False])
def test_a_file_s_chain_is_its_key_and_at_most_a_patch(stream, folder, read_all):
    heads = Heads(paths(folder, range(len(stream.files))))
    if read_all:
        heads.read_all()
    for place in range(len(stream.files)):
        assert heads.chain(place) == paths(folder, stream.chain(place))
        assert heads.is_follower(place) == (place > 0)


@pytest.mark.parametrize("read_all", [True, False])
def test_of_several_files_of_one_id_the_nearest_before_is_taken_else_one_after(stream, tmp_path, read_all):
    key, follower = stream.files[0].jpeg, stream.files[1].jpeg
    files = []
    for number, jpeg in enumerate((follower, key, b"no picture", key, follower, follower, key)):
        files.append(tmp_path / f"{number}.jpg")
        files[-1].write_bytes(jpeg)
    heads = Heads(files)
    if read_all:
        heads.read_all()
    assert [heads.chain(place) for place in (0, 2, 4, 5)] == [(files[1],), (), (files[3],), (files[3],)]


def test_a_file_with_much_before_its_picture_is_known_too(stream, tmp_path):
    comment = b"\xff\xfe" + (2 + 20_000).to_bytes(2, "big") + bytes(20_000)
    for number, file in enumerate(stream.files[:2]):
        (tmp_path / f"{number}.jpg").write_bytes(file.jpeg[:2] + comment + file.jpeg[2:])
    assert Heads(paths(tmp_path, range(2))).chain(1) == paths(tmp_path, [0])
    [_, record] = decode(tmp_path)
    assert "error" not in record


def test_of_a_single_file_only_heads_back_to_its_key_are_read(stream, folder, monkeypatch):
    read = []
    monkeypatch.setattr(chains, "read_head", lambda path, size: read.append(path) or read_head(path, size))
    later = [folder / f"{100 + number}.jpg" for number in range(5)]
    for path in later:
        path.write_bytes(b"")
    place = stream.first("follower")
    [job] = make_jobs(str(folder / f"{place}.jpg"), None, Options(form="raw", **OPTIONS))
    assert job.bases == (str(folder / "0.jpg"),)
    assert set(read) == set(paths(folder, range(place + 1)))
    assert len(read) <= 2 * len(set(read))


def test_a_folder_of_followers_is_decoded_to_what_the_stream_shows(stream, folder, tmp_path):
    records = decode(folder, tmp_path / "out")
    for place, record in enumerate(records):
        file = stream.files[place]
        assert (record["kind"], record["id"], record["base_id"]) == (file.kind, file.id, file.base_id)
        np.testing.assert_array_equal(np.load(record["picture"]), stream.decoded[place].frame)
    assert records[0]["kept"] is None
    assert records[1]["kept"] == pytest.approx(stream.decoded[1].kept.mean(), abs=1e-4)
    # each alone gives the same
    for place in (stream.first("patch"), len(stream.files) - 1):
        [record] = decode(folder / f"{place}.jpg", tmp_path / "out")
        np.testing.assert_array_equal(np.load(record["picture"]), stream.decoded[place].frame)


def test_a_follower_without_its_key_is_an_error_that_names_it_and_its_plain_view_if_asked_for(stream, folder, tmp_path):
    (folder / "0.jpg").unlink()
    records = decode(folder, tmp_path / "out")
    assert len(records) == len(stream.files) - 1
    for record, file in zip(records, itertools.islice(stream.files, 1, None), strict=True):
        assert file.base_id in record["error"]
        assert "not at hand" in record["error"]
    assert not (tmp_path / "out").exists()
    plain = decode(folder, tmp_path / "out", without_key="plain")
    assert all(record["plain_view"] for record in plain)
    assert {"error", "task", "bpp"} & plain[0].keys() == set()
    tiles = np.load(plain[0]["picture"])
    assert tiles.shape == (plain[0]["height"], plain[0]["width"], 3) != stream.decoded[1].frame.shape


def test_a_follower_of_a_patch_that_is_gone_is_an_error_too(stream, folder):
    patch = stream.first("patch")
    (folder / f"{patch}.jpg").unlink()
    records = {Path(record["file"]).stem: record for record in decode(folder)}
    for place in range(len(stream.files)):
        if place != patch:
            assert ("error" in records[str(place)]) == (patch in stream.chain(place))


def test_a_damaged_key_is_told_for_each_of_its_followers_and_nothing_is_shown_plainly(stream, folder):
    damaged = bytearray(stream.files[0].jpeg)
    damaged[len(damaged) // 2] ^= 255
    (folder / "0.jpg").write_bytes(damaged)
    for options in ({}, {"without_key": "plain"}):
        records = decode(folder, **options)
        assert all("error" in record for record in records)


def test_a_follower_is_found_whatever_its_ending_and_with_no_folder_of_pictures(stream, folder):
    place = stream.first("follower")
    odd = folder / "odd.bin"
    odd.write_bytes(stream.files[place].jpeg)
    [record] = decode(odd)
    assert "error" not in record
    (folder.parent / "alone.jpg").write_bytes(stream.files[place].jpeg)
    [record] = decode(folder.parent / "alone.jpg")
    assert stream.files[place].base_id in record["error"]
