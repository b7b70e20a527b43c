"""Secrets in addresses: what is masked, and that nothing of a password is left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rjpeg._secrets import masked, masked_text

# parts that nothing else in an address has, and between them what people put into passwords
WORDS = st.sampled_from(["Qz7x", "wVk", "j9jj", "XKCD", "p4ssw0rt", "geheim"])
SEPARATORS = st.sampled_from(
    [*"/#?@:=_.-!;,+*'()[]{}|<>~^$%", " ", "\\", '"', "://", "%40", "user=", "ä", "&", "&x=", ""]
)
SECRETS = st.lists(st.tuples(WORDS, SEPARATORS), min_size=1, max_size=6)


def text_of(secret, without=""):
    text = "".join(word + separator for word, separator in secret)
    for character in without:
        text = text.replace(character, "")
    return text


def words_left(secret, shown):
    return [word for word, _ in secret if word in shown]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://me:secret@192.168.1.9:554/live?ch=1", "rtsp://***@192.168.1.9:554/live?ch=1"),
        ("rtsp://me:se/cr#e?t p@ss@camera/live", "rtsp://***@camera/live"),
        ("rtsp://me:12/34@camera/live", "rtsp://***@camera/live"),
        ("http://camera/v.cgi?user=me&pwd=secret&rate=5", "http://camera/v.cgi?user=***&pwd=***&rate=5"),
        ("http://camera/v.cgi?loginuse=me&loginpas=a=b&", "http://camera/v.cgi?loginuse=***&loginpas=***"),
        (
            "http://camera/v.cgi?X-Amz-Signature=ab&apiKey=c&auth_token=d",
            "http://camera/v.cgi?X-Amz-Signature=***&apiKey=***&auth_token=***",
        ),
        ("rtsp://camera/user=me&password=x&channel=1.sdp", "rtsp://camera/user=***&password=***&channel=1.sdp"),
        ("rtsp://camera/user=me_password=x_channel=1.sdp", "rtsp://camera/user=***"),
        ("http://camera/?pwd=a@b&rate=5", "http://***&rate=5"),
        ("rtsp://192.168.1.9/Streaming/Channels/101", "rtsp://192.168.1.9/Streaming/Channels/101"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("me:secret@camera/live", "***@camera/live"),
        ("films/yard@home.mp4", "films/yard@home.mp4"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_of_an_address_all_is_shown_but_secrets(address, shown):
    assert masked(address) == shown


def test_a_path_that_nobody_has_typed_is_masked_on_demand():
    assert masked("rtsps://nvr:7441/xR4bT9kLm2QpZ7wV?enableSrtp", path=True) == "rtsps://nvr:7441/***?enableSrtp"
    assert masked("rtsp://nvr/cam/realmonitor?channel=1", path=True) == "rtsp://nvr/cam/realmonitor?channel=1"


def test_a_text_keeps_what_is_no_secret():
    text = "server http://127.0.0.1:8000 can't be reached: no answer; 3 frames of camera yard@home"
    assert masked_text("frame 5 of camera yard: 640x480, quality=50") == "frame 5 of camera yard: 640x480, quality=50"
    assert masked_text(text.replace("yard@home", "yard")) == text.replace("yard@home", "yard")
    assert masked_text("can't open rtsp://me:secret@nvr/1\nnor me@home") == "can't open rtsp://***@nvr/1\nnor me@home"


@given(user=SECRETS, password=SECRETS, rest=st.sampled_from(["", "/", "/live?channel=1", ":554/a/b#c"]))
def test_nothing_of_user_or_password_before_the_host_is_left(user, password, rest):
    address = f"rtsp://{text_of(user)}:{text_of(password)}@camera.lan{rest}"
    shown = masked(address)
    assert words_left(user + password, shown) == []
    # with an equals sign, the host may be a part of a value
    assert shown.startswith("rtsp://***") if "=" in address else shown == f"rtsp://***@camera.lan{rest}"


@given(
    name=st.sampled_from(["user", "pwd", "password", "passwd", "token", "key", "apikey", "auth", "USR", "loginpas"]),
    secret=SECRETS,
    host=st.sampled_from(["camera.lan", "me:Qz7x@camera.lan"]),
    place=st.sampled_from(["/?", "/v.cgi?rate=5&", "/", "/live/"]),
)
def test_nothing_of_a_value_of_a_secret_name_is_left(name, secret, host, place):
    secret = [*secret, ("Qz7x", "")]
    shown = masked(f"http://{host}{place}{name}={text_of(secret, without='&')}&channel=1")
    assert words_left(secret, shown) == []
    assert shown.endswith("***&channel=1")


@given(user=SECRETS, password=SECRETS)
def test_nothing_of_a_password_is_left_in_a_text(user, password):
    address = f"rtsp://{text_of(user)}:{text_of(password)}@camera.lan/live"
    shown = masked_text(f"[rtsp @ 0x5] {address} can't be opened")
    assert words_left(user + password, shown) == []
    assert "can't be opened" in shown
