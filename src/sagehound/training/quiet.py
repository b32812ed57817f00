"""Hides Lightning's hints and advertisements; its errors are still printed.

Modules with callbacks import it, because the processes that DDP starts read those first.
"""

import logging
import warnings

for name in ("lightning.pytorch", "lightning.fabric", "lightning", "torch.multiprocessing.spawn"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
