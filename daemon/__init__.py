"""The composition: configuration, loop, guard, journal, session, command line."""
