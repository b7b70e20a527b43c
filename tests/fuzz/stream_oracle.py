"""What a follower that was accepted must be: read a second time, by other code than the decoder's."""

import zlib

import numpy as np

import rjpeg
from tests.fuzz import reader, streams
from tests.rjpeg import reference


def check(file: streams.File, decoded: rjpeg.DecodedFrame, base: rjpeg.Base | None) -> str | None:
    """What is wrong with a decoded file of a stream, None if nothing is. base: what it was decoded with."""
    identity = decoded.identity
    if identity.kind == "plain":
        return None
    if not file.signed:
        original = streams.originals().get(identity.id or "")
        if original is None:
            return f"{identity.kind} {identity.id} is accepted, and no seed has this id"
        if not np.array_equal(original, decoded.frame):
            return f"{identity.kind} {identity.id} shows another picture than its seed"
    if identity.base_id is None:
        return None
    if base is None or base.id != identity.base_id:
        return f"{identity.kind} {identity.id} is decoded with another base than {identity.base_id}"
    return _check_contents(file.jpeg, decoded, base)


def _check_contents(jpeg: bytes, decoded: rjpeg.DecodedFrame, base: rjpeg.Base) -> str | None:
    try:
        picture = reader.read(jpeg)
    except reader.UnreadableError as error:
        # libjpeg-turbo's fast path takes a code that no table has for the symbol 0, without a word
        return None if "Huffman code" in str(error) else f"accepted, and not readable: {error}"
    [data] = [segment for segment in picture.segments if segment[:2] == b"RJ" and len(segment) > 2]
    soft, rows, cols = data[2] & 1, *base.grid
    light_at = 11 if data[2] & 2 else 9
    start = light_at + (2 if data[2] & 4 else 0)
    shift = data[9:light_at] or b"\0\0"
    light = data[light_at:start] if any(data[light_at:start]) else b""
    sent = reference.decode_flags(data[start:], rows, cols)
    if decoded.kept is None or not np.array_equal(decoded.kept, sent == 0):
        return "kept regions are others than the file's"
    size = base.coding_size if soft else None
    if size is None and picture.height * picture.width != 256 * int(sent.sum()):
        return f"{int(sent.sum())} regions in a picture of {picture.width}x{picture.height}"
    if size is not None and (picture.height, picture.width) != size:
        return f"a soft picture of {picture.width}x{picture.height} on a base of {size}"
    blocks = [component.blocks for component in picture.components]
    if soft:
        blocks = [_chosen(component, sent) for component in blocks]
    content = b"".join(array.astype("<i2").tobytes() for array in blocks)
    content += b"".join(component.table.astype("<u2").tobytes() for component in picture.components)
    found = zlib.crc32(content + shift + light + sent.tobytes(), base.crc) & 0xFFFFFF
    if found != int.from_bytes(data[3:6], "big"):
        return f"checksum {found:06x} is another than the file's"
    return None if any(shift + light) else _check_kept_pixels(decoded, base, sent)


def _chosen(blocks: np.ndarray, sent: np.ndarray) -> np.ndarray:
    """The blocks of the regions that are sent, in the order in which tiles hold them."""
    rows, cols = sent.shape
    across = 1 if blocks.shape[:2] == sent.shape else 2
    padding = ((0, rows * across - blocks.shape[0]), (0, cols * across - blocks.shape[1]), (0, 0))
    whole = np.pad(blocks, padding, mode="edge")
    count = int(sent.sum())
    high = max(side for side in range(1, count + 1) if count % side == 0 and side * side <= count)
    tiles = np.empty((high * across, count // high * across, 64), np.int16)
    for number, (row, col) in enumerate(np.argwhere(sent)):
        down, right = divmod(number, count // high)
        tiles[down * across : (down + 1) * across, right * across : (right + 1) * across] = whole[
            row * across : (row + 1) * across, col * across : (col + 1) * across
        ]
    return tiles


def _check_kept_pixels(decoded: rjpeg.DecodedFrame, base: rjpeg.Base, sent: np.ndarray) -> str | None:
    """Kept regions show the base, but for the pixels beside regions that are sent, where chroma is smoothed."""
    if base.coding_size != base.frame_size:
        return None
    height, width = base.frame_size
    beside = np.pad(sent.repeat(16, 0).repeat(16, 1), 2)
    near = np.zeros((16 * sent.shape[0], 16 * sent.shape[1]), bool)
    for down in range(5):
        for right in range(5):
            near |= beside[down : down + near.shape[0], right : right + near.shape[1]] > 0
    far = ~near[:height, :width]
    shown = streams.originals().get(base.id)
    if shown is not None and not np.array_equal(decoded.frame[far], shown[far]):
        return "kept regions show something else than the base"
    return None
