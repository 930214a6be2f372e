"""Compile, bind and launch: one module per device type."""
