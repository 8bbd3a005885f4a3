"""Eight-bit arithmetic for the blocks' linear layers: less memory and time for a small, measured loss."""
