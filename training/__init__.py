"""From raw video to weights: curation, caching, training, evaluation. Run from the repository root."""
