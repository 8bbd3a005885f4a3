"""From a manifest to batches: records, clips, the cache's samples and their order."""
