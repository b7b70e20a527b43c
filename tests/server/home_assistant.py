"""A real Home Assistant with its MQTT integration and nothing else, for Home Assistant's own Python.

    PYTHON -m venv ha && ha/bin/pip install homeassistant==2025.1.4 paho-mqtt==1.6.1
    RJPEG_HOME_ASSISTANT=ha/bin/python make test ARGS="-m release tests/server/test_home_assistant.py"

Usage: home_assistant.py FOLDER PORT. It prints a line of JSON with all states and attributes every half second, until
its standard input ends.
"""

import asyncio
import json
import sys
from pathlib import Path

from homeassistant import bootstrap
from homeassistant.runner import RuntimeConfig

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
    (folder / "configuration.yaml").write_text("http:\n  server_host: 127.0.0.1\n  server_port: 0\n")
    entry = ENTRY | {"data": {"broker": "127.0.0.1", "port": port, "discovery": True}}
    stored = {"version": 1, "minor_version": 4, "key": "core.config_entries", "data": {"entries": [entry]}}
    (folder / ".storage" / "core.config_entries").write_text(json.dumps(stored))
    hass = await bootstrap.async_setup_hass(RuntimeConfig(config_dir=str(folder), skip_pip=True))
    assert hass is not None, "Home Assistant does not start"
    await hass.async_start()
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    while not ended.done():
        states = {state.entity_id: {"state": state.state} | dict(state.attributes) for state in hass.states.async_all()}
        print(json.dumps(states, default=str), flush=True)
        await asyncio.wait([ended], timeout=0.5)
    await hass.async_stop(force=True)


asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
