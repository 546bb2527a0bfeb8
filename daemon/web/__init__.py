"""The web page: a process of its own that watches a daemon's events and passes commands on."""
