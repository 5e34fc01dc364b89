"""`python -m loop_doctor` is the command `loop-doctor`."""

import sys

from loop_doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
