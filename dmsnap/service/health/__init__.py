"""What can be recovered, what is wrong, what a boot needs."""
