"""What the commands do: thin, a module per noun, each function called by ``parser``'s name."""
