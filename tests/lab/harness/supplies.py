"""Where guests come from: the cache on the host and the layers that a guest is made of."""

import os
from pathlib import Path

from harness import preload, python_layers, stock_kernel, tree, uml_kernel
from harness.arguments import Init
from harness.cache import Layers
from harness.errors import LabError
from harness.guest import Guest, RunDirectory, Stock
from harness.kernels import Kernel
from harness.machine import CHANNELS, SCRATCH_DEVICES
from harness.report import Report

CHECKOUT = Path(__file__).resolve().parents[3]


def cache_directory() -> Path:
    """Return where layers and runs live, made if need be; only root can use it."""
    if os.geteuid() != 0:
        raise LabError("The lab builds and mounts root trees, which only root may do.")
    given = os.environ.get("DMSNAP_LAB_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(given or Path(base) / "dmsnap-lab").absolute()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def guest(
    report: Report,
    run: RunDirectory,
    kernel: Kernel,
    init: Init,
    memory_mib: int,
    *,
    install: bool,
    flushes: bool = False,
) -> Guest:
    """Return a guest whose layers exist, with dmsnap installed in it or not."""
    layers = Layers(cache_directory(), report)
    suite = kernel.suite
    root = tree.obtain(layers, suite)
    python = python_layers.PythonLayers(layers, suite, root, tree.key(suite), CHECKOUT)
    venv = python.obtain_venv()
    libraries: tuple[Path, ...] = ()
    if kernel.machine == "uml":
        libraries = preload.obtain(layers, flushes=flushes)
    stock = None
    if kernel.machine == "qemu":
        stock = Stock(
            stock_kernel.obtain_kernel(layers, suite),
            stock_kernel.obtain_root(layers, suite, root, tree.key(suite)),
        )
    return Guest(
        kernel=kernel,
        init=init,
        memory_mib=memory_mib,
        checkout=CHECKOUT,
        tree=root,
        venv=venv,
        dmsnap=python.obtain_dmsnap(venv) if install else run.nothing,
        stock=stock,
        package=uml_kernel.obtain(layers, kernel.package_suite) if kernel.package_suite else None,
        libraries=libraries,
        flushes=flushes,
    )


def facts(kernel: Kernel, init: Init) -> dict[str, str]:
    """Return what the guest's scripts must know about every boot."""
    return {
        "LAB_CHANNEL": CHANNELS[kernel.machine],
        "LAB_SCRATCH": SCRATCH_DEVICES[kernel.machine],
        "LAB_INIT": init,
    }


def environment(kernel: Kernel, init: Init) -> dict[str, str]:
    """Return what COMMAND finds in its environment, whatever it is."""
    # libdevmapper leaves device nodes to udev even where none runs.
    nodes = {"DM_DISABLE_UDEV": "1"} if init == "minimal" else {}
    return {**nodes, "LAB_KERNEL": kernel.name, "LAB_INIT": init}
