"""Models that stages use, behind small protocols: a local default from a package, a production one from local files."""
