"""What needs more than one layer at one step: functions over results and known distributions that return rows."""

from infoplane.diagnostics._place import Place
from infoplane.diagnostics.attention import AttentionEntropy, attention_entropy
from infoplane.diagnostics.class_divergence import ClassDivergence, class_divergence
from infoplane.diagnostics.compression import compression_score
from infoplane.diagnostics.curvature import Curvature, curvature
from infoplane.diagnostics.disentanglement import Disentanglement, disentanglement
from infoplane.diagnostics.fourier import FourierFeatures, fourier_features
from infoplane.diagnostics.funnel import Funnel, funnel_layer
from infoplane.diagnostics.ib_frontier import Frontier, ib_frontier
from infoplane.diagnostics.local_rank import LocalRank, local_rank
from infoplane.diagnostics.log_time import LogTime, log_time_fit
from infoplane.diagnostics.matching import Matching, match_units
from infoplane.diagnostics.multi_information import MultiInformation, multi_information
from infoplane.diagnostics.neural_collapse import NeuralCollapse, neural_collapse
from infoplane.diagnostics.o_information import OInformation, o_information
from infoplane.diagnostics.partial_information import PartialInformation, partial_information
from infoplane.diagnostics.phases import Phase, label_phases, phases
from infoplane.diagnostics.prequential import Prequential, prequential
from infoplane.diagnostics.rajski import Rajski, rajski_distance
from infoplane.diagnostics.run_similarity import run_similarity
from infoplane.diagnostics.sign_cycles import SignCycles, sign_cycles
from infoplane.diagnostics.similarity import Similarity, SimilarityMatrix, similarity, similarity_matrix
from infoplane.diagnostics.stability_gap import StabilityGap, stability_gap
from infoplane.diagnostics.supersample import Supersample, supersample_bound
from infoplane.diagnostics.surprisal import Surprisal, surprisal
from infoplane.diagnostics.tokens import token_peaks
from infoplane.diagnostics.uniformity import Uniformity, uniformity
from infoplane.diagnostics.unit_npmi import UnitNPMI, unit_npmi
from infoplane.diagnostics.wasserstein import Wasserstein, wasserstein
from infoplane.diagnostics.weights import WeightSpectrum, weight_spectrum

__all__ = [
    "AttentionEntropy",
    "ClassDivergence",
    "Curvature",
    "Disentanglement",
    "FourierFeatures",
    "Frontier",
    "Funnel",
    "LocalRank",
    "LogTime",
    "Matching",
    "MultiInformation",
    "NeuralCollapse",
    "OInformation",
    "PartialInformation",
    "Phase",
    "Place",
    "Prequential",
    "Rajski",
    "SignCycles",
    "Similarity",
    "SimilarityMatrix",
    "StabilityGap",
    "Supersample",
    "Surprisal",
    "Uniformity",
    "UnitNPMI",
    "Wasserstein",
    "WeightSpectrum",
    "attention_entropy",
    "class_divergence",
    "compression_score",
    "curvature",
    "disentanglement",
    "fourier_features",
    "funnel_layer",
    "ib_frontier",
    "label_phases",
    "local_rank",
    "log_time_fit",
    "match_units",
    "multi_information",
    "neural_collapse",
    "o_information",
    "partial_information",
    "phases",
    "prequential",
    "rajski_distance",
    "run_similarity",
    "sign_cycles",
    "similarity",
    "similarity_matrix",
    "stability_gap",
    "supersample_bound",
    "surprisal",
    "token_peaks",
    "uniformity",
    "unit_npmi",
    "wasserstein",
    "weight_spectrum",
]
