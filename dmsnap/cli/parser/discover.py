"""What volumes the host has."""

from dmsnap.cli.grammar import Command

DISCOVER = Command(
    "discover",
    "Look for volumes on this host: new, vanished, resized, and twins.",
    "discover.discover",
    details="Finds file systems on logical volumes, partitions, disks, arrays and loop devices; "
    "components and what dmsnap made are left out. With a default sub-client those that are not "
    "protected are told of; where runs of its policy protect them, it is said which and when. Exit "
    "code 24 when there is anything to be seen to. No device is written to; what was found is "
    "remembered for the next time.",
)
