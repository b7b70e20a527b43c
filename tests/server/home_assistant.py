"""A real Home Assistant with its MQTT integration and nothing else, for Home Assistant's own Python.

    python3.13 -m venv ha && ha/bin/pip install homeassistant==2025.1.4 paho-mqtt==1.6.1 numpy==2.2.1 \
        PyTurboJPEG==1.7.5 av==13.1.0
    RJPEG_HOME_ASSISTANT=ha/bin/python make test ARGS="-m release tests/server/test_home_assistant.py"

Usage: home_assistant.py FOLDER PORT. It prints a line of JSON with all states and attributes every half second, until
its standard input ends.
"""

import asyncio
import importlib
import json
import sys
from pathlib import Path

ENTRY = {
    "entry_id": "broker",
    "version": 1,
    "minor_version": 1,
    "domain": "mqtt",
    "title": "broker",
    "options": {},
    "pref_disable_new_entities": False,
    "pref_disable_polling": False,
    "source": "user",
    "unique_id": None,
    "disabled_by": None,
    "created_at": "2026-01-01T00:00:00+00:00",
    "modified_at": "2026-01-01T00:00:00+00:00",
    "discovery_keys": {},
}


async def run(folder: Path, port: int) -> None:
    """Run Home Assistant until standard input ends."""
    (folder / ".storage").mkdir(parents=True)
    (folder / "configuration.yaml").write_text("http:\n  server_host: 127.0.0.1\n  server_port: 18123\n")
    entry = ENTRY | {"data": {"broker": "127.0.0.1", "port": port, "discovery": True}}
    stored = {"version": 1, "minor_version": 4, "key": "core.config_entries", "data": {"entries": [entry]}}
    (folder / ".storage" / "core.config_entries").write_text(json.dumps(stored))
    # by name, since no environment of this repository has it
    bootstrap = importlib.import_module("homeassistant.bootstrap")
    runner = importlib.import_module("homeassistant.runner")
    # without its pages it goes on
    bootstrap.CRITICAL_INTEGRATIONS = set()
    hass = await bootstrap.async_setup_hass(runner.RuntimeConfig(config_dir=str(folder), skip_pip=True))
    assert hass is not None, "Home Assistant does not start"
    await hass.async_start()
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    while not ended.done():
        states = {state.entity_id: {"state": state.state} | dict(state.attributes) for state in hass.states.async_all()}
        print(json.dumps(states, default=str), flush=True)
        await asyncio.wait([ended], timeout=0.5)
    await hass.async_stop(force=True)


asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
