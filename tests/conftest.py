"""What all tests share: one thread each, and shapes that are checked as they are annotated."""

import os

# Tests run side by side; threads that wait by spinning would keep the others from working.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from jaxtyping import install_import_hook

from tests import typecheck

install_import_hook("cmnet_core", f"{typecheck.__name__}.checked")
