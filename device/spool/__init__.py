"""Frames on disk until the server has them: one SQLite file for all cameras of a device.

Files in the spool's folder:

`frames.db`       the frames, with its write-ahead log `frames.db-wal`; every row carries its checksum
`sequences.json`  numbers below which every one may have been used; flushed to the disk before one of them is
`numbers`         the next number of each camera, and the last one that was delivered
`lock`            held by the program that has the spool open; names the spool
`reserve`         room that is given up when the disk is full, as deleting needs some too

A database that is damaged is renamed to `frames.db.salvage-...`, what is whole in it is copied into a new one, and then
it is kept as `frames.db.damaged-...`. One that belongs to another folder is renamed to `frames.db.foreign-...`.

| module | what it is |
|---|---|
| `queue` | the spool as others see it |
| `contents` | frames in and out of an open database, within the room there is |
| `recovery` | opening after damage |
| `waiting` | lists in memory of what waits |
| `database` | the SQLite file |
| `record` | its rows and their checksums |
| `salvage` | what a damaged file still holds |
| `losses` | frames that were given up or are damaged |
| `numbers` | sequence numbers |
| `folder` | whose folder it is, and if it is still there |
| `room` | what the files may take of the disk |
| `sealed` | JSON with a checksum |
"""

from device.spool.errors import DAMAGED, DISK_ERROR, DISK_FULL, THINNED, SpoolError
from device.spool.losses import Loss
from device.spool.queue import Spool
from device.spool.room import MIN_BYTES

__all__ = ["DAMAGED", "DISK_ERROR", "DISK_FULL", "MIN_BYTES", "THINNED", "Loss", "Spool", "SpoolError"]
