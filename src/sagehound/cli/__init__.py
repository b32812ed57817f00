"""The command `sagehound`."""
