"""The text encoder: cleaning, tokens, UMT5 features."""
