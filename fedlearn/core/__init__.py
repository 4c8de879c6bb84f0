"""What everything stands on: errors, types of settings, randomness, vectors, rings, files."""
