"""The native parts: two cffi modules and the window's watchdog program."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

WATCHDOG = "dmsnap/_native/dmsnap-watchdog"


class BuildNative(build_ext):
    """Build the extensions, and beside them the watchdog: a program, since it must outlive us."""

    def build_extensions(self) -> None:
        super().build_extensions()
        target = Path(self.build_lib) / WATCHDOG
        target.parent.mkdir(parents=True, exist_ok=True)
        objects = self.compiler.compile(
            ["native/src/watchdog_main.c"],
            output_dir=self.build_temp,
            include_dirs=["native/include"],
            extra_preargs=["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-pthread"],
        )
        self.compiler.link_executable(
            objects, target.name, output_dir=str(target.parent), libraries=["pthread"]
        )

    def copy_extensions_to_source(self) -> None:
        """The last step of an in-place build, which setuptools does in ``build_lib`` too."""
        super().copy_extensions_to_source()
        self.copy_file(str(Path(self.build_lib) / WATCHDOG), WATCHDOG)


setup(
    cffi_modules=["dmsnap/_native/build.py:ffi", "dmsnap/host/dm/build.py:ffi"],
    cmdclass={"build_ext": BuildNative},
)
