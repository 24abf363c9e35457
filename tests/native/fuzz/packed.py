"""The corpus in the tree: an archive for each harness, of the inputs that reach most with least."""

import lzma
import tarfile
from io import BytesIO
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
CORPUS = HERE / "corpus"
HARNESSES = sorted(
    path.stem.removeprefix("fuzz_") for path in (CHECKOUT / "native" / "fuzz").glob("fuzz_*.c")
)


def archive(harness: str) -> Path:
    return CORPUS / f"{harness}.tar.xz"


def unpack(harness: str, directory: Path) -> Path:
    """The corpus of ``harness`` in ``directory``, which is made; empty where there is none."""
    directory.mkdir(parents=True, exist_ok=True)
    if archive(harness).exists():
        with tarfile.open(archive(harness)) as packed:
            for member in packed:
                content = packed.extractfile(member)
                assert content is not None
                (directory / Path(member.name).name).write_bytes(content.read())
    return directory


def pack(harness: str, directory: Path) -> None:
    """Replace the archive; the same files give the same bytes."""
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as packed:
        for path in sorted(directory.iterdir()):
            info = tarfile.TarInfo(path.name)
            info.size = path.stat().st_size
            with path.open("rb") as file:
                packed.addfile(info, file)
    archive(harness).parent.mkdir(exist_ok=True)
    archive(harness).write_bytes(lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME))
