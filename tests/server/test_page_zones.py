"""Zones on the page, in a real Chromium: drawn by clicks, taps and keys, saved, and shown over the picture."""

import json
from typing import Any

import pytest
import requests

from tests.server.test_page import (
    CHROMIUM,
    CONTRASTS,
    Camera,
    box_of,
    chromium,  # noqa: F401  a fixture
    open_page,  # noqa: F401  a fixture
    screenshot,
    shown_frame,
    until,
)
from tests.service import Service, make_token

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
]

CORNERS = [(0.2, 0.2), (0.8, 0.25), (0.5, 0.9)]
ATTACK = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def service(start: Any, tmp_path: Any) -> Service:
    found = start(data=tmp_path)
    Camera(found, "yard", start=None).send()
    return found


def zones_of(service: Service) -> dict[str, Any]:
    return service.get("/v1/cameras/yard/zones").json()


def set_zones(service: Service, zones: list[Any]) -> dict[str, Any]:
    answer = requests.put(f"{service.url}/v1/cameras/yard/zones", json={"zones": zones}, timeout=30)
    assert answer.status_code == 200
    return answer.json()


def open_zones(opener: Any, service: Service, **options: Any) -> Any:
    page = opener(f"{service.url}/?camera=yard", **options)
    until(lambda: shown_frame(page) > 0, page)
    page.get_by_role("button", name="Zones", exact=True).click()
    until(lambda: page.locator("#zone-new").is_enabled(), page)
    return page


def draw(page: Any, corners: list[tuple[float, float]] = CORNERS, *, tap: bool = False) -> None:
    page.get_by_role("button", name="Draw zone").click()
    page.locator("#stage").scroll_into_view_if_needed()
    for x, y in corners:
        box = box_of(page, "#zone-draw")
        place = box["x"] + x * box["width"], box["y"] + y * box["height"]
        (page.touchscreen.tap if tap else page.mouse.click)(*place)
    page.get_by_role("button", name="Close zone").click()


def save(page: Any) -> None:
    page.get_by_role("button", name="Save zones").click()
    until(lambda: page.locator("#zone-note").inner_text().startswith("Saved"), page)


def check_polygon(page: Any, polygon: list[list[float]], expected: list[tuple[float, float]]) -> None:
    """A click is a whole pixel of the screen."""
    box = box_of(page, "#stage")
    assert len(polygon) == len(expected)
    for (x, y), (wanted_x, wanted_y) in zip(polygon, expected, strict=True):
        assert x == pytest.approx(wanted_x, abs=1.5 / box["width"])
        assert y == pytest.approx(wanted_y, abs=1.5 / box["height"])


def test_zones_are_drawn_by_clicks_saved_shown_again_and_deleted(service, open_page):  # noqa: F811
    page = open_zones(open_page, service)
    assert page.locator("#zone-none").is_visible()
    page.get_by_role("textbox", name="Name").fill("door")
    draw(page)
    assert page.locator("#zone-state").inner_text() == "Not saved yet."
    assert zones_of(service)["zones"] == []
    page.get_by_role("radio", name="Watched").check(force=True)
    draw(page, [(0.1, 0.5), (0.3, 0.5), (0.3, 0.7), (0.1, 0.7)])
    save(page)
    stored = zones_of(service)
    assert [(zone["kind"], zone.get("name")) for zone in stored["zones"]] == [("private", "door"), ("watched", None)]
    check_polygon(page, stored["zones"][0]["polygon"], CORNERS)
    # the camera tells with its metrics that it holds to them
    assert "not said yet" in page.locator("#zone-state").inner_text()
    camera = Camera(service, "yard", start=None)
    camera.sent = 10
    camera.send(**{"Rjpeg-Metrics": json.dumps({"zones": stored["version"]})})
    until(lambda: page.locator("#zone-state").inner_text() == "The camera holds to these zones.", page)
    page.reload()
    until(lambda: shown_frame(page) > 0, page)
    assert page.locator("#zone-shapes").is_hidden()
    page.get_by_role("button", name="Zones", exact=True).click()
    until(lambda: page.locator("#zone-list li").count() == 2, page)
    assert page.locator("#zone-shapes path").count() == 2
    # shares of the picture, over all of it
    assert box_of(page, "#zone-shapes") == box_of(page, "#stage")
    x, y, width, height = page.locator("#zone-shapes path.private").evaluate(
        "path => { const box = path.getBBox(); return [box.x, box.y, box.width, box.height]; }"
    )
    assert (x, y, width, height) == pytest.approx((0.2, 0.2, 0.6, 0.7), abs=0.01)
    assert page.locator("#zone-names span").all_inner_texts() == ["door", "watched"]
    screenshot(page, "zones")
    page.get_by_role("button", name="Delete zone 1: door, private").click()
    assert page.locator("#zone-list li").count() == 1
    save(page)
    assert [zone["kind"] for zone in zones_of(service)["zones"]] == ["watched"]
    page.get_by_role("button", name="Zones", exact=True).click()
    assert page.locator("#zone-shapes").is_hidden()
    assert page.locator("#zones").is_hidden()


def test_zones_of_the_device_s_configuration_are_shown_and_can_t_be_changed(service, open_page):  # noqa: F811
    set_zones(service, [{"kind": "watched", "polygon": CORNERS}])
    camera = Camera(service, "yard", start=None)
    camera.sent = 10
    said = {
        "private": ["0,0 500,0 500,400"],
        "ignored": [ATTACK, "1,2", 7, "0,900 1000,900 9999,1000"],
        "secret": ["0,0"],
    }
    camera.send(**{"Rjpeg-Metrics": json.dumps({"own_zones": said, "own_zones_left_out": 2})})
    page = open_zones(open_page, service)
    until(lambda: page.locator("#zone-own").is_visible(), page)
    assert page.locator("#zone-own-list li").all_inner_texts() == [
        "private, of the device's configuration",
        "ignored, of the device's configuration",
    ]
    assert page.locator("#zone-own-list button").count() == 0
    assert "2 more are not shown" in page.locator("#zone-own-more").inner_text()
    assert page.locator("#zone-shapes path").count() == 3
    assert page.locator("#zone-names span").all_inner_texts() == [
        "private, device's own",
        "ignored, device's own",
        "watched",
    ]
    assert page.locator("#zone-list li").all_inner_texts() == ["watched\nDelete"]
    # what is saved is what was drawn
    draw(page)
    save(page)
    assert [zone["kind"] for zone in zones_of(service)["zones"]] == ["watched", "private"]


def test_the_keyboard_alone_draws_and_saves_a_zone_and_leaves_the_picture_alone(service, open_page):  # noqa: F811
    page = open_page(f"{service.url}/?camera=yard")
    until(lambda: shown_frame(page) > 0, page)
    frame = shown_frame(page)

    def go_to(name: str) -> None:
        for _ in range(60):
            if page.evaluate("document.activeElement.id") == name:
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{name} is not reached")

    go_to("zones-toggle")
    page.keyboard.press("Enter")
    until(lambda: page.locator("#zone-new").is_enabled(), page)
    go_to("zone-new")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "zone-draw"
    assert page.locator("#zone-draw").evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    # the cross begins in the middle
    for keys in (("Shift+ArrowLeft",), ("Shift+ArrowUp", "ArrowRight"), ("Shift+ArrowDown", "Shift+ArrowDown")):
        for key in keys:
            page.keyboard.press(key)
        page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.locator("#zone-note").inner_text() == "Corner 4 at 41 % from the left, 60 % from the top."
    page.keyboard.press("Backspace")
    assert page.locator("#zone-place").inner_text() == "41 % from the left, 60 % from the top"
    go_to("zone-close")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "zone-save"
    page.keyboard.press("Enter")
    until(lambda: zones_of(service)["zones"], page)
    assert zones_of(service)["zones"][0]["polygon"] == [[0.4, 0.5], [0.41, 0.4], [0.41, 0.6]]
    # Escape gives up a zone that is being drawn
    until(lambda: page.evaluate("document.activeElement.id") == "zone-new", page)
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert page.locator("#zone-draw").is_hidden()
    assert page.locator("#zone-list li").count() == 1
    assert shown_frame(page) == frame
    assert page.locator("#live").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_draws_by_taps(service, open_page, scheme):  # noqa: F811
    set_zones(service, [{"kind": "ignored", "polygon": [[0, 0], [1, 0], [1, 0.1]], "name": ATTACK}])
    page = open_zones(open_page, service, width=390, height=844, scheme=scheme, has_touch=True)
    page.get_by_role("radio", name="Ignored").check(force=True)
    draw(page, tap=True)
    screenshot(page, f"zones-{scheme}-390")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    texts = page.evaluate(CONTRASTS)
    assert [(text, round(ratio, 2)) for text, ratio in texts if ratio < 4.5] == []
    sizes = page.evaluate(
        "[...document.querySelectorAll('button, select, .choice label')].filter(e => e.checkVisibility())"
        ".map(e => e.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 43.9
    save(page)
    polygon = zones_of(service)["zones"][1]["polygon"]
    check_polygon(page, polygon, CORNERS)
    # a name is text
    assert page.locator("#zone-names span").first.inner_text() == ATTACK
    assert page.title() == "yard – Region JPEG"


def test_zones_that_somebody_else_has_set_meanwhile_are_not_lost_unasked(service, open_page):  # noqa: F811
    page = open_zones(open_page, service, complaint="status of 412")
    draw(page)
    theirs = set_zones(service, [{"kind": "ignored", "polygon": CORNERS}])
    page.get_by_role("button", name="Save zones").click()
    until(lambda: "somebody else" in page.locator("#zone-note").inner_text(), page)
    assert zones_of(service) == theirs
    assert page.locator("#zone-list li").all_inner_texts() == ["private\nDelete"]
    page.get_by_role("button", name="Discard changes").click()
    assert page.locator("#zone-list li").all_inner_texts() == ["ignored\nDelete"]


def test_with_tokens_a_manager_s_is_asked_for_and_not_kept(start, open_page, tmp_path):  # noqa: F811
    service = start("--auth", "on", data=tmp_path)
    camera, reader, manager = (
        make_token(tmp_path, *of) for of in (("--camera", "yard"), ("--reader",), ("--manager",))
    )
    Camera(service, "yard", camera, start=None).send()
    page = open_page(f"{service.url}/?camera=yard", complaint="status of 40[13]")
    page.locator("#token").fill(reader)
    page.locator("#log-in button").click()
    until(lambda: shown_frame(page) > 0, page)
    page.get_by_role("button", name="Zones", exact=True).click()
    until(lambda: page.locator("#zone-new").is_enabled(), page)
    draw(page)
    page.get_by_role("button", name="Save zones").click()
    assert page.locator("#zone-note").inner_text() == "A manager's token is needed to save them."
    assert "--manager --camera yard" in page.locator("#zone-command").inner_text()
    page.locator("#zone-token").fill(reader)
    page.get_by_role("button", name="Save zones").click()
    until(lambda: page.locator("#zone-note").inner_text().startswith("Not saved: "), page)
    page.locator("#zone-token").fill(manager)
    save(page)
    service.token = reader
    assert len(zones_of(service)["zones"]) == 1
    page.get_by_role("button", name="Zones", exact=True).click()
    assert page.locator("#zone-token").input_value() == ""
