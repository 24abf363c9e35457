"""The catalogue checked, and made again from what the devices say."""
