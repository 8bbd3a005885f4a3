"""Metrics of what the trained models make."""
