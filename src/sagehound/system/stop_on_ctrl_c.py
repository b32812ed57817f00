"""Lets Ctrl-C end the process with one line. A command imports this module before all others."""

from sagehound.system.interrupts import exit_on_ctrl_c

exit_on_ctrl_c()
