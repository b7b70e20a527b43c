"""A sender without a network, for tests of outboxes. Subclasses have `send`."""


class StubSender:
    """Its frames cost nothing on the way. There is nothing to cut and to close."""

    name = "server"

    def overhead(self, size, *, is_base=False):
        return 0

    def cut(self):
        pass

    def close(self):
        pass
