"""The files for Prometheus and Grafana name figures that the programs give, in expressions that Prometheus takes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from device.metrics import Metrics as DeviceMetrics
from server.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "server" / "monitoring"
PROMTOOL = shutil.which("promtool")
# watched in server.core, server.api.dependencies and server.service
WATCHED = re.compile(r'watch\(\s*"(rjpeg_\w+)"')


def known_names() -> set[str]:
    """Names of the figures of both programs, as Prometheus has them."""
    device = DeviceMetrics()
    device.camera("yard").captured()
    text = Metrics().exposition().decode() + device.exposition().decode()
    names = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    for file in (ROOT / "server").rglob("*.py"):
        names.update(WATCHED.findall(file.read_text("utf-8")))
    return names


def alerts() -> list[str]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def dashboard() -> list[str]:
    panels = json.loads((FOLDER / "grafana.json").read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("expressions", [alerts, dashboard])
def test_every_figure_that_is_asked_for_is_given(expressions):
    names = known_names()
    asked = {name for text in expressions() for name in re.findall(r"\brjpeg_\w+", text)}
    plain = {name.removesuffix("_bucket") for name in asked}
    assert len(plain) >= 9
    assert plain <= names


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's prometheus has it)")
@pytest.mark.slow
def test_each_alert_fires_on_what_it_is_for():
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        done = subprocess.run([PROMTOOL, *command], cwd=FOLDER, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's prometheus has it)")
@pytest.mark.slow
def test_prometheus_takes_each_expression_of_the_dashboard(tmp_path):
    plain = [text.replace("$camera", ".*") for text in dashboard()]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(plain)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    done = subprocess.run([PROMTOOL, "check", "rules", "panels.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_lie_side_by_side_and_have_ids_of_their_own():
    panels = json.loads((FOLDER / "grafana.json").read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
