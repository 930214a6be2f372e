"""Environments that exist to be tested, written as a user would write them."""
