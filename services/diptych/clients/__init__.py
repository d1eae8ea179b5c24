"""Typed clients: how programs, the command line and other servers talk to a Diptych server."""
