"""Where the time of a run goes: phases, steps, operators, and the use of the machine."""
