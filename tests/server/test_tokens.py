"""Tokens of cameras and readers."""

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rjpeg.errors import InputError
from server.store import Store, tokens


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path}/store.sqlite3", str(tmp_path / "frames"))
    yield store
    store.close()


@pytest.fixture
def other(store: Store, tmp_path: Path) -> Iterator[Store]:
    """The same store, opened by another program."""
    other = Store.open(f"sqlite:///{tmp_path}/store.sqlite3", str(tmp_path / "frames"))
    yield other
    other.close()


def test_a_token_grants_what_it_was_made_for(store: Store) -> None:
    for role, camera in [("camera", "gate"), ("reader", None), ("reader", "gate")]:
        grant = tokens.check(store, tokens.make(store, role, camera))
        assert grant is not None
        assert (grant.role, grant.camera) == (role, camera)


def test_tokens_are_listed_without_their_secrets(store: Store) -> None:
    made = [tokens.make(store, "camera", "gate", "north gate"), tokens.make(store, "reader")]
    listed = tokens.list_tokens(store)
    assert [(t.id, t.role, t.camera, t.note) for t in listed] == [
        (1, "camera", "gate", "north gate"),
        (2, "reader", None, ""),
    ]
    assert not any(token.split("_", 2)[2] in repr(listed) for token in made)


def test_only_the_hash_of_a_secret_is_kept(store: Store, tmp_path: Path) -> None:
    secret = tokens.make(store, "reader").split("_", 2)[2]
    store.close()
    assert secret.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("store.sqlite3*"))
    with sqlite3.connect(tmp_path / "store.sqlite3") as connection:
        [(kept,)] = connection.execute("SELECT sha256 FROM tokens").fetchall()
    connection.close()
    assert kept == hashlib.sha256(secret.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "",
        lambda t: t[:-1],
        lambda t: t + "A",
        lambda t: t + "\n",
        lambda t: " " + t,
        lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"),
        lambda t: t.replace("rjpeg_1_", "rjpeg_2_"),
        lambda t: t.replace("rjpeg_1_", "rjpeg_01x_"),
        lambda t: t.replace("rjpeg_1_", "rjpeg_" + "9" * 400 + "_"),
        lambda t: t.replace("rjpeg_1_", "rjpeg_١_"),
        lambda t: t.replace("rjpeg_1_", "rjpeg_1' OR '1'='1_"),
        lambda t: t.upper(),
        lambda t: "Bearer " + t,
    ],
)
def test_what_is_no_token_grants_nothing(store: Store, change) -> None:
    token = tokens.make(store, "reader")
    assert tokens.check(store, change(token)) is None
    assert tokens.check(store, token) is not None


def test_a_revoked_token_grants_nothing_any_more(store: Store) -> None:
    token, kept = tokens.make(store, "reader"), tokens.make(store, "reader")
    assert tokens.check(store, token) is not None
    assert tokens.revoke(store, 1)
    assert tokens.check(store, token) is None
    assert tokens.check(store, kept) is not None
    assert not tokens.revoke(store, 1)
    assert not tokens.revoke(store, 10**14)


@pytest.mark.slow
def test_another_program_sees_a_revocation_within_two_seconds(store: Store, other: Store) -> None:
    token = tokens.make(store, "reader")
    assert tokens.check(other, token) is not None
    assert tokens.revoke(store, 1)
    deadline = time.monotonic() + 2
    while tokens.check(other, token) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_another_program_takes_a_new_token_the_first_time_it_is_used(store: Store, other: Store) -> None:
    assert tokens.check(other, tokens.make(other, "reader")) is not None
    token = tokens.make(store, "camera", "gate")
    # passing a new token on takes a user longer
    time.sleep(tokens.UNKNOWN_SECONDS)
    assert tokens.check(other, token) is not None


def test_an_id_is_never_given_again(store: Store) -> None:
    first = tokens.make(store, "reader")
    tokens.revoke(store, 1)
    assert tokens.make(store, "reader").startswith("rjpeg_2_")
    assert tokens.check(store, first) is None


def test_many_wrong_tokens_do_not_ask_the_database_each_time(store: Store) -> None:
    secret = tokens.make(store, "reader").split("_", 2)[2]
    asked = []
    reading = store.database.reading

    def counted():
        asked.append(1)
        return reading()

    store.database.reading = counted  # type: ignore[method-assign]
    started = time.monotonic()
    for number in range(2, 5000):
        assert tokens.check(store, f"rjpeg_{number}_{secret}") is None
    assert len(asked) <= 1 + (time.monotonic() - started) / tokens.UNKNOWN_SECONDS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("admin",), "role 'admin', expected one of camera, reader"),
        (("camera",), "a camera's token is for one camera"),
        (("camera", "../etc"), "camera '../etc', expected 1 to 64 of"),
        (("reader", "gate\n"), r"camera 'gate\\n', expected"),
        (("reader", None, "x" * 201), "note '.*', expected at most 200 printable characters"),
        (("reader", None, "a\0b"), "expected at most 200 printable characters"),
    ],
)
def test_wrong_arguments_are_named(store: Store, arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokens.make(store, *arguments)
