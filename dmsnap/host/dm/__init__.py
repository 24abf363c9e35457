"""Device-mapper through libdevmapper: targets, tables, devices and udev cookies."""
