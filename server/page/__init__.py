"""`fedlearn status --page`: what a coordinator does, as a page on its own machine alone."""
