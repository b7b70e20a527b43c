"""The local page is for people: pictures first, the state in words, all figures behind it."""

import pytest

from device.metrics import Metrics
from device.view import View
from tests.device.test_view import CHROMIUM, browser, jpeg  # noqa: F401 - a fixture
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]

WELL = {"ok": True, "live": True, "running": True, "camera": "running", "delivery": "works"}
CASES = {
    "well": (WELL, "All is well: pictures come, and get through.", "good"),
    "gone": (
        WELL | {"ok": False, "camera": "waiting: camera 0 can't be opened"},
        "No pictures: camera 0 can't be opened. The camera is opened again and again.",
        "bad",
    ),
    "away": (
        WELL | {"ok": False, "delivery": "server http://s can't be reached: no answer in time"},
        "Pictures come, but do not get through: server http://s can't be reached: no answer in time.",
        "bad",
    ),
    "done": (WELL | {"live": False, "running": False}, "Finished: the source has come to its end.", ""),
    "stopped": (WELL | {"running": False}, "Stopped. The log says why.", "bad"),
}


def test_it_says_in_words_how_each_camera_is(browser):  # noqa: F811
    metrics = Metrics(list(CASES))
    for name in CASES:
        metrics.camera(name).captured()
    view = View("127.0.0.1:0", None, metrics, lambda: {"cameras": {name: case[0] for name, case in CASES.items()}})
    view.start()
    try:
        view.show("well", jpeg(0))
        page = browser(view.address, 390)
        until(lambda: page.value("document.querySelectorAll('.camera').length") == len(CASES), 30)
        for number, (name, (_, text, mood)) in enumerate(CASES.items()):
            section = f"document.querySelectorAll('.camera')[{number}]"
            assert page.value(f"{section}.querySelector('h2').textContent") == name
            assert page.value(f"{section}.querySelector('.state').textContent") == text
            assert page.value(f"{section}.querySelector('.state').className") == f"state {mood}".strip()
            assert page.value(f"{section}.firstElementChild.tagName") == "IMG", "pictures come first"
            assert page.value(f"{section}.querySelector('details').open") is False
            assert "stage_seconds" not in page.value(f"{section}.innerText")
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        assert "Running for" in page.value("document.getElementById('device-state').textContent")
    finally:
        view.close()
