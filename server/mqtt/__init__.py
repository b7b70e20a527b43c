"""Take frames off an MQTT broker."""
