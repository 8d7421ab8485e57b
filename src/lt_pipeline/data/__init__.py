"""From where images lie to a long-tailed split: sources, manifest, image stores, subsampling, shot groups."""
