"""Real parts for the tests of faults: brokers, databases, object storage, films, programs that are killed."""

from tests.brokers import broker, secrets, start_broker  # noqa: F401
from tests.device.conftest import chelsea, write_film  # noqa: F401
from tests.device.test_kill import film, programs  # noqa: F401
from tests.server.conftest import encoder, jpeg, photograph, start  # noqa: F401
from tests.server.stores import database_url, open_store, postgresql, s3, sqlite_url, store  # noqa: F401
