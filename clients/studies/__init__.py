"""The studies that a site was asked to take part in, and what its owner decided of each."""
