"""What all tests share."""

import os

# Tests run side by side; threads that wait by spinning would keep the others from working.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
