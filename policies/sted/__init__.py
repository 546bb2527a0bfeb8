"""Policies that tune a STED microscope: trials of three frames, objectives, preferences, safe steps, surrogates."""
