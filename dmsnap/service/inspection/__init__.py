"""Metadata, stores and labels read for people, of live devices and of images."""
