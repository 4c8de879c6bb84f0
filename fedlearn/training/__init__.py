"""Local training at a site: plain, and private."""
