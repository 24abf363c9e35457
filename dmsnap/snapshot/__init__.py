"""The primary's side: the stack of dm devices, the store's space, the window, live points."""
