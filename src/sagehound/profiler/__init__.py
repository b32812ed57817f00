"""Measures the time of phases, steps and operators, and the use of the machine."""
