"""The service ``dmsnapd``: watches, and has units of systemd do what changes devices."""
