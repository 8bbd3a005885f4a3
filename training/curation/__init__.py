"""From raw video to a manifest of clips, captions and cross-paired references. See README.md in this folder."""
