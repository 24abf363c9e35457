"""Make the packed corpus anew: pack.py [HARNESS…].

Out of the seeds, the archive as it is, and what earlier runs found (build/fuzz/corpus), libFuzzer
picks the smallest inputs that together reach everything. Findings (finding-…) are kept as they are:
put one into build/fuzz/corpus/HARNESS under such a name once its bug is fixed.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import seeds
from packed import CHECKOUT, HARNESSES, archive, pack, unpack

BUILD = CHECKOUT / "build" / "fuzz"


def merge(harness: str, scratch: Path) -> Path:
    """A directory with what is to be packed."""
    sources = [scratch / "seeds", unpack(harness, scratch / "packed"), BUILD / "corpus" / harness]
    chosen = scratch / "chosen"
    sources[0].mkdir()
    chosen.mkdir()
    for name, content in seeds.HARNESSES[harness]():
        (sources[0] / name).write_bytes(content)
    present = [str(source) for source in sources if source.is_dir()]
    subprocess.run(
        [str(BUILD / "bin" / f"fuzz_{harness}"), "-merge=1", str(chosen), *present],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    for source in sources:
        for finding in source.glob("finding-*"):
            shutil.copy(finding, chosen)
    return chosen


def main() -> None:
    for harness in sys.argv[1:] or HARNESSES:
        with tempfile.TemporaryDirectory() as scratch:
            chosen = merge(harness, Path(scratch))
            pack(harness, chosen)
            size = archive(harness).stat().st_size
            print(f"{harness}: {len(list(chosen.iterdir()))} inputs, {size} bytes packed")


if __name__ == "__main__":
    main()
