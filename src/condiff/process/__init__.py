"""Processes: how data are corrupted, and the schedules, noise laws, targets, grids and time laws they are made of."""

from condiff.process.absorbing import Absorbing, GeometricMasking, LinearMasking, Masking, TimeFree, Unmasked
from condiff.process.clock import Clock, FlowClock, Frame, ProcessTime, Ratio
from condiff.process.coupling import Coupling, Gibbs, Independent, MinibatchOT, PerClass, Sinkhorn, pair_cost
from condiff.process.flowmap import Diagonal, FlowMap, Jumps, Mapped
from condiff.process.gaussian import Gaussian, Preconditioned
from condiff.process.grid import FlowTime, Grid, Karras, LogSNR, Times, Trailing, Uniform
from condiff.process.interpolant import Bridge, Interpolant, Straight, Trigonometric, TwoHeads
from condiff.process.noise import Normal, Offset, Student
from condiff.process.schedule import VP, Cosine, Flow, LogLinear, Table, Trig
from condiff.process.target import EDM, Data, Noise, Score, V, Velocity
from condiff.process.timelaw import (
    Importance,
    LogitNormal,
    LogNormalSigma,
    Stratified,
    TimeLaw,
    UniformTime,
    draw_times,
)
from condiff.process.variance import LearnedVariance, VarianceHead

__all__ = [
    "EDM",
    "VP",
    "Absorbing",
    "Bridge",
    "Clock",
    "Cosine",
    "Coupling",
    "Data",
    "Diagonal",
    "Flow",
    "FlowClock",
    "FlowMap",
    "FlowTime",
    "Frame",
    "Gaussian",
    "GeometricMasking",
    "Gibbs",
    "Grid",
    "Importance",
    "Independent",
    "Interpolant",
    "Jumps",
    "Karras",
    "LearnedVariance",
    "LinearMasking",
    "LogLinear",
    "LogNormalSigma",
    "LogSNR",
    "LogitNormal",
    "Mapped",
    "Masking",
    "MinibatchOT",
    "Noise",
    "Normal",
    "Offset",
    "PerClass",
    "Preconditioned",
    "ProcessTime",
    "Ratio",
    "Score",
    "Sinkhorn",
    "Straight",
    "Stratified",
    "Student",
    "Table",
    "TimeFree",
    "TimeLaw",
    "Times",
    "Trailing",
    "Trig",
    "Trigonometric",
    "TwoHeads",
    "Uniform",
    "UniformTime",
    "Unmasked",
    "V",
    "VarianceHead",
    "Velocity",
    "draw_times",
    "pair_cost",
]
