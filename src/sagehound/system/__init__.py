"""The process and its machine: console, signals, cores, memory, devices."""
