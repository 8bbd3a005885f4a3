"""What the shell is told."""

DONE, DIFFERS, REFUSED, INTERRUPTED = 0, 1, 2, 130
