"""The packaged environments: one declaration a file, found by the registry."""
