"""What Home Assistant is told of a camera, by its MQTT discovery (home-assistant.io/integrations/mqtt)."""

from typing import Any

import rjpeg

__all__ = ["descriptions"]


def descriptions(node: str, camera: str, topic: str) -> dict[str, dict[str, Any]]:
    """Return a camera's entities: its picture, and sensors that are read off its metrics.

    The metrics come with each heartbeat. A value that the device does not know leaves a sensor as it is.

    Args:
        node: of all the program's cameras, of A-Z a-z 0-9 _ -.
        camera: the camera's id.
        topic: prefix of the camera's topics.

    Returns:
        The configuration of each entity, by its place below the discovery's topic.
    """
    unique = f"{node}_{camera}"
    metrics = f"{topic}/metrics"
    device = {
        "identifiers": [unique],
        "name": camera,
        "manufacturer": "Region JPEG",
        "sw_version": rjpeg.__version__,
    }
    common = {
        "availability_topic": f"{topic}/status",
        "payload_available": "online",
        "payload_not_available": "offline",
        "device": device,
        "origin": {"name": "rjpeg", "sw_version": rjpeg.__version__},
    }
    picture = common | {
        "name": None,  # the device's
        "unique_id": unique,
        "topic": f"{topic}/image",
        "json_attributes_topic": metrics,
    }
    found = {f"camera/{node}/{camera}/config": picture}
    for key, about in _sensors().items():
        found[f"sensor/{node}/{camera}-{key}/config"] = (
            common | {"unique_id": f"{unique}_{key}", "state_topic": metrics, "entity_category": "diagnostic"} | about
        )
    return found


def _sensors() -> dict[str, dict[str, Any]]:
    return {
        "temperature": {
            "name": "Temperature",
            "device_class": "temperature",
            "unit_of_measurement": "°C",
            "state_class": "measurement",
            "value_template": "{{ value_json.celsius if value_json.celsius is number else this.state }}",
        },
        "bitrate": {
            "name": "Bit rate",
            "device_class": "data_rate",
            "unit_of_measurement": "kbit/s",
            "state_class": "measurement",
            "value_template": "{{ (value_json.bits_per_second / 1000) | round(1) }}",
        },
        "drops": {
            "name": "Frames dropped",
            "state_class": "total_increasing",
            "value_template": "{{ value_json.dropped.values() | sum }}",
        },
    }
