"""The server's service under a real systemd, booted in a container of Debian bookworm."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.brokers import free_ports
from tests.debian import ROOT, Run, booted, debian, make_wheels, needs_systemd
from tests.waiting import until

pytestmark = [pytest.mark.release, pytest.mark.timeout(2400), *needs_systemd]

JPEG = {"Content-Type": "image/jpeg"}
UNIT = "rjpeg-server"
TASK = """
def at_frame(frame, meta):
    return {"brightness": float(frame.mean()), "user": __import__("getpass").getuser()}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Boot a Debian that sees this checkout and wheels; runs a command in there."""
    wheels = tmp_path_factory.mktemp("wheels")
    make_wheels(wheels, "server")
    with booted(debian(), f"{wheels}:/wheels", f"{ROOT}:/checkout") as inside:
        yield inside


class Server:
    """The service, as systemd and a browser see it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        [port] = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"

    def show(self, name: str) -> str:
        return self._run("systemctl", "show", "--value", f"--property={name}", UNIT).stdout.strip()

    def log(self) -> str:
        return self._run("journalctl", "-u", UNIT, "-o", "cat", "--no-pager").stdout

    def is_well(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def wait(self) -> None:
        try:
            until(self.is_well, 60)
        except AssertionError:
            raise AssertionError(self.log()) from None

    def frames(self) -> list[dict[str, Any]]:
        return requests.get(f"{self.url}/v1/cameras/yard/frames", timeout=30).json()["frames"]


# One test, since its parts follow from each other and the system is one.
def test_the_service_starts_comes_back_is_upgraded_and_leaves_the_frames(run: Run, jpeg: bytes) -> None:
    server = Server(run)

    def succeeds(*command: str, given: str = "") -> str:
        done = run(*command, given=given)
        assert done.returncode == 0, done.stdout + done.stderr + server.log()
        return done.stdout + done.stderr

    def install(*arguments: str) -> str:
        return succeeds("/checkout/server/install.sh", "--wheels", "/wheels", *arguments)

    def write(path: str, text: str) -> None:
        succeeds("sh", "-c", f"cat >{path}", given=text)

    def releases() -> list[str]:
        return [name for name in run("ls", "/opt").stdout.split() if name != UNIT]

    def send() -> None:
        answer = requests.post(f"{server.url}/v1/cameras/yard/frames", data=jpeg, headers=JPEG, timeout=30)
        assert answer.status_code == 201, answer.text

    said = install("--no-start")
    assert "/etc/rjpeg-server/config.yaml has its settings" in said
    assert run("systemctl", "is-enabled", UNIT).stdout == "enabled\n"
    assert server.show("ActiveState") == "inactive"
    config = "/etc/rjpeg-server/config.yaml"
    task = "task: {kind: python, function: look:at_frame}"
    succeeds("sed", "-i", f"s|^listen: .*|listen: {server.address}|; s|^task: null|{task}|", config)
    succeeds("mkdir", "-p", "/run/systemd/system/rjpeg-server.service.d", "/srv/tasks")
    write("/srv/tasks/look.py", TASK)
    # what a person would do with systemctl edit, and so that five seconds are not waited for
    write(
        "/run/systemd/system/rjpeg-server.service.d/own.conf",
        "[Service]\nRestartSec=1\nEnvironment=PYTHONPATH=/srv/tasks\n",
    )
    succeeds("systemctl", "daemon-reload")

    # started, shut in, and as its own user
    succeeds("systemctl", "start", UNIT)
    server.wait()
    first = server.show("MainPID")
    assert run("ps", "-o", "user=", "-p", first).stdout.strip() == UNIT
    send()
    [frame] = server.frames()
    assert frame["results"]["user"] == UNIT
    picture = requests.get(f"{server.url}/v1/cameras/yard/frames/{frame['id']}/picture", timeout=30)
    assert picture.headers["Content-Type"] == "image/png"
    # the command that the installer names
    token = "cd /opt/rjpeg-server && runuser -u rjpeg-server -- venv/bin/python -m server tokens add --reader"
    assert succeeds("sh", "-c", f"{token} --config {config}").strip()

    # killed, it comes back with all that it has acknowledged
    run("kill", "-KILL", first)
    until(lambda: server.show("NRestarts") == "1" and server.show("ActiveState") == "active", 60)
    server.wait()
    assert [known["id"] for known in server.frames()] == [frame["id"]]

    # upgraded, it is the new program with the old configuration and frames
    [before] = releases()
    old = server.show("MainPID")
    install()
    server.wait()
    [after] = releases()
    assert after != before
    assert server.show("MainPID") not in ("0", old)
    assert [known["id"] for known in server.frames()] == [frame["id"]]
    send()

    # a wrong setting is told in a line, and mended while systemd goes on trying
    succeeds("sed", "-i", "s|^listen:|listne:|", config)
    run("systemctl", "restart", UNIT)
    until(lambda: "listne" in server.log(), 60)
    assert "Traceback" not in server.log()
    succeeds("sed", "-i", "s|^listne:|listen:|", config)
    server.wait()

    began = time.monotonic()
    succeeds("systemctl", "stop", UNIT)
    assert time.monotonic() - began < 25
    assert server.show("Result") == "success"

    # removed, the frames stay and are there again when it is
    succeeds("/opt/rjpeg-server/uninstall.sh")
    assert run("systemctl", "cat", UNIT).returncode != 0
    assert run("ls", "/opt").stdout == ""
    assert run("ls", "/var/lib/rjpeg-server", config).returncode == 0
    install()
    server.wait()
    assert len(server.frames()) == 2
    succeeds("/opt/rjpeg-server/uninstall.sh", "--purge")
    assert run("getent", "passwd", UNIT).returncode == 2
    assert run("ls", "/var/lib/rjpeg-server").returncode != 0
