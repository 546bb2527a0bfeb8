"""The service: how other programs talk to a running daemon and watch it, over ZeroMQ."""
