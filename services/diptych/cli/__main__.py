"""``python -m diptych.cli`` is the ``diptych`` command."""

from diptych.cli.app import main

main()
