"""`python -m fedlearn`."""

import sys

from fedlearn import cli

sys.exit(cli.main())
