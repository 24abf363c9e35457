"""What figures are made of: typed results, processes and devices under measurement, their store."""
