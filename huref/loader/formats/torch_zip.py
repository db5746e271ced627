"""Torch's zip files (.bin, .pt, .pth), indexed from the zip directory and one small pickle.

A record's bytes follow a local header whose length the zip directory does not give. To avoid one
read for each header, the length is computed from the start of the next record. The header is read
only where the result is ambiguous.
"""

import io
import struct
import zipfile
from typing import Any

from huref.errors import DOWNLOAD_AGAIN, CheckpointError, locating
from huref.loader.formats.pickle_machine import EndOfPickleError
from huref.loader.formats.torch_index import MAX_PICKLE, SAVE_AGAIN
from huref.loader.formats.unpickle import STATE_DICTS, Allowlist, unpickle
from huref.loader.ranges import ByteSource, read_spans

MAGIC = b"PK\x03\x04"
LOCAL_HEADER = 30  # bytes before the name: signature, versions, sizes, lengths
ALIGNMENT = 64  # torch pads headers so that data begins at a multiple of this
TAIL = 64 * 1024  # bytes at the end of the file; most directories fit
MAX_DIRECTORY = 8 * 1024 * 1024
DESCRIPTORS = (0, 16, 24)  # lengths of the data descriptor after a record


class _Tail(io.RawIOBase):
    """A file object for the zipfile module, which reads only the end of the file."""

    def __init__(self, source: ByteSource):
        self.source = source
        self.position = 0
        self.start = max(0, source.size - TAIL)
        self.bytes = source.read(self.start, source.size)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.source.size}
        self.position = max(0, origin[whence] + offset)
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        stop = self.source.size if size is None or size < 0 else self.position + size
        stop = min(stop, self.source.size)
        if self.position < self.start:
            if self.source.size - self.position > MAX_DIRECTORY:
                raise zipfile.BadZipFile("its directory is too large")
            self.bytes = self.source.read(self.position, self.start) + self.bytes
            self.start = self.position
        data = bytes(self.bytes[self.position - self.start : stop - self.start])
        self.position += len(data)
        return data


def read_contents(
    source: ByteSource, allowed: Allowlist = STATE_DICTS
) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The described objects of a torch zip file, and the byte range of each storage by key.

    Raises:
        CheckpointError: the file is truncated, compressed or inconsistent, or contains objects
            that are not allowed.
    """
    with locating(file=source.name):
        return _read_contents(source, allowed)


def _read_contents(
    source: ByteSource, allowed: Allowlist
) -> tuple[Any, dict[str, tuple[int, int]]]:
    try:
        with zipfile.ZipFile(_Tail(source)) as archive:
            records = sorted(archive.infolist(), key=lambda record: record.header_offset)
            directory = archive.start_dir
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
        raise CheckpointError(
            f"it is not a complete torch file ({error})", advice=DOWNLOAD_AGAIN
        ) from error
    pickles = [r for r in records if r.filename.rsplit("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(
            f"it has {len(pickles)} files data.pkl instead of one, so it is a TorchScript archive "
            "or not a torch file",
            advice=SAVE_AGAIN,
        )
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"'{record.filename[:100]}' is compressed, which torch never does",
                advice=SAVE_AGAIN,
            )
    if pickles[0].file_size > MAX_PICKLE:
        raise CheckpointError(
            f"its data.pkl has {pickles[0].file_size} bytes, more than tensors need",
            advice="save the state dict alone, or as safetensors",
        )
    places = _place(source, records, directory)
    start, stop = places[pickles[0].filename]
    try:
        value, _ = unpickle(source.read(start, stop), source.name, allowed=allowed)
    except EndOfPickleError as error:
        raise CheckpointError("its pickle is truncated", advice=DOWNLOAD_AGAIN) from error
    root = pickles[0].filename.removesuffix("data.pkl")
    data = root + "data/"
    storages = {n.removeprefix(data): place for n, place in places.items() if n.startswith(data)}
    return value, storages


def _place(
    source: ByteSource, records: list[zipfile.ZipInfo], directory: int
) -> dict[str, tuple[int, int]]:
    """Byte range of each record's data, by the record's name."""
    places: dict[str, tuple[int, int]] = {}
    unknown: list[zipfile.ZipInfo] = []
    followers = [record.header_offset for record in records[1:]] + [directory]
    for record, follower in zip(records, followers, strict=True):
        start = _predict(record, follower)
        if start is None:
            unknown.append(record)
        else:
            places[record.filename] = (start, start + record.file_size)
    heads = [(r.header_offset, r.header_offset + LOCAL_HEADER) for r in unknown]
    spans = read_spans(source, heads)
    for record, head in zip(unknown, heads, strict=True):
        signature, name_length, extra_length = struct.unpack("<4s22xHH", spans.bytes_at(*head))
        start = head[1] + name_length + extra_length
        if signature != MAGIC:
            raise CheckpointError("its zip directory is wrong", advice=DOWNLOAD_AGAIN)
        places[record.filename] = (start, start + record.file_size)
    _refuse_overlaps(places, directory)
    return places


def _predict(record: zipfile.ZipInfo, follower: int) -> int | None:
    """The start of a record's data, if exactly one makes it end where the next record begins."""
    bare = record.header_offset + LOCAL_HEADER + len(record.orig_filename.encode())
    descriptors = DESCRIPTORS[1:] if record.flag_bits & 8 else DESCRIPTORS[:1]
    # Torch adds at least four bytes of padding, and up to 28 for zip64 sizes.
    aligned = {-(-(bare + more) // ALIGNMENT) * ALIGNMENT for more in (4, 24, 28, 32)}
    fitting = {
        start
        for start in (bare, bare + len(record.extra), *aligned)
        for descriptor in descriptors
        if start + record.file_size + descriptor == follower
    }
    return fitting.pop() if len(fitting) == 1 else None


def _refuse_overlaps(places: dict[str, tuple[int, int]], directory: int) -> None:
    """Raise CheckpointError when two records share bytes."""
    end, last = 0, ""
    for name, (start, stop) in sorted(places.items(), key=lambda item: item[1]):
        if start < end or stop > directory:
            other = f"'{last[:100]}'" if start < end else "the zip's directory"
            raise CheckpointError(f"'{name[:100]}' overlaps {other}", advice=SAVE_AGAIN)
        end, last = stop, name
