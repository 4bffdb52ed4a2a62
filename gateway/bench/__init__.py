"""The performance suite: every number that is claimed is printed by it. Must not print one that was not measured."""

from gateway.bench.report import bench

__all__ = ["bench"]
