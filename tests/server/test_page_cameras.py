"""The dashboard in a real Chromium: dead cameras, links for other programs, small screens."""

import re
import time

import pytest
import requests

from server.api import cameras as cameras_api
from tests.server.test_page import (  # noqa: F401 - fixtures
    CHROMIUM,
    Camera,
    chromium,
    open_page,
    screenshot,
    shown_frame,
    until,
)
from tests.service import make_token

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
]


def figures(card):
    terms, values = card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts()
    return dict(zip(terms, values, strict=True))


@pytest.mark.release
def test_silent_cameras_come_last_without_rates_and_can_be_removed(start, open_page, tmp_path):  # noqa: F811
    service = start(data=tmp_path / "data")
    for name in ("alley", "shed"):
        Camera(service, name, start=None).send(3)
    time.sleep(10)
    yard = Camera(service, "yard", start=None)
    yard.send(2)
    page = open_page(service.url, complaint="status of 409")
    until(lambda: page.locator(".card").count() == 3, page)
    names = page.locator(".card h2")
    until(lambda: names.all_inner_texts() == ["yard", "alley", "shed"], page)
    told = figures(page.locator(".card", has_text="shed"))
    assert (told["Frames/s"], told["Bit rate"], told["Frames"]) == ("–", "–", "3")
    assert figures(page.locator(".card", has_text="yard"))["Frames/s"] != "–"
    assert service.get("/v1/cameras/shed").json()["fps"] == 0

    page.goto(f"{service.url}/?camera=shed")
    until(lambda: page.locator("#remove").is_visible(), page)
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#remove").click()
    assert service.get("/v1/cameras/shed").status_code == 200, "nothing is done without a yes"
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#remove").click()
    until(lambda: "stop it, and remove it after 30 s" in page.locator("#remove-note").inner_text(), page)
    silence = service.get("/v1/cameras/shed").json()["silent_seconds"]
    page.wait_for_timeout(1000 * max(0, cameras_api.REMOVABLE_SECONDS - silence + 1))
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#remove").click()
    until(lambda: page.locator("#overview").is_visible(), page)
    until(lambda: sorted(names.all_inner_texts()) == ["alley", "yard"], page)
    assert service.get("/v1/cameras/shed").status_code == 404


def test_an_unknown_camera_is_told_in_the_place_of_its_picture(start, open_page, tmp_path):  # noqa: F811
    service = start(data=tmp_path / "data")
    page = open_page(f"{service.url}/?camera=cellar", complaint="status of 404")
    until(lambda: page.locator("#no-such-camera").is_visible(), page)
    assert "There is no camera of this name" in page.locator("#no-such-camera").inner_text()
    assert page.locator("#stage").is_hidden()
    assert page.locator("#camera-figures").is_hidden()
    arrived = Camera(service, "cellar", start=None).send()
    until(lambda: shown_frame(page) == arrived["id"], page, 10)
    assert page.locator("#no-such-camera").is_hidden()


@pytest.mark.release
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_with_tokens_a_reader_makes_links_and_is_told_how_to_remove_a_camera(start, open_page, tmp_path, scheme):  # noqa: F811
    data = tmp_path / "data"
    reader, camera = make_token(data, "--reader"), make_token(data, "--camera", "door")
    service = start("--auth", "on", data=data)
    Camera(service, "door", token=camera, start=None).send(3)
    page = open_page(f"{service.url}/?camera=door", complaint="401", width=360, height=740, scheme=scheme)
    until(lambda: page.locator("#log-in").is_visible(), page)
    assert "-m server tokens add --data FOLDER --reader" in page.locator("#log-in pre").inner_text()
    page.locator("#token").fill(reader)
    page.keyboard.press("Enter")
    until(lambda: shown_frame(page) > 0, page)

    button, brand = page.locator("#log-out").bounding_box(), page.locator(".brand").bounding_box()
    assert button["y"] < brand["y"] + brand["height"], "beside the name, not below it"
    assert button["height"] < 50, "on one line"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    for of, kind in (("stream", "multipart/x-mixed-replace"), ("snapshot", "image/jpeg")):
        page.locator(f"#link-{of}").click()
        until(lambda of=of: f"/v1/cameras/door/{of}?until=" in page.locator("#link").input_value(), page)
        with requests.get(page.locator("#link").input_value(), stream=True, timeout=10) as shown:
            assert shown.status_code == 200
            assert shown.headers["Content-Type"].startswith(kind)
    assert re.match("Whoever has it sees this until 20", page.locator("#link-note").inner_text())
    # a reader removes nothing, and is told who does
    page.wait_for_timeout(11000)
    until(lambda: page.locator("#remove-command").is_visible(), page)
    assert page.locator("#remove-command").inner_text().endswith("-m server remove-camera --data FOLDER door")
    assert page.locator("#remove").is_hidden()
    screenshot(page, f"links-{scheme}")


def test_docs_have_this_server_s_addresses_and_the_camera_s_name(start, open_page, tmp_path):  # noqa: F811
    service = start(data=tmp_path / "data")
    page = open_page(f"{service.url}/docs?camera=door", width=360)
    host = service.url.partition("://")[2]
    text = page.locator("main").inner_text()
    assert f"{service.url}/v1/cameras/door/snapshot" in text
    assert f"vlc http://viewer:TOKEN@{host}/v1/cameras/door/stream" in text
    assert "rtsp://127.0.0.1:8554/door" in text
    assert not re.search("CAMERA|ADDRESS_WITH_TOKEN|SERVER", text)
    page.locator("#name").fill("yard")
    assert f"{service.url}/v1/cameras/yard/stream" in page.locator("main").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
