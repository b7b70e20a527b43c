"""`device/capture.py`, which also writes down what every file that it encodes shows.

    python -m tests.faults.watched PICTURES --config camera.yaml --json

PICTURES gets a line a file, before the file goes anywhere: CRC-32 of the file, and of the picture that the encoder's
own side decodes from it.
"""

import functools
import os
import sys
import weakref
import zlib
from pathlib import Path
from typing import Any

import rjpeg
from device import capture

# more than a camera sends between two that are acknowledged
MAX_BASES = 256


def watch(path: Path) -> None:
    """Have every stream of this process write down what its files show."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    encode = rjpeg.StreamEncoder.encode
    decoders: weakref.WeakKeyDictionary[rjpeg.StreamEncoder, rjpeg.StreamDecoder] = weakref.WeakKeyDictionary()

    @functools.wraps(encode)
    def watched(self: rjpeg.StreamEncoder, *arguments: Any, **options: Any) -> rjpeg.EncodedFrame:
        coded = encode(self, *arguments, **options)
        if self not in decoders:
            decoders[self] = rjpeg.StreamDecoder(max_bases=MAX_BASES)
        picture = decoders[self].decode(coded.jpeg)
        os.write(descriptor, b"%08x %08x\n" % (zlib.crc32(coded.jpeg), zlib.crc32(picture)))
        return coded

    rjpeg.StreamEncoder.encode = watched  # type: ignore[method-assign]


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    sys.exit(capture.main(sys.argv[2:]))
