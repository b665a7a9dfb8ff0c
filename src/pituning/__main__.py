"""`python -m pituning` is the command `pituning`."""

import sys

from pituning_command import main

sys.exit(main())
