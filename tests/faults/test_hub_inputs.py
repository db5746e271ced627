"""More that a Hub may answer: each is refused in one line, or what was read is the file's."""

from pathlib import Path

import pytest

from huref.errors import HurefError
from scripts.fuzz.whole_models import read_hub

GOOD = b"=== 200\n"  # the description of the repository
DESCRIBED = b'{"sha":"' + b"0" * 40 + b'","siblings":[{"rfilename":%s,"size":%s}]}'
MOVED = b"=== 302\nlocation: https://93.184.215.15/x/%s\n=== 206\n"  # to another server
REFUSED: dict[str, bytes] = {
    "a range shifted by one, of the right length": GOOD
    + b"=== 206\ncontent-range: bytes 1-24/24\n",
    "a range of negative numbers": GOOD + b"=== 206\ncontent-range: bytes -1-23/24\n",
    "a range of another unit": GOOD + b"=== 206\ncontent-range: items 0-23/24\n",
    "several ranges": GOOD + b"=== 206\ncontent-type: multipart/byteranges; boundary=a\n"
    b"content-range:\n",
    "a length of two numbers": GOOD + b"=== 206\ncontent-length: 24, 24\n",
    "a length of one byte more": GOOD + b"=== 206\ncontent-length: 25\n",
    "nothing at all": GOOD + b"=== 204\n",
    "not modified": GOOD + b"=== 304\n",
    "compressed twice": GOOD + b"=== 206\ncontent-encoding: gzip, gzip\n",
    "another commit in capitals": GOOD + b"=== 206\nx-repo-commit: " + b"F" * 40 + b"\n",
    "a tag that changes each time": GOOD + b'=== 206\netag: "a"\n=== 206\netag: "b"\n'
    b'=== 206\netag: "c"\n=== 206\netag: "d"\n',
    "a redirect to itself": GOOD + b"=== 302\nlocation: /org/tiny\n",
    "a redirect with a script": GOOD + b"=== 302\nlocation: javascript:alert(1)\n",
    "a redirect to a file": GOOD + b"=== 302\nlocation: file:///etc/passwd\n",
    "a redirect inside by a name in decimal": GOOD + b"=== 302\nlocation: https://2130706433/\n",
    "a redirect inside by IPv6": GOOD + b"=== 302\nlocation: https://[::ffff:10.0.0.1]/\n",
    "a description that is busy for ever": b"=== 503\nretry-after: 0\n",
    "a description that asks for a century": b"=== 429\n"
    b"retry-after: Fri, 01 Jan 2126 00:00:00 GMT\n",
    "a description of the wrong commit": b"=== 200 own\n\n" + DESCRIBED % (b'"a.json"', b"7"),
    "a file of half the world": b"=== 200 own\n\n" + DESCRIBED % (b'"model.safetensors"', b"1e18"),
    "a commit that leads outside": b"=== 200 own\n\n"
    + (DESCRIBED % (b'"model.safetensors"', b"9")).replace(b"0" * 40, b"../../../../root"),
    "a commit that is a folder": b"=== 200 own\n\n"
    + (DESCRIBED % (b'"model.safetensors"', b"9")).replace(b"0" * 40, b".."),
    "a commit that acts on a terminal": b"=== 200 own\n\n"
    + (DESCRIBED % (b'"model.safetensors"', b"9")).replace(b"0" * 40, b"\\u001b[31m"),
    "a description that asks for a century by its own clock": b"=== 429\n"
    b"retry-after: Fri, 01 Jan 2126 00:00:00 GMT\ndate: Fri, 01 Jan 2026 00:00:00 GMT\n",
    "a redirect to IPv4 in IPv6 of 6to4": GOOD + b"=== 302\nlocation: https://[2002:7f00:1::]/\n",
    "a redirect to a host in hexadecimal": GOOD + b"=== 302\nlocation: https://0x7f.1/\n",
    "a redirect inside behind a user name": GOOD
    + b"=== 302\nlocation: https://93.184.215.14@127.0.0.1/\n",
    "a redirect with a tab in its scheme": GOOD + b"=== 302\nlocation: ht\ttps://127.0.0.1/\n",
    "a redirect to a host of wide digits": GOOD
    + "=== 302\nlocation: https://１２７.0.0.1/\n".encode(),
    "a range of superscript digits": GOOD + b"=== 206\ncontent-range: bytes \xb2-\xb3/24\n",
    "a length in hexadecimal": GOOD + b"=== 206\ncontent-length: 0x18\n",
    "a length with a sign": GOOD + b"=== 206\ncontent-length: +24\n",
    "switching protocols": GOOD + b"=== 101\n",
    "multiple choices": GOOD + b"=== 300\nlocation: https://93.184.215.15/\n",
    "two documents": b"=== 200 own\n\n" + 2 * (DESCRIBED % (b'"config.json"', b"24")),
    "a Retry-After of five thousand digits": GOOD + b"=== 503\nretry-after: " + b"9" * 5000,
    "a name that leads outside": b"=== 200 own\n\n" + DESCRIBED % (b'"../../model.bin"', b"9"),
    "a name of nothing": b"=== 200 own\n\n" + DESCRIBED % (b'""', b"9"),
    "a size that is true": b"=== 200 own\n\n" + DESCRIBED % (b'"model.safetensors"', b"true"),
    "a file that changes once, to those who do not begin again": GOOD
    + b'=== 206\n=== 206\netag: "before"\n=== 206\netag: "after"\n',
    "a page in the place of weights": GOOD + b"=== 206\n=== 206 own\n\n<html>Please sign in</html>",
    "a body cut short each time": GOOD + b"=== 206\n=== 206 own\n\nabc",
}  # fmt: skip
READ: dict[str, bytes] = {
    "as the Hub answers": GOOD + b"=== 206\n",
    "a total that is not known": GOOD + b"=== 206\ncontent-range:  bytes 0-23/*\n=== 206\n",
    "no length": GOOD + b"=== 206\ncontent-length:\n",
    "no tag, then one": GOOD + b'=== 206\netag:\n=== 206\netag: "a"\n',
    "busy for a moment": GOOD + b"=== 503\nretry-after: -5\n=== 429\nretry-after: soon\n=== 206\n",
    "a redirect to another server": GOOD + MOVED % b"config.json" + MOVED % b"model.safetensors",
    "a tag that is no ASCII": GOOD + b"=== 206\netag: \xe9\xff\n",
    "a Retry-After of another script": GOOD
    + "=== 503\nretry-after: \u0663\n=== 206\n".encode(),
    "a Retry-After that is no number": GOOD + b"=== 503\nretry-after: nan\n=== 206\n",
    "a Retry-After of a date that there is not": GOOD
    + b"=== 503\nretry-after: Fri, 31 Feb 2026 00:00:00 GMT\ndate: x\n=== 206\n",
    "limits of nonsense": GOOD + b'=== 206\nratelimit: "a";r=x;t=-9\nratelimit-policy: ;;;=\n',
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    with pytest.raises(HurefError) as caught:
        read_hub(REFUSED[kind], tmp_path / "home")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", READ)
def test_what_is_read_is_the_file(kind: str, tmp_path: Path) -> None:
    read_hub(READ[kind], tmp_path / "home")  # raises where other tensors were read
