"""Search for the sizes of an elastic method's parts in every block, by the weights of one supernet (Zhang et al., 2022)."""

from mtpeft.search.elastic import Elastic
from mtpeft.search.evolution import Candidate, Evolution, Generation, any_legal, evolve
from mtpeft.search.space import Space, Subnet

__all__ = ["Candidate", "Elastic", "Evolution", "Generation", "Space", "Subnet", "any_legal", "evolve"]
