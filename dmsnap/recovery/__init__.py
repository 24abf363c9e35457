"""The recovery volume's side: label, replica, undo history, and its place under the front."""
