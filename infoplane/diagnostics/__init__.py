"""What needs more than one layer at one step: functions over results and known distributions that return rows."""

from infoplane.diagnostics._place import Place
from infoplane.diagnostics.class_divergence import ClassDivergence, class_divergence
from infoplane.diagnostics.compression import compression_score
from infoplane.diagnostics.curvature import Curvature, curvature
from infoplane.diagnostics.fourier import FourierFeatures, fourier_features
from infoplane.diagnostics.funnel import Funnel, funnel_layer
from infoplane.diagnostics.ib_frontier import Frontier, ib_frontier
from infoplane.diagnostics.local_rank import LocalRank, local_rank
from infoplane.diagnostics.log_time import LogTime, log_time_fit
from infoplane.diagnostics.matching import Matching, match_units
from infoplane.diagnostics.neural_collapse import NeuralCollapse, neural_collapse
from infoplane.diagnostics.phases import Phase, label_phases, phases
from infoplane.diagnostics.prequential import Prequential, prequential
from infoplane.diagnostics.run_similarity import run_similarity
from infoplane.diagnostics.similarity import Similarity, SimilarityMatrix, similarity, similarity_matrix
from infoplane.diagnostics.supersample import Supersample, supersample_bound
from infoplane.diagnostics.surprisal import Surprisal, surprisal
from infoplane.diagnostics.tokens import token_peaks
from infoplane.diagnostics.uniformity import Uniformity, uniformity
from infoplane.diagnostics.wasserstein import Wasserstein, wasserstein
from infoplane.diagnostics.weights import WeightSpectrum, weight_spectrum

__all__ = [
    "ClassDivergence",
    "Curvature",
    "FourierFeatures",
    "Frontier",
    "Funnel",
    "LocalRank",
    "LogTime",
    "Matching",
    "NeuralCollapse",
    "Phase",
    "Place",
    "Prequential",
    "Similarity",
    "SimilarityMatrix",
    "Supersample",
    "Surprisal",
    "Uniformity",
    "Wasserstein",
    "WeightSpectrum",
    "class_divergence",
    "compression_score",
    "curvature",
    "fourier_features",
    "funnel_layer",
    "ib_frontier",
    "label_phases",
    "local_rank",
    "log_time_fit",
    "match_units",
    "neural_collapse",
    "phases",
    "prequential",
    "run_similarity",
    "similarity",
    "similarity_matrix",
    "supersample_bound",
    "surprisal",
    "token_peaks",
    "uniformity",
    "wasserstein",
    "weight_spectrum",
]
