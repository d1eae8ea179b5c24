"""Messages and stubs generated from proto/diptych/v1 by proto/generate.py; do not edit."""
