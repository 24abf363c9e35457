"""The host: programs, ioctls, sysfs and procfs. Only this layer touches them.

It knows nothing of volumes, points or the catalogue. Nearly everything here needs root
(CAP_SYS_ADMIN); what does not says so.
"""
