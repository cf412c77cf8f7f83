"""What needs more than one layer at one step: functions over results and known distributions that return rows."""

from infoplane.diagnostics._place import Place
from infoplane.diagnostics.compression import compression_score
from infoplane.diagnostics.fourier import FourierFeatures, fourier_features
from infoplane.diagnostics.ib_frontier import Frontier, ib_frontier
from infoplane.diagnostics.local_rank import LocalRank, local_rank
from infoplane.diagnostics.matching import Matching, match_units
from infoplane.diagnostics.phases import Phase, label_phases, phases
from infoplane.diagnostics.tokens import token_peaks
from infoplane.diagnostics.weights import WeightSpectrum, weight_spectrum

__all__ = [
    "FourierFeatures",
    "Frontier",
    "LocalRank",
    "Matching",
    "Phase",
    "Place",
    "WeightSpectrum",
    "compression_score",
    "fourier_features",
    "ib_frontier",
    "label_phases",
    "local_rank",
    "match_units",
    "phases",
    "token_peaks",
    "weight_spectrum",
]
