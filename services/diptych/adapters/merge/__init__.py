"""Several adapters become one: the update of a merge is a merge of the updates."""
