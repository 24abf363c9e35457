"""dmsnap: recovery volumes for Linux storage.

A recovery volume is a full, directly mountable replica of a volume, kept current by copying only
the blocks that changed. Recovery puts it in the volume's place by loading a device-mapper table.
"""
