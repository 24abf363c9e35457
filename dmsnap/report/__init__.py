"""The report as a page: values in, text out. Nothing here reads, asks or writes anything."""
