"""What a boot does besides the kernel: dmsnap's units, or what stands for them."""

from harness.computer import Computer

from crashes.subject import MOUNT_POINT, NAME, STORE, Scenario, do

NOT_FOUND = 4  # what a command ends with whose device is not there
STACK_CHANGED = 17  # and one to whose volume no boot has brought its stack


def recover(made: Computer, scenario: Scenario) -> None:
    """What the units of a boot do: stores, stacks, mounts, then what was cut off."""
    if scenario.init == "systemd":
        made.shell("systemctl is-system-running --wait || true")
    else:
        recover_by_hand(made, scenario)
    resume(made, scenario)
    do(made, scenario.at_last)


def recover_by_hand(made: Computer, scenario: Scenario) -> None:
    """The same where no systemd reads what lies in /etc for it."""
    made.shell(f"""
        mount {STORE}
        for unit in /etc/systemd/system/dmsnap-assemble@*.service.d; do
            [ -e "$unit" ] && touch /run/assembled
        done || true
    """)
    do(made, scenario.at_boot)
    if made.shell("ls /run/assembled 2>/dev/null || true"):
        assemble(made, scenario)
    made.shell(f"""
        mountpoint -q {MOUNT_POINT} || ! [ -e $(findmnt -sno SOURCE {MOUNT_POINT}) ] \\
            || mount {MOUNT_POINT}
    """)


def assemble(made: Computer, scenario: Scenario) -> None:
    """What the volume's unit does; without its device it fails, and the boot goes on."""
    expected = (0, NOT_FOUND) if scenario.unplugged else (0,)
    ends(made, ["assemble", NAME, "--boot"], expected)


def resume(made: Computer, scenario: Scenario) -> None:
    """What dmsnap-resume.service does; it fails where a job has to be given up."""
    expected = (0, STACK_CHANGED) if scenario.obstructed else (0,)
    ends(made, ["job", "resume", "--all"], expected)


def ends(made: Computer, words: list[str], expected: tuple[int, ...]) -> None:
    """Run a command that may end with any of these."""
    made.python(
        "import sys; from dmsnap.cli.main import main; "
        f"sys.exit(main({words!r}) not in {expected!r})"
    )
