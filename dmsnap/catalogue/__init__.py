"""What dmsnap remembers: volumes, points, areas, jobs. It only repeats what labels and dm say."""
