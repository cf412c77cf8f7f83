"""From many runs to a claim: a frame with a row a run, and what goes with what. Reads results tables alone."""

from infoplane.studies.association import Association, AssociationMap, Claim
from infoplane.studies.frame import Study, study
from infoplane.studies.reading import Measure

__all__ = ["Association", "AssociationMap", "Claim", "Measure", "Study", "study"]
