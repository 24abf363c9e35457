"""The host that dmsnap runs on."""

from dmsnap.cli.grammar import Command

DOCTOR = Command(
    "doctor",
    "Check what this host has and lacks, and say what to do.",
    "host.doctor",
    details="Exit code 1 when something that is needed is missing. Without root, what cannot be "
    "checked is said.",
)
