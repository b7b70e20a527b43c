"""What cameras and servers agree on: a broker's address is read alike at both ends."""

import pytest

from rjpeg._protocol import broker_address
from rjpeg.errors import ConfigError


def test_brokers_have_usual_ports():
    assert broker_address("--broker", "mqtt://host") == (False, "host", 1883)
    assert broker_address("--broker", "mqtts://[::1]/") == (True, "::1", 8883)
    assert broker_address("--broker", "mqtts://host:1") == (True, "host", 1)


@pytest.mark.parametrize(
    "url", ["", "host", "http://host", "mqtt://", "mqtt://host:99999", "mqtt://host/x", "mqtt://h?a"]
)
def test_what_is_no_broker_s_address_is_told_with_its_setting(url):
    with pytest.raises(ConfigError, match=r"^--broker '.*', expected like mqtt://host:1883"):
        broker_address("--broker", url)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="settings of their own") as refused:
        broker_address("delivery.server", "mqtt://me:s3cret@host")
    assert "s3cret" not in str(refused.value)
