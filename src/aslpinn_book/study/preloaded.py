"""What the process imports of which notebooks' kernels are copies; importing this module imports it all.

What cannot be imported fails in the notebook that needs it, with its own message.
"""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages

import aslpinn

# Read when matplotlib is imported; ipykernel sets it too late for a process that has imported it already.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
for name in (
    "IPython",
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "matplotlib.backends.backend_agg",
    "matplotlib.colorbar",
    "matplotlib.pyplot",
    *(module.name for module in walk_packages(aslpinn.__path__, "aslpinn.")),
):
    with suppress(Exception):
        import_module(name)
gc.collect()
gc.freeze()  # so that no collection writes to the pages that all copies share
