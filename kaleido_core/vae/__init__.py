"""The Wan 2.1 video autoencoder: 8x smaller in space, 4x in time, causal, streamed over time."""
