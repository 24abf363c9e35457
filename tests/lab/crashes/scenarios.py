"""Every operation, and what comes before it, in the order of the page."""

from crashes import devices, points, protection, recoveries

SCENARIOS = (
    *protection.SCENARIOS,
    *points.SCENARIOS,
    *recoveries.SCENARIOS,
    *devices.SCENARIOS,
)
