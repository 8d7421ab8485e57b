"""Optimal transport for labels: progressive partial transport and its relatives, semantic regularisation, schedules and baselines.
docs/TRANSPORT.md."""

from lt_pipeline.transport.allocation import SinkhornLabelAllocation
from lt_pipeline.transport.prior import assign_prior, cluster_prior, confident_selection
from lt_pipeline.transport.result import ConvergenceWarning, Transport
from lt_pipeline.transport.schedule import gamma_schedule, mass_schedule, ramp, semantic_weight
from lt_pipeline.transport.semantic import SemanticTransport, semantic_transport
from lt_pipeline.transport.similarity import NeighbourGraph, Neighbours, neighbour_graph
from lt_pipeline.transport.solve import cost_of_logits, labels_of, progressive_transport
from lt_pipeline.transport.streaming import RowBlocks

__all__ = [
    "ConvergenceWarning",
    "NeighbourGraph",
    "Neighbours",
    "RowBlocks",
    "SemanticTransport",
    "SinkhornLabelAllocation",
    "Transport",
    "assign_prior",
    "cluster_prior",
    "confident_selection",
    "cost_of_logits",
    "gamma_schedule",
    "labels_of",
    "mass_schedule",
    "neighbour_graph",
    "progressive_transport",
    "ramp",
    "semantic_transport",
    "semantic_weight",
]
