"""The dashboard in a real Chromium, against the real service. Screenshots go to out/screenshots."""

import base64
import datetime
import json
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests

import rjpeg
from tests.service import Service, make_token

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "out" / "screenshots"
SIZE = (240, 320)
START = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
ATTACK = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"

TASK = f"""
ATTACK = {ATTACK!r}

def look(frame, meta):
    if meta["camera"] == "fails":
        raise ValueError(ATTACK)
    if meta["camera"] == "odd":
        return {{ATTACK: [ATTACK, {{"deep": ATTACK}}]}}
    return [
        {{"index": 0, "score": 0.75, "label": ATTACK, "box": [32, 24, 160, 120]}},
        {{"index": 1, "score": 0.125, "label": "moose"}},
    ]
"""


def frame_of(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A piece of a photograph, another for every number."""
    picture = cv2.imread(str(ROOT / "calibration_data" / "moose.jpg"))
    height, width = size
    picture = cv2.resize(picture, (width + 64, height + 48), interpolation=cv2.INTER_AREA)
    y, x = (7 * number) % 48, (11 * number) % 64
    return np.ascontiguousarray(picture[y : y + height, x : x + width])


class Camera:
    """Sends frames that were captured a second after each other, from `start` on; None: now."""

    def __init__(self, service: Service, name: str, token: str | None = None, start: Any = START) -> None:
        self.service, self.name, self.start = service, name, start
        self.headers = {"Content-Type": "image/jpeg"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self.sent = 0
        self.encoder = rjpeg.Encoder()

    def send(self, frames: int = 1, **headers: str) -> dict[str, Any]:
        """Send frames; the record of the last."""
        record: dict[str, Any] = {}
        for _ in range(frames):
            captured = datetime.datetime.now(datetime.UTC)
            if self.start is not None:
                captured = self.start + datetime.timedelta(seconds=self.sent)
            about = {"Rjpeg-Sequence": str(self.sent), "Rjpeg-Capture-Time": captured.isoformat()}
            body = self.encoder.encode(frame_of(self.sent), quality=40)
            answer = requests.post(
                self.service.post_url(self.name), data=body, headers=self.headers | about | headers, timeout=60
            )
            assert answer.status_code == 201, answer.text
            record = answer.json()
            self.sent += 1
        return record


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Open a page; at the end of the test nothing may have been complained of, or asked of another host."""
    contexts, complaints, elsewhere = [], [], []
    allowed = ["Canvas2D: Multiple readback"]  # the test reads

    def opener(
        url: str, *, width: int = 1280, height: int = 900, scheme: str = "light", complaint: str = "", **more: Any
    ) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **more)
        context.set_default_timeout(30000)
        contexts.append(context)
        page = context.new_page()
        if complaint:
            allowed.append(complaint)
        origin = re.match(r"https?://[^/]+", url)[0]
        page.on("request", lambda request: request.url.startswith(origin) or elsewhere.append(request.url))
        page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    yield opener
    for context in contexts:
        context.close()
    assert elsewhere == []
    assert [text for text in complaints if not any(re.search(pattern, text) for pattern in allowed)] == []


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a task and with cameras: yard has 130 frames, odd, fails and hostile-metrics one each."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "hostile_task.py").write_text(TASK)
    (folder / "task.yaml").write_text("kind: python\nfunction: hostile_task:look\n")
    service = Service("--task", folder / "task.yaml", data=folder / "data", environment={"PYTHONPATH": str(folder)})
    Camera(service, "yard").send(130)
    for name in ("odd", "fails"):
        Camera(service, name).send()
    # ASCII only: it is a header
    Camera(service, "hostile-metrics").send(**{"Rjpeg-Metrics": json.dumps({ATTACK: ATTACK, "dropped": {"full": 3}})})
    yield service
    service.stop()


def until(condition: Callable[[], Any], page: Any, seconds: float = 20.0) -> None:
    """Wait until something is true, while the page lives on."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        page.wait_for_timeout(50)


def shown_frame(page: Any) -> int:
    """The id of the frame that is shown, 0 where there is none."""
    found = re.match(r"Frame (\d+)", page.locator("#picture").get_attribute("aria-label") or "")
    return int(found[1]) if found else 0


def pixels(page: Any, canvas: str) -> np.ndarray:
    """(H, W, 4) uint8 RGBA of a canvas."""
    # a list of numbers would take seconds on its way
    width, height, data = page.evaluate(
        """id => { const c = document.getElementById(id);
           const bytes = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
           let text = "";
           for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
           return [c.width, c.height, btoa(text)]; }""",
        canvas,
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)


def box_of(page: Any, selector: str) -> dict[str, float]:
    """Where an element is drawn, {x, y, width, height} in pixels; the page may draw it anew in the meantime."""
    boxes: list[Any] = []

    def drawn() -> bool:
        boxes.append(page.locator(selector).bounding_box())
        return boxes[-1] is not None

    until(drawn, page)
    return boxes[-1]


def screenshot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"{name}.png"), full_page=True)


def choose(page: Any, value: str) -> None:
    page.get_by_role("radio", name=value, exact=True).check(force=True)


def test_the_overview_shows_every_camera_and_leads_to_it(looked_at, open_page):
    page = open_page(looked_at.url)
    until(lambda: page.locator(".card").count() == 4, page)
    assert page.locator(".card h2").all_inner_texts() == ["fails", "hostile-metrics", "odd", "yard"]
    yard = page.locator(".card", has_text="yard")
    until(lambda: yard.locator("img").evaluate("image => image.naturalWidth > 0"), page)
    figures = dict(zip(yard.locator("dt").all_inner_texts(), yard.locator("dd").all_inner_texts(), strict=True))
    assert list(figures) == ["Age", "Frames/s", "Bit rate", "bpp", "Drops", "Frames"]
    assert figures["Frames"] == "130"
    assert page.locator(".card", has_text="hostile-metrics").locator("dd").nth(4).inner_text() == "3"
    screenshot(page, "overview")
    page.get_by_role("searchbox").fill("YAR")
    until(lambda: page.locator(".card:visible").count() == 1, page)
    page.get_by_role("link", name="yard").click()
    until(lambda: shown_frame(page) > 0, page)
    assert page.title() == "yard – Region JPEG"
    page.go_back()
    until(lambda: page.locator("#overview").is_visible() and page.locator(".card").count() == 4, page)


def test_the_toggles_change_the_picture(looked_at, open_page):
    page = open_page(f"{looked_at.url}/?camera=yard")
    record = looked_at.frames("yard")[-1]
    until(lambda: shown_frame(page) == record["id"], page)

    decoded = pixels(page, "picture")[:, :, 2::-1]
    truth = looked_at.picture(record)
    assert decoded.shape == truth.shape == (*SIZE, 3)
    assert np.abs(decoded.astype(int) - truth).mean() < 3  # it comes as a JPEG for the eye

    choose(page, "Plain viewer")
    until(lambda: "plain viewer" in page.locator("#picture").get_attribute("aria-label"), page)
    plain = pixels(page, "picture")[:, :, 2::-1]
    as_opencv = cv2.imdecode(np.frombuffer(looked_at.jpeg(record), np.uint8), cv2.IMREAD_COLOR)
    assert plain.shape == as_opencv.shape == (record["coding_height"], record["coding_width"], 3)
    assert np.abs(plain.astype(int) - as_opencv).mean() < 3
    assert np.abs(cv2.resize(plain, SIZE[::-1]).astype(int) - decoded).mean() > 1

    choose(page, "Decoded")
    frame = f"/v1/cameras/yard/frames/{record['id']}"
    answer = looked_at.get(f"{frame}/map").json()
    without = page.locator("#stage").screenshot()
    for choice, values in (
        ("Map overlay", np.array(answer["quality"])[..., 0]),
        ("Bits per region", np.log1p(answer["bits"])),
    ):
        choose(page, choice)
        until(lambda: page.locator("#overlay").is_visible() and page.locator("#legend").is_visible(), page)
        page.wait_for_timeout(300)
        colors = pixels(page, "overlay")[..., :3].astype(int)
        assert colors.shape == (answer["rows"], answer["cols"], 3)
        # along the ramp green only grows
        assert np.corrcoef(colors[..., 1].ravel(), values.ravel())[0, 1] > 0.95
        assert page.locator("#stage").screenshot() != without
        screenshot(page, choice.lower().replace(" ", "-"))
    # a region is 16x16 pixels of what was coded, to the pixel of the screen
    stage, overlay = box_of(page, "#stage"), box_of(page, "#overlay")
    assert overlay["width"] == pytest.approx(stage["width"] * 16 * answer["cols"] / record["coding_width"], abs=1)
    assert overlay["height"] == pytest.approx(stage["height"] * 16 * answer["rows"] / record["coding_height"], abs=1)

    choose(page, "None")
    until(lambda: page.locator("#overlay").is_hidden(), page)
    assert page.locator("#legend").is_hidden()


def test_the_timeline_can_be_stepped_through(looked_at, open_page):
    ids = [record["id"] for record in looked_at.frames("yard")]
    page = open_page(f"{looked_at.url}/?camera=yard")
    until(lambda: shown_frame(page) == ids[-1], page)
    until(lambda: page.locator("#bars rect").count() == 120, page)
    heights = page.locator("#bars rect").evaluate_all("all => all.map(bar => Number(bar.getAttribute('height')))")
    assert sum(height > 0 for height in heights) > 100  # 130 frames, a second after each other

    def press(name: str, expected: int) -> None:
        page.get_by_role("button", name=name).click()
        until(lambda: shown_frame(page) == expected, page)

    press("Previous", ids[-2])
    assert page.locator("#live").get_attribute("aria-pressed") == "false"
    assert f"frame={ids[-2]}" in page.url
    for number in range(3, 60):  # over the edge of what is fetched at a time
        press("Previous", ids[-number])
    press("Next", ids[-58])
    press("Oldest", ids[0])
    press("Previous", ids[0])
    for number in range(1, 12):
        press("Next", ids[number])
    time_of_frame = START + datetime.timedelta(seconds=11)
    shown = page.locator("#time").get_attribute("aria-valuetext")
    assert shown == f"{time_of_frame.astimezone():%Y-%m-%d %H:%M:%S}.000, frame {ids[11]}"
    screenshot(page, "timeline")

    # anywhere on the bars
    box = box_of(page, "#time")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    until(lambda: abs(ids.index(shown_frame(page)) - 65) <= 3, page)
    # past the newest is live
    page.goto(f"{looked_at.url}/?camera=yard&frame={ids[-2]}")
    until(lambda: shown_frame(page) == ids[-2], page)
    assert page.locator("#badge").inner_text() == "Past"
    press("Next", ids[-1])
    page.get_by_role("button", name="Next").click()
    until(lambda: page.locator("#live").get_attribute("aria-pressed") == "true", page)


def test_a_late_answer_about_the_newest_frame_takes_nobody_back_to_it(looked_at, open_page):
    ids = [record["id"] for record in looked_at.frames("yard")]
    page = open_page(looked_at.url)
    held: list[Any] = []
    asked: list[str] = []

    def hold_all_but_the_first(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.continue_()
        else:
            held.append(route)

    page.route("**/frames/latest", hold_all_but_the_first)
    page.goto(f"{looked_at.url}/?camera=yard")
    until(lambda: shown_frame(page) == ids[-1] and held, page)  # the events are open: it is asked for again
    page.get_by_role("button", name="Previous").click()
    until(lambda: shown_frame(page) == ids[-2], page)
    for route in held:
        with page.expect_response("**/frames/latest"):
            route.continue_()
    page.wait_for_timeout(300)
    assert shown_frame(page) == ids[-2]
    page.get_by_role("button", name="Previous").click()
    until(lambda: shown_frame(page) == ids[-3], page)


def test_the_keyboard_alone_reaches_everything(looked_at, open_page):
    page = open_page(looked_at.url)
    until(lambda: page.locator(".card").count() == 4, page)
    seen = []
    while True:
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.innerText || document.activeElement.type")
        if name in seen:
            break
        seen.append(name)
        if name == "yard":
            # what has the focus shows it
            assert page.locator(".card:focus-within").evaluate("card => getComputedStyle(card).outlineStyle") == "solid"
            break
    assert seen[:2] == ["Skip to content", "Region JPEG"]
    assert seen[2:] == ["search", "fails", "hostile-metrics", "odd", "yard"]
    page.keyboard.press("Enter")
    until(lambda: shown_frame(page) == looked_at.frames("yard")[-1]["id"], page)

    expected = [
        "viewer",
        "view",
        "overlay",
        "span",
        "time",
        "oldest",
        "previous",
        "next",
        "live",
        "get-jpeg",
        "get-png",
        "get-map",
    ]
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        name, outlined = page.evaluate(
            """() => { const it = document.activeElement, near = it.closest("#track") ?? it.nextElementSibling ?? it;
               return [it.id || it.name || it.tagName,
                       [it, near].some(e => getComputedStyle(e).outlineStyle === "solid")]; }"""
        )
        reached.append(name)
        assert outlined or name in ("BODY", "main"), name
    positions = [reached.index(name) for name in expected]
    assert positions == sorted(positions)


def test_the_keyboard_alone_operates_everything(looked_at, open_page):
    page = open_page(f"{looked_at.url}/?camera=yard")
    ids = [record["id"] for record in looked_at.frames("yard")]
    until(lambda: shown_frame(page) == ids[-1], page)
    page.locator("#viewer").focus()
    for key, frame in (("ArrowLeft", -2), ("ArrowLeft", -3), ("ArrowRight", -2), ("PageUp", -12), ("PageDown", -2)):
        page.keyboard.press(key)
        until(lambda frame=frame: shown_frame(page) == ids[frame], page)
    assert f"Frame {ids[-2]}" in page.locator("#stepped").inner_text()  # for those who hear the page
    page.keyboard.press("Home")
    until(lambda: shown_frame(page) == ids[0], page)
    page.keyboard.press("End")
    until(lambda: page.locator("#live").get_attribute("aria-pressed") == "true", page)
    until(lambda: shown_frame(page) == ids[-1], page)

    page.locator("input[name=view]:checked").focus()
    page.keyboard.press("ArrowRight")
    until(lambda: "plain viewer" in page.locator("#picture").get_attribute("aria-label"), page)
    page.locator("input[name=overlay]:checked").focus()
    page.keyboard.press("ArrowRight")
    until(lambda: page.locator("#overlay").is_visible(), page)
    page.locator("#viewer").focus()
    page.keyboard.press("Shift+ArrowRight")
    first = page.locator("#region").inner_text()
    page.keyboard.press("Shift+ArrowRight")
    second = page.locator("#region").inner_text()
    row, column = map(int, re.match(r"Region in row (\d+), column (\d+): quality", first).groups())
    assert second.startswith(f"Region in row {row}, column {column + 1}: ")
    answer = looked_at.get(f"/v1/cameras/yard/frames/{ids[-1]}/map").json()
    bits = float(re.search(r"; ([\d,.]+) bits$", second)[1].replace(",", ""))
    assert bits == pytest.approx(answer["bits"][row - 1][column], rel=0.01)

    page.locator("#time").focus()
    page.keyboard.press("ArrowLeft")
    until(lambda: shown_frame(page) == ids[-2], page)
    page.locator("#live").focus()
    page.keyboard.press("Space")
    until(lambda: page.locator("#live").get_attribute("aria-pressed") == "true", page)
    page.locator("#span").focus()
    page.keyboard.press("Home")
    assert page.locator("#span").input_value() == "600"


CONTRASTS = """() => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
  const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]);
  const light = color => {
    const [r, g, b] = color.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = element => {
    if (!element) return [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim()) continue;
    if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    if (element.closest(".visually-hidden, noscript, option")) continue;
    const below = ground(element), text = over(parse(getComputedStyle(element).color), below);
    const [a, b] = [light(text), light(below)].sort((x, y) => y - x);
    found.push([walk.currentNode.data.trim().slice(0, 40), (a + .05) / (b + .05)]);
  }
  return found;
}"""

# controls, whose edges have to be seen: 3 to 1
EDGES = """() => [...document.querySelectorAll("button, select, input[type=search], .choice span")]
  .filter(e => e.checkVisibility())
  .map(e => [getComputedStyle(e).borderColor, getComputedStyle(document.body).backgroundColor])"""


def luminance(color: str) -> float:
    channels = np.array([float(n) for n in re.findall(r"[\d.]+", color)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_is_readable_in_light_and_dark_and_fits_a_telephone(looked_at, open_page, width, scheme):
    page = open_page(looked_at.url, width=width, height=740, scheme=scheme, has_touch=width == 360)
    until(lambda: page.locator(".card").count() == 4, page)

    def check(name: str) -> None:
        page.wait_for_timeout(500)
        screenshot(page, f"{name}-{scheme}-{width}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        texts = page.evaluate(CONTRASTS)
        assert len(texts) > 15
        assert [(text, round(ratio, 2)) for text, ratio in texts if ratio < 4.5] == []
        for edge, ground in page.evaluate(EDGES):
            low, high = sorted((luminance(edge), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 3, (edge, ground)
        # large enough for a finger
        sizes = page.evaluate(
            "[...document.querySelectorAll('button, select, .choice label')].filter(e => e.checkVisibility())"
            ".map(e => e.getBoundingClientRect().height)"
        )
        assert min(sizes, default=44) >= 43.9

    check("overview")
    expected = "rgb(15, 19, 23)" if scheme == "dark" else "rgb(244, 246, 248)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == expected
    page.goto(f"{looked_at.url}/?camera=yard")
    until(lambda: shown_frame(page) > 0, page)
    choose(page, "Map overlay")
    until(lambda: page.locator("#overlay").is_visible(), page)
    check("camera")
    page.goto(f"{looked_at.url}/?camera=fails")
    until(lambda: shown_frame(page) > 0, page)
    check("failing-task")


def test_everything_has_a_name_and_the_page_says_little_by_itself(looked_at, open_page):
    page = open_page(f"{looked_at.url}/?camera=yard")
    until(lambda: shown_frame(page) > 0, page)
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, a, input, select, img, canvas:not([hidden])")]
           .filter(e => e.checkVisibility() && !e.closest("[aria-hidden=true]"))
           .filter(e => !(e.ariaLabel || e.innerText?.trim() || e.alt !== undefined && e.tagName === "IMG"
                          || e.labels?.length && e.labels[0].innerText.trim())).map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("h1:visible").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    duplicates = page.evaluate(
        "[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i)"
    )
    assert duplicates == []
    references = page.evaluate(
        """[...document.querySelectorAll("[aria-labelledby], [aria-describedby], label[for]")].flatMap(e =>
           ["aria-labelledby", "aria-describedby", "for"].flatMap(name => (e.getAttribute(name) ?? "").split(" ")))
           .filter(id => id && !document.getElementById(id))"""
    )
    assert references == []
    # while pictures come nothing is said
    until(lambda: page.locator("#connection").inner_text() == "Connected", page)
    page.evaluate(
        """() => { window.said = []; const told = new MutationObserver(all => window.said.push(...all));
           for (const e of document.querySelectorAll("[role=status], [role=alert], [aria-live]"))
             told.observe(e, { childList: true, characterData: true, subtree: true }); }"""
    )
    camera = Camera(looked_at, "yard", start=None)
    camera.sent = 1000
    last = camera.send(3)
    until(lambda: shown_frame(page) == last["id"], page)
    said = page.evaluate("window.said.map(change => change.target.textContent)")
    assert [text for text in said if "silent" not in text and text] == []


def test_what_the_network_says_is_text_and_never_markup(looked_at, open_page):
    page = open_page(f"{looked_at.url}/?camera=yard", complaint="status of 40[04]|MIME type")
    until(lambda: shown_frame(page) > 0, page)
    assert page.locator("#results .bar-name span").first.inner_text() == ATTACK
    box = page.locator("#boxes div")
    assert ATTACK in box.inner_text()
    stage, drawn = box_of(page, "#stage"), box.bounding_box()
    assert drawn["x"] - stage["x"] == pytest.approx(0.1 * stage["width"], abs=1)
    assert drawn["width"] == pytest.approx(0.4 * stage["width"], abs=1)
    assert drawn["height"] == pytest.approx(0.4 * stage["height"], abs=1)

    for camera, where in (("odd", "#results pre"), ("fails", "#results .bad"), ("hostile-metrics", "#device")):
        page.goto(f"{looked_at.url}/?camera={camera}")
        until(lambda: shown_frame(page) > 0, page)
        said = page.locator(where).evaluate("element => element.textContent")
        assert (json.dumps(ATTACK)[1:-1] if camera == "odd" else ATTACK) in said

    # names that no camera of this server can have, from a server that lies
    record = looked_at.get("/v1/cameras").json()["cameras"][0]
    lie = {"cameras": [record | {"camera": ATTACK, "last_frame": "../../../x"}, record | {"camera": "../../etc"}]}
    page.route("**/v1/cameras", lambda route: route.fulfill(json=lie))
    page.route("**/frames/**", lambda route: route.fulfill(status=404, json={"error": ATTACK}))
    page.goto(looked_at.url)
    until(lambda: page.locator(".card").count() == 2, page)
    assert sorted(page.locator(".card h2").all_inner_texts()) == ["../../etc", ATTACK]
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("link", name=ATTACK).click()
    until(lambda: page.locator("#no-such-camera").is_visible(), page)
    assert page.locator("#camera-name").inner_text() == ATTACK
    assert not any("<" in url or url.endswith("/x") for url in asked)
    assert page.title() == f"{ATTACK} – Region JPEG"
    assert page.locator("img[src='x']").count() == 0
    assert page.locator("main script").count() == 0


ALERT_TASK = """
def look(frame, meta):
    if meta["sequence"] not in range(20, 30):
        return []
    return [{"index": 0, "score": 0.75, "label": "person", "box": [32, 24, 160, 120]}]
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose rule `somebody` held on camera `door` from its frame 20 to 29 of 60, a second apart."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "alert_task.py").write_text(ALERT_TASK)
    (folder / "config.yaml").write_text(
        "task: {kind: python, function: 'alert_task:look'}\nrules: [{name: somebody, classes: [person], pause: 5}]\n"
    )
    environment = {"PYTHONPATH": str(folder)}
    service = Service("--config", folder / "config.yaml", data=folder / "data", environment=environment)
    Camera(service, "door").send(60)

    def is_over() -> bool:
        alerts = service.get("/v1/cameras/door/alerts").json()["alerts"]
        return [alert["until"] for alert in alerts] == ["2026-03-04T05:06:36.000000Z"]

    deadline = time.monotonic() + 20
    while not is_over():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield service
    service.stop()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_an_alert_is_a_mark_on_the_timeline_and_a_button_that_goes_there(watched, open_page, width, scheme):
    page = open_page(f"{watched.url}/?camera=door", width=width, scheme=scheme)
    button = page.locator("#alerts button")
    until(lambda: button.count() == 1, page)
    assert button.inner_text().startswith("somebody, ")
    assert button.inner_text().endswith("for 9.0 s")
    track, mark = box_of(page, "#track"), box_of(page, "#marks div")
    # 60 frames in 59 s, with the margins of "Everything"
    assert (mark["x"] - track["x"]) / track["width"] == pytest.approx(20 / 59, abs=0.03)
    assert mark["width"] / track["width"] == pytest.approx(9 / 59, abs=0.03)
    assert page.locator("#boxes div").count() == 0
    button.click()
    until(lambda: page.locator("#boxes div").count() == 1, page)
    assert page.locator("#boxes div").inner_text() == "person 0.75"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=SCREENSHOTS / f"alert-{width}-{scheme}.png", full_page=True)


def test_the_shown_time_can_be_had_as_a_clip(watched, open_page):
    page = open_page(f"{watched.url}/?camera=door", accept_downloads=True)
    link = page.get_by_role("link", name="Clip of this time, MP4")
    until(link.is_visible, page)
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "door-20260304T050607Z.mp4"
    content = Path(download.value.path()).read_bytes()
    assert content[4:8] == b"ftyp"


@pytest.fixture(scope="module")
def followed(stream: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a camera `street` that sent a stream and has a map of importance, and `calm`, which has none."""
    service = Service(data=tmp_path_factory.mktemp("followed"))
    for number, file in enumerate(stream.files):
        captured = START + datetime.timedelta(seconds=number)
        about = {"Rjpeg-Sequence": str(number), "Rjpeg-Capture-Time": captured.isoformat()}
        headers = {"Content-Type": "image/jpeg"} | about
        answer = requests.post(service.post_url("street"), data=file.jpeg, headers=headers, timeout=60)
        assert answer.status_code == 201, answer.text
    octaves = np.zeros((3, 4), np.float32)
    octaves[1, 2] = 4
    answer = requests.put(
        f"{service.url}/v1/cameras/street/importance",
        data=rjpeg.pack_importance(octaves, 1),
        headers={"Content-Type": "application/octet-stream"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    Camera(service, "calm").send()
    yield service
    service.stop()


def test_a_follower_is_shown_whole_as_a_viewer_shows_it_or_with_what_it_sent_alone(followed, open_page, stream):
    record = followed.frames("street")[-1]
    decoded = stream.decoded[-1]
    page = open_page(f"{followed.url}/?camera=street")
    until(lambda: shown_frame(page) == record["id"], page)
    shown = pixels(page, "picture")[:, :, 2::-1].astype(int)
    assert np.abs(shown - decoded.frame).mean() < 3
    kind = page.locator("#frame-facts tr", has_text="Kind").inner_text()
    assert record["kind"].capitalize() in kind
    assert f"keeps {100 * record['kept']:.3g} % of the regions" in kind
    assert "needs frame 1" in kind

    choose(page, "Sent regions only")
    until(lambda: "only the regions" in page.locator("#picture").get_attribute("aria-label"), page)
    sent = pixels(page, "picture")[:, :, 2::-1].astype(int)
    of_frame = cv2.resize(decoded.kept.astype(np.uint8), sent.shape[1::-1], interpolation=cv2.INTER_NEAREST) == 1
    # some of the pixels, since regions are not all of one size there
    assert np.median(np.abs(sent - decoded.frame).max(axis=2)[of_frame]) > 20
    assert np.median(np.abs(sent - decoded.frame).max(axis=2)[~of_frame]) < 10
    screenshot(page, "sent-only")

    choose(page, "Plain viewer")
    until(lambda: "plain viewer" in page.locator("#picture").get_attribute("aria-label"), page)
    tiles = pixels(page, "picture")[:, :, 2::-1]
    as_opencv = cv2.imdecode(np.frombuffer(followed.jpeg(record), np.uint8), cv2.IMREAD_COLOR)
    assert tiles.shape == as_opencv.shape
    assert f"the file's tiles in {tiles.shape[1]}x{tiles.shape[0]}" in page.locator("#caption").inner_text()
    # no region of the frame lies where it does in a picture of tiles
    choose(page, "Map overlay")
    page.wait_for_timeout(300)
    assert page.locator("#overlay").is_hidden()
    screenshot(page, "tiles")
    choose(page, "Decoded")
    until(lambda: page.locator("#overlay").is_visible(), page)


def test_kept_regions_are_drawn_apart_and_told_of(followed, open_page):
    record = followed.frames("street")[1]
    answer = followed.get(f"/v1/cameras/street/frames/{record['id']}/map").json()
    kept = np.array(answer["kept"])
    page = open_page(f"{followed.url}/?camera=street&frame={record['id']}")
    until(lambda: shown_frame(page) == record["id"], page)
    for choice in ("Map overlay", "Bits per region"):
        choose(page, choice)
        until(lambda: page.locator("#overlay").is_visible(), page)
        page.wait_for_timeout(300)
        colors = pixels(page, "overlay")[..., :3]
        assert (colors[kept] == 110).all()
        assert not (colors[~kept] == 110).all(axis=1).any()
        told = page.locator("#legend-kept").inner_text()
        assert f"{kept.sum()} of {kept.size} regions are kept" in told
    page.locator("#viewer").focus()
    page.keyboard.press("Shift+ArrowRight")
    region = page.locator("#region").inner_text()
    middle = answer["rows"] // 2, answer["cols"] // 2
    assert ("kept, not sent" in region) == bool(kept[middle])
    # nothing of that on a key
    page.get_by_role("button", name="Oldest").click()
    until(lambda: shown_frame(page) == followed.frames("street")[0]["id"], page)
    until(lambda: page.locator("#legend-kept").is_hidden(), page)


def test_the_camera_s_importance_lies_over_the_whole_picture(followed, open_page):
    page = open_page(f"{followed.url}/?camera=street")
    until(lambda: shown_frame(page) > 0, page)
    choose(page, "Importance")
    until(lambda: page.locator("#overlay").is_visible(), page)
    colors = pixels(page, "overlay")[..., :3].astype(int)
    assert colors.shape == (3, 4, 3)
    assert colors[1, 2, 1] > colors[0, 0, 1]
    assert len({tuple(color) for color in colors.reshape(-1, 3)}) == 2
    stage, overlay = box_of(page, "#stage"), box_of(page, "#overlay")
    assert (overlay["width"], overlay["height"]) == pytest.approx((stage["width"], stage["height"]), abs=1)
    assert "importance map, version 1" in page.locator("#legend-title").inner_text()
    assert page.locator("#legend-high").inner_text() == "4"
    screenshot(page, "importance")
    # one that is damaged is told of, and the picture stays
    page.route("**/importance", lambda route: route.fulfill(body=b"RJIM\x01"))
    page.reload()
    until(lambda: shown_frame(page) > 0, page)
    choose(page, "Importance")
    until(lambda: "importance map can't be read" in page.locator("#stage-note").inner_text(), page)


def test_of_a_camera_without_importance_that_is_said(followed, open_page):
    page = open_page(f"{followed.url}/?camera=calm", complaint="status of 404")
    until(lambda: shown_frame(page) > 0, page)
    choose(page, "Importance")
    until(lambda: "has no importance map" in page.locator("#legend-title").inner_text(), page)
    assert page.locator("#overlay").is_hidden()


def test_the_timeline_tells_the_bytes_of_keys_and_of_followers(followed, open_page, stream):
    page = open_page(f"{followed.url}/?camera=street")
    until(lambda: page.locator("#bar-kinds").is_visible(), page)
    followers = sum(len(file.jpeg) for file in stream.files[1:])
    assert page.locator("#key-bytes").inner_text() == f"{len(stream.files[0].jpeg) / 1000:.3g} kB of keys"
    assert page.locator("#follower-bytes").inner_text() == f"{followers / 1000:.3g} kB of followers"
    parts = page.locator("#follower-bars path").get_attribute("d")
    assert parts.count("M") == len(stream.files) - 1
    screenshot(page, "followers")
    page.goto(f"{followed.url}/?camera=calm")
    until(lambda: shown_frame(page) > 0, page)
    page.wait_for_timeout(500)
    assert page.locator("#bar-kinds").is_hidden()


def test_the_overview_shows_decoded_pictures_whatever_the_files_are(followed, open_page):
    page = open_page(followed.url)
    until(lambda: page.locator(".card img[src]").count() == 2, page)
    shown = page.locator(".card img").evaluate_all("all => all.map(image => image.getAttribute('src'))")
    assert all(path.endswith("/picture?format=jpeg") for path in shown)


def test_it_says_what_plain_jpeg_would_take_and_what_that_is_based_on(followed, open_page, stream):
    page = open_page(f"{followed.url}/?camera=street")
    until(lambda: page.locator("#bandwidth-bars").is_visible(), page)

    def answer() -> dict[str, Any]:
        return followed.get("/v1/cameras/street/bandwidth").json()

    until(lambda: answer()["sample"] == len(stream.files), page)
    told = answer()
    page.reload()
    until(lambda: page.locator("#bandwidth-bars").is_visible(), page)
    saved = round(100 * (1 - told["bpp"] / told["plain_jpeg_bpp"]))
    assert page.locator("#saving").inner_text().startswith(f"{saved} % fewer bits than plain JPEG files")
    ours, plain = (box_of(page, f"#{bar}-bar")["width"] for bar in ("ours", "plain"))
    assert ours / plain == pytest.approx(told["bpp"] / told["plain_jpeg_bpp"], abs=0.02)
    keys = round(100 * (1 - told["follower_bytes"] / told["bytes"]))
    source = page.locator("#bandwidth-source").inner_text()
    assert f"all {len(stream.files)} files of the hour up to the last frame, {keys} % of the bytes in keys" in source
    assert f"{told['sample']} of the frames" in source
    # while nothing was compared yet there is no figure
    page.route("**/bandwidth", lambda route: route.fulfill(json=told | {"plain_jpeg_bpp": None, "ratio": None}))
    page.reload()
    until(lambda: "to compare" in page.locator("#saving").inner_text(), page)
    assert page.locator("#bandwidth-bars").is_hidden()


def test_new_frames_appear_by_themselves(start, open_page, tmp_path):
    service = start(data=tmp_path / "data")
    # what is asked of a camera that doesn't exist yet is complained of
    page = open_page(service.url, permissions=["clipboard-read", "clipboard-write"], complaint="status of 404")
    until(lambda: page.locator("#no-camera").is_visible(), page)
    command = f'make capture ARGS="--source sample --server {service.url}"'
    assert page.locator("#start-command").inner_text() == command
    page.get_by_role("button", name="Copy command").click()
    assert page.evaluate("navigator.clipboard.readText()") == command
    screenshot(page, "no-camera")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    camera = Camera(service, "door", start=None)
    camera.send()
    until(lambda: page.locator(".card").count() == 1, page, 5)
    assert page.locator("#no-camera").is_hidden()
    assert page.locator(".card .state").inner_text() == "Live"
    first = page.locator(".card img").get_attribute("src")
    second = camera.send()
    until(lambda: f"/{second['id']}/" in (page.locator(".card img").get_attribute("src") or ""), page, 5)
    assert page.locator(".card img").get_attribute("src") != first

    page.get_by_role("link", name="door").click()
    until(lambda: shown_frame(page) == second["id"], page)
    before = pixels(page, "picture")
    third = camera.send()
    until(lambda: shown_frame(page) == third["id"], page, 3)
    assert not np.array_equal(pixels(page, "picture"), before)
    assert page.locator("#results").inner_text() == "The server runs no task. Its --task names one."
    # who looks at the past is not disturbed
    page.get_by_role("button", name="Previous").click()
    until(lambda: shown_frame(page) == second["id"], page)
    camera.send()
    page.wait_for_timeout(1000)
    assert shown_frame(page) == second["id"]

    # a camera that doesn't exist yet
    page.goto(f"{service.url}/?camera=cellar")
    until(lambda: page.locator("#no-such-camera").is_visible(), page)
    arrived = Camera(service, "cellar", start=None).send()
    until(lambda: shown_frame(page) == arrived["id"], page, 10)


@pytest.mark.release
def test_of_a_hundred_cameras_only_pictures_that_are_looked_at_are_fetched(start, open_page, tmp_path):
    service = start(data=tmp_path / "data")
    body = cv2.imencode(".jpg", frame_of(0, (48, 64)))[1].tobytes()

    def send(number: int) -> None:
        headers = {"Content-Type": "image/jpeg"}
        assert requests.post(service.post_url(f"cam-{number:03}"), data=body, headers=headers, timeout=60).ok

    for number in range(100):
        send(number)
    asked = []
    page = open_page(service.url)
    page.on("request", lambda request: request.url.endswith("/picture?format=jpeg") and asked.append(request.url))
    page.reload()
    until(lambda: page.locator(".card").count() == 100, page)
    until(lambda: len(asked) >= 8, page)
    page.wait_for_timeout(1000)
    assert len(asked) < 30
    # events of all cameras come over one connection
    for number in range(0, 100, 2):
        send(number)
    until(lambda: page.locator(".card dd", has_text=re.compile(r"^2$")).count() == 50, page)
    page.get_by_role("searchbox").fill("cam-09")
    until(lambda: page.locator(".card:visible").count() == 10, page)
    last = page.locator(".card", has_text="cam-099")
    until(lambda: last.locator("img").evaluate("image => image.naturalWidth > 0"), page)
    page.get_by_role("searchbox").fill("kitchen")
    until(lambda: page.locator("#no-match").is_visible(), page)


@pytest.mark.release
def test_a_camera_that_falls_silent_is_told_of(start, open_page, tmp_path):
    service = start(data=tmp_path / "data")
    Camera(service, "door", start=None).send(3)
    service.stop()
    time.sleep(10)
    again = start(data=tmp_path / "data")
    page = open_page(again.url, scheme="dark")
    until(lambda: page.locator(".card .state").inner_text().startswith("Silent for "), page)
    until(lambda: page.locator(".card img").evaluate("image => image.naturalWidth > 0"), page)
    screenshot(page, "silent")
    page.get_by_role("link", name="door").click()
    until(lambda: "has been silent since" in page.locator("#camera-notice").inner_text(), page)
    until(lambda: shown_frame(page) > 0, page)


def test_it_reconnects_when_the_server_is_back_and_catches_up(start, open_page, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = start(data=tmp_path / "data", port=port)
    camera = Camera(service, "door", start=None)
    first = camera.send()
    page = open_page(f"{service.url}/?camera=door", complaint="Failed to load resource|ERR_")
    overview = open_page(service.url, complaint="Failed to load resource|ERR_")
    until(lambda: shown_frame(page) == first["id"], page)
    until(lambda: page.locator("#connection").inner_text() == "Connected", page)
    service.stop()
    for view in (page, overview):
        until(lambda view=view: "does not answer" in view.locator("#connection").inner_text(), view)
    assert shown_frame(page) == first["id"]  # the last picture stays
    # that the server is away says nothing of the camera
    until(lambda: overview.locator(".card .state").inner_text() == "Not known", overview)
    screenshot(page, "server-gone")
    camera.service = start(data=tmp_path / "data", port=port)
    second = camera.send(2)
    for view in (page, overview):
        until(lambda view=view: view.locator("#connection").inner_text() == "Connected", view, 30)
    until(lambda: shown_frame(page) == second["id"], page)
    third = camera.send()
    until(lambda: shown_frame(page) == third["id"], page, 5)
    until(lambda: overview.locator(".card dd").nth(5).inner_text() == "4", overview)


def test_a_slow_network_is_told_of_and_shows_the_newest_frame(start, open_page, tmp_path):
    service = start(data=tmp_path / "data")
    camera = Camera(service, "door", start=None)
    first = camera.send()
    page = open_page(f"{service.url}/?camera=door")
    until(lambda: shown_frame(page) == first["id"], page)
    # a page that opens its events later has no frames to pass over: it asks for the latest
    until(lambda: page.locator("#connection").inner_text() == "Connected", page)
    network = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 2800, "downloadThroughput": -1, "uploadThroughput": -1}
    network.send("Network.enable")
    network.send("Network.emulateNetworkConditions", slow)
    last = camera.send(4)
    until(lambda: "Slow network" in page.locator("#stage-note").inner_text(), page)
    until(lambda: shown_frame(page) == last["id"], page, 60)
    until(lambda: page.locator("#stage-note").is_hidden(), page)
    assert "passed over" in page.locator("#caption").inner_text()


def test_log_in_and_log_out(start, open_page, tmp_path):
    data = tmp_path / "data"
    reader = make_token(data, "--reader")
    door = make_token(data, "--camera", "door")
    service = start("--auth", "on", data=data)
    last = Camera(service, "door", token=door, start=None).send()
    page = open_page(f"{service.url}/?camera=door", complaint="401")
    until(lambda: page.locator("#log-in").is_visible(), page)
    assert page.evaluate("document.activeElement.id") == "token"
    assert page.locator("#camera").is_hidden()
    assert page.evaluate(CONTRASTS)
    screenshot(page, "log-in")
    for wrong in ("nonsense", door):
        page.keyboard.type(wrong)
        page.keyboard.press("Enter")
        until(lambda: "not a reader's token" in page.locator("#token-error").inner_text(), page)
        page.locator("#token").fill("")
    page.locator("#token").focus()
    page.keyboard.type(reader)
    page.keyboard.press("Enter")
    until(lambda: shown_frame(page) == last["id"], page)
    assert page.locator("#token").input_value() == ""
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("rjpeg", True, "Strict")
    assert reader not in page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    page.reload()
    until(lambda: shown_frame(page) == last["id"], page)
    page.goto(service.url)
    until(lambda: page.locator(".card img").evaluate("image => image.naturalWidth > 0"), page)

    page.get_by_role("button", name="Log out").click()
    until(lambda: page.locator("#log-in").is_visible(), page)
    assert page.context.cookies() == []
    assert page.evaluate("fetch('v1/cameras').then(answer => answer.status)") == 401
    page.reload()
    until(lambda: page.locator("#log-in").is_visible(), page)


def test_the_command_for_a_server_with_tokens_says_how_to_make_one(start, open_page, tmp_path):
    reader = make_token(tmp_path / "data", "--reader")
    service = start("--auth", "on", data=tmp_path / "data")
    page = open_page(service.url, complaint="401", width=360)
    page.locator("#token").fill(reader)
    page.get_by_role("button", name="Log in").click()
    until(lambda: page.locator("#no-camera").is_visible(), page)
    assert "tokens add --data FOLDER --camera camera > token" in page.locator("#start-token").inner_text()
    assert page.locator("#start-command").inner_text().endswith(f'--server {service.url} --token-file token"')
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_is_files_of_this_server_without_inline_script_or_style(looked_at):
    folder = ROOT / "server" / "page"
    policy = looked_at.get("/").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'")
    assert "unsafe" not in policy
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"https?:(?!//www\.w3\.org/2000/svg)", text) == []
        assert looked_at.get(f"/page/{path.name}").text == text
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=", page)
    scripts = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", scripts)


@pytest.mark.parametrize("way", ["log-out", "revocation"])
def test_a_picture_seen_once_is_not_shown_after(way, start, open_page, tmp_path):
    data = tmp_path / "data"
    reader, door = make_token(data, "--reader"), make_token(data, "--camera", "door")
    service = start("--auth", "on", data=data)
    last = Camera(service, "door", token=door, start=None).send()
    page = open_page(f"{service.url}/?camera=door", complaint="401")
    until(lambda: page.locator("#log-in").is_visible(), page)
    page.locator("#token").fill(reader)
    page.keyboard.press("Enter")
    until(lambda: shown_frame(page) == last["id"], page)
    path = f"v1/cameras/door/frames/{last['id']}/jpeg"
    status = f"fetch('{path}').then(answer => answer.status)"
    shows = f"""new Promise((resolve) => {{
        const image = new Image();
        image.onload = () => resolve(true);
        image.onerror = () => resolve(false);
        image.src = '{path}';
    }})"""
    assert page.evaluate(status) == 200
    if way == "log-out":
        page.get_by_role("button", name="Log out").click()
    else:
        from server.cli import main

        assert main(["tokens", "revoke", reader.split("_")[1], "--data", str(data)]) == 0
    until(lambda: page.locator("#log-in").is_visible(), page)
    assert page.evaluate("document.querySelector('#picture').width") == 4, "nor is it in what is hidden"
    assert page.evaluate(status) == 401
    page.reload()
    until(lambda: page.locator("#log-in").is_visible(), page)
    assert page.evaluate(status) == 401
    assert page.evaluate(shows) is False
