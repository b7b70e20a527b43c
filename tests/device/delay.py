"""An addon of mitmproxy, which runs it with a Python of its own: every piece of a TCP stream arrives late.

RJPEG_DELAY: seconds, each way.
"""

import asyncio
import os

DELAY = float(os.environ["RJPEG_DELAY"])


async def tcp_message(flow: object) -> None:
    await asyncio.sleep(DELAY)
