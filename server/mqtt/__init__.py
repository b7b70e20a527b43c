"""Frames that come from an MQTT broker."""
