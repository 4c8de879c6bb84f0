"""`fedlearn data check`: what is understood of one's own data, and what is wrong with it."""
