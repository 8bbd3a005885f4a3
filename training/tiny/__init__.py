"""The recipe of kaleido-tiny, the model embedded in the core."""
