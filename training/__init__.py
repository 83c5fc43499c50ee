"""The offline half: a folder of labeled images in, a package directory out. May import `service`, never the reverse."""

import os

# torch's threads wait for each other at the end of every operation. By default they do so for milliseconds without giving up
# their core, so a training that shares its cores with one other process runs at a fifth to a tenth of its speed, instead of
# half. After 1,000 turns, some 20 microseconds, they sleep; that costs 3 to 8 % on idle cores. Read when torch is imported.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "1000"
