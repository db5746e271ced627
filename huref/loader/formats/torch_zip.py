"""Torch's zip files (.bin, .pt, .pth), indexed from their directory and one small pickle.

A tensor's bytes follow a header inside the zip whose length the directory does not give. Instead
of one read for each header, the length is worked out from where the next record begins; records
that do not fit that picture have their headers read.
"""

import io
import struct
import zipfile
from typing import Any

from huref.errors import CheckpointError
from huref.loader.formats.pickle_machine import EndOfPickleError
from huref.loader.formats.torch_files import MAX_PICKLE
from huref.loader.formats.unpickle import STATE_DICTS, Allowlist, unpickle
from huref.loader.ranges import ByteSource, read_spans

MAGIC = b"PK\x03\x04"
LOCAL_HEADER = 30  # bytes before the name: signature, versions, sizes, lengths
ALIGNMENT = 64  # torch pads headers so that data begins at a multiple of this
TAIL = 64 * 1024  # where a directory usually fits
MAX_DIRECTORY = 8 * 1024 * 1024
DESCRIPTORS = (0, 16, 24)  # bytes that may follow a record's data, when its flags say so


class _Tail(io.RawIOBase):
    """The file as the zipfile module wants it; what it reads lies at the end."""

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
                raise zipfile.BadZipFile("its directory has an absurd size")
            self.bytes = self.source.read(self.position, self.start) + self.bytes
            self.start = self.position
        data = bytes(self.bytes[self.position - self.start : stop - self.start])
        self.position += len(data)
        return data


def read_contents(
    source: ByteSource, allowed: Allowlist = STATE_DICTS
) -> tuple[Any, dict[str, tuple[int, int]]]:
    """What a torch zip file's pickle describes, and the byte range of each storage by its key.

    Raises:
        CheckpointError: it is truncated, compressed, contradicts itself, or its pickle holds
            more than tensors.
    """
    try:
        with zipfile.ZipFile(_Tail(source)) as archive:
            records = sorted(archive.infolist(), key=lambda record: record.header_offset)
            directory = archive.start_dir
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
        raise CheckpointError(
            f"{source.name}: not a whole torch file ({error}); download it again"
        ) from error
    pickles = [r for r in records if r.filename.rsplit("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(
            f"{source.name}: a zip without one data.pkl (a TorchScript archive, or no torch file); "
            "save the state dict with torch.save, or as safetensors"
        )
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"{source.name}: '{record.filename[:100]}' is compressed, which torch never does; "
                "download the file again"
            )
    if pickles[0].file_size > MAX_PICKLE:
        raise CheckpointError(
            f"{source.name}: a data.pkl of {pickles[0].file_size} bytes is more than tensors need; "
            "save the state dict alone, or as safetensors"
        )
    places = _place(source, records, directory)
    start, stop = places[pickles[0].filename]
    try:
        value, _ = unpickle(source.read(start, stop), source.name, allowed=allowed)
    except EndOfPickleError as error:
        raise CheckpointError(
            f"{source.name}: its pickle is cut short; download the file again"
        ) from error
    root = pickles[0].filename.removesuffix("data.pkl")
    data = root + "data/"
    storages = {n.removeprefix(data): place for n, place in places.items() if n.startswith(data)}
    return value, storages


def _place(
    source: ByteSource, records: list[zipfile.ZipInfo], directory: int
) -> dict[str, tuple[int, int]]:
    """Byte range of each record's data."""
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
            raise CheckpointError(
                f"{source.name}: the zip's directory is wrong; download the file again"
            )
        places[record.filename] = (start, start + record.file_size)
    _refuse_overlaps(source, places, directory)
    return places


def _predict(record: zipfile.ZipInfo, follower: int) -> int | None:
    """Where a record's data begins, if its end fits the beginning of the next one exactly."""
    bare = record.header_offset + LOCAL_HEADER + len(record.orig_filename.encode())
    descriptors = DESCRIPTORS[1:] if record.flag_bits & 8 else DESCRIPTORS[:1]
    # Torch spends at least four bytes on padding, and up to 28 on zip64 sizes.
    aligned = {-(-(bare + more) // ALIGNMENT) * ALIGNMENT for more in (4, 24, 28, 32)}
    fitting = {
        start
        for start in (bare, bare + len(record.extra), *aligned)
        for descriptor in descriptors
        if start + record.file_size + descriptor == follower
    }
    return fitting.pop() if len(fitting) == 1 else None


def _refuse_overlaps(
    source: ByteSource, places: dict[str, tuple[int, int]], directory: int
) -> None:
    end, last = 0, ""
    for name, (start, stop) in sorted(places.items(), key=lambda item: item[1]):
        if start < end or stop > directory:
            other = f"'{last[:100]}'" if start < end else "the zip's directory"
            raise CheckpointError(
                f"{source.name}: '{name[:100]}' overlaps {other}; download the file again"
            )
        end, last = stop, name
