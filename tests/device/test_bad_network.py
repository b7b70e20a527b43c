"""A link that loses packets, breaks connections and lets others fall silent, and a long way to the server.

The faults are nftables' on the server's end of the link, since not every kernel has netem; the delay is mitmproxy's.
"""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.device.link import SERVER, Hosts, Lines, seconds_old

DELAY = 0.15  # seconds each way
# One of so many packets to the server is lost, breaks its connection, or is the last that comes from there.
LOST, CUT, SILENCED = 13, 37, 41
FAULTS = f"""
table inet faults {{
  set silenced {{ type ipv4_addr . inet_service; flags dynamic; size 65536; }}
  counter lost {{ }}
  counter cut {{ }}
  counter silenced {{ }}
  chain input {{
    type filter hook input priority 0;
    iifname != "uplink" accept
    ip saddr . tcp sport @silenced drop
    numgen inc mod {LOST} == 1 counter name lost drop
    tcp flags & (syn|fin|rst) == 0 numgen inc mod {CUT} == 1 counter name cut reject with tcp reset
    numgen inc mod {SILENCED} == 1 counter name silenced add @silenced {{ ip saddr . tcp sport }} drop
  }}
}}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nftables is not installed"),
    pytest.mark.skipif(shutil.which("mitmdump") is None, reason="mitmproxy is not installed"),
]


def nft(hosts: Hosts, *arguments: str, rules: str | None = None) -> str:
    command = ["ip", "netns", "exec", hosts.server, "nft", *arguments]
    done = subprocess.run(command, input=rules, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"nftables: {done.stderr.strip()}")
    return done.stdout


def counted(hosts: Hosts) -> dict[str, int]:
    """Packets of every fault so far."""
    entries = json.loads(nft(hosts, "-j", "list", "counters"))["nftables"]
    return {entry["counter"]["name"]: entry["counter"]["packets"] for entry in entries if "counter" in entry}


@pytest.fixture
def received(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What the server says of the frames that reached it, on a bad link and a long way."""
    monkeypatch.setenv("RJPEG_DELAY", str(DELAY))
    listen = ("--listen", "127.0.0.1:8001")
    server = Lines(hosts, hosts.run(hosts.server, "-m", "server", *listen, "--data", tmp_path / "data", "--json"))
    # --tcp-hosts: passed on as bytes, whatever they mean
    proxy = hosts.run(
        hosts.server,
        "--quiet",
        "--mode",
        "reverse:http://127.0.0.1:8001",
        "--tcp-hosts",
        ".*",
        "--listen-host",
        SERVER,
        "--listen-port",
        "8000",
        "--set",
        f"confdir={tmp_path / 'mitmproxy'}",
        "--scripts",
        "tests/device/delay.py",
        program="mitmdump",
    )
    hosts.read(lambda: print(*proxy.communicate()))
    nft(hosts, "-f", "-", rules=FAULTS)
    return server


def capture(hosts: Hosts, tmp_path: Path, film: Path, policy: str, seconds: float) -> None:
    """Send frames for so long, counted from when the program and the proxy are there."""
    path = tmp_path / "camera.yaml"
    path.write_text(
        f"cameras: [{{id: cam, source: {film}, live: true, fps: 5}}]\nencoding: {{quality: 10}}\n"
        f"delivery: {{server: 'http://{SERVER}:8000', policy: {policy}, timeout_seconds: 1, "
        f"spool: {{folder: {tmp_path / 'spool'}}}}}\n"
    )
    camera = hosts.run(hosts.camera, "device/capture.py", "--config", path, "--json")
    lines = Lines(hosts, camera)
    lines.wait_for(1, 60)
    time.sleep(seconds)
    camera.send_signal(signal.SIGTERM)
    assert camera.wait(30) == 0


@pytest.mark.release
def test_live_frames_are_fresh_through_delay_loss_cuts_and_silence(hosts, received, tmp_path, video):
    capture(hosts, tmp_path, video, "live", 25)
    ages = [seconds_old(at, record) for at, record in received.found]
    faults = counted(hosts)
    print(f"{len(ages)} frames, packets {faults}, at most {max(ages):.2f} s old")
    assert min(faults.values()) >= 1
    assert len(ages) > 20
    assert max(ages) < 2


@pytest.mark.release
def test_recorded_frames_all_arrive_once_and_in_order(hosts, received, tmp_path, video):
    capture(hosts, tmp_path, video, "record", 20)
    faults = counted(hosts)
    nft(hosts, "flush", "ruleset")
    capture(hosts, tmp_path, video, "record", 20)
    sequences = [record["sequence"] for _, record in received.found]
    print(f"{len(sequences)} frames, packets {faults}")
    assert min(faults.values()) >= 1
    assert sequences == list(range(len(sequences)))
    assert len(sequences) > 60
