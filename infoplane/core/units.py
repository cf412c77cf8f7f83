"""Units of information. The factor from nats to bits is written here and nowhere else."""

from __future__ import annotations

import math

BITS_PER_NAT: float = 1.0 / math.log(2.0)
BIT = "bit"
Z_95 = 1.959963984540054
"""Half the width of a 95 % interval in standard errors: the 0.975 quantile of the standard normal."""
