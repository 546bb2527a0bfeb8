"""Manners of a service: a page of metrics, word to the service manager and its watchdog, alerts to people."""
