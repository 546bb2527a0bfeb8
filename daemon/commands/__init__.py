"""The verbs of the command line, one module a group; `parfocal.daemon.cli` puts them together."""
