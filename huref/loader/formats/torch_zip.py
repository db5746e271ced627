"""Torch's zip files (.bin, .pt, .pth), indexed from the zip directory and one small pickle.

A record's bytes follow a local header whose length the zip directory does not give. To avoid one
request for each header, the length is computed from the start of the next record. Where that is
ambiguous the header is read at once, else with the tensor: a file could place its data where torch
finds them and a computed length does not.
"""

import io
import struct
import zipfile
from typing import Any

from huref.errors import DOWNLOAD_AGAIN, CheckpointError, locating
from huref.loader.formats.pickle_machine import EndOfPickleError
from huref.loader.formats.torch_index import MAX_PICKLE, SAVE_AGAIN, Place
from huref.loader.formats.unpickle import STATE_DICTS, Allowlist, unpickle
from huref.loader.ranges import ByteSource, read_spans

MAGIC = b"PK\x03\x04"
LOCAL_HEADER = 30  # bytes before the name: signature, versions, sizes, lengths
ALIGNMENT = 64  # torch pads headers so that data begins at a multiple of this
TAIL = 64 * 1024  # bytes at the end of the file; most directories fit
MAX_DIRECTORY = 8 * 1024 * 1024
DESCRIPTOR, DESCRIPTOR_64 = 16, 24  # lengths of the data descriptor after a record
BYTE_ORDER = "byteorder"  # a record; files from before torch 2.1 do not have it
LONGEST_ORDER = 16  # bytes of it
ZIP64 = 2**32 - 1  # sizes and offsets from here on take eight bytes


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
) -> tuple[Any, dict[str, Place]]:
    """The described objects of a torch zip file, and the byte range of each storage by key.

    Raises:
        CheckpointError: the file is truncated, compressed or inconsistent, or contains objects
            that are not allowed.
    """
    with locating(file=source.name):
        return _read_contents(source, allowed)


def _refuse_programs(names: list[str]) -> None:
    """Raise CheckpointError for an archive that holds a program beside its weights."""
    insides = {name.partition("/")[2] for name in names}
    if "constants.pkl" in insides or any(name.startswith("code/__torch__") for name in insides):
        raise CheckpointError(
            "it is a TorchScript program",
            advice="save its weights with torch.save(model.state_dict(), FILE), or give the model "
            "that it was traced from",
        )
    if insides & {"archive_format", "models/model.json", "serialized_exported_program.json"}:
        raise CheckpointError(
            "it is a program that torch.export saved",
            advice="give the model that it was exported from",
        )


def _read_contents(source: ByteSource, allowed: Allowlist) -> tuple[Any, dict[str, Place]]:
    try:
        with zipfile.ZipFile(_Tail(source)) as archive:
            records = sorted(archive.infolist(), key=lambda record: record.header_offset)
            directory = archive.start_dir
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
        raise CheckpointError(
            f"it is not a complete torch file ({error})", advice=DOWNLOAD_AGAIN
        ) from error
    _refuse_programs([record.filename for record in records])
    pickles = [r for r in records if r.filename.rsplit("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(
            f"it has {len(pickles)} files data.pkl instead of one, so it is no torch file",
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
    _refuse_equal_names(records)
    places = _place(source, records, directory)
    root = pickles[0].filename.removesuffix("data.pkl")
    wanted = [places[pickles[0].filename]]
    if (order := places.get(root + BYTE_ORDER)) is not None:
        wanted.append(order)
    if sum(place.stop - place.start for place in wanted) > MAX_PICKLE + LONGEST_ORDER:
        raise CheckpointError(f"its record {BYTE_ORDER} is too long", advice=SAVE_AGAIN)
    pickled, *orders = _read_records(source, wanted)
    if any(order != b"little" for order in orders):
        raise CheckpointError(
            "it was written on a big-endian machine", advice="save it as safetensors"
        )
    try:
        value, _ = unpickle(pickled, source.name, allowed=allowed)
    except EndOfPickleError as error:
        raise CheckpointError("its pickle is truncated", advice=DOWNLOAD_AGAIN) from error
    data = root + "data/"
    storages = {n.removeprefix(data): place for n, place in places.items() if n.startswith(data)}
    return value, storages


def _refuse_equal_names(records: list[zipfile.ZipInfo]) -> None:
    """Raise CheckpointError for names that differ in case at most: torch takes one for another."""
    names: set[str] = set()
    for record in records:
        if (name := record.filename.lower()) in names:
            raise CheckpointError(
                f"it holds '{record.filename[:100]}' more than once", advice=SAVE_AGAIN
            )
        names.add(name)


def _read_records(source: ByteSource, places: list[Place]) -> list[bytearray]:
    """The bytes of records that lie close to each other; their headers are checked."""
    heads = [
        (place.header, place.header + LOCAL_HEADER) for place in places if place.header is not None
    ]
    spans = read_spans(source, [*((place.start, place.stop) for place in places), *heads])
    for place in places:
        if place.header is not None:
            head = spans.bytes_at(place.header, place.header + LOCAL_HEADER)
            require_header(head, (place.header, place.start), source.name)
    return [bytearray(spans.bytes_at(place.start, place.stop)) for place in places]


def require_header(
    head: bytes | bytearray | memoryview, expected: tuple[int, int], file: str
) -> None:
    """Check where a record's data begin.

    Args:
        head: the first LOCAL_HEADER bytes of its header.
        expected: where the header begins, and where the data should begin; see StoredTensor.
        file: the file's name, for the message.

    Raises:
        CheckpointError: they begin elsewhere.
    """
    with locating(file=file):
        if _data_start(head, expected[0]) != expected[1]:
            raise CheckpointError(
                "its data do not lie where its zip directory has them", advice=SAVE_AGAIN
            )


def _data_start(head: bytes | bytearray | memoryview, offset: int) -> int:
    """Where the data of the record begin whose header begins at `offset`."""
    signature, name_length, extra_length = struct.unpack("<4s22xHH", head)
    if signature != MAGIC:
        raise CheckpointError("its zip directory is wrong", advice=DOWNLOAD_AGAIN)
    return int(offset + LOCAL_HEADER + name_length + extra_length)


def _place(source: ByteSource, records: list[zipfile.ZipInfo], directory: int) -> dict[str, Place]:
    """Byte range of each record's data, by the record's name."""
    places: dict[str, Place] = {}
    unknown: list[zipfile.ZipInfo] = []
    followers = [record.header_offset for record in records[1:]] + [directory]
    for record, follower in zip(records, followers, strict=True):
        start = _predict(record, follower)
        if start is None:
            unknown.append(record)
        else:
            places[record.filename] = Place(start, start + record.file_size, record.header_offset)
    heads = [(r.header_offset, r.header_offset + LOCAL_HEADER) for r in unknown]
    spans = read_spans(source, heads)
    for record, head in zip(unknown, heads, strict=True):
        start = _data_start(spans.bytes_at(*head), head[0])
        places[record.filename] = Place(start, start + record.file_size)
    _refuse_overlaps(places, directory)
    return places


def _predict(record: zipfile.ZipInfo, follower: int) -> int | None:
    """The start of a record's data, if exactly one makes it end where the next record begins."""
    bare = record.header_offset + LOCAL_HEADER + len(record.orig_filename.encode())
    is_long = record.file_size >= ZIP64 or record.header_offset >= ZIP64
    descriptors = (DESCRIPTOR, DESCRIPTOR_64) if is_long else (DESCRIPTOR,)
    # Torch adds at least four bytes of padding, and up to 28 for zip64 sizes.
    aligned = {-(-(bare + more) // ALIGNMENT) * ALIGNMENT for more in (4, 24, 28, 32)}
    fitting = {
        start
        for start in (bare, bare + len(record.extra), *aligned)
        for descriptor in (descriptors if record.flag_bits & 8 else (0,))
        if start + record.file_size + descriptor == follower
    }
    return fitting.pop() if len(fitting) == 1 else None


def _refuse_overlaps(places: dict[str, Place], directory: int) -> None:
    """Raise CheckpointError when two records share bytes."""
    end, last = 0, ""
    for name, (start, stop, _) in sorted(places.items(), key=lambda item: item[1][:2]):
        if start < end or stop > directory:
            other = f"'{last[:100]}'" if start < end else "the zip's directory"
            raise CheckpointError(f"'{name[:100]}' overlaps {other}", advice=SAVE_AGAIN)
        end, last = stop, name
