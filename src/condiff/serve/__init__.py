"""Live generation: streams of frames, what decides which of them are made, and where they wait."""

from condiff.serve.filter import Cosine, MeanSquare, Reference, SimilarityFilter
from condiff.serve.queue import Latest
from condiff.serve.stream import Flight, StreamBatch, descent

__all__ = ["Cosine", "Flight", "Latest", "MeanSquare", "Reference", "SimilarityFilter", "StreamBatch", "descent"]
