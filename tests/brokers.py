"""Real MQTT brokers for the tests: mosquitto, with TLS, passwords and an access list."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import until

MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="needs the broker mosquitto (apt install mosquitto)")


class Broker:
    """mosquitto on free ports of its own: one plain for everybody, one with TLS, passwords and an access list."""

    def __init__(self, folder: Path, *settings: str, persistence: bool = False) -> None:
        self.folder = folder
        self.port, self.tls_port = free_ports(2)
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.tls_url = f"mqtts://localhost:{self.tls_port}"
        self.ca_file = folder / "ca.pem"
        kept = ["persistence true", f"persistence_location {folder}/"] if persistence else ["persistence false"]
        (folder / "mosquitto.conf").write_text(
            "\n".join(
                [
                    "user root",
                    "per_listener_settings true",
                    *kept,
                    "log_dest file " + str(folder / "broker.log"),
                    *settings,
                    f"listener {self.port} 127.0.0.1",
                    "allow_anonymous true",
                    f"listener {self.tls_port} 127.0.0.1",
                    "allow_anonymous false",
                    f"password_file {folder / 'passwords'}",
                    f"acl_file {folder / 'acl'}",
                    f"certfile {folder / 'server.pem'}",
                    f"keyfile {folder / 'server.key'}",
                ]
            )
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(MOSQUITTO), "-c", str(self.folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def listens() -> bool:
            assert self.process.poll() is None, (self.folder / "broker.log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.tls_port), 1):
                return True
            return False

        until(listens)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)


def make_secrets(folder: Path) -> None:
    """A certificate authority, the broker's certificate, another authority; passwords, and who may do what.

    Users one and two publish under site/{user}, viewer reads everything; each password is password-{user}.
    """
    for name in ("ca", "other"):
        openssl(
            folder,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            f"/CN=test {name}",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
        )
    openssl(
        folder,
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    openssl(
        folder,
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    )
    for user in ("one", "two", "viewer"):
        subprocess.run(
            ["mosquitto_passwd", "-b", *(["-c"] if user == "one" else []), "passwords", user, f"password-{user}"],
            cwd=folder,
            capture_output=True,
            check=True,
        )
    rules = [f"user {name}\ntopic write site/{name}/#\n" for name in ("one", "two")]
    (folder / "acl").write_text("\n".join(rules) + "\nuser viewer\ntopic read #\n")


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broker")
    make_secrets(folder)
    return folder


@pytest.fixture
def start_broker(secrets: Path, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Start a broker with more settings than it has."""
    with contextlib.ExitStack() as stack:

        def start(*settings: str, persistence: bool = False) -> Broker:
            folder = tmp_path / "broker"
            shutil.copytree(secrets, folder)
            broker = Broker(folder, *settings, persistence=persistence)
            stack.callback(broker.stop)
            return broker

        yield start


@pytest.fixture
def broker(start_broker: Callable[..., Broker]) -> Broker:
    return start_broker()
