"""From measured sections to a page with tables and plots."""
