"""An iSCSI target of the lab's own: LIO by configfs, with file-backed LUNs and CHAP."""

import contextlib
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

ROOT = Path("/sys/kernel/config/target")
INITIATOR = Path("/etc/iscsi/initiatorname.iscsi")
INITIATOR_NAME = "iqn.2026-11.org.example.lab:initiator"
MODULES = ("target_core_mod", "target_core_file", "iscsi_target_mod", "iscsi_tcp")


def load_modules() -> None:
    """What both sides need; the fabric's directory is there from then on."""
    subprocess.run(["modprobe", "-a", *MODULES], check=True)
    if not ROOT.is_dir():
        subprocess.run(["mount", "-t", "configfs", "configfs", "/sys/kernel/config"], check=True)
    (ROOT / "iscsi").mkdir(exist_ok=True)


def start_iscsid() -> None:
    """The initiator's daemon; one that runs is left alone."""
    INITIATOR.write_text(f"InitiatorName={INITIATOR_NAME}\n")
    if subprocess.run(["pidof", "iscsid"], capture_output=True, check=False).returncode:
        Path("/run/lock/iscsi").mkdir(parents=True, exist_ok=True)
        subprocess.run(["iscsid"], check=True)


def sessions() -> dict[str, str]:
    """The kernel's sessions: the target of each, and its state."""
    found = {}
    for session in Path("/sys/class/iscsi_session").glob("session*"):
        with contextlib.suppress(OSError):
            state = (session / "state").read_text().strip()
            found[(session / "targetname").read_text().strip()] = state
    return found


def disk_of(target: str, lun: int = 1) -> Path:
    """The initiator's disk of a LUN, to whose target there is one session."""
    for session in Path("/sys/class/iscsi_session").glob("session*"):
        if (session / "targetname").read_text().strip() == target:
            for disk in (session / "device").glob(f"target*/*:{lun}/block/*"):
                return Path("/dev") / disk.name
    raise AssertionError(f"there is no disk of LUN {lun} of {target}")


def records() -> list[str]:
    """The node records of open-iscsi, which keeps them elsewhere from Debian 13 on."""
    databases = (Path("/etc/iscsi/nodes"), Path("/var/lib/iscsi/nodes"))
    return sorted(str(path) for each in databases for path in each.rglob("*") if path.is_file())


def end_all_sessions() -> None:
    """Log out of everything, and have open-iscsi forget it."""
    for arguments in (["-m", "session", "--logout"], ["-m", "node", "-o", "delete"]):
        subprocess.run(["iscsiadm", *arguments], capture_output=True, check=False)


@dataclass
class LunTarget:
    """One iSCSI target with one portal."""

    portal: str
    iqn: str = field(default_factory=lambda: f"iqn.2026-11.org.example.lab:{uuid4().hex[:8]}")
    stores: dict[int, Path] = field(default_factory=dict)
    namespace: str = ""

    @property
    def group(self) -> Path:
        return ROOT / "iscsi" / self.iqn / "tpgt_1"

    @property
    def access(self) -> Path:
        return self.group / "acls" / INITIATOR_NAME

    def url(self, lun: int) -> str:
        return f"iscsi://{self.portal}/{self.iqn}/{lun}"

    def create(self, *, user: str = "", secret: str = "") -> None:
        """Anybody may log in; with a secret, the lab's initiator alone, by CHAP."""
        self.group.mkdir(parents=True)
        for name, value in (
            ("authentication", int(bool(secret))),
            ("generate_node_acls", int(not secret)),
            ("demo_mode_write_protect", 0),
            ("cache_dynamic_acls", int(not secret)),
        ):
            (self.group / "attrib" / name).write_text(f"{value}\n")
        if secret:
            self.access.mkdir()
            # A newline would be a part of them.
            (self.access / "auth" / "userid").write_text(user)
            (self.access / "auth" / "password").write_text(secret)
        self.listen()
        self.enable(True)

    def listen(self) -> None:
        """The portal; it listens in the network namespace of whoever makes the directory."""
        within = ["nsenter", f"--net=/run/netns/{self.namespace}"] if self.namespace else []
        subprocess.run([*within, "mkdir", self.group / "np" / self.portal], check=True)

    def enable(self, on: bool) -> None:
        """Off, every session ends and nobody can log in."""
        (self.group / "enable").write_text(f"{int(on)}\n")

    def add_lun(self, lun: int, image: Path, size_bytes: int) -> None:
        """A LUN over a file; its serial number is made anew."""
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(size_bytes)
        store = ROOT / "core" / f"fileio_{lun}" / f"{self.iqn.rpartition(':')[2]}-{uuid4().hex[:6]}"
        store.mkdir(parents=True)
        (store / "control").write_text(f"fd_dev_name={image},fd_dev_size={size_bytes}\n")
        (store / "wwn" / "vpd_unit_serial").write_text(f"{uuid4()}\n")
        (store / "enable").write_text("1\n")
        self.stores[lun] = store
        self.map(lun, store)

    def map(self, lun: int, store: Path) -> None:
        directory = self.group / "lun" / f"lun_{lun}"
        directory.mkdir()
        (directory / "store").symlink_to(store)
        if self.access.is_dir():
            mapped = self.access / f"lun_{lun}"
            mapped.mkdir()
            (mapped / "lun").symlink_to(directory)

    def unmap(self, lun: int) -> None:
        """Nothing answers at that LUN any more; its store stays."""
        mapped = self.access / f"lun_{lun}"
        for directory in (mapped, self.group / "lun" / f"lun_{lun}"):
            if directory.is_dir():
                for link in directory.iterdir():
                    if link.is_symlink():
                        link.unlink()
                directory.rmdir()

    def destroy(self) -> None:
        """Everything that this target was made of, from the top."""
        if self.group.exists():
            with contextlib.suppress(OSError):
                self.enable(False)
            for lun in (self.group / "lun").glob("lun_*"):
                self.unmap(int(lun.name.removeprefix("lun_")))
            if self.access.is_dir():
                self.access.rmdir()
            for portal in (self.group / "np").iterdir():
                portal.rmdir()
            self.group.rmdir()
            self.group.parent.rmdir()
        for store in self.stores.values():
            store.rmdir()
            with contextlib.suppress(OSError):
                store.parent.rmdir()
        self.stores.clear()
