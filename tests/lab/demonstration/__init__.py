"""The demonstration: a workload, two disasters, the recovery, and checks of every claim."""
