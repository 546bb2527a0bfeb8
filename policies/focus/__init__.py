"""Policies that find and hold the focus."""
