"""High-quality training photos: fetched from Debian packages, cut into crops, degraded."""
