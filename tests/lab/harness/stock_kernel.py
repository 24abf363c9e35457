"""What emulated machines boot from: Debian's kernel with an initial RAM disk, and disk images."""

import lzma
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import initramfs, packages, program
from harness.cache import Layers, key_of

SCRIPTS = Path(__file__).parents[1] / "guest"
INIT = SCRIPTS / "init-qemu"
PACKAGES = ("linux-image-amd64", "busybox-static")

KEPT_MODULES = (
    *("arch", "block", "crypto", "fs", "lib", "mm", "net", "security"),
    *(f"drivers/{name}" for name in ("base", "block", "char", "dax", "dca", "md", "nvme")),
    *(f"drivers/{name}" for name in ("scsi", "target", "virtio")),
)
NEEDED_TO_BOOT = (
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "ext4",
    "crc32c_generic",
    "overlay",
)
NEEDED_FOR_SHARES = ("9pnet_virtio", "9p")

IMAGE_OPTIONS = (
    *("-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=1,nodiscard"),
)

KERNEL = "vmlinuz"
INITRD = "initrd"
MODULES = "modules.ext4"
ROOT = "root.ext4"


def image(source: Path, target: Path) -> None:
    """Put a directory into an ext4 image that is only ever read."""
    used = int(program.output(["du", "-s", "--block-size=1M", str(source)]).split()[0])
    with target.open("xb") as file:
        file.truncate((used + used // 4 + 64) << 20)
    program.output(["mke2fs", "-q", *IMAGE_OPTIONS, "-d", str(source), str(target)])


def obtain_root(layers: Layers, suite: str, tree: Path, tree_key: str) -> Path:
    """Return the directory with the image of a suite's tree."""
    key = key_of(tree_key, *IMAGE_OPTIONS)
    return layers.obtain(f"image-{suite}", key, lambda content: image(tree, content / ROOT))


def obtain_kernel(layers: Layers, suite: str) -> Path:
    """Return the directory with a suite's stock kernel, its initial RAM disk and its modules."""

    def build(content: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="jail-", dir=content.parent) as name:
            extracted = Path(name) / "packages"
            packages.extract(suite, PACKAGES, extracted)
            _merge_lib(extracted)
            [modules] = (extracted / "usr/lib/modules").glob("*")
            _prune(modules)
            program.output(["depmod", "-b", str(extracted), modules.name])
            [kernel] = (extracted / "boot").glob("vmlinuz-*")
            shutil.copy(kernel, content / KERNEL)
            _make_initrd(extracted, modules, content / INITRD)
            image(modules.parent, content / MODULES)

    sources = [Path(__file__), Path(initramfs.__file__), INIT]
    key = key_of(suite, *PACKAGES, *(path.read_bytes() for path in sources))
    return layers.obtain(f"kernel-{suite}", key, build)


def _merge_lib(extracted: Path) -> None:
    """Bring modules to both /lib and /usr/lib: packages hold one of them, kmod looks in either."""
    lib = extracted / "lib"
    if lib.is_dir() and not lib.is_symlink():
        (extracted / "usr/lib").mkdir(parents=True, exist_ok=True)
        (lib / "modules").rename(extracted / "usr/lib/modules")
        shutil.rmtree(lib)
    if not lib.exists():
        lib.symlink_to("usr/lib")


def _prune(modules: Path) -> None:
    """Drop the drivers of hardware that no guest has: they are two thirds of the image."""
    kept = [modules / "kernel" / name for name in KEPT_MODULES]
    for path in sorted((modules / "kernel").rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif not any(path.is_relative_to(top) for top in kept):
            path.unlink()


def _boot_modules(extracted: Path, release: str) -> list[Path]:
    """Return the modules that the first stage loads, each after those that it depends on."""
    found: dict[Path, None] = {}
    for name in (*NEEDED_TO_BOOT, *NEEDED_FOR_SHARES):
        shown = program.output(
            ["modprobe", "-d", str(extracted), "-S", release, "--show-depends", name]
        )
        for line in shown.splitlines():
            words = line.split()
            if words[0] == "insmod":
                found[Path(words[1])] = None
    return list(found)


def _make_initrd(extracted: Path, modules: Path, target: Path) -> None:
    names = []
    files: list[initramfs.Entry] = [
        initramfs.Entry("init", 0o755, INIT.read_bytes()),
        initramfs.Entry("busybox", 0o755, _busybox(extracted).read_bytes()),
    ]
    for path in _boot_modules(extracted, modules.name):
        name = path.name.removesuffix(".xz")
        names.append(name)
        files.append(initramfs.Entry(f"modules/{name}", 0o644, _plain(path)))
    order = "".join(f"{name}\n" for name in names).encode()
    files.append(initramfs.Entry("modules/order", 0o644, order))
    target.write_bytes(initramfs.archive(files))


def _busybox(extracted: Path) -> Path:
    places: Sequence[Path] = [extracted / "bin/busybox", extracted / "usr/bin/busybox"]
    return next(path for path in places if path.exists())


def _plain(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
