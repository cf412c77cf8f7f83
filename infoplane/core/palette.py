"""Colours of layers, the same in every figure and in the report."""

from __future__ import annotations

# Okabe and Ito, "Color universal design", 2008; yellow last, for it is faint on white.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#F0E442")

# Viridis (van der Walt and Smith, 2015) at equal distances up to 0.92: its palest end is lost on white.
VIRIDIS = ("#440154", "#482979", "#3e4c8a", "#2f6b8e", "#24868e", "#1fa287", "#3fbc73", "#7fd34e", "#cae11f")


def layer_colors(n: int) -> list[str]:
    """Okabe and Ito's colours for up to eight layers, else viridis by depth."""
    if n <= len(OKABE_ITO):
        return list(OKABE_ITO[:n])
    return [along(VIRIDIS, i / (n - 1)) for i in range(n)]


def along(colors: tuple[str, ...], share: float) -> str:
    """The colour at `share` of the way through `colors`, interpolated in sRGB."""
    place = min(max(share, 0.0), 1.0) * (len(colors) - 1)
    low = min(int(place), len(colors) - 2)
    part = place - low

    def mixed(k: int) -> int:
        a, b = (int(colors[c][1 + 2 * k : 3 + 2 * k], 16) for c in (low, low + 1))
        return round(a + (b - a) * part)

    return "#" + "".join(f"{mixed(k):02x}" for k in range(3))
