"""SimpleTuner's ``multidatabackend.json`` as a manifest: every option is answered for."""
