"""The video transformer: Wan 2.1's network with reference tokens and their shifted rotary encoding."""
