"""Training entry points; each file only wires model, data and Trainer."""

import os

# Threads that wait for work spin. By default they do so for milliseconds: on a machine with anything else to do, they
# take the cores from those they wait for, and a small model trains several times slower. Read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
